//! Digests of many files at once: all are looked at, and those that are not known are read.

use super::memo::{Entry, PathId, Stamp};
use super::{Digests, hash, now, seconds, unreadable};
use crate::error::{Error, Kind, Result};
use blake3::Hash;
use rayon::prelude::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files to look at. A path may be put together in `room`, so that a million of them need not exist at once.
pub(super) trait Files: Sync {
    fn count(&self) -> usize;
    fn path<'a>(&'a self, index: usize, room: &'a mut PathBuf) -> &'a Path;
}

impl<P: AsRef<Path> + Sync> Files for [P] {
    fn count(&self) -> usize {
        self.len()
    }

    fn path<'a>(&'a self, index: usize, _room: &'a mut PathBuf) -> &'a Path {
        self[index].as_ref()
    }
}

/// Files below a folder, by their names there.
pub(super) struct Below<'f> {
    pub(super) folder: &'f Path,
    pub(super) names: &'f [String],
}

impl Files for Below<'_> {
    fn count(&self) -> usize {
        self.names.len()
    }

    fn path<'a>(&'a self, index: usize, room: &'a mut PathBuf) -> &'a Path {
        room.clear();
        room.push(self.folder);
        room.push(&self.names[index]);
        room
    }
}

/// A file as it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Zeros as long as it has to be read.
    pub(super) hash: Hash,
    /// Whether its owner may execute it.
    pub(super) executable: bool,
}

/// What a file looks like.
struct Looks {
    path: PathId,
    stamp: Stamp,
    executable: bool,
    /// Whether its digest may be remembered.
    lasting: bool,
    known: Option<Hash>,
}

/// A file that has to be read.
struct Unread {
    /// Position among the files asked for.
    index: usize,
    looks: Looks,
}

/// So many files are enough for all threads; what is found of them takes more room while it is not sorted out.
const BLOCK: usize = 1 << 15;

impl Digests {
    /// What every file holds, in order.
    pub(super) fn find<F: Files + ?Sized>(&self, files: &F) -> Result<Vec<Found>> {
        let (mut found, unread) = self.look(files)?;
        if !unread.is_empty() {
            let read = self.read(files, &unread, &mut found);
            // Also what was read before something went wrong.
            self.known.keep();
            read?;
        }
        Ok(found)
    }

    /// Looks at every file.
    fn look<F: Files + ?Sized>(&self, files: &F) -> Result<(Vec<Found>, Vec<Unread>)> {
        /// Fewer are not worth another thread.
        const FEW: usize = 32;
        let (base, now) = (super::current_folder()?, now());
        let (mut found, mut unread, mut faults) = (Vec::with_capacity(files.count()), vec![], Faults::default());
        for start in (0..files.count()).step_by(BLOCK) {
            let block = (start..files.count().min(start + BLOCK)).into_par_iter().with_min_len(FEW);
            let looks = block.map_init(Default::default, |(room, bytes), index| {
                self.watch.check()?;
                Ok(self.look_at(files.path(index, room), base, now, bytes))
            });
            for (index, looks) in (start..).zip(looks.collect::<Result<Vec<_>>>()?) {
                match looks {
                    Ok(looks) => {
                        let (known, executable) = (looks.known, looks.executable);
                        found.push(Found { hash: known.unwrap_or(Hash::from_bytes([0; 32])), executable });
                        if known.is_none() {
                            unread.push(Unread { index, looks });
                        }
                    }
                    Err(fault) => faults.push(fault),
                }
            }
        }
        faults.or((found, unread))
    }

    fn look_at(&self, path: &Path, base: &Path, now: i64, room: &mut Vec<u8>) -> Result<Looks> {
        let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if metadata.is_dir() {
            return Err(Error::data(format!("`{}` is a folder, and a file is wanted", path.display())));
        }
        let (path, stamp) = (PathId::of(base, path, room), Stamp::of(&metadata));
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let lasting = metadata.is_file() && stamp.is_settled(now);
        Ok(Looks { path, stamp, executable, lasting, known: self.known_as(&path, &stamp, seconds(now)) })
    }

    /// The digest of a file that is known and trusted.
    fn known_as(&self, path: &PathId, stamp: &Stamp, now: u32) -> Option<Hash> {
        let entry = self.known.get(path, stamp)?;
        let age = Duration::from_secs(now.abs_diff(entry.checked).into());
        if self.trusted_for.is_some_and(|longest| age >= longest) {
            return None;
        }
        self.known.ask(&entry, now);
        Some(Hash::from_bytes(entry.digest))
    }

    /// Reads files side by side, and each large one with all threads.
    fn read<F: Files + ?Sized>(&self, files: &F, unread: &[Unread], found: &mut [Found]) -> Result<()> {
        let _reading = self.watch.expect(unread.iter().map(|file| file.looks.stamp.size).sum());
        let mut faults = Faults::default();
        for block in unread.chunks(BLOCK) {
            let read = block.par_iter().map_init(PathBuf::new, |room, file| {
                match self.read_one(files.path(file.index, room), file) {
                    Err(error) if error.kind() == Kind::Interrupted => Err(error),
                    read => Ok(read),
                }
            });
            for (file, read) in block.iter().zip(read.collect::<Result<Vec<_>>>()?) {
                match read {
                    Ok(hash) => found[file.index].hash = hash,
                    Err(fault) => faults.push(fault),
                }
            }
        }
        faults.or(())
    }

    fn read_one(&self, path: &Path, file: &Unread) -> Result<Hash> {
        let Looks { path: id, stamp, lasting, .. } = file.looks;
        let content = hash::hash(path, stamp.size, &self.watch)?;
        // The look is older than the reading: a file that changed in between will not look like that again.
        if lasting && content.size == stamp.size {
            let (now, digest) = (seconds(now()), *content.hash.as_bytes());
            self.known.learn(Entry { path: id, stamp, digest, checked: now, seen: now });
        }
        Ok(content.hash)
    }
}

/// What went wrong with many files: the first few, and how many more.
#[derive(Default)]
struct Faults {
    shown: Vec<Error>,
    more: usize,
}

impl Faults {
    fn push(&mut self, fault: Error) {
        const SHOWN: usize = 5;
        if self.shown.len() < SHOWN { self.shown.push(fault) } else { self.more += 1 }
    }

    /// The value, if nothing went wrong.
    fn or<T>(mut self, value: T) -> Result<T> {
        let Some(last) = self.shown.pop() else { return Ok(value) };
        self.shown.push(match self.more {
            0 => last,
            more => last.note(format!("and so it is with {more} more files")),
        });
        Error::all(self.shown).map_or(Ok(value), Err)
    }
}
