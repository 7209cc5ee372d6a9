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

pub(super) fn near<D: Distance>(distances: &[D], limit: D, base: u32, out: &mut Vec<u32>) {
    let near = (base..).zip(distances).filter(|(_, distance)| distance.to_usize() <= limit.to_usize());
    out.extend(near.map(|(at, _)| at));
}

/// Ones of all words, each changed by `query`.
#[inline(always)]
pub(super) fn total(words: &[u64], query: u64) -> u64 {
    words.iter().map(|word| u64::from((word ^ query).count_ones())).sum()
}
