//! A run: tasks move from wanted to a result, each when what it needs is there.

use super::guard::Guard;
use super::slots::{Share, Slots};
use super::worker::{self, Ended, Leash, Note, Order, Ran, now};
use super::{INTERRUPTS, Options, Outcome, State, States};
use crate::cache::{
    Attempt, Contents, End, Found, Judge, Key, Line, Made, Member, Outputs, Reason, Results, Start, Store, file_name,
    inputs,
};
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::plan::{Plan, TaskId};
use crate::stage::{Input, Message};
use std::cmp::Reverse;
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
    let mut judge = Judge::watched(plan, store, options.watch.clone());
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
        unmet: plan.tasks.iter().map(|task| plan.graph.needs(task.id).len()).collect(),
        open: BTreeSet::new(),
        demanded: HashSet::new(),
        forced: options.force.iter().copied().collect(),
        priority: vec![0.0; plan.tasks.len()],
        ready: BTreeMap::new(),
        running: HashMap::new(),
        results: HashMap::new(),
        keys: HashMap::new(),
        errors: vec![],
        sender,
        interrupts_seen: 0,
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
}

/// A task whose process is at work.
struct Running {
    /// Given back when its process has ended.
    share: Option<Share>,
    leash: Leash,
    key: Key,
    log: PathBuf,
    started: Instant,
    /// When it will be asked to end, and how long it may take in all.
    limit: Option<(Instant, Duration)>,
}

/// Longest remaining work first; of equals, in plan order. Seconds are not negative, so their bits sort as they do.
type Rank = (Reverse<u64>, TaskId);

struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    show: &'a mut dyn FnMut(&Event),
    judge: Judge<'a>,
    states: States,
    slots: Slots,
    /// How many of what each task needs have no result yet.
    unmet: Vec<usize>,
    /// Wanted tasks that can be judged.
    open: BTreeSet<TaskId>,
    /// Tasks whose bytes are gone and needed.
    demanded: HashSet<TaskId>,
    forced: HashSet<TaskId>,
    /// Seconds from a task's start to the end of the longest chain behind it.
    priority: Vec<f64>,
    ready: BTreeMap<Rank, Waiting>,
    running: HashMap<TaskId, Running>,
    results: Results,
    keys: HashMap<TaskId, Key>,
    errors: Vec<Error>,
    sender: Sender<Note>,
    interrupts_seen: usize,
}

impl Run<'_> {
    fn begin(&mut self, wanted: &[TaskId]) {
        let pipeline = self.plan.pipeline.clone();
        let gpus = self.options.gpus.len();
        (self.show)(&Event::Begin { pipeline, tasks: wanted.len(), cpus: self.options.jobs, gpus });
        self.open = wanted.iter().copied().filter(|id| self.unmet[id.0] == 0).collect();
    }

    /// Judge what can be judged, start what has a slot, wait for news; until neither is left.
    fn work(&mut self, notes: &Receiver<Note>) {
        loop {
            self.pass_interrupts_on();
            self.judge_open();
            self.start_ready();
            if self.running.is_empty() {
                // A task that could not even be started has changed what can be judged.
                if !self.open.is_empty() || !self.ready.is_empty() {
                    continue;
                }
                break;
            }
            // The time-out is only there to notice Ctrl-C and limits.
            match notes.recv_timeout(Duration::from_millis(100)) {
                Ok(note) => self.hear(note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(note) = notes.try_recv() {
                self.hear(note);
            }
            self.enforce_limits();
        }
    }

    fn is_stopping(&self) -> bool {
        INTERRUPTS.load(Ordering::SeqCst) > 0 || (!self.errors.is_empty() && !self.options.keep_going)
    }

    /// Judges every task that can be, in plan order; a hit frees those after it at once.
    fn judge_open(&mut self) {
        while let Some(id) = self.open.pop_first() {
            if self.is_stopping() {
                self.states.set(id, State::Stopped);
                self.give_up_followers(id);
            } else {
                self.judge(id);
            }
        }
    }

    fn judge(&mut self, id: TaskId) {
        let task = self.plan.task(id);
        let verdict = match self.judge.judge(task, &self.results) {
            Ok(verdict) => verdict,
            Err(error) if error.kind() == Kind::Interrupted => {
                self.states.set(id, State::Stopped);
                return self.give_up_followers(id);
            }
            Err(error) => return self.fail(id, error, None),
        };
        self.keys.insert(id, verdict.key.clone());
        let forced = self.forced.contains(&id);
        let reason = match verdict.state {
            Found::Hit(made) if !forced => return self.reuse(id, made, State::Cached),
            Found::Hit(_) => Reason::Forced,
            Found::Evicted(made, reason @ Reason::Gone { .. }) if !forced && !self.is_needed(id, &made) => {
                drop(reason);
                return self.reuse(id, made, State::Evicted);
            }
            Found::Evicted(made, reason) => {
                if let Err(error) = self.quarantine(id, &made) {
                    return self.fail(id, error, None);
                }
                reason
            }
            Found::Run(_) if forced => Reason::Forced,
            Found::Run(reason) => reason,
        };
        if self.demand_needs(id) {
            return;
        }
        self.states.set(id, State::Ready);
        let start = if reason == Reason::Forced { Start::Beginning } else { verdict.start };
        let waiting = Waiting { key: verdict.key, contents: verdict.contents, lines: verdict.lines, reason, start };
        self.ready.insert(self.rank(id), waiting);
    }

    fn rank(&self, id: TaskId) -> Rank {
        (Reverse(self.priority[id.0].to_bits()), id)
    }

    /// Takes a result that is known.
    fn reuse(&mut self, id: TaskId, made: Made, state: State) {
        let key = made.key.clone();
        let known = self.judge.known().last(&self.plan.task(id).name);
        if known.is_none_or(|last| last.end != End::Done || last.key != key) {
            let boot = self.store.action(&key).and_then(|action| action.boot);
            let (run, log) = self.store.action(&key).map_or_else(Default::default, |a| (a.run, a.log));
            let (seconds, outputs) = (made.seconds, made.outputs.clone());
            self.remember(id, Attempt { seconds, outputs, run, log, boot, ..self.attempt(id, &key, End::Done) });
        }
        self.results.insert(id, made);
        self.states.set(id, state);
        let task = self.name(id);
        (self.show)(&Event::Cached { task, key: key.short().into() });
        self.met(id);
    }

    /// A task has a result: those that need it wait for one less.
    fn met(&mut self, id: TaskId) {
        for follower in self.plan.graph.needed_by(id) {
            if self.states.get(follower) == State::Wanted {
                self.unmet[follower.0] -= 1;
                if self.unmet[follower.0] == 0 {
                    self.open.insert(follower);
                }
            }
        }
    }

    /// Whether somebody needs the bytes of a result that are gone: a task that has to run, or the user.
    fn is_needed(&mut self, id: TaskId, made: &Made) -> bool {
        let followed = self.plan.graph.needed_by(id).into_iter().any(|other| self.states.get(other) != State::Out);
        !followed || self.demanded.contains(&id) || !self.judge.is_put(self.plan.task(id), made)
    }

    /// Has what a task reads made again where the bytes are gone; whether there was any such thing. The task is judged
    /// again when it is there, since a stage that is not deterministic gives other bytes.
    fn demand_needs(&mut self, id: TaskId) -> bool {
        let gone: Vec<TaskId> =
            self.plan.graph.needs(id).into_iter().filter(|need| self.states.get(*need) == State::Evicted).collect();
        for need in &gone {
            self.demanded.insert(*need);
            self.states.set(*need, State::Wanted);
            self.open.insert(*need);
            for follower in self.plan.graph.needed_by(*need) {
                if self.states.get(follower) == State::Wanted {
                    self.unmet[follower.0] += 1;
                    self.open.remove(&follower);
                }
            }
        }
        !gone.is_empty()
    }

    fn quarantine(&mut self, id: TaskId, made: &Made) -> Result<()> {
        for warning in self.judge.quarantine(made)? {
            self.warn(id, &warning);
        }
        Ok(())
    }

    /// Starts ready tasks, those with the longest work behind them first.
    fn start_ready(&mut self) {
        if self.is_stopping() {
            for ((_, id), _) in std::mem::take(&mut self.ready) {
                self.states.set(id, State::Stopped);
                self.give_up_followers(id);
            }
            return;
        }
        let order: Vec<Rank> = self.ready.keys().copied().collect();
        for (position, rank) in order.iter().enumerate() {
            if self.slots.is_full() {
                break;
            }
            let task = self.plan.task(rank.1);
            let wants_gpu = task.step.resources().gpu && !self.options.gpus.is_empty() && task.limits.gpus != Some(0);
            let Some(share) = self.slots.take(wants_gpu, task.limits.cpus, order.len() - position) else { continue };
            if let Some(waiting) = self.ready.remove(rank) {
                self.start(rank.1, waiting, share);
            }
        }
    }

    fn start(&mut self, id: TaskId, waiting: Waiting, share: Share) {
        let task = self.plan.task(id);
        let sources = self.judge.sources(task, &waiting.contents);
        let guards: Vec<Guard> =
            sources.iter().map(|(path, digest)| Guard::new(path.clone(), digest.clone())).collect();
        // Files may have changed since the task was judged: from here on they are watched.
        if !self.judge.still(&sources) {
            self.slots.give_back(share);
            self.states.set(id, State::Wanted);
            self.open.insert(id);
            return;
        }
        let inputs = match inputs(self.plan, self.store, task, &waiting.contents, &self.results) {
            Ok(inputs) => inputs,
            Err(error) => {
                self.slots.give_back(share);
                return self.fail(id, error, None);
            }
        };
        self.states.set(id, State::Running);
        (self.show)(&Event::Start {
            task: task.name.clone(),
            key: waiting.key.short().into(),
            reason: format!("{}{}", waiting.reason, waiting.start),
            threads: share.threads,
            gpu: share.gpu,
        });
        let log = self.log(id);
        let leash = Leash::default();
        let running = Running {
            share: Some(share),
            leash: leash.clone(),
            key: waiting.key.clone(),
            log: log.clone(),
            started: Instant::now(),
            limit: None,
        };
        self.running.insert(id, running);
        let order = Order {
            id,
            name: task.name.clone(),
            kind: task.kind.name,
            outputs: task.step.outputs().iter().map(ToString::to_string).collect(),
            varies: task.step.varies().iter().map(ToString::to_string).collect(),
            params: task.params.clone(),
            inputs,
            key: waiting.key,
            lines: waiting.lines.clone(),
            project: self.plan.project.clone(),
            pipeline: self.plan.pipeline.clone(),
            run: self.options.run.clone(),
            log,
            share,
            guards,
            digests: self.judge.digests().clone(),
            extends_from: extends_from(self.store, &waiting.start),
            member: task.step.extends().and_then(|extends| Member::of(&waiting.lines, extends)),
            again: matches!(waiting.reason, Reason::Forced | Reason::Always),
            wait: !self.options.no_wait,
            cached: task.step.is_cached(),
        };
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
            Note::Computed(id) => {
                if let Some(running) = self.running.get_mut(&id) {
                    running.limit = None;
                    let share = running.share.take();
                    self.give_back(share);
                }
            }
            Note::Ended(id, ended) => self.ended(id, ended),
        }
    }

    fn give_back(&mut self, share: Option<Share>) {
        if let Some(share) = share {
            self.slots.give_back(share);
        }
    }

    fn ended(&mut self, id: TaskId, ended: Result<Ended>) {
        let Some(mut running) = self.running.remove(&id) else { return };
        let share = running.share.take();
        self.give_back(share);
        match ended {
            Ok(Ended::Ran(ran)) => {
                let Ran { action, warnings } = *ran;
                for warning in warnings {
                    self.warn(id, &warning);
                }
                let event = Event::Done {
                    task: self.name(id),
                    key: action.key.short().into(),
                    seconds: action.seconds,
                    metrics: action.metrics.clone(),
                };
                self.finish(id, State::Done, &action, &event);
            }
            Ok(Ended::Shared(action)) => {
                let event = Event::Cached { task: self.name(id), key: action.key.short().into() };
                self.finish(id, State::Cached, &action, &event);
            }
            Err(error) => {
                let end = match error.kind() {
                    Kind::Interrupted => End::Stopped,
                    Kind::Changed => End::Tainted,
                    _ => End::Failed,
                };
                let attempt = Attempt {
                    seconds: running.started.elapsed().as_secs_f64(),
                    cause: error.message().to_string(),
                    log: running.log.display().to_string(),
                    ..self.attempt(id, &running.key, end)
                };
                self.remember(id, attempt);
                if end == End::Stopped {
                    self.states.set(id, State::Stopped);
                    let task = self.name(id);
                    (self.show)(&Event::Stopped { task });
                    self.give_up_followers(id);
                } else {
                    self.fail(id, error, Some(running.log));
                }
            }
        }
    }

    fn finish(&mut self, id: TaskId, state: State, action: &crate::cache::Action, event: &Event) {
        let attempt = Attempt {
            seconds: action.seconds,
            run: action.run.clone(),
            outputs: action.outputs.clone(),
            log: action.log.clone(),
            gpu_memory: action.gpu_memory,
            boot: action.boot.clone(),
            ..self.attempt(id, &action.key, End::Done)
        };
        self.remember(id, attempt);
        self.results.insert(id, action.made());
        self.states.set(id, state);
        (self.show)(event);
        self.met(id);
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

    fn fail(&mut self, id: TaskId, error: Error, log: Option<PathBuf>) {
        self.states.set(id, State::Failed);
        let event = Event::Failed { task: self.name(id), error: error.render("error"), log };
        (self.show)(&event);
        self.errors.push(error);
        self.give_up_followers(id);
    }

    /// What cannot run any more because a task has no result.
    fn give_up_followers(&mut self, id: TaskId) {
        let stopped = self.states.get(id) == State::Stopped;
        let mut next = vec![id];
        while let Some(needed) = next.pop() {
            for follower in self.plan.graph.needed_by(needed) {
                if self.states.get(follower) != State::Wanted {
                    continue;
                }
                self.open.remove(&follower);
                if stopped {
                    self.states.set(follower, State::Stopped);
                } else {
                    self.states.set(follower, State::Blocked);
                    let (task, needs) = (self.name(follower), self.name(needed));
                    (self.show)(&Event::Blocked { task, needs });
                }
                next.push(follower);
            }
        }
    }

    fn pass_interrupts_on(&mut self) {
        let interrupts = INTERRUPTS.load(Ordering::SeqCst);
        if interrupts > self.interrupts_seen {
            self.interrupts_seen = interrupts;
            for running in self.running.values() {
                if interrupts == 1 { running.leash.stop() } else { running.leash.kill() }
            }
        }
    }

    /// Asks tasks to end whose time is over, and ends them if they do not.
    fn enforce_limits(&mut self) {
        const GRACE: Duration = Duration::from_secs(30);
        let now = Instant::now();
        for running in self.running.values_mut() {
            if let Some((end, limit)) = running.limit.filter(|(end, _)| *end <= now) {
                running.leash.time_out(limit);
                running.limit = Some((end + GRACE, limit));
            }
        }
    }

    fn name(&self, id: TaskId) -> String {
        self.plan.task(id).name.clone()
    }

    fn log(&self, id: TaskId) -> PathBuf {
        self.options.logs.join(format!("{}.txt", file_name(&self.plan.task(id).name)))
    }

    fn end(self, seconds: f64) -> Result<Outcome> {
        self.judge.close()?;
        let count = |state| self.states.count(state);
        (self.show)(&Event::End {
            ran: count(State::Done),
            cached: count(State::Cached) + count(State::Evicted),
            failed: count(State::Failed),
            blocked: count(State::Blocked),
            stopped: count(State::Stopped),
            seconds,
        });
        Ok(Outcome { states: self.states, results: self.results, keys: self.keys, errors: self.errors, seconds })
    }
}

/// The outputs of a smaller result to go on from, as the task's process takes them.
fn extends_from(store: &Store, start: &Start) -> BTreeMap<String, Input> {
    let Start::Extend(extension) = start else { return BTreeMap::new() };
    let input = |object: &crate::cache::Object| Input {
        path: std::path::absolute(store.object_path(object)).unwrap_or_else(|_| store.object_path(object)),
        digest: object.digest.clone(),
        images: None,
        known_as: String::new(),
    };
    extension.outputs.iter().map(|(name, object)| (name.clone(), input(object))).collect()
}
