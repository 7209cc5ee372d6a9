//! How every task of a plan stands, without running or writing anything.

use super::{Contents, Digests, Found, Judge, Key, Line, Made, Reason, Results, Start, Store, lines};
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
    /// Where a run would begin it.
    pub start: Start,
    /// Why it is not cached; empty if it is.
    pub because: String,
    pub key: Option<Key>,
    /// Its result, if that is known.
    pub made: Option<Made>,
    /// What is missing.
    pub error: Option<Error>,
    /// Every part of its key, if asked for.
    pub lines: Option<Vec<Line>>,
    /// What those were made from.
    pub contents: Option<Contents>,
}

impl Standing {
    fn blank(task: TaskId, state: State) -> Self {
        Self {
            task,
            state,
            runs: None,
            start: Start::Beginning,
            because: String::new(),
            key: None,
            made: None,
            error: None,
            lines: None,
            contents: None,
        }
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
    look(plan, store, Judge::new(plan, store), targets, forced, &[])
}

/// The same, with a memo of digests of one's own.
pub fn survey_by(plan: &Plan, store: &Store, digests: Digests, targets: &[TaskId]) -> Vec<Standing> {
    look(plan, store, Judge::with(plan, store, digests), targets, &[], &[])
}

/// The same, with every part of the targets' keys.
pub fn survey_with_lines(plan: &Plan, store: &Store, targets: &[TaskId]) -> Vec<Standing> {
    look(plan, store, Judge::new(plan, store), targets, &[], targets)
}

fn look<'a>(
    plan: &'a Plan,
    store: &'a Store,
    judge: Judge<'a>,
    targets: &[TaskId],
    forced: &[TaskId],
    explained: &[TaskId],
) -> Vec<Standing> {
    let wanted = plan.graph.with_needs(targets);
    let standings = plan.tasks.iter().map(|_| None).collect();
    let mut look = Look { plan, store, judge, results: Results::new(), standings };
    for &id in &wanted {
        let standing = match look.waits(id) {
            None => look.judged(id, forced.contains(&id), explained.contains(&id)),
            // Files that are missing are told now, not when what it waits for has run for hours.
            Some((state, because)) => match look.judge.check_files(plan.task(id)) {
                Ok(()) => Standing { because, ..Standing::blank(id, state) },
                Err(error) => Standing::missing(id, error),
            },
        };
        if let Some(made) = &standing.made {
            look.results.insert(id, made.clone());
        }
        look.standings[id.0] = Some(standing);
    }
    for &id in wanted.iter().rev() {
        look.demand(id);
    }
    look.standings.into_iter().flatten().collect()
}

/// What was found so far.
struct Look<'a> {
    plan: &'a Plan,
    store: &'a Store,
    judge: Judge<'a>,
    results: Results,
    standings: Vec<Option<Standing>>,
}

impl Look<'_> {
    /// What a task waits for, if anything.
    fn waits(&self, id: TaskId) -> Option<(State, String)> {
        let needs = self.plan.graph.needs(id);
        let without = needs.iter().filter_map(|need| self.standings[need.0].as_ref()).filter(|n| n.made.is_none());
        let without: Vec<&Standing> = without.collect();
        let name = |need: &Standing| self.plan.task(need.task).name.clone();
        if let Some(need) = without.iter().find(|need| matches!(need.state, State::Failed | State::Skipped)) {
            return Some((State::Skipped, format!("{} failed at its last run", name(need))));
        }
        // What another of them waits for itself need not be told.
        let waited_for =
            |need: &Standing| without.iter().any(|other| self.plan.graph.needs(other.task).contains(&need.task));
        let names: Vec<String> = without.iter().filter(|need| !waited_for(need)).map(|need| name(need)).collect();
        (!names.is_empty()).then(|| (State::Blocked, format!("waits for {}", names.join(", "))))
    }

    fn judged(&mut self, id: TaskId, forced: bool, explained: bool) -> Standing {
        let verdict = match self.judge.judge(self.plan.task(id), &self.results) {
            Ok(verdict) => verdict,
            Err(error) => return Standing::missing(id, error),
        };
        let (key, contents, start) = (verdict.key, verdict.contents, verdict.start);
        let (state, runs, because, made) = match verdict.state {
            Found::Hit(_) if forced => (State::Stale, true, Reason::Forced.to_string(), None),
            Found::Hit(made) => (State::Cached, false, String::new(), Some(made)),
            Found::Evicted(made, reason @ Reason::Gone { .. }) if !forced => {
                (State::Evicted, false, reason.to_string(), Some(made))
            }
            Found::Evicted(_, reason) | Found::Run(reason) => match self.store.is_locked(&key) {
                true => (State::Running, true, self.store.owner(&key).map_or(String::new(), |o| o.told("")), None),
                false => (State::of(&reason), true, reason.to_string(), None),
            },
        };
        let (key, lines) = (Some(key), explained.then(|| lines(self.plan.task(id), &contents)));
        let contents = explained.then_some(contents);
        Standing { runs: Some(runs), start, because, key, made, lines, contents, ..Standing::blank(id, state) }
    }

    /// Marks a task whose bytes are gone and needed: by a task that runs, or by the user.
    fn demand(&mut self, id: TaskId) {
        let Some(Standing { state: State::Evicted, made: Some(made), .. }) = &self.standings[id.0] else { return };
        let made = made.clone();
        let followers = self.plan.graph.needed_by(id);
        let followers: Vec<&Standing> = followers.iter().filter_map(|id| self.standings[id.0].as_ref()).collect();
        let needed = followers.is_empty() || followers.iter().any(|other| other.runs != Some(false));
        if (needed || !self.judge.is_put(self.plan.task(id), &made))
            && let Some(standing) = self.standings[id.0].as_mut()
        {
            standing.runs = Some(true);
        }
    }
}
