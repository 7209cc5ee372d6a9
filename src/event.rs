//! What can happen in a run: the words between the scheduler, which makes events, and reports, which show them.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Something that happened. With `run --json`, each is one line; fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins.
    Begin { pipeline: String, tasks: usize, cpus: usize, gpus: usize },
    /// A task's result was there already.
    Cached { task: String, key: String },
    /// A task begins.
    Start { task: String, key: String, reason: String, threads: usize, gpu: Option<usize> },
    /// How far a running task is.
    Progress { task: String, done: u64, total: u64, note: String },
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
}
