//! One file from a server to the disk, whatever happens on the way.
//!
//! ```text
//! DIR/.hashpipe-fetch/NAME.part        what has come so far
//! DIR/.hashpipe-fetch/NAME.version     which version of the file the server had: what makes going on safe
//! DIR/.hashpipe-fetch/NAME.unpacked/   what was unpacked so far; moved to DIR once the checksum is right
//! ```
//!
//! A second thread reads the file while it grows, sums it up, and unpacks archives that can be read from the front. So
//! the checksum is known when the last byte comes, and nothing unpacked is seen before it was right.

use super::catalog::Source;
use super::checksum::Sums;
use super::follow::{CUT, Follow, Growth};
use super::http::{Access, Answer, Trouble, Version};
use super::unpack::{Archive, Unpacked, Unpacking, limit};
use crate::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How patient a download is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts without a single new byte before it gives up.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 5, pause: Duration::from_secs(1) }
    }
}

/// Bytes of all downloads together.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    pub total: AtomicU64,
}

/// A file that came whole.
pub(super) struct Came {
    pub(super) sums: Sums,
    pub(super) size: u64,
    pub(super) version: Version,
    pub(super) unpacked: Option<Unpacked>,
    /// Things worth telling: why it started again.
    pub(super) notes: Vec<String>,
}

/// A file on its way.
pub(super) struct Download<'a> {
    pub(super) source: &'a Source,
    pub(super) url: &'a str,
    pub(super) access: &'a Access,
    pub(super) patience: Patience,
    pub(super) progress: &'a Progress,
    /// The part of the progress's total that this file has.
    pub(super) expected: AtomicU64,
    /// Whether an archive is unpacked.
    pub(super) unpack: bool,
    /// Folder of unfinished files.
    pub(super) aside: &'a Path,
}

/// How one pass over the file ended.
enum Pass {
    Whole(Version),
    /// The server has another version, or sends no parts: the file starts at its beginning.
    Again(String),
}

impl Download<'_> {
    pub(super) fn part(&self) -> PathBuf {
        self.aside.join(format!("{}.part", self.source.name()))
    }

    fn version_file(&self) -> PathBuf {
        self.aside.join(format!("{}.version", self.source.name()))
    }

    /// The folder an archive is unpacked in at first.
    pub(super) fn unpacked(&self) -> PathBuf {
        self.aside.join(format!("{}.unpacked", self.source.name()))
    }

    /// Fetches the file, going on where an earlier attempt ended.
    ///
    /// # Errors
    /// Of kind Io if the server or the disk fails for good, Data if an archive is broken.
    pub(super) fn run(&self) -> Result<Came> {
        let mut notes = vec![];
        // A server that changes its file each time would keep this going for ever.
        for _ in 0..3 {
            let known = self.known();
            let had = std::fs::metadata(self.part()).map_or(0, |part| part.len());
            let had = if known.is_some() { had } else { 0 };
            let growth = Growth::new(had);
            let counted = AtomicU64::new(had);
            self.progress.done.fetch_add(had, Ordering::Relaxed);
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(self.part())
                .and_then(|part| part.set_len(had))
                .map_err(|e| Error::io("write", &self.part(), &e))?;
            let (pass, read) = std::thread::scope(|scope| {
                let reading = scope.spawn(|| self.read(&growth));
                let pass = self.pull(had, known.unwrap_or_default(), &growth, &counted);
                growth.end(matches!(pass, Ok(Pass::Whole(_))));
                (pass, reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            });
            match (pass, read) {
                (Ok(Pass::Whole(version)), read) => {
                    let (sums, unpacked) = read?;
                    let size = counted.load(Ordering::Relaxed);
                    return Ok(Came { sums, size, version, unpacked, notes });
                }
                (Ok(Pass::Again(why)), _) => {
                    self.progress.done.fetch_sub(counted.load(Ordering::Relaxed), Ordering::Relaxed);
                    notes.push(format!("`{}` starts again from its beginning: {why}", self.source.name()));
                    self.forget();
                }
                // What is wrong with the archive says more than that its reader gave up.
                (Err(stopped), Err(broken)) if !is_cut(&broken) => {
                    self.forget();
                    return Err(if stopped.kind() == Kind::Interrupted { broken } else { stopped });
                }
                (Err(error), _) => return Err(error),
            }
        }
        Err(Error::new(Kind::Io, format!("`{}` changes each time it is fetched", self.url)))
    }

    /// Which version the part on disk is of; `None` if it cannot be gone on with.
    fn known(&self) -> Option<Version> {
        let version: Version = serde_json::from_slice(&std::fs::read(self.version_file()).ok()?).ok()?;
        (version.validator().is_some() || self.source.checksum().is_some()).then_some(version)
    }

    /// Removes what has come so far.
    pub(super) fn forget(&self) {
        for file in [self.part(), self.version_file()] {
            let _ = std::fs::remove_file(file);
        }
        let _ = std::fs::remove_dir_all(self.unpacked());
    }

    /// Appends what the server sends until the file is whole.
    fn pull(&self, had: u64, mut known: Version, growth: &Growth, counted: &AtomicU64) -> Result<Pass> {
        let mut file = OpenOptions::new().write(true).open(self.part()).map_err(|e| self.write_failed(&e))?;
        let mut here = had;
        self.expect(known.size);
        let mut failures = 0;
        let mut told = String::new();
        loop {
            if here > 0 && known.size == Some(here) {
                return Ok(Pass::Whole(known));
            }
            if failures >= self.patience.attempts {
                return Err(Error::new(Kind::Io, format!("cannot fetch `{}`", self.url))
                    .note(format!("{failures} attempts without a new byte; the last one: {told}"))
                    .note(format!("{here} bytes are kept: say it again to go on from there"))
                    .hint("is the network there? `--proxy URL` and `--mirror URL` give other ways"));
            }
            if failures > 0 && !self.patience.pause.is_zero() {
                std::thread::sleep(self.patience.pause * 2u32.pow(failures.min(6) - 1));
            }
            let answer = match self.access.get(self.url, here, &known) {
                Ok(answer) => answer,
                Err(Trouble::NothingMore { size }) if size == Some(here) => {
                    return Ok(Pass::Whole(Version { size, ..known }));
                }
                Err(Trouble::NothingMore { .. }) => {
                    return Ok(Pass::Again("the server's file is shorter than what was here".into()));
                }
                Err(Trouble::Passing(words)) => {
                    (failures, told) = (failures + 1, words);
                    continue;
                }
                Err(Trouble::Lasting(error)) => return Err(error),
            };
            if answer.from != here {
                return Ok(Pass::Again(match known.validator() {
                    Some(old) if answer.version.validator() != Some(old) => "the server has another version".into(),
                    _ => "the server does not send parts of files".into(),
                }));
            }
            if here > 0 && answer.version.validator().is_some_and(|new| known.validator().is_some_and(|old| old != new))
            {
                return Ok(Pass::Again("the server has another version".into()));
            }
            if here > 0 && known.size.is_some() && answer.version.size.is_some() && known.size != answer.version.size {
                return Ok(Pass::Again("the server has another version".into()));
            }
            if here == 0 || known == Version::default() {
                known = answer.version.clone();
                self.expect(known.size);
                self.note(&known)?;
            }
            let before = here;
            let outcome = self.append(answer, &mut here, &mut file, growth, counted)?;
            match (outcome, known.size) {
                (None, Some(size)) if here == size => return Ok(Pass::Whole(known)),
                // Without a size, the end of the body is the end of the file.
                (None, None) => return Ok(Pass::Whole(Version { size: Some(here), ..known })),
                (None, Some(size)) if here > size => {
                    return Ok(Pass::Again("more came than the server had announced".into()));
                }
                (None, Some(size)) => told = format!("the connection ended at byte {here} of {size}"),
                (Some(words), _) => told = words,
            }
            failures = if here > before { 1 } else { failures + 1 };
            if known.validator().is_none() && self.source.checksum().is_none() {
                return Ok(Pass::Again(format!("{told}, and nothing tells whether the rest would fit")));
            }
        }
    }

    /// Writes a body to the end of the file; returns why it ended early.
    fn append(
        &self,
        mut answer: Answer,
        here: &mut u64,
        file: &mut File,
        growth: &Growth,
        counted: &AtomicU64,
    ) -> Result<Option<String>> {
        file.seek(SeekFrom::Start(*here)).map_err(|e| self.write_failed(&e))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match answer.body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(e) => return Ok(Some(e.to_string())),
            };
            file.write_all(&buffer[..count]).map_err(|e| self.write_failed(&e))?;
            *here += count as u64;
            counted.fetch_add(count as u64, Ordering::Relaxed);
            self.progress.done.fetch_add(count as u64, Ordering::Relaxed);
            if !growth.grew(count as u64) {
                return Err(Error::interrupted());
            }
        }
    }

    fn write_failed(&self, error: &std::io::Error) -> Error {
        Error::io("write", &self.part(), error)
    }

    /// Keeps the version that the part is of.
    fn note(&self, version: &Version) -> Result<()> {
        let path = self.version_file();
        let text = serde_json::to_vec(version).expect("a version is plain data");
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, &e))
    }

    /// Counts the file's size to what is to come, once the server has told it.
    fn expect(&self, size: Option<u64>) {
        if let Some(size) = size {
            let before = self.expected.swap(size, Ordering::Relaxed);
            self.progress.total.fetch_add(size.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// The other thread: sums up, and unpacks what can be unpacked from the front.
    fn read(&self, growth: &Growth) -> Result<(Sums, Option<Unpacked>)> {
        let part = self.part();
        let failed = |e: std::io::Error| match e.to_string() == CUT {
            true => Error::new(Kind::Io, CUT),
            false => Error::io("read", &part, &e),
        };
        let mut follow = Follow::open(&part, growth).map_err(failed)?;
        let stream = self.source.archive().filter(|archive| self.unpack && archive.is_stream());
        let unpacked = match stream {
            None => None,
            Some(archive) => {
                let at_most = || self.source.at_most.unwrap_or_else(|| limit(growth.there()));
                let unpacking = Unpacking::into(&self.empty_folder()?, at_most);
                Some(unpacking.tar(&mut follow, archive == Archive::TarGz)?)
            }
        };
        Ok((follow.finish().map_err(failed)?, unpacked))
    }

    fn empty_folder(&self) -> Result<PathBuf> {
        let folder = self.unpacked();
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, &e))?;
        Ok(folder)
    }

    /// Unpacks a ZIP archive that is whole.
    pub(super) fn unzip(&self, size: u64) -> Result<Unpacked> {
        let at_most = self.source.at_most.unwrap_or_else(|| limit(size));
        Unpacking::into(&self.empty_folder()?, move || at_most).zip(&self.part())
    }
}

fn is_cut(error: &Error) -> bool {
    error.message() == CUT || error.render("error").contains(CUT)
}
