//! Reading a file while another thread still appends to it.

use super::checksum::{Summing, Sums};
use std::fs::File;
use std::io::{Error, Read, Result};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How far a download is, between the thread that writes it and the one that reads it.
#[derive(Default)]
pub(super) struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that are in the file.
    there: u64,
    /// Whether they are all, once no more come.
    end: Option<bool>,
    /// Whether the reader wants no more.
    given_up: bool,
}

impl Growth {
    pub(super) fn new(there: u64) -> Self {
        Self { state: Mutex::new(State { there, ..State::default() }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of more bytes; returns whether the reader still wants any.
    pub(super) fn grew(&self, more: u64) -> bool {
        let mut state = self.state();
        state.there += more;
        self.changed.notify_all();
        !state.given_up
    }

    /// Tells that no more come, and whether the file is whole.
    pub(super) fn end(&self, whole: bool) {
        self.state().end = Some(whole);
        self.changed.notify_all();
    }

    /// Bytes that are in the file so far.
    pub(super) fn there(&self) -> u64 {
        self.state().there
    }

    fn give_up(&self) {
        self.state().given_up = true;
    }

    /// Waits until there is more than `read`; `None` at the end.
    fn wait(&self, read: u64) -> Result<Option<u64>> {
        let mut state = self.state();
        loop {
            match (state.there > read, state.end) {
                (true, _) => return Ok(Some(state.there - read)),
                (false, Some(true)) => return Ok(None),
                (false, Some(false)) => return Err(Error::other(CUT)),
                (false, None) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// The words of the error that a reader gets when the writer stops before the end.
pub(super) const CUT: &str = "the download was stopped";

/// The reading side, which sums up what it reads.
pub(super) struct Follow<'a> {
    growth: &'a Growth,
    file: File,
    read: u64,
    summing: Summing,
}

impl<'a> Follow<'a> {
    pub(super) fn open(path: &Path, growth: &'a Growth) -> Result<Self> {
        Ok(Self { growth, file: File::open(path)?, read: 0, summing: Summing::default() })
    }

    /// Reads what is left, and gives the checksums of the whole.
    pub(super) fn finish(mut self) -> Result<Sums> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok(std::mem::take(&mut self.summing).finish())
    }
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        self.growth.give_up();
    }
}

impl Read for Follow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(there) = self.growth.wait(self.read)? else { return Ok(0) };
        let most = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(Error::other("the file became shorter while it was read"));
        }
        self.summing.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }
}
