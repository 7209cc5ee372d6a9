//! How one node leads to another.

use super::view::{Towards, View};

/// Ways from some nodes to others.
pub(super) struct Ways {
    /// Positions from the first to the last, the shortest way first.
    pub(super) found: Vec<Vec<usize>>,
    /// How many there are in all, at most `u128::MAX`.
    pub(super) count: u128,
    /// Whether it is the other way round that one leads to the other.
    pub(super) backwards: bool,
}

/// So many ways are shown: nobody reads more, and a graph may have more than there are atoms.
const MOST: usize = 1000;
/// And ways of so many steps together.
const MOST_STEPS: usize = 1_000_000;

impl Ways {
    /// The shortest way, the first of equals in plan order, or all of them.
    pub(super) fn find(view: &View, from: &[usize], to: &[usize], all: bool) -> Self {
        let left = view.steps(to, Towards::Needs);
        let mut found = vec![];
        if all {
            for start in from.iter().filter(|start| left[**start].is_some()) {
                walk(view, *start, &left, &mut found);
            }
            found.sort_by_key(Vec::len);
        } else {
            found.extend(shortest(view, from, &left));
        }
        let backwards = found.is_empty() && {
            let back = view.steps(to, Towards::Users);
            from.iter().any(|at| back[*at].is_some())
        };
        Self { found, count: count(view, from, &left), backwards }
    }
}

/// Goes to the end by what is nearest to it in each step.
fn shortest(view: &View, from: &[usize], left: &[Option<usize>]) -> Option<Vec<usize>> {
    let mut at = *from.iter().filter(|at| left[**at].is_some()).min_by_key(|at| left[**at])?;
    let mut way = vec![at];
    while left[at]? > 0 {
        at = view
            .next(at, Towards::Users)
            .into_iter()
            .filter(|next| left[*next].is_some())
            .min_by_key(|next| left[*next])?;
        way.push(at);
    }
    Some(way)
}

/// Adds every way from `start` on, until there are enough. Each step leads to a node that has a way to the end, so that
/// none is in vain; a way may be longer than a stack is deep.
fn walk(view: &View, start: usize, left: &[Option<usize>], found: &mut Vec<Vec<usize>>) {
    let (mut way, mut open) = (vec![], vec![vec![start]]);
    let mut steps: usize = found.iter().map(Vec::len).sum();
    while let Some(choices) = open.last_mut().filter(|_| found.len() < MOST && steps < MOST_STEPS) {
        let Some(at) = choices.pop() else {
            open.pop();
            way.pop();
            continue;
        };
        way.push(at);
        if left[at] == Some(0) {
            steps += way.len();
            found.push(way.clone());
        }
        let onwards = view.next(at, Towards::Users).into_iter().rev();
        open.push(onwards.filter(|next| left[*next].is_some()).collect());
    }
}

/// How many ways there are.
fn count(view: &View, from: &[usize], left: &[Option<usize>]) -> u128 {
    // Nodes come after what they need, and files, which need nothing, last.
    let mut ways = vec![0u128; view.nodes.len()];
    let (stages, files): (Vec<usize>, Vec<usize>) = (0..ways.len()).partition(|at| view.nodes[*at].kind.is_some());
    for at in stages.into_iter().rev().chain(files) {
        let onwards = view.nodes[at].users.iter().map(|user| ways[*user]);
        ways[at] = onwards.fold(u128::from(left[at] == Some(0)), u128::saturating_add);
    }
    from.iter().map(|at| ways[*at]).fold(0, u128::saturating_add)
}
