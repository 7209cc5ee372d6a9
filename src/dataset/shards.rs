//! A list cut into parts whose borders depend on the images around them only.
//!
//! A part ends after an image whose digest says so, one in [`EXPECTED`]. An image more or less therefore moves no border
//! but its own: the parts before and after it stay, and with them whatever was computed for each. Parts of less than
//! [`LEAST`] images would be many for little; without [`MOST`], a long one could come about that is never reused whole.

use super::List;
use std::ops::Range;

/// How many images it takes on average until one ends a part; a power of two.
const EXPECTED: u64 = 1024;
/// Images that a part has at least, unless the list ends.
const LEAST: usize = 64;
/// Images that a part has at most.
const MOST: usize = 4096;

impl List {
    /// Positions of the list's parts, in its order; together they are all of it.
    pub fn shards(&self) -> Vec<Range<usize>> {
        let (mut shards, mut start) = (vec![], 0);
        for (end, item) in (1..).zip(&self.items) {
            let count = end - start;
            if count == MOST || end == self.len() || (count >= LEAST && ends_a_shard(&item.digest)) {
                shards.push(start..end);
                start = end;
            }
        }
        shards
    }
}

fn ends_a_shard(digest: &str) -> bool {
    // Hashed once more, so that whatever regularity digests may have does not matter.
    let hash = blake3::hash(digest.as_bytes());
    let low = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    low.is_multiple_of(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Item;
    use crate::seeded::stream;
    use std::collections::HashSet;

    fn item(number: u64) -> Item {
        Item { path: format!("{number}"), labels: vec![], digest: blake3::hash(&number.to_le_bytes()).to_string() }
    }

    fn list(items: Vec<Item>) -> List {
        List { classes: vec![], items }
    }

    /// The parts as the digests that are in them.
    fn parts(list: &List) -> Vec<Vec<&str>> {
        let digests = |range: Range<usize>| list.items[range].iter().map(|item| item.digest.as_str()).collect();
        list.shards().into_iter().map(digests).collect()
    }

    #[test]
    fn the_parts_are_the_list_and_neither_tiny_nor_huge() {
        for count in [0, 1, 63, 64, 65, 4097, 100_000] {
            let list = list((0..count).map(item).collect());
            let shards = list.shards();
            assert_eq!(shards.iter().cloned().flatten().collect::<Vec<_>>(), (0..list.len()).collect::<Vec<_>>());
            assert!(shards.iter().all(|shard| shard.len() <= MOST));
            assert!(shards.iter().rev().skip(1).all(|shard| shard.len() >= LEAST));
            if count == 100_000 {
                assert!((60..160).contains(&shards.len()), "{} parts", shards.len());
            }
        }
        let same = list(vec![item(7); 10_000]);
        assert!(same.shards().iter().all(|shard| shard.len() <= MOST));
    }

    #[test]
    fn an_image_more_or_less_makes_one_or_two_parts_anew() {
        let items: Vec<Item> = (0..60_000).map(item).collect();
        let before = list(items.clone());
        let known: HashSet<Vec<&str>> = parts(&before).into_iter().collect();
        let mut draw = stream(1, "edits", &[]);
        let mut made_anew = vec![];
        for edit in 0..60 {
            let (mut items, place) = (items.clone(), draw.below(60_000));
            match edit % 3 {
                0 => drop(items.remove(place)),
                1 => items.insert(place, item(1_000_000 + edit)),
                _ => items[place] = item(1_000_000 + edit),
            }
            let after = list(items);
            made_anew.push(parts(&after).into_iter().filter(|part| !known.contains(part)).count());
        }
        // A border that is lost, or a part cut off for its length, may take a neighbour with it.
        assert!(made_anew.iter().all(|count| (1..=4).contains(count)), "{made_anew:?}");
        let usual = made_anew.iter().filter(|count| **count <= 2).count();
        assert!(usual >= 55, "{made_anew:?}");
    }

    #[test]
    fn images_at_the_end_leave_all_but_the_last_part() {
        let short = list((0..20_000).map(item).collect());
        let long = list((0..21_000).map(item).collect());
        let (short, long) = (parts(&short), parts(&long));
        assert_eq!(short[..short.len() - 1], long[..short.len() - 1]);
    }
}
