//! How far a long reading is: a bar on a terminal, now and then a line elsewhere.

use super::{note, size};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Shows bytes done, of how many. May be told from any thread.
pub struct Meter {
    doing: &'static str,
    bar: Option<ProgressBar>,
    /// When a line was last written.
    told: Mutex<Instant>,
}

impl Meter {
    /// `doing` stands before the figures: `checked`.
    pub fn new(doing: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{prefix} [{bar:40}] {bytes} of {total_bytes}  {elapsed} (-{eta})");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=- "));
            bar.set_prefix(doing);
            bar
        });
        Self { doing, bar, told: Mutex::new(Instant::now()) }
    }

    /// Does something and meanwhile shows how far it is, once it takes long enough for anybody to ask.
    pub fn during<T: Send>(&self, progress: impl Fn() -> (u64, u64), work: impl FnOnce() -> T + Send) -> T {
        const PATIENCE: Duration = Duration::from_secs(1);
        const LOOK: Duration = Duration::from_millis(200);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let (ended, end) = channel::<()>();
            let working = scope.spawn(move || {
                // Dropped when the work is done, or has panicked.
                let _ended = ended;
                work()
            });
            while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let (done, total) = progress();
                if began.elapsed() > PATIENCE && done < total {
                    self.show(done, total);
                }
            }
            working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn show(&self, done: u64, total: u64) {
        const EVERY: Duration = Duration::from_secs(10);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            // Threads tell in no order.
            return bar.set_position(bar.position().max(done));
        }
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= EVERY {
            *told = Instant::now();
            note(&format!("{} {} of {}", self.doing, size(done), size(total)));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
