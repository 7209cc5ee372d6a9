//! The numbers of one query.

use super::ranked::Ranking;
use super::reciprocals::Reciprocals;
use super::ties::{Group, Tied, average_precisions};
use super::wanted::Cuts;
use serde::Serialize;

/// An average precision, and what ties do to it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    /// With ties in database order.
    pub stable: f64,
    /// The mean over all orders of ties.
    pub expected: f64,
    /// The least over all orders of ties.
    pub worst: f64,
    /// The greatest over all orders of ties.
    pub best: f64,
}

/// AP@k of one query; 0 if nothing is relevant.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct AveragePrecision {
    /// Relevant items among the first k, ties in database order.
    pub hits: u32,
    /// Sum of the precisions at the hits, divided by their number: the reference's definition.
    pub by_hits: Spread,
    /// The same divided by min(relevant, k).
    pub by_ideal: Spread,
}

/// The items within the lookup radius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Ball {
    pub items: u32,
    pub relevant: u32,
}

/// The numbers of one query. What is measured at several places stands in the order of what was asked for (`Wanted`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryResult {
    /// Relevant items in the whole database.
    pub relevant: u32,
    /// Rank of the first relevant item, from 1, ties in database order; `None` if it is beyond the largest k.
    pub first_hit: Option<u32>,
    /// AP@k for each `map_at`.
    pub ap: Vec<AveragePrecision>,
    /// NDCG@k for each `ndcg_at`, expected over ties; a gain is 2^(shared classes) - 1.
    pub ndcg: Vec<f64>,
    /// P@N for each `precision_at`, expected over ties.
    pub precision: Vec<f64>,
    /// R@N for each `precision_at`, expected over ties; 0 if nothing is relevant.
    pub recall: Vec<f64>,
    /// What lies within the lookup radius, if one was asked for.
    pub lookup: Option<Ball>,
}

/// What all queries share.
pub(super) struct Tables {
    pub reciprocals: Reciprocals,
    /// Sum of 1 / log2(rank + 1) over the first ranks, as far as NDCG looks.
    pub discounts: Vec<f64>,
}

impl Tables {
    pub(super) fn new(cuts: &Cuts) -> Self {
        let mut sum = 0.0;
        let discount = |rank: usize| {
            sum += 1.0 / (rank as f64 + 1.0).log2();
            sum
        };
        let last = cuts.ndcg.iter().copied().max().unwrap_or(0);
        let discounts = std::iter::once(0.0).chain((1..=last).map(discount)).collect();
        Self { reciprocals: Reciprocals::new(cuts.map.last().copied().unwrap_or(0)), discounts }
    }
}

impl QueryResult {
    pub(super) fn of(ranking: &Ranking, cuts: &Cuts, tables: &Tables) -> Self {
        let Ranking { groups, grades, stable, relevant } = ranking;
        let tied = average_precisions(groups, &cuts.map, *relevant, &tables.reciprocals);
        let ap = cuts.map.iter().zip(tied).zip(&stable.at).map(|((&cut, tied), &(hits, sum))| {
            let share = |by: usize| if by == 0 { 0.0 } else { sum / by as f64 };
            AveragePrecision {
                hits,
                by_hits: spread(share(hits as usize), tied.by_hits),
                by_ideal: spread(share((*relevant).min(cut)), tied.by_ideal),
            }
        });
        let found: Vec<f64> = cuts.precision.iter().map(|&cut| expected_hits(groups, cut)).collect();
        let share = |found: f64, of: usize| if of == 0 { 0.0 } else { found / of as f64 };
        Self {
            relevant: *relevant as u32,
            first_hit: stable.first_hit,
            ap: ap.collect(),
            ndcg: ndcg(groups, grades, &cuts.ndcg, &tables.discounts),
            precision: found.iter().zip(&cuts.precision).map(|(&found, &cut)| share(found, cut)).collect(),
            recall: found.iter().map(|&found| share(found, *relevant)).collect(),
            lookup: cuts.lookup.map(|levels| ball(&groups[..groups.len().min(levels)])),
        }
    }
}

fn spread(stable: f64, tied: Tied) -> Spread {
    // Rounding must not put a value outside of its bounds.
    let (worst, best) = (tied.worst.min(stable), tied.best.max(stable));
    Spread { stable, expected: tied.expected.clamp(worst, best), worst, best }
}

/// Expected relevant items among the first `cut`: those of whole groups, and of the last one a share.
fn expected_hits(groups: &[Group], cut: usize) -> f64 {
    let (mut left, mut hits) = (cut, 0.0);
    for group in groups.iter().filter(|group| group.items > 0) {
        let taken = left.min(group.items as usize);
        hits += f64::from(group.relevant) * (taken as f64 / f64::from(group.items));
        left -= taken;
        if left == 0 {
            break;
        }
    }
    hits
}

pub(super) fn ball(groups: &[Group]) -> Ball {
    let add =
        |ball: Ball, group: &Group| Ball { items: ball.items + group.items, relevant: ball.relevant + group.relevant };
    groups.iter().fold(Ball::default(), add)
}

/// NDCG@k over all orders of ties (as scikit-learn's `ndcg_score`): every item of a group has the group's mean gain.
///
/// Gains are 2^s - 1 for s shared classes, discounts 1 / log2(rank + 1); the ideal ranking has the largest gains first.
/// 0 if nothing is relevant.
fn ndcg(groups: &[Group], grades: &[Vec<u32>], cuts: &[usize], discounts: &[f64]) -> Vec<f64> {
    if cuts.is_empty() {
        return vec![];
    }
    let gain = |shared: usize| 2f64.powi(shared as i32 + 1) - 1.0; // `grades` start at one shared class
    let discount = |from: usize, to: usize| discounts[to] - discounts[from];
    let gains = |grades: &[u32]| grades.iter().enumerate().map(|(s, &items)| gain(s) * f64::from(items)).sum::<f64>();
    let most = grades.iter().map(Vec::len).max().unwrap_or(0);
    let mut all = vec![0usize; most];
    for (shared, all) in all.iter_mut().enumerate() {
        *all = grades.iter().map(|grades| grades[shared] as usize).sum();
    }
    let at = |&cut: &usize| {
        let (mut rank, mut sum) = (0, 0.0);
        for (group, grades) in groups.iter().zip(grades).filter(|(group, _)| group.items > 0) {
            let end = cut.min(rank + group.items as usize);
            sum += gains(grades) / f64::from(group.items) * discount(rank, end);
            rank = end;
            if rank == cut {
                break;
            }
        }
        let (mut rank, mut ideal) = (0, 0.0);
        for (shared, &items) in all.iter().enumerate().rev() {
            let end = cut.min(rank + items);
            ideal += gain(shared) * discount(rank, end);
            rank = end;
        }
        if ideal == 0.0 { 0.0 } else { sum / ideal }
    };
    cuts.iter().map(at).collect()
}
