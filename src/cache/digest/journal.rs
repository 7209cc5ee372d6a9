//! The memo's file: appended to by any number of processes, rewritten now and then.
//!
//! ```text
//! digests         records (see `memo.rs`), in any order; a later one counts more than an earlier one of its path
//! digests.tmp     the next `digests`, while it is written
//! ```
//!
//! Each record has its own checksum, so whatever a crash, a full disk or a stranger leaves in the file is passed over.
//! Who appends holds the kernel's lock on the file shared, who rewrites it holds it alone. What goes wrong here costs
//! time at the next run, never a wrong digest.

use super::memo::{Entry, Memo, RECORD};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The file of a memo.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

const DAY: u32 = 24 * 60 * 60;

/// An entry is written anew when it is asked for and was not for so long, ...
pub(super) const SEEN_AGAIN: u32 = 7 * DAY;
/// ... and dropped when it was not asked for at all, in seconds: most such files are gone.
const FORGOTTEN: u32 = 90 * DAY;

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Everything the file knows. One that is not there knows nothing.
    pub(super) fn load(&self) -> Memo {
        let mut memo = Memo::default();
        if let Ok(file) = File::open(&self.path) {
            // Not more for a huge file that is not ours: asking for too much memory ends the process.
            memo.reserve((size(&file) as usize / RECORD).min(1 << 20));
            memo.take_in(file);
        }
        memo
    }

    /// Adds entries at the end.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<()> {
        let records: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        let mut file = self.open_shared().map_err(|e| Error::io("write", &self.path, &e))?;
        // In one call: the kernel keeps those of two processes apart.
        file.write_all(&records).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Opens the file to append to it. While the lock is held no one puts another file in its place.
    fn open_shared(&self) -> std::io::Result<File> {
        loop {
            let file = File::options().append(true).create(true).open(&self.path)?;
            // Where locks are not to be had, entries can be lost to a rewrite, and nothing else.
            let locked = file.lock_shared().is_ok();
            if !locked || self.is_at_its_place(&file) {
                return Ok(file);
            }
        }
    }

    fn is_at_its_place(&self, file: &File) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        file.metadata().map(id).ok() == std::fs::metadata(&self.path).map(id).ok()
    }

    /// Rewrites the file if half of it is of no use. `memo` learns what other processes have added.
    pub(super) fn compact(&self, memo: &mut Memo, now: u32) -> Result<()> {
        /// Not worth a rewrite, in bytes.
        const LITTLE: u64 = 1 << 20;
        let Ok(file) = File::open(&self.path) else { return Ok(()) };
        let used = memo.entries().filter(|entry| is_current(entry, now)).count() * RECORD;
        if size(&file) <= 2 * used as u64 + LITTLE {
            return Ok(());
        }
        match file.try_lock() {
            Ok(()) if self.is_at_its_place(&file) => {}
            // Someone else is at it, and will do as well.
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(_)) => {}
        }
        memo.take_in(&file);
        self.rewrite(memo, now).map_err(|e| Error::io("write", &self.path, &e))
    }

    fn rewrite(&self, memo: &Memo, now: u32) -> std::io::Result<()> {
        let aside = self.path.with_extension("tmp");
        let written = write(&aside, memo, now).and_then(|()| std::fs::rename(&aside, &self.path));
        written.inspect_err(|_| drop(std::fs::remove_file(&aside)))
    }
}

fn write(path: &Path, memo: &Memo, now: u32) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for entry in memo.entries().filter(|entry| is_current(entry, now)) {
        file.write_all(&entry.to_bytes())?;
    }
    file.into_inner()?.sync_all()
}

fn is_current(entry: &Entry, now: u32) -> bool {
    now.saturating_sub(entry.seen) <= FORGOTTEN
}

fn size(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::super::memo::tests::entry;
    use super::*;

    const NOW: u32 = 2_000_000_000;

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("digests"));
        (folder, journal)
    }

    fn seen(number: u32, seen: u32) -> Entry {
        Entry { seen, ..entry(number) }
    }

    #[test]
    fn what_is_appended_is_loaded_behind_a_torn_record_too() {
        let (_folder, journal) = journal();
        assert_eq!(journal.load().entries().count(), 0);
        journal.append(&[entry(1), entry(2)]).unwrap();
        let torn = &entry(3).to_bytes()[..50];
        File::options().append(true).open(&journal.path).unwrap().write_all(torn).unwrap();
        journal.append(&[entry(4)]).unwrap();
        let memo = journal.load();
        assert_eq!(memo.entries().copied().collect::<Vec<_>>(), [entry(1), entry(2), entry(4)]);
    }

    #[test]
    fn a_rewrite_drops_what_is_old_and_keeps_what_others_added() {
        let (_folder, journal) = journal();
        std::fs::write(&journal.path, vec![b'x'; 2 << 20]).unwrap();
        let (old, current) = (seen(1, NOW - FORGOTTEN - 1), seen(2, NOW - FORGOTTEN));
        journal.append(&[old, current]).unwrap();
        let mut memo = journal.load();
        journal.append(&[seen(3, NOW)]).unwrap();
        journal.compact(&mut memo, NOW).unwrap();
        assert_eq!(std::fs::read(&journal.path).unwrap(), [current.to_bytes(), seen(3, NOW).to_bytes()].concat());
        assert_eq!(memo.entries().count(), 3);
        assert_eq!(std::fs::read_dir(_folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn little_waste_and_a_file_in_use_are_left_alone() {
        let (_folder, journal) = journal();
        let waste = vec![b'x'; 2 << 20];
        std::fs::write(&journal.path, &waste[..1 << 20]).unwrap();
        journal.compact(&mut Memo::default(), NOW).unwrap();
        assert_eq!(std::fs::read(&journal.path).unwrap().len(), 1 << 20);

        std::fs::write(&journal.path, &waste).unwrap();
        let appending = journal.open_shared().unwrap();
        journal.compact(&mut Memo::default(), NOW).unwrap();
        assert_eq!(std::fs::read(&journal.path).unwrap(), waste);
        drop(appending);
        journal.compact(&mut Memo::default(), NOW).unwrap();
        assert!(std::fs::read(&journal.path).unwrap().is_empty());
    }

    #[test]
    fn many_writers_and_rewrites_lose_nothing() {
        let (_folder, journal) = journal();
        std::fs::write(&journal.path, vec![b'x'; 2 << 20]).unwrap();
        std::thread::scope(|threads| {
            for writer in 0..4 {
                let journal = &journal;
                threads.spawn(move || {
                    for number in 0..200 {
                        journal.append(&[seen(writer * 1000 + number, NOW)]).unwrap();
                        // Makes the file worth a rewrite again and again.
                        let waste = [seen(9999, NOW).to_bytes(); 2000].concat();
                        if number % 40 == 0 {
                            journal
                                .open_shared()
                                .unwrap()
                                .write_all(&[waste.clone(), waste.clone(), waste].concat())
                                .unwrap();
                            journal.compact(&mut journal.load(), NOW).unwrap();
                        }
                    }
                });
            }
        });
        let memo = journal.load();
        for number in (0..4).flat_map(|writer| (0..200).map(move |number| writer * 1000 + number)) {
            assert!(memo.get(&entry(number).path).is_some(), "{number}");
        }
    }
}
