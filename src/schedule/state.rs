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
    /// What its result was is known, the bytes are gone, and so far nobody needs them.
    Evicted,
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
    const COUNT: usize = 10;

    /// Whether what the task's result holds is known.
    pub fn has_result(self) -> bool {
        matches!(self, Self::Cached | Self::Evicted | Self::Done)
    }

    /// Whether nothing more will happen to the task.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Wanted | Self::Ready | Self::Running | Self::Evicted)
    }
}

/// The states of all tasks. [`States::set`] is the one place that changes any.
#[derive(Debug)]
pub struct States {
    states: Vec<State>,
    counts: [usize; State::COUNT],
}

impl States {
    /// `wanted` tasks are to be judged; the others stay out.
    pub(super) fn new(tasks: usize, wanted: &[TaskId]) -> Self {
        let mut states = Self { states: vec![State::Out; tasks], counts: [0; State::COUNT] };
        states.counts[State::Out as usize] = tasks;
        for id in wanted {
            states.put(*id, State::Wanted);
        }
        states
    }

    pub fn get(&self, id: TaskId) -> State {
        self.states[id.0]
    }

    /// Moves a task on. A final state never changes again.
    pub(super) fn set(&mut self, id: TaskId, state: State) {
        debug_assert!(!self.states[id.0].is_final(), "{id:?} was final");
        self.put(id, state);
    }

    fn put(&mut self, id: TaskId, state: State) {
        let before = std::mem::replace(&mut self.states[id.0], state);
        self.counts[before as usize] -= 1;
        self.counts[state as usize] += 1;
    }

    pub fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// The tasks in a state, in plan order.
    pub fn all(&self, state: State) -> Vec<TaskId> {
        (0..self.states.len()).filter(|i| self.states[*i] == state).map(TaskId).collect()
    }
}
