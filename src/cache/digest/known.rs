//! The memo while it is in use: asked and added to by many threads, and written down as it grows.

use super::journal::{Journal, SEEN_AGAIN};
use super::memo::{Entry, Memo, PathId, Stamp};
use super::{now, seconds};
use crate::error::Result;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What is known of files.
#[derive(Debug)]
pub(super) struct Known {
    /// No lock on it is held while other work of this module is done: threads of a pool that wait for one another take
    /// up each other's work, and one could wait for itself.
    memo: RwLock<Memo>,
    learnt: Mutex<Learnt>,
    /// Where it is written down, if it is.
    journal: Option<Journal>,
}

/// Entries that were added and are not written down.
#[derive(Debug)]
struct Learnt {
    entries: Vec<Entry>,
    written: Instant,
}

/// At most so much work is lost when the process is killed.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);

impl Known {
    pub(super) fn load(path: PathBuf, writes: bool) -> Self {
        let journal = Journal::new(path);
        let memo = RwLock::new(journal.load());
        let learnt = Mutex::new(Learnt { entries: vec![], written: Instant::now() });
        Self { memo, learnt, journal: writes.then_some(journal) }
    }

    /// Knows nothing yet, and writes nothing.
    pub(super) fn nothing() -> Self {
        let learnt = Mutex::new(Learnt { entries: vec![], written: Instant::now() });
        Self { memo: RwLock::default(), learnt, journal: None }
    }

    /// What is known of the file at `path`, if it still looks so.
    pub(super) fn get(&self, path: &PathId, stamp: &Stamp) -> Option<Entry> {
        let memo = self.memo.read().unwrap_or_else(PoisonError::into_inner);
        memo.get(path).filter(|entry| entry.stamp == *stamp).copied()
    }

    /// Notes that an entry was asked for: now and then, so that it is not dropped.
    pub(super) fn ask(&self, entry: &Entry, now: u32) {
        if now.saturating_sub(entry.seen) > SEEN_AGAIN {
            self.learn(Entry { seen: now, ..*entry });
        }
    }

    /// Adds an entry. Others see it after the next [`Self::keep`].
    pub(super) fn learn(&self, entry: Entry) {
        let mut learnt = self.learnt();
        learnt.entries.push(entry);
        if learnt.written.elapsed() >= WRITTEN_EVERY {
            drop(learnt);
            self.keep();
        }
    }

    /// Makes known what was learnt, and writes it down. What cannot be written now is tried again the next time.
    pub(super) fn keep(&self) {
        let _ = self.write_down();
    }

    fn write_down(&self) -> Result<()> {
        let entries = {
            let mut learnt = self.learnt();
            learnt.written = Instant::now();
            std::mem::take(&mut learnt.entries)
        };
        if entries.is_empty() {
            return Ok(());
        }
        let mut memo = self.memo.write().unwrap_or_else(PoisonError::into_inner);
        entries.iter().for_each(|entry| memo.put(*entry));
        drop(memo);
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.append(&entries).inspect_err(|_| self.learnt().entries.extend(entries))
    }

    /// Writes down what is not written yet, and rewrites the file if that is worth it.
    pub(super) fn save(&self) -> Result<()> {
        self.write_down()?;
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.compact(&mut self.memo.write().unwrap_or_else(PoisonError::into_inner), seconds(now()))
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.keep();
    }
}
