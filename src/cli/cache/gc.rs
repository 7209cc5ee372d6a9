//! `hashpipe cache gc`: frees room.

use super::{Folder, limits};
use crate::amounts::{Bytes, Period};
use crate::cache::{Freed, GRACE, Item, Limits, Request, What, gc};
use crate::error::Result;
use crate::report::{duration, note, plural, print, size, table};
use clap::Args;
use serde_json::json;
use std::time::SystemTime;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// Give up what is cheapest to make again until the cache is no larger, as in `50GiB`
    #[arg(long, value_name = "SIZE", env = "HASHPIPE_CACHE_MAX_SIZE")]
    max_size: Option<Bytes>,
    /// Give up results that no run has used for so long, as in `30d`
    #[arg(long, value_name = "TIME")]
    max_age: Option<Period>,
    /// Give up what is cheapest to make again until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free: Option<Bytes>,
    /// Leave alone objects that no record names and that are younger [default: 1h]
    #[arg(long, value_name = "TIME")]
    grace: Option<Period>,
    /// Show what would go, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// One line of JSON per item, and one with the sums
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let Arguments { max_size, max_age, min_free, dry_run, .. } = *arguments;
    let store = arguments.folder.open()?;
    let request = Request {
        limits: Limits { max_size, max_age, min_free }.over(limits(&arguments.folder.cache)?),
        grace: arguments.grace.map_or(GRACE, |grace| grace.0),
        dry_run,
        now: SystemTime::now(),
    };
    let freed = gc(&store, &request, &|whom| note(&format!("hashpipe: waits for {whom}")))?;
    if arguments.json {
        lines(&freed, dry_run)
    } else {
        text(&freed, &request)
    }
    for failure in &freed.failures {
        note(&failure.render("warning"));
    }
    Ok(freed.failures.first().map_or(0, |error| error.kind().exit_code()))
}

fn text(freed: &Freed, request: &Request) {
    if request.dry_run && !freed.items.is_empty() {
        let row = |item: &Item| {
            let again = if item.what == What::Result { duration(item.seconds) } else { String::new() };
            vec![size(item.bytes), item.what.word().into(), item.name.clone(), again, item.because()]
        };
        let rows: Vec<Vec<String>> = freed.items.iter().map(row).collect();
        print(&table(&["size", "what", "of", "to make again", "because"], &rows));
    }
    let (freed_word, holds) = if request.dry_run { ("would free", "would hold") } else { ("freed", "holds") };
    let parts = sums(&freed.items);
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    print(&format!(
        "{freed_word} {}{parts}; the cache {holds} {}{}",
        size(freed.before - freed.after),
        size(freed.after),
        request.limits.max_size.map_or(String::new(), |most| format!(" of at most {}", size(most.0)))
    ));
    if freed.short_by > 0 {
        note(&format!(
            "warning: {} more would have to go; results of {} are pinned or in use, and records and logs stay",
            size(freed.short_by),
            size(freed.safe)
        ));
    }
}

/// How many of each kind, and what making them again takes.
fn sums(items: &[Item]) -> Vec<String> {
    let sum = |what: What| {
        let of = || items.iter().filter(|item| item.what == what);
        let seconds = of().fold(0.0, |sum, item| sum + item.seconds);
        let again =
            if what == What::Result { format!(" ({} to make again)", duration(seconds)) } else { String::new() };
        (of().count() > 0).then(|| format!("{}{again}", plural(of().count(), what.word())))
    };
    What::ALL.into_iter().filter_map(sum).collect()
}

fn lines(freed: &Freed, dry_run: bool) {
    for item in &freed.items {
        let line = json!({
            "what": item.what.word(), "name": item.name, "key": item.key, "why": item.because(), "bytes": item.bytes,
            "seconds": item.seconds,
        });
        print(&line.to_string());
    }
    let total = json!({
        "what": "total", "dry_run": dry_run, "before": freed.before, "after": freed.after,
        "seconds": freed.items.iter().fold(0.0, |sum, item| sum + item.seconds), "short_by": freed.short_by,
        "safe": freed.safe, "failures": freed.failures.len(),
    });
    print(&total.to_string());
}
