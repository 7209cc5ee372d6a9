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

use super::{Codes, Refusal};
use rayon::prelude::*;
use std::ops::Range;
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

/// Plain loops that are compiled for a kind of instructions; `run` must be `#[inline(always)]`.
pub(super) trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

impl Kind {
    /// Does work with these instructions at hand.
    pub(super) fn compiled<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx2 => avx2::compiled(work),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => work.run(),
            Self::Portable => work.run(),
        }
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

    /// Sets bit `i % 64` of word `i / 64` of `out` where `distances[i]` is at most `limit`; `out` has a word for every 64.
    fn near(kind: Kind, distances: &[Self], limit: Self, out: &mut [u64]);
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

    fn near(kind: Kind, distances: &[Self], limit: Self, out: &mut [u64]) {
        assert_eq!(distances.len().div_ceil(64), out.len(), "a word for every 64");
        match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::near8(distances, limit, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::near8(distances, limit, out),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::near8(distances, limit, out),
            Kind::Portable => portable::near(distances, limit, out),
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
    fn near(_: Kind, distances: &[Self], limit: Self, out: &mut [u64]) {
        assert_eq!(distances.len().div_ceil(64), out.len(), "a word for every 64");
        portable::near(distances, limit, out);
    }
}

/// Ones of all words, each changed by `query`.
pub(super) fn total(kind: Kind, words: &[u64], query: u64) -> u64 {
    match kind {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::total(words, query),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2::total(words, query),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => neon::total(words, query),
        Kind::Portable => portable::total(words, query),
    }
}

/// Compares every word of a database with the first word of each query and adds up the ones: as many population counts as
/// a search needs, and nothing else. For codes of one word, that is the sum of all distances.
///
/// # Errors
/// Codes of different lengths.
pub fn popcount_pass(queries: &Codes, database: &Codes) -> Result<u64, Refusal> {
    /// Words of a block: half of a first-level cache.
    const BLOCK: usize = 2048;
    if queries.bits() != database.bits() {
        return Err(Refusal::DifferentBits { queries: queries.bits(), database: database.bits() });
    }
    let kind = Kind::of_process();
    let groups: Vec<Range<usize>> =
        (0..queries.len()).step_by(16).map(|start| start..queries.len().min(start + 16)).collect();
    // Few groups are not enough for all threads: then parts of the database.
    let part = database.words().len().div_ceil(2 * rayon::current_num_threads()).next_multiple_of(BLOCK).max(BLOCK);
    let part = if groups.len() < 2 * rayon::current_num_threads() { part } else { usize::MAX };
    let sum = |group: &Range<usize>, words: &[u64]| -> u64 {
        let of_block =
            |block: &[u64]| group.clone().map(|query| total(kind, block, queries.code(query)[0])).sum::<u64>();
        words.chunks(BLOCK).map(of_block).sum()
    };
    let parts: Vec<&[u64]> = database.words().chunks(part.min(database.words().len().max(1))).collect();
    Ok(groups.par_iter().flat_map(|group| parts.par_iter().map(move |words| sum(group, words))).sum())
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
    let mut sum = 0;
    for round in 0..ROUNDS as u64 {
        let (words, query) = (std::hint::black_box(&words[..]), std::hint::black_box(round));
        sum += total(Kind::of_process(), words, query);
    }
    std::hint::black_box(sum);
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
            let limit = D::from_usize(limit);
            let mut ours = vec![u64::MAX; count.div_ceil(64)];
            let mut expected = vec![0; ours.len()];
            D::near(kind, &plain, limit, &mut ours);
            for (i, distance) in plain.iter().enumerate() {
                expected[i / 64] |= u64::from(distance.to_usize() <= limit.to_usize()) << (i % 64);
            }
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
        for kind in Kind::available() {
            assert_eq!(total(kind, &words, 7), expected, "{}", kind.name());
        }
        let (queries, database) = (words[..40].to_vec(), words.clone());
        let [queries, database] = [queries, database].map(|words| Codes::from_words(64, words).unwrap());
        let all: u64 = (0..40).map(|query| portable::total(&words, queries.code(query)[0])).sum();
        assert_eq!(popcount_pass(&queries, &database), Ok(all));
        assert!(popcount_floor() > 0.0);
    }
}
