//! AVX2 with FMA.

#![expect(unsafe_code, reason = "intrinsics; `run` is the way in, and asks the processor first")]

use super::{Simd, Task};
use crate::kernel::bf16::Pair;
use crate::kernel::product::{Apart, Output, Plain, Start, Terms, sums_with};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx2;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Runs a task compiled for AVX2 and FMA.
pub(super) fn run<T: Task>(task: T) -> T::Output {
    #[target_feature(enable = "avx2,fma")]
    fn with<T: Task>(task: T) -> T::Output {
        task.run::<Avx2>()
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(task) }
}

/// Sums of products compiled for it.
pub(super) fn sums(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "avx2,fma")]
    fn with(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
        sums_with::<Avx2, Plain>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

/// Sums of products of pairs, taken apart.
pub(super) fn pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "avx2,fma")]
    fn with(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
        sums_with::<Avx2, Apart>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

/// The lanes below `count`.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: __m256) {
        unsafe { _mm256_storeu_ps(to, values) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, values: __m256, count: usize) {
        unsafe { _mm256_maskstore_ps(to, first(count), values) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, sum: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn relu(values: __m256) -> __m256 {
        // Of a NaN and another number, the instruction gives the second.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), values) }
    }

    #[inline(always)]
    unsafe fn halves(pairs: __m256) -> [__m256; 2] {
        unsafe {
            let bits = _mm256_castps_si256(pairs);
            let second = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000u32 as i32));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)), _mm256_castsi256_ps(second)]
        }
    }
}
