//! Exact search by brute force: a database of codes that can grow and shrink, and queries to it in groups.
//!
//! Each group of queries passes once over the database, block by block (`scan`), and keeps what may be among its nearest
//! (`nearest`). Groups, and parts of the database where there are few groups, are spread over all cores; results do not
//! depend on how many.
//!
//! Where a GPU was asked for ([`Engine::on`]), it gives the same results.
//!
//! There is no index: multi-index hashing (4 tables of 16 bits) was measured at 1,000,000 x 64 bits and lost to this at
//! k = 1, 10 and 100; see `doc/design.md`.

use super::backend::Placed;
use super::gpu::{self, Source};
use super::nearest::{Nearest, limits, sample};
use super::popcount::{Distance, popcount_pass};
use super::scan::Pair;
use super::{Backend, Codes, MAX_CODES, Refusal};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Queries that pass over a database together.
const GROUP: usize = 16;
/// Queries whose candidates are in memory at once.
const PORTION: usize = 1024;
/// Codes that are worth a thread of their own.
const PART: usize = 1 << 16;

/// An item of the database, as seen from a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Neighbour {
    /// Position in the database.
    pub index: u32,
    /// Bits that differ; half bits if the engine says [`half_bits`](Engine::half_bits).
    pub distance: u32,
}

/// A database to search in.
///
/// Codes are added behind the others and removed by a mark, so that neither moves anything: positions stay what they
/// were. [`compact`](Self::compact) gives the room back.
#[derive(Debug, Clone)]
pub struct Engine<'a> {
    bits: usize,
    /// What it was made of, then what was added.
    segments: Vec<Cow<'a, Codes>>,
    /// One bit per code, 1 where it was removed; as long as needed.
    removed: Vec<u64>,
    removed_count: usize,
    placed: Placed,
}

impl Engine<'static> {
    /// An engine of its own.
    pub fn new(database: Codes) -> Self {
        Self::of(Cow::Owned(database))
    }
}

impl<'a> Engine<'a> {
    /// An engine over codes that stay where they are.
    pub fn over(database: &'a Codes) -> Self {
        Self::of(Cow::Borrowed(database))
    }

    fn of(database: Cow<'a, Codes>) -> Self {
        Self {
            bits: database.bits(),
            segments: vec![database],
            removed: vec![],
            removed_count: 0,
            placed: Placed::default(),
        }
    }

    /// The same engine, searched by what was opened. A GPU takes the database when it is first searched, and again after
    /// it has changed.
    #[must_use]
    pub fn on(self, backend: &Backend) -> Self {
        Self { placed: Placed::on(backend), ..self }
    }

    /// Length of the codes, in bits.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Positions there are, those of removed codes included.
    pub fn positions(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    /// Codes there are.
    pub fn len(&self) -> usize {
        self.positions() - self.removed_count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether distances to these queries are counted in half bits, because some sign, on either side, is zero.
    pub fn half_bits(&self, queries: &Codes) -> bool {
        queries.is_ternary() || self.segments.iter().any(|segment| segment.is_ternary())
    }

    /// Adds codes behind the others; returns their positions. What is there is not touched, also if it is mapped.
    ///
    /// # Errors
    /// Codes of another length, or more than 32 bits can count.
    pub fn add(&mut self, codes: &Codes) -> Result<Range<usize>, Refusal> {
        if codes.bits() != self.bits {
            return Err(Refusal::DifferentBits { queries: codes.bits(), database: self.bits });
        }
        let start = self.positions();
        if start + codes.len() > MAX_CODES {
            return Err(Refusal::TooManyCodes);
        }
        self.placed.forget();
        // The first segment may be large, mapped, or somebody else's; the second is what grows.
        match &mut self.segments[..] {
            [_, .., tail] => tail.to_mut().append(codes)?,
            _ => self.segments.push(Cow::Owned(codes.clone())),
        }
        Ok(start..start + codes.len())
    }

    /// Removes the code at a position; returns whether there was one.
    pub fn remove(&mut self, position: usize) -> bool {
        if position >= self.positions() || self.is_removed(position) {
            return false;
        }
        if self.removed.len() <= position / 64 {
            self.removed.resize(position / 64 + 1, 0);
        }
        self.placed.forget();
        self.removed[position / 64] |= 1 << (position % 64);
        self.removed_count += 1;
        true
    }

    /// Moves all codes together; returns, for each new position, the old one.
    pub fn compact(&mut self) -> Vec<usize> {
        let kept: Vec<usize> = (0..self.positions()).filter(|&position| !self.is_removed(position)).collect();
        let mut start = 0;
        let mut parts = self.segments.iter().map(|segment| {
            let here = start..start + segment.len();
            start = here.end;
            let inside = kept.iter().filter(|position| here.contains(position)).map(|position| position - here.start);
            segment.selected(inside)
        });
        let first = parts.next();
        let rest: Vec<Codes> = parts.collect();
        if let Some(mut whole) = first {
            for part in rest {
                whole.append(&part).expect("codes of one length, and no more than before");
            }
            let placed = std::mem::take(&mut self.placed);
            *self = Self { placed, ..Self::of(Cow::Owned(whole)) };
            self.placed.forget();
        }
        kept
    }

    fn is_removed(&self, position: usize) -> bool {
        self.removed.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Returns for each query the `k` nearest items, nearest first, ties in database order; all if there are fewer.
    ///
    /// # Errors
    /// Queries of another length.
    pub fn top_k(&self, queries: &Codes, k: usize) -> Result<Vec<Vec<Neighbour>>, Refusal> {
        let k = k.min(self.len());
        if k == 0 {
            self.pair(queries, &self.segments[0])?;
            return Ok(vec![vec![]; queries.len()]);
        }
        if let Some(scan) = self.scan(queries)? {
            return gpu::top_k(&*scan, &self.source(), queries, self.half_bits(queries), k);
        }
        let (ternary, sample) = (self.half_bits(queries), sample(&self.segments[0]));
        self.in_portions(queries, k, |queries| {
            let groups: Vec<Range<usize>> = chunks(queries.len(), GROUP).collect();
            let guess = |group| limits(queries, group, sample.as_ref(), k, self.len(), ternary);
            let guesses = groups.into_par_iter().map(guess).collect::<Result<Vec<_>, Refusal>>()?.concat();
            let mut found = self.search(queries, k, &guesses)?;
            let short: Vec<usize> = (0..queries.len()).filter(|&query| !found[query].is_enough()).collect();
            if !short.is_empty() {
                let again = queries.selected(short.iter().copied());
                let again = self.search(&again, k, &vec![usize::MAX; short.len()])?;
                for (query, nearest) in short.into_iter().zip(again) {
                    found[query] = nearest;
                }
            }
            Ok(found)
        })
    }

    /// Returns for each query all items that differ in at most `radius` bits, nearest first, ties in database order.
    ///
    /// # Errors
    /// Queries of another length.
    pub fn within(&self, queries: &Codes, radius: usize) -> Result<Vec<Vec<Neighbour>>, Refusal> {
        let steps = if self.half_bits(queries) { 2 } else { 1 };
        let limit = radius.saturating_mul(steps);
        if let Some(scan) = self.scan(queries)? {
            return gpu::within(&*scan, &self.source(), queries, self.half_bits(queries), limit);
        }
        self.in_portions(queries, usize::MAX, |queries| self.search(queries, usize::MAX, &vec![limit; queries.len()]))
    }

    /// The first `k` of what `search` finds for some queries after others, so that candidates do not fill the memory.
    fn in_portions(
        &self,
        queries: &Codes,
        k: usize,
        search: impl Fn(&Codes) -> Result<Vec<Nearest>, Refusal>,
    ) -> Result<Vec<Vec<Neighbour>>, Refusal> {
        let neighbour = |index, distance| Neighbour { index, distance: u32::from(distance) };
        let mut all = Vec::with_capacity(queries.len());
        for portion in chunks(queries.len(), PORTION) {
            let found =
                if portion.len() == queries.len() { search(queries) } else { search(&queries.selected(portion)) };
            all.par_extend(found?.into_par_iter().map(|nearest| nearest.in_order(k, neighbour)));
        }
        Ok(all)
    }

    /// Returns for each query how many items there are at each distance from 0 up to the number of bits (of half bits
    /// where [`half_bits`](Self::half_bits)).
    ///
    /// # Errors
    /// Queries of another length.
    pub fn histogram(&self, queries: &Codes) -> Result<Vec<Vec<u32>>, Refusal> {
        let levels = self.pair(queries, &self.segments[0])?.levels();
        if let Some(scan) = self.scan(queries)? {
            return gpu::histogram(&*scan, &self.source(), queries, self.half_bits(queries));
        }
        let groups: Vec<Range<usize>> = chunks(queries.len(), GROUP).collect();
        let counted = groups.into_par_iter().map(|group| {
            let mut counts = vec![vec![0; levels]; group.len()];
            self.each_block(queries, group.clone(), 0..self.positions(), |query, base, distances: &[u16]| {
                for (place, &distance) in distances.iter().enumerate() {
                    counts[query - group.start][usize::from(distance)] += u32::from(!self.is_removed(base + place));
                }
            })?;
            Ok(counts)
        });
        Ok(counted.collect::<Result<Vec<_>, Refusal>>()?.concat())
    }

    /// The database on the GPU that is to search it; nothing, if the processor is to, or nothing is to be done.
    fn scan(&self, queries: &Codes) -> Result<Option<Arc<dyn gpu::Scan>>, Refusal> {
        self.pair(queries, &self.segments[0])?;
        if self.positions() == 0 || queries.is_empty() { Ok(None) } else { self.placed.scan(|| self.source()) }
    }

    fn source(&self) -> Source<'_> {
        Source {
            segments: self.segments.iter().map(|segment| &**segment).collect(),
            removed: &self.removed,
            labels: None,
        }
    }

    /// Compares every word with the first word of each query and adds up the ones: see
    /// [`popcount_pass`](super::popcount_pass).
    ///
    /// # Errors
    /// Queries of another length.
    pub fn popcount_pass(&self, queries: &Codes) -> Result<u64, Refusal> {
        if let Some(scan) = self.scan(queries)? {
            return gpu::total(&*scan, &self.source(), queries, self.half_bits(queries));
        }
        self.segments.iter().map(|segment| popcount_pass(queries, segment)).sum()
    }

    fn pair<'b>(&self, queries: &'b Codes, segment: &'b Codes) -> Result<Pair<'b>, Refusal> {
        Pair::with_ternary(queries, segment, self.half_bits(queries))
    }

    /// Candidates of each query within its limit, for the `wanted` nearest.
    fn search(&self, queries: &Codes, wanted: usize, limits: &[usize]) -> Result<Vec<Nearest>, Refusal> {
        let pair = self.pair(queries, &self.segments[0])?;
        let groups: Vec<Range<usize>> = chunks(queries.len(), GROUP).collect();
        // As many parts as keep all threads busy, if they are worth it.
        let parts = (2 * rayon::current_num_threads()).div_ceil(groups.len().max(1));
        let parts = if groups.len() >= 2 * rayon::current_num_threads() { 1 } else { parts };
        let length = self.positions().div_ceil(parts).next_multiple_of(64).max(PART);
        let parts: Vec<Range<usize>> = chunks(self.positions(), length).collect();
        let tasks: Vec<(Range<usize>, Range<usize>)> =
            groups.iter().flat_map(|group| parts.iter().map(|part| (group.clone(), part.clone()))).collect();
        let found = tasks.into_par_iter().map(|(group, part)| {
            let new = |query: usize| Nearest::new(wanted, limits[query], pair.levels(), true);
            let mut nearest: Vec<Nearest> = group.clone().map(new).collect();
            if pair.fits_bytes() {
                self.pass::<u8>(queries, group, part, &mut nearest)?;
            } else {
                self.pass::<u16>(queries, group, part, &mut nearest)?;
            }
            Ok(nearest)
        });
        let found: Vec<Vec<Nearest>> = found.collect::<Result<_, Refusal>>()?;
        // Parts of a group follow each other, in database order.
        let mut all: Vec<Nearest> = Vec::with_capacity(queries.len());
        for (task, nearest) in found.into_iter().enumerate() {
            if task.is_multiple_of(parts.len()) {
                all.extend(nearest);
            } else {
                let first = all.len() - nearest.len();
                all[first..].iter_mut().zip(nearest).for_each(|(all, more)| all.append(more));
            }
        }
        if parts.is_empty() {
            all.extend((0..queries.len()).map(|query| Nearest::new(wanted, limits[query], pair.levels(), true)));
        }
        Ok(all)
    }

    fn pass<D: Distance>(
        &self,
        queries: &Codes,
        group: Range<usize>,
        part: Range<usize>,
        nearest: &mut [Nearest],
    ) -> Result<(), Refusal> {
        let is_there = |base: usize| move |place: usize| !self.is_removed(base + place);
        let kind = self.pair(queries, &self.segments[0])?.kind();
        self.each_block(queries, group.clone(), part, |query, base, distances: &[D]| {
            let there = (self.removed_count > 0).then(|| is_there(base));
            nearest[query - group.start].take(kind, base, distances, there, &[]);
        })
    }

    /// Gives `each` the distances of a group of queries to a part of the database: query, position of the first, and
    /// distances.
    fn each_block<D: Distance>(
        &self,
        queries: &Codes,
        group: Range<usize>,
        part: Range<usize>,
        mut each: impl FnMut(usize, usize, &[D]),
    ) -> Result<(), Refusal> {
        let mut start = 0;
        for segment in &self.segments {
            let end = start + segment.len();
            let here = part.start.clamp(start, end) - start..part.end.clamp(start, end) - start;
            if !here.is_empty() {
                self.pair(queries, segment)?.scan(group.clone(), here, |query, at: Range<usize>, distances: &[D]| {
                    each(query, start + at.start, distances);
                });
            }
            start = end;
        }
        Ok(())
    }
}

/// Pieces of `0..total`, each of `length` but the last.
fn chunks(total: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(length.max(1)).map(move |start| start..total.min(start + length))
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use crate::seeded::stream;
    use proptest::prelude::*;

    /// The whole database by a stable sort, as the reference's `argsort(kind="stable")`; distances in half bits.
    fn sorted(database: &Codes, queries: &Codes, query: usize) -> Vec<(u32, u32)> {
        let dot = |i| queries.unpack(query).zip(database.unpack(i)).map(|(a, b)| a * b).sum::<f32>();
        let mut all: Vec<_> =
            (0..database.len()).map(|i| (i as u32, (database.bits() as f32 - dot(i)) as u32)).collect();
        all.sort_by_key(|&(_, distance)| distance);
        all
    }

    fn ternary(seed: u64, count: usize, bits: usize, zeros: bool) -> Codes {
        let mut draw = stream(seed, "ternary", &[]);
        let mut codes = Codes::new(bits).unwrap();
        for _ in 0..count {
            let sign = |_| if zeros { draw.below(3) as f32 - 1.0 } else { 2.0 * draw.below(2) as f32 - 1.0 };
            codes.push_ternary(&(0..bits).map(sign).collect::<Vec<_>>()).unwrap();
        }
        codes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn search_equals_a_stable_sort_while_codes_come_and_go(
            seed in any::<u64>(), bits in prop_oneof![1usize..150, Just(300)], zeros in any::<bool>(),
            count in 0usize..200, added in 0usize..80, k in 0usize..300, radius in 0usize..40,
        ) {
            let queries = ternary(!seed, 20, bits, zeros);
            let first = ternary(seed, count, bits, false);
            let more = ternary(seed ^ 1, added, bits, zeros);
            let mut engine = Engine::over(&first);
            prop_assert_eq!(engine.add(&more.selected(0..added / 2)).unwrap(), count..count + added / 2);
            engine.add(&more.selected(added / 2..added)).unwrap();
            let mut gone = std::collections::BTreeSet::new();
            let mut draw = stream(seed, "gone", &[]);
            for _ in 0..(count + added) / 3 {
                let at = draw.below(count + added + 5);
                prop_assert_eq!(engine.remove(at), at < count + added && gone.insert(at));
            }
            let mut moved = engine.clone();
            let kept = moved.compact();
            prop_assert_eq!(&kept, &(0..count + added).filter(|at| !gone.contains(at)).collect::<Vec<_>>());
            let mut all = first.clone();
            all.append(&more).unwrap();
            prop_assert_eq!((engine.len(), moved.positions()), (kept.len(), kept.len()));

            let half = engine.half_bits(&queries);
            let unit = if half { 1 } else { 2 };
            let (top, near) = (engine.top_k(&queries, k).unwrap(), engine.within(&queries, radius).unwrap());
            let (compact, counts) = (moved.top_k(&queries, k).unwrap(), engine.histogram(&queries).unwrap());
            for query in 0..queries.len() {
                let mut expected = sorted(&all, &queries, query);
                expected.retain(|&(i, _)| !gone.contains(&(i as usize)));
                let as_found = |&(index, distance): &(u32, u32)| Neighbour { index, distance: distance / unit };
                let within: Vec<_> = expected.iter().filter(|&&(_, d)| d as usize <= 2 * radius).map(as_found).collect();
                prop_assert_eq!(&near[query], &within);
                for (distance, &count) in counts[query].iter().enumerate() {
                    let here = expected.iter().filter(|&&(_, d)| (d / unit) as usize == distance).count();
                    prop_assert_eq!(count as usize, here);
                }
                expected.truncate(k);
                prop_assert_eq!(&top[query], &expected.iter().map(as_found).collect::<Vec<_>>());
                if moved.half_bits(&queries) == half {
                    let back = compact[query].iter().map(|n| Neighbour { index: kept[n.index as usize] as u32, ..*n });
                    prop_assert_eq!(back.collect::<Vec<_>>(), top[query].clone());
                }
            }
        }
    }

    #[test]
    fn large_databases_are_sampled_split_and_searched_again_if_need_be() {
        // Near codes where the sample does not look, so that its guess is wrong and the search is done again.
        let count = 3 * PART + 77;
        let mut codes = random_codes(1, count, 64, 64);
        let queries = random_codes(2, 3, 64, 64);
        let far: Codes = Codes::from_words(64, vec![!queries.code(0)[0]; count]).unwrap();
        codes.append(&far).unwrap();
        let engine = Engine::new(codes.clone());
        let sorted = |query: usize| {
            let distance = |i: usize| (codes.code(i)[0] ^ queries.code(query)[0]).count_ones();
            let mut all: Vec<_> =
                (0..codes.len()).map(|i| Neighbour { index: i as u32, distance: distance(i) }).collect();
            all.sort_by_key(|neighbour| neighbour.distance);
            all
        };
        let expected: Vec<Vec<Neighbour>> = (0..3).map(sorted).collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for k in [1, 100, count + 10] {
                let found = pool.install(|| engine.top_k(&queries, k).unwrap());
                assert!(found.iter().zip(&expected).all(|(found, all)| found == &all[..k]), "k {k} threads {threads}");
            }
        }
        assert!(engine.top_k(&random_codes(1, 2, 32, 32), 3).is_err());
        assert!(engine.within(&random_codes(1, 2, 32, 32), 3).is_err());
        assert_eq!(engine.top_k(&queries, 0).unwrap(), vec![vec![]; 3]);
    }
}
