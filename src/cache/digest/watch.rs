//! How far a long reading is, and the wish that it stop: shared by those who read and those who wait.

use crate::error::{Error, Result};
use crate::stage::Stop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counts the bytes that are read and are to be read, and holds a flag that ends the reading. It is looked at before
/// every file and every piece of a large one.
#[derive(Debug, Default)]
pub struct Watch {
    stop: Stop,
    read: AtomicU64,
    total: AtomicU64,
    readings: AtomicUsize,
}

impl Watch {
    /// A watch over readings that end when `stop` is set.
    pub fn new(stop: Stop) -> Self {
        Self { stop, ..Self::default() }
    }

    /// Ends the reading: it fails with [`Error::interrupted`].
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Bytes read so far, and bytes to read as far as is known. They are equal when nothing is being read.
    pub fn progress(&self) -> (u64, u64) {
        let read = self.read.load(Relaxed);
        (read, self.total.load(Relaxed).max(read))
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.stop.load(Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }

    /// Announces a reading of so many bytes. It is over when what this returns is dropped.
    pub(super) fn expect(&self, bytes: u64) -> Reading<'_> {
        self.readings.fetch_add(1, Relaxed);
        self.total.fetch_add(bytes, Relaxed);
        Reading(self)
    }
}

/// A reading that is under way.
pub(super) struct Reading<'a>(&'a Watch);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // What was announced and not read (it failed, or a file had shrunk) must not stand open for ever.
        if self.0.readings.fetch_sub(1, Relaxed) == 1 {
            self.0.total.store(self.0.read.load(Relaxed), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_announced_and_not_read_is_closed_at_the_end() {
        let watch = Watch::default();
        let (one, two) = (watch.expect(100), watch.expect(50));
        watch.advance(30);
        drop(one);
        assert_eq!(watch.progress(), (30, 150));
        drop(two);
        assert_eq!(watch.progress(), (30, 30));
    }
}
