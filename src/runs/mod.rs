//! What happened: a folder for each run, which outlives its results.
//!
//! ```text
//! runs/
//!   261123-143022-kvtz/               day, time (UTC) and a word: sorts by time, and the word is short to type
//!     run.json                        what was asked for, where, how it ended, and every task; written at the begin too
//!     events.jsonl                    a line per event, progress thinned
//!     log/train.hashnet@bits=8.1.txt  what a task's first attempt wrote
//!     lock                            held while the run goes on
//!     pinned                          there if the run is to be kept
//!   newest/<pipeline>                 the pipeline's newest run and the keys its tasks last had
//!   pruned                            when old runs were last removed; locked meanwhile
//! ```
//!
//! A run without an end whose lock is free has died; what its events tell is read into its record. A run in which
//! nothing ran, and whose keys are known from earlier ones, leaves nothing. Readers take no lock.

mod diff;
mod id;
mod keep;
mod record;
mod recorder;
mod thin;
mod trace;

pub use diff::{Comparison, Difference, Measured, compare};
pub use id::RunId;
pub use keep::Keep;
pub use record::{Machine, Outcome, Record, State, Task};
pub use recorder::Recorder;
pub use thin::Thin;
pub use trace::trace;

use crate::cache::{Key, file_name, log_name, write_aside};
use crate::error::{Error, Place, Result};
use crate::event::Line;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

/// The records of a cache's runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runs {
    root: PathBuf,
}

impl Runs {
    /// The records in this folder; it need not exist.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    fn folder(&self, id: &RunId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Folder of a run's logs.
    pub fn logs(&self, id: &RunId) -> PathBuf {
        self.folder(id).join("log")
    }

    /// What an attempt at a task wrote; attempts count from 1.
    pub fn log(&self, id: &RunId, task: &str, attempt: usize) -> PathBuf {
        self.logs(id).join(log_name(task, attempt))
    }

    /// Every run, oldest first.
    pub fn ids(&self) -> Vec<RunId> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut ids: Vec<RunId> = entries.filter_map(|entry| RunId::parse(entry.file_name().to_str()?)).collect();
        ids.sort();
        ids
    }

    /// The run that a text means: `last`, `last-1`, the beginning of an id, or of its word.
    ///
    /// # Errors
    /// If there is no such run, or several.
    pub fn find(&self, text: &str) -> Result<RunId> {
        let ids = self.ids();
        let unknown = |message: String| {
            let newest: Vec<&str> = ids.iter().rev().take(3).map(RunId::as_str).collect();
            let error = Error::input(message).at(Place::Argument(text.to_string()));
            match newest.is_empty() {
                true => error.note(format!("`{}` has no records of runs", self.root.display())),
                false => error.note(format!("the newest are {}", newest.join(", "))).hint("`hashpipe runs` lists them"),
            }
        };
        if let Some(back) = back_from_last(text) {
            let found = ids.len().checked_sub(back + 1).and_then(|position| ids.get(position));
            return found.cloned().ok_or_else(|| {
                unknown(match ids.len() {
                    0 => "there are no runs".into(),
                    1 => "there is only 1 run".into(),
                    count => format!("there are only {count} runs"),
                })
            });
        }
        let mut fitting = ids.iter().filter(|id| id.is_meant_by(text));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok(id.clone()),
            (None, _) => Err(unknown(format!("there is no run `{text}`"))),
            (Some(_), Some(_)) => Err(unknown(format!("`{text}` means several runs"))
                .hint("give more of the id; its last part alone is enough")),
        }
    }

    /// What is known of a run. If it has no end, its events complete the record.
    pub fn read(&self, id: &RunId) -> Result<Record> {
        let path = self.folder(id).join("run.json");
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        let mut record: Record = serde_json::from_slice(&text).map_err(|e| {
            Error::data(format!("the record of run `{id}` cannot be read: {e}"))
                .at(Place::Path(path.display().to_string()))
                .hint("a later version of hashpipe may have written it")
        })?;
        if record.ended.is_none() {
            record.replay(&self.events(id));
            record.outcome = if self.is_going_on(id) { Outcome::Running } else { Outcome::Died };
        }
        Ok(record)
    }

    /// Every run that can be read, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = Record> {
        self.ids().into_iter().rev().filter_map(|id| self.read(&id).ok())
    }

    /// A run's events. A line that was cut short by a crash, or is of an unknown event, is passed over.
    pub fn events(&self, id: &RunId) -> Vec<Line> {
        let text = std::fs::read_to_string(self.folder(id).join("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Whether the process of a run is still there.
    pub fn is_going_on(&self, id: &RunId) -> bool {
        let lock = File::open(self.folder(id).join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// Whether a run is to be kept.
    pub fn is_pinned(&self, id: &RunId) -> bool {
        self.folder(id).join("pinned").exists()
    }

    /// Keeps a run, or lets it go when its time comes.
    pub fn pin(&self, id: &RunId, pinned: bool) -> Result<()> {
        let path = self.folder(id).join("pinned");
        let changed = match (pinned, path.exists()) {
            (true, false) => File::create(&path).map(drop),
            (false, true) => std::fs::remove_file(&path),
            _ => Ok(()),
        };
        changed.map_err(|e| Error::io("write", &path, &e))
    }

    fn newest_path(&self, pipeline: &str) -> PathBuf {
        self.root.join("newest").join(file_name(pipeline))
    }

    /// A pipeline's newest run and the keys its tasks last had.
    fn newest(&self, pipeline: &str) -> Option<(RunId, HashMap<String, Key>)> {
        let text = std::fs::read_to_string(self.newest_path(pipeline)).ok()?;
        let (id, keys) = text.split_once('\n')?;
        let keys = keys.lines().filter_map(|line| line.split_once(' '));
        Some((RunId::parse(id)?, keys.filter_map(|(key, task)| Some((task.to_string(), Key::parse(key)?))).collect()))
    }

    /// The files by which the newest run of a pipeline is known; nothing if there is none.
    pub fn newest_files(&self, pipeline: &str) -> Option<[PathBuf; 2]> {
        let path = self.newest_path(pipeline);
        let text = std::fs::read_to_string(&path).ok()?;
        let id = RunId::parse(text.lines().next()?)?;
        Some([path, self.folder(&id).join("run.json")])
    }

    /// Notes a pipeline's newest run; tasks that were not part of it keep the keys they had.
    fn set_newest(&self, record: &Record) -> Result<()> {
        let mut keys = self.newest(&record.pipeline).map(|(_, keys)| keys).unwrap_or_default();
        keys.extend(record.tasks.iter().filter_map(|task| Some((task.name.clone(), task.key.clone()?))));
        let mut lines: Vec<String> = keys.iter().map(|(task, key)| format!("{key} {task}\n")).collect();
        lines.sort();
        let text = format!("{}\n{}", record.id, lines.concat());
        write_aside(&self.newest_path(&record.pipeline), text.as_bytes())
    }
}

/// How far back from the newest run a text means: 0 for `last`, 1 for `last-1`.
fn back_from_last(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("last")?;
    if rest.is_empty() { Some(0) } else { rest.strip_prefix('-')?.parse().ok() }
}
