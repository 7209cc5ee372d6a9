//! Digests of many files at once: all are looked at, and those that are not known are read.

use super::memo::{Entry, PathId, Stamp};
use super::{Digests, hash, now, seconds, unreadable};
use crate::error::{Error, Kind, Result};
use blake3::Hash;
use rayon::prelude::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

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

/// So many files are enough for all threads; what is found of them takes more room while it is not sorted out.
const BLOCK: usize = 1 << 15;

/// A file's digest, and whether its owner may execute it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) hash: Hash,
    pub(super) executable: bool,
}

/// What a file looks like.
struct Looks {
    stamp: Stamp,
    executable: bool,
    /// Whether a digest of it may be remembered.
    lasting: bool,
}

/// A file that has to be read.
struct Unread {
    /// Position among the files asked for.
    index: usize,
    path: PathId,
    looks: Looks,
}

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

    /// Looks at every file. Those that have to be read are found with a digest of zeros.
    fn look<F: Files + ?Sized>(&self, files: &F) -> Result<(Vec<Found>, Vec<Unread>)> {
        /// Fewer are not worth another thread.
        const FEW: usize = 32;
        let (base, now) = (super::current_folder()?, now());
        let (mut found, mut unread, mut faults) = (Vec::with_capacity(files.count()), vec![], Faults::default());
        for start in (0..files.count()).step_by(BLOCK) {
            let block = (start..files.count().min(start + BLOCK)).into_par_iter().with_min_len(FEW);
            let looked = block.map_init(Default::default, |(room, bytes), index| {
                self.watch.check()?;
                let path = files.path(index, room);
                let looks = look(path, now).map(|looks| (self.known_as(path, &base, &looks, now, bytes), looks));
                Ok((index, looks))
            });
            for (index, looks) in looked.collect::<Result<Vec<_>>>()? {
                let nothing = Found { hash: Hash::from_bytes([0; 32]), executable: false };
                found.push(match looks {
                    Ok((Ok(hash), looks)) => Found { hash, executable: looks.executable },
                    Ok((Err(path), looks)) => {
                        let executable = looks.executable;
                        unread.push(Unread { index, path, looks });
                        Found { executable, ..nothing }
                    }
                    Err(fault) => {
                        faults.push(fault);
                        nothing
                    }
                });
            }
        }
        faults.or((found, unread))
    }

    /// The digest of a file that is known and trusted, or else what to remember it by.
    fn known_as(&self, path: &Path, base: &Path, looks: &Looks, now: i64, room: &mut Vec<u8>) -> Result<Hash, PathId> {
        let id = PathId::of(base, path, room);
        let now = seconds(now);
        let entry = self.known.get(&id, &looks.stamp).filter(|entry| {
            let age = u64::from(now.abs_diff(entry.checked));
            self.trusted_for.is_none_or(|longest| age <= longest.as_secs())
        });
        let entry = entry.ok_or(id)?;
        self.known.ask(&entry, now);
        Ok(Hash::from_bytes(entry.digest))
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
        let Looks { stamp, lasting, .. } = file.looks;
        let content = hash::hash(path, stamp.size, &self.watch)?;
        // The look is older than the reading: a file that changed in between will not look like that again.
        if lasting && content.size == stamp.size {
            let (now, digest) = (seconds(now()), *content.hash.as_bytes());
            self.known.learn(Entry { path: file.path, stamp, digest, checked: now, seen: now });
        }
        Ok(content.hash)
    }
}

fn look(path: &Path, now: i64) -> Result<Looks> {
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if metadata.is_dir() {
        return Err(Error::data(format!("`{}` is a folder, and a file is wanted", path.display())));
    }
    let stamp = Stamp::of(&metadata);
    let executable = metadata.permissions().mode() & 0o100 != 0;
    Ok(Looks { stamp, executable, lasting: metadata.is_file() && stamp.is_settled(now) })
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
