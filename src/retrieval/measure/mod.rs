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
mod scanned;
mod summary;
mod ties;
mod wanted;

#[cfg(test)]
mod tests;

pub use query::{AveragePrecision, Ball, QueryResult, Spread};
pub use summary::{ClassMap, CurvePoint, Lookup, MeanAveragePrecision, MeanNdcg, PairsAt, RadiusPoint, Summary};
pub use wanted::Wanted;

pub(super) use ranked::LANES;
#[cfg(any(test, feature = "cuda"))]
pub(super) use ranked::STRIP;
pub(super) use scanned::Scanned;

use super::nearest::{Nearest, limits, sample};
use super::popcount::Distance;
use super::scan::Pair;
use super::{Codes, Refusal, Relevance};
use ranked::{Ranked, Stable};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use summary::Curves;
use ties::Group;
use wanted::Cuts;

/// Queries between two calls of `progress`: enough to keep many threads busy, few enough to be a fraction of a second.
const PORTION: usize = 512;
/// Queries that pass over the database together, at most.
const GROUP: usize = 8;
/// The same on a GPU, which is the faster the more there are.
const ON_GPU: usize = 8 * PORTION;
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

/// Measures what a pass wants, query by query; by a card, if the database lies on one.
///
/// # Errors
/// Those of the card, and of `progress`, which is told now and then how many queries are done.
pub(super) fn evaluate<E: From<Refusal>>(
    pass: Pass,
    scanned: Option<Scanned>,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let total = pass.queries.len();
    let (mut per_query, mut curves) = (Vec::with_capacity(total), Curves::default());
    for start in (0..total).step_by(if scanned.is_some() { ON_GPU } else { PORTION }) {
        let measured: Vec<(QueryResult, Vec<Group>)> = match &scanned {
            Some(scanned) => {
                let portions = (start..total.min(start + ON_GPU)).step_by(PORTION);
                scanned.measure(&pass, &portions.flat_map(|start| pass.groups(start)).collect::<Vec<_>>())?
            }
            None => {
                let measured = pass.groups(start).into_par_iter().map(|group| pass.measure(group));
                measured.collect::<Result<Vec<_>, Refusal>>()?.into_iter().flatten().collect()
            }
        };
        for (result, groups) in measured {
            curves.add(&groups, result.relevant);
            per_query.push(result);
        }
        progress(per_query.len())?;
    }
    let (labels, per_bit) = (pass.relevance.queries, pass.pair.per_bit());
    let summary = Summary::of(&per_query, &pass.wanted, labels, pass.items, &curves, per_bit);
    Ok(Evaluation { wanted: pass.wanted, per_query, summary })
}

/// What all queries share.
pub(super) struct Pass<'a> {
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
    /// # Errors
    /// Codes and labels that do not fit each other, an empty side, nothing wanted.
    pub(super) fn new(
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

    /// The queries of a portion, by groups that pass over the database together.
    fn groups(&self, start: usize) -> Vec<Range<usize>> {
        let (end, group) = (self.queries.len().min(start + PORTION), self.group());
        (start..end).step_by(group).map(|start| start..end.min(start + group)).collect()
    }

    /// The numbers of a group of queries; and, if precision by radius is wanted, their items by distance.
    fn measure(&self, group: Range<usize>) -> Result<Vec<(QueryResult, Vec<Group>)>, Refusal> {
        let ranked = self.rank(group.clone(), &self.limits(group.clone())?);
        Ok(group.zip(ranked).map(|(query, ranked)| self.numbers(query, ranked)).collect())
    }

    /// A guess for each query of a group how far the ranks that count reach.
    fn limits(&self, group: Range<usize>) -> Result<Vec<usize>, Refusal> {
        let most = group.clone().map(|query| self.first(query)).max().unwrap_or(0);
        limits(self.queries, group, self.sample.as_ref(), most, self.items, self.pair.per_bit() > 1)
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
            let (nearest, classes) = (self.nearest(query, limit), self.relevance.queries.classes_of(query).collect());
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

    /// What keeps the nearest of a query; nothing, if everything is to be kept.
    fn nearest(&self, query: usize, limit: usize) -> Option<Nearest> {
        let first = self.first(query).min(self.items);
        let (levels, keeps_places) = (self.pair.levels(), !self.excluded(query).is_empty());
        (!self.keeps_all(first)).then(|| Nearest::new(first, limit, levels, keeps_places))
    }

    /// A query of which a card has counted the items, in rows by distance.
    fn counted(&self, query: usize, nearest: Option<Nearest>, rows: &[u32]) -> Ranked<'_> {
        let classes = self.relevance.queries.classes_of(query).collect();
        let (levels, all) = (self.pair.levels(), self.wanted.needs_all());
        Ranked::counted(self.relevance.database, classes, levels, nearest, rows, all)
    }

    /// A query that the sample misled, without a limit.
    fn again(&self, query: usize) -> Option<Ranked<'_>> {
        self.rank(query..query + 1, &[usize::MAX]).pop()
    }

    fn pass<D: Distance>(&self, group: Range<usize>, place: impl Fn(usize) -> usize, ranked: &mut [Ranked]) {
        let kind = self.pair.kind();
        self.pair.scan(group, 0..self.items, |query, here, distances: &[D]| {
            ranked[place(query)].take(kind, here, distances);
        });
    }

    fn numbers(&self, query: usize, ranked: Ranked) -> (QueryResult, Vec<Group>) {
        // The sample misled: what is near was not all within the limit. Then without one.
        let mut ranked = if ranked.is_enough() { ranked } else { self.again(query).unwrap_or(ranked) };
        self.leave_out(query, &mut ranked);
        self.result(query, ranked, None)
    }

    /// Takes out what is not there for a query.
    fn leave_out(&self, query: usize, ranked: &mut Ranked) {
        for &item in self.excluded(query).iter().rev() {
            ranked.remove(item as usize, self.pair.distance(query, item as usize));
        }
    }

    /// Where the ranking of a query is cut.
    fn cuts_of(&self, query: usize) -> Cow<'_, Cuts> {
        match self.excluded(query).len() {
            0 => Cow::Borrowed(&self.cuts),
            out => Cow::Owned(Cuts::new(&self.wanted, self.items - out, self.pair.per_bit())),
        }
    }

    /// The numbers of a query, with what was read elsewhere, if it was.
    fn result(&self, query: usize, ranked: Ranked, stable: Option<Stable>) -> (QueryResult, Vec<Group>) {
        let cuts = self.cuts_of(query);
        let ranking = match stable {
            Some(stable) => ranked.finish_with(stable),
            None => ranked.finish(&cuts.map),
        };
        let result = QueryResult::of(&ranking, &cuts, &self.tables);
        (result, if self.wanted.by_radius { ranking.groups } else { vec![] })
    }
}
