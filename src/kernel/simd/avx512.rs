//! AVX-512.

#![expect(unsafe_code, reason = "intrinsics; `run` is the way in, and asks the processor first")]

use super::{Simd, Task};
use crate::kernel::bf16::Pair;
use crate::kernel::product::{Apart, Arithmetic, Output, Plain, Start, Terms, sums_with};
use std::arch::x86_64::*;
use std::hint::black_box;

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
        sums_with::<Avx512, Plain>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

/// Sums of products of pairs, taken apart.
pub(super) fn pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")]
    fn with(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
        sums_with::<Avx512, Apart>(terms, a, b, start, relu, out);
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

/// Whether there is an instruction for pairs of bf16.
pub(super) fn has_bf16() -> bool {
    is_available() && is_x86_feature_detected!("avx512bf16")
}

/// Sums of products of pairs, by that instruction.
pub(super) fn native_pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,avx2")]
    fn with(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
        sums_with::<Avx512, Native>(terms, a, b, start, relu, out);
    }
    assert!(has_bf16());
    // Sound: the processor has the instructions.
    unsafe { with(terms, a, b, start, relu, out) }
}

/// Multiplications and additions of pairs in registers; returns how many.
pub(super) fn pair_peak(rounds: usize) -> usize {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,avx2")]
    fn with(rounds: usize) -> usize {
        // As many as hide the latency of one.
        const SUMS: usize = 12;
        // Sound: the processor has the instructions.
        unsafe {
            let (x, y) = (Avx512::splat(black_box(0.999)), Avx512::splat(black_box(1e-3)));
            let mut sums = [Avx512::splat(0.0); SUMS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = Native::multiply_add(x, y, *sum);
                }
            }
            black_box(sums);
        }
        4 * SUMS * Avx512::LANES * rounds
    }
    assert!(has_bf16());
    // Sound: the processor has the instructions.
    unsafe { with(rounds) }
}

/// Pairs of bf16 as `vdpbf16ps` takes them: two products are added to each lane, both rounded to f32, and numbers too
/// small to be normal are 0.
pub(super) struct Native;

impl Arithmetic<Avx512> for Native {
    type Number = Pair;
    const ROWS: usize = Avx512::ROWS;

    #[inline(always)]
    unsafe fn splat(from: *const Pair) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read())) }
    }

    #[inline(always)]
    unsafe fn load(from: *const Pair) -> __m512 {
        unsafe { Avx512::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Pair, count: usize) -> __m512 {
        unsafe { Avx512::load_part(from.cast(), count) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // Sound: vectors of the same bits.
        unsafe {
            let (a, b) = (std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
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

    #[inline(always)]
    unsafe fn halves(pairs: __m512) -> [__m512; 2] {
        unsafe {
            let bits = _mm512_castps_si512(pairs);
            let second = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)), _mm512_castsi512_ps(second)]
        }
    }
}
