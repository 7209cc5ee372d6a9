//! The tasks whose processes are at work: what they have, how long they may take, and what they use of GPUs.

use super::Waiting;
use crate::plan::TaskId;
use crate::process;
use crate::schedule::machine::{Machine, Meter};
use crate::schedule::slots::Share;
use crate::schedule::worker::Leash;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A task whose process is at work.
pub(super) struct Running {
    /// Given back when its process has ended.
    share: Option<Share>,
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

impl Running {
    pub(super) fn new(waiting: Waiting, share: Share, log: PathBuf) -> Self {
        let now = Instant::now();
        Self {
            share: Some(share),
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
