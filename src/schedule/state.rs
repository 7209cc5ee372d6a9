//! Where each task of a run stands.

use crate::plan::TaskId;

/// A task's way through a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not part of this run.
    Out,
    /// To be judged once all it needs is there.
    Wanted,
    /// Has to run; waits for a slot.
    Ready,
    /// Its process is at work.
    Running,
    /// Its result was there already.
    Cached,
    /// It ran, and its result is there.
    Done,
    /// It ran and failed, or what it reads is missing.
    Failed,
    /// Something it needs failed.
    Blocked,
    /// The user stopped it, or the run before it could start.
    Stopped,
}

impl State {
    /// Whether the task's result can be used.
    pub fn has_result(self) -> bool {
        matches!(self, Self::Cached | Self::Done)
    }

    /// Whether nothing more will happen to the task.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Wanted | Self::Ready | Self::Running)
    }
}

/// The states of all tasks. [`States::set`] is the one place that changes any.
#[derive(Debug)]
pub struct States(Vec<State>);

impl States {
    /// `wanted` tasks are to be judged; the others stay out.
    pub(super) fn new(tasks: usize, wanted: &[TaskId]) -> Self {
        let mut states = vec![State::Out; tasks];
        for id in wanted {
            states[id.0] = State::Wanted;
        }
        Self(states)
    }

    pub fn get(&self, id: TaskId) -> State {
        self.0[id.0]
    }

    /// Moves a task on. A final state never changes again.
    pub(super) fn set(&mut self, id: TaskId, state: State) {
        debug_assert!(!self.0[id.0].is_final(), "{id:?} was final");
        self.0[id.0] = state;
    }

    pub fn count(&self, state: State) -> usize {
        self.0.iter().filter(|s| **s == state).count()
    }

    /// The tasks in a state, in plan order.
    pub fn all(&self, state: State) -> Vec<TaskId> {
        (0..self.0.len()).filter(|i| self.0[*i] == state).map(TaskId).collect()
    }
}
