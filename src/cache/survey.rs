//! How every task of a plan stands, without running or writing anything.

use super::{Found, Judge, Key, Made, Reason, Results, Store};
use crate::error::Error;
use crate::plan::{Plan, TaskId};
use serde_json::{Value, json};

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its result is there.
    Cached,
    /// Its result is known, its bytes are gone, and nobody needs them now.
    Evicted,
    /// Its bytes are other than recorded.
    Corrupt,
    /// Everything it needs is there; it has not run before.
    Ready,
    /// Everything it needs is there; it ran with other parameters or contents.
    Stale,
    /// Not known before what it needs has run.
    Blocked,
    /// What it needs has failed.
    Skipped,
    /// A process works on it now.
    Running,
    /// It was stopped in the middle.
    Interrupted,
    /// Its last attempt failed.
    Failed,
    /// At its last attempt an input changed while it ran.
    Tainted,
    /// It runs every time.
    Uncacheable,
    /// Files it reads are not there.
    Missing,
}

impl State {
    /// All of them, those with results first.
    pub const ALL: [Self; 13] = [
        Self::Cached,
        Self::Evicted,
        Self::Running,
        Self::Ready,
        Self::Stale,
        Self::Interrupted,
        Self::Failed,
        Self::Tainted,
        Self::Corrupt,
        Self::Uncacheable,
        Self::Blocked,
        Self::Skipped,
        Self::Missing,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Evicted => "evicted",
            Self::Corrupt => "corrupt",
            Self::Ready => "ready",
            Self::Stale => "stale",
            Self::Blocked => "blocked",
            Self::Skipped => "skipped",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Tainted => "tainted",
            Self::Uncacheable => "uncacheable",
            Self::Missing => "missing",
        }
    }

    fn of(reason: &Reason) -> Self {
        match reason {
            Reason::New => Self::Ready,
            Reason::Changed { .. } | Reason::Forgotten | Reason::Forced => Self::Stale,
            Reason::Gone { .. } => Self::Evicted,
            Reason::Damaged { .. } => Self::Corrupt,
            Reason::Interrupted { .. } => Self::Interrupted,
            Reason::Failed { .. } => Self::Failed,
            Reason::Tainted => Self::Tainted,
            Reason::Always => Self::Uncacheable,
        }
    }
}

/// A task's standing.
pub struct Standing {
    pub task: TaskId,
    pub state: State,
    /// Whether a run would run it; unknown while it depends on what others give.
    pub runs: Option<bool>,
    /// Why it is not cached; empty if it is.
    pub because: String,
    pub key: Option<Key>,
    /// Its result, if that is known.
    pub made: Option<Made>,
    /// What is missing.
    pub error: Option<Error>,
}

impl Standing {
    fn blank(task: TaskId, state: State) -> Self {
        Self { task, state, runs: None, because: String::new(), key: None, made: None, error: None }
    }

    fn missing(task: TaskId, error: Error) -> Self {
        Self { because: error.message().to_string(), error: Some(error), ..Self::blank(task, State::Missing) }
    }

    /// One line for a script.
    pub fn to_json(&self, plan: &Plan, store: &Store) -> Value {
        let task = plan.task(self.task);
        let action = self.made.as_ref().and_then(|made| store.action(&made.key));
        json!({
            "task": task.name, "kind": task.kind.name, "state": self.state.word(), "because": self.because,
            "runs": self.runs, "key": self.key, "made": self.made.as_ref().map(|m| m.made),
            "seconds": self.made.as_ref().map(|m| m.seconds), "size": self.made.as_ref().map(Made::size),
            "metrics": action.as_ref().map(|a| &a.metrics), "variants": action.as_ref().map(|a| a.variants.len()),
            "error": self.error.as_ref().map(|e| e.render("error")),
        })
    }
}

/// How the targets and all they need stand, in plan order. `forced` tasks count as to be run. Writes nothing and holds
/// no lock.
pub fn survey(plan: &Plan, store: &Store, targets: &[TaskId], forced: &[TaskId]) -> Vec<Standing> {
    let mut judge = Judge::new(plan, store);
    let mut results = Results::new();
    let wanted = plan.graph.with_needs(targets);
    let mut standings: Vec<Option<Standing>> = plan.tasks.iter().map(|_| None).collect();
    for &id in &wanted {
        let standing = match waits(plan, id, &standings) {
            None => judged(&mut judge, plan, store, id, &results, forced.contains(&id)),
            // Files that are missing are told now, not when what it waits for has run for hours.
            Some((state, because)) => match judge.check_files(plan.task(id)) {
                Ok(()) => Standing { because, ..Standing::blank(id, state) },
                Err(error) => Standing::missing(id, error),
            },
        };
        if let Some(made) = &standing.made {
            results.insert(id, made.clone());
        }
        standings[id.0] = Some(standing);
    }
    demand(&mut judge, plan, &wanted, &mut standings);
    standings.into_iter().flatten().collect()
}

/// What a task waits for, if anything: of the tasks it needs, those that stand directly in its way.
fn waits(plan: &Plan, id: TaskId, standings: &[Option<Standing>]) -> Option<(State, String)> {
    let needs = plan.graph.needs(id);
    let without = needs.iter().filter_map(|need| standings[need.0].as_ref()).filter(|need| need.made.is_none());
    let without: Vec<&Standing> = without.collect();
    let failed = without.iter().find(|need| matches!(need.state, State::Failed | State::Skipped));
    if let Some(need) = failed {
        return Some((State::Skipped, format!("{} failed at its last run", plan.task(need.task).name)));
    }
    // What another of them waits for itself need not be told.
    let waited_for = |need: &Standing| without.iter().any(|other| plan.graph.needs(other.task).contains(&need.task));
    let names: Vec<&str> =
        without.iter().filter(|need| !waited_for(need)).map(|need| plan.task(need.task).name.as_str()).collect();
    (!names.is_empty()).then(|| (State::Blocked, format!("waits for {}", names.join(", "))))
}

fn judged(judge: &mut Judge, plan: &Plan, store: &Store, id: TaskId, results: &Results, forced: bool) -> Standing {
    let verdict = match judge.judge(plan.task(id), results) {
        Ok(verdict) => verdict,
        Err(error) => return Standing::missing(id, error),
    };
    let standing = |state: State, runs: bool, because: String, made: Option<super::Made>| Standing {
        runs: Some(runs),
        because,
        key: Some(verdict.key.clone()),
        made,
        ..Standing::blank(id, state)
    };
    match verdict.state {
        Found::Hit(_) if forced => standing(State::Stale, true, Reason::Forced.to_string(), None),
        Found::Hit(made) => standing(State::Cached, false, String::new(), Some(made)),
        Found::Evicted(made, reason @ Reason::Gone { .. }) if !forced => {
            standing(State::Evicted, false, reason.to_string(), Some(made))
        }
        Found::Evicted(_, reason) | Found::Run(reason) => {
            if store.is_locked(&verdict.key) {
                let owner = store.owner(&verdict.key);
                return standing(State::Running, true, owner.map_or(String::new(), |owner| owner.told("")), None);
            }
            standing(State::of(&reason), true, reason.to_string(), None)
        }
    }
}

/// Marks the tasks whose bytes are gone and needed: by a task that runs, or by the user.
fn demand(judge: &mut Judge, plan: &Plan, wanted: &[TaskId], standings: &mut [Option<Standing>]) {
    for &id in wanted.iter().rev() {
        let Some(Standing { state: State::Evicted, made: Some(made), .. }) = &standings[id.0] else { continue };
        let made = made.clone();
        let mut followers = plan.graph.needed_by(id).into_iter().filter_map(|other| standings[other.0].as_ref()).peekable();
        let needed = followers.peek().is_none() || followers.any(|other| other.runs != Some(false));
        let needed = needed || !judge.is_put(plan.task(id), &made);
        if let Some(standing) = standings[id.0].as_mut().filter(|_| needed) {
            standing.runs = Some(true);
        }
    }
}
