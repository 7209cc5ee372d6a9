//! `hashpipe verify`: whether a stage gives the same again, also when it is killed on the way.

use super::{Folders, Pipeline};
use crate::cache::{Action, Results, Standing, Store, survey};
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, TaskId};
use crate::report::{duration, note, print, table};
use crate::schedule::{Asked, Machine, Rehearsal, rehearse};
use crate::seeded;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// A stage, a task, or a kind
    stage: String,
    #[command(flatten)]
    folders: Folders,
    /// Kill it on the way and let it go on, instead of running it through
    #[arg(long)]
    resume: bool,
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    times: u16,
    /// Decides where it is killed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads to use [default: all cores]
    #[arg(long, short, value_name = "N", env = "HASHPIPE_JOBS", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// One line of JSON per rehearsal
    #[arg(long)]
    json: bool,
}

/// How well two results of one key agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    /// Every byte.
    Exact,
    /// Other bytes, and figures that differ by less than rounding does.
    Tolerable,
    /// Other bytes, and other figures or none.
    Unstable,
}

impl Agreement {
    fn word(self) -> &'static str {
        match self {
            Self::Exact => "bit-exact",
            Self::Tolerable => "tolerance-exact",
            Self::Unstable => "unstable",
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let store = Store::open(&arguments.folders.cache(&plan))?;
    let machine = Machine::find(&Asked { jobs: arguments.jobs.map(usize::from), gpus: None, host: plan.host })?;
    let chosen = plan.select(&arguments.stage)?;
    let standings = survey(&plan, &store, &chosen, &[]);
    let results: Results = standings.iter().filter_map(|s| Some((s.task, s.made.clone()?))).collect();
    let mut rows = vec![];
    let mut unstable = vec![];
    for &id in &chosen {
        let first = first(&plan, &store, &standings, id)?;
        for round in 1..=arguments.times {
            let kills = kills(arguments, &plan.task(id).name, round);
            note(&format!("hashpipe: {}, round {round} of {}", plan.task(id).name, arguments.times));
            let again = rehearse(&plan, &store, id, &results, &machine, &kills, first.seconds)?;
            let (agreement, differ) = judge(&first, &again);
            if arguments.json {
                print(&to_json(&plan.task(id).name, &again, agreement, &differ).to_string());
            }
            rows.push(row(&plan.task(id).name, &again, agreement, &differ));
            if agreement == Agreement::Unstable {
                unstable.push(plan.task(id).name.clone());
            }
        }
    }
    if !arguments.json {
        print(&table(&["task", "result", "took", "killed at", "differs in"], &rows));
    }
    unstable.dedup();
    if unstable.is_empty() {
        return Ok(0);
    }
    Err(Error::new(Kind::Stage, format!("`{}` did not give the same again", unstable.join("`, `")))
        .hint("look for times, random numbers without a seed, or state that a resumed attempt does not take up"))
}

/// The result in the cache that others are compared with.
fn first(plan: &Plan, store: &Store, standings: &[Standing], id: TaskId) -> Result<Action> {
    let standing = standings.iter().find(|standing| standing.task == id);
    let made = standing.and_then(|standing| standing.made.as_ref());
    made.and_then(|made| store.action(&made.key)).ok_or_else(|| {
        let name = &plan.task(id).name;
        Error::input(format!("`{name}` has no result to compare with"))
            .hint(format!("`hashpipe run {} --only {name}` makes it", plan.file.display()))
    })
}

/// Where the task is killed, as parts of its way: nowhere, or at one place drawn by lot.
fn kills(arguments: &Arguments, task: &str, round: u16) -> Vec<f64> {
    if !arguments.resume {
        return vec![];
    }
    let purpose = format!("verify {task}");
    vec![seeded::stream(arguments.seed, &purpose, &[u64::from(round)]).unit()]
}

/// How well a rehearsal agrees with the first result, and in which outputs it does not.
fn judge(first: &Action, again: &Rehearsal) -> (Agreement, Vec<String>) {
    let compared = first.outputs.iter().filter(|(name, _)| !first.varies.contains(name));
    let differ: Vec<String> = compared
        .filter(|(name, object)| again.outputs.get(*name) != Some(&object.digest))
        .map(|(name, _)| name.clone())
        .collect();
    let agreement = match differ.is_empty() {
        true => Agreement::Exact,
        false if close(&first.metrics, &again.metrics) => Agreement::Tolerable,
        false => Agreement::Unstable,
    };
    (agreement, differ)
}

/// Whether there are figures, the same ones, and each within a millionth.
fn close(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> bool {
    const TOLERANCE: f64 = 1e-6;
    let near = |(name, x): (&String, &f64)| {
        b.get(name).is_some_and(|y| (x - y).abs() <= TOLERANCE * x.abs().max(y.abs()).max(1.0))
    };
    !a.is_empty() && a.len() == b.len() && a.iter().all(near)
}

fn row(task: &str, again: &Rehearsal, agreement: Agreement, differ: &[String]) -> Vec<String> {
    let took = duration(again.seconds);
    vec![task.into(), agreement.word().into(), took, again.killed.join("; "), differ.join(", ")]
}

fn to_json(task: &str, again: &Rehearsal, agreement: Agreement, differ: &[String]) -> Value {
    json!({
        "task": task, "result": agreement.word(), "seconds": again.seconds, "killed": again.killed, "differ": differ,
        "outputs": again.outputs, "metrics": again.metrics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_close_within_rounding_only() {
        let metrics = |value: f64| BTreeMap::from([("mAP".to_string(), value)]);
        assert!(close(&metrics(0.5), &metrics(0.5 + 1e-8)));
        assert!(!close(&metrics(0.5), &metrics(0.501)));
        assert!(!close(&metrics(0.5), &BTreeMap::new()) && !close(&BTreeMap::new(), &BTreeMap::new()));
    }
}
