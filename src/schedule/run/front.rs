//! The front of a run in the graph: what has its result, what can be judged next, and what never will be.
//!
//! It counts for each task how many of its needs have no result yet, so that a run of a hundred thousand tasks looks at
//! each edge once. It knows of no process, key or file.

use crate::plan::{Graph, TaskId};
use crate::schedule::{State, States};
use std::collections::{BTreeSet, HashSet};

/// Where all tasks of a run stand, and which of them can be judged.
pub(super) struct Front<'a> {
    graph: &'a Graph,
    states: States,
    /// How many of what each task needs have no result yet.
    unmet: Vec<usize>,
    /// Wanted tasks that can be judged.
    open: BTreeSet<TaskId>,
    /// Tasks whose bytes are gone and needed.
    demanded: HashSet<TaskId>,
}

/// A task that cannot run any more, and the one it needs that has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) task: TaskId,
    pub(super) needs: TaskId,
}

impl<'a> Front<'a> {
    /// `wanted` holds all that its tasks need.
    pub(super) fn new(graph: &'a Graph, tasks: usize, wanted: &[TaskId]) -> Self {
        let unmet: Vec<usize> = (0..tasks).map(|id| graph.needs(TaskId(id)).len()).collect();
        let open = wanted.iter().copied().filter(|id| unmet[id.0] == 0).collect();
        Self { graph, states: States::new(tasks, wanted), unmet, open, demanded: HashSet::new() }
    }

    pub(super) fn states(&self) -> &States {
        &self.states
    }

    pub(super) fn into_states(self) -> States {
        self.states
    }

    /// Whether any task waits to be judged.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes the tasks that can be judged now, in plan order.
    pub(super) fn take_open(&mut self) -> Vec<TaskId> {
        std::mem::take(&mut self.open).into_iter().collect()
    }

    /// Whether a task that was taken still can be judged: one judged before it may have found that what both need has to
    /// be made again.
    pub(super) fn can_be_judged(&self, id: TaskId) -> bool {
        self.unmet[id.0] == 0 && self.states.get(id) == State::Wanted
    }

    /// A task has to run, or does.
    pub(super) fn set(&mut self, id: TaskId, state: State) {
        debug_assert!(matches!(state, State::Ready | State::Running), "{state:?} changes what can be judged");
        self.states.set(id, state);
    }

    /// A task has to be judged once more.
    pub(super) fn reopen(&mut self, id: TaskId) {
        self.states.set(id, State::Wanted);
        self.open.insert(id);
    }

    /// A task has a result: those that need it wait for one less.
    pub(super) fn has_result(&mut self, id: TaskId, state: State) {
        debug_assert!(state.has_result(), "{state:?} is no result");
        self.states.set(id, state);
        for follower in self.graph.needed_by(id) {
            if self.states.get(follower) == State::Wanted {
                self.unmet[follower.0] -= 1;
                if self.unmet[follower.0] == 0 {
                    self.open.insert(follower);
                }
            }
        }
    }

    /// A task will have no result, and neither will what follows it: those are stopped as it is, or else told.
    pub(super) fn give_up(&mut self, id: TaskId, state: State) -> Vec<Blocked> {
        self.states.set(id, state);
        self.open.remove(&id);
        let (mut blocked, mut next) = (vec![], vec![id]);
        while let Some(needs) = next.pop() {
            for task in self.graph.needed_by(needs) {
                if self.states.get(task) != State::Wanted {
                    continue;
                }
                self.open.remove(&task);
                if state == State::Stopped {
                    self.states.set(task, State::Stopped);
                } else {
                    self.states.set(task, State::Blocked);
                    blocked.push(Blocked { task, needs });
                }
                next.push(task);
            }
        }
        blocked
    }

    /// Whether somebody asks for the bytes of a result: the user, as no task of the run follows it, or a task that runs.
    pub(super) fn is_asked_for(&self, id: TaskId) -> bool {
        let followed = self.graph.needed_by(id).into_iter().any(|other| self.states.get(other) != State::Out);
        !followed || self.demanded.contains(&id)
    }

    /// Has what a task reads made again where the bytes are gone; whether there was any such thing. The task is judged
    /// again when it is there, since a stage that is not deterministic gives other bytes.
    pub(super) fn demand_needs(&mut self, id: TaskId) -> bool {
        let gone: Vec<TaskId> =
            self.graph.needs(id).into_iter().filter(|need| self.states.get(*need) == State::Evicted).collect();
        // All of them first: one that is gone may need another one.
        for need in &gone {
            self.demanded.insert(*need);
            self.states.set(*need, State::Wanted);
        }
        for need in &gone {
            let without = |id: &TaskId| !self.states.get(*id).has_result();
            self.unmet[need.0] = self.graph.needs(*need).iter().filter(|id| without(id)).count();
            if self.unmet[need.0] == 0 {
                self.open.insert(*need);
            }
            for follower in self.graph.needed_by(*need) {
                if self.states.get(follower) == State::Wanted && !gone.contains(&follower) {
                    self.unmet[follower.0] += 1;
                    self.open.remove(&follower);
                }
            }
        }
        !gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Task `i` needs `needs[i]`, all before it.
    fn graph(needs: &[&[usize]]) -> Graph {
        let mut graph = Graph::default();
        for needs in needs {
            graph.add(&needs.iter().map(|need| TaskId(*need)).collect::<Vec<_>>());
        }
        graph
    }

    fn front(graph: &Graph, tasks: usize) -> Front<'_> {
        Front::new(graph, tasks, &(0..tasks).map(TaskId).collect::<Vec<_>>())
    }

    #[test]
    fn a_failure_blocks_what_follows_and_a_stop_stops_it() {
        let graph = graph(&[&[], &[0], &[1], &[]]);
        let mut failed = front(&graph, 4);
        assert_eq!(failed.take_open(), [TaskId(0), TaskId(3)]);
        let blocked = |task, needs| Blocked { task: TaskId(task), needs: TaskId(needs) };
        assert_eq!(failed.give_up(TaskId(0), State::Failed), [blocked(1, 0), blocked(2, 1)]);
        assert_eq!(failed.states().get(TaskId(3)), State::Wanted);
        let mut stopped = front(&graph, 4);
        assert_eq!(stopped.give_up(TaskId(0), State::Stopped), []);
        assert_eq!(stopped.states().all(State::Stopped), [TaskId(0), TaskId(1), TaskId(2)]);
        assert_eq!(stopped.take_open(), [TaskId(3)]);
    }

    #[test]
    fn what_is_gone_is_made_again_when_a_task_that_runs_needs_it() {
        // 1 was made of 0, 2 and 3 need 1.
        let graph = graph(&[&[], &[0], &[1], &[1]]);
        let mut front = front(&graph, 4);
        front.has_result(TaskId(0), State::Evicted);
        front.has_result(TaskId(1), State::Evicted);
        assert!(!front.is_asked_for(TaskId(1)) && front.is_asked_for(TaskId(3)));
        // Both were taken to be judged; the first finds that it has to run.
        front.take_open();
        assert!(front.demand_needs(TaskId(2)));
        assert!(front.is_asked_for(TaskId(1)) && !front.is_asked_for(TaskId(0)));
        assert!(!front.can_be_judged(TaskId(3)));
        // 1 turns out to have to run as well.
        assert_eq!(front.take_open(), [TaskId(1)]);
        assert!(front.demand_needs(TaskId(1)));
        assert_eq!(front.take_open(), [TaskId(0)]);
        front.has_result(TaskId(0), State::Done);
        assert_eq!(front.take_open(), [TaskId(1)]);
        front.has_result(TaskId(1), State::Done);
        assert_eq!(front.take_open(), [TaskId(2), TaskId(3)]);
        assert!(!front.demand_needs(TaskId(2)));
    }

    proptest! {
        /// Whatever becomes of each task, each is judged when all it needs has results, and all have an end.
        #[test]
        fn every_task_comes_to_an_end_after_what_it_needs(
            edges in prop::collection::vec((0usize..20, 0usize..20), 0..60),
            fates in prop::collection::vec(0usize..6, 20),
        ) {
            let needs: Vec<Vec<usize>> = (0..20)
                .map(|to| edges.iter().filter(|(from, other)| *other == to && *from < to).map(|(from, _)| *from).collect())
                .collect();
            let graph = graph(&needs.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut front = front(&graph, 20);
            let mut left = 1000;
            while front.has_open() {
                for id in front.take_open() {
                    left -= 1;
                    prop_assert!(left > 0, "it does not end");
                    if !front.can_be_judged(id) {
                        continue;
                    }
                    prop_assert!(graph.needs(id).iter().all(|need| front.states().get(*need).has_result()));
                    match fates[id.0] {
                        0 => drop(front.give_up(id, State::Failed)),
                        1 => front.has_result(id, State::Cached),
                        2 if !front.is_asked_for(id) => front.has_result(id, State::Evicted),
                        // It has to run, if the bytes are there of what it needs.
                        _ if front.demand_needs(id) => {}
                        _ => {
                            front.set(id, State::Ready);
                            front.set(id, State::Running);
                            front.has_result(id, State::Done);
                        }
                    }
                }
            }
            let ended = |id: usize| matches!(front.states().get(TaskId(id)), State::Evicted) || front.states().get(TaskId(id)).is_final();
            prop_assert!((0..20).all(ended));
            let runs = front.states().all(State::Done);
            let has_bytes = |id: &TaskId| matches!(front.states().get(*id), State::Done | State::Cached);
            prop_assert!(runs.iter().all(|id| graph.needs(*id).iter().all(has_bytes)));
        }
    }
}
