//! `hashpipe log`: what a stage wrote while it ran, in this run or in the one that made its result.

use super::history::Cache;
use crate::error::{Error, Place, Result};
use crate::names::known_or_nearest;
use crate::report::{note, print_bytes};
use crate::runs::{Record, RunId, Runs, State, Task};
use clap::Args;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A task (`train.a@bits=16`), a stage (`train.a`) or a kind (`train`)
    stage: String,
    /// The run [default: the newest that has the stage]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Which attempt, from 1 [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    attempt: Option<u16>,
    /// Go on as long as the task does
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    cache: Cache,
}

/// A log, and the run it was written in.
struct Log {
    run: RunId,
    attempt: usize,
    path: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let runs = arguments.cache.runs();
    let record = choose(&runs, arguments)?;
    let tasks: Vec<&Task> = record.tasks.iter().filter(|task| is_meant(task, &arguments.stage)).collect();
    let found: Vec<(&Task, Option<Log>)> =
        tasks.iter().map(|task| (*task, log(&runs, &record, task, arguments.attempt))).collect();
    if let [(task, None)] = found[..] {
        return Err(no_log(&record, task, arguments.attempt));
    }
    if arguments.follow {
        let [(task, Some(log))] = &found[..] else {
            let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
            return Err(Error::input(format!("`{}` means several tasks, and one can be followed", arguments.stage))
                .note(format!("there are: {}", names.join(", "))));
        };
        note(&heading(task, log));
        return follow(&runs, log, &task.name);
    }
    for (task, log) in &found {
        match log {
            Some(log) => {
                note(&heading(task, log));
                let text = std::fs::read(&log.path).map_err(|e| Error::io("read", &log.path, &e))?;
                print_bytes(&text);
            }
            None => note(&no_log(&record, task, arguments.attempt).render("note")),
        }
    }
    Ok(0)
}

fn heading(task: &Task, log: &Log) -> String {
    format!("==> {}, run {}, attempt {}: {} <==", task.name, log.run, log.attempt, log.path.display())
}

/// The run that was asked for, or the newest that has the stage.
fn choose(runs: &Runs, arguments: &Arguments) -> Result<Record> {
    let has = |record: &Record| record.tasks.iter().any(|task| is_meant(task, &arguments.stage));
    let (record, newest) = match &arguments.run {
        Some(run) => {
            let record = runs.read(&runs.find(run)?)?;
            (Some(record.clone()).filter(has), Some(record))
        }
        None => (runs.newest_first().find(has), runs.newest_first().next()),
    };
    record.ok_or_else(|| {
        let place = Place::Argument(arguments.stage.clone());
        let Some(newest) = newest else {
            return Error::input("there are no records of runs here").at(place).hint("`hashpipe run FILE` leaves one");
        };
        let names: Vec<&str> = newest.tasks.iter().flat_map(|task| [task.stage.as_str(), task.name.as_str()]).collect();
        Error::input(format!("no run has a stage `{}`", arguments.stage)).at(place).hint(known_or_nearest(
            &arguments.stage,
            &names,
            "stages",
        ))
    })
}

fn is_meant(task: &Task, pattern: &str) -> bool {
    let kind = task.stage.split('.').next().unwrap_or_default();
    [task.name.as_str(), task.stage.as_str(), kind].contains(&pattern)
}

/// A task's log in a run, or in the one that made the result this run found.
fn log(runs: &Runs, record: &Record, task: &Task, attempt: Option<u16>) -> Option<Log> {
    let (run, attempts) = match task.attempts {
        0 => maker(runs, task)?,
        attempts => (record.id.clone(), attempts),
    };
    let attempt = attempt.map_or(attempts, usize::from);
    let path = runs.log(&run, &task.name, attempt);
    path.exists().then_some(Log { run, attempt, path })
}

/// The run in which a task with this key ran, and how often it was started there.
fn maker(runs: &Runs, task: &Task) -> Option<(RunId, usize)> {
    let key = task.key.as_ref()?;
    runs.newest_first().find_map(|record| {
        let made =
            |other: &&Task| other.state == State::Done && other.key.as_ref() == Some(key) && other.name == task.name;
        let attempts = record.tasks.iter().find(made)?.attempts;
        Some((record.id, attempts))
    })
}

fn no_log(record: &Record, task: &Task, attempt: Option<u16>) -> Error {
    let error = Error::input(format!("there is no log of `{}`", task.name));
    match (task.attempts, attempt) {
        (0, _) if task.state == State::Cached => {
            error.note(format!("run {} found its result, and the run that made it is no longer recorded", record.id))
        }
        (0, _) => error.note(format!("it was not started in run {}: {}", record.id, task.state.word())),
        (attempts, Some(attempt)) if usize::from(attempt) > attempts => {
            error.note(format!("it was started {attempts} times in run {}, not {attempt}", record.id))
        }
        _ => error.note(format!("it was removed from the record of run {}", record.id)),
    }
}

/// Shows a log as it grows, until the task is over.
fn follow(runs: &Runs, log: &Log, task: &str) -> Result<u8> {
    const AGAIN: Duration = Duration::from_millis(200);
    let mut file = File::open(&log.path).map_err(|e| Error::io("read", &log.path, &e))?;
    loop {
        // Asked before reading, so that nothing written at the very end is missed.
        let over = is_over(runs, &log.run, task);
        let mut text = vec![];
        file.read_to_end(&mut text).map_err(|e| Error::io("read", &log.path, &e))?;
        if !print_bytes(&text) || over {
            return Ok(0);
        }
        std::thread::sleep(AGAIN);
    }
}

fn is_over(runs: &Runs, run: &RunId, task: &str) -> bool {
    let running = |record: &Record| record.tasks.iter().any(|t| t.name == task && t.state == State::Running);
    !runs.is_going_on(run) || runs.read(run).is_ok_and(|record| !running(&record))
}
