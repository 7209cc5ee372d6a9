//! A run: tasks move from wanted to a result, each when what it needs is there.

use super::gpu_fault::{Facts, explained, gpu_was_full};
use super::guard::Guard;
use super::machine::Meter;
use super::need::{Gpu, Need};
use super::predict;
use super::priority::{Rank, remaining};
use super::slots::{Share, Slots};
use super::watchers::Watchers;
use super::worker::{self, Ended, Leash, Note, Order, Ran, now};
use super::{INTERRUPTS, Options, Outcome, State, States};
use crate::amounts::CardMemory;
use crate::cache::{
    Action, Attempt, Contents, End, Found, Judge, Key, Line, Made, Member, Outputs, Reason, Results, Start, Store,
    Verdict, inputs, lines, log_name,
};
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::plan::{Plan, Target, TaskId};
use crate::process;
use crate::stage::{Input, Message};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
        states: States::new(plan.tasks.len(), &wanted),
        slots: Slots::new(options.machine.clone()),
        unmet: plan.tasks.iter().map(|task| plan.graph.needs(task.id).len()).collect(),
        open: BTreeSet::new(),
        demanded: HashSet::new(),
        forced: options.force.iter().copied().collect(),
        remaining: vec![],
        expected: vec![],
        foretold: None,
        started: false,
        told: HashSet::new(),
        lost: BTreeSet::new(),
        ready: BTreeMap::new(),
        running: HashMap::new(),
        results: HashMap::new(),
        keys: HashMap::new(),
        contents: HashMap::new(),
        errors: vec![],
        watchers: Watchers::new(),
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
    need: Need,
    /// Counts its starts in this run, from 1.
    attempt: usize,
    since: Instant,
}

/// A task whose process is at work.
struct Running {
    /// Given back when its process has ended.
    share: Option<Share>,
    waiting: Waiting,
    leash: Leash,
    log: PathBuf,
    started: Instant,
    /// When it will be asked to end, and how long it may take in all; counted from when its process started, since it may
    /// have to wait for another run's.
    limit: Option<(Instant, Duration)>,
    /// How long all stood still before that was set.
    paused: Duration,
    /// Watches its GPU memory.
    meter: Option<Meter>,
    metered: Instant,
    peak: Arc<AtomicU64>,
}

impl Running {
    /// The end of its log.
    fn last_words(&self) -> String {
        const TAIL: usize = 1 << 14;
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL)..]).into_owned()
    }
}

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
    /// Seconds from each task's start to the end of the longest chain behind it; found when the first task has to run.
    remaining: Vec<f64>,
    /// Seconds that each task is expected to take; known together with those.
    expected: Vec<Option<f64>>,
    /// When the rest of the run was last foretold.
    foretold: Option<Instant>,
    /// Whether any task was started.
    started: bool,
    /// Tasks that were told to wait for others.
    told: HashSet<TaskId>,
    /// Positions of GPUs that are told not to answer any more.
    lost: BTreeSet<usize>,
    ready: BTreeMap<Rank, Waiting>,
    running: HashMap<TaskId, Running>,
    results: Results,
    keys: HashMap<TaskId, Key>,
    /// What the tasks read that had their results.
    contents: HashMap<TaskId, Contents>,
    errors: Vec<Error>,
    watchers: Watchers,
    sender: Sender<Note>,
    interrupts_seen: usize,
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
                if !self.open.is_empty() {
                    continue;
                }
                if self.ready.is_empty() {
                    break;
                }
                self.tell_of_others();
            }
            // The time-out is there to notice Ctrl-C, limits, and others that leave a GPU which a task waits for.
            match notes.recv_timeout(Duration::from_millis(100)) {
                Ok(note) => self.hear(note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(note) = notes.try_recv() {
                self.hear(note);
            }
            self.enforce_limits();
            self.foretell();
        }
    }

    fn is_stopping(&self) -> bool {
        INTERRUPTS.load(Ordering::SeqCst) > 0 || (!self.errors.is_empty() && !self.options.keep_going)
    }

    /// Judges every task that can be, those of one depth side by side; a hit frees those after it at once.
    fn judge_open(&mut self) {
        while !self.open.is_empty() {
            let open: Vec<TaskId> = std::mem::take(&mut self.open).into_iter().collect();
            if self.is_stopping() {
                for id in open {
                    self.states.set(id, State::Stopped);
                    self.give_up_followers(id);
                }
                continue;
            }
            let verdicts = self.judge_all(&open);
            for (id, verdict) in open.into_iter().zip(verdicts) {
                // A task judged before it may have found that what both need has to be made again.
                if self.unmet[id.0] == 0 && self.states.get(id) == State::Wanted {
                    self.act_on(id, verdict);
                }
            }
        }
    }

    /// Judges tasks side by side, and tells how far that is when it takes long: files may have to be read.
    fn judge_all(&mut self, open: &[TaskId]) -> Vec<Result<Verdict>> {
        const LOOK: Duration = Duration::from_secs(1);
        let (judge, plan, results, watch) = (&self.judge, self.plan, &self.results, &self.options.watch);
        // Every result that is found is claimed; with this, all of them together.
        let _hold = self.store.hold().ok();
        let (sender, verdicts) = channel();
        let mut told = false;
        rayon::in_place_scope(|scope| {
            scope.spawn(move |_| {
                let verdicts: Vec<_> = open.par_iter().map(|id| judge.judge(plan.task(*id), results)).collect();
                // The receiver waits for it.
                let _ = sender.send(verdicts);
            });
            loop {
                match verdicts.recv_timeout(LOOK) {
                    Ok(verdicts) => break verdicts,
                    // It panicked: the scope passes that on.
                    Err(RecvTimeoutError::Disconnected) => break vec![],
                    Err(RecvTimeoutError::Timeout) => {
                        let (read, total) = watch.progress();
                        if told || read < total {
                            told = read < total;
                            (self.show)(&Event::Reading { read, total });
                        }
                    }
                }
            }
        })
    }

    fn act_on(&mut self, id: TaskId, verdict: Result<Verdict>) {
        let verdict = match verdict {
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
            Found::Hit(made) if !forced => {
                self.contents.insert(id, verdict.contents);
                return self.reuse(id, made, State::Cached);
            }
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
        let task = self.plan.task(id);
        let need = match predict::need(self.plan, task, self.judge.known(), &self.options.machine) {
            Ok(need) => need,
            Err(error) => return self.fail(id, error, None),
        };
        // Before the first start, all are asked.
        if !self.lost.is_empty()
            && let Err(error) = self.slots.can_ever(&task.name, &need)
        {
            return self.fail(id, error, None);
        }
        let waiting = Waiting {
            key: verdict.key,
            lines: lines(task, &verdict.contents),
            contents: verdict.contents,
            reason,
            start,
            need,
            attempt: 1,
            since: Instant::now(),
        };
        let rank = self.rank(id);
        self.ready.insert(rank, waiting);
    }

    fn rank(&mut self, id: TaskId) -> Rank {
        if self.remaining.is_empty() {
            self.expected = predict::seconds(self.plan, self.judge.known(), self.store, &self.options.machine);
            // Where nothing is known, the number of tasks counts.
            let seconds: Vec<f64> = self.expected.iter().map(|seconds| seconds.unwrap_or(1.0)).collect();
            self.remaining = remaining(|id| self.plan.graph.needed_by(id), &seconds);
        }
        let priority = self.plan.task(id).wants.priority.unwrap_or(0);
        Rank { priority, remaining: self.remaining[id.0], id }
    }

    /// Takes a result that is known.
    fn reuse(&mut self, id: TaskId, made: Made, state: State) {
        let (key, took) = (made.key.clone(), made.seconds);
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
        (self.show)(&Event::Cached { task, key: key.to_string(), seconds: took });
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
        // All of them first: one that is gone may need another one.
        for need in &gone {
            self.demanded.insert(*need);
            self.states.set(*need, State::Wanted);
        }
        for need in &gone {
            let without = |id: &TaskId| !self.states.get(*id).has_result();
            self.unmet[need.0] = self.plan.graph.needs(*need).iter().filter(|id| without(id)).count();
            if self.unmet[need.0] == 0 {
                self.open.insert(*need);
            }
            for follower in self.plan.graph.needed_by(*need) {
                if self.states.get(follower) == State::Wanted && !gone.contains(&follower) {
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
            for (rank, _) in std::mem::take(&mut self.ready) {
                self.states.set(rank.id, State::Stopped);
                self.give_up_followers(rank.id);
            }
            return;
        }
        if !self.started && !self.ready.is_empty() && !self.all_can_run() {
            return;
        }
        let first = self.ready.keys().next().map(|rank| rank.id);
        for (id, share) in self.slots.offer(self.ready.iter().map(|(rank, waiting)| (rank.id, &waiting.need))) {
            let rank = self.rank(id);
            if let Some(waiting) = self.ready.remove(&rank) {
                self.start(id, waiting, share);
            }
        }
        if let Some(first) = first.filter(|_| self.lost.len() < self.slots.lost().len()) {
            self.part_with_lost_cards(first);
        }
    }

    /// Tells which GPUs do not answer any more, and gives up the tasks that cannot run without them: they would wait for
    /// ever. `first` is the task that is first in the line.
    fn part_with_lost_cards(&mut self, first: TaskId) {
        let lost: Vec<usize> = self.slots.lost().difference(&self.lost).copied().collect();
        for position in lost {
            self.lost.insert(position);
            let Some(card) = self.options.machine.cards().get(position) else { continue };
            let warning = Error::resources(format!("{card} does not answer any more"))
                .note("no task of this run gets it again")
                .hint("`nvidia-smi` and `dmesg` (Xid) tell what became of it");
            self.warn(first, &warning);
        }
        let hopeless = |(rank, waiting): (&Rank, &Waiting)| {
            let error = self.slots.can_ever(&self.plan.task(rank.id).name, &waiting.need).err()?;
            Some((*rank, error))
        };
        let hopeless: Vec<(Rank, Error)> = self.ready.iter().filter_map(hopeless).collect();
        for (rank, error) in hopeless {
            self.ready.remove(&rank);
            self.fail(rank.id, error, None);
        }
    }

    /// Says once which tasks wait for what others use of the GPUs.
    fn tell_of_others(&mut self) {
        for (rank, waiting) in &self.ready {
            if self.slots.waits_for_others(&waiting.need) && self.told.insert(rank.id) {
                let task = self.plan.task(rank.id).name.clone();
                let note = "waits for GPU memory that others use".to_string();
                (self.show)(&Event::Progress { task, done: 0, total: 0, note });
            }
        }
    }

    /// Before the first task starts: whether this machine can run all that may have to run. Hours of work must not be
    /// spent on what then cannot go on.
    fn all_can_run(&mut self) -> bool {
        self.started = true;
        let undecided = [State::Wanted, State::Ready].into_iter().flat_map(|state| self.states.all(state));
        let fault = |id: TaskId| {
            let task = self.plan.task(id);
            let need = predict::need(self.plan, task, self.judge.known(), &self.options.machine);
            Some((id, need.and_then(|need| self.slots.can_ever(&task.name, &need)).err()?))
        };
        let faults: Vec<(TaskId, Error)> = undecided.filter_map(fault).collect();
        let all = faults.is_empty();
        for (id, error) in faults {
            if !self.states.get(id).is_final() {
                self.ready.retain(|rank, _| rank.id != id);
                self.open.remove(&id);
                self.fail(id, error, None);
            }
        }
        all
    }

    fn start(&mut self, id: TaskId, waiting: Waiting, share: Share) {
        let task = self.plan.task(id);
        let sources = self.judge.sources(task, &waiting.contents);
        let mut guards: Vec<Guard> = sources.iter().map(|(path, digest)| Guard::new(path.clone(), digest)).collect();
        // Files may have changed since the task was judged: from here on they are watched.
        if !self.judge.still(&sources) {
            self.judge.forget_programs();
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
        let made = inputs.iter().filter(|(text, _)| matches!(task.inputs.get(*text), Some(Target::Output { .. })));
        guards.extend(made.map(|(_, input)| Guard::cached(input.path.clone(), &input.digest)));
        self.states.set(id, State::Running);
        (self.show)(&Event::Start {
            task: task.name.clone(),
            key: waiting.key.to_string(),
            reason: format!("{}{}", waiting.reason, waiting.start),
            threads: share.threads,
            gpu: share.cards().first().copied(),
            gpus: share.cards(),
            waited: waiting.since.elapsed().as_secs_f64(),
            expected: self.expected[id.0],
        });
        let (log, leash, peak) = (self.log(id, waiting.attempt), Leash::default(), Arc::new(AtomicU64::new(0)));
        let order = Order {
            inputs,
            run: self.options.run.clone(),
            log: log.clone(),
            share: share.clone(),
            guards,
            extends_from: extends_from(self.store, &waiting.start),
            member: task.step.extends().and_then(|extends| Member::of(&waiting.lines, extends)),
            peak: peak.clone(),
            files: waiting.contents.files.clone(),
            again: matches!(waiting.reason, Reason::Forced | Reason::Always),
            wait: !self.options.no_wait,
            ..Order::new(self.plan, task, &waiting.key, &waiting.lines, self.judge.digests())
        };
        let now = Instant::now();
        let running = Running {
            share: Some(share),
            waiting,
            leash: leash.clone(),
            log,
            started: now,
            limit: None,
            paused: Duration::ZERO,
            meter: None,
            metered: now,
            peak,
        };
        self.running.insert(id, running);
        let (store, notes) = (self.store.clone(), self.sender.clone());
        self.watchers.start(move || worker::work(&store, &order, &leash, &notes));
    }

    fn hear(&mut self, note: Note) {
        match note {
            Note::Began(id, pid) => {
                let (machine, timeout) = (&self.options.machine, self.plan.task(id).wants.timeout);
                if let Some(running) = self.running.get_mut(&id) {
                    running.limit = timeout.map(|limit| (Instant::now() + limit.0, limit.0));
                    running.paused = process::paused();
                    let cards = running.share.as_ref().map(Share::positions).unwrap_or_default();
                    running.meter = (!cards.is_empty()).then(|| machine.meter(pid, cards));
                }
            }
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
                    let (share, peak) = (running.share.take(), running.peak.load(Ordering::Relaxed));
                    self.want_what_was_measured(id, peak);
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
        self.give_back(share.clone());
        match ended {
            Ok(Ended::Ran(ran)) => {
                let Ran { action, warnings, seconds, log, gpu_memory } = *ran;
                for warning in warnings {
                    self.warn(id, &warning);
                }
                let event = Event::Done {
                    task: self.name(id),
                    key: action.key.to_string(),
                    seconds,
                    metrics: action.metrics.clone(),
                };
                let attempt = Attempt { seconds, log, gpu_memory, ..self.attempt(id, &action.key, End::Done) };
                self.finish(id, State::Done, &action, attempt, &event);
            }
            Ok(Ended::Shared(action)) => {
                let event = Event::Cached { task: self.name(id), key: action.key.to_string(), seconds: action.seconds };
                let attempt = Attempt {
                    seconds: action.seconds,
                    log: action.log.clone(),
                    gpu_memory: action.gpu_memory,
                    run: action.run.clone(),
                    ..self.attempt(id, &action.key, End::Done)
                };
                self.finish(id, State::Cached, &action, attempt, &event);
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
                    ..self.attempt(id, &running.waiting.key, end)
                };
                let full = end == End::Failed && self.was_crowded_out(&running, share.as_ref(), &error);
                self.remember(id, Attempt { alone: full, ..attempt });
                if full {
                    return self.retry_alone(id, running.waiting, &error);
                }
                let error =
                    if end == End::Failed { self.explained(id, &running, share.as_ref(), error) } else { error };
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

    /// Whether a task failed because the memory of a GPU that it shared was full.
    fn was_crowded_out(&self, running: &Running, share: Option<&Share>, error: &Error) -> bool {
        let had_a_gpu = share.is_some_and(|share| !share.gpus.is_empty());
        if !had_a_gpu || running.waiting.need.alone {
            return false;
        }
        gpu_was_full(&error.render("error")) || gpu_was_full(&running.last_words())
    }

    /// The error of a failed task with what its words say of a GPU. Tasks that can use none speak of none.
    fn explained(&self, id: TaskId, running: &Running, share: Option<&Share>, error: Error) -> Error {
        let use_of_gpu = predict::use_of_gpu(self.plan.task(id));
        // A GPU that cannot be opened is explained where it is opened.
        if !use_of_gpu.is_useful() || error.kind() == Kind::Resources {
            return error;
        }
        let facts = || Facts::of(&self.options.machine, share, use_of_gpu == Gpu::Unknown);
        explained(error, &running.last_words(), facts)
    }

    /// Gives a task a GPU of its own, once.
    fn retry_alone(&mut self, id: TaskId, waiting: Waiting, error: &Error) {
        let task = self.name(id);
        (self.show)(&Event::Retry { task, because: format!("{}: alone on a GPU", error.message()) });
        self.states.set(id, State::Ready);
        let need = Need { alone: true, ..waiting.need };
        let rank = self.rank(id);
        self.ready.insert(rank, Waiting { need, attempt: waiting.attempt + 1, ..waiting });
    }

    fn finish(&mut self, id: TaskId, state: State, action: &Action, attempt: Attempt, event: &Event) {
        let (outputs, boot) = (action.outputs.clone(), action.boot.clone());
        self.remember(id, Attempt { outputs, boot, ..attempt });
        self.results.insert(id, action.made());
        self.states.set(id, state);
        (self.show)(event);
        self.met(id);
    }

    /// A task's GPU memory was measured: those of its stage that wait for a whole card until that is known want their part
    /// now, before its card is given to the next.
    fn want_what_was_measured(&mut self, id: TaskId, peak: u64) {
        if peak == 0 {
            return;
        }
        let stage = &self.plan.task(id).stage;
        for (rank, waiting) in &mut self.ready {
            let task = self.plan.task(rank.id);
            if task.stage == *stage
                && task.wants.gpu_memory == Some(CardMemory::Auto)
                && let Ok(need) =
                    predict::need_by(self.plan, task, self.judge.known(), &self.options.machine, Some(peak))
            {
                waiting.need = need;
            }
        }
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

    /// Asks tasks to end whose time is over, and ends them if they do not; looks at what they use of GPUs.
    fn enforce_limits(&mut self) {
        const GRACE: Duration = Duration::from_secs(30);
        const LOOK: Duration = Duration::from_secs(1);
        let now = Instant::now();
        for running in self.running.values_mut() {
            if let Some(meter) = running.meter.as_mut().filter(|_| now - running.metered >= LOOK) {
                running.metered = now;
                meter.poll();
                running.peak.store(meter.peak().unwrap_or(0), Ordering::Relaxed);
            }
            let stood = process::paused().saturating_sub(running.paused);
            if let Some((end, limit)) = running.limit.filter(|(end, _)| *end + stood <= now) {
                running.leash.time_out(limit);
                running.limit = Some((end + GRACE, limit));
            }
        }
    }

    /// Tells now and then how long the rest of the run will take, if all of its tasks are known from earlier runs. Those
    /// that may turn out to be cached count as if they had to run.
    fn foretell(&mut self) {
        const EVERY: Duration = Duration::from_secs(5);
        if self.running.is_empty() || self.foretold.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.foretold = Some(Instant::now());
        let left = |id: TaskId| {
            let gone = self.running.get(&id).map_or(0.0, |running| running.started.elapsed().as_secs_f64());
            let expected = self.expected[id.0].unwrap_or(0.0);
            (id, if expected > 0.0 { (1.0 - gone / expected).max(0.0) } else { 1.0 })
        };
        let undecided =
            [State::Wanted, State::Ready, State::Running].into_iter().flat_map(|state| self.states.all(state));
        let mut tasks: Vec<(TaskId, f64)> = undecided.map(left).collect();
        tasks.sort_unstable_by_key(|(id, _)| *id);
        let prediction = predict::predict(self.plan, self.judge.known(), self.store, &self.options.machine, &tasks);
        if prediction.unknown == 0 && prediction.wall > 0.0 {
            (self.show)(&Event::Forecast { seconds: prediction.wall });
        }
    }

    fn name(&self, id: TaskId) -> String {
        self.plan.task(id).name.clone()
    }

    fn log(&self, id: TaskId, attempt: usize) -> PathBuf {
        self.options.logs.join(log_name(&self.plan.task(id).name, attempt))
    }

    fn end(self, seconds: f64) -> Result<Outcome> {
        let warnings = self.judge.close();
        let count = |state| self.states.count(state);
        (self.show)(&Event::End {
            ran: count(State::Done),
            cached: count(State::Cached) + count(State::Evicted),
            failed: count(State::Failed),
            blocked: count(State::Blocked),
            stopped: count(State::Stopped),
            seconds,
        });
        Ok(Outcome {
            states: self.states,
            results: self.results,
            keys: self.keys,
            contents: self.contents,
            errors: self.errors,
            warnings,
            seconds,
        })
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
