//! Which items carry which classes, and who is relevant to whom.

use super::{MAX_CODES, Refusal};
use std::ops::Range;

/// The classes of many items, each of which may have none, one, or many.
///
/// Packed by class: for each class one bit per item, because a query has few classes. Its relevant items are then the
/// union of a few rows, 64 items at a time, instead of a comparison of label sets with every item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    classes: usize,
    items: usize,
    /// `[classes, ceil(items / 64)]`; item `i` is bit `i % 64` of word `i / 64` of a row. Bits beyond the last are 0.
    words: Vec<u64>,
}

impl Labels {
    /// Labels from the class numbers of each item, which must be below `classes`.
    pub fn from_indices<'a>(classes: usize, items: impl IntoIterator<Item = &'a [u32]>) -> Result<Self, Refusal> {
        let items: Vec<&[u32]> = items.into_iter().collect();
        if items.len() > MAX_CODES {
            return Err(Refusal::TooManyCodes);
        }
        let row = items.len().div_ceil(64);
        let mut words = vec![0; classes * row];
        for (item, labels) in items.iter().enumerate() {
            for &class in *labels {
                if class as usize >= classes {
                    return Err(Refusal::Class { item, class, classes });
                }
                words[class as usize * row + item / 64] |= 1 << (item % 64);
            }
        }
        Ok(Self { classes, items: items.len(), words })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// How many classes the labels speak of.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The classes of item `i`, ascending.
    pub fn classes_of(&self, i: usize) -> impl Iterator<Item = u32> {
        debug_assert!(i < self.items, "item {i} of {}", self.items);
        (0..self.classes).filter(move |&class| self.row(class)[i / 64] >> (i % 64) & 1 == 1).map(|class| class as u32)
    }

    /// Counts, for the 64 items of each of `words` (ranges of item / 64), how many of `classes` they have.
    ///
    /// Binary numbers lie across `planes`: bit `i` of `planes[p][w]` is bit `p` of the count of item `i` of word `w`.
    /// There are enough planes for the number of classes ([`planes_for`]), each as long as `words`.
    #[inline(always)]
    pub(super) fn count_shared(&self, classes: &[u32], words: Range<usize>, planes: &mut [Vec<u64>]) {
        planes.iter_mut().for_each(|plane| plane.fill(0));
        let mut carry = vec![0; words.len()];
        for (number, &class) in (1..).zip(classes) {
            carry.copy_from_slice(&self.row(class as usize)[words.clone()]);
            // So many classes do not reach higher planes.
            for plane in &mut planes[..planes_for(number)] {
                for (plane, carry) in plane.iter_mut().zip(&mut carry) {
                    (*plane, *carry) = (*plane ^ *carry, *plane & *carry);
                }
            }
        }
    }

    /// The same, but only whether an item has any of the classes: bit `i` of `any[w]` for item `i` of word `w`.
    #[inline(always)]
    pub(super) fn mark_shared(&self, classes: &[u32], words: Range<usize>, any: &mut [u64]) {
        any.fill(0);
        for &class in classes {
            let row = &self.row(class as usize)[words.clone()];
            any.iter_mut().zip(row).for_each(|(any, row)| *any |= row);
        }
    }

    /// How many items have each class.
    pub fn items_per_class(&self) -> Vec<u32> {
        (0..self.classes).map(|class| self.row(class).iter().map(|word| word.count_ones()).sum()).collect()
    }

    /// Which items have a class: a bit for each.
    pub(super) fn row(&self, class: usize) -> &[u64] {
        let row = self.items.div_ceil(64);
        &self.words[class * row..(class + 1) * row]
    }
}

/// Binary digits of a count up to `most`; at least one.
pub(super) fn planes_for(most: usize) -> usize {
    (usize::BITS - most.leading_zeros()).max(1) as usize
}

/// Which items of a database a query should find: those that share at least one class with it.
///
/// The classes shared are counted too, as the grade of relevance that NDCG asks for.
#[derive(Debug, Clone, Copy)]
pub struct Relevance<'a> {
    pub(super) queries: &'a Labels,
    pub(super) database: &'a Labels,
}

impl<'a> Relevance<'a> {
    /// Relevance by a shared class; both sides must number the same classes.
    pub fn shared_class(queries: &'a Labels, database: &'a Labels) -> Result<Self, Refusal> {
        if queries.classes() != database.classes() {
            return Err(Refusal::DifferentClasses { queries: queries.classes(), database: database.classes() });
        }
        Ok(Self { queries, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn classes_survive_and_relevance_is_a_shared_class(
            items in prop::collection::vec(prop::collection::btree_set(0u32..70, 0..4), 0..200),
            query in prop::collection::btree_set(0u32..70, 0..4),
        ) {
            let items: Vec<Vec<u32>> = items.into_iter().map(|set| set.into_iter().collect()).collect();
            let labels = Labels::from_indices(70, items.iter().map(Vec::as_slice)).unwrap();
            let words = items.len().div_ceil(64);
            let part = words / 2..words;
            let mut planes = vec![vec![u64::MAX; part.len()]; planes_for(query.len())];
            labels.count_shared(&query.iter().copied().collect::<Vec<_>>(), part.clone(), &mut planes);
            let mut any = vec![u64::MAX; part.len()];
            labels.mark_shared(&query.iter().copied().collect::<Vec<_>>(), part.clone(), &mut any);
            for (w, any) in any.into_iter().enumerate() {
                prop_assert_eq!(any, planes.iter().fold(0, |any, plane| any | plane[w]));
            }
            prop_assert_eq!(labels.len(), items.len());
            for (i, item) in items.iter().enumerate() {
                prop_assert_eq!(&labels.classes_of(i).collect::<Vec<_>>(), item);
                if let Some(w) = (i / 64).checked_sub(part.start) {
                    let shared = planes.iter().rev().fold(0, |count, plane| count << 1 | (plane[w] >> (i % 64) & 1));
                    prop_assert_eq!(shared as usize, item.iter().filter(|class| query.contains(class)).count());
                }
            }
        }
    }

    #[test]
    fn a_class_beyond_the_last_is_refused() {
        let items: [&[u32]; 2] = [&[0], &[1, 3]];
        assert_eq!(Labels::from_indices(3, items), Err(Refusal::Class { item: 1, class: 3, classes: 3 }));
    }

    #[test]
    fn items_may_have_no_class() {
        let labels = Labels::from_indices(0, [&[][..], &[]]).unwrap();
        assert_eq!((labels.len(), labels.classes_of(1).count()), (2, 0));
    }
}
