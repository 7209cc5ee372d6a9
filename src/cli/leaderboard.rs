//! `hashpipe leaderboard`: every evaluation in the cache, where protocols are the same.

use super::history::Cache;
use crate::cache::{Action, Key, Store};
use crate::error::{Error, Result};
use crate::names::known_or_nearest;
use crate::per_query::PerQuery;
use crate::report::{Form, Leaderboard, Named, note, print, sheet};
use crate::runs::Runs;
use clap::{Args, ValueEnum};
use std::collections::{BTreeSet, HashMap};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only results of these pipelines [default: every result in the cache]
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// How to write the tables
    #[arg(long, value_enum, default_value_t = Language::Text)]
    format: Language,
    /// One line of JSON per protocol (short for `--format json`)
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    cache: Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Text,
    Markdown,
    Csv,
    Latex,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let store = arguments.cache.store();
    let mut names = names(&store);
    let known: BTreeSet<String> = names.values().flatten().map(|name| name.pipeline.clone()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let unknown = arguments.pipelines.iter().filter(|pipeline| !known.contains(&pipeline.as_str()));
    let errors = unknown.map(|pipeline| {
        Error::input(format!("the cache knows no pipeline `{pipeline}`")).hint(known_or_nearest(
            pipeline,
            &known,
            "pipelines",
        ))
    });
    if let Some(error) = Error::all(errors.collect()) {
        return Err(error);
    }
    let all = arguments.pipelines.is_empty();
    for named in names.values_mut() {
        named.retain(|name| all || arguments.pipelines.contains(&name.pipeline));
    }
    let per_query = |action: &Action| {
        let results = store.object_path(action.outputs.get("per_query")?);
        PerQuery::read(&results).ok()?.numbers("ap")
    };
    let boards = Leaderboard::all(&store.actions(), &names, all, &per_query);
    let form = match arguments.format {
        _ if arguments.json => None,
        Language::Json => None,
        Language::Text => Some(Form::Text),
        Language::Markdown => Some(Form::Markdown),
        Language::Csv => Some(Form::Csv),
        Language::Latex => Some(Form::Latex),
    };
    match form {
        None => boards.iter().for_each(|board| {
            print(&serde_json::to_string(board).expect("a leaderboard is plain data"));
        }),
        // A program that reads a table would take the words for its head.
        Some(Form::Csv) if boards.is_empty() => note("nothing was evaluated yet"),
        Some(_) if boards.is_empty() => print("nothing was evaluated yet"),
        Some(Form::Csv) => print(&sheet(&boards).to_form(Form::Csv)),
        Some(form) => print(&texts(&boards, form)),
    }
    Ok(0)
}

fn texts(boards: &[Leaderboard], form: Form) -> String {
    let texts: Vec<String> = boards.iter().map(|board| text(board, form)).collect();
    let legend = Leaderboard::legend();
    match form {
        Form::Latex => format!("{}\n\n% {}", texts.join("\n\n"), legend.join("\n% ")),
        Form::Text | Form::Markdown | Form::Csv => format!("{}\n\n{}", texts.join("\n\n"), legend.join("\n")),
    }
}

fn text(board: &Leaderboard, form: Form) -> String {
    let (title, table) = (board.title(), board.to_table().to_form(form));
    match form {
        Form::Text => format!("{title}\n{table}"),
        Form::Markdown => format!("## {title}\n\n{table}"),
        Form::Latex => format!("% {title}\n{table}"),
        Form::Csv => table,
    }
}

/// What each result was called, in the recorded runs and in the last run of each pipeline.
pub(super) fn names(store: &Store) -> HashMap<Key, BTreeSet<Named>> {
    let mut names: HashMap<Key, BTreeSet<Named>> = HashMap::new();
    for pipeline in store.pipelines() {
        for (task, attempts) in store.known(&pipeline).tasks() {
            let Some(last) = attempts.last() else { continue };
            let named = Named { pipeline: pipeline.clone(), task: task.to_string() };
            names.entry(last.key.clone()).or_default().insert(named);
        }
    }
    for record in Runs::at(store.runs()).newest_first() {
        for task in record.tasks {
            if let Some(key) = task.key {
                names.entry(key).or_default().insert(Named { pipeline: record.pipeline.clone(), task: task.name });
            }
        }
    }
    names
}
