//! How far a long reading is: a bar on a terminal, now and then a line elsewhere.

use super::{note, size};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Mutex;
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
