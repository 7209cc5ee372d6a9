//! `hashpipe cache verify`: whether every byte is what it was.

use super::Folder;
use crate::cache::{Fault, Verified, verify};
use crate::error::{Kind, Result};
use crate::report::{Meter, count, plural, print, size};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// Move what is bad away, so that the next run makes it again
    #[arg(long)]
    repair: bool,
    /// Threads to read with [default: all cores]
    #[arg(long, short, value_name = "N", env = "HASHPIPE_JOBS", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// One line of JSON per fault, and one with the sums
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let store = arguments.folder.open()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meter = Meter::new("checked");
    let jobs = arguments.jobs.map_or(cores, usize::from);
    let verified = verify(&store, jobs, arguments.repair, &|done, total| meter.show(done, total))?;
    drop(meter);
    if arguments.json {
        lines(&verified)
    } else {
        text(&verified, arguments.repair)
    }
    Ok(if verified.faults.is_empty() { 0 } else { Kind::Cache.exit_code() })
}

fn text(verified: &Verified, repair: bool) {
    for fault in &verified.faults {
        let Fault { what, path, problem, moved, .. } = fault;
        let moved = moved.as_ref().map_or(String::new(), |to| format!("\n  moved to {}", to.display()));
        print(&format!("bad {what}: {}\n  {problem}{moved}", path.display()));
    }
    let tasks: BTreeSet<&(String, String)> = verified.faults.iter().flat_map(|fault| &fault.tasks).collect();
    if !tasks.is_empty() {
        print(if repair {
            "these tasks run again when they are needed:"
        } else {
            "results of these tasks are affected:"
        });
        tasks.iter().for_each(|(pipeline, task)| print(&format!("  {pipeline}: {task}")));
    }
    let Verified { records, objects, bytes, evicted, orphans, faults } = verified;
    print(&format!(
        "{}, {} of {}: {} bad, {} evicted, {} of no result",
        plural(*records, "record"),
        plural(*objects, "object"),
        size(*bytes),
        count(faults.len() as u64),
        count(*evicted as u64),
        count(*orphans as u64)
    ));
    if !faults.is_empty() && !repair {
        print("`hashpipe cache verify --repair` moves what is bad away, and the next run makes it again");
    }
}

fn lines(verified: &Verified) {
    for fault in &verified.faults {
        let tasks: Vec<_> =
            fault.tasks.iter().map(|(pipeline, task)| json!({ "pipeline": pipeline, "task": task })).collect();
        let line = json!({
            "what": fault.what, "path": fault.path, "problem": fault.problem, "tasks": tasks, "moved": fault.moved,
        });
        print(&line.to_string());
    }
    let Verified { records, objects, bytes, evicted, orphans, faults } = verified;
    let total = json!({
        "what": "total", "records": records, "objects": objects, "bytes": bytes, "bad": faults.len(),
        "evicted": evicted, "orphans": orphans,
    });
    print(&total.to_string());
}
