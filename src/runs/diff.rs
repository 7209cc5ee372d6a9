//! Two runs side by side: what was asked for, what went into the keys, what was measured.

use super::{Record, State, Task};
use crate::cache::{Action, Key, Line, with_left_out};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What differs between two runs, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Of the runs themselves: pipeline, profile, `--set`s, variables, host, version, outcome.
    pub settings: Vec<Difference>,
    /// Of the tasks' keys. Where all tasks of a stage agree, one row stands for them.
    pub parameters: Vec<Difference>,
    /// What the tasks measured.
    pub metrics: Vec<Measured>,
    /// Tasks of the first run that the second does not have, and the other way round.
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
    /// Tasks whose records are gone from the cache, so that nothing can be said of their parameters.
    pub unknown: Vec<String>,
}

/// One value in both runs; `null` where it has none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The task, or the stage if all of its tasks agree; empty for settings.
    pub task: String,
    pub name: String,
    pub a: Option<String>,
    pub b: Option<String>,
}

/// One figure in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    pub task: String,
    pub name: String,
    pub a: Option<f64>,
    pub b: Option<f64>,
}

/// Compares two runs, tasks by name. `action` gives a record in the cache.
///
/// With `all`, equal values are told too, and so is content that another task of the run made: it differs because that
/// task's own parameters do.
pub fn compare(a: &Record, b: &Record, action: impl Fn(&Key) -> Option<Action>, all: bool) -> Comparison {
    let (left, right) = (by_name(a), by_name(b));
    let (actions_a, actions_b) = (actions(a, &action), actions(b, &action));
    let made = if all { BTreeSet::new() } else { made(actions_a.values().chain(actions_b.values())) };
    let mut found = Comparison {
        settings: both(&settings(a), &settings(b))
            .into_iter()
            .map(|(name, a, b)| Difference { task: String::new(), name, a, b })
            .filter(|row| all || row.a != row.b)
            .collect(),
        only_a: left.keys().filter(|name| !right.contains_key(*name)).map(ToString::to_string).collect(),
        only_b: right.keys().filter(|name| !left.contains_key(*name)).map(ToString::to_string).collect(),
        ..Comparison::default()
    };
    let mut stages: BTreeMap<&str, Vec<Vec<Difference>>> = BTreeMap::new();
    for (name, task) in &left {
        let Some(other) = right.get(name) else { continue };
        let measured = both(&task.metrics, &other.metrics).into_iter().filter(|(_, a, b)| all || a != b);
        found.metrics.extend(measured.map(|(metric, a, b)| Measured { task: name.to_string(), name: metric, a, b }));
        let rows = match (actions_a.get(name), actions_b.get(name)) {
            _ if task.key == other.key && !all => vec![],
            (Some(a), Some(b)) => {
                let mut rows = rows(name, &parameters(a), &parameters(b), all);
                rows.retain(|row| [&row.a, &row.b].iter().all(|value| !is_made(value.as_deref(), &made)));
                rows
            }
            _ => {
                found.unknown.push(name.to_string());
                continue;
            }
        };
        stages.entry(&task.stage).or_default().push(rows);
    }
    found.parameters = stages.into_iter().flat_map(|(stage, tasks)| folded(stage, tasks)).collect();
    found
}

fn by_name(record: &Record) -> BTreeMap<&str, &Task> {
    let told = record.tasks.iter().filter(|task| task.state != State::Waiting);
    told.map(|task| (task.name.as_str(), task)).collect()
}

/// What was asked for, and where.
fn settings(record: &Record) -> BTreeMap<String, String> {
    let named = |name: &str, value: String| (name.to_string(), value);
    let sets = record.sets.iter().map(|set| {
        let (key, value) = set.split_once('=').unwrap_or((set, ""));
        named(&format!("--set {key}"), value.to_string())
    });
    let environment = record.environment.iter().map(|(name, value)| named(name, value.clone()));
    let cpu = record.machine.cpu.iter().map(|cpu| named("cpu", cpu.clone()));
    let always = [
        named("pipeline", record.pipeline.clone()),
        named("file", record.file.display().to_string()),
        named("host", record.host.clone()),
        named("hashpipe", record.version.clone()),
        named("outcome", record.outcome.word().to_string()),
    ];
    always.into_iter().chain(cpu).chain(sets).chain(environment).collect()
}

/// The records of a run's tasks, as far as the cache has them.
fn actions(record: &Record, action: impl Fn(&Key) -> Option<Action>) -> BTreeMap<&str, Action> {
    let found = record.tasks.iter().filter_map(|task| Some((task.name.as_str(), action(task.key.as_ref()?)?)));
    found.collect()
}

/// Digests of all that these tasks made.
fn made<'a>(actions: impl Iterator<Item = &'a Action>) -> BTreeSet<String> {
    actions.flat_map(|action| action.outputs.values().map(|object| object.digest.clone())).collect()
}

fn is_made(value: Option<&str>, made: &BTreeSet<String>) -> bool {
    value.and_then(|value| value.strip_prefix("blake3:")).is_some_and(|digest| made.contains(digest))
}

/// A task's parameters by name, without the prefix that all of them have.
fn parameters(action: &Action) -> BTreeMap<String, String> {
    let bare = |line: &Line| line.name.strip_prefix("params.").unwrap_or(&line.name).to_string();
    with_left_out(&action.lines).into_iter().map(|line| (bare(&line), line.value)).collect()
}

fn rows(task: &str, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>, all: bool) -> Vec<Difference> {
    let rows = both(a, b).into_iter().filter(|(_, a, b)| all || a != b);
    rows.map(|(name, a, b)| Difference { task: task.to_string(), name, a, b }).collect()
}

/// Every name of two tables, with its value in each.
fn both<V: Clone>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> Vec<(String, Option<V>, Option<V>)> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().map(|name| (name.clone(), a.get(name).cloned(), b.get(name).cloned())).collect()
}

/// The rows of a stage's tasks; one that every task has in the same way is told once, for the stage.
fn folded(stage: &str, tasks: Vec<Vec<Difference>>) -> Vec<Difference> {
    let count = tasks.len();
    let mut agreed: BTreeMap<(String, Option<String>, Option<String>), usize> = BTreeMap::new();
    let shape = |row: &Difference| (row.name.clone(), row.a.clone(), row.b.clone());
    for row in tasks.iter().flatten() {
        *agreed.entry(shape(row)).or_default() += 1;
    }
    let mut told = BTreeSet::new();
    let fold = |row: Difference| {
        let shape = shape(&row);
        if agreed[&shape] < count {
            return Some(row);
        }
        told.insert(shape).then(|| Difference { task: stage.to_string(), ..row })
    };
    tasks.into_iter().flatten().filter_map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: &str, name: &str, a: &str, b: &str) -> Difference {
        Difference { task: task.into(), name: name.into(), a: Some(a.into()), b: Some(b.into()) }
    }

    #[test]
    fn what_all_tasks_of_a_stage_have_in_common_is_told_once() {
        let tasks = vec![
            vec![row("t@bits=8", "epochs", "1", "2"), row("t@bits=8", "seed", "0", "1")],
            vec![row("t@bits=16", "epochs", "1", "2")],
        ];
        assert_eq!(folded("t", tasks), [row("t", "epochs", "1", "2"), row("t@bits=8", "seed", "0", "1")]);
    }

    #[test]
    fn a_value_that_one_side_lacks_differs() {
        let a = BTreeMap::from([("x".to_string(), "1".to_string()), ("y".to_string(), "2".to_string())]);
        let b = BTreeMap::from([("y".to_string(), "2".to_string())]);
        let found = rows("t", &a, &b, false);
        assert_eq!(found, [Difference { b: None, ..row("t", "x", "1", "") }]);
        assert_eq!(rows("t", &a, &b, true).len(), 2);
    }
}
