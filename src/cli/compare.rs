//! `hashpipe compare`: two evaluations on the same queries, and whether chance alone would make their difference.

use super::history::Cache;
use super::leaderboard::names;
use crate::cache::{Action, Store};
use crate::certainty::{self, LEVEL, Paired, RESAMPLES};
use crate::error::{Error, Result};
use crate::names::known_or_nearest;
use crate::per_query::PerQuery;
use crate::report::{print, table};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An evaluation: a file of results per query (.jsonl or .parquet), or a task in the cache, as in
    /// `shapes/evaluate.map@bits=16`
    #[arg(value_name = "A")]
    a: String,
    /// The other one
    #[arg(value_name = "B")]
    b: String,
    /// Which of a query's numbers is compared
    #[arg(long, value_name = "COLUMN", default_value = "ap")]
    metric: String,
    /// Signs that are drawn where trying all of them would take too long
    #[arg(long, value_name = "N", default_value_t = RESAMPLES, value_parser = positive)]
    permutations: usize,
    /// What they are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// One object of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: Cache,
}

/// A whole number of at least 1.
pub(super) fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number of at least 1".to_string())
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let store = arguments.cache.store();
    let (a, b) = (open(&store, &arguments.a)?, open(&store, &arguments.b)?);
    check_alike(arguments, &a, &b)?;
    let (first, second) = (numbers(arguments, &arguments.a, &a)?, numbers(arguments, &arguments.b, &b)?);
    let Some(found) = certainty::paired(&first, &second, arguments.permutations, LEVEL, arguments.seed) else {
        return Err(Error::data("there is no query to compare on"));
    };
    if arguments.json {
        let mut object = serde_json::to_value(found).expect("numbers are always JSON");
        object["metric"] = json!(arguments.metric);
        (object["a_name"], object["b_name"]) = (json!(arguments.a), json!(arguments.b));
        print(&object.to_string());
    } else {
        print(&text(arguments, &found));
    }
    Ok(0)
}

/// Results per query, with the name of what they were measured on where that is known.
struct Evaluation {
    results: PerQuery,
    protocol: Option<String>,
}

fn open(store: &Store, name: &str) -> Result<Evaluation> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(Evaluation { results: PerQuery::read(path)?, protocol: None });
    }
    let action = find(store, name)?;
    let results = action.outputs.get("per_query").map(|object| store.object_path(object));
    let Some(results) = results.filter(|path| path.is_file()) else {
        return Err(Error::data(format!("the results per query of `{name}` are no longer in the cache"))
            .hint("run its pipeline again: they are made anew"));
    };
    Ok(Evaluation { results: PerQuery::read(&results)?, protocol: action.facts.get("protocol").cloned() })
}

/// The evaluation that a task of this name came to last; or else the newest that ever had the name.
fn find(store: &Store, name: &str) -> Result<Action> {
    let mut last: Vec<(String, Action)> = vec![];
    for pipeline in store.pipelines() {
        for (task, attempts) in store.known(&pipeline).tasks() {
            let whole = format!("{pipeline}/{task}");
            let found = attempts.last().filter(|_| is_called(name, task) || is_called(name, &whole));
            let action = found.and_then(|attempt| store.action(&attempt.key));
            last.extend(action.filter(|action| action.kind == "evaluate").map(|action| (whole, action)));
        }
    }
    if last.len() > 1 {
        let names: Vec<&str> = last.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::input(format!("several pipelines have an evaluation `{name}`"))
            .note(format!("there are {}", names.join(", ")))
            .hint("name one as PIPELINE/TASK"));
    }
    match last.pop() {
        Some((_, action)) => Ok(action),
        None => newest(store, name),
    }
}

/// Whether a name means this task; its points may come in any order.
fn is_called(name: &str, task: &str) -> bool {
    fn parts(text: &str) -> (&str, BTreeSet<&str>) {
        let (stage, points) = text.split_once('@').unwrap_or((text, ""));
        (stage, points.split(',').map(str::trim).collect())
    }
    parts(name) == parts(task)
}

/// The newest evaluation that had this name in a recorded run.
fn newest(store: &Store, name: &str) -> Result<Action> {
    let names = names(store);
    let evaluations: Vec<Action> = store.actions().into_iter().filter(|action| action.kind == "evaluate").collect();
    let called = |action: &Action| {
        let names = names.get(&action.key).into_iter().flatten();
        names.flat_map(|named| [format!("{}/{}", named.pipeline, named.task), named.task.clone()]).collect::<Vec<_>>()
    };
    let known: Vec<String> = evaluations.iter().flat_map(called).collect();
    let fitting = evaluations.into_iter().filter(|action| called(action).iter().any(|known| is_called(name, known)));
    fitting.max_by_key(|action| action.made).ok_or_else(|| {
        let mut whole: Vec<&str> = known.iter().map(String::as_str).filter(|name| name.contains('/')).collect();
        whole.sort_unstable();
        whole.dedup();
        Error::input(format!("`{name}` is neither a file nor an evaluation in the cache"))
            .hint(known_or_nearest(name, &whole, "evaluations"))
            .hint("name one as PIPELINE/TASK, or give the file `per_query.jsonl` of its output")
    })
}

/// Only what was measured on the same queries and the same database can be compared query by query.
fn check_alike(arguments: &Arguments, a: &Evaluation, b: &Evaluation) -> Result<()> {
    let hint = "compare evaluations of the same lists and the same `top_k`";
    let differ = |what: String| {
        Err(Error::data(format!("`{}` and `{}` cannot be compared", arguments.a, arguments.b)).note(what).hint(hint))
    };
    if a.results.len() != b.results.len() {
        return differ(format!("one has {} queries, the other {}", a.results.len(), b.results.len()));
    }
    if let (Some(first), Some(second)) = (&a.protocol, &b.protocol)
        && first != second
    {
        return differ("their protocols differ: other lists, other ranks that count, or another rule".into());
    }
    // Files do not say what they were measured on, but how much is relevant to each query gives it away.
    let relevant = |evaluation: &Evaluation| evaluation.results.numbers("relevant");
    if let (Some(first), Some(second)) = (relevant(a), relevant(b))
        && let Some(query) = first.iter().zip(&second).position(|(a, b)| a != b)
    {
        return differ(format!(
            "{} items are relevant to query {query} in one, {} in the other",
            first[query], second[query]
        ));
    }
    Ok(())
}

fn numbers(arguments: &Arguments, name: &str, evaluation: &Evaluation) -> Result<Vec<f64>> {
    let metric = &arguments.metric;
    evaluation.results.numbers(metric).ok_or_else(|| {
        let known: Vec<&str> = evaluation.results.names().collect();
        Error::input(format!("`{name}` has no number `{metric}` for every query"))
            .hint(known_or_nearest(metric, &known, "columns"))
    })
}

fn text(arguments: &Arguments, found: &Paired) -> String {
    let rows = [
        vec!["A".to_string(), arguments.a.clone(), format!("{:.4}", found.a)],
        vec!["B".to_string(), arguments.b.clone(), format!("{:.4}", found.b)],
    ];
    let difference = match found.interval {
        Some(interval) => format!(
            "{:+.4}, {:.0} % interval {:+.4} to {:+.4} (bootstrap over queries, {} resamples)",
            found.difference,
            interval.level * 100.0,
            interval.low,
            interval.high,
            interval.resamples
        ),
        None => format!("{:+.4}", found.difference),
    };
    let how = if found.exact { "all signs" } else { "signs drawn" };
    format!(
        "{}\n\nA - B     {difference}\nqueries   {}: A better on {}, B on {}, alike on {}\np-value   {} (paired randomisation, \
         two-sided, {} {how})",
        table(&["", "evaluation", &format!("mean {}", arguments.metric)], &rows),
        found.queries,
        found.wins,
        found.losses,
        found.ties,
        p_value(found.p_value),
        found.permutations
    )
}

/// A p-value as a person reads it.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.1e}") } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_come_in_any_order() {
        let called = |name| is_called(name, "s/evaluate.map@bits=8,seed=2");
        assert!(called("s/evaluate.map@bits=8,seed=2") && called("s/evaluate.map@seed=2, bits=8"));
        assert!(!called("s/evaluate.map@seed=2") && !called("evaluate.map@bits=8,seed=2") && !called("s/evaluate.map"));
    }
}
