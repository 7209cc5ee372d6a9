//! `hashpipe runs`: what was run, when, and how it ended.

use super::history::{Cache, now};
use crate::error::Result;
use crate::report::{age, duration, print, table};
use crate::runs::{Record, State};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only runs of these pipelines
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// How many, from the newest; 0 for all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    number: usize,
    /// One line of JSON per run
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: Cache,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let runs = arguments.cache.runs();
    let wanted = |record: &Record| arguments.pipelines.is_empty() || arguments.pipelines.contains(&record.pipeline);
    let most = if arguments.number == 0 { usize::MAX } else { arguments.number };
    let found: Vec<Record> = runs.newest_first().filter(wanted).take(most).collect();
    if arguments.json {
        for record in &found {
            print(&to_json(record, runs.is_pinned(&record.id)).to_string());
        }
        return Ok(0);
    }
    if found.is_empty() {
        print("there are no records of runs here; `hashpipe run FILE` leaves one whenever something ran");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = found.iter().map(|record| row(record, runs.is_pinned(&record.id))).collect();
    print(&table(&["run", "when", "pipeline", "outcome", "ran", "cached", "failed", "took", "saved"], &rows));
    Ok(0)
}

fn row(record: &Record, pinned: bool) -> Vec<String> {
    let count = |state| record.count(state).to_string();
    let pin = if pinned { ", pinned" } else { "" };
    vec![
        record.id.to_string(),
        age((now() - record.began).max(0.0) as u64),
        record.pipeline.clone(),
        format!("{}{pin}", record.outcome.word()),
        count(State::Done),
        count(State::Cached),
        count(State::Failed),
        // When one that died did so, nobody knows.
        if record.outcome == crate::runs::Outcome::Died { String::new() } else { duration(record.seconds(now())) },
        duration(record.saved),
    ]
}

/// The record without its tasks.
fn to_json(record: &Record, pinned: bool) -> Value {
    let mut json = serde_json::to_value(record).expect("a record is plain data");
    if let Some(members) = json.as_object_mut() {
        members.remove("tasks");
        members.insert("pinned".into(), pinned.into());
        for state in [State::Done, State::Cached, State::Failed, State::Blocked, State::Stopped] {
            let name = if state == State::Done { "ran" } else { state.word() };
            members.insert(name.into(), json!(record.count(state)));
        }
    }
    json
}
