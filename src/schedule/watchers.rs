//! Threads that watch the processes of tasks, one at a time each, and wait for the next one when that has ended.
//!
//! They are kept rather than made for each task: besides its price, the end of a thread is where the allocator waits for
//! other threads by spinning, if they are giving back memory of that thread's just then. Where strict priorities keep
//! those from running (`SCHED_FIFO` with more threads than cores), that can take for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// As many threads as there were jobs at once so far. Those that wait end when this is dropped.
pub(super) struct Watchers {
    jobs: Sender<Job>,
    waiting: Arc<Mutex<Receiver<Job>>>,
    /// Threads without a job, less the jobs that none has taken up yet.
    free: Arc<AtomicUsize>,
}

impl Watchers {
    pub(super) fn new() -> Self {
        let (jobs, waiting) = channel();
        Self { jobs, waiting: Arc::new(Mutex::new(waiting)), free: Arc::default() }
    }

    /// Has a thread do this, now.
    pub(super) fn start(&self, job: impl FnOnce() + Send + 'static) {
        let taken = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1));
        if taken.is_err() {
            let (waiting, free) = (self.waiting.clone(), self.free.clone());
            std::thread::spawn(move || {
                while let Some(job) = next(&waiting) {
                    job();
                    free.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        // It cannot fail: the other end is here, too.
        let _ = self.jobs.send(Box::new(job));
    }
}

/// One thread waits for the job, the others for that one.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn jobs_at_once_have_threads_of_their_own_and_later_ones_use_them_again() {
        let watchers = Watchers::new();
        let (told, names) = channel();
        for _ in 0..20 {
            // Each of three goes on only when all three are there.
            let all = Arc::new(std::sync::Barrier::new(3));
            for _ in 0..3 {
                let (told, all) = (told.clone(), all.clone());
                watchers.start(move || {
                    all.wait();
                    told.send(std::thread::current().id()).unwrap();
                });
            }
            let round: HashSet<_> = names.iter().take(3).collect();
            assert_eq!(round.len(), 3);
            while watchers.free.load(Ordering::Acquire) < 3 {
                std::thread::yield_now();
            }
        }
        assert_eq!(watchers.free.load(Ordering::Acquire), 3);
    }
}
