//! `hashpipe cache du`: what takes how much room.

use super::Folder;
use crate::cache::{GRACE, StageUsage, Usage, usage};
use crate::error::Result;
use crate::report::{count, print, size, table};
use clap::Args;
use serde_json::json;
use std::time::SystemTime;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// One line of JSON per row
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let usage = usage(&arguments.folder.open()?, GRACE, SystemTime::now())?;
    if arguments.json {
        lines(&usage)
    } else {
        text(&usage)
    }
    Ok(0)
}

fn text(usage: &Usage) {
    let known = |text: &str| if text.is_empty() { "(none)".to_string() } else { text.to_string() };
    let stages: Vec<Vec<String>> = usage
        .stages
        .iter()
        .map(|stage| {
            let StageUsage { pipeline, stage, kind, results, evicted, own, shared } = stage;
            let [results, evicted] = [results, evicted].map(|n| count(*n as u64));
            vec![known(pipeline), known(stage), kind.clone(), results, evicted, size(*own), size(*shared)]
        })
        .collect();
    print(&table(&["pipeline", "stage", "kind", "results", "evicted", "size", "shared"], &stages));
    let own: u64 = usage.stages.iter().map(|stage| stage.own).sum();
    let results: usize = usage.stages.iter().map(|stage| stage.results).sum();
    let objects = [
        ("results of one stage", results, own),
        ("objects that stages share", usage.shared.0, usage.shared.1),
        ("objects of no result", usage.unused.0, usage.unused.1),
    ];
    let rows = objects
        .iter()
        .chain(&usage.others)
        .map(|(what, n, bytes)| vec![(*what).to_string(), count(*n as u64), size(*bytes)]);
    let total = vec!["total".to_string(), String::new(), size(usage.total)];
    print(&format!("\n{}", table(&["what", "number", "size"], &rows.chain([total]).collect::<Vec<_>>())));
    print(&format!(
        "\n{} can be used by nothing: `hashpipe cache gc` frees it\n{} are results that are no task's newest; {} are pinned",
        size(usage.free),
        size(usage.superseded),
        size(usage.pinned)
    ));
}

fn lines(usage: &Usage) {
    for stage in &usage.stages {
        let StageUsage { pipeline, stage, kind, results, evicted, own, shared } = stage;
        let row = json!({
            "what": "stage", "pipeline": pipeline, "stage": stage, "kind": kind, "results": results,
            "evicted": evicted, "bytes": own, "shared": shared,
        });
        print(&row.to_string());
    }
    let objects = [("shared", usage.shared.0, usage.shared.1), ("unused", usage.unused.0, usage.unused.1)];
    for (what, number, bytes) in objects.iter().chain(&usage.others) {
        print(&json!({ "what": what, "number": number, "bytes": bytes }).to_string());
    }
    let total = json!({
        "what": "total", "bytes": usage.total, "free": usage.free, "superseded": usage.superseded,
        "pinned": usage.pinned,
    });
    print(&total.to_string());
}
