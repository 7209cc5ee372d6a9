//! Keys to an order of work: the loop that judges, starts and waits.
//!
//! One thread owns all state; each running task has a thread that watches its process and talks back over a channel.
//! See `doc/design.md`, "The loop".

mod gpu_fault;
mod guard;
mod machine;
mod need;
mod out_of_memory;
mod predict;
mod priority;
mod rehearse;
mod run;
mod simulate;
mod slots;
mod state;
mod watchers;
mod worker;

pub use gpu_fault::explain_gpu;
pub use machine::{About, Asked, Card, FAKE_GPUS, Gpus, Machine, Use};
pub use need::{Gpu, Need, check_gpus};
pub use predict::{impossible, need, predict, use_of_gpu};
pub use rehearse::{Rehearsal, rehearse};
pub use run::run;
pub use simulate::Prediction;
pub use state::{State, States};

use crate::cache::{Contents, Key, Results, Watch};
use crate::error::{Error, Kind};
use crate::plan::TaskId;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the tasks may share.
    pub machine: Machine,
    /// Go on with what does not depend on a failure.
    pub keep_going: bool,
    /// Fail instead of waiting when another run works on the same.
    pub no_wait: bool,
    /// What to bring up to date, with all it needs.
    pub targets: Vec<TaskId>,
    /// Run these even if their results are there.
    pub force: Vec<TaskId>,
    /// Sees how much of the inputs is read, and can end it.
    pub watch: Arc<Watch>,
    /// This run's name.
    pub run: String,
    /// Folder of the logs.
    pub logs: PathBuf,
}

/// What became of a run.
pub struct Outcome {
    pub states: States,
    pub results: Results,
    pub keys: HashMap<TaskId, Key>,
    /// What the tasks read that had their results.
    pub contents: HashMap<TaskId, Contents>,
    /// What went wrong, in order.
    pub errors: Vec<Error>,
    /// What could not be written down beside the results.
    pub warnings: Vec<Error>,
    pub seconds: f64,
}

impl Outcome {
    /// The exit code: that of the first error, or 130 after Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        let stopped = self.states.count(State::Stopped) > 0;
        self.errors.first().map_or(if stopped { Kind::Interrupted.exit_code() } else { 0 }, |e| e.kind().exit_code())
    }
}

/// How often Ctrl-C was pressed: once stops gracefully, twice at once.
pub static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);
