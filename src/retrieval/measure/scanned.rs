//! The numbers of queries whose database a card has read. What it gives are integers and sums in the CPU's order, so the
//! numbers are the CPU's, to the bit: the same candidates are kept as block by block, and the rest is the same code.

use super::ranked::{Ranked, Stable, before_each};
use super::ties::Group;
use super::{Pass, QueryResult};
use crate::retrieval::Refusal;
use crate::retrieval::gpu::{Batch, LANES, Places, Portions, Ranks, Rows, Scan, Source, Sums, together, whole};
use crate::retrieval::nearest::Nearest;
use rayon::prelude::*;
use std::ops::Range;

/// A database on a card, and who asks about it.
pub(in crate::retrieval) struct Scanned<'a> {
    pub scan: &'a dyn Scan,
    pub source: Source<'a>,
    /// Queries of earlier passes.
    pub portions: &'a Portions,
}

impl Scanned<'_> {
    /// The numbers of some groups of queries, which follow each other.
    pub(super) fn measure(
        &self,
        pass: &Pass,
        groups: &[Range<usize>],
    ) -> Result<Vec<(QueryResult, Vec<Group>)>, Refusal> {
        let limits = groups.par_iter().map(|group| pass.limits(group.clone())).collect::<Result<Vec<_>, _>>()?.concat();
        let start = groups.first().map_or(0, |group| group.start);
        let queries: Vec<usize> = (start..start + limits.len()).collect();
        let all = self.portions.of(start..start + queries.len(), || batch(pass, &queries));
        let rows = if pass.wanted.needs_all() { Rows::Shared } else { Rows::Relevant };
        let counts = self.counts(&all.counting(rows))?;

        // Queries of which few ranks count have their nearest found; of the others everything is ranked there.
        let near = |query: &usize| pass.nearest(*query, limits[query - start]).map(|nearest| (*query, nearest));
        let near = queries.iter().filter_map(near).collect();
        let candidates = self.candidates(pass, &all, near, &counts, start)?;
        let mut candidates = candidates.into_iter().peekable();
        let mut found = Vec::with_capacity(queries.len());
        for &query in &queries {
            let nearest = candidates.next_if(|(of, _)| *of == query).map(|(_, nearest)| nearest);
            found.push((query, nearest));
        }
        let ranked = found.into_par_iter().map(|(query, nearest)| {
            let ranked = pass.counted(query, nearest, counts.of(query - start));
            let mut ranked = if ranked.is_enough() { ranked } else { pass.again(query).unwrap_or(ranked) };
            pass.leave_out(query, &mut ranked);
            ranked
        });
        let ranked: Vec<Ranked> = ranked.collect();

        let elsewhere: Vec<(usize, &Ranked)> =
            queries.iter().copied().zip(&ranked).filter(|(_, ranked)| ranked.is_elsewhere()).collect();
        let mut read = self.ranks(pass, &all, &elsewhere)?.into_iter();
        let stable: Vec<Option<Stable>> =
            ranked.iter().map(|ranked| if ranked.is_elsewhere() { read.next() } else { None }).collect();
        let all = queries.into_par_iter().zip(ranked).zip(stable);
        Ok(all.map(|((query, ranked), stable)| pass.result(query, ranked, stable)).collect())
    }

    fn counts(&self, batch: &Batch) -> Result<Counts, Refusal> {
        let counts = self.scan.counts(&self.source, batch, whole(self.source.len()))?;
        let rows = (0..batch.len()).map(|query| batch.rows_of(query)).collect();
        Ok(Counts { levels: batch.levels(), rows, counts })
    }

    /// What each query keeps of the items within its first limit.
    fn candidates(
        &self,
        pass: &Pass,
        all: &Batch,
        mut wanted: Vec<(usize, Nearest)>,
        counts: &Counts,
        start: usize,
    ) -> Result<Vec<(usize, Nearest)>, Refusal> {
        let within = |(query, nearest): &(usize, Nearest)| counts.within(query - start, nearest.limit());
        let sizes: Vec<usize> = wanted.iter().map(within).collect();
        for group in together(sizes.iter().copied()) {
            let (wanted, sizes) = (&mut wanted[group.clone()], &sizes[group]);
            let queries: Vec<usize> = wanted.iter().map(|(query, _)| *query).collect();
            let mut first = vec![0];
            first.extend(sizes.iter().scan(0, |end, &size| {
                *end += size as u64;
                Some(*end)
            }));
            let limits = wanted.iter().map(|(_, nearest)| nearest.limit() as u32).collect();
            let stretch = whole(self.source.len());
            let asked = Places { limits, by_distance: false, stretch, next: vec![0; queries.len()], first, keys: true };
            let found = self.scan.places(&self.source, &some(pass, all, &queries), &asked)?;
            wanted.par_iter_mut().zip(&asked.first).zip(sizes).for_each(|(((_, nearest), first), size)| {
                let here = *first as usize..*first as usize + size;
                nearest.replay(pass.pair.block(), &found.at[here.clone()], &found.keys[here]);
            });
        }
        Ok(wanted)
    }

    /// What the rankings of queries hold in the order of the database.
    fn ranks(&self, pass: &Pass, all: &Batch, queries: &[(usize, &Ranked)]) -> Result<Vec<Stable>, Refusal> {
        if queries.is_empty() {
            return Ok(vec![]);
        }
        let numbers: Vec<usize> = queries.iter().map(|(query, _)| *query).collect();
        let batch = some(pass, all, &numbers);
        let cuts: Vec<Vec<usize>> = numbers.iter().map(|&query| pass.cuts_of(query).map.clone()).collect();
        let last = |cuts: &[usize]| cuts.last().copied().unwrap_or(0);
        let next: Vec<Vec<u64>> = queries
            .par_iter()
            .zip(&cuts)
            .map(|((_, ranked), cuts)| before_each(&ranked.groups().0, last(cuts)))
            .collect();
        let cut_count = cuts.first().map_or(0, Vec::len);
        let mut asked = Ranks {
            cuts: cuts.iter().flatten().map(|&cut| cut as u32).collect(),
            cut_count,
            next: vec![0; batch.len() * batch.levels()],
            reads: next.iter().map(|next| next.len() as u32).collect(),
            gone: vec![],
            first_gone: vec![0],
        };
        for (room, next) in asked.next.chunks_exact_mut(batch.levels()).zip(&next) {
            room[..next.len()].copy_from_slice(next);
        }
        for &query in &numbers {
            asked.gone.extend(pass.excluded(query));
            asked.first_gone.push(asked.gone.len() as u32);
        }
        let Sums { sums, hits, first } = self.scan.ranks(&self.source, &batch, &asked)?;
        let of = |(query, (cuts, first)): (usize, (&Vec<usize>, u32))| {
            let here = query * cut_count * LANES..(query + 1) * cut_count * LANES;
            let sums = hits[here.clone()].chunks_exact(LANES).zip(sums[here].chunks_exact(LANES));
            Stable::of(sums, first, last(cuts))
        };
        Ok(cuts.iter().zip(first).enumerate().map(of).collect())
    }
}

fn batch(pass: &Pass, queries: &[usize]) -> Batch {
    let classes = |query: usize| pass.relevance.queries.classes_of(query);
    Batch::with_classes(pass.queries, queries.iter().copied(), pass.pair.per_bit() > 1, classes, Rows::One)
}

/// Some of the queries of a batch; most often all.
fn some(pass: &Pass, all: &Batch, queries: &[usize]) -> Batch {
    if queries.len() == all.len() { all.counting(Rows::One) } else { batch(pass, queries) }
}

/// Counts of some queries, by row and distance.
struct Counts {
    levels: usize,
    rows: Vec<Range<usize>>,
    counts: Vec<u32>,
}

impl Counts {
    fn of(&self, query: usize) -> &[u32] {
        &self.counts[self.rows[query].start * self.levels..self.rows[query].end * self.levels]
    }

    /// Items within a limit.
    fn within(&self, query: usize, limit: usize) -> usize {
        self.of(query).chunks_exact(self.levels).flat_map(|row| &row[..=limit]).map(|&count| count as usize).sum()
    }
}
