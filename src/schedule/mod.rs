//! Keys to an order of work: the loop that judges, starts and waits.
//!
//! One thread owns all state; each running task has a thread that watches its process and talks back over a channel.
//! See `doc/design.md`, "The loop".

mod slots;
mod state;
mod worker;

pub use state::{State, States};

use crate::cache::{Contents, Judge, Key, Known, Line, Reason, Results, Store, inputs, log_name};
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::plan::{Plan, TaskId};
use crate::stage::Message;
use slots::{Share, Slots};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use worker::{Ended, Leash, Note, Order};

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Threads to use, and so tasks at once.
    pub jobs: usize,
    /// Slots of the GPUs to use.
    pub gpus: Vec<usize>,
    /// Go on with what does not depend on a failure.
    pub keep_going: bool,
    /// What to bring up to date, with all it needs.
    pub targets: Vec<TaskId>,
    /// Run these even if their results are there.
    pub force: Vec<TaskId>,
    /// Folder of the logs.
    pub logs: PathBuf,
}

/// What became of a run.
pub struct Outcome {
    pub states: States,
    pub results: Results,
    pub keys: HashMap<TaskId, Key>,
    /// What went wrong, in order.
    pub errors: Vec<Error>,
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

/// Brings the targets up to date.
///
/// # Errors
/// Before anything runs, if inputs of any task are missing (unless `keep_going`). Failures of tasks are in the outcome.
pub fn run(plan: &Plan, store: &Store, options: &Options, show: &mut dyn FnMut(&Event)) -> Result<Outcome> {
    let wanted = plan.graph.with_needs(&options.targets);
    let mut judge = Judge::new(plan, store);
    if !options.keep_going {
        let missing = wanted.iter().filter_map(|id| judge.check_files(plan.task(*id)).err()).collect();
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
        states: States::new(plan.tasks.len(), &wanted),
        slots: Slots::new(options.jobs, &options.gpus),
        ready: BTreeMap::new(),
        running: HashMap::new(),
        results: HashMap::new(),
        keys: HashMap::new(),
        errors: vec![],
        sender,
        interrupts_seen: 0,
    };
    run.begin(wanted.len());
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
    since: Instant,
}

struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    show: &'a mut dyn FnMut(&Event),
    judge: Judge<'a>,
    states: States,
    slots: Slots,
    ready: BTreeMap<TaskId, Waiting>,
    running: HashMap<TaskId, (Share, Leash)>,
    results: Results,
    keys: HashMap<TaskId, Key>,
    errors: Vec<Error>,
    sender: Sender<Note>,
    interrupts_seen: usize,
}

impl Run<'_> {
    /// Judge what can be judged, start what has a slot, wait for news; until neither is left.
    fn work(&mut self, notes: &Receiver<Note>) {
        loop {
            self.judge_wanted();
            self.start_ready();
            if self.running.is_empty() {
                // A task that could not even be started has changed what can be judged.
                if self.states.count(State::Wanted) + self.states.count(State::Ready) > 0 {
                    continue;
                }
                break;
            }
            // The time-out is only there to notice Ctrl-C.
            match notes.recv_timeout(Duration::from_millis(100)) {
                Ok(note) => self.hear(note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(note) = notes.try_recv() {
                self.hear(note);
            }
            self.pass_interrupts_on();
        }
    }

    fn begin(&mut self, tasks: usize) {
        let mut stages = BTreeMap::new();
        for id in self.states.all(State::Wanted) {
            *stages.entry(self.plan.task(id).stage.clone()).or_default() += 1;
        }
        let (pipeline, cpus, gpus) = (self.plan.pipeline.clone(), self.options.jobs, self.options.gpus.len());
        (self.show)(&Event::Begin { pipeline, tasks, cpus, gpus, stages });
    }

    /// Judges every wanted task whose needs are met, in plan order, so that a hit frees those after it at once.
    fn judge_wanted(&mut self) {
        for id in self.states.all(State::Wanted) {
            let needs = self.plan.graph.needs(id);
            let broken = needs
                .iter()
                .find(|need| matches!(self.states.get(**need), State::Failed | State::Blocked | State::Stopped));
            if let Some(need) = broken {
                let (task, needs) = (self.name(id), self.name(*need));
                if self.states.get(*need) == State::Stopped {
                    self.states.set(id, State::Stopped);
                } else {
                    self.states.set(id, State::Blocked);
                    (self.show)(&Event::Blocked { task, needs });
                }
            } else if needs.iter().all(|need| self.states.get(*need).has_result()) {
                self.judge(id);
            }
        }
    }

    fn judge(&mut self, id: TaskId) {
        let task = self.plan.task(id);
        let verdict = match self.judge.judge(task, &self.results) {
            Ok(verdict) => verdict,
            Err(error) => return self.fail(id, error, None),
        };
        self.keys.insert(id, verdict.key.clone());
        let reason = match verdict.state {
            Known::Hit(action) if !self.options.force.contains(&id) => {
                let (key, seconds) = (verdict.key.to_string(), action.seconds);
                self.results.insert(id, action);
                self.states.set(id, State::Cached);
                self.remember(id, &verdict.key);
                return (self.show)(&Event::Cached { task: task.name.clone(), key, seconds });
            }
            Known::Hit(_) => Reason::Forced,
            Known::Run(reason) => reason,
        };
        if matches!(reason, Reason::Damaged { .. } | Reason::Gone { .. }) {
            match self.judge.quarantine(&verdict.key) {
                Ok(warnings) => {
                    for warning in warnings {
                        (self.show)(&Event::Warning { task: task.name.clone(), text: warning.render("warning") });
                    }
                }
                Err(error) => return self.fail(id, error, None),
            }
        }
        self.states.set(id, State::Ready);
        let (key, contents, lines) = (verdict.key, verdict.contents, verdict.lines);
        self.ready.insert(id, Waiting { key, contents, lines, reason, since: Instant::now() });
    }

    /// Starts ready tasks, those that most others wait for first.
    fn start_ready(&mut self) {
        let stopping = self.interrupts_seen > 0 || (!self.errors.is_empty() && !self.options.keep_going);
        if stopping {
            for id in std::mem::take(&mut self.ready).into_keys() {
                self.states.set(id, State::Stopped);
            }
            for id in self.states.all(State::Wanted) {
                if self.running.is_empty() {
                    self.states.set(id, State::Stopped);
                }
            }
            return;
        }
        let mut order: Vec<TaskId> = self.ready.keys().copied().collect();
        order.sort_by_key(|id| (std::cmp::Reverse(self.plan.graph.with_followers(&[*id]).len()), *id));
        for (position, id) in order.iter().enumerate() {
            let task = self.plan.task(*id);
            let wants_gpu = task.step.resources().gpu && !self.options.gpus.is_empty() && task.limits.gpus != Some(0);
            let Some(share) = self.slots.take(wants_gpu, task.limits.cpus, order.len() - position) else { continue };
            if let Some(waiting) = self.ready.remove(id) {
                self.start(*id, waiting, share);
            }
        }
    }

    fn start(&mut self, id: TaskId, waiting: Waiting, share: Share) {
        let task = self.plan.task(id);
        // The worker checks the files again when the task is done, and must not have to read them all for that.
        let prepared =
            self.judge.save().and_then(|()| inputs(self.plan, self.store, task, &waiting.contents, &self.results));
        let inputs = match prepared {
            Ok(inputs) => inputs,
            Err(error) => {
                self.slots.give_back(share);
                return self.fail(id, error, None);
            }
        };
        self.states.set(id, State::Running);
        (self.show)(&Event::Start {
            task: task.name.clone(),
            key: waiting.key.to_string(),
            reason: waiting.reason.to_string(),
            threads: share.threads,
            gpu: share.gpu,
            waited: waiting.since.elapsed().as_secs_f64(),
            expected: None,
        });
        let sources = self.judge.sources(task, &waiting.contents);
        let mut order = Order::new(task, inputs, waiting.key, waiting.lines);
        order.sources = sources;
        order.project.clone_from(&self.plan.project);
        order.log = self.log(id);
        order.share = share;
        order.forced = waiting.reason == Reason::Forced;
        let leash = Leash::default();
        self.running.insert(id, (share, leash.clone()));
        let (store, notes) = (self.store.clone(), self.sender.clone());
        std::thread::spawn(move || worker::work(&store, &order, &leash, &notes));
    }

    fn hear(&mut self, note: Note) {
        match note {
            Note::Said(id, Message::Progress { done, total, note }) => {
                let task = self.name(id);
                (self.show)(&Event::Progress { task, done, total, note });
            }
            Note::Said(id, Message::Warning { text }) => {
                let task = self.name(id);
                (self.show)(&Event::Warning { task, text });
            }
            Note::Said(..) => {}
            Note::Ended(id, ended) => {
                if let Some((share, _)) = self.running.remove(&id) {
                    self.slots.give_back(share);
                }
                match ended {
                    Ok(Ended::Ran(action)) => {
                        let event = Event::Done {
                            task: self.name(id),
                            key: action.key.to_string(),
                            seconds: action.seconds,
                            metrics: action.metrics.clone(),
                        };
                        self.finish(id, State::Done, action, &event);
                    }
                    Ok(Ended::Shared(action)) => {
                        let (key, seconds) = (action.key.to_string(), action.seconds);
                        let event = Event::Cached { task: self.name(id), key, seconds };
                        self.finish(id, State::Cached, action, &event);
                    }
                    Err(error) if error.kind() == Kind::Interrupted => {
                        self.states.set(id, State::Stopped);
                        let task = self.name(id);
                        (self.show)(&Event::Stopped { task });
                    }
                    Err(error) => self.fail(id, error, Some(self.log(id))),
                }
            }
        }
    }

    fn finish(&mut self, id: TaskId, state: State, action: crate::cache::Action, event: &Event) {
        self.remember(id, &action.key);
        self.results.insert(id, action);
        self.states.set(id, state);
        (self.show)(event);
    }

    fn fail(&mut self, id: TaskId, error: Error, log: Option<PathBuf>) {
        self.states.set(id, State::Failed);
        let event = Event::Failed { task: self.name(id), error: error.render("error"), log };
        (self.show)(&event);
        self.errors.push(error);
    }

    /// Notes the key a task has now; not being able to costs an explanation later, not a result.
    fn remember(&mut self, id: TaskId, key: &Key) {
        if let Err(error) = self.store.set_last(&self.plan.pipeline, &self.name(id), key) {
            let task = self.name(id);
            (self.show)(&Event::Warning { task, text: error.render("warning") });
        }
    }

    fn pass_interrupts_on(&mut self) {
        let interrupts = INTERRUPTS.load(Ordering::SeqCst);
        if interrupts > self.interrupts_seen {
            self.interrupts_seen = interrupts;
            for (_, leash) in self.running.values() {
                if interrupts == 1 { leash.stop() } else { leash.kill() }
            }
        }
    }

    fn name(&self, id: TaskId) -> String {
        self.plan.task(id).name.clone()
    }

    fn log(&self, id: TaskId) -> PathBuf {
        self.options.logs.join(log_name(&self.plan.task(id).name, 1))
    }

    fn end(mut self, seconds: f64) -> Result<Outcome> {
        self.judge.save()?;
        let count = |state| self.states.count(state);
        (self.show)(&Event::End {
            ran: count(State::Done),
            cached: count(State::Cached),
            failed: count(State::Failed),
            blocked: count(State::Blocked),
            stopped: count(State::Stopped),
            seconds,
        });
        Ok(Outcome { states: self.states, results: self.results, keys: self.keys, errors: self.errors, seconds })
    }
}
