//! Everything a running stage may ask of the world, and what it says back.

use super::Ref;
use crate::error::{Error, Kind, Result};
use crate::process::Usage;
use crate::threads;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A task as it is handed to the process that runs it: self-contained, so that running it elsewhere changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Name in messages: `train.hashnet@bits=64`.
    pub task: String,
    /// Kind of stage.
    pub kind: String,
    /// Its parameters, with references as `{"$ref": ..}`.
    pub params: Value,
    /// What each reference means, by its text.
    pub inputs: BTreeMap<String, Input>,
    /// Folder that relative paths are taken from.
    pub project: PathBuf,
    /// Empty folder for the outputs.
    pub outputs: PathBuf,
    /// Folder that outlives a failed attempt: checkpoints to resume from.
    pub scratch: PathBuf,
    /// Folder of finished parts of results, shared by all tasks of the cache; it need not exist.
    pub shards: PathBuf,
    /// Outputs of a smaller result to go on from, by name, with the digests of its record; empty if there is none.
    #[serde(default)]
    pub extends_from: BTreeMap<String, Input>,
    /// Threads to use.
    pub threads: usize,
    /// The GPUs to use, by their numbers on this machine. The task sees no others, and counts these from 0.
    pub gpus: Vec<usize>,
    /// Bytes of each GPU's memory that were reserved for the task; nothing for a card that it has alone.
    #[serde(default)]
    pub gpu_memory: Vec<Option<u64>>,
}

/// What a reference means.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub path: PathBuf,
    /// blake3 of its content.
    pub digest: String,
    /// Folder of the images it names, if it is a list.
    pub images: Option<PathBuf>,
    /// The path it has for the user: as named in the pipeline, or where another stage's output is put. Empty if it has
    /// none.
    pub known_as: String,
}

/// What a running stage says: one JSON line each on its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Message {
    /// How far it is.
    Progress { done: u64, total: u64, note: String },
    /// A figure worth showing beside the stage.
    Metric { name: String, value: f64 },
    /// A text worth keeping beside the result.
    Fact { name: String, text: String },
    /// What the task has used.
    Usage(Usage),
    /// It works with so many threads from now on.
    Threads { threads: usize },
    /// Something the user should know; kept with the result.
    Warning { text: String },
    /// It failed: the rendered error and the exit code that goes with it.
    Failed { error: String, exit_code: u8 },
}

/// Set when the stage should stop at the next opportunity.
pub type Stop = Arc<AtomicBool>;

/// The world of a running stage.
pub struct Ctx {
    job: Job,
    stop: Stop,
    say: Box<dyn FnMut(Message)>,
    /// Threads it works with.
    threads: usize,
    last_progress: Option<Instant>,
    /// Least time between two words of progress.
    pause: Duration,
}

impl Ctx {
    pub fn new(job: Job, stop: Stop, say: Box<dyn FnMut(Message)>) -> Self {
        Self { threads: job.threads, job, stop, say, last_progress: None, pause: Duration::from_millis(100) }
    }

    /// Tells every step, so that a test can stop at one of its choice.
    #[cfg(test)]
    pub(super) fn without_pause(self) -> Self {
        Self { pause: Duration::ZERO, ..self }
    }

    /// The input's meaning.
    fn input(&self, input: &Ref) -> Result<&Input> {
        self.job.inputs.get(&input.0).ok_or_else(|| Error::input(format!("`{}` was not resolved", input.0)))
    }

    /// Where an input lies.
    pub fn path(&self, input: &Ref) -> Result<&Path> {
        Ok(&self.input(input)?.path)
    }

    /// blake3 of an input's content.
    pub fn digest(&self, input: &Ref) -> Result<&str> {
        Ok(&self.input(input)?.digest)
    }

    /// Where the images of a list lie.
    pub fn images(&self, list: &Ref) -> Result<&Path> {
        self.input(list)?.images.as_deref().ok_or_else(|| {
            Error::input(format!("`{}` is not a list made by a `lists` stage", list.0))
                .hint("give an output of a `lists` stage, as in \"lists.name/train\"")
        })
    }

    /// Where to write an output.
    pub fn output(&self, name: &str) -> PathBuf {
        self.job.outputs.join(name)
    }

    /// The task's private folder, gone when it has ended.
    pub fn folder(&self) -> PathBuf {
        self.job.outputs.with_file_name("work")
    }

    /// The path an input has for the user; empty if it has none.
    pub fn known_as(&self, input: &Ref) -> Result<String> {
        Ok(self.input(input)?.known_as.clone())
    }

    /// Threads it works with, since its last step.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Between two steps nobody is at work: whoever hands its steps to [`threads::step`] does the next one on as many
    /// threads as are wanted now.
    fn follow_threads(&mut self) {
        if let Some(threads) = threads::wanted().filter(|threads| *threads != self.threads) {
            self.threads = threads;
            (self.say)(Message::Threads { threads });
        }
    }

    /// Whether the user asked it to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Shows a line that a program of the user's wrote.
    pub fn said(&mut self, line: &str) {
        const EVERY: Duration = Duration::from_millis(100);
        const LONGEST: usize = 200;
        if !line.is_empty() && self.last_progress.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last_progress = Some(Instant::now());
            (self.say)(Message::Progress { done: 0, total: 0, note: line.chars().take(LONGEST).collect() });
        }
    }

    /// A folder that outlives a failed attempt.
    pub fn scratch(&self) -> &Path {
        &self.job.scratch
    }

    /// Where finished parts of results are kept, for all tasks of the cache.
    pub fn shards(&self) -> &Path {
        &self.job.shards
    }

    /// An output of a smaller result to go on from.
    pub fn extends_from(&self, output: &str) -> Option<&Input> {
        self.job.extends_from.get(output)
    }

    /// Checks that an input still is what its digest says. To be called after it was read, where what is made of it is
    /// kept even if the task fails.
    pub fn check_unchanged(&self, input: &Ref) -> Result<()> {
        let Input { path, digest, .. } = self.input(input)?;
        let mut hasher = blake3::Hasher::new();
        let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
        read.map_err(|e| Error::io("read", path, &e))?;
        if hasher.finalize().to_hex().as_str() != digest {
            return Err(Error::new(Kind::Changed, format!("`{}` changed while it was read", input.0))
                .hint("run again once the file is no longer written to"));
        }
        Ok(())
    }

    /// The folder that relative paths of a pipeline are taken from.
    pub fn project(&self) -> &Path {
        &self.job.project
    }

    /// The device the scheduler gave to this task: the first one, if it gave several.
    pub fn device(&self) -> Result<Device> {
        crate::device::open(self.gpu())
    }

    /// The GPU the scheduler gave to this task, as the task counts them: the first one, if it gave several.
    pub fn gpu(&self) -> Option<usize> {
        // The scheduler shows a task only its own cards, which are therefore numbered from 0.
        self.job.gpus.first().map(|_| 0)
    }

    /// All devices the scheduler gave to this task, or as many of them as it can use; at least one.
    pub fn devices(&self, most: usize) -> Result<Vec<Device>> {
        let others = (1..self.job.gpus.len().min(most)).map(|number| crate::device::open(Some(number)));
        std::iter::once(self.device()).chain(others).collect()
    }

    /// The GPUs the scheduler gave to this task, by their numbers on this machine.
    pub fn gpus(&self) -> &[usize] {
        &self.job.gpus
    }

    /// Tells how far the work is, and stops it when the user asked for that. Cheap enough to call at every step.
    pub fn step(&mut self, done: u64, total: u64, note: impl FnOnce() -> String) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        self.follow_threads();
        if done == total || self.last_progress.is_none_or(|last| last.elapsed() >= self.pause) {
            self.last_progress = Some(Instant::now());
            (self.say)(Message::Progress { done, total, note: note() });
        }
        Ok(())
    }

    /// Tells what is being done beside the counted work, and stops it when the user asked for that.
    pub fn note(&mut self, note: impl FnOnce() -> String) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        if self.last_progress.is_none_or(|last| last.elapsed() >= self.pause) {
            self.last_progress = Some(Instant::now());
            (self.say)(Message::Progress { done: 0, total: 0, note: note() });
        }
        Ok(())
    }

    /// Reports a figure worth showing beside the stage.
    pub fn metric(&mut self, name: impl Into<String>, value: f64) {
        (self.say)(Message::Metric { name: name.into(), value });
    }

    /// Reports a text worth keeping beside the result.
    pub fn fact(&mut self, name: impl Into<String>, text: impl Into<String>) {
        (self.say)(Message::Fact { name: name.into(), text: text.into() });
    }

    /// Tells the user something that does not stop the work.
    pub fn warn(&mut self, text: impl Into<String>) {
        (self.say)(Message::Warning { text: text.into() });
    }
}
