//! AVX-512.

#![expect(unsafe_code, reason = "intrinsics; `run` is the way in, and asks the processor first")]

use super::{Simd, Task};
use crate::kernel::product::{Output, Start, Terms, sums_with};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

/// Runs a task compiled for AVX-512.
pub(super) fn run<T: Task>(task: T) -> T::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")]
    fn with<T: Task>(task: T) -> T::Output {
        task.run::<Avx512>()
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(task) }
}

/// Sums of products compiled for it.
pub(super) fn sums(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")]
    fn with(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
        sums_with::<Avx512>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 14;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: __m512) {
        unsafe { _mm512_storeu_ps(to, values) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, values: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(count), values) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn relu(values: __m512) -> __m512 {
        // Of a NaN and another number, the instruction gives the second.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), values) }
    }
}
