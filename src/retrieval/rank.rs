//! The relevance of every rank, by counting distances.
//!
//! A ranking needs no order of indices, only to know at which ranks the relevant items stand. One walk over the
//! database joins each distance with one bit of relevance and counts; a second puts the bits of the near items in rank
//! order. Items at one distance keep the order of the database, as in a stable sort.

use super::counting::{reach, starts};
use super::{Codes, Labels, distances};

/// Neighbouring items are counted in different tables: most distances are alike, and a processor must wait for one
/// addition to a count before it can start the next.
const TABLES: usize = 4;

/// The items at one distance from a query, as far as order is not known among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Group {
    pub items: u32,
    /// Those of `items` that share a class with the query.
    pub relevant: u32,
}

/// A database as one query ranks it, cut after some rank.
pub(super) struct Ranking<'a> {
    /// By distance, from 0 to the number of bits; the whole database.
    pub groups: &'a [Group],
    /// Whether the item at each rank, nearest first, is relevant.
    pub relevant_at: &'a [bool],
}

/// Ranks one database by one query after another; keeps its buffers between them.
pub(super) struct Ranker<'a> {
    database: &'a Codes,
    labels: &'a Labels,
    /// One bit per item.
    relevant: Vec<u64>,
    /// Distance and relevance of each item: `2 * distance + relevant`.
    keys: Vec<u16>,
    groups: Vec<Group>,
    relevant_at: Vec<bool>,
}

impl<'a> Ranker<'a> {
    /// `labels` are those of `database`, item by item.
    pub(super) fn new(database: &'a Codes, labels: &'a Labels) -> Self {
        let (relevant, groups, relevant_at) = (vec![], vec![], vec![]);
        Self { database, labels, relevant, keys: vec![0; database.len()], groups, relevant_at }
    }

    /// Ranks the database by distance to `query`, of the same length; keeps the first `top_k` ranks, at most all.
    pub(super) fn rank(&mut self, query: &[u64], classes: impl Iterator<Item = u32>, top_k: usize) -> Ranking<'_> {
        distances(self.database, query, &mut self.keys);
        self.labels.items_with_any(classes, &mut self.relevant);
        self.count();
        self.order(top_k.min(self.keys.len()));
        Ranking { groups: &self.groups, relevant_at: &self.relevant_at }
    }

    /// Makes keys of distances, and counts them.
    fn count(&mut self) {
        let mut counts = vec![[0; TABLES]; 2 * (self.database.bits() + 1)];
        for (keys, &relevant) in self.keys.chunks_mut(64).zip(&self.relevant) {
            for (i, key) in keys.iter_mut().enumerate() {
                *key = *key << 1 | (relevant >> i & 1) as u16;
                counts[usize::from(*key)][i % TABLES] += 1;
            }
        }
        let total = |tables: [u32; TABLES]| tables.iter().sum();
        let group = |irrelevant: u32, relevant| Group { items: irrelevant + relevant, relevant };
        self.groups.clear();
        self.groups.extend(counts.chunks_exact(2).map(|pair| group(total(pair[0]), total(pair[1]))));
    }

    /// Puts the relevance of the items that the first `top_k` ranks reach in rank order.
    fn order(&mut self, top_k: usize) {
        let near = &self.groups[..=reach(self.groups.iter().map(|group| group.items), top_k)];
        let (mut next, total) = starts(near.iter().map(|group| group.items));
        self.relevant_at.clear();
        self.relevant_at.resize(total, false);
        for &key in &self.keys {
            if let Some(rank) = next.get_mut(usize::from(key >> 1)) {
                self.relevant_at[*rank] = key & 1 == 1;
                *rank += 1;
            }
        }
        self.relevant_at.truncate(top_k);
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn relevance_follows_a_stable_sort(
            seed in any::<u64>(), bits in 1usize..140, varied in 1usize..7, top_k in 0usize..200,
            items in prop::collection::vec(0u32..3, 0..180), class in 0u32..3,
        ) {
            let database = random_codes(seed, items.len(), bits, varied);
            let labels = Labels::from_indices(3, items.chunks(1)).unwrap();
            let query = random_codes(!seed, 1, bits, varied);
            let mut ranker = Ranker::new(&database, &labels);
            ranker.rank(query.code(0), 0..3, items.len()); // Leaves full buffers behind, which must not show.
            let ranking = ranker.rank(query.code(0), std::iter::once(class), top_k);

            let mut distances = vec![0; items.len()];
            super::distances(&database, query.code(0), &mut distances);
            let mut order: Vec<usize> = (0..items.len()).collect();
            order.sort_by_key(|&i| distances[i]);
            let relevant: Vec<bool> = order.iter().take(top_k).map(|&i| items[i] == class).collect();
            prop_assert_eq!(ranking.relevant_at, relevant);
            for (distance, group) in ranking.groups.iter().enumerate() {
                let here = || (0..items.len()).filter(|&i| usize::from(distances[i]) == distance);
                prop_assert_eq!(group.items as usize, here().count());
                prop_assert_eq!(group.relevant as usize, here().filter(|&i| items[i] == class).count());
            }
        }
    }
}
