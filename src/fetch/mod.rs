//! Getting the data sets of the field: addresses as data, downloads that go on where they ended, checksums, archives.
//!
//! Knows nothing of pipelines and prints nothing. Each file is one [`download`]; this module hands them to a few
//! threads, compares checksums, moves what was unpacked to its place, and keeps a lock of what came.

mod catalog;
mod checksum;
mod download;
mod follow;
mod http;
mod lock;
mod place;
mod proxy;
#[cfg(test)]
mod tests;
mod unpack;

pub use catalog::{Set, Source, find, sets};
pub use checksum::{Algorithm, Checksum};
pub use download::{Patience, Progress};
pub use http::Access;
pub use lock::NAME as LOCK;
pub use unpack::{Archive, Unpacked};

use crate::error::{Error, Kind, Result};
use download::{Came, Download};
use lock::{Entry, Lock};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Folder of unfinished files, in the folder that data is fetched to.
const ASIDE: &str = ".hashpipe-fetch";

/// How files are fetched, and where to.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// Folder that files are put in.
    pub to: PathBuf,
    pub access: Access,
    /// Where files are taken from instead: this address, a slash, and the file's name.
    pub mirror: Option<String>,
    pub patience: Patience,
    /// Files at once, at least 1.
    pub at_once: usize,
    /// Whether archives stay as they are, too.
    pub keep_archives: bool,
    /// Whether archives are unpacked.
    pub unpack: bool,
    /// Whether what is there already is fetched again.
    pub again: bool,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub name: String,
    pub url: String,
    /// In bytes.
    pub size: u64,
    /// Whether it was there already.
    pub was_there: bool,
    /// Which published checksum it was compared with; `None` if there is none.
    pub compared: Option<String>,
    pub sha256: String,
    pub unpacked: Option<Unpacked>,
    pub notes: Vec<String>,
}

impl Fetch {
    /// Fetches files, several at once. `done` is told of each as it is finished, from any thread.
    ///
    /// # Errors
    /// Every file that failed, when the others are done. What has come of it is kept, and gone on with the next time.
    pub fn run(&self, files: &[Source], progress: &Progress, done: &(dyn Fn(&Fetched) + Sync)) -> Result<Vec<Fetched>> {
        let aside = self.to.join(ASIDE);
        std::fs::create_dir_all(&aside).map_err(|e| Error::io("create folder", &aside, &e))?;
        let _held = hold(&aside)?;
        let lock = Mutex::new(Lock::read(&self.to)?);
        let known: u64 = files.iter().filter_map(|file| file.size).sum();
        progress.total.store(known, std::sync::atomic::Ordering::Relaxed);
        let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..files.len()).collect());
        let outcomes: Mutex<Vec<Option<Result<Fetched>>>> = Mutex::new((0..files.len()).map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..self.at_once.clamp(1, files.len().max(1)) {
                scope.spawn(|| {
                    let take = || locked(&waiting).pop_front();
                    while let Some(next) = take() {
                        let outcome = self.one(&files[next], &aside, &lock, progress);
                        if let Ok(fetched) = &outcome {
                            done(fetched);
                        }
                        locked(&outcomes)[next] = Some(outcome);
                    }
                });
            }
        });
        let (mut fetched, mut errors) = (vec![], vec![]);
        for outcome in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten() {
            match outcome {
                Ok(one) => fetched.push(one),
                Err(e) => errors.push(e),
            }
        }
        if errors.is_empty() {
            // Fails while something unfinished is in it.
            let _ = std::fs::remove_file(aside.join(HELD));
            let _ = std::fs::remove_dir(&aside);
        }
        Error::all(errors).map_or(Ok(fetched), Err)
    }

    /// Where a file is taken from.
    pub fn address(&self, file: &Source) -> String {
        match &self.mirror {
            Some(mirror) => format!("{}/{}", mirror.trim_end_matches('/'), file.name()),
            None => file.url.clone(),
        }
    }

    /// Whether a file has come already, and what it left is still there.
    ///
    /// # Errors
    /// A lock that cannot be read.
    pub fn is_there(&self, file: &Source) -> Result<bool> {
        Ok(Lock::read(&self.to)?.complete(file.name(), &self.to).is_some())
    }

    fn one(&self, source: &Source, aside: &Path, lock: &Mutex<Lock>, progress: &Progress) -> Result<Fetched> {
        let (name, url) = (source.name().to_string(), self.address(source));
        if !is_file_name(&name) {
            return Err(Error::input(format!("`{url}` does not end with the name of a file")));
        }
        let earlier = locked(lock).files.get(&name).cloned();
        if !self.again && locked(lock).complete(&name, &self.to).is_some() {
            let entry = earlier.expect("a complete entry is an entry");
            progress.done.fetch_add(source.size.unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
            return Ok(fetched(name, entry, true, vec![]));
        }
        let download = Download {
            source,
            url: &url,
            access: &self.access,
            patience: self.patience,
            progress,
            expected: AtomicU64::new(source.size.unwrap_or(0)),
            unpack: self.unpack,
            aside,
        };
        let mut came = download.run()?;
        if let Err(wrong) = compare(source, &url, &came, earlier.as_ref().filter(|_| !self.again)) {
            download.forget();
            return Err(wrong);
        }
        let is_archive = self.unpack && source.archive().is_some();
        if is_archive && came.unpacked.is_none() {
            came.unpacked = Some(download.unzip(came.size).inspect_err(|_| download.forget())?);
        }
        let mut there = vec![];
        if is_archive {
            // One at a time: two archives may have files in the same folder.
            let _one = locked(lock);
            there = place::into(&download.unpacked(), &self.to, source.into.as_deref())?;
        }
        if !is_archive || self.keep_archives {
            let target = self.to.join(&name);
            std::fs::rename(download.part(), &target).map_err(|e| Error::io("move to", &target, &e))?;
            there.push(name.clone());
        }
        download.forget();
        let entry = Entry {
            url,
            size: came.size,
            compared: source.checksum().map(|sum| sum.algorithm.to_string()),
            sha256: came.sums.sha256,
            md5: came.sums.md5,
            etag: came.version.etag,
            last_modified: came.version.last_modified,
            unpacked: came.unpacked,
            there,
        };
        let mut lock = locked(lock);
        lock.files.insert(name.clone(), entry.clone());
        lock.write(&self.to)?;
        Ok(fetched(name, entry, false, came.notes))
    }
}

fn fetched(name: String, entry: Entry, was_there: bool, notes: Vec<String>) -> Fetched {
    let Entry { url, size, sha256, compared, unpacked, .. } = entry;
    Fetched { name, url, size, was_there, compared, sha256, unpacked, notes }
}

/// Compares what came with what was published; or, where nothing was, with what came the last time.
fn compare(source: &Source, url: &str, came: &Came, earlier: Option<&Entry>) -> Result<()> {
    if let Some(published) = source.checksum() {
        let found = came.sums.of(published.algorithm);
        if found != published.hex {
            let kind = published.algorithm;
            return Err(Error::data(format!("`{url}` is not the file that was published"))
                .note(format!("published {kind} {}, found {found} in {} bytes", published.hex, came.size))
                .note("it was thrown away")
                .hint("fetch it again; if it stays so, the server has another file: try a mirror"));
        }
        return Ok(());
    }
    match earlier.filter(|earlier| earlier.sha256 != came.sums.sha256) {
        None => Ok(()),
        Some(earlier) => Err(Error::data(format!("`{url}` is not what it was when it was fetched before"))
            .note(format!("then SHA-256 {}, now {}; no checksum of it is published", earlier.sha256, came.sums.sha256))
            .hint("`--again` takes the new one")),
    }
}

/// Whether the end of an address may be the name of a file on disk.
fn is_file_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | ' ');
    !name.is_empty() && name.len() < 200 && !name.starts_with('.') && name.chars().all(allowed)
}

/// File that is locked while a process fetches to a folder.
const HELD: &str = "lock";

/// Keeps other processes from fetching to the same folder.
fn hold(aside: &Path) -> Result<std::fs::File> {
    let path = aside.join(HELD);
    let file = std::fs::File::create(&path).map_err(|e| Error::io("write", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::new(Kind::Busy, "another hashpipe is fetching to the same folder")
                .at(crate::error::Place::Path(path.display().to_string())))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", &path, &e)),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
