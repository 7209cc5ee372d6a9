//! `hashpipe status`: what is in the cache.

use super::exit::WORK_TO_DO;
use super::{Folders, Over, plan};
use crate::cache::{Action, State, Store, survey};
use crate::error::{Error, Result};
use crate::report::{self, age, plural, print, size, table};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
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
    let standings = survey(&plan, &arguments.folders.reader(&plan), &targets, &[]);
    let outstanding = standings.iter().any(|standing| standing.state != State::Cached);
    if arguments.json {
        for standing in &standings {
            print(&standing.to_json(&plan).to_string());
        }
    } else {
        let rows: Vec<Vec<String>> = standings
            .iter()
            .map(|standing| {
                let what = match &standing.action {
                    Some(action) => metrics(action),
                    None => standing.because.clone(),
                };
                vec![
                    plan.task(standing.task).name.clone(),
                    standing.state.word().into(),
                    standing.key.as_ref().map_or(String::new(), |key| key.short().into()),
                    standing.action.as_ref().map_or(String::new(), |action| age(since(action))),
                    standing.action.as_ref().map_or(String::new(), |action| size(action.size())),
                    what,
                ]
            })
            .collect();
        print(&table(&["task", "state", "key", "made", "size", "because, or what it measured"], &rows));
        let counts = [State::Cached, State::Ready, State::Stale, State::Blocked, State::Missing]
            .map(|state| (standings.iter().filter(|standing| standing.state == state).count(), state.word()));
        let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
        print(&format!("\n{}", counts.collect::<Vec<_>>().join(", ")));
    }
    Ok(if arguments.check && outstanding { WORK_TO_DO } else { 0 })
}

/// Every pipeline and task the cache knows.
fn all(folder: &Path, json: bool) {
    let store = Store::at(folder);
    let known = store.known();
    let mut rows = vec![];
    for (pipeline, task, key) in &known {
        let action = store.action(key);
        if json {
            print(
                &json!({
                    "pipeline": pipeline, "task": task, "key": key, "recorded": action.is_some(),
                    "made": action.as_ref().map(|a| a.made), "size": action.as_ref().map(Action::size),
                    "metrics": action.as_ref().map(|a| &a.metrics),
                })
                .to_string(),
            );
        }
        let cell = |text: fn(&Action) -> String| action.as_ref().map_or("gone".into(), text);
        rows.push(vec![
            pipeline.clone(),
            task.clone(),
            key.short().to_string(),
            cell(|action| age(since(action))),
            cell(|action| size(action.size())),
            action.as_ref().map_or(String::new(), metrics),
        ]);
    }
    if json {
        return;
    }
    if rows.is_empty() {
        return print(&format!("the cache `{}` knows no pipeline yet; `hashpipe run FILE` fills it", folder.display()));
    }
    print(&table(&["pipeline", "task", "key", "made", "size", "what it measured"], &rows));
    let bytes: u64 = known.iter().filter_map(|(_, _, key)| store.action(key)).map(|action| action.size()).sum();
    print(&format!("\n{}, {}", plural(rows.len(), "task"), size(bytes)));
}

fn since(action: &Action) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().saturating_sub(action.made))
}

fn metrics(action: &Action) -> String {
    let figures = report::metrics(&action.metrics);
    figures.iter().map(|(name, figure)| format!("{name} {figure}")).collect::<Vec<_>>().join("  ")
}
