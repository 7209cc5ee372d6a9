//! Search by a card: limits and ranks from counts, then the codes that have them.

use super::{Batch, Places, Scan, Source};
use crate::retrieval::counting::{reach, starts};
use crate::retrieval::{Codes, Neighbour, Refusal};
use std::ops::Range;

/// Queries whose counts are in memory at once.
const PORTION: usize = 4096;
/// Codes that are found at once, at least those of one query.
const MOST: usize = 1 << 26;
/// Stretches of the database, for all queries together, that keep a large GPU busy.
const WALKS: usize = 1 << 13;
/// Counters of all stretches together.
const COUNTERS: usize = 1 << 20;
/// Codes of a stretch are a multiple of this.
const LEAST: usize = 1 << 11;

/// The `k` nearest of each query, nearest first, ties in database order; `k` is at most the number of codes.
///
/// # Errors
/// The card's.
pub(in crate::retrieval) fn top_k(
    scan: &dyn Scan,
    source: &Source,
    queries: &Codes,
    ternary: bool,
    k: usize,
) -> Result<Vec<Vec<Neighbour>>, Refusal> {
    let limit = |counts: &[u32]| (reach(counts.iter().copied(), k), k);
    nearest(scan, source, queries, ternary, limit)
}

/// All codes within a distance, nearest first, ties in database order.
///
/// # Errors
/// The card's.
pub(in crate::retrieval) fn within(
    scan: &dyn Scan,
    source: &Source,
    queries: &Codes,
    ternary: bool,
    limit: usize,
) -> Result<Vec<Vec<Neighbour>>, Refusal> {
    let limit = |counts: &[u32]| (limit.min(counts.len() - 1), usize::MAX);
    nearest(scan, source, queries, ternary, limit)
}

/// For each query, how many codes there are at each distance.
///
/// # Errors
/// The card's.
pub(in crate::retrieval) fn histogram(
    scan: &dyn Scan,
    source: &Source,
    queries: &Codes,
    ternary: bool,
) -> Result<Vec<Vec<u32>>, Refusal> {
    let mut all = Vec::with_capacity(queries.len());
    for portion in portions(queries.len()) {
        let batch = Batch::new(queries, portion, ternary);
        let counts = scan.counts(source, &batch, whole(source.len()))?;
        all.extend(counts.chunks_exact(batch.levels()).map(<[u32]>::to_vec));
    }
    Ok(all)
}

/// The ones of every word, changed by the first word of each query.
///
/// # Errors
/// The card's.
pub(in crate::retrieval) fn total(
    scan: &dyn Scan,
    source: &Source,
    queries: &Codes,
    ternary: bool,
) -> Result<u64, Refusal> {
    portions(queries.len()).map(|portion| scan.total(source, &Batch::new(queries, portion, ternary))).sum()
}

/// The first codes of each query within a limit: `limit` says from how many there are at each distance how far they may
/// be, and how many are wanted.
fn nearest(
    scan: &dyn Scan,
    source: &Source,
    queries: &Codes,
    ternary: bool,
    limit: impl Fn(&[u32]) -> (usize, usize),
) -> Result<Vec<Vec<Neighbour>>, Refusal> {
    let mut all = Vec::with_capacity(queries.len());
    for portion in portions(queries.len()) {
        let batch = Batch::new(queries, portion.clone(), ternary);
        let stretch = stretch(source.len(), batch.len(), batch.levels());
        let counts =
            Counts { levels: batch.levels(), queries: batch.len(), counts: scan.counts(source, &batch, stretch)? };
        let asked: Vec<Asked> = (0..batch.len())
            .map(|query| {
                let total = counts.total(query);
                let (limit, most) = limit(&total);
                let within = total[..=limit].iter().map(|&count| count as usize).sum();
                Asked { limit, most: most.min(within), total }
            })
            .collect();
        for group in groups(&asked) {
            // Most often all of them.
            let few = (group.len() < batch.len())
                .then(|| Batch::new(queries, portion.start + group.start..portion.start + group.end, ternary));
            let places = places(&counts, &asked, group.clone(), stretch);
            let found = scan.places(source, few.as_ref().unwrap_or(&batch), &places)?.at;
            for (asked, first) in asked[group].iter().zip(&places.first) {
                all.push(asked.neighbours(&found[*first as usize..][..asked.most]));
            }
        }
    }
    Ok(all)
}

/// Counts by stretch, query and distance.
struct Counts {
    levels: usize,
    queries: usize,
    counts: Vec<u32>,
}

impl Counts {
    fn stretches(&self) -> usize {
        self.counts.len() / (self.levels * self.queries)
    }

    fn of(&self, stretch: usize, query: usize) -> &[u32] {
        &self.counts[(stretch * self.queries + query) * self.levels..][..self.levels]
    }

    /// Those of the whole database.
    fn total(&self, query: usize) -> Vec<u32> {
        let mut total = vec![0; self.levels];
        for stretch in 0..self.stretches() {
            total.iter_mut().zip(self.of(stretch, query)).for_each(|(total, count)| *total += count);
        }
        total
    }
}

/// What is asked for one query.
struct Asked {
    limit: usize,
    /// How many codes.
    most: usize,
    /// Codes at each distance.
    total: Vec<u32>,
}

impl Asked {
    /// Codes in the order of their ranks, with their distances.
    fn neighbours(&self, at: &[u32]) -> Vec<Neighbour> {
        let distances =
            (0..).zip(&self.total).flat_map(|(distance, &count)| std::iter::repeat_n(distance, count as usize));
        at.iter().zip(distances).map(|(&index, distance)| Neighbour { index, distance }).collect()
    }
}

fn places(counts: &Counts, asked: &[Asked], group: Range<usize>, stretch: usize) -> Places {
    let (mut next, mut first) = (vec![0; counts.stretches() * group.len() * counts.levels], vec![0]);
    for (row, query) in group.clone().enumerate() {
        let mut at = starts(asked[query].total.iter().copied()).0;
        for s in 0..counts.stretches() {
            let next = &mut next[(s * group.len() + row) * counts.levels..][..counts.levels];
            for ((next, at), &count) in next.iter_mut().zip(&mut at).zip(counts.of(s, query)) {
                *next = *at as u32;
                *at += count as usize;
            }
        }
        first.push(first[row] + asked[query].most as u64);
    }
    let limits = asked[group].iter().map(|asked| asked.limit as u32).collect();
    Places { limits, by_distance: true, stretch, next, first, keys: false }
}

/// Queries whose codes are found together.
fn groups(asked: &[Asked]) -> Vec<Range<usize>> {
    together(asked.iter().map(|asked| asked.most))
}

/// Neighbours among `sizes` that are at most [`MOST`] together, or alone.
pub(in crate::retrieval) fn together(sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let (mut groups, mut room): (Vec<Range<usize>>, usize) = (vec![], 0);
    for (i, size) in sizes.enumerate() {
        match groups.last_mut() {
            Some(group) if size <= room => group.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                room = MOST;
            }
        }
        room = room.saturating_sub(size);
    }
    groups
}

fn portions(queries: usize) -> impl Iterator<Item = Range<usize>> {
    (0..queries).step_by(PORTION).map(move |start| start..queries.min(start + PORTION))
}

/// One stretch for all codes.
pub(in crate::retrieval) fn whole(codes: usize) -> usize {
    codes.next_multiple_of(LEAST).max(LEAST)
}

/// Codes of a stretch: as many stretches as keep a card busy and leave few counters.
fn stretch(codes: usize, queries: usize, levels: usize) -> usize {
    let most = (COUNTERS / (queries * levels)).min(WALKS / queries).max(1);
    whole(codes.div_ceil(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_together_has_room() {
        let sizes = [1, MOST - 1, 1, MOST + 5, 0, 0, MOST / 2, MOST / 2, 1];
        assert_eq!(together(sizes.into_iter()), [0..2, 2..3, 3..6, 6..8, 8..9]);
        assert!(together(std::iter::empty()).is_empty());
    }
}
