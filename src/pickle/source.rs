//! The bytes of a pickle, read from the front: numbers, lengths and lines.

use crate::error::{Error, Result};

/// What is left to read of a pickle.
pub(super) struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let chunk = self.bytes[self.at..].first_chunk().ok_or_else(cut)?;
        self.at += N;
        Ok(*chunk)
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let slice = self.bytes[self.at..].get(..length).ok_or_else(cut)?;
        self.at += length;
        Ok(slice)
    }

    /// A length of 1, 4 or 8 bytes.
    pub(super) fn length(&mut self, width: usize) -> Result<usize> {
        let length = self.slice(width)?.iter().rev().fold(0u64, |length, byte| length << 8 | u64::from(*byte));
        usize::try_from(length).map_err(|_| cut())
    }

    /// The text up to the end of its line.
    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        let end = memchr::memchr(b'\n', &self.bytes[self.at..]).ok_or_else(cut)?;
        let line = self.slice(end)?;
        self.at += 1;
        Ok(line)
    }

    /// Bytes with their length in front.
    pub(super) fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = self.length(width)?;
        self.slice(length)
    }
}

fn cut() -> Error {
    Error::data("the pickle is cut short").hint("copy or download the file again")
}
