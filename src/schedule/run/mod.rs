//! A run: tasks move from wanted to a result, each when what it needs is there.
//!
//! Here is the loop, and what it tells and writes down of a task. Each turn passes through four steps, which know this
//! file and not each other: [`judging`] finds what has to run, [`starting`] starts it, [`lending`] gives what is idle to
//! what runs, [`ending`] hears of it. They move
//! tasks along in [`front`] (where each stands in the graph), [`forecast`] (when it will be done) and [`at_work`] (those
//! with a process), which know nothing of a run.

mod at_work;
mod ending;
mod forecast;
mod front;
mod judging;
mod lending;
mod starting;

use super::need::Need;
use super::predict;
use super::priority::Rank;
use super::slots::Slots;
use super::watchers::Watchers;
use super::worker::{Note, now};
use super::{INTERRUPTS, Options, Outcome, State};
use crate::cache::{Attempt, Contents, End, Judge, Key, Line, Outputs, Reason, Results, Start, Store, log_name};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::plan::{Plan, TaskId};
use at_work::AtWork;
use forecast::Forecast;
use front::{Blocked, Front};
use lending::Idle;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Brings the targets up to date.
///
/// # Errors
/// Before anything runs, if inputs of any task are missing (unless `keep_going`). Failures of tasks are in the outcome.
pub fn run(plan: &Plan, store: &Store, options: &Options, show: &mut dyn FnMut(&Event)) -> Result<Outcome> {
    let wanted = plan.graph.with_needs(&options.targets);
    let judge = Judge::watched(plan, store, options.watch.clone());
    if !options.keep_going {
        let missing = wanted.par_iter().filter_map(|id| judge.check_files(plan.task(*id)).err()).collect();
        if let Some(error) = Error::all(missing) {
            return Err(error);
        }
    }
    let (sender, notes) = channel();
    let mut run = Run {
        plan,
        store,
        options,
        show,
        judge,
        front: Front::new(&plan.graph, plan.tasks.len(), &wanted),
        slots: Slots::new(options.machine.clone()),
        forced: options.force.iter().copied().collect(),
        forecast: Forecast::new(plan, store, &options.machine),
        started: false,
        told: HashSet::new(),
        lost: BTreeSet::new(),
        ready: BTreeMap::new(),
        at_work: AtWork::default(),
        idle: Idle::new(),
        missing: 0,
        results: HashMap::new(),
        keys: HashMap::new(),
        contents: HashMap::new(),
        errors: vec![],
        watchers: Watchers::new(),
        sender,
    };
    run.begin(&wanted);
    let started = Instant::now();
    run.work(&notes);
    run.end(started.elapsed().as_secs_f64())
}

/// A task that has to run.
struct Waiting {
    key: Key,
    contents: Contents,
    lines: Vec<Line>,
    reason: Reason,
    start: Start,
    need: Need,
    /// Counts its starts in this run, from 1.
    attempt: usize,
    since: Instant,
}

struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    show: &'a mut dyn FnMut(&Event),
    judge: Judge<'a>,
    front: Front<'a>,
    slots: Slots,
    forced: HashSet<TaskId>,
    forecast: Forecast<'a>,
    /// Whether any task was started.
    started: bool,
    /// Tasks that were told to wait for others.
    told: HashSet<TaskId>,
    /// Positions of GPUs that are told not to answer any more.
    lost: BTreeSet<usize>,
    ready: BTreeMap<Rank, Waiting>,
    at_work: AtWork,
    idle: Idle,
    /// How many lent threads the ready tasks will start with.
    missing: usize,
    results: Results,
    keys: HashMap<TaskId, Key>,
    /// What the tasks read that had their results.
    contents: HashMap<TaskId, Contents>,
    errors: Vec<Error>,
    watchers: Watchers,
    sender: Sender<Note>,
}

impl Run<'_> {
    fn begin(&mut self, wanted: &[TaskId]) {
        let pipeline = self.plan.pipeline.clone();
        let machine = &self.options.machine;
        // Counting GPUs may load the driver.
        let useful = wanted.iter().any(|id| predict::use_of_gpu(self.plan.task(*id)).is_useful());
        let gpus = if useful { machine.cards().len() } else { 0 };
        let mut stages = BTreeMap::new();
        for id in wanted {
            *stages.entry(self.plan.task(*id).stage.clone()).or_default() += 1;
        }
        (self.show)(&Event::Begin { pipeline, tasks: wanted.len(), cpus: machine.cpus, gpus, stages });
    }

    /// Judge what can be judged, start what has a slot, lend what is idle, wait for news; until neither is left.
    fn work(&mut self, notes: &Receiver<Note>) {
        loop {
            self.at_work.pass_on(INTERRUPTS.load(Ordering::SeqCst));
            self.judge_open();
            self.start_ready();
            if self.at_work.is_empty() {
                // A task that could not even be started has changed what can be judged.
                if self.front.has_open() {
                    continue;
                }
                if self.ready.is_empty() {
                    break;
                }
                self.tell_of_others();
            }
            self.lend();
            // The time-out is there to notice Ctrl-C, limits, and others that leave a GPU which a task waits for.
            match notes.recv_timeout(Duration::from_millis(100)) {
                Ok(note) => self.hear(note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(note) = notes.try_recv() {
                self.hear(note);
            }
            self.at_work.look_after();
            self.foretell();
        }
    }

    fn is_stopping(&self) -> bool {
        INTERRUPTS.load(Ordering::SeqCst) > 0 || (!self.errors.is_empty() && !self.options.keep_going)
    }

    fn rank(&mut self, id: TaskId) -> Rank {
        self.forecast.rank(self.judge.known(), id)
    }

    /// Tells now and then how long the rest of the run will take.
    fn foretell(&mut self) {
        if self.at_work.is_empty() {
            return;
        }
        let (states, at_work) = (self.front.states(), &self.at_work);
        let undecided = || [State::Wanted, State::Ready, State::Running].map(|state| states.all(state)).concat();
        let gone = |id| at_work.get(id).map_or(0.0, at_work::Running::seconds);
        if let Some(seconds) = self.forecast.tell(self.judge.known(), undecided, gone) {
            (self.show)(&Event::Forecast { seconds });
        }
    }

    fn end(self, seconds: f64) -> Result<Outcome> {
        let warnings = self.judge.close();
        let states = self.front.into_states();
        let count = |state| states.count(state);
        (self.show)(&Event::End {
            ran: count(State::Done),
            cached: count(State::Cached) + count(State::Evicted),
            failed: count(State::Failed),
            blocked: count(State::Blocked),
            stopped: count(State::Stopped),
            seconds,
        });
        Ok(Outcome {
            states,
            results: self.results,
            keys: self.keys,
            contents: self.contents,
            errors: self.errors,
            warnings,
            seconds,
        })
    }
}

/// What is told and written down of a task.
impl Run<'_> {
    fn name(&self, id: TaskId) -> String {
        self.plan.task(id).name.clone()
    }

    fn log(&self, id: TaskId, attempt: usize) -> PathBuf {
        self.options.logs.join(log_name(&self.plan.task(id).name, attempt))
    }

    fn attempt(&self, id: TaskId, key: &Key, end: End) -> Attempt {
        Attempt {
            task: self.name(id),
            key: key.clone(),
            end,
            at: now(),
            seconds: 0.0,
            run: self.options.run.clone(),
            outputs: Outputs::new(),
            cause: String::new(),
            log: String::new(),
            gpu_memory: None,
            alone: false,
            boot: None,
        }
    }

    /// Writes an attempt down; not being able to costs an explanation later, not a result.
    fn remember(&mut self, id: TaskId, attempt: Attempt) {
        if let Err(error) = self.judge.journal.add(attempt) {
            self.warn(id, &error);
        }
    }

    fn warn(&mut self, id: TaskId, warning: &Error) {
        let task = self.name(id);
        (self.show)(&Event::Warning { task, text: warning.render("warning") });
    }

    /// A task has no result, and what follows it will have none.
    fn fail(&mut self, id: TaskId, error: Error, log: Option<PathBuf>) {
        let blocked = self.front.give_up(id, State::Failed);
        let event = Event::Failed { task: self.name(id), error: error.render("error"), log };
        (self.show)(&event);
        self.errors.push(error);
        for Blocked { task, needs } in blocked {
            let (task, needs) = (self.name(task), self.name(needs));
            (self.show)(&Event::Blocked { task, needs });
        }
    }

    /// A task is not run any more, and what follows it neither.
    fn stop(&mut self, id: TaskId) {
        self.front.give_up(id, State::Stopped);
    }
}
