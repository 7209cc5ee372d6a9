//! Plain loops: what every other kind must agree with.

use super::Distance;

#[inline(always)]
pub(super) fn distances<D: Distance>(codes: &[u64], query: &[u64], out: &mut [D]) {
    // One and two words are what people use; for them the loop over words must not exist.
    match *query {
        [query] => {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = D::from_usize((code ^ query).count_ones() as usize);
            }
        }
        [low, high] => {
            for (out, code) in out.iter_mut().zip(codes.chunks_exact(2)) {
                *out = D::from_usize(((code[0] ^ low).count_ones() + (code[1] ^ high).count_ones()) as usize);
            }
        }
        _ => {
            for (out, code) in out.iter_mut().zip(codes.chunks_exact(query.len())) {
                *out = D::from_usize(code.iter().zip(query).map(|(a, b)| (a ^ b).count_ones() as usize).sum());
            }
        }
    }
}

#[inline(always)]
pub(super) fn near<D: Distance>(distances: &[D], limit: D, out: &mut [u64]) {
    for (out, distances) in out.iter_mut().zip(distances.chunks(64)) {
        let is_near = |distance: &D| u64::from(distance.to_usize() <= limit.to_usize());
        *out = distances.iter().enumerate().fold(0, |word, (i, distance)| word | is_near(distance) << i);
    }
}

/// Ones of all words, each changed by `query`.
#[inline(always)]
pub(super) fn total(words: &[u64], query: u64) -> u64 {
    words.iter().map(|word| u64::from((word ^ query).count_ones())).sum()
}
