//! Means over all queries.

use super::query::{AveragePrecision, Ball, QueryResult, Spread};
use super::ties::Group;
use super::wanted::Wanted;
use crate::retrieval::Labels;
use serde::Serialize;

/// Means over queries; one without a hit counts as 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub queries: usize,
    /// Items of the database.
    pub database: usize,
    /// Queries for which nothing in the database is relevant.
    pub without_relevant: usize,
    /// mAP@k, a row per `map_at`.
    pub map: Vec<MeanAveragePrecision>,
    /// NDCG@k, expected over ties.
    pub ndcg: Vec<MeanNdcg>,
    /// P@N and R@N, expected over ties: precision and recall curves.
    pub curve: Vec<CurvePoint>,
    pub lookup: Option<Lookup>,
    /// Precision and recall within each radius from 0; no ties can change them.
    pub by_radius: Vec<RadiusPoint>,
    /// Pairs of a query and a database item at each distance: the histograms of distances within classes and between
    /// them. Empty if precision by radius is not wanted.
    #[serde(skip)]
    pub distances: Vec<PairsAt>,
    /// mAP of the queries of each class, ascending; classes without a query are left out.
    pub per_class: Vec<ClassMap>,
    /// Mean share of the database that is relevant: the expected precision of a random ranking.
    pub chance: f64,
}

/// mAP@k.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanAveragePrecision {
    /// Ranks that count, at most those of the database.
    pub k: usize,
    /// The reference's definition: divided by the hits. `stable` is the reference's number under a stable sort.
    pub by_hits: Spread,
    /// Divided by min(relevant, k).
    pub by_ideal: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanNdcg {
    pub k: usize,
    pub value: f64,
}

/// Mean precision and recall of the first `n` ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    pub n: usize,
    pub precision: f64,
    pub recall: f64,
}

/// What lookups within a radius give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lookup {
    /// In bits.
    pub radius: usize,
    /// Share of the queries that find anything, relevant or not.
    pub success: f64,
    /// Mean share of what is found that is relevant; a query that finds nothing counts as 0.
    pub precision: f64,
    /// The same over the queries that find anything; 0 if none does.
    pub precision_of_successful: f64,
    /// Mean share of what is relevant that is found.
    pub recall: f64,
    /// Mean number of items found.
    pub items: f64,
}

/// Precision and recall within a radius; a query that finds nothing has precision 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RadiusPoint {
    /// In bits; half ones where codes are ternary.
    pub radius: f64,
    /// Mean number of items within it.
    pub items: f64,
    pub precision: f64,
    pub recall: f64,
}

/// Pairs of a query and a database item at one distance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairsAt {
    /// In bits; half ones where codes are ternary.
    pub distance: f64,
    /// Pairs that share a class.
    pub relevant: u64,
    /// Pairs that do not.
    pub other: u64,
}

/// mAP of the queries that have a class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassMap {
    pub class: u32,
    pub queries: u32,
    /// A row per `map_at`.
    pub map: Vec<MeanAveragePrecision>,
}

/// Sums over queries of what lies within each radius.
#[derive(Default)]
pub(super) struct Curves(Vec<(f64, f64, f64)>, Vec<(u64, u64)>);

impl Curves {
    /// Adds a query: its items by distance, and how many are relevant in all.
    pub(super) fn add(&mut self, groups: &[Group], relevant: u32) {
        self.0.resize(self.0.len().max(groups.len()), (0.0, 0.0, 0.0));
        self.1.resize(self.0.len(), (0, 0));
        let mut within = Ball::default();
        for ((sums, pairs), group) in self.0.iter_mut().zip(&mut self.1).zip(groups) {
            pairs.0 += u64::from(group.relevant);
            pairs.1 += u64::from(group.items - group.relevant);
            within = Ball { items: within.items + group.items, relevant: within.relevant + group.relevant };
            sums.0 += f64::from(within.items);
            sums.1 += share(within.relevant, within.items);
            sums.2 += share(within.relevant, relevant);
        }
    }
}

impl Summary {
    /// Means of all queries, taken in their order, so that they do not depend on threads.
    pub(super) fn of(
        results: &[QueryResult],
        wanted: &Wanted,
        labels: &Labels,
        database: usize,
        curves: &Curves,
        per_bit: usize,
    ) -> Self {
        let count = results.len() as f64;
        let mean = |value: &dyn Fn(&QueryResult) -> f64| results.iter().map(value).sum::<f64>() / count;
        let items = |i: usize| database - wanted.exclude.get(i).map_or(0, Vec::len);
        let chances = results.iter().enumerate().map(|(i, query)| share(query.relevant, items(i) as u32));
        let ndcg = wanted.ndcg_at.iter().enumerate().map(|(i, &k)| MeanNdcg { k, value: mean(&|q| q.ndcg[i]) });
        let curve = wanted.precision_at.iter().enumerate().map(|(i, &n)| CurvePoint {
            n,
            precision: mean(&|q| q.precision[i]),
            recall: mean(&|q| q.recall[i]),
        });
        let by_radius = curves.0.iter().enumerate().map(|(distance, sums)| RadiusPoint {
            radius: distance as f64 / per_bit as f64,
            items: sums.0 / count,
            precision: sums.1 / count,
            recall: sums.2 / count,
        });
        let distances = curves.1.iter().enumerate().map(|(distance, (relevant, other))| PairsAt {
            distance: distance as f64 / per_bit as f64,
            relevant: *relevant,
            other: *other,
        });
        Self {
            queries: results.len(),
            database,
            without_relevant: results.iter().filter(|query| query.relevant == 0).count(),
            map: maps(results.iter(), &wanted.map_at),
            ndcg: ndcg.collect(),
            curve: curve.collect(),
            lookup: wanted.lookup_radius.map(|radius| lookup(results, radius)),
            by_radius: by_radius.collect(),
            distances: distances.collect(),
            per_class: per_class(results, wanted, labels),
            chance: chances.sum::<f64>() / count,
        }
    }
}

fn share(part: u32, of: u32) -> f64 {
    if of == 0 { 0.0 } else { f64::from(part) / f64::from(of) }
}

/// mAP@k of some queries.
fn maps<'a>(results: impl Iterator<Item = &'a QueryResult> + Clone, cuts: &[usize]) -> Vec<MeanAveragePrecision> {
    let count = results.clone().count().max(1) as f64;
    let at = |(i, &k): (usize, &usize)| {
        let spread = |of: fn(&AveragePrecision) -> Spread| {
            let mean = |value: fn(Spread) -> f64| results.clone().map(|q| value(of(&q.ap[i]))).sum::<f64>() / count;
            Spread {
                stable: mean(|spread| spread.stable),
                expected: mean(|spread| spread.expected),
                worst: mean(|spread| spread.worst),
                best: mean(|spread| spread.best),
            }
        };
        MeanAveragePrecision { k, by_hits: spread(|ap| ap.by_hits), by_ideal: spread(|ap| ap.by_ideal) }
    };
    cuts.iter().enumerate().map(at).collect()
}

fn lookup(results: &[QueryResult], radius: usize) -> Lookup {
    let balls = || results.iter().map(|query| (query.lookup.unwrap_or_default(), query.relevant));
    let count = results.len() as f64;
    let precisions: f64 = balls().map(|(ball, _)| share(ball.relevant, ball.items)).sum();
    let successful = balls().filter(|(ball, _)| ball.items > 0).count() as f64;
    Lookup {
        radius,
        success: successful / count,
        precision: precisions / count,
        precision_of_successful: precisions / successful.max(1.0),
        recall: balls().map(|(ball, relevant)| share(ball.relevant, relevant)).sum::<f64>() / count,
        items: balls().map(|(ball, _)| f64::from(ball.items)).sum::<f64>() / count,
    }
}

fn per_class(results: &[QueryResult], wanted: &Wanted, labels: &Labels) -> Vec<ClassMap> {
    let mut queries = vec![vec![]; labels.classes()];
    for (query, result) in results.iter().enumerate() {
        labels.classes_of(query).for_each(|class| queries[class as usize].push(result));
    }
    let of_class = |(class, queries): (usize, Vec<&QueryResult>)| ClassMap {
        class: class as u32,
        queries: queries.len() as u32,
        map: maps(queries.iter().copied(), &wanted.map_at),
    };
    queries.into_iter().enumerate().filter(|(_, queries)| !queries.is_empty()).map(of_class).collect()
}
