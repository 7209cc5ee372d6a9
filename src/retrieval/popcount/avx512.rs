//! AVX-512: the processor's own population count of eight words at once (VPOPCNTDQ).

#![expect(unsafe_code, reason = "intrinsics; the functions ask the processor first, and stay within their slices")]

use super::portable;
use std::arch::x86_64::*;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vpopcntdq")
        && super::avx2::is_available()
}

pub(super) fn distances8(codes: &[u64], query: &[u64], out: &mut [u8]) {
    assert!(is_available() && codes.len() == query.len() * out.len());
    // Sound: the processor has the instructions.
    unsafe {
        match *query {
            [query] => one_word(codes, query, out),
            [low, high] => two_words(codes, [low, high], out),
            _ => few_words(codes, query, out),
        }
    }
}

pub(super) fn distances16(codes: &[u64], query: &[u64], out: &mut [u16]) {
    assert!(is_available() && codes.len() == query.len() * out.len());
    // Sound: the processor has the instructions.
    unsafe { many_words(codes, query, out) }
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

/// The ones of the eight words at `at`, each changed by `query`; there are eight.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
unsafe fn ones_at(at: *const u64, query: __m512i) -> __m512i {
    // Sound: the caller has eight words there.
    _mm512_popcnt_epi64(_mm512_xor_si512(query, unsafe { _mm512_loadu_si512(at.cast()) }))
}

/// Where byte `8 v + l` comes from: byte `v` of lane `l`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposition() -> __m512i {
    let mut from = [0u8; 64];
    for (to, from) in from.iter_mut().enumerate() {
        *from = (to % 8 * 8 + to / 8) as u8;
    }
    // Sound: 64 bytes are read of 64.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vpopcntdq,popcnt")]
fn one_word(codes: &[u64], query: u64, out: &mut [u8]) {
    const AT_ONCE: usize = 64;
    let whole = out.len() / AT_ONCE * AT_ONCE;
    let (all, order) = (_mm512_set1_epi64(query as i64), transposition());
    for (codes, out) in codes[..whole].chunks_exact(AT_ONCE).zip(out.chunks_exact_mut(AT_ONCE)) {
        let mut lanes = _mm512_setzero_si512();
        for v in (0..8).rev() {
            // Sound: 64 words are read, as long as the chunk is.
            lanes = _mm512_or_si512(_mm512_slli_epi64(lanes, 8), unsafe { ones_at(codes.as_ptr().add(8 * v), all) });
        }
        // Sound: 64 bytes are written, as long as the chunk is.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi8(order, lanes)) };
    }
    portable::distances(&codes[whole..], &[query], &mut out[whole..]);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vpopcntdq,popcnt")]
fn two_words(codes: &[u64], query: [u64; 2], out: &mut [u8]) {
    const AT_ONCE: usize = 64;
    let whole = out.len() / AT_ONCE * AT_ONCE;
    let [low, high] = query.map(|word| word as i64);
    let all = _mm512_setr_epi64(low, high, low, high, low, high, low, high);
    // Words 0, 2, .. of two vectors, and words 1, 3, ..: the halves of eight codes.
    let (even, odd) = (_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15));
    let order = transposition();
    for (codes, out) in codes[..2 * whole].chunks_exact(2 * AT_ONCE).zip(out.chunks_exact_mut(AT_ONCE)) {
        let mut lanes = _mm512_setzero_si512();
        for v in (0..8).rev() {
            // Sound: 128 words are read, as long as the chunk is.
            let (a, b) = unsafe {
                let at = codes.as_ptr().add(16 * v);
                (ones_at(at, all), ones_at(at.add(8), all))
            };
            let sums = _mm512_add_epi64(_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b));
            lanes = _mm512_or_si512(_mm512_slli_epi64(lanes, 8), sums);
        }
        // Sound: 64 bytes are written, as long as the chunk is.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi8(order, lanes)) };
    }
    portable::distances(&codes[2 * whole..], &query, &mut out[whole..]);
}

#[target_feature(enable = "avx512f,popcnt")]
fn few_words(codes: &[u64], query: &[u64], out: &mut [u8]) {
    portable::distances(codes, query, out);
}

#[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
fn many_words(codes: &[u64], query: &[u64], out: &mut [u16]) {
    if query.len() < 8 {
        return portable::distances(codes, query, out);
    }
    for (code, out) in codes.chunks_exact(query.len()).zip(out) {
        let mut sum = _mm512_setzero_si512();
        let (parts, of_query) = (code.chunks_exact(8), query.chunks_exact(8));
        let rest = parts.remainder().iter().zip(of_query.remainder()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        for (part, query) in parts.zip(of_query) {
            // Sound: eight words are read of each chunk of eight.
            sum = _mm512_add_epi64(sum, unsafe { ones_at(part.as_ptr(), _mm512_loadu_si512(query.as_ptr().cast())) });
        }
        *out = (_mm512_reduce_add_epi64(sum) as u32 + rest) as u16;
    }
}

#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn near(distances: &[u8], limit: u8, out: &mut [u64]) {
    let most = _mm512_set1_epi8(limit as i8);
    let parts = distances.chunks_exact(64);
    let (rest, whole) = (parts.remainder(), distances.len() / 64);
    for (out, part) in out.iter_mut().zip(parts) {
        // Sound: 64 bytes are read, as long as the part is.
        *out = _mm512_cmple_epu8_mask(unsafe { _mm512_loadu_si512(part.as_ptr().cast()) }, most);
    }
    portable::near(rest, limit, &mut out[whole..]);
}

#[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
fn total_with(words: &[u64], query: u64) -> u64 {
    let all = _mm512_set1_epi64(query as i64);
    let mut sums = [_mm512_setzero_si512(); 4];
    let chunks = words.chunks_exact(32);
    let rest = portable::total(chunks.remainder(), query);
    for part in chunks {
        for (v, sum) in sums.iter_mut().enumerate() {
            // Sound: 32 words are read, as long as the chunk is.
            *sum = _mm512_add_epi64(*sum, unsafe { ones_at(part.as_ptr().add(8 * v), all) });
        }
    }
    let sum = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
    _mm512_reduce_add_epi64(sum) as u64 + rest
}
