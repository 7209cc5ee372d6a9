//! AVX2: population counts from a table of 16, half a byte at a time (Mula), four words at once; POPCNT for long codes.

#![expect(unsafe_code, reason = "intrinsics; the functions ask the processor first, and stay within their slices")]

use super::{Work, portable};
use std::arch::x86_64::*;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

/// Does work compiled for these instructions.
pub(super) fn compiled<W: Work>(work: W) -> W::Output {
    #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
    fn with<W: Work>(work: W) -> W::Output {
        work.run()
    }
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { with(work) }
}

pub(super) fn distances8(codes: &[u64], query: &[u64], out: &mut [u8]) {
    assert!(is_available() && codes.len() == query.len() * out.len());
    // Sound: the processor has the instructions.
    unsafe {
        match *query {
            [query] => one_word(codes, query, out),
            [low, high] => two_words(codes, [low, high], out),
            _ => many_words8(codes, query, out),
        }
    }
}

pub(super) fn distances16(codes: &[u64], query: &[u64], out: &mut [u16]) {
    assert!(is_available() && codes.len() == query.len() * out.len());
    // Sound: the processor has the instructions.
    unsafe { many_words16(codes, query, out) }
}

pub(super) fn near8(distances: &[u8], limit: u8, out: &mut [u64]) {
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { near(distances, limit, out) }
}

pub(super) fn total(words: &[u64], query: u64) -> u64 {
    assert!(is_available());
    // Sound: the processor has the instructions.
    unsafe { total_with(words, query) }
}

/// The four words' numbers of ones.
#[inline]
#[target_feature(enable = "avx2")]
fn ones(words: __m256i) -> __m256i {
    let table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let half = _mm256_set1_epi8(15);
    let low = _mm256_shuffle_epi8(table, _mm256_and_si256(words, half));
    let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(words, 4), half));
    _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256())
}

/// The ones of the four words at `at`, each changed by `query`; there are four.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn ones_at(at: *const u64, query: __m256i) -> __m256i {
    ones(_mm256_xor_si256(query, unsafe { _mm256_loadu_si256(at.cast()) }))
}

/// Puts byte `v` of lane `l` (8 bytes each) at byte `4 v + l`.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(lanes: __m256i) -> (__m128i, __m128i) {
    let pairs = _mm256_setr_epi8(
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
    );
    let lanes = _mm256_shuffle_epi8(lanes, pairs);
    let (low, high) = (_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    (_mm_unpacklo_epi16(low, high), _mm_unpackhi_epi16(low, high))
}

#[target_feature(enable = "avx2,popcnt")]
fn one_word(codes: &[u64], query: u64, out: &mut [u8]) {
    const AT_ONCE: usize = 32;
    let whole = out.len() / AT_ONCE * AT_ONCE;
    let all = _mm256_set1_epi64x(query as i64);
    for (codes, out) in codes[..whole].chunks_exact(AT_ONCE).zip(out.chunks_exact_mut(AT_ONCE)) {
        let at = codes.as_ptr();
        // Sound: 32 words are read and 32 bytes written, as long as the chunks are.
        unsafe {
            let mut lanes = ones_at(at, all);
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(4), all), 8));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(8), all), 16));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(12), all), 24));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(16), all), 32));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(20), all), 40));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(24), all), 48));
            lanes = _mm256_or_si256(lanes, _mm256_slli_epi64(ones_at(at.add(28), all), 56));
            let (low, high) = transposed(lanes);
            _mm_storeu_si128(out.as_mut_ptr().cast(), low);
            _mm_storeu_si128(out.as_mut_ptr().add(16).cast(), high);
        }
    }
    portable::distances(&codes[whole..], &[query], &mut out[whole..]);
}

#[target_feature(enable = "avx2,popcnt")]
fn two_words(codes: &[u64], query: [u64; 2], out: &mut [u8]) {
    const AT_ONCE: usize = 32;
    let whole = out.len() / AT_ONCE * AT_ONCE;
    let [low, high] = query.map(|word| word as i64);
    let all = _mm256_setr_epi64x(low, high, low, high);
    // Two vectors hold codes 0 1 and 2 3; their sums come in the order 0 2 1 3.
    for (codes, out) in codes[..2 * whole].chunks_exact(2 * AT_ONCE).zip(out.chunks_exact_mut(AT_ONCE)) {
        let mut lanes = _mm256_setzero_si256();
        for v in (0..8).rev() {
            // Sound: 64 words are read, as long as the chunk is.
            let sums = unsafe {
                let at = codes.as_ptr().add(8 * v);
                let (a, b) = (ones_at(at, all), ones_at(at.add(4), all));
                _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
            };
            lanes = _mm256_or_si256(_mm256_slli_epi64(lanes, 8), sums);
        }
        let (low, high) = transposed(_mm256_permute4x64_epi64(lanes, 0b11_01_10_00));
        // Sound: 32 bytes are written, as long as the chunk is.
        unsafe {
            _mm_storeu_si128(out.as_mut_ptr().cast(), low);
            _mm_storeu_si128(out.as_mut_ptr().add(16).cast(), high);
        }
    }
    portable::distances(&codes[2 * whole..], &query, &mut out[whole..]);
}

// Codes of three words and more do not fill vectors evenly; POPCNT is as fast there.
#[target_feature(enable = "avx2,popcnt")]
fn many_words8(codes: &[u64], query: &[u64], out: &mut [u8]) {
    portable::distances(codes, query, out);
}

#[target_feature(enable = "avx2,popcnt")]
fn many_words16(codes: &[u64], query: &[u64], out: &mut [u16]) {
    portable::distances(codes, query, out);
}

#[target_feature(enable = "avx2,popcnt")]
fn near(distances: &[u8], limit: u8, out: &mut [u64]) {
    let most = _mm256_set1_epi8(limit as i8);
    let half = |part: &[u8]| {
        // Sound: 32 bytes are read of each half of 64.
        let values = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
        u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(values, most), values)) as u32)
    };
    let parts = distances.chunks_exact(64);
    let (rest, whole) = (parts.remainder(), distances.len() / 64);
    for (out, part) in out.iter_mut().zip(parts) {
        *out = half(&part[..32]) | half(&part[32..]) << 32;
    }
    portable::near(rest, limit, &mut out[whole..]);
}

#[target_feature(enable = "avx2,popcnt")]
fn total_with(words: &[u64], query: u64) -> u64 {
    let all = _mm256_set1_epi64x(query as i64);
    let mut sums = [_mm256_setzero_si256(); 4];
    let chunks = words.chunks_exact(16);
    let rest = portable::total(chunks.remainder(), query);
    for part in chunks {
        for (v, sum) in sums.iter_mut().enumerate() {
            // Sound: 16 words are read, as long as the chunk is.
            *sum = _mm256_add_epi64(*sum, unsafe { ones_at(part.as_ptr().add(4 * v), all) });
        }
    }
    let sum = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
    let mut lanes = [0u64; 4];
    // Sound: 32 bytes are written into 32.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes.iter().sum::<u64>() + rest
}
