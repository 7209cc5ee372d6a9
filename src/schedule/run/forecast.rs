//! What a run expects of its tasks' times: who comes first, and when all will be done.

use crate::cache::{Known, Store};
use crate::plan::{Plan, TaskId};
use crate::schedule::machine::Machine;
use crate::schedule::predict;
use crate::schedule::priority::{Rank, remaining};
use std::time::{Duration, Instant};

/// Predicted seconds; found when they are first asked for, as a run with nothing to do needs none.
pub(super) struct Forecast<'a> {
    plan: &'a Plan,
    store: &'a Store,
    machine: &'a Machine,
    times: Option<Times>,
    /// When the rest of the run was last foretold.
    told: Option<Instant>,
}

struct Times {
    /// Seconds that each task is expected to take.
    expected: Vec<Option<f64>>,
    /// Seconds from each task's start to the end of the longest chain behind it.
    remaining: Vec<f64>,
}

impl<'a> Forecast<'a> {
    pub(super) fn new(plan: &'a Plan, store: &'a Store, machine: &'a Machine) -> Self {
        Self { plan, store, machine, times: None, told: None }
    }

    /// A task's place in the line of those that are ready; always the same in one run.
    pub(super) fn rank(&mut self, known: &Known, id: TaskId) -> Rank {
        let Self { plan, store, machine, times, .. } = self;
        let times = times.get_or_insert_with(|| {
            let expected = predict::seconds(plan, known, store, machine);
            // Where nothing is known, the number of tasks counts.
            let seconds: Vec<f64> = expected.iter().map(|seconds| seconds.unwrap_or(1.0)).collect();
            Times { remaining: remaining(|id| plan.graph.needed_by(id), &seconds), expected }
        });
        Rank { priority: plan.task(id).wants.priority.unwrap_or(0), remaining: times.remaining[id.0], id }
    }

    /// Seconds that a task is expected to take, if that is known.
    pub(super) fn expected(&self, id: TaskId) -> Option<f64> {
        self.times.as_ref()?.expected[id.0]
    }

    /// Tells now and then how many seconds `undecided` tasks will take, if all are known from earlier runs. Those that may
    /// turn out to be cached count as if they had to run. `gone` are seconds that a task has been at work.
    pub(super) fn tell(
        &mut self,
        known: &Known,
        undecided: impl FnOnce() -> Vec<TaskId>,
        gone: impl Fn(TaskId) -> f64,
    ) -> Option<f64> {
        const EVERY: Duration = Duration::from_secs(5);
        if self.told.is_some_and(|last| last.elapsed() < EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        let left = |id: TaskId| {
            let expected = self.expected(id).unwrap_or(0.0);
            (id, if expected > 0.0 { (1.0 - gone(id) / expected).max(0.0) } else { 1.0 })
        };
        let mut tasks: Vec<(TaskId, f64)> = undecided().into_iter().map(left).collect();
        tasks.sort_unstable_by_key(|(id, _)| *id);
        let prediction = predict::predict(self.plan, known, self.store, self.machine, &tasks);
        (prediction.unknown == 0 && prediction.wall > 0.0).then_some(prediction.wall)
    }
}
