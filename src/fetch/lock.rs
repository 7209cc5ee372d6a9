//! What came, kept beside it: `hashpipe-fetch.json`.
//!
//! A file that is fetched again must be what it was, also where nobody published a checksum.

use super::unpack::Unpacked;
use crate::error::{Error, Place, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FORMAT: &str = "hashpipe.fetch";
const VERSION: u32 = 1;
/// Its name.
pub const NAME: &str = "hashpipe-fetch.json";

/// What has come to a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    format: String,
    version: u32,
    /// By name of the file.
    pub(super) files: BTreeMap<String, Entry>,
}

/// One file that came whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) url: String,
    /// In bytes.
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) md5: String,
    /// Which checksum of its publisher it was compared with, if there is one: `MD5`.
    pub(super) compared: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// What was unpacked, if it is an archive and was.
    pub(super) unpacked: Option<Unpacked>,
    /// Files and folders that must be there, relative: what was unpacked at the top, or the file itself.
    pub(super) there: Vec<String>,
}

impl Lock {
    /// Reads the lock of a folder; an empty one if it has none.
    ///
    /// # Errors
    /// A file that is no lock, or of another version.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = Self::path(folder);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { format: FORMAT.into(), version: VERSION, files: BTreeMap::new() });
            }
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let broken = |words: String| {
            Error::data("the record of what was fetched is broken")
                .at(Place::Path(path.display().to_string()))
                .note(words)
                .hint("delete it to fetch everything again")
        };
        let lock: Self = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
        match lock.format == FORMAT && lock.version == VERSION {
            true => Ok(lock),
            false => Err(broken(format!("it is of `{}`, version {}", lock.format, lock.version))),
        }
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        let failed = |e: std::io::Error| Error::io("write", &path, &e);
        let mut text = serde_json::to_vec_pretty(self).expect("a lock is plain data");
        text.push(b'\n');
        let file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        std::fs::write(file.path(), text).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// The entry of a file, if all that it left is still there.
    pub(super) fn complete(&self, name: &str, folder: &Path) -> Option<&Entry> {
        let entry = self.files.get(name)?;
        let is_there = |below: &String| folder.join(below).exists();
        (!entry.there.is_empty() && entry.there.iter().all(is_there)).then_some(entry)
    }
}
