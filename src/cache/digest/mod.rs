//! BLAKE3 of files and folders, with a memo so that what did not change is not read again.
//!
//! A file is known while its path, device, inode, size, mtime and ctime are the same, provided it had not changed for
//! two seconds when it was read. Whoever edits a file can set its size and mtime as they were; its ctime tells.
//! Deleting the memo costs time and nothing else.
//!
//! There is no short cut for folders: a folder's times say that a name came or went, and not that a file below it was
//! edited. Every file is looked at every time.

mod find;
mod hash;
mod journal;
mod known;
mod memo;
mod walk;
mod watch;

pub use walk::files_below;
pub use watch::Watch;

use super::key::LineDigest;
use crate::error::{Error, Result};
use blake3::Hash;
use find::{Below, Found};
use known::Known;
pub(super) use memo::Stamp as Looks;
use memo::{PathId, Stamp};
use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use walk::Tree;

/// Tells digests, and remembers them. Clones share what they know, and any thread may use any of them.
///
/// What was read is written down once a second and when the last clone goes, so that a run that is killed has not read
/// in vain.
#[derive(Debug, Clone)]
pub struct Digests {
    known: Arc<Known>,
    watch: Arc<Watch>,
    /// Content that was read longer ago is read again.
    trusted_for: Option<Duration>,
}

impl Digests {
    /// Reads the memo's file, and keeps it up to date. What cannot be read in it is passed over.
    pub fn open(memo: PathBuf) -> Self {
        Self::new(Known::load(memo, true))
    }

    /// Reads the memo's file, and never writes it.
    pub fn read_only(memo: PathBuf) -> Self {
        Self::new(Known::load(memo, false))
    }

    fn new(known: Known) -> Self {
        Self { known: Arc::new(known), watch: Arc::default(), trusted_for: None }
    }

    /// The same memo under another watch.
    #[must_use]
    pub fn watched(&self, watch: Arc<Watch>) -> Self {
        Self { watch, ..self.clone() }
    }

    /// The same memo, but what was last read `age` ago or before is read again: a disk can lose bytes without any time
    /// changing. With no age at all, everything is.
    #[must_use]
    pub fn trusted_for(&self, age: Duration) -> Self {
        Self { trusted_for: Some(age), ..self.clone() }
    }

    /// Digest of one file's content, as `b3sum` prints it.
    ///
    /// # Errors
    /// If it cannot be read; and [`Error::interrupted`] if the watch says stop. So it is with all that follow.
    pub fn file(&self, path: &Path) -> Result<String> {
        Ok(self.hashes(&[path])?.remove(0).to_hex().to_string())
    }

    /// Digests of many files, in order.
    pub fn files(&self, paths: &[PathBuf]) -> Result<Vec<String>> {
        Ok(self.hashes(paths)?.iter().map(|hash| hash.to_hex().to_string()).collect())
    }

    /// Digests of many files, in order, in a third of the room.
    pub fn hashes<P: AsRef<Path> + Sync>(&self, paths: &[P]) -> Result<Vec<Hash>> {
        Ok(self.find(paths)?.iter().map(|found| found.hash).collect())
    }

    /// Digest of a folder: the names of all files below it, with the content of each and whether its owner may execute
    /// it, and the names of empty folders. Times, owners and other rights do not count, nor does it matter whether
    /// something is there itself or by a link.
    pub fn folder(&self, path: &Path) -> Result<String> {
        let mut digest = LineDigest::new();
        self.each_below(path, |name, told| digest.add(&name, &told))?;
        Ok(digest.finish())
    }

    /// What the digest of a folder is made of: names below it, each with what stands for its content.
    pub fn listing(&self, path: &Path) -> Result<Vec<(String, String)>> {
        let mut members = vec![];
        self.each_below(path, |name, told| members.push((name, told)))?;
        Ok(members)
    }

    fn each_below(&self, path: &Path, mut add: impl FnMut(String, String)) -> Result<()> {
        let tree = Tree::below(path, &self.watch)?;
        let found = self.find(&Below { folder: path, names: &tree.files })?;
        for (name, Found { hash, executable }) in tree.files.into_iter().zip(found) {
            add(name, format!("{}{}", hash.to_hex(), if executable { " x" } else { "" }));
        }
        tree.empty.into_iter().for_each(|name| add(name, String::new()));
        Ok(())
    }

    /// Digest of a file or a folder.
    pub fn path(&self, path: &Path) -> Result<String> {
        // Most are files, and one look tells.
        match self.file(path) {
            Err(_) if path.is_dir() => self.folder(path),
            file => file,
        }
    }

    /// When a file was last read from end to end, in seconds since 1970; of the files of a folder, the earliest.
    /// `None` if one of them is not known or has changed since, and for a folder without files.
    pub fn checked_at(&self, path: &Path) -> Result<Option<u64>> {
        if !path.is_dir() {
            return self.file_checked_at(path);
        }
        let names = files_below(path)?;
        let times: Option<Vec<u64>> =
            names.iter().map(|name| self.file_checked_at(&path.join(name))).collect::<Result<_>>()?;
        Ok(times.and_then(|times| times.into_iter().min()))
    }

    fn file_checked_at(&self, path: &Path) -> Result<Option<u64>> {
        let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        let id = PathId::of(current_folder()?, path, &mut vec![]);
        Ok(self.known.get(&id, &Stamp::of(&metadata)).map(|entry| entry.checked.into()))
    }

    /// How each file looks, if every one is remembered with the digest beside it. What looks so later holds it still.
    pub(super) fn looks(&self, files: &[(PathBuf, String)]) -> Option<Vec<Looks>> {
        let base = current_folder().ok()?;
        let look = |(path, digest): &(PathBuf, String)| {
            let looks = looks_of(path)?;
            let entry = self.known.get(&PathId::of(base, path, &mut vec![]), &looks)?;
            (Hash::from_bytes(entry.digest) == Hash::from_hex(digest).ok()?).then_some(looks)
        };
        files.par_iter().with_min_len(64).map(look).collect()
    }

    /// Writes down what is not written yet, and rewrites the memo's file if that is worth it.
    ///
    /// # Errors
    /// If the file cannot be written. Digests are right all the same, and are found again at the price of reading.
    pub fn save(&self) -> Result<()> {
        self.known.save()
    }
}

/// How what lies at a path looks, links followed; nothing if nothing does.
pub(super) fn looks_of(path: &Path) -> Option<Looks> {
    std::fs::metadata(path).ok().map(|metadata| Looks::of(&metadata))
}

/// Digest of a file or a folder, without any memo.
pub(super) fn hash_path(path: &Path) -> Result<String> {
    Digests::new(Known::nothing()).path(path)
}

/// The error for a file that cannot be opened or looked at.
fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            Error::data(format!("`{}` is a broken link", path.display()))
                .note(format!("it leads to `{}`", target.display()))
                .hint("remove the link, or put there what it leads to")
        }
        _ => Error::io("read", path, error),
    }
}

/// The folder that relative paths start from. Nothing here ever goes to another one, so it is asked for once: a run asks
/// for digests of single files, tens of thousands of times.
fn current_folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let folder = std::env::current_dir().map_err(|e| Error::io("find", Path::new("."), &e))?;
    Ok(FOLDER.get_or_init(|| folder))
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

/// Seconds since 1970 of a time in nanoseconds.
fn seconds(nanoseconds: i64) -> u32 {
    u32::try_from(nanoseconds / 1_000_000_000).unwrap_or_default()
}

#[cfg(test)]
mod tests;
