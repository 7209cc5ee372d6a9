//! All that is told of one evaluation: its figures and how sure they are, the same with and without the queries
//! themselves in the database, results query by query, and what the codes are like.
//!
//! The stage `evaluate` and the command `evaluate` both tell this, so that a figure means the same wherever it stands.

mod told;

use crate::certainty::{self, Interval, LEVEL};
use crate::per_query::{Column, PerQuery};
use crate::retrieval::{Backend, Codes, Comparison, Evaluation, QueryResult, Refusal, Relevance, Statistics, Wanted};
use std::collections::{BTreeMap, BTreeSet};

pub use told::{figures, metric_name};

/// Resamples of an evaluation's intervals.
pub const RESAMPLES: usize = 2_000;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    pub queries: &'a Codes,
    pub database: &'a Codes,
    pub relevance: Relevance<'a>,
    /// What compares the codes; it changes no figure.
    pub backend: &'a Backend,
}

/// What is asked of it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Ranks that count; 0 means all. The first is the main one; there is at least one. Results per query have all.
    pub top_k: &'a [usize],
    /// Further ranks, whose means alone are told.
    pub also: &'a [usize],
    /// For queries that are in the database, where they stand there.
    pub same: &'a BTreeMap<usize, Vec<u32>>,
    /// Whether those are taken out of their queries' rankings.
    pub exclude_self: bool,
    /// How many of the nearest items of each query are kept.
    pub retrieved: usize,
    /// Of the intervals.
    pub resamples: usize,
    pub seed: u64,
}

/// What is told.
pub struct Assessment {
    pub evaluation: Evaluation,
    /// The main one of the ranks that count, as a position in `evaluation.summary.map`.
    pub main: usize,
    /// The same with the queries in the database if they were taken out, and without them if they were not; mAP only.
    /// `None` if no query is in it.
    pub other: Option<Evaluation>,
    pub intervals: Intervals,
    pub per_query: PerQuery,
    pub query_codes: Statistics,
    pub database_codes: Statistics,
}

/// Bootstrap intervals over queries, by the names that figures have in a result: those of the main figure, `ndcg`,
/// `lookup_precision` and `lookup_recall`, `other` (with the queries in the database, or without them), and `map_at_K` for
/// further ranks. None for a single query.
pub type Intervals = BTreeMap<String, Interval>;

/// Measures everything.
///
/// # Errors
/// Codes and labels that do not fit each other, an empty side, and those of `progress`, which is told how many queries
/// are done.
pub fn assess<E: From<Refusal>>(
    sides: Sides,
    asked: Asked,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Assessment, E> {
    let Sides { queries, database, relevance, backend } = sides;
    let ranks = |k: &usize| if *k == 0 { usize::MAX } else { *k };
    let top_k: Vec<usize> = asked.top_k.iter().map(ranks).collect();
    let means: Vec<usize> = top_k.iter().copied().chain(asked.also.iter().map(ranks)).collect();
    let exclude = |excluded: bool| match excluded && !asked.same.is_empty() {
        true => (0..queries.len()).map(|query| asked.same.get(&query).cloned().unwrap_or_default()).collect(),
        false => vec![],
    };
    let wanted = Wanted { exclude: exclude(asked.exclude_self), ..Wanted::all(&means) };
    let sides = Comparison::over(backend, queries, database, relevance);
    let evaluation = sides.evaluate(&wanted, &mut progress)?;
    let place = |k: &usize| evaluation.summary.map.iter().position(|map| map.k == (*k).min(database.len()));
    let main = top_k.first().and_then(place).unwrap_or(0);
    let others: BTreeSet<usize> = top_k.iter().filter_map(place).filter(|at| *at != main).collect();
    let other = match asked.same.is_empty() {
        true => None,
        false => {
            let wanted = Wanted { exclude: exclude(!asked.exclude_self), ..Wanted::map_only(&means) };
            Some(sides.evaluate(&wanted, &mut progress)?)
        }
    };
    let intervals = intervals(&evaluation, other.as_ref(), main, asked);
    let per_query = per_query(&evaluation, main, &others, retrieved(&sides, &wanted, asked.retrieved)?);
    let (query_codes, database_codes) = (Statistics::of(queries), Statistics::of(database));
    Ok(Assessment { evaluation, main, other, intervals, per_query, query_codes, database_codes })
}

fn intervals(evaluation: &Evaluation, other: Option<&Evaluation>, main: usize, asked: Asked) -> Intervals {
    fn of(evaluation: &Evaluation, value: impl Fn(&QueryResult) -> f64) -> Vec<f64> {
        evaluation.per_query.iter().map(value).collect()
    }
    let share = |part: u32, of: u32| if of == 0 { 0.0 } else { f64::from(part) / f64::from(of) };
    let ball = |query: &QueryResult| query.lookup.unwrap_or_default();
    let mut named: Vec<(String, Vec<f64>)> = vec![
        ("value".into(), of(evaluation, |query| query.ap[main].by_hits.stable)),
        ("value_min_rk".into(), of(evaluation, |query| query.ap[main].by_ideal.stable)),
        ("value_expected_over_ties".into(), of(evaluation, |query| query.ap[main].by_hits.expected)),
        ("lookup_precision".into(), of(evaluation, |query| share(ball(query).relevant, ball(query).items))),
        ("lookup_recall".into(), of(evaluation, |query| share(ball(query).relevant, query.relevant))),
    ];
    if evaluation.summary.ndcg.len() > main {
        named.push(("ndcg".into(), of(evaluation, |query| query.ndcg[main])));
    }
    if let Some(other) = other {
        named.push(("other".into(), of(other, |query| query.ap[main].by_hits.stable)));
    }
    for (at, map) in evaluation.summary.map.iter().enumerate().filter(|(at, _)| *at != main) {
        named.push((format!("map_at_{}", map.k), of(evaluation, |query| query.ap[at].by_hits.stable)));
    }
    let columns: Vec<&[f64]> = named.iter().map(|(_, values)| values.as_slice()).collect();
    let found = certainty::mean_intervals(&columns, asked.resamples, LEVEL, asked.seed);
    named.iter().zip(found).filter_map(|((name, _), interval)| Some((name.clone(), interval?))).collect()
}

/// The nearest items of each query, without those that are taken out; `None` if nobody asks.
fn retrieved(sides: &Comparison, wanted: &Wanted, count: usize) -> Result<Option<Vec<Vec<u32>>>, Refusal> {
    if count == 0 {
        return Ok(None);
    }
    let most = wanted.exclude.iter().map(Vec::len).max().unwrap_or(0);
    let found = sides.top_k(count.saturating_add(most))?;
    let kept = found.into_iter().enumerate().map(|(query, found)| {
        let out = wanted.exclude.get(query).map_or(&[][..], Vec::as_slice);
        found.into_iter().map(|near| near.index).filter(|index| !out.contains(index)).take(count).collect()
    });
    Ok(Some(kept.collect()))
}

fn per_query(
    evaluation: &Evaluation,
    main: usize,
    others: &BTreeSet<usize>,
    retrieved: Option<Vec<Vec<u32>>>,
) -> PerQuery {
    let results = &evaluation.per_query;
    let numbers = |value: fn(&QueryResult, usize) -> f64, at: usize| {
        Column::Numbers(results.iter().map(|query| value(query, at)).collect())
    };
    let counts = |value: &dyn Fn(&QueryResult) -> u32| Column::Counts(results.iter().map(value).collect());
    let mut table = PerQuery::default()
        .with("query", Column::Counts((0..results.len() as u32).collect()))
        .with("ap", numbers(|query, at| query.ap[at].by_hits.stable, main))
        .with("ap_min_rk", numbers(|query, at| query.ap[at].by_ideal.stable, main))
        .with("expected_ap", numbers(|query, at| query.ap[at].by_hits.expected, main))
        .with("expected_ap_min_rk", numbers(|query, at| query.ap[at].by_ideal.expected, main))
        .with("worst_ap", numbers(|query, at| query.ap[at].by_hits.worst, main))
        .with("best_ap", numbers(|query, at| query.ap[at].by_hits.best, main))
        .with("relevant", counts(&|query| query.relevant))
        .with("hits", counts(&|query| query.ap[main].hits))
        // Beyond k it is no hit of this ranking.
        .with("first_hit", Column::Maybe(results.iter().map(|q| q.first_hit.filter(|_| q.ap[main].hits > 0)).collect()))
        .with("within_2_bits", counts(&|query| query.lookup.unwrap_or_default().items))
        .with("relevant_within_2_bits", counts(&|query| query.lookup.unwrap_or_default().relevant));
    for &at in others {
        let k = evaluation.summary.map[at].k;
        table = table
            .with(&format!("ap_at_{k}"), numbers(|query, at| query.ap[at].by_hits.stable, at))
            .with(&format!("ap_min_rk_at_{k}"), numbers(|query, at| query.ap[at].by_ideal.stable, at))
            .with(&format!("expected_ap_at_{k}"), numbers(|query, at| query.ap[at].by_hits.expected, at));
    }
    match retrieved {
        Some(items) => table.with("retrieved", Column::Items(items)),
        None => table,
    }
}
