//! `hashpipe status`: what is in the cache.

use super::exit::WORK_TO_DO;
use super::{Folders, Over, plan};
use crate::cache::{Action, State, Store, Watch, survey_by};
use crate::error::{Error, Result};
use crate::report::{self, Meter, age, plural, print, size, table};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The pipeline file; without one, every pipeline the cache knows is shown
    file: Option<PathBuf>,
    #[command(flatten)]
    over: Over,
    #[command(flatten)]
    folders: Folders,
    /// One line of JSON per task
    #[arg(long)]
    json: bool,
    /// Exit with 3 if anything is not cached
    #[arg(long, requires = "file")]
    check: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    match &arguments.file {
        Some(file) => one(arguments, file),
        None if arguments.over.profile.is_some() || !arguments.over.sets.is_empty() => {
            Err(Error::input("`--profile` and `--set` need a pipeline").hint("write `hashpipe status FILE`"))
        }
        None => {
            let folder = arguments.folders.cache.clone().unwrap_or_else(|| PathBuf::from("cache"));
            all(&folder, arguments.json);
            Ok(0)
        }
    }
}

/// Every task of one pipeline.
fn one(arguments: &Arguments, file: &Path) -> Result<u8> {
    let plan = plan(file, &arguments.over)?;
    let targets: Vec<_> = plan.tasks.iter().map(|task| task.id).collect();
    let store = arguments.folders.reader(&plan);
    let watch = Arc::new(Watch::default());
    let digests = store.kept_digests().watched(watch.clone());
    let meter = Meter::new("read");
    let standings = meter.during(|| watch.progress(), || survey_by(&plan, &store, digests.clone(), &targets));
    // A memo that cannot be written costs the next look its time, and this one nothing.
    let _ = digests.save();
    let outstanding = standings.iter().any(|standing| standing.runs != Some(false));
    if arguments.json {
        for standing in &standings {
            print(&standing.to_json(&plan, &store).to_string());
        }
    } else {
        let rows: Vec<Vec<String>> = standings
            .iter()
            .map(|standing| {
                let shown = plan.task(standing.task).step.is_measured();
                let what = match standing.made.as_ref().filter(|_| shown).and_then(|made| store.action(&made.key)) {
                    Some(action) if standing.because.is_empty() => metrics(&action),
                    _ => standing.because.clone(),
                };
                vec![
                    plan.task(standing.task).name.clone(),
                    standing.state.word().into(),
                    standing.key.as_ref().map_or(String::new(), |key| key.short().into()),
                    standing.made.as_ref().map_or(String::new(), |made| age(since(made.made))),
                    standing.made.as_ref().map_or(String::new(), |made| size(made.size())),
                    what,
                ]
            })
            .collect();
        print(&table(&["task", "state", "key", "made", "size", "because, or what it measured"], &rows));
        let counts =
            State::ALL.map(|state| (standings.iter().filter(|standing| standing.state == state).count(), state.word()));
        let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
        print(&format!("\n{}", counts.collect::<Vec<_>>().join(", ")));
    }
    Ok(if arguments.check && outstanding { WORK_TO_DO } else { 0 })
}

/// Every pipeline and task the cache knows.
fn all(folder: &Path, json: bool) {
    let store = Store::at(folder);
    let (mut rows, mut bytes) = (vec![], 0);
    for pipeline in store.pipelines() {
        for (task, attempts) in store.known(&pipeline).tasks() {
            let Some(last) = attempts.last() else { continue };
            let action = store.action(&last.key);
            bytes += action.as_ref().map_or(0, Action::size);
            if json {
                print(
                    &json!({
                        "pipeline": pipeline, "task": task, "key": last.key, "end": last.end,
                        "recorded": action.is_some(), "made": action.as_ref().map(|a| a.made),
                        "size": action.as_ref().map(Action::size), "metrics": action.as_ref().map(|a| &a.metrics),
                    })
                    .to_string(),
                );
            }
            let cell = |text: fn(&Action) -> String| action.as_ref().map_or(String::new(), text);
            rows.push(vec![
                pipeline.clone(),
                task.to_string(),
                last.key.short().to_string(),
                if action.is_some() { age(since(last.at)) } else { last.cause.clone() },
                cell(|action| size(action.size())),
                cell(metrics),
            ]);
        }
    }
    if json {
        return;
    }
    if rows.is_empty() {
        return print(&format!("the cache `{}` knows no pipeline yet; `hashpipe run FILE` fills it", folder.display()));
    }
    print(&table(&["pipeline", "task", "key", "made", "size", "what it measured"], &rows));
    print(&format!("\n{}, {}", plural(rows.len(), "task"), size(bytes)));
}

fn since(made: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().saturating_sub(made))
}

fn metrics(action: &Action) -> String {
    let figures = report::metrics(&action.metrics);
    figures.iter().map(|(name, figure)| format!("{name} {figure}")).collect::<Vec<_>>().join("  ")
}
