//! Order by counting: distances are small integers, so how many items each has says where they stand.

/// Returns the smallest distance within which there are at least `k` items, or the largest if there are fewer.
///
/// `counts` are the items at each distance, from 0 up; there is at least one.
pub(super) fn reach(counts: impl ExactSizeIterator<Item = u32>, k: usize) -> usize {
    let last = counts.len() - 1;
    let mut within = 0;
    let mut enough = |count| {
        within += count as usize;
        within >= k
    };
    counts.take(last).position(&mut enough).unwrap_or(last)
}

/// Returns where the items of each distance start when the nearest stand first, and how many there are in all.
pub(super) fn starts(counts: impl Iterator<Item = u32>) -> (Vec<usize>, usize) {
    let mut end = 0;
    let starts = counts.map(|count| {
        let start = end;
        end += count as usize;
        start
    });
    (starts.collect(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_is_the_first_distance_with_enough() {
        let reach = |k| reach([0, 2, 0, 3].into_iter(), k);
        assert_eq!([0, 1, 2, 3, 5, 6].map(reach), [0, 1, 1, 3, 3, 3]);
    }

    #[test]
    fn each_distance_starts_where_the_nearer_ones_end() {
        assert_eq!(starts([0, 2, 0, 3].into_iter()), (vec![0, 0, 2, 2], 5));
    }
}
