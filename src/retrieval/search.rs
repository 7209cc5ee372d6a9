//! Exact search: the nearest items of a database, by counting distances.

use super::counting::{reach, starts};
use super::{Codes, Refusal, distances};

/// An item of the database, as seen from a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Neighbour {
    /// Position in the database.
    pub index: u32,
    /// Bits that differ.
    pub distance: u32,
}

/// Returns the `k` nearest items, nearest first, ties in database order; all items if there are fewer than `k`.
pub fn top_k(database: &Codes, query: &[u64], k: usize) -> Result<Vec<Neighbour>, Refusal> {
    let distances = distances_to(database, query)?;
    let counts = count(&distances, database.bits());
    let mut nearest = nearest_first(&distances, &counts[..=reach(counts.iter().copied(), k)]);
    nearest.truncate(k);
    Ok(nearest)
}

/// Returns all items that differ in at most `radius` bits, nearest first, ties in database order.
pub fn within(database: &Codes, query: &[u64], radius: usize) -> Result<Vec<Neighbour>, Refusal> {
    let distances = distances_to(database, query)?;
    let counts = count(&distances, database.bits());
    Ok(nearest_first(&distances, &counts[..=radius.min(database.bits())]))
}

fn distances_to(database: &Codes, query: &[u64]) -> Result<Vec<u16>, Refusal> {
    if query.len() != database.words_per_code() {
        return Err(Refusal::QueryWords { expected: database.words_per_code(), found: query.len() });
    }
    let mut out = vec![0; database.len()];
    distances(database, query, &mut out);
    Ok(out)
}

/// How many items are at each distance from 0 to `bits`.
fn count(distances: &[u16], bits: usize) -> Vec<u32> {
    let mut counts = vec![0; bits + 1];
    for &distance in distances {
        counts[usize::from(distance)] += 1;
    }
    counts
}

/// The items at the distances that `counts` covers: those of each distance, in database order, after the nearer ones.
fn nearest_first(distances: &[u16], counts: &[u32]) -> Vec<Neighbour> {
    let (mut next, total) = starts(counts.iter().copied());
    let mut nearest = vec![Neighbour { index: 0, distance: 0 }; total];
    for (index, &distance) in (0..).zip(distances) {
        if let Some(place) = next.get_mut(usize::from(distance)) {
            nearest[*place] = Neighbour { index, distance: u32::from(distance) };
            *place += 1;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use proptest::prelude::*;

    /// The whole database by a stable sort, as the reference's `argsort(kind="stable")`.
    fn sorted(database: &Codes, query: &[u64]) -> Vec<Neighbour> {
        let distance = |i| database.code(i).iter().zip(query).map(|(a, b)| (a ^ b).count_ones()).sum();
        let mut all: Vec<_> =
            (0..database.len()).map(|i| Neighbour { index: i as u32, distance: distance(i) }).collect();
        all.sort_by_key(|neighbour| neighbour.distance);
        all
    }

    proptest! {
        #[test]
        fn search_equals_a_stable_sort(
            seed in any::<u64>(), bits in 1usize..150, varied in 1usize..8, count in 0usize..60, cut in 0usize..70,
        ) {
            let database = random_codes(seed, count, bits, varied);
            let queries = random_codes(!seed, 1, bits, varied);
            let query = queries.code(0);
            let mut expected = sorted(&database, query);
            let near: Vec<_> = expected.iter().copied().filter(|n| n.distance as usize <= cut).collect();
            prop_assert_eq!(within(&database, query, cut).unwrap(), near);
            expected.truncate(cut);
            prop_assert_eq!(top_k(&database, query, cut).unwrap(), expected);
        }
    }

    #[test]
    fn equal_codes_come_in_database_order() {
        let database = random_codes(1, 5, 8, 0);
        let indices: Vec<_> = top_k(&database, &[0], 3).unwrap().iter().map(|n| n.index).collect();
        assert_eq!(indices, [0, 1, 2]);
        assert_eq!(within(&database, &[0b11], 1).unwrap(), []);
        assert_eq!(within(&database, &[0b11], usize::MAX).unwrap().len(), 5);
    }

    #[test]
    fn a_query_of_another_length_is_refused() {
        let refusal = Err(Refusal::QueryWords { expected: 1, found: 2 });
        assert_eq!(top_k(&random_codes(1, 5, 8, 8), &[0, 0], 3), refusal);
    }
}
