//! `run.json`: what was asked for, where it ran, and what became of every task.

use super::RunId;
use crate::cache::Key;
use crate::event::{Event, Line};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Version of `run.json`. Members are added without raising it.
pub(super) const VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of this form: 1.
    pub v: u32,
    pub id: RunId,
    /// The pipeline's name, with its profile.
    pub pipeline: String,
    /// The pipeline file, as it was given.
    pub file: PathBuf,
    pub profile: Option<String>,
    /// Arguments of `--set`, in order.
    pub sets: Vec<String>,
    /// `HASHPIPE_*` variables.
    pub environment: BTreeMap<String, String>,
    /// The whole command line.
    pub arguments: Vec<String>,
    /// In seconds since 1970.
    pub began: f64,
    /// In seconds since 1970; `null` if it goes on or died.
    pub ended: Option<f64>,
    pub outcome: Outcome,
    pub exit_code: Option<u8>,
    pub host: String,
    /// hashpipe's own.
    pub version: String,
    pub machine: Machine,
    /// Seconds that the reused results took when they were made.
    pub saved: f64,
    pub tasks: Vec<Task>,
}

/// What the run had to work with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Model of the processor, where it is known.
    pub cpu: Option<String>,
    /// Threads the run was given.
    pub cpus: usize,
    /// GPUs the run was given.
    pub gpus: usize,
}

/// How a run ended, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It goes on.
    Running,
    /// Everything asked for is there.
    Done,
    /// A task failed.
    Failed,
    /// The user stopped it.
    Stopped,
    /// It ended without a word.
    Died,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Died => "died",
        }
    }

    pub(super) fn of(exit_code: u8) -> Self {
        match exit_code {
            0 => Self::Done,
            130 | 143 => Self::Stopped,
            _ => Self::Failed,
        }
    }
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// `train.hashnet@bits=16`
    pub name: String,
    /// `train.hashnet`
    pub stage: String,
    /// The sweep's point.
    pub axes: BTreeMap<String, Value>,
    #[schemars(with = "Option<String>")]
    pub key: Option<Key>,
    pub state: State,
    /// What the task took, whenever it ran.
    pub seconds: Option<f64>,
    pub metrics: BTreeMap<String, f64>,
    /// How often it was started in this run: so many logs there are.
    pub attempts: usize,
    /// The GPUs of its last attempt, by number.
    #[serde(default)]
    pub gpus: Vec<usize>,
}

/// What became of a task in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was told of it.
    Waiting,
    Running,
    /// Its result was there.
    Cached,
    /// It ran, and its result is there.
    Done,
    Failed,
    /// Something it needs failed.
    Blocked,
    Stopped,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Cached => "cached",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Stopped => "stopped",
        }
    }
}

impl Task {
    /// A task that nothing is known of yet.
    pub fn new(name: &str, stage: &str, axes: &BTreeMap<String, Value>) -> Self {
        Self {
            name: name.to_string(),
            stage: stage.to_string(),
            axes: axes.clone(),
            key: None,
            state: State::Waiting,
            seconds: None,
            metrics: BTreeMap::new(),
            attempts: 0,
            gpus: vec![],
        }
    }
}

impl Record {
    /// How many tasks are in a state.
    pub fn count(&self, state: State) -> usize {
        self.tasks.iter().filter(|task| task.state == state).count()
    }

    /// Wall time so far, at the given time.
    pub fn seconds(&self, now: f64) -> f64 {
        self.ended.unwrap_or(now) - self.began
    }

    /// Takes in what the events of an unfinished run tell, all of them from its beginning.
    pub(super) fn replay(&mut self, lines: &[Line]) {
        let index = self.index();
        // Written with the first tasks counted, of which the events tell again.
        self.saved = 0.0;
        self.tasks.iter_mut().for_each(|task| task.attempts = 0);
        for line in lines {
            self.hear(line, &index);
        }
    }

    /// Positions of tasks by name.
    pub(super) fn index(&self) -> HashMap<String, usize> {
        self.tasks.iter().enumerate().map(|(position, task)| (task.name.clone(), position)).collect()
    }

    /// Takes in one event.
    pub(super) fn hear(&mut self, line: &Line, index: &HashMap<String, usize>) {
        if let Event::Begin { cpus, gpus, .. } = &line.event {
            (self.machine.cpus, self.machine.gpus) = (*cpus, *gpus);
        }
        let position = line.event.task().and_then(|task| index.get(task));
        let Some(task) = position.and_then(|position| self.tasks.get_mut(*position)) else { return };
        match &line.event {
            Event::Cached { key, seconds, .. } => {
                (task.state, task.key, task.seconds) = (State::Cached, Key::parse(key), Some(*seconds));
                self.saved += seconds;
            }
            Event::Start { key, gpu, gpus, .. } => {
                (task.state, task.key) = (State::Running, Key::parse(key));
                task.gpus = if gpus.is_empty() { gpu.iter().copied().collect() } else { gpus.clone() };
                task.attempts += 1;
            }
            Event::Done { seconds, metrics, .. } => {
                (task.state, task.seconds) = (State::Done, Some(*seconds));
                task.metrics.clone_from(metrics);
            }
            Event::Failed { .. } => task.state = State::Failed,
            Event::Blocked { .. } => task.state = State::Blocked,
            Event::Stopped { .. } => task.state = State::Stopped,
            _ => {}
        }
    }
}
