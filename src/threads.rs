//! How many threads this process computes with: a number that may change while it does.
//!
//! rayon's pools keep their size. So who computes for long hands over one step at a time, and each is done on a pool of
//! the size that is wanted when it begins. Results never depend on the size. As long as nobody wants another number than
//! rayon began with, nothing is built and nothing changes its thread.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number that is wanted; 0 until somebody wants one.
static WANTED: AtomicUsize = AtomicUsize::new(0);

/// Wants so many threads from the next step on; at least one.
pub fn want(count: usize) {
    WANTED.store(count.max(1), Ordering::Relaxed);
}

/// The number that was wanted last; none if nobody ever wanted one.
pub fn wanted() -> Option<usize> {
    Some(WANTED.load(Ordering::Relaxed)).filter(|count| *count > 0)
}

/// Does one step of the process's work on as many threads as are wanted now.
pub fn step<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static STEPS: Threads = Threads::new("step");
    step_on(&STEPS, wanted(), work)
}

fn step_on<R: Send>(threads: &Threads, wanted: Option<usize>, work: impl FnOnce() -> R + Send) -> R {
    match wanted {
        // A caller that runs on a pool has chosen its threads.
        Some(count) if rayon::current_thread_index().is_none() => {
            if count == rayon::current_num_threads() {
                threads.rest();
                return work();
            }
            threads.run(count, work)
        }
        _ => work(),
    }
}

/// A pool for one purpose, which is built anew when another number of threads is asked for.
pub struct Threads {
    /// What its threads are called, with a number behind it.
    name: &'static str,
    pool: Mutex<Option<Arc<ThreadPool>>>,
}

impl Threads {
    pub const fn new(name: &'static str) -> Self {
        Self { name, pool: Mutex::new(None) }
    }

    /// Does something on so many threads.
    pub fn run<R: Send>(&self, count: usize, work: impl FnOnce() -> R + Send) -> R {
        match self.of(count) {
            Some(pool) => pool.install(work),
            // A system that gives no more threads: those that there are will do.
            None => work(),
        }
    }

    /// Ends its threads until they are needed again.
    fn rest(&self) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn of(&self, count: usize) -> Option<Arc<ThreadPool>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.as_ref().is_none_or(|pool| pool.current_num_threads() != count) {
            let name = self.name;
            let built = ThreadPoolBuilder::new().num_threads(count).thread_name(move |i| format!("{name}-{i}")).build();
            // The other size is better than none.
            if let Ok(built) = built {
                *pool = Some(Arc::new(built));
            }
        }
        pool.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of threads that a step finds, and whether it is on one of the process's own pool.
    fn seen(threads: &Threads, wanted: Option<usize>) -> (usize, bool) {
        step_on(threads, wanted, || {
            let named = std::thread::current().name().is_some_and(|name| name.starts_with("test-"));
            (rayon::current_num_threads(), named)
        })
    }

    #[test]
    fn a_step_has_the_threads_that_are_wanted_when_it_begins() {
        let (threads, all) = (Threads::new("test"), rayon::current_num_threads());
        assert_eq!(seen(&threads, None), (all, false));
        for count in [all + 1, all + 2, all + 2, all + 1] {
            assert_eq!(seen(&threads, Some(count)), (count, true));
        }
        // Back at the beginning, nothing is left of it.
        assert_eq!(seen(&threads, Some(all)), (all, false));
        assert!(threads.pool.lock().unwrap().is_none());
        // Whoever has chosen a pool keeps it, and a step within a step is on the outer one's.
        let own = ThreadPoolBuilder::new().num_threads(all + 3).build().unwrap();
        assert_eq!(own.install(|| seen(&threads, Some(all + 1))).0, all + 3);
        assert_eq!(threads.run(all + 4, || seen(&threads, Some(all + 1))).0, all + 4);
    }
}
