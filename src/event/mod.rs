//! What can happen in a run: the words between the scheduler, which makes events, and reports, which show them.

mod journal;

pub use journal::{Journal, Line, Phase, VERSION};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Something that happened. Members and events are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins.
    Begin {
        pipeline: String,
        tasks: usize,
        cpus: usize,
        gpus: usize,
        /// How many tasks each stage has in this run.
        #[serde(default)]
        stages: BTreeMap<String, usize>,
    },
    /// How long the rest of the run is expected to take, by what its tasks took before. Told again when that changes.
    Forecast {
        /// Seconds from now to the end.
        seconds: f64,
    },
    /// Files are read to see what they hold; told only when that takes long.
    Reading {
        /// Bytes read so far.
        read: u64,
        /// Bytes to read, as far as is known.
        total: u64,
    },
    /// A task's result was there already.
    Cached {
        task: String,
        key: String,
        /// What it took when it was made.
        #[serde(default)]
        seconds: f64,
    },
    /// A task begins.
    Start {
        task: String,
        key: String,
        reason: String,
        threads: usize,
        /// The number of its GPU, or of its first one.
        gpu: Option<usize>,
        /// The numbers of all its GPUs, if they are several.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<usize>,
        /// Seconds between having all it needs and having a slot.
        #[serde(default)]
        waited: f64,
        /// Seconds it is expected to take, if anything like it ran before.
        #[serde(default)]
        expected: Option<f64>,
    },
    /// How far a running task is.
    Progress { task: String, done: u64, total: u64, note: String },
    /// A running task works with so many threads from now on: it was given some, or has given some back.
    Threads { task: String, threads: usize },
    /// A task tells something that does not stop it.
    Warning { task: String, text: String },
    /// A task finished, and its result is in the cache.
    Done { task: String, key: String, seconds: f64, metrics: BTreeMap<String, f64> },
    /// A task failed; `error` is the whole message.
    Failed { task: String, error: String, log: Option<PathBuf> },
    /// A task was stopped by the user; what it had done is kept where it can be resumed.
    Stopped { task: String },
    /// A task that failed is tried once more, in another way.
    Retry { task: String, because: String },
    /// A task cannot run because one that it needs failed.
    Blocked { task: String, needs: String },
    /// The run is over.
    End { ran: usize, cached: usize, failed: usize, blocked: usize, stopped: usize, seconds: f64 },
    /// What the run's evaluations found.
    Report(Report),
}

/// The figures of a pipeline: a row per evaluated point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub pipeline: String,
    pub rows: Vec<Row>,
    /// Rows that differ in nothing but the seed, taken together.
    #[serde(default)]
    pub seeds: Vec<Seeds>,
    /// What the results came with that a person should know.
    #[serde(default)]
    pub warnings: Vec<Told>,
}

/// One evaluated point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    pub task: String,
    /// The sweep's point.
    pub axes: BTreeMap<String, Value>,
    pub metrics: BTreeMap<String, f64>,
    /// Wall time of the tasks behind it when they ran, by kind of stage.
    pub seconds: BTreeMap<String, f64>,
    /// Folders in `output/`.
    pub files: Vec<PathBuf>,
}

/// Points that differ in nothing but the seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seeds {
    pub stage: String,
    /// The point, without the seed.
    pub axes: BTreeMap<String, Value>,
    /// How many seeds.
    pub seeds: usize,
    pub metrics: BTreeMap<String, Spread>,
}

/// How a figure varies with the seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    pub mean: f64,
    /// Standard deviation, with n - 1 below.
    pub deviation: f64,
    /// Half the width of the mean's 95 % interval: Student's t with n - 1 degrees of freedom.
    pub interval: f64,
}

/// A text about a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    pub task: String,
    pub text: String,
}

impl Event {
    /// The task it is about.
    pub fn task(&self) -> Option<&str> {
        match self {
            Self::Cached { task, .. }
            | Self::Start { task, .. }
            | Self::Progress { task, .. }
            | Self::Threads { task, .. }
            | Self::Warning { task, .. }
            | Self::Done { task, .. }
            | Self::Failed { task, .. }
            | Self::Stopped { task }
            | Self::Retry { task, .. }
            | Self::Blocked { task, .. } => Some(task),
            Self::Begin { .. } | Self::Reading { .. } | Self::Forecast { .. } | Self::End { .. } | Self::Report(_) => {
                None
            }
        }
    }

    /// Whether a run in which nothing has to be done has such events too.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Begin { .. } | Self::Forecast { .. } | Self::Cached { .. } | Self::End { .. } | Self::Report(_) => {
                true
            }
            Self::Reading { .. }
            | Self::Start { .. }
            | Self::Progress { .. }
            | Self::Threads { .. }
            | Self::Warning { .. }
            | Self::Done { .. }
            | Self::Failed { .. }
            | Self::Retry { .. }
            | Self::Stopped { .. }
            | Self::Blocked { .. } => false,
        }
    }

    /// Whether it is the last word on its task in this run, or in this attempt.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Cached { .. }
            | Self::Done { .. }
            | Self::Failed { .. }
            | Self::Stopped { .. }
            | Self::Retry { .. }
            | Self::Blocked { .. } => true,
            Self::Begin { .. }
            | Self::Reading { .. }
            | Self::Forecast { .. }
            | Self::Start { .. }
            | Self::Progress { .. }
            | Self::Threads { .. }
            | Self::Warning { .. }
            | Self::End { .. }
            | Self::Report(_) => false,
        }
    }
}
