//! How one query ranks a database: what is found at each distance, and the relevance of its first ranks.

use super::ties::Group;
use crate::retrieval::Labels;
use crate::retrieval::labels::planes_for;
use crate::retrieval::nearest::Nearest;
use crate::retrieval::popcount::{Distance, Kind, Work, total};
use std::ops::Range;

/// Neighbouring items are counted in different tables: most distances are alike, and a processor must wait for one
/// addition to a count before it can start the next.
const TABLES: usize = 2;

/// Items looked at together: hits of each strip are added to sums in turn, from the first sum on.
pub(in crate::retrieval) const STRIP: usize = 1024;

/// Sums that hits are added to in turn.
pub(in crate::retrieval) const LANES: usize = 8;

/// A query while the database passes by.
pub(super) struct Ranked<'a> {
    labels: &'a Labels,
    classes: Vec<u32>,
    levels: usize,
    /// Shared classes of the block's items, as binary numbers across planes.
    planes: Vec<Vec<u64>>,
    /// Which of the block's items are relevant.
    any: Vec<u64>,
    /// Items by shared classes and distance, in `TABLES` tables of `[classes + 1, stride]`; empty if nobody asks.
    counts: Vec<u32>,
    kept: Kept,
    relevant: usize,
}

/// Items whose order matters, each as twice its distance plus its relevance.
enum Kept {
    Nearest(Nearest),
    /// All of the database, in its order.
    All(Vec<u16>),
    /// All of the database, but not here.
    Elsewhere,
}

/// All of a query's ranking that its numbers are made of.
pub(super) struct Ranking {
    /// By distance: the whole database, or up to the last rank that counts.
    pub groups: Vec<Group>,
    /// By distance and shared classes, from 1; empty if nobody asks.
    pub grades: Vec<Vec<u32>>,
    /// With ties in database order.
    pub stable: Stable,
    /// Relevant items in the whole database.
    pub relevant: usize,
}

/// What the first ranks hold with ties in database order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stable {
    /// For each cut, the relevant items within it and the sum of the precisions at them.
    pub at: Vec<(u32, f64)>,
    /// Rank of the first relevant item, from 1, if it is within the last cut.
    pub first_hit: Option<u32>,
}

impl Stable {
    /// From the sums of each cut, the rank of the first hit, and the last cut.
    pub(super) fn of<'s>(cuts: impl Iterator<Item = (&'s [u32], &'s [f64])>, first: u32, last: usize) -> Self {
        let at = cuts.map(|(counts, sums)| (counts.iter().sum(), sums.iter().sum())).collect();
        Self { at, first_hit: Some(first).filter(|&rank| rank as usize <= last) }
    }
}

impl<'a> Ranked<'a> {
    /// A query with these classes; without `nearest` everything is kept. `all` asks for counts of the whole database.
    pub(super) fn new(
        labels: &'a Labels,
        classes: Vec<u32>,
        levels: usize,
        nearest: Option<Nearest>,
        all: bool,
    ) -> Self {
        let planes = vec![vec![]; planes_for(classes.len())];
        let counts = if all { vec![0; TABLES * (classes.len() + 1) * stride(levels)] } else { vec![] };
        let kept = nearest.map_or_else(|| Kept::All(Vec::with_capacity(labels.len())), Kept::Nearest);
        Self { labels, classes, levels, planes, any: vec![], counts, kept, relevant: 0 }
    }

    /// What was counted elsewhere: `rows` are items by distance for each number of shared classes, the last row for all
    /// that share more. Without `nearest`, [`finish_with`](Self::finish_with) asks for
    /// what is not here.
    pub(super) fn counted(
        labels: &'a Labels,
        classes: Vec<u32>,
        levels: usize,
        nearest: Option<Nearest>,
        rows: &[u32],
        all: bool,
    ) -> Self {
        let relevant = rows[levels..].iter().map(|&count| count as usize).sum();
        let mut counts = vec![];
        // Nearest items are counted by their keys, unless all are asked for.
        if all || nearest.is_none() {
            counts = vec![0; TABLES * rows.len() / levels * stride(levels)];
            for (row, counted) in counts.chunks_exact_mut(stride(levels)).zip(rows.chunks_exact(levels)) {
                row[..levels].copy_from_slice(counted);
            }
        }
        let kept = nearest.map_or(Kept::Elsewhere, Kept::Nearest);
        Self { labels, classes, levels, planes: vec![], any: vec![], counts, kept, relevant }
    }

    /// Looks at the items of a block, which starts at a multiple of 64.
    pub(super) fn take<D: Distance>(&mut self, kind: Kind, here: Range<usize>, distances: &[D]) {
        kind.compiled(Take { ranked: self, kind, here, distances });
    }

    /// Takes an item out again that should not have been looked at; of several, the last one first.
    pub(super) fn remove(&mut self, item: usize, distance: usize) {
        let shared = self.labels.classes_of(item).filter(|class| self.classes.contains(class)).count();
        self.relevant -= usize::from(shared > 0);
        let table = self.counts.len() / TABLES;
        let row = shared.min((table / stride(self.levels)).saturating_sub(1));
        let at = row * stride(self.levels) + distance;
        for t in 0..TABLES {
            if let Some(count) = self.counts.get_mut(t * table + at).filter(|count| **count > 0) {
                *count -= 1;
                break;
            }
        }
        match &mut self.kept {
            Kept::All(keys) => {
                keys.remove(item);
            }
            Kept::Nearest(nearest) => nearest.remove(item as u32),
            Kept::Elsewhere => {}
        }
    }

    /// Whether the first ranks are there.
    pub(super) fn is_enough(&self) -> bool {
        match &self.kept {
            Kept::All(_) | Kept::Elsewhere => true,
            Kept::Nearest(nearest) => nearest.is_enough(),
        }
    }

    /// What was found; the ranking is cut at each of `cuts`, which ascend.
    pub(super) fn finish(self, cuts: &[usize]) -> Ranking {
        let (keys, levels) = match &self.kept {
            Kept::All(keys) => (&keys[..], self.levels),
            Kept::Nearest(nearest) => (nearest.keys(), nearest.counts().len()),
            Kept::Elsewhere => (&[][..], self.levels),
        };
        let (groups, grades) = if self.counts.is_empty() { (groups(keys, levels), vec![]) } else { self.groups() };
        let stable = stable(keys, &groups[..levels], cuts);
        Ranking { groups, grades, stable, relevant: self.relevant }
    }

    /// What was found, with what was read elsewhere.
    pub(super) fn finish_with(self, stable: Stable) -> Ranking {
        let (groups, grades) = self.groups();
        Ranking { groups, grades, stable, relevant: self.relevant }
    }

    /// Whether items were kept elsewhere.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.kept, Kept::Elsewhere)
    }

    /// All items by distance, and by distance and shared classes from 1.
    pub(super) fn groups(&self) -> (Vec<Group>, Vec<Vec<u32>>) {
        let grades = self.grades();
        let total = |grades: &Vec<u32>| Group { items: grades.iter().sum(), relevant: grades[1..].iter().sum() };
        (grades.iter().map(total).collect(), grades.into_iter().map(|grades| grades[1..].to_vec()).collect())
    }

    /// By distance and shared classes, from 0.
    fn grades(&self) -> Vec<Vec<u32>> {
        let table = self.counts.len() / TABLES;
        let rows = table / stride(self.levels);
        let at = |shared: usize, distance: usize| {
            let at = shared * stride(self.levels) + distance;
            (0..TABLES).map(|t| self.counts[t * table + at]).sum::<u32>()
        };
        let grades = |distance| (0..rows).map(|shared| at(shared, distance)).collect();
        (0..self.levels).map(grades).collect()
    }
}

/// A block of items that a query looks at.
struct Take<'t, 'a, D> {
    ranked: &'t mut Ranked<'a>,
    kind: Kind,
    here: Range<usize>,
    distances: &'t [D],
}

impl<D: Distance> Work for Take<'_, '_, D> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { ranked, kind, here, distances } = self;
        let words = here.start / 64..here.end.div_ceil(64);
        ranked.any.resize(words.len(), 0);
        if ranked.counts.is_empty() {
            ranked.labels.mark_shared(&ranked.classes, words, &mut ranked.any);
        } else {
            ranked.planes.iter_mut().for_each(|plane| plane.resize(words.len(), 0));
            ranked.labels.count_shared(&ranked.classes, words, &mut ranked.planes);
            ranked.any.copy_from_slice(&ranked.planes[0]);
            for plane in &ranked.planes[1..] {
                ranked.any.iter_mut().zip(plane).for_each(|(any, plane)| *any |= plane);
            }
            count(distances, &ranked.planes, shift(ranked.levels), &mut ranked.counts);
        }
        ranked.relevant += total(kind, &ranked.any, 0) as usize;
        match &mut ranked.kept {
            Kept::All(keys) => keep(distances, &ranked.any, keys),
            Kept::Elsewhere => {}
            Kept::Nearest(nearest) => {
                nearest.take(kind, here.start, distances, None::<fn(usize) -> bool>, &ranked.any);
            }
        }
    }
}

/// Binary digits of a distance's place in a row of a table of counts.
fn shift(levels: usize) -> u32 {
    levels.next_power_of_two().trailing_zeros()
}

/// Distances between rows of a table of counts.
fn stride(levels: usize) -> usize {
    1 << shift(levels)
}

/// Counts items by shared classes and distance.
#[inline(always)]
fn count<D: Distance>(distances: &[D], planes: &[Vec<u64>], shift: u32, counts: &mut [u32]) {
    let (even, odd) = counts.split_at_mut(counts.len() / TABLES);
    for (w, distances) in distances.chunks(64).enumerate() {
        // Shared classes of 64 items, a byte each.
        let mut shared = [0u8; 64];
        for (p, plane) in planes.iter().enumerate() {
            for (shared, byte) in shared.chunks_exact_mut(8).zip(plane[w].to_le_bytes()) {
                let old = u64::from_le_bytes([
                    shared[0], shared[1], shared[2], shared[3], shared[4], shared[5], shared[6], shared[7],
                ]);
                shared.copy_from_slice(&(old | SPREAD[usize::from(byte)] << p).to_le_bytes());
            }
        }
        if let Ok(distances) = <&[D; 64]>::try_from(distances) {
            let mut at = [0u32; 64];
            for i in 0..64 {
                at[i] = u32::from(shared[i]) << shift | distances[i].to_usize() as u32;
            }
            for pair in at.chunks_exact(2) {
                even[pair[0] as usize] += 1;
                odd[pair[1] as usize] += 1;
            }
        } else {
            for (shared, distance) in shared.iter().zip(distances) {
                even[usize::from(*shared) << shift | distance.to_usize()] += 1;
            }
        }
    }
}

/// Appends the keys of all items.
#[inline(always)]
fn keep<D: Distance>(distances: &[D], any: &[u64], keys: &mut Vec<u16>) {
    for (distances, &any) in distances.chunks(64).zip(any) {
        let mut block = [0u16; 64];
        for ((block, distances), byte) in block.chunks_exact_mut(8).zip(distances.chunks(8)).zip(any.to_le_bytes()) {
            let bits = SPREAD[usize::from(byte)].to_le_bytes();
            for ((key, distance), bit) in block.iter_mut().zip(distances).zip(bits) {
                *key = (distance.to_usize() << 1) as u16 | u16::from(bit);
            }
        }
        keys.extend_from_slice(&block[..distances.len()]);
    }
}

/// Items by distance, below `levels`.
fn groups(keys: &[u16], levels: usize) -> Vec<Group> {
    let mut counts = vec![0u32; 2 * levels];
    for &key in keys {
        if let Some(count) = counts.get_mut(usize::from(key)) {
            *count += 1;
        }
    }
    counts.chunks_exact(2).map(|pair| Group { items: pair[0] + pair[1], relevant: pair[1] }).collect()
}

/// Reads a ranking in the order of the database: an item's rank is known from how many are nearer and how many at its
/// distance came before it, and so is the number of relevant items up to it. Nothing has to be put in order.
///
/// `groups` are the items at each distance that counts; `keys` may hold farther ones.
fn stable(keys: &[u16], groups: &[Group], cuts: &[usize]) -> Stable {
    Kind::of_process().compiled(Read { keys, groups, cuts })
}

/// What `stable` reads.
struct Read<'r> {
    keys: &'r [u16],
    groups: &'r [Group],
    cuts: &'r [usize],
}

impl Work for Read<'_> {
    type Output = Stable;

    #[inline(always)]
    fn run(self) -> Stable {
        read(self.keys, self.groups, self.cuts)
    }
}

#[inline(always)]
fn read(keys: &[u16], groups: &[Group], cuts: &[usize]) -> Stable {
    let last = cuts.last().copied().unwrap_or(0);
    let mut next = before_each(groups, last);
    let mut found = vec![([0u32; LANES], [0.0f64; LANES]); cuts.len()];
    let mut first = u32::MAX;
    let mut before_hit = [0u64; STRIP + LANES];
    for strip in keys.chunks(STRIP) {
        let mut count = 0;
        for &key in strip {
            let Some(next) = next.get_mut(usize::from(key >> 1)) else { continue };
            let relevant = u64::from(key & 1);
            // Written for every item; what is not relevant is written over.
            before_hit[count] = *next;
            *next += 1 | relevant << 32;
            count += relevant as usize;
        }
        // Ranks beyond every cut fill up the last lanes.
        before_hit[count..count + LANES].fill(u64::from(u32::MAX - 1));
        for before in before_hit[..count.next_multiple_of(LANES)].chunks_exact(LANES) {
            let (mut ranks, mut precisions) = ([0u32; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                ranks[lane] = before[lane] as u32 + 1;
                first = first.min(ranks[lane]);
                precisions[lane] = f64::from((before[lane] >> 32) as u32 + 1) / f64::from(ranks[lane]);
            }
            for (&cut, (counts, sums)) in cuts.iter().zip(&mut found) {
                for lane in 0..LANES {
                    let inside = ranks[lane] as usize <= cut;
                    counts[lane] += u32::from(inside);
                    sums[lane] += if inside { precisions[lane] } else { 0.0 };
                }
            }
        }
    }
    Stable::of(found.iter().map(|(counts, sums)| (&counts[..], &sums[..])), first, last)
}

/// For each distance, items and relevant items (by 32 bits higher) that come before the next one there: two numbers in
/// one. Distances that are beyond the last cut are left out.
#[inline(always)]
pub(super) fn before_each(groups: &[Group], last: usize) -> Vec<u64> {
    let mut next: Vec<u64> = Vec::with_capacity(groups.len());
    let mut before = 0;
    for group in groups {
        next.push(before);
        before += u64::from(group.items) | u64::from(group.relevant) << 32;
        if (before & 0xffff_ffff) as usize >= last {
            break; // What is farther is beyond the last cut.
        }
    }
    next
}

/// The bits of each byte, a byte each.
const SPREAD: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte] |= ((byte as u64 >> bit) & 1) << (8 * bit);
            bit += 1;
        }
        byte += 1;
    }
    table
};
