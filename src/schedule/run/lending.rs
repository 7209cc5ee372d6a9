//! The last step of a turn: threads that nobody needs are lent to running tasks, and asked back when one gets ready.
//!
//! A task is lent threads if it can use any number, looks before each of its steps how many it has, and is in its steps.
//! They count as its own until it has said that it works without them, and while it has not answered it is asked nothing
//! else. So there are never more threads at work than the machine has, and a task that gets ready finds, a step later,
//! what it would have found without lending.

use super::Run;
use crate::plan::TaskId;
use crate::schedule::INTERRUPTS;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Threads that no task needs, as far as that lasts.
pub(super) struct Idle {
    /// The fewest that were idle since then.
    least: usize,
    since: Instant,
}

impl Idle {
    pub(super) fn new() -> Self {
        Self { least: usize::MAX, since: Instant::now() }
    }

    /// So many are idle now: how many of them have been so for long enough. Between one task's end and the start of the
    /// next that it made ready they are idle as well, and lending them then would make that one wait.
    fn lasting(&mut self, idle: usize) -> usize {
        const LONG: Duration = Duration::from_secs(1);
        self.least = self.least.min(idle);
        if self.since.elapsed() < LONG {
            return 0;
        }
        std::mem::replace(self, Self::new()).least
    }
}

impl Run<'_> {
    /// Asks for what ready tasks will start with; if they need nothing, lends what is idle.
    pub(super) fn lend(&mut self) {
        let idle = self.idle.lasting(self.slots.idle());
        if INTERRUPTS.load(Ordering::SeqCst) > 0 {
            return;
        }
        if self.missing > 0 {
            self.ask_back(self.missing.saturating_sub(self.at_work.returning()));
        } else if idle > 0 {
            self.lend_idle(idle);
        }
    }

    /// Asks for threads, of those tasks first that are nearest to their end.
    fn ask_back(&mut self, mut missing: usize) {
        let mut borrowers = self.borrowers();
        borrowers.sort_by(|a, b| self.left(*a, 0).total_cmp(&self.left(*b, 0)).then(b.cmp(a)));
        for id in borrowers {
            let Some(running) = self.at_work.get_mut(id) else { continue };
            let count = running.lent().min(missing);
            if count > 0 {
                running.ask_back(count);
                missing -= count;
            }
        }
    }

    /// Gives threads away one by one, each to the task that would be the last to end with those that it has.
    fn lend_idle(&mut self, idle: usize) {
        let mut borrowers: Vec<(TaskId, usize)> = self.borrowers().into_iter().map(|id| (id, 0)).collect();
        for _ in 0..idle {
            let left = borrowers.iter().map(|(id, more)| self.left(*id, *more));
            // Of equal ones the first.
            let last = left.enumerate().reduce(|last, next| if next.1 > last.1 { next } else { last });
            if let Some((last, _)) = last {
                borrowers[last].1 += 1;
            }
        }
        for (id, more) in borrowers.into_iter().filter(|(_, more)| *more > 0) {
            if let Some(running) = self.at_work.get_mut(id) {
                running.lend(more, &mut self.slots);
            }
        }
    }

    /// The tasks that can be lent threads or asked for them now, in plan order.
    fn borrowers(&self) -> Vec<TaskId> {
        let able = self.at_work.all().filter(|(_, running)| running.can_be_asked());
        let mut able: Vec<TaskId> = able.map(|(id, _)| id).collect();
        able.sort_unstable();
        able
    }

    /// Seconds until a task's end, as far as that is known, if it had some threads more. Where nothing is known they are
    /// many, and the number of threads counts.
    fn left(&self, id: TaskId, more: usize) -> f64 {
        const MANY: f64 = 1e9;
        let Some(running) = self.at_work.get(id) else { return 0.0 };
        let seconds = self.forecast.expected(id).map_or(MANY, |expected| (expected - running.seconds()).max(1.0));
        seconds / (running.threads() + more) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_idle_for_a_moment_is_not_lent() {
        let past = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let mut idle = Idle { least: usize::MAX, since: past };
        assert_eq!(idle.lasting(3), 3);
        // Now the count begins again.
        assert_eq!(idle.lasting(3), 0);
        for (now, lasting) in [(0, 0), (4, 0)] {
            assert_eq!(idle.lasting(now), lasting);
        }
        idle.since = past;
        assert_eq!(idle.lasting(4), 0, "for a moment there were none");
        idle.since = past;
        assert_eq!(idle.lasting(4), 4);
    }
}
