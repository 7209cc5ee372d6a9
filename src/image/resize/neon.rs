//! The resize with NEON, to the bit as its plain twin: the same products and sums of whole numbers, four or sixteen at
//! once.
#![expect(unsafe_code, reason = "vectors are read and written through pointers")]

use super::{Axes, HALF, PRECISION, Taps};
use crate::image::scratch;
use std::arch::aarch64::*;

/// Bytes that are weighted at once in the second pass.
const LANE: usize = 16;
/// Bytes that are read of a pixel.
const READ: usize = 4;

/// The resized window; none if the processor cannot.
pub(super) fn resize(axes: &Axes) -> Option<Vec<u8>> {
    if !std::arch::is_aarch64_feature_detected!("neon") {
        return None;
    }
    let width = axes.columns.spans.len() * 3;
    // What is written beyond a row's end belongs to nobody.
    let stride = width.next_multiple_of(LANE);
    let mut middle = scratch::take(axes.source.len() / axes.stride * stride);
    let mut padded = vec![0; axes.stride + READ];
    for (y, out) in middle.chunks_exact_mut(stride).enumerate() {
        let from = &axes.source[y * axes.stride..];
        let row = match from.get(..padded.len()) {
            Some(row) => row,
            None => {
                padded[..axes.stride].copy_from_slice(&from[..axes.stride]);
                &padded
            }
        };
        // SAFETY: the processor has NEON.
        unsafe { across(&axes.columns, row, &mut out[..width]) }
    }
    let mut out = vec![0; axes.rows.spans.len() * width];
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        // SAFETY: the processor has NEON.
        unsafe { down(&axes.rows, y, &middle, stride, out) }
    }
    scratch::give(middle);
    Some(out)
}

/// One row to one row of the window. `row` goes on for [`READ`] bytes behind its last pixel.
#[target_feature(enable = "neon")]
fn across(taps: &Taps, row: &[u8], out: &mut [u8]) {
    for (span, out) in taps.spans.iter().zip(out.chunks_exact_mut(3)) {
        let mut sum = vdupq_n_s32(HALF);
        // The fourth sample is the next pixel's, and dropped at the end.
        for (i, weight) in taps.weights[span.weight..][..span.count].iter().enumerate() {
            let pixel: &[u8; READ] = row[(span.start + i) * 3..].first_chunk().expect("a row goes on behind its end");
            let samples = vmovl_u8(vcreate_u8(u32::from_le_bytes(*pixel).into()));
            let samples = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(samples)));
            sum = vmlaq_n_s32(sum, samples, *weight);
        }
        let value = vqmovun_s32(vshrq_n_s32::<{ PRECISION as i32 }>(sum));
        let value = vqmovn_u16(vcombine_u16(value, value));
        let bytes = vget_lane_u32::<0>(vreinterpret_u32_u8(value)).to_le_bytes();
        out.copy_from_slice(&bytes[..3]);
    }
}

/// Output row `y` from the rows of `middle`, which are `stride` apart, a whole number of [`LANE`]s.
#[target_feature(enable = "neon")]
fn down(taps: &Taps, y: usize, middle: &[u8], stride: usize, out: &mut [u8]) {
    let span = &taps.spans[y];
    let weights = &taps.weights[span.weight..][..span.count];
    assert!(middle.len() >= (span.start + span.count) * stride && stride >= out.len());
    for (block, out) in out.chunks_mut(LANE).enumerate() {
        let mut sums = [vdupq_n_s32(HALF); 4];
        for (i, weight) in weights.iter().enumerate() {
            // SAFETY: rows are a whole number of lanes, and this row is one of those of the span.
            let bytes = unsafe { vld1q_u8(middle.as_ptr().add((span.start + i) * stride + block * LANE)) };
            let words = [vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes))];
            for (half, words) in words.into_iter().enumerate() {
                let samples =
                    [vget_low_u16(words), vget_high_u16(words)].map(|four| vreinterpretq_s32_u32(vmovl_u16(four)));
                sums[half * 2] = vmlaq_n_s32(sums[half * 2], samples[0], *weight);
                sums[half * 2 + 1] = vmlaq_n_s32(sums[half * 2 + 1], samples[1], *weight);
            }
        }
        let four = sums.map(|sum| vqmovun_s32(vshrq_n_s32::<{ PRECISION as i32 }>(sum)));
        let [low, high] = [[four[0], four[1]], [four[2], four[3]]].map(|[a, b]| vqmovn_u16(vcombine_u16(a, b)));
        let mut lane = [0u8; LANE];
        // SAFETY: there is room for 16 bytes.
        unsafe { vst1q_u8(lane.as_mut_ptr(), vcombine_u8(low, high)) }
        out.copy_from_slice(&lane[..out.len()]);
    }
}
