//! The words of codes: in memory, or in a mapped file that may be larger than memory.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;

/// Words that are read like a slice wherever they lie.
#[derive(Clone)]
pub(super) enum Words {
    Owned(Vec<u64>),
    /// Shared, so that a clone costs nothing.
    Mapped(Arc<Mapped>),
}

/// Part of a mapped file: `count` words from byte `start` on.
pub(super) struct Mapped {
    map: memmap2::Mmap,
    start: usize,
    count: usize,
}

impl Mapped {
    /// Maps `count` words of a file from byte `start` on, a multiple of 8; `None` if the file has fewer.
    ///
    /// The file is told to be read in order. While the map lives, the file must be neither cut short nor written to: a
    /// page that is gone ends the program. The cache's objects are read-only and are replaced by renaming.
    #[expect(unsafe_code, reason = "a map of a file; its bytes are used as numbers, for which any value is good")]
    pub(super) fn new(file: &File, start: usize, count: usize) -> std::io::Result<Option<Self>> {
        // Sound as long as nobody cuts the file, which the caller is told.
        let map = unsafe { memmap2::Mmap::map(file)? };
        let end = count.checked_mul(8).and_then(|bytes| bytes.checked_add(start));
        if !start.is_multiple_of(8) || end.is_none_or(|end| end > map.len()) {
            return Ok(None);
        }
        #[cfg(unix)]
        drop(map.advise(memmap2::Advice::Sequential));
        Ok(Some(Self { map, start, count }))
    }

    #[expect(unsafe_code, reason = "bytes used as numbers")]
    fn words(&self) -> &[u64] {
        // Sound: any bytes are a number, and a map starts at a page, so the words are aligned.
        let (before, words, _) = unsafe { self.map[self.start..self.start + self.count * 8].align_to::<u64>() };
        debug_assert!(before.is_empty() && words.len() == self.count);
        words
    }
}

impl Words {
    /// The words for writing; those of a file are copied first.
    pub(super) fn to_mut(&mut self) -> &mut Vec<u64> {
        if let Self::Mapped(mapped) = self {
            *self = Self::Owned(mapped.words().to_vec());
        }
        let Self::Owned(words) = self else { unreachable!("mapped words were just copied") };
        words
    }
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::Owned(words) => words,
            Self::Mapped(mapped) => mapped.words(),
        }
    }
}

impl PartialEq for Words {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Words {}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
