//! Which ready task comes first: what the user said, then the length of what hangs on it.

use crate::plan::TaskId;
use std::cmp::{Ordering, Reverse};

/// Seconds from the start of each task to the end of the last that follows from it: its own and those of the longest
/// path behind it. Tasks that begin such a path late make the whole run late.
///
/// `needed_by` gives the tasks that read outputs of one; as in a plan, they have larger numbers than it. `seconds` are
/// predicted, or equal for all where nothing is known: then the longest chain of tasks counts.
pub(super) fn remaining<I: IntoIterator<Item = TaskId>>(needed_by: impl Fn(TaskId) -> I, seconds: &[f64]) -> Vec<f64> {
    let mut remaining = seconds.to_vec();
    for id in (0..seconds.len()).rev() {
        let behind = needed_by(TaskId(id)).into_iter().map(|next| {
            debug_assert!(next.0 > id, "a plan's tasks come after what they need");
            remaining[next.0]
        });
        remaining[id] += behind.fold(0.0, f64::max);
    }
    remaining
}

/// A task's place in the line; smaller ranks come first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rank {
    /// From `[resources]`: larger ones come first.
    pub priority: i64,
    /// Seconds, from [`remaining`].
    pub remaining: f64,
    pub id: TaskId,
}

impl Eq for Rank {}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let priority = Reverse(self.priority).cmp(&Reverse(other.priority));
        priority.then(other.remaining.total_cmp(&self.remaining)).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_path_counts() {
        // 0 -> 1 -> 3, 0 -> 2 -> 3
        let needed_by = [vec![1, 2], vec![3], vec![3], vec![]];
        let next = |id: TaskId| needed_by[id.0].iter().copied().map(TaskId);
        assert_eq!(remaining(next, &[1.0, 10.0, 2.0, 3.0]), [14.0, 13.0, 5.0, 3.0]);
    }

    #[test]
    fn ranks_are_by_priority_then_by_path_then_by_number() {
        let rank = |priority, remaining, id| Rank { priority, remaining, id: TaskId(id) };
        let sorted = [rank(1, 0.0, 9), rank(0, 5.0, 8), rank(0, 2.0, 1), rank(0, 2.0, 2), rank(-1, 9.0, 0)];
        let mut shuffled = sorted;
        shuffled.reverse();
        shuffled.sort_unstable();
        assert_eq!(shuffled, sorted);
    }

    #[test]
    fn no_path_is_walked_twice() {
        // Each task of a row leads to every one of the next: more paths than could ever be walked.
        let width = 300;
        let next = |id: TaskId| {
            let next_row = (id.0 / width + 1) * width;
            (next_row..(next_row + width).min(width * width)).map(TaskId)
        };
        let remaining = remaining(next, &vec![1.0; width * width]);
        assert_eq!(remaining[0], width as f64);
    }

    proptest! {
        #[test]
        fn a_task_is_as_far_from_the_end_as_the_farthest_behind_it(
            edges in prop::collection::vec((0usize..30, 0usize..30), 0..90),
            seconds in prop::collection::vec(0.0f64..10.0, 30)
        ) {
            let next = |id: TaskId| {
                let behind = edges.iter().filter(move |(from, to)| *from == id.0 && to > from);
                behind.map(|(_, to)| TaskId(*to)).collect::<Vec<_>>()
            };
            let found = remaining(next, &seconds);
            for (id, own) in seconds.iter().enumerate() {
                let behind = next(TaskId(id)).iter().map(|next| found[next.0]).fold(0.0, f64::max);
                prop_assert_eq!(found[id], own + behind);
            }
        }
    }
}
