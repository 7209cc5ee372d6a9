//! Distances by population count, and the choice of those below a limit, with whatever the processor has.
//!
//! The plain versions in `portable` say what is meant; the others are tested against them. `HASHPIPE_SIMD` forces a kind
//! (`avx512`, `avx2`, `neon`, `portable`), for tests and comparisons.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::sync::OnceLock;

/// The kinds of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// AVX-512 with VPOPCNTDQ and VBMI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Kind {
    /// Those that this processor can run, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let mut kinds = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            kinds.extend(avx512::is_available().then_some(Self::Avx512));
            kinds.extend(avx2::is_available().then_some(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        kinds.extend(neon::is_available().then_some(Self::Neon));
        kinds.push(Self::Portable);
        kinds
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// The kind that `HASHPIPE_SIMD` names if the processor has it, else the fastest.
    pub(super) fn of_process() -> Self {
        static KIND: OnceLock<Kind> = OnceLock::new();
        *KIND.get_or_init(|| {
            let (wanted, kinds) = (std::env::var("HASHPIPE_SIMD").unwrap_or_default(), Self::available());
            kinds.iter().copied().find(|kind| kind.name() == wanted).unwrap_or(kinds[0])
        })
    }
}

/// A number that holds a distance: `u8` up to 255 bits, `u16` beyond.
pub(super) trait Distance: Copy + Default + Send + Sync + 'static {
    /// The largest distance it holds.
    const MOST: usize;

    fn from_usize(value: usize) -> Self;

    fn to_usize(self) -> usize;

    /// Writes the distance of `query` to each code of `codes`, which has `query.len()` words for each place of `out`.
    ///
    /// Both have at most [`MOST`](Self::MOST) bits.
    fn distances(kind: Kind, codes: &[u64], query: &[u64], out: &mut [Self]);

    /// Appends, ascending, the positions in `distances` of those up to `limit`, each with `base` added.
    fn near(kind: Kind, distances: &[Self], limit: Self, base: u32, out: &mut Vec<u32>);
}

impl Distance for u8 {
    const MOST: usize = u8::MAX as usize;

    fn from_usize(value: usize) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }

    #[inline(always)]
    fn to_usize(self) -> usize {
        usize::from(self)
    }

    fn distances(kind: Kind, codes: &[u64], query: &[u64], out: &mut [Self]) {
        assert_eq!(codes.len(), query.len() * out.len(), "whole codes");
        match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::distances8(codes, query, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::distances8(codes, query, out),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::distances8(codes, query, out),
            Kind::Portable => portable::distances(codes, query, out),
        }
    }

    fn near(kind: Kind, distances: &[Self], limit: Self, base: u32, out: &mut Vec<u32>) {
        match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::near8(distances, limit, base, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::near8(distances, limit, base, out),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::near8(distances, limit, base, out),
            Kind::Portable => portable::near(distances, limit, base, out),
        }
    }
}

impl Distance for u16 {
    const MOST: usize = u16::MAX as usize;

    fn from_usize(value: usize) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }

    #[inline(always)]
    fn to_usize(self) -> usize {
        usize::from(self)
    }

    fn distances(kind: Kind, codes: &[u64], query: &[u64], out: &mut [Self]) {
        assert_eq!(codes.len(), query.len() * out.len(), "whole codes");
        match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::distances16(codes, query, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::distances16(codes, query, out),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::distances16(codes, query, out),
            Kind::Portable => portable::distances(codes, query, out),
        }
    }

    // Codes beyond 255 bits spend their time in the distances.
    fn near(_: Kind, distances: &[Self], limit: Self, base: u32, out: &mut Vec<u32>) {
        portable::near(distances, limit, base, out);
    }
}

/// Name of the instructions that this process counts with.
pub fn instructions() -> &'static str {
    Kind::of_process().name()
}

/// The most population counts of words per second, in 10^9, that this thread could do were nothing else to do: words
/// stay in the first-level cache, and the counts are only added up. Takes some milliseconds.
pub fn popcount_floor() -> f64 {
    const WORDS: usize = 2048;
    const ROUNDS: usize = 4000;
    let words: Vec<u64> = (0..WORDS as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let began = std::time::Instant::now();
    let mut total = 0;
    for round in 0..ROUNDS as u64 {
        let (words, query) = (std::hint::black_box(&words[..]), std::hint::black_box(round));
        total += match Kind::of_process() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::total(words, query),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::total(words, query),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::total(words, query),
            Kind::Portable => portable::total(words, query),
        };
    }
    std::hint::black_box(total);
    (WORDS * ROUNDS) as f64 / began.elapsed().as_secs_f64() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::stream;

    fn check<D: Distance + PartialEq + std::fmt::Debug>(kind: Kind, width: usize, count: usize) {
        let mut draw = stream(1, "popcount", &[width as u64, count as u64]);
        let mut codes: Vec<u64> = (0..width * count).map(|_| draw.bits()).collect();
        // Some codes are the query or its opposite: the least and the largest distance.
        let mut query: Vec<u64> = (0..width).map(|_| draw.bits()).collect();
        if D::MOST < width * 64 {
            let cut = |words: &mut [u64]| words.iter_mut().for_each(|word| *word &= (1 << 63) - 1);
            cut(&mut codes);
            cut(&mut query);
        }
        for i in (0..count).step_by(7) {
            for (code, &query) in codes[i * width..(i + 1) * width].iter_mut().zip(&query) {
                let all = if D::MOST < width * 64 { (1 << 63) - 1 } else { u64::MAX };
                *code = if i % 2 == 0 { query } else { query ^ all };
            }
        }
        let (mut plain, mut fast) = (vec![D::default(); count], vec![D::from_usize(77); count]);
        portable::distances(&codes, &query, &mut plain);
        D::distances(kind, &codes, &query, &mut fast);
        assert_eq!(fast, plain, "{} {width} words {count} codes", kind.name());
        for limit in [0, 1, width * 28, width * 32, width * 33, 254, D::MOST] {
            let (mut ours, mut expected) = (vec![5], vec![5]);
            let limit = D::from_usize(limit);
            D::near(kind, &plain, limit, 1000, &mut ours);
            portable::near(&plain, limit, 1000, &mut expected);
            assert_eq!(ours, expected, "{} up to {}", kind.name(), limit.to_usize());
        }
    }

    #[test]
    fn every_kind_counts_as_the_plain_loops_do() {
        let by_bits = |codes: &[u64], query: &[u64]| -> Vec<u32> {
            let bits = |word: u64| (0..64).filter(|bit| word >> bit & 1 == 1).count() as u32;
            codes.chunks(query.len()).map(|code| code.iter().zip(query).map(|(a, b)| bits(a ^ b)).sum()).collect()
        };
        let mut draw = stream(2, "popcount", &[]);
        let words: Vec<u64> = (0..30).map(|_| draw.bits()).collect();
        let mut out = [0u16; 9];
        portable::distances(&words[..27], &words[27..], &mut out);
        assert_eq!(out.map(u32::from).to_vec(), by_bits(&words[..27], &words[27..]));

        for kind in Kind::available() {
            for count in [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 1000] {
                (1..=3).for_each(|width| check::<u8>(kind, width, count));
                check::<u8>(kind, 4, count); // 255 bits and less: one is cut off each word
                (1..=16).for_each(|width| check::<u16>(kind, width, count));
            }
        }
    }

    #[test]
    fn totals_agree() {
        let words: Vec<u64> = (0..256).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let expected = portable::total(&words, 7);
        assert_eq!(expected, words.iter().map(|word| u64::from((word ^ 7).count_ones())).sum::<u64>());
        #[cfg(target_arch = "x86_64")]
        {
            assert!(!avx2::is_available() || avx2::total(&words, 7) == expected);
            assert!(!avx512::is_available() || avx512::total(&words, 7) == expected);
        }
        #[cfg(target_arch = "aarch64")]
        assert!(!neon::is_available() || neon::total(&words, 7) == expected);
        assert!(popcount_floor() > 0.0);
    }
}
