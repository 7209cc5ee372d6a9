//! `hashpipe explain`: why a task runs, or where its result came from.

use super::{Folders, Pipeline};
use crate::cache::{
    Action, CONTENT, Comparison, Explained, Line, Now, Standing, Store, compare, left_out, nearest, survey_with_lines,
};
use crate::config::Mark;
use crate::error::Result;
use crate::plan::{Plan, Task};
use crate::report::{age, duration, plural, print, size, table};
use crate::runs::Runs;
use clap::Args;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// A stage, a task, or a kind
    stage: String,
    #[command(flatten)]
    folders: Folders,
    /// Show where a cached result came from, and all that is in its key
    #[arg(long)]
    hit: bool,
    /// Compare with what the task had in this run (an id, its beginning, `last`, `last-1`)
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    /// One line of JSON per task
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let store = arguments.folders.reader(&plan);
    let chosen = plan.select(&arguments.stage)?;
    for standing in survey_with_lines(&plan, &store, &chosen) {
        if !chosen.contains(&standing.task) {
            continue;
        }
        let task = plan.task(standing.task);
        let comparison = comparison(arguments, &plan, &store, task, &standing)?;
        let action = standing.made.as_ref().and_then(|made| store.action(&made.key));
        if arguments.json {
            print(&to_json(&plan, task, &standing, comparison.as_ref(), action.as_ref()).to_string());
            continue;
        }
        let because = if standing.because.is_empty() { String::new() } else { format!(": {}", standing.because) };
        print(&format!("{}  {}{because}", task.name, standing.state.word()));
        match &action {
            Some(action) => origin(action),
            None => print(&standing.error.as_ref().map_or(String::new(), |error| error.render("error"))),
        }
        if let Some(comparison) = &comparison {
            differences(&plan, task, comparison);
        }
        if arguments.hit {
            key(&plan, task, &standing);
        }
    }
    Ok(0)
}

/// What to compare a task with: a run's, or the earlier result that differs least.
fn comparison(
    arguments: &Arguments,
    plan: &Plan,
    store: &Store,
    task: &Task,
    standing: &Standing,
) -> Result<Option<Comparison>> {
    let (Some(lines), Some(contents)) = (&standing.lines, &standing.contents) else { return Ok(None) };
    let now = Now { task, contents, lines };
    if let Some(run) = &arguments.against {
        let runs = Runs::at(store.runs());
        let record = runs.read(&runs.find(run)?)?;
        let then = record.tasks.into_iter().find(|then| then.name == task.name).and_then(|then| then.key);
        return Ok(then.and_then(|key| store.action(&key)).map(|action| compare(store, action, &now)));
    }
    if standing.made.is_some() {
        return Ok(None);
    }
    Ok(nearest(store, &plan.pipeline, &now))
}

fn ago(time: u64) -> String {
    age(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().saturating_sub(time)))
}

/// Where a result came from.
fn origin(action: &Action) {
    let threads =
        if action.gpus.is_empty() { plural(action.threads, "thread") } else { format!("gpu {:?}", action.gpus) };
    print(&format!(
        "  made {} on {} in {}, {threads}, {}; run {}, key {}",
        ago(action.made),
        action.host,
        duration(action.seconds),
        size(action.size()),
        action.run,
        action.key.short()
    ));
    if !action.variants.is_empty() {
        print(&format!("  not deterministic: the same key gave {} other result(s) later", action.variants.len()));
    }
}

fn differences(plan: &Plan, task: &Task, comparison: &Comparison) {
    let Comparison { earlier, differences } = comparison;
    print(&format!(
        "  compared with the result made {} (key {}, run {}):",
        ago(earlier.made),
        earlier.key.short(),
        earlier.run
    ));
    if differences.is_empty() {
        return print("  no difference");
    }
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(|explained| {
            let Explained { difference, detail } = explained;
            let (mut old, mut new) = (told(difference.old.as_deref()), told(difference.new.as_deref()));
            if let Some(detail) = detail {
                (old, new) = (String::new(), detail.clone());
            }
            vec![format!("    {}", short_name(&difference.name)), old, new, place(plan, task, &difference.name)]
        })
        .collect();
    print(&table(&["    what", "before", "now", "where"], &rows));
}

/// A value as a person reads it.
fn told(value: Option<&str>) -> String {
    match value {
        None => "-".into(),
        Some(value) => match value.split_once(CONTENT) {
            Some((before, digest)) => format!("{before}content {}", digest.get(..12).unwrap_or(digest)),
            None => value.to_string(),
        },
    }
}

fn short_name(name: &str) -> &str {
    name.strip_prefix("params.").unwrap_or(name)
}

/// `file:line` of what decides a part of the key.
fn place(plan: &Plan, task: &Task, name: &str) -> String {
    let path = match name {
        "program" => "run",
        name if name.starts_with("env.") => "env",
        name => match name.strip_prefix("params.").or_else(|| name.strip_prefix("seen.")) {
            Some(path) => path,
            None => return String::new(),
        },
    };
    plan.place(task, path, Mark::Value).map_or(String::new(), |place| place.short())
}

/// Every part of a key, each with where it was written, and what the key leaves out.
fn key(plan: &Plan, task: &Task, standing: &Standing) {
    let row = |line: &Line| {
        vec![format!("    {}", short_name(&line.name)), told(Some(&line.value)), place(plan, task, &line.name)]
    };
    let lines = standing.lines.as_deref().unwrap_or_default();
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    print("  its key is made of:");
    print(&table(&["    what", "value", "where"], &rows));
    let rows: Vec<Vec<String>> = left_out(lines).iter().map(row).collect();
    if !rows.is_empty() {
        print("  left out of it, as long as they are what was done before there was a choice:");
        print(&table(&["    what", "value", "where"], &rows));
    }
}

fn to_json(
    plan: &Plan,
    task: &Task,
    standing: &Standing,
    comparison: Option<&Comparison>,
    action: Option<&Action>,
) -> Value {
    let differences = comparison.map(|comparison| {
        let of = |explained: &Explained| {
            let mut value = serde_json::to_value(explained).unwrap_or_default();
            value["place"] = json!(place(plan, task, &explained.difference.name));
            value
        };
        comparison.differences.iter().map(of).collect::<Vec<Value>>()
    });
    json!({
        "task": task.name, "state": standing.state.word(), "because": standing.because, "key": standing.key,
        "lines": standing.lines, "left_out": standing.lines.as_deref().map(left_out), "against": comparison.map(|c| &c.earlier.key), "differences": differences,
        "made": action.map(|a| a.made), "run": action.map(|a| &a.run), "host": action.map(|a| &a.host),
        "seconds": action.map(|a| a.seconds), "variants": action.map(|a| a.variants.len()),
    })
}
