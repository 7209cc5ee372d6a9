//! NEON: `cnt` counts the ones of each byte; pairs are added up to words.

#![expect(unsafe_code, reason = "intrinsics; the functions ask the processor first, and stay within their slices")]

use super::portable;
use std::arch::aarch64::*;

pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

pub(super) fn distances8(codes: &[u64], query: &[u64], out: &mut [u8]) {
    assert!(is_available() && codes.len() == query.len() * out.len());
    // Sound: the processor has the instructions.
    unsafe {
        match *query {
            [query] => one_word(codes, query, out),
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

/// The ones of each byte of the two words at `at`, each changed by `query`; there are two.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn ones_at(at: *const u64, query: uint64x2_t) -> uint8x16_t {
    // Sound: the caller has two words there.
    vcntq_u8(vreinterpretq_u8_u64(veorq_u64(query, unsafe { vld1q_u64(at) })))
}

/// Sixteen codes at once: eight vectors of byte counts, added in neighbouring pairs three times over, which leaves one
/// byte per word, in order.
#[target_feature(enable = "neon")]
fn one_word(codes: &[u64], query: u64, out: &mut [u8]) {
    const AT_ONCE: usize = 16;
    let whole = out.len() / AT_ONCE * AT_ONCE;
    let all = vdupq_n_u64(query);
    for (codes, out) in codes[..whole].chunks_exact(AT_ONCE).zip(out.chunks_exact_mut(AT_ONCE)) {
        let at = codes.as_ptr();
        // Sound: 16 words are read and 16 bytes written, as long as the chunks are.
        unsafe {
            let a = vpaddq_u8(ones_at(at, all), ones_at(at.add(2), all));
            let b = vpaddq_u8(ones_at(at.add(4), all), ones_at(at.add(6), all));
            let c = vpaddq_u8(ones_at(at.add(8), all), ones_at(at.add(10), all));
            let d = vpaddq_u8(ones_at(at.add(12), all), ones_at(at.add(14), all));
            vst1q_u8(out.as_mut_ptr(), vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d)));
        }
    }
    portable::distances(&codes[whole..], &[query], &mut out[whole..]);
}

/// Ones of a code changed by the query.
#[inline]
#[target_feature(enable = "neon")]
fn distance(code: &[u64], query: &[u64]) -> u32 {
    let mut sum = vdupq_n_u16(0);
    let (parts, of_query) = (code.chunks_exact(2), query.chunks_exact(2));
    let rest = parts.remainder().iter().zip(of_query.remainder()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    for (part, query) in parts.zip(of_query) {
        // Sound: two words are read of each chunk of two.
        sum = vpadalq_u8(sum, unsafe { ones_at(part.as_ptr(), vld1q_u64(query.as_ptr())) });
    }
    u32::from(vaddvq_u16(sum)) + rest
}

#[target_feature(enable = "neon")]
fn many_words8(codes: &[u64], query: &[u64], out: &mut [u8]) {
    for (code, out) in codes.chunks_exact(query.len()).zip(out) {
        *out = distance(code, query) as u8;
    }
}

#[target_feature(enable = "neon")]
fn many_words16(codes: &[u64], query: &[u64], out: &mut [u16]) {
    for (code, out) in codes.chunks_exact(query.len()).zip(out) {
        *out = distance(code, query) as u16;
    }
}

#[target_feature(enable = "neon")]
fn near(distances: &[u8], limit: u8, out: &mut [u64]) {
    const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    let most = vdupq_n_u8(limit);
    // Sound: 16 bytes are read of 16.
    let bits = unsafe { vld1q_u8(BITS.as_ptr()) };
    let of = |part: &[u8]| {
        // Sound: 16 bytes are read of each quarter of 64.
        vandq_u8(vcleq_u8(unsafe { vld1q_u8(part.as_ptr()) }, most), bits)
    };
    let parts = distances.chunks_exact(64);
    let (rest, whole) = (parts.remainder(), distances.len() / 64);
    for (out, part) in out.iter_mut().zip(parts) {
        // Neighbours are added three times over, which leaves eight bits of each eight bytes.
        let low = vpaddq_u8(of(&part[..16]), of(&part[16..32]));
        let high = vpaddq_u8(of(&part[32..48]), of(&part[48..]));
        let all = vpaddq_u8(low, high);
        *out = vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
    }
    portable::near(rest, limit, &mut out[whole..]);
}

#[target_feature(enable = "neon")]
fn total_with(words: &[u64], query: u64) -> u64 {
    let all = vdupq_n_u64(query);
    let mut sum = vdupq_n_u64(0);
    let chunks = words.chunks_exact(4);
    let rest = portable::total(chunks.remainder(), query);
    for part in chunks {
        // Sound: four words are read, as long as the chunk is.
        let counts = unsafe { vaddq_u8(ones_at(part.as_ptr(), all), ones_at(part.as_ptr().add(2), all)) };
        sum = vpadalq_u32(sum, vpaddlq_u16(vpaddlq_u8(counts)));
    }
    vaddvq_u64(sum) + rest
}
