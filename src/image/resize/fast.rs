//! The resize with AVX2, to the bit as its plain twin.
//!
//! A weight has 23 bits, and the instruction that multiplies and adds takes 16: each weight is split in two, and the two
//! sums are put together again. The sums are whole numbers, so nothing is lost.
#![expect(
    unsafe_code,
    reason = "vector instructions may be called once it is known that the processor has them, and \
                                 they read and write through pointers"
)]

use super::{Axes, HALF, PRECISION, Taps};
use crate::image::scratch;
use std::arch::x86_64::*;

/// Bits of the lower part of a weight.
const LOW: u32 = 11;
/// Pixels that are weighted at once, and the bytes they have; 16 bytes are read.
const GROUP: usize = 4;
const GROUP_BYTES: usize = GROUP * 3;
/// Bytes that are written at once in the second pass.
const LANE: usize = 16;

/// The resized window; none if the processor cannot.
pub(super) fn resize(axes: &Axes) -> Option<Vec<u8>> {
    if !is_x86_feature_detected!("avx2") {
        return None;
    }
    let width = axes.columns.spans.len() * 3;
    // What is written beyond a row's end belongs to nobody.
    let stride = width.next_multiple_of(LANE);
    let weights = Weights::new(&axes.columns);
    let mut middle = scratch::take(axes.source.len() / axes.stride * stride);
    let mut padded = vec![0; axes.stride + weights.beyond()];
    for (y, out) in middle.chunks_exact_mut(stride).enumerate() {
        let from = &axes.source[y * axes.stride..];
        let row = match from.get(..padded.len()) {
            Some(row) => row,
            None => {
                padded[..axes.stride].copy_from_slice(&from[..axes.stride]);
                &padded
            }
        };
        // SAFETY: the processor has AVX2.
        unsafe { across(&axes.columns, &weights, row, out) }
    }
    let mut out = vec![0; axes.rows.spans.len() * width];
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        // SAFETY: the processor has AVX2.
        unsafe { down(&axes.rows, y, &middle, stride, out) }
    }
    scratch::give(middle);
    Some(out)
}

/// The weights of a row, as [`across`] reads them.
struct Weights {
    /// Groups of pixels that each output pixel is made of; the last ones may have no weight.
    groups: usize,
    /// For each output pixel and group, the upper parts of its weights for each channel, then the lower parts.
    parts: Vec<[[i16; 16]; 2]>,
}

impl Weights {
    fn new(taps: &Taps) -> Self {
        let most = taps.spans.iter().map(|span| span.count).max().unwrap_or(1);
        let groups = most.div_ceil(GROUP);
        let mut parts = vec![[[0; 16]; 2]; groups * taps.spans.len()];
        for (span, parts) in taps.spans.iter().zip(parts.chunks_exact_mut(groups)) {
            for (i, weight) in taps.weights[span.weight..][..span.count].iter().enumerate() {
                let [upper, lower] = &mut parts[i / GROUP];
                // Two pixels in each half: red and red, green and green, blue and blue, and nothing.
                let (half, which) = (i % GROUP / 2, i % 2);
                for channel in 0..4 {
                    let lane = half * 8 + channel * 2 + which;
                    (upper[lane], lower[lane]) = split(*weight);
                }
            }
        }
        Self { groups, parts }
    }

    /// Bytes that are read behind the last pixel of a row, at most.
    fn beyond(&self) -> usize {
        self.groups * GROUP_BYTES + LANE
    }
}

/// The upper and the lower part of a weight.
fn split(weight: i32) -> (i16, i16) {
    ((weight >> LOW) as i16, (weight & ((1 << LOW) - 1)) as i16)
}

/// One row to one row of the window. `out` has room for a byte more than its pixels need.
#[target_feature(enable = "avx2")]
fn across(taps: &Taps, weights: &Weights, row: &[u8], out: &mut [u8]) {
    const NONE: i8 = -1;
    // Samples of the same channel side by side, widened to 16 bits.
    let order = _mm256_setr_epi8(
        0, NONE, 3, NONE, 1, NONE, 4, NONE, 2, NONE, 5, NONE, NONE, NONE, NONE, NONE, //
        6, NONE, 9, NONE, 7, NONE, 10, NONE, 8, NONE, 11, NONE, NONE, NONE, NONE, NONE,
    );
    let half = _mm_set1_epi32(HALF);
    let last = taps.spans.iter().map(|span| span.start).max().unwrap_or(0);
    assert!(row.len() >= last * 3 + weights.beyond() && out.len() >= taps.spans.len() * 3);
    for (x, (span, parts)) in taps.spans.iter().zip(weights.parts.chunks_exact(weights.groups)).enumerate() {
        let (mut upper, mut lower) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (group, [high, low]) in parts.iter().enumerate() {
            // SAFETY: 16 bytes begin there: no span begins behind `last`, and the groups end `beyond` it at most. The
            // weights have 32 bytes each.
            let (bytes, high, low) = unsafe {
                (
                    _mm_loadu_si128(row.as_ptr().add(span.start * 3 + group * GROUP_BYTES).cast()),
                    _mm256_loadu_si256(high.as_ptr().cast()),
                    _mm256_loadu_si256(low.as_ptr().cast()),
                )
            };
            let samples = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), order);
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(samples, high));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(samples, low));
        }
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW as i32 }>(upper), lower);
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let value = _mm_srai_epi32::<{ PRECISION as i32 }>(_mm_add_epi32(sum, half));
        let value = _mm_packus_epi16(_mm_packs_epi32(value, value), value);
        let pixel = _mm_cvtsi128_si32(value).to_le_bytes();
        out[x * 3..x * 3 + 3].copy_from_slice(&pixel[..3]);
    }
}

/// Output row `y` from the rows of `middle`, which are `stride` apart, a whole number of [`LANE`]s.
#[target_feature(enable = "avx2")]
fn down(taps: &Taps, y: usize, middle: &[u8], stride: usize, out: &mut [u8]) {
    let span = &taps.spans[y];
    let weights = &taps.weights[span.weight..][..span.count];
    assert!(middle.len() >= (span.start + span.count) * stride && stride >= out.len());
    for (block, out) in out.chunks_mut(LANE).enumerate() {
        let mut sums = [_mm256_setzero_si256(); 4];
        for (i, pair) in weights.chunks(2).enumerate() {
            let from = (span.start + i * 2) * stride + block * LANE;
            // Without a second row, the first one stands in for it, with no weight.
            let (second, next) = pair.get(1).map_or((0, 0), |weight| (*weight, stride));
            // SAFETY: rows are a whole number of lanes, and both rows are among those of the span.
            let (a, b) = unsafe {
                (
                    _mm_loadu_si128(middle.as_ptr().add(from).cast()),
                    _mm_loadu_si128(middle.as_ptr().add(from + next).cast()),
                )
            };
            let ((high0, low0), (high1, low1)) = (split(pair[0]), split(second));
            let both = |first: i16, second: i16| _mm256_set1_epi32(i32::from(second) << 16 | i32::from(first));
            let samples = [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)].map(|bytes| _mm256_cvtepu8_epi16(bytes));
            for (half, samples) in samples.into_iter().enumerate() {
                let upper = _mm256_madd_epi16(samples, both(high0, high1));
                let lower = _mm256_madd_epi16(samples, both(low0, low1));
                sums[half * 2] = _mm256_add_epi32(sums[half * 2], upper);
                sums[half * 2 + 1] = _mm256_add_epi32(sums[half * 2 + 1], lower);
            }
        }
        let value = |upper, lower| {
            let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW as i32 }>(upper), lower);
            _mm256_srai_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)))
        };
        let words = _mm256_packs_epi32(value(sums[0], sums[1]), value(sums[2], sums[3]));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let mut lane = [0u8; LANE];
        // SAFETY: there is room for 16 bytes.
        unsafe { _mm_storeu_si128(lane.as_mut_ptr().cast(), bytes) }
        out.copy_from_slice(&lane[..out.len()]);
    }
}
