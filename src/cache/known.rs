//! What the tasks of a pipeline came to, run after run: one line per attempt, the newest last.
//!
//! From it come `status`, explanations, predicted times, and the results of ten thousand cached tasks in one read. It is
//! a memo: a line that is torn or lost costs an explanation, a lost file some time, and neither gives a wrong result,
//! since what a line says of outputs is checked against the objects as a record is.

use super::action::{Made, Outputs};
use super::key::Key;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How an attempt at a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has a result.
    Done,
    /// It failed.
    Failed,
    /// An input changed while it ran: its result was thrown away.
    Tainted,
    /// The user stopped it.
    Stopped,
}

/// One attempt at a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub task: String,
    pub key: Key,
    pub end: End,
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// Wall time.
    pub seconds: f64,
    /// The run it belongs to.
    pub run: String,
    #[serde(default, skip_serializing_if = "Outputs::is_empty")]
    pub outputs: Outputs,
    /// First line of what went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Its log, below the cache's versioned folder.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// Bytes of GPU memory it used at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<u64>,
    /// It ran out of GPU memory beside others, and gets a card of its own from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// The boot its outputs are known to be whole in; see [`super::Action::boot`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl Attempt {
    pub(super) fn made(&self) -> Made {
        Made { key: self.key.clone(), outputs: self.outputs.clone(), seconds: self.seconds, made: self.at }
    }
}

/// The attempts of one pipeline's tasks.
#[derive(Debug, Default)]
pub struct Known {
    by_task: HashMap<String, Vec<Attempt>>,
    lines: usize,
}

/// Attempts kept per task when the file is written anew.
const KEPT: usize = 12;

impl Known {
    /// Reads what is there; lines that are not whole are passed over.
    pub(super) fn read(path: &Path) -> Self {
        let mut known = Self::default();
        for line in std::fs::read(path).unwrap_or_default().split(|byte| *byte == b'\n') {
            if let Some(attempt) = parse(line) {
                known.lines += 1;
                known.by_task.entry(attempt.task.clone()).or_default().push(attempt);
            }
        }
        known
    }

    /// The attempts at a task, the newest last.
    pub fn attempts(&self, task: &str) -> &[Attempt] {
        self.by_task.get(task).map_or(&[], Vec::as_slice)
    }

    /// The newest attempt at a task.
    pub fn last(&self, task: &str) -> Option<&Attempt> {
        self.attempts(task).last()
    }

    /// The newest attempt at a task that gave a result with this key.
    pub fn done(&self, task: &str, key: &Key) -> Option<&Attempt> {
        self.attempts(task).iter().rev().find(|attempt| attempt.end == End::Done && attempt.key == *key)
    }

    /// Keys a task had results of, the newest first, each once.
    pub fn keys(&self, task: &str) -> Vec<&Key> {
        let mut keys: Vec<&Key> = vec![];
        for attempt in self.attempts(task).iter().rev().filter(|attempt| attempt.end == End::Done) {
            if !keys.contains(&&attempt.key) {
                keys.push(&attempt.key);
            }
        }
        keys
    }

    /// Every task with its attempts, sorted by name.
    pub fn tasks(&self) -> Vec<(&str, &[Attempt])> {
        let mut tasks: Vec<(&str, &[Attempt])> =
            self.by_task.iter().map(|(task, attempts)| (task.as_str(), attempts.as_slice())).collect();
        tasks.sort_unstable_by_key(|(task, _)| *task);
        tasks
    }

    /// Keeps an attempt in mind.
    fn add(&mut self, attempt: Attempt) {
        self.lines += 1;
        self.by_task.entry(attempt.task.clone()).or_default().push(attempt);
    }
}

/// Writes attempts down as they end. Several runs of one pipeline may: each line is one write at the file's end.
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// Held shared while anybody writes: nobody rewrites the file meanwhile.
    lock: Option<File>,
    pub known: Known,
}

impl Journal {
    pub(super) fn open(path: PathBuf) -> Self {
        let known = Known::read(&path);
        Self { path, file: None, lock: None, known }
    }

    /// Writes an attempt down.
    pub fn add(&mut self, attempt: Attempt) -> Result<()> {
        let line = to_line(&attempt);
        self.known.add(attempt);
        let error = |e: std::io::Error| Error::io("write", &self.path, &e);
        if self.file.is_none() {
            let parent = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
            self.lock = Some(File::create(self.path.with_extension("lock")).map_err(error)?);
            if let Some(lock) = &self.lock {
                lock.lock_shared().map_err(error)?;
            }
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(error)?;
            // What a killed run left torn must not spoil the next line.
            file.write_all(b"\n").map_err(error)?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(line.as_bytes()).map_err(error)
    }

    /// Writes the file anew when most of it is old, unless another run writes to it.
    pub fn close(mut self) -> Result<()> {
        self.file = None;
        let Some(lock) = self.lock.take() else { return Ok(()) };
        let _ = lock.unlock();
        if self.known.lines < 1_000 + 4 * self.known.by_task.len() || lock.try_lock().is_err() {
            return Ok(());
        }
        // Another run may have written since this one read.
        let known = Known::read(&self.path);
        let mut text = String::new();
        for (_, attempts) in known.tasks() {
            for attempt in &attempts[attempts.len().saturating_sub(KEPT)..] {
                text.push_str(&to_line(attempt));
            }
        }
        super::write_aside_with(&self.path, text.as_bytes(), super::Sync::No)
    }
}

/// A checksum and the attempt.
fn to_line(attempt: &Attempt) -> String {
    let json = serde_json::to_string(attempt).expect("an attempt is plain data");
    format!("{} {json}\n", checksum(json.as_bytes()))
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_string()
}

fn parse(line: &[u8]) -> Option<Attempt> {
    let (sum, json) = line.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    (checksum(json).as_bytes() == sum).then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(task: &str, key: char, end: End) -> Attempt {
        Attempt {
            task: task.into(),
            key: Key::parse(&key.to_string().repeat(64)).unwrap(),
            end,
            at: 1,
            seconds: 0.5,
            run: "r".into(),
            outputs: Outputs::new(),
            cause: String::new(),
            log: String::new(),
            gpu_memory: None,
            alone: false,
            boot: None,
        }
    }

    #[test]
    fn attempts_come_back_and_torn_lines_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known/p");
        let mut journal = Journal::open(path.clone());
        for (key, end) in [('a', End::Done), ('b', End::Failed), ('c', End::Done), ('a', End::Done)] {
            journal.add(attempt("t", key, end)).unwrap();
        }
        journal.close().unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.truncate(text.len() - 10);
        std::fs::write(&path, text + "\ngarbage\n").unwrap();
        let known = Known::read(&path);
        assert_eq!(known.attempts("t").len(), 3);
        let keys: Vec<char> = known.keys("t").iter().filter_map(|key| key.as_str().chars().next()).collect();
        assert_eq!(keys, ['c', 'a']);
        assert_eq!(known.last("t").unwrap().end, End::Done);
        assert!(known.done("t", &Key::parse(&"b".repeat(64)).unwrap()).is_none());
    }

    #[test]
    fn a_long_history_is_cut_and_its_end_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let mut journal = Journal::open(path.clone());
        for i in 0..1_200 {
            journal.add(Attempt { at: i, ..attempt("t", 'a', End::Done) }).unwrap();
        }
        journal.close().unwrap();
        let known = Known::read(&path);
        assert_eq!((known.attempts("t").len(), known.last("t").unwrap().at), (KEPT, 1_199));
    }
}
