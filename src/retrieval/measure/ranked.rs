//! How one query ranks a database: what is found at each distance, and the relevance of its first ranks.

use super::ties::Group;
use crate::retrieval::Labels;
use crate::retrieval::labels::planes_for;
use crate::retrieval::nearest::Nearest;
use crate::retrieval::popcount::{Distance, Kind};
use std::ops::Range;

/// Neighbouring items are counted in different tables: most distances are alike, and a processor must wait for one
/// addition to a count before it can start the next.
const TABLES: usize = 2;

/// A query while the database passes by.
pub(super) struct Ranked<'a> {
    labels: &'a Labels,
    classes: Vec<u32>,
    levels: usize,
    /// Shared classes of the block's items, as binary numbers across planes.
    planes: Vec<Vec<u64>>,
    /// Items by shared classes and distance, in `TABLES` tables of `[classes + 1, levels]`; empty if nobody asks.
    counts: Vec<u32>,
    nearest: Nearest,
    relevant: usize,
}

/// All of a query's ranking that its numbers are made of.
pub(super) struct Ranking {
    /// By distance: the whole database, or up to the last rank that counts.
    pub groups: Vec<Group>,
    /// By distance and shared classes, from 1; empty if nobody asks.
    pub grades: Vec<Vec<u32>>,
    /// Whether the item at each of the first ranks is relevant; ties in database order.
    pub relevant_at: Vec<bool>,
    /// Relevant items in the whole database.
    pub relevant: usize,
}

impl<'a> Ranked<'a> {
    /// A query with these classes; `all` asks for counts of the whole database.
    pub(super) fn new(labels: &'a Labels, classes: Vec<u32>, levels: usize, nearest: Nearest, all: bool) -> Self {
        let planes = vec![vec![]; planes_for(classes.len())];
        let counts = if all { vec![0; TABLES * (classes.len() + 1) * levels] } else { vec![] };
        Self { labels, classes, levels, planes, counts, nearest, relevant: 0 }
    }

    /// Looks at the items of a block, which starts at a multiple of 64.
    pub(super) fn take<D: Distance>(&mut self, kind: Kind, here: Range<usize>, distances: &[D]) {
        let words = here.start / 64..here.end.div_ceil(64);
        for plane in &mut self.planes {
            plane.resize(words.len(), 0);
        }
        self.labels.count_shared(&self.classes, words, &mut self.planes);
        let any = |w: usize| self.planes.iter().fold(0, |any, plane| any | plane[w]);
        self.relevant += (0..self.planes[0].len()).map(|w| any(w).count_ones() as usize).sum::<usize>();
        if !self.counts.is_empty() {
            count(distances, &self.planes, self.levels, &mut self.counts);
        }
        let is_relevant = |place: usize| any(place / 64) >> (place % 64) & 1 == 1;
        self.nearest.take(kind, here.start, distances, None::<fn(usize) -> bool>, is_relevant);
    }

    /// Takes an item out again that should not have been looked at.
    pub(super) fn remove(&mut self, item: usize, distance: usize) {
        let shared = self.labels.classes_of(item).filter(|class| self.classes.contains(class)).count();
        self.relevant -= usize::from(shared > 0);
        let tables = self.counts.len() / TABLES;
        if let Some(count) = (0..TABLES)
            .map(|t| t * tables + shared * self.levels + distance)
            .find(|&at| self.counts.get(at).is_some_and(|&count| count > 0))
        {
            self.counts[count] -= 1;
        }
        self.nearest.remove(item as u32);
    }

    /// Whether the first ranks are there.
    pub(super) fn is_enough(&self) -> bool {
        self.nearest.is_enough()
    }

    /// What was found; `first` ranks are kept.
    pub(super) fn finish(self, first: usize) -> Ranking {
        let relevant_at = self.nearest.in_order(first, |_, _, relevant| relevant);
        if self.counts.is_empty() {
            let mut groups: Vec<Group> =
                self.nearest.counts().iter().map(|&items| Group { items, relevant: 0 }).collect();
            for key in self.nearest.keys().iter().filter(|&key| key & 1 == 1) {
                if let Some(group) = groups.get_mut(usize::from(key >> 1)) {
                    group.relevant += 1;
                }
            }
            return Ranking { groups, grades: vec![], relevant_at, relevant: self.relevant };
        }
        let table = self.counts.len() / TABLES;
        let at = |shared: usize, distance: usize| {
            (0..TABLES).map(|t| self.counts[t * table + shared * self.levels + distance]).sum::<u32>()
        };
        let grades: Vec<Vec<u32>> = (0..self.levels)
            .map(|distance| (1..=self.classes.len()).map(|shared| at(shared, distance)).collect())
            .collect();
        let group = |(distance, grades): (usize, &Vec<u32>)| {
            let relevant = grades.iter().sum();
            Group { items: at(0, distance) + relevant, relevant }
        };
        let groups = grades.iter().enumerate().map(group).collect();
        Ranking { groups, grades, relevant_at, relevant: self.relevant }
    }
}

/// Counts items by shared classes and distance.
fn count<D: Distance>(distances: &[D], planes: &[Vec<u64>], levels: usize, counts: &mut [u32]) {
    let table = counts.len() / TABLES;
    let (even, odd) = counts.split_at_mut(table);
    for (w, distances) in distances.chunks(64).enumerate() {
        for (byte, distances) in distances.chunks(8).enumerate() {
            // Eight counts of shared classes, a byte each.
            let mut shared = 0u64;
            for (p, plane) in planes.iter().enumerate() {
                shared |= SPREAD[(plane[w] >> (8 * byte) & 0xff) as usize] << p;
            }
            let mut pairs = distances.chunks_exact(2);
            for pair in &mut pairs {
                even[(shared & 0xff) as usize * levels + pair[0].to_usize()] += 1;
                odd[(shared >> 8 & 0xff) as usize * levels + pair[1].to_usize()] += 1;
                shared >>= 16;
            }
            for distance in pairs.remainder() {
                even[(shared & 0xff) as usize * levels + distance.to_usize()] += 1;
            }
        }
    }
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
