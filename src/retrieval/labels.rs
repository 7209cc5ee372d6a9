//! Which items carry which classes, and who is relevant to whom.

use super::{MAX_CODES, Refusal};

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

    /// Writes the set of items that have at least one of `classes`: bit `i % 64` of word `i / 64` is item `i`.
    pub(super) fn items_with_any(&self, classes: impl Iterator<Item = u32>, out: &mut Vec<u64>) {
        out.clear();
        out.resize(self.items.div_ceil(64), 0);
        for class in classes {
            for (out, items) in out.iter_mut().zip(self.row(class as usize)) {
                *out |= items;
            }
        }
    }

    fn row(&self, class: usize) -> &[u64] {
        let row = self.items.div_ceil(64);
        &self.words[class * row..(class + 1) * row]
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
            let mut relevant = vec![];
            labels.items_with_any(query.iter().copied(), &mut relevant);
            prop_assert_eq!((labels.len(), relevant.len()), (items.len(), items.len().div_ceil(64)));
            for (i, item) in items.iter().enumerate() {
                prop_assert_eq!(&labels.classes_of(i).collect::<Vec<_>>(), item);
                prop_assert_eq!(relevant[i / 64] >> (i % 64) & 1 == 1, item.iter().any(|class| query.contains(class)));
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
