//! How every task of a plan stands, without running or writing anything.

use super::judge::{Judge, Known, Results};
use super::{Action, Key, Reason, Store};
use crate::error::Error;
use crate::plan::{Plan, TaskId};
use serde_json::{Value, json};

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its result is there.
    Cached,
    /// Everything it needs is there; it has not run before.
    Ready,
    /// Everything it needs is there; it ran with other parameters or contents.
    Stale,
    /// Not known before what it needs has run.
    Blocked,
    /// Files it reads are not there.
    Missing,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Ready => "ready",
            Self::Stale => "stale",
            Self::Blocked => "blocked",
            Self::Missing => "missing",
        }
    }
}

/// A task's standing.
pub struct Standing {
    pub task: TaskId,
    pub state: State,
    /// Why it is not cached; empty if it is.
    pub because: String,
    pub key: Option<Key>,
    /// The record of its result, if cached.
    pub action: Option<Action>,
    /// What is missing.
    pub error: Option<Error>,
}

impl Standing {
    fn blank(task: TaskId) -> Self {
        Self { task, state: State::Missing, because: String::new(), key: None, action: None, error: None }
    }

    fn missing(task: TaskId, error: Error) -> Self {
        Self { because: error.message().to_string(), error: Some(error), ..Self::blank(task) }
    }

    /// One line for a script.
    pub fn to_json(&self, plan: &Plan) -> Value {
        let task = plan.task(self.task);
        json!({
            "task": task.name, "kind": task.kind.name, "state": self.state.word(), "because": self.because,
            "key": self.key, "made": self.action.as_ref().map(|a| a.made),
            "seconds": self.action.as_ref().map(|a| a.seconds), "size": self.action.as_ref().map(Action::size),
            "metrics": self.action.as_ref().map(|a| &a.metrics),
            "error": self.error.as_ref().map(|e| e.render("error")),
        })
    }
}

/// How the targets and all they need stand. `forced` tasks count as to be run.
pub fn survey(plan: &Plan, store: &Store, targets: &[TaskId], forced: &[TaskId]) -> Vec<Standing> {
    let mut judge = Judge::new(plan, store);
    let mut results = Results::new();
    let mut standings: Vec<Standing> = vec![];
    for id in plan.graph.with_needs(targets) {
        let standing = match waits(plan, id, &results) {
            None => judged(&mut judge, plan, id, &results, forced.contains(&id)),
            // Files that are missing are told now, not when what it waits for has run for hours.
            Some(because) => match judge.check_files(plan.task(id)) {
                Ok(()) => Standing { state: State::Blocked, because, ..Standing::blank(id) },
                Err(error) => Standing::missing(id, error),
            },
        };
        if let Some(action) = &standing.action {
            results.insert(id, action.clone());
        }
        standings.push(standing);
    }
    standings
}

/// What a task waits for, if anything: of the tasks it needs, the last ones.
fn waits(plan: &Plan, id: TaskId, results: &Results) -> Option<String> {
    let needs: Vec<TaskId> = plan.graph.needs(id).into_iter().filter(|need| !results.contains_key(need)).collect();
    let last = needs
        .iter()
        .filter(|need| !needs.iter().any(|other| other != *need && plan.graph.with_needs(&[*other]).contains(need)));
    let names: Vec<&str> = last.map(|need| plan.task(*need).name.as_str()).collect();
    (!names.is_empty()).then(|| format!("waits for {}", names.join(", ")))
}

fn judged(judge: &mut Judge, plan: &Plan, id: TaskId, results: &Results, forced: bool) -> Standing {
    let blank =
        Standing { task: id, state: State::Missing, because: String::new(), key: None, action: None, error: None };
    let verdict = match judge.judge(plan.task(id), results) {
        Ok(verdict) => verdict,
        Err(error) => return Standing::missing(id, error),
    };
    let key = Some(verdict.key);
    match verdict.state {
        Known::Hit(_) if forced => Standing { state: State::Stale, because: Reason::Forced.to_string(), key, ..blank },
        Known::Hit(action) => Standing { state: State::Cached, key, action: Some(action), ..blank },
        Known::Run(reason) => {
            let state = if reason == Reason::New { State::Ready } else { State::Stale };
            Standing { state, because: reason.to_string(), key, ..blank }
        }
    }
}
