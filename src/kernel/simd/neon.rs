//! NEON.

#![expect(unsafe_code, reason = "intrinsics; `run` is the way in, and asks the processor first")]

use super::{Simd, Task};
use crate::kernel::bf16::Pair;
use crate::kernel::product::{Apart, Output, Plain, Start, Terms, sums_with};
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(super) struct Neon;

pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Runs a task compiled for NEON.
pub(super) fn run<T: Task>(task: T) -> T::Output {
    #[target_feature(enable = "neon")]
    fn with<T: Task>(task: T) -> T::Output {
        task.run::<Neon>()
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(task) }
}

/// Sums of products compiled for it.
pub(super) fn sums(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "neon")]
    fn with(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
        sums_with::<Neon, Plain>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}
/// Sums of products of pairs, taken apart.
pub(super) fn pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "neon")]
    fn with(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
        sums_with::<Neon, Apart>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> float32x4_t {
        let mut lanes = [0.0; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: float32x4_t) {
        unsafe { vst1q_f32(to, values) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, values: float32x4_t, count: usize) {
        let mut lanes = [0.0; 4];
        unsafe {
            Self::store(lanes.as_mut_ptr(), values);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, sum: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn relu(values: float32x4_t) -> float32x4_t {
        // Gives NaN for NaN.
        unsafe { vmaxq_f32(values, vdupq_n_f32(0.0)) }
    }

    #[inline(always)]
    unsafe fn halves(pairs: float32x4_t) -> [float32x4_t; 2] {
        unsafe {
            let bits = vreinterpretq_u32_f32(pairs);
            let second = vandq_u32(bits, vdupq_n_u32(0xffff_0000));
            [vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits)), vreinterpretq_f32_u32(second)]
        }
    }
}
