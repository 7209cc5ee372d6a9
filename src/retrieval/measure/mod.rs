//! How well a database is ranked: every number of every query, in one pass over the database.
//!
//! ```text
//! distances -> ranked          items and relevance by distance, relevance of the first ranks
//!                |
//!              ties            AP@k over all orders of ties
//!                |
//!              query           all numbers of a query
//!                |
//!             summary          their means
//! ```
//!
//! Nothing but the number called `stable` depends on the order of the database.

mod query;
mod ranked;
mod reciprocals;
mod summary;
mod ties;
mod wanted;

#[cfg(test)]
mod tests;

pub use query::{AveragePrecision, Ball, QueryResult, Spread};
pub use summary::{ClassMap, CurvePoint, Lookup, MeanAveragePrecision, MeanNdcg, PairsAt, RadiusPoint, Summary};
pub use wanted::Wanted;

use super::nearest::{Nearest, limits, sample};
use super::popcount::Distance;
use super::scan::Pair;
use super::{Codes, Refusal, Relevance};
use ranked::{Ranked, Ranking};
use rayon::prelude::*;
use std::ops::Range;
use summary::Curves;
use ties::Group;
use wanted::Cuts;

/// Queries between two calls of `progress`: enough to keep many threads busy, few enough to be a fraction of a second.
const PORTION: usize = 512;
/// Queries that pass over the database together, at most.
const GROUP: usize = 8;
/// Bytes of what is kept of all items that stay in a second-level cache.
const KEPT: usize = 1 << 18;

/// The numbers of all queries, and their means.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What was measured: ranks ascend, without repetitions, and none is beyond the database.
    pub wanted: Wanted,
    /// In the order of the queries.
    pub per_query: Vec<QueryResult>,
    pub summary: Summary,
}

/// Ranks `database` by each of `queries` and measures what is `wanted`.
///
/// The result does not depend on the number of threads: queries are independent, and their means are taken in order.
/// `progress` is told now and then how many queries are done; its error ends the evaluation.
///
/// # Errors
/// Codes and labels that do not fit each other, an empty side, nothing wanted; and those of `progress`.
pub fn evaluate<E: From<Refusal>>(
    queries: &Codes,
    database: &Codes,
    relevance: Relevance,
    wanted: &Wanted,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let pass = Pass::new(queries, database, relevance, wanted)?;
    let (mut per_query, mut curves) = (Vec::with_capacity(queries.len()), Curves::default());
    for start in (0..queries.len()).step_by(PORTION) {
        let end = queries.len().min(start + PORTION);
        let groups: Vec<Range<usize>> =
            (start..end).step_by(pass.group()).map(|start| start..end.min(start + pass.group())).collect();
        let measured = groups.into_par_iter().map(|group| pass.measure(group));
        for (result, groups) in measured.collect::<Result<Vec<_>, Refusal>>()?.into_iter().flatten() {
            curves.add(&groups, result.relevant);
            per_query.push(result);
        }
        progress(per_query.len())?;
    }
    let (labels, per_bit) = (relevance.queries, pass.pair.per_bit());
    let summary = Summary::of(&per_query, &pass.wanted, labels, database.len(), &curves, per_bit);
    Ok(Evaluation { wanted: pass.wanted, per_query, summary })
}

/// What all queries share.
struct Pass<'a> {
    queries: &'a Codes,
    pair: Pair<'a>,
    relevance: Relevance<'a>,
    items: usize,
    sample: Option<Codes>,
    wanted: Wanted,
    cuts: Cuts,
    tables: query::Tables,
}

impl<'a> Pass<'a> {
    fn new(
        queries: &'a Codes,
        database: &'a Codes,
        relevance: Relevance<'a>,
        wanted: &Wanted,
    ) -> Result<Self, Refusal> {
        let pair = Pair::new(queries, database)?;
        for (side, codes, labels) in
            [("queries", queries, relevance.queries), ("database", database, relevance.database)]
        {
            if codes.is_empty() {
                return Err(Refusal::Empty { side });
            }
            if codes.len() != labels.len() {
                return Err(Refusal::LabelCount { side, codes: codes.len(), labels: labels.len() });
            }
        }
        let wanted = wanted.checked(queries.len(), database.len())?;
        let cuts = Cuts::new(&wanted, database.len(), pair.per_bit());
        let (sample, tables) = (sample(database), query::Tables::new(&cuts));
        Ok(Self { queries, pair, relevance, items: database.len(), sample, wanted, cuts, tables })
    }

    /// The numbers of a group of queries; and, if precision by radius is wanted, their items by distance.
    fn measure(&self, group: Range<usize>) -> Result<Vec<(QueryResult, Vec<Group>)>, Refusal> {
        let most = group.clone().map(|query| self.first(query)).max().unwrap_or(0);
        let ternary = self.pair.per_bit() > 1;
        let limits = limits(self.queries, group.clone(), self.sample.as_ref(), most, self.items, ternary)?;
        let ranked = self.rank(group.clone(), &limits);
        Ok(group.zip(ranked).map(|(query, ranked)| self.numbers(query, ranked)).collect())
    }

    /// Whether all items are kept for the `first` ranks: cheaper than to choose many.
    fn keeps_all(&self, first: usize) -> bool {
        first >= self.items / 4
    }

    /// How many queries pass over the database together.
    fn group(&self) -> usize {
        if self.keeps_all(self.cuts.last()) { (KEPT / 2 / self.items).clamp(1, GROUP) } else { GROUP }
    }

    /// Ranks that must be found for a query: those that count, and those that do not.
    fn first(&self, query: usize) -> usize {
        self.cuts.last() + self.excluded(query).len()
    }

    fn excluded(&self, query: usize) -> &[u32] {
        self.wanted.exclude.get(query).map_or(&[], Vec::as_slice)
    }

    /// Passes over the database with a group of queries, whose nearest are within `limits`.
    fn rank(&self, group: Range<usize>, limits: &[usize]) -> Vec<Ranked<'_>> {
        let levels = self.pair.levels();
        let new = |(query, &limit): (usize, &usize)| {
            let first = self.first(query).min(self.items);
            // To keep all is cheaper than to choose many.
            let nearest =
                (first < self.items / 4).then(|| Nearest::new(first, limit, levels, !self.excluded(query).is_empty()));
            let classes = self.relevance.queries.classes_of(query).collect();
            Ranked::new(self.relevance.database, classes, levels, nearest, self.wanted.needs_all())
        };
        let mut ranked: Vec<Ranked> = group.clone().zip(limits).map(new).collect();
        let first = group.start;
        if self.pair.fits_bytes() {
            self.pass::<u8>(group, |query| query - first, &mut ranked);
        } else {
            self.pass::<u16>(group, |query| query - first, &mut ranked);
        }
        ranked
    }

    fn pass<D: Distance>(&self, group: Range<usize>, place: impl Fn(usize) -> usize, ranked: &mut [Ranked]) {
        let kind = self.pair.kind();
        self.pair.scan(group, 0..self.items, |query, here, distances: &[D]| {
            ranked[place(query)].take(kind, here, distances);
        });
    }

    fn numbers(&self, query: usize, ranked: Ranked) -> (QueryResult, Vec<Group>) {
        // The sample misled: what is near was not all within the limit. Then without one.
        let mut ranked = if ranked.is_enough() {
            ranked
        } else {
            let again = self.rank(query..query + 1, &[usize::MAX]).pop();
            again.unwrap_or(ranked)
        };
        for &item in self.excluded(query).iter().rev() {
            ranked.remove(item as usize, self.pair.distance(query, item as usize));
        }
        let others = (!self.excluded(query).is_empty())
            .then(|| Cuts::new(&self.wanted, self.items - self.excluded(query).len(), self.pair.per_bit()));
        let cuts = others.as_ref().unwrap_or(&self.cuts);
        let ranking: Ranking = ranked.finish(&cuts.map);
        let result = QueryResult::of(&ranking, cuts, &self.tables);
        (result, if self.wanted.by_radius { ranking.groups } else { vec![] })
    }
}
