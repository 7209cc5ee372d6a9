//! `hashpipe diff`: two runs side by side.

use super::history::Cache;
use crate::error::Result;
use crate::report::{plural, print, table};
use crate::runs::{Comparison, Difference, Measured, compare};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A run: `last`, `last-1`, or the beginning of its id or of the id's last part
    a: String,
    /// The run to compare it with
    b: String,
    /// Also what is the same in both, and what differs only because an earlier task does
    #[arg(long)]
    all: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: Cache,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let (a, b) = (arguments.cache.run(&arguments.a)?, arguments.cache.run(&arguments.b)?);
    let store = arguments.cache.store();
    let found = compare(&a, &b, |key| store.action(key), arguments.all);
    if arguments.json {
        let mut json = serde_json::to_value(&found).expect("a comparison is plain data");
        (json["a"], json["b"]) = (json!(a.id), json!(b.id));
        print(&json.to_string());
        return Ok(0);
    }
    print(&text(&found, a.id.as_str(), b.id.as_str()));
    Ok(0)
}

fn text(found: &Comparison, a: &str, b: &str) -> String {
    let mut parts = vec![];
    let values = |row: &Difference| [shown(row.a.as_deref()), shown(row.b.as_deref())];
    if !found.settings.is_empty() {
        let rows: Vec<Vec<String>> =
            found.settings.iter().map(|row| [vec![row.name.clone()], values(row).to_vec()].concat()).collect();
        parts.push(table(&["setting", a, b], &rows));
    }
    if !found.parameters.is_empty() {
        let row = |row: &Difference| [vec![row.task.clone(), row.name.clone()], values(row).to_vec()].concat();
        parts.push(table(&["task", "parameter", a, b], &found.parameters.iter().map(row).collect::<Vec<_>>()));
    }
    if !found.metrics.is_empty() {
        let rows: Vec<Vec<String>> = found.metrics.iter().map(measured).collect();
        parts.push(table(&["task", "metric", a, b, "change"], &rows));
    }
    for (run, tasks) in [(a, &found.only_a), (b, &found.only_b)] {
        if !tasks.is_empty() {
            parts.push(format!("only in {run}: {}", by_stage(tasks)));
        }
    }
    if !found.unknown.is_empty() {
        parts.push(format!("no longer in the cache, so nothing is known of: {}", by_stage(&found.unknown)));
    }
    if parts.is_empty() { format!("{a} and {b} differ in nothing") } else { parts.join("\n\n") }
}

/// Tasks by name, or if they are many, counted by stage.
fn by_stage(tasks: &[String]) -> String {
    const FEW: usize = 4;
    if tasks.len() <= FEW {
        return tasks.join(", ");
    }
    let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks {
        *stages.entry(task.split('@').next().unwrap_or(task)).or_default() += 1;
    }
    let told = stages.iter().map(|(stage, tasks)| format!("{} of {stage}", plural(*tasks, "task")));
    told.collect::<Vec<_>>().join(", ")
}

/// A value; of content, as much as tells it apart.
fn shown(value: Option<&str>) -> String {
    const DIGITS: usize = 12;
    let Some(value) = value else { return "-".into() };
    match value.split_once("blake3:") {
        Some((before, digest)) => format!("{before}blake3:{}", digest.get(..DIGITS).unwrap_or(digest)),
        None => value.to_string(),
    }
}

fn measured(row: &Measured) -> Vec<String> {
    let figure = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    let change = row.a.zip(row.b).map_or(String::new(), |(a, b)| format!("{:+.4}", b - a));
    vec![row.task.clone(), row.name.clone(), figure(row.a), figure(row.b), change]
}
