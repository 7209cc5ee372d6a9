//! Whether the files a task read are still what they were when its key was made.

use crate::cache::Digests;
use crate::error::{Error, Kind, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file of the user's that a task reads.
pub(super) struct Guard {
    path: PathBuf,
    /// What its key holds.
    digest: String,
    /// Device, inode, size, and times of the last change of content and of anything.
    stamp: Option<[i128; 5]>,
}

impl Guard {
    /// Notes how a file looks now; whether it has this digest is to be asked after that, not before.
    pub(super) fn new(path: PathBuf, digest: String) -> Self {
        let stamp = stamp(&path);
        Self { path, digest, stamp }
    }

    /// Whether the file is what it was. One that looks different is read again.
    fn holds(&self, digests: &Digests) -> bool {
        let same = self.stamp.is_some() && stamp(&self.path) == self.stamp;
        same || digests.path(&self.path).is_ok_and(|digest| digest == self.digest)
    }
}

/// A result made from files that changed meanwhile is not that of its key.
pub(super) fn check(guards: &[Guard], digests: &Digests, task: &str) -> Result<()> {
    match guards.iter().find(|guard| !guard.holds(digests)) {
        None => Ok(()),
        Some(guard) => Err(Error::new(Kind::Changed, format!("`{}` changed while `{task}` ran", guard.path.display()))
            .note("its result was thrown away")
            .hint("run again once the file is no longer written to")),
    }
}

/// How a file looks; nothing for folders, whose times say nothing of what is below them.
fn stamp(path: &Path) -> Option<[i128; 5]> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let time = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Some([
        metadata.dev().into(),
        metadata.ino().into(),
        metadata.size().into(),
        time(metadata.mtime(), metadata.mtime_nsec()),
        time(metadata.ctime(), metadata.ctime_nsec()),
    ])
}
