//! Plan to keys and results: content-addressed objects, and a record per key of which ones it gave.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG                    so that backups leave it out
//!   v2/                             raised for any change of what is below
//!     actions/8b/8b3d40...json      key -> record: key lines; each output's size and blake3; metrics; seconds; host
//!     objects/5f/5f0c91...          the bytes, read-only, named by their own blake3; a folder stands as a folder
//!     known/coco                    what each task of this pipeline came to, attempt by attempt: a memo
//!     known/<digest>.idle           how all looked that a run with nothing to do looked at: a memo. See `idle.rs`
//!     digests                       path, inode, size, times -> blake3: a memo, safe to delete
//!     shards/3c/3ccf01...           codes and prepared images of parts of lists, named by what they were made from; each
//!                                    has a checksum
//!     sets/<digest>                 names and digests of the files behind one digest of a key: a memo
//!     longer/<family>/100           key of the result of 100 epochs, of keys that differ in nothing else: a memo
//!     scratch/8b3d40.../            checkpoints of unfinished work; `.lock` beside it is held while a task runs,
//!                                   `.owner` says by whom and how far it is
//!     runs/<id>/                    what a run did: run.json, events.jsonl, log/
//!     tmp/<pid>-<n>/                written here, then renamed into place; `.lock` beside it is held meanwhile
//!     damaged/                      moved here, never read
//!     claims/<pid>-<n>              keys whose results a process uses; locked while it lives. See `hold.rs`
//!     trash/                        moved here to be removed
//!     hold.lock, gc.lock            between runs and `cache gc`; the latter's time is that of the last `gc`
//!   pins/<name>                     keys, a line each, whose results are kept
//!   config.toml                     how large the cache may grow
//! ```
//!
//! A result is published in this order: outputs written in `tmp`, digested, renamed into `objects`; the record last. What
//! no record names does not exist. A record whose object is gone or other than recorded is a miss, never an error.

mod action;
mod digest;
mod explain;
mod extension;
mod hold;
mod idle;
mod judge;
mod keep;
mod key;
mod known;
mod lock;
mod object;
mod reason;
mod sets;
mod speeds;
mod survey;

pub use action::{Action, Made, Object, Outputs, Variant};
pub use digest::{Digests, Watch, files_below};
pub use explain::{Comparison, Explained, Now, compare, nearest};
pub use extension::{Extension, Member};
pub use hold::Hold;
pub use idle::Question;
pub use judge::{Actions, Found, Judge, Results, Start, Verdict, inputs};
pub use keep::{
    Fault, Freed, GRACE, Item, Limits, Request, StageUsage, Usage, Verified, What, gc, gc_after_run, usage, verify,
};
use key::key_of;
pub use key::{CONTENT, Contents, Key, Line, key, left_out, lines, with_left_out};
pub use known::{Attempt, End, Journal, Known};
pub use lock::{Owner, Workspace};
pub use object::this_boot;
pub use reason::{Difference, Reason, differences};
pub use sets::Members;
pub use survey::{Standing, State, survey, survey_by, survey_with_lines};

use crate::error::{Error, Result};
use hold::Claims;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cache on disk. Cheap to clone; every method may be called from any thread and any process.
#[derive(Debug, Clone)]
pub struct Store {
    /// The versioned folder, `cache/v2`.
    root: PathBuf,
    /// What this process uses; nothing for readers.
    claims: Option<Arc<Claims>>,
}

/// What the cache knows of a key.
#[derive(Debug)]
pub enum Lookup {
    Hit(Made),
    /// No record.
    Miss,
    /// A record whose outputs are not all there and as recorded.
    Lost(Made, Reason),
}

impl Store {
    /// Opens a cache, making its folders if need be.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut store = Self::at(folder);
        for name in ["actions", "objects", "known", "scratch", "tmp", "damaged", "claims"] {
            let path = store.root.join(name);
            std::fs::create_dir_all(&path).map_err(|e| Error::io("make the cache folder", &path, &e))?;
        }
        store.claims = Some(Arc::new(Claims::new(&store.root)));
        store.sweep();
        let tag = folder.join("CACHEDIR.TAG");
        if !tag.exists() {
            let text = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache made by hashpipe; safe to delete.\n";
            std::fs::write(&tag, text).map_err(|e| Error::io("write", &tag, &e))?;
        }
        Ok(store)
    }

    /// A cache to be read only; it need not exist.
    pub fn at(folder: &Path) -> Self {
        Self { root: folder.join("v2"), claims: None }
    }

    /// The memo of digests.
    pub fn digests(&self) -> Digests {
        let memo = self.root.join("digests");
        if self.claims.is_some() { Digests::open(memo) } else { Digests::read_only(memo) }
    }

    /// The same, written down although nothing else is: reading a hundred thousand files twice helps nobody.
    pub fn kept_digests(&self) -> Digests {
        Digests::open(self.root.join("digests"))
    }

    fn action_path(&self, key: &Key) -> PathBuf {
        self.root.join("actions").join(&key.as_str()[..2]).join(format!("{key}.json"))
    }

    /// Folder of a key's unfinished work.
    pub fn scratch(&self, key: &Key) -> PathBuf {
        self.root.join("scratch").join(key.as_str())
    }

    /// Folder of finished parts of results, for all tasks.
    pub fn shards(&self) -> PathBuf {
        self.root.join("shards")
    }

    /// The record of a key, whether or not its objects are there. One that cannot be read does not exist.
    pub fn action(&self, key: &Key) -> Option<Action> {
        Action::from_text(&std::fs::read_to_string(self.action_path(key)).ok()?, key)
    }

    /// Folder of the records of runs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Every record that can be read, in the order of keys.
    pub fn actions(&self) -> Vec<Action> {
        let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries(&self.root.join("actions")).flat_map(|folder| entries(&folder.path()));
        let stems = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".json")?.to_string()));
        let mut keys: Vec<Key> = stems.filter_map(|stem| Key::parse(&stem)).collect();
        keys.sort();
        keys.iter().filter_map(|key| self.action(key)).collect()
    }

    /// What the tasks of a pipeline came to.
    pub fn known(&self, pipeline: &str) -> Known {
        Known::read(&self.known_path(pipeline))
    }

    /// The same, to be written to.
    pub fn journal(&self, pipeline: &str) -> Journal {
        Journal::open(self.known_path(pipeline))
    }

    fn known_path(&self, pipeline: &str) -> PathBuf {
        self.root.join("known").join(pipeline)
    }

    /// The pipelines whose tasks the cache knows, sorted.
    pub fn pipelines(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("known")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.contains('.'))
            .collect();
        names.sort();
        names
    }

    /// Writes a task's record: from here on its result exists. To be called under the [`Hold`] that its outputs were put
    /// in under.
    pub fn commit(&self, action: &Action) -> Result<()> {
        let sync = if action.boot.is_none() { Sync::Yes } else { Sync::No };
        write_aside_with(&self.action_path(&action.key), action.to_text().as_bytes(), sync)?;
        self.claim(&action.key);
        // The work is done: its checkpoints have served. Failing to remove them costs space only. Whoever waits for the
        // lock looks for the record next, and finds it, even if the lock's file is gone by then.
        let _ = std::fs::remove_dir_all(self.scratch(&action.key));
        self.remove_lock(&action.key);
        Ok(())
    }
}

/// Whether to wait until bytes are on the disk. What can be made again and is checked when read need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    Yes,
    No,
}

/// Writes a file so that readers see the old content or the new, and nothing between.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    write_aside_with(path, bytes, Sync::Yes)
}

/// The same, with a choice of waiting for the disk.
pub fn write_aside_with(path: &Path, bytes: &[u8], sync: Sync) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
    let aside = parent.join(format!(".{}-{}.tmp", std::process::id(), unique()));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        if sync == Sync::Yes { file.sync_all() } else { Ok(()) }
    });
    written.and_then(|()| std::fs::rename(&aside, path)).map_err(|e| {
        let _ = std::fs::remove_file(&aside);
        Error::io("write", path, &e)
    })
}

/// A number no other call of this process has given.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A task's name as a file name: what could be a path separator is written as `%` and its code.
pub fn file_name(task: &str) -> String {
    /// File systems take 255 bytes; endings and prefixes need some of them.
    const LONGEST: usize = 200;
    let safe = |c: char| c.is_ascii_alphanumeric() || "._@=,-+".contains(c);
    let name: String = task.chars().map(|c| if safe(c) { c.to_string() } else { format!("%{:x}", c as u32) }).collect();
    if name.len() <= LONGEST {
        return name;
    }
    let digest = blake3::hash(task.as_bytes()).to_hex();
    format!("{}-{}", &name[..LONGEST - 17], &digest[..16])
}

/// Name of what an attempt at a task wrote; attempts count from 1.
pub fn log_name(task: &str, attempt: usize) -> String {
    format!("{}.{attempt}.txt", file_name(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_safe_short_and_distinct() {
        assert_eq!(file_name("train.net@bits=8"), "train.net@bits=8");
        assert_eq!(file_name("a/b"), "a%2fb");
        let [a, b] = ["x", "y"].map(|end| file_name(&format!("{}{end}", "é".repeat(300))));
        assert!(a != b && a.len() <= 200);
    }
}
