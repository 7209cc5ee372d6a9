//! The tasks whose processes are at work: what they have, how long they may take, and what they use of GPUs.

use super::Waiting;
use crate::plan::TaskId;
use crate::process;
use crate::schedule::machine::{Machine, Meter};
use crate::schedule::slots::{Share, Slots};
use crate::schedule::worker::Leash;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A task whose process is at work.
pub(super) struct Running {
    has_process: bool,
    /// Given back when its process has ended.
    share: Option<Share>,
    lending: Lending,
    pub(super) waiting: Waiting,
    pub(super) leash: Leash,
    pub(super) log: PathBuf,
    started: Instant,
    /// When it will be asked to end, and how long it may take in all; counted from when its process started, since it may
    /// have to wait for another run's.
    limit: Option<(Instant, Duration)>,
    /// How long all stood still before that was set.
    paused: Duration,
    /// Watches its GPU memory.
    meter: Option<Meter>,
    metered: Instant,
    /// Bytes of GPU memory it was seen to use at most.
    pub(super) peak: Arc<AtomicU64>,
}

/// Whether a task can be lent threads.
#[derive(Debug, Clone, Copy)]
enum Lending {
    /// It keeps those it has.
    Never,
    /// It began with so many.
    From {
        began: usize,
        /// Its process has told of its steps: before each it looks how many threads it has.
        in_steps: bool,
        /// What it was asked to work with, until it says that it does.
        asked: Option<usize>,
    },
}

impl Running {
    /// `elastic` tells whether the number of its threads may change.
    pub(super) fn new(waiting: Waiting, share: Share, elastic: bool, log: PathBuf) -> Self {
        let now = Instant::now();
        let from = Lending::From { began: share.threads, in_steps: false, asked: None };
        Self {
            has_process: false,
            share: Some(share),
            lending: if elastic { from } else { Lending::Never },
            waiting,
            leash: Leash::default(),
            log,
            started: now,
            limit: None,
            paused: Duration::ZERO,
            meter: None,
            metered: now,
            peak: Arc::default(),
        }
    }

    /// Its process was started: from now on its time counts, and what it uses of its cards.
    pub(super) fn began(&mut self, pid: u32, timeout: Option<Duration>, machine: &Machine) {
        self.has_process = true;
        self.limit = timeout.map(|limit| (Instant::now() + limit, limit));
        self.paused = process::paused();
        let cards = self.share.as_ref().map(Share::positions).unwrap_or_default();
        self.meter = (!cards.is_empty()).then(|| machine.meter(pid, cards));
    }

    /// Its process has ended: what it had is free.
    pub(super) fn computed(&mut self) -> Option<Share> {
        self.limit = None;
        self.share.take()
    }

    /// How many threads it has.
    pub(super) fn threads(&self) -> usize {
        self.share.as_ref().map_or(0, |share| share.threads)
    }

    /// How many of them it was lent.
    pub(super) fn lent(&self) -> usize {
        match self.lending {
            Lending::Never => 0,
            Lending::From { began, .. } => self.threads().saturating_sub(began),
        }
    }

    /// How many it was asked for and has not given back yet.
    fn returning(&self) -> usize {
        match self.lending {
            Lending::From { asked: Some(asked), .. } => self.threads().saturating_sub(asked),
            _ => 0,
        }
    }

    /// Whether it can be lent threads or asked for them now.
    pub(super) fn can_be_asked(&self) -> bool {
        self.share.is_some() && matches!(self.lending, Lending::From { in_steps: true, asked: None, .. })
    }

    /// It told of its steps.
    pub(super) fn steps(&mut self) {
        // What it tells while it waits for another run's process is no step.
        if let Lending::From { in_steps, .. } = &mut self.lending {
            *in_steps = self.has_process;
        }
    }

    /// Lends it idle threads.
    pub(super) fn lend(&mut self, count: usize, slots: &mut Slots) {
        if let Some(share) = &mut self.share {
            slots.lend(share, count);
        }
        self.ask(self.threads());
    }

    /// Asks it for threads. It has them until it has answered.
    pub(super) fn ask_back(&mut self, count: usize) {
        self.ask(self.threads().saturating_sub(count));
    }

    fn ask(&mut self, threads: usize) {
        if let Lending::From { asked, .. } = &mut self.lending {
            *asked = Some(threads);
            self.leash.threads(threads);
        }
    }

    /// It says that it works with so many threads now: those beyond are idle.
    pub(super) fn works_with(&mut self, threads: usize, slots: &mut Slots) {
        if let Lending::From { asked, .. } = &mut self.lending
            && asked.take_if(|asked| *asked == threads).is_some()
            && let Some(share) = &mut self.share
        {
            slots.reclaim(share, threads);
        }
    }

    /// Seconds since it started.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        const TAIL: usize = 1 << 14;
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL)..]).into_owned()
    }

    /// Asks it to end if its time is over, and ends it if it does not.
    fn enforce_limit(&mut self, now: Instant) {
        const GRACE: Duration = Duration::from_secs(30);
        let stood = process::paused().saturating_sub(self.paused);
        if let Some((end, limit)) = self.limit.filter(|(end, _)| *end + stood <= now) {
            self.leash.time_out(limit);
            self.limit = Some((end + GRACE, limit));
        }
    }

    /// Looks now and then at what it uses of GPUs.
    fn measure(&mut self, now: Instant) {
        const LOOK: Duration = Duration::from_secs(1);
        if let Some(meter) = self.meter.as_mut().filter(|_| now - self.metered >= LOOK) {
            self.metered = now;
            meter.poll();
            self.peak.store(meter.peak().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct AtWork {
    running: HashMap<TaskId, Running>,
    interrupts_seen: usize,
}

impl AtWork {
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Running> {
        self.running.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Running> {
        self.running.get_mut(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (TaskId, &Running)> {
        self.running.iter().map(|(id, running)| (*id, running))
    }

    /// How many threads all together were lent.
    pub(super) fn lent(&self) -> usize {
        self.running.values().map(Running::lent).sum()
    }

    /// How many threads they were asked for and have not given back yet.
    pub(super) fn returning(&self) -> usize {
        self.running.values().map(Running::returning).sum()
    }

    pub(super) fn add(&mut self, id: TaskId, running: Running) {
        self.running.insert(id, running);
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Running> {
        self.running.remove(&id)
    }

    /// Tells all of a Ctrl-C that they were not told of: the first asks them to end, the next ends them.
    pub(super) fn pass_on(&mut self, interrupts: usize) {
        if interrupts > self.interrupts_seen {
            self.interrupts_seen = interrupts;
            for running in self.running.values() {
                if interrupts == 1 { running.leash.stop() } else { running.leash.kill() }
            }
        }
    }

    /// Ends those whose time is over, and measures what the others use.
    pub(super) fn look_after(&mut self) {
        let now = Instant::now();
        for running in self.running.values_mut() {
            running.measure(now);
            running.enforce_limit(now);
        }
    }
}
