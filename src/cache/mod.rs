//! Plan to keys and results: content-addressed objects, and a record per key of which ones it gave.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG                    so that backups leave it out
//!   v1/                             raised for any change of what is below
//!     actions/8b/8b3d40...json      key -> record: key lines; each output's size and blake3; metrics; seconds; host
//!     objects/5f/5f0c91...          the bytes, read-only, named by their own blake3; a folder stands as a folder
//!     last/coco/train.hashnet@...   the key this task last had in this pipeline, for `status` and reasons
//!     digests                       path, size, times, inode -> blake3: a memo, safe to delete
//!     scratch/8b3d40.../            checkpoints of unfinished work; `.lock` beside it is held while a task runs
//!     tmp/<pid>-<n>/                written here, then renamed into place; `.lock` beside it is held meanwhile
//!     runs/                         what happened, see `runs`
//!     damaged/                      moved here, never read
//! ```
//!
//! A result is published in this order: outputs written in `tmp`, digested, renamed into `objects`; the record last. What
//! no record names does not exist. A record whose object is gone or other than recorded is a miss, never an error.

mod action;
mod digest;
mod judge;
mod key;
mod reason;
mod survey;

pub use action::{Action, Object};
pub use digest::{Digests, files_below};
pub use judge::{Judge, Known, Results, Verdict, inputs};
pub use key::{Contents, Key, Line, key, lines};
pub use reason::Reason;
pub use survey::{Standing, State, survey};

use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A cache on disk. Cheap to clone; every method may be called from any thread and any process.
#[derive(Debug, Clone)]
pub struct Store {
    /// The versioned folder, `cache/v1`.
    root: PathBuf,
}

/// What the cache knows of a key.
#[derive(Debug)]
pub enum Lookup {
    Hit(Action),
    /// No record.
    Miss,
    /// A record whose outputs are not all there and as recorded.
    Lost(Reason),
}

impl Store {
    /// Opens a cache, making its folders if need be.
    pub fn open(folder: &Path) -> Result<Self> {
        let store = Self::at(folder);
        for name in ["actions", "objects", "last", "scratch", "tmp", "damaged"] {
            let path = store.root.join(name);
            std::fs::create_dir_all(&path).map_err(|e| Error::io("make the cache folder", &path, &e))?;
        }
        store.sweep();
        let tag = folder.join("CACHEDIR.TAG");
        if !tag.exists() {
            let text = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache made by hashpipe; safe to delete.\n";
            std::fs::write(&tag, text).map_err(|e| Error::io("write", &tag, &e))?;
        }
        Ok(store)
    }

    /// Removes the work folders of processes that are gone: those whose lock can be had. Failing to costs space only.
    fn sweep(&self) {
        for entry in std::fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten() {
            let lock = entry.path();
            let Some(folder) = lock.to_str().and_then(|path| path.strip_suffix(".lock")).map(PathBuf::from) else {
                continue;
            };
            if File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = std::fs::remove_dir_all(&folder);
                let _ = std::fs::remove_file(&lock);
            }
        }
    }

    /// A cache to be read only; it need not exist.
    pub fn at(folder: &Path) -> Self {
        Self { root: folder.join("v1") }
    }

    /// The memo of digests.
    pub fn digests(&self) -> Digests {
        Digests::open(self.root.join("digests"))
    }

    fn action_path(&self, key: &Key) -> PathBuf {
        self.root.join("actions").join(&key.as_str()[..2]).join(format!("{key}.json"))
    }

    /// Where an object's bytes lie.
    pub fn object_path(&self, object: &Object) -> PathBuf {
        self.root.join("objects").join(&object.digest[..2]).join(&object.digest)
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

    /// Folder of a key's unfinished work.
    pub fn scratch(&self, key: &Key) -> PathBuf {
        self.root.join("scratch").join(key.as_str())
    }

    /// The record of a key, whether or not its objects are there. One that cannot be read does not exist.
    pub fn action(&self, key: &Key) -> Option<Action> {
        Action::from_text(&std::fs::read_to_string(self.action_path(key)).ok()?, key)
    }

    /// Looks a key up and checks that every output has the recorded content.
    pub fn find(&self, key: &Key, digests: &mut Digests) -> Lookup {
        let Some(action) = self.action(key) else { return Lookup::Miss };
        for (name, object) in &action.outputs {
            let path = self.object_path(object);
            if !path.exists() {
                return Lookup::Lost(Reason::Gone { output: name.clone() });
            }
            if digests.path(&path).ok().as_deref() != Some(object.digest.as_str()) {
                return Lookup::Lost(Reason::Damaged { output: name.clone() });
            }
        }
        Lookup::Hit(action)
    }

    /// Moves the damaged objects of a key out of the way, so that they are made again. Gives a warning for each.
    pub fn quarantine(&self, key: &Key, digests: &mut Digests) -> Result<Vec<Error>> {
        let mut warnings = vec![];
        for (name, object) in self.action(key).into_iter().flat_map(|action| action.outputs) {
            let path = self.object_path(&object);
            let found = if path.exists() { digests.path(&path).unwrap_or_default() } else { continue };
            if found == object.digest {
                continue;
            }
            let aside = self.set_aside(&path, &object.digest)?;
            warnings.push(
                Error::new(crate::error::Kind::Cache, format!("the cached output `{name}` is damaged and will not be used"))
                    .at(crate::error::Place::Path(path.display().to_string()))
                    .note(format!("recorded blake3 {}, found {}", short(&object.digest), short(&found)))
                    .note(format!("moved to `{}`; the stage runs again", aside.display()))
                    .hint("if the disk filled up or failed, other objects may be damaged too: each is checked when it is used"),
            );
        }
        Ok(warnings)
    }

    /// Moves a damaged object to where nothing is read from.
    fn set_aside(&self, path: &Path, digest: &str) -> Result<PathBuf> {
        let aside = self.root.join("damaged").join(format!("{digest}-{}-{}", std::process::id(), unique()));
        std::fs::rename(path, &aside).map_err(|e| Error::io("move away the damaged", path, &e))?;
        Ok(aside)
    }

    /// Why a task with these key lines has to run, judged by its last run in this pipeline.
    pub fn reason(&self, pipeline: &str, task: &str, lines: &[Line]) -> Reason {
        match self.last(pipeline, task) {
            None => Reason::New,
            Some(last) => match self.action(&last) {
                Some(action) => Reason::between(&action.lines, lines),
                None => Reason::Forgotten,
            },
        }
    }

    /// The key a task last had in a pipeline.
    pub fn last(&self, pipeline: &str, task: &str) -> Option<Key> {
        Key::parse(std::fs::read_to_string(self.last_path(pipeline, task)).ok()?.trim())
    }

    /// Remembers the key a task has in a pipeline.
    pub fn set_last(&self, pipeline: &str, task: &str, key: &Key) -> Result<()> {
        if self.last(pipeline, task).as_ref() == Some(key) {
            return Ok(());
        }
        write_aside(&self.last_path(pipeline, task), format!("{key}\n").as_bytes())
    }

    fn last_path(&self, pipeline: &str, task: &str) -> PathBuf {
        self.root.join("last").join(pipeline).join(file_name(task))
    }

    /// Every pipeline and task the cache knows, with the key each last had; sorted.
    pub fn known(&self) -> Vec<(String, String, Key)> {
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        let last = self.root.join("last");
        let tasks = names(&last).into_iter().flat_map(|pipeline| {
            let tasks = names(&last.join(&pipeline));
            tasks.into_iter().map(move |task| (pipeline.clone(), task))
        });
        tasks
            .filter_map(|(pipeline, task)| {
                let text = std::fs::read_to_string(last.join(&pipeline).join(&task)).ok()?;
                Some((pipeline, task, Key::parse(text.trim())?))
            })
            .collect()
    }

    /// Keeps other processes off this key until the lock is dropped; `None` if another one has it. The lock is the
    /// kernel's: it ends with the process that holds it.
    pub fn try_lock(&self, key: &Key) -> Result<Option<File>> {
        let path = self.lock_path(key);
        let file = File::create(&path).map_err(|e| Error::io("make the lock", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, &e)),
        }
    }

    fn lock_path(&self, key: &Key) -> PathBuf {
        self.root.join("scratch").join(format!("{key}.lock"))
    }

    /// An empty folder to work in, gone when dropped. Its lock is held until then, so that no other process takes it
    /// for a leftover.
    pub fn workspace(&self) -> Result<Workspace> {
        let tmp = self.root.join("tmp");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&tmp)
            .map_err(|e| Error::io("make a folder in", &tmp, &e))?;
        // The lock is made under a name that is not swept, and shown only when it is held.
        let (hidden, shown) = (folder.path().join("lock"), folder.path().with_extension("lock"));
        let lock = File::create(&hidden).and_then(|file| file.lock().map(|()| file));
        let lock = lock.and_then(|file| std::fs::rename(&hidden, &shown).map(|()| file));
        let lock = lock.map_err(|e| Error::io("make the lock", &shown, &e))?;
        Ok(Workspace { folder, shown, _lock: lock })
    }

    /// Moves the outputs a task left in `folder` into the cache.
    pub fn put_outputs(&self, folder: &Path, names: &[&str]) -> Result<std::collections::BTreeMap<String, Object>> {
        names.iter().map(|name| Ok(((*name).to_string(), self.put(&folder.join(name))?))).collect()
    }

    /// Moves a file or folder into the cache.
    fn put(&self, path: &Path) -> Result<Object> {
        let folder = path.is_dir();
        let names = if folder { digest::files_below(path)? } else { vec![] };
        let files: Vec<PathBuf> =
            if folder { names.iter().map(|name| path.join(name)).collect() } else { vec![path.to_path_buf()] };
        let mut size = 0;
        for file in &files {
            size += seal(file)?;
        }
        let object = Object { digest: digest::hash_path(path)?, size, folder };
        let place = self.object_path(&object);
        if place.exists() {
            // Not trusted for its name: what lies there may have been damaged since, and this is a good copy.
            if digest::hash_path(&place).ok().as_ref() == Some(&object.digest) {
                return Ok(object);
            }
            self.set_aside(&place, &object.digest)?;
        }
        let parent = place.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
        match std::fs::rename(path, &place) {
            // Another process may have put the same bytes there meanwhile.
            Err(e) if !place.exists() => Err(Error::io("move into the cache", &place, &e)),
            _ => {
                sync_folder(parent);
                Ok(object)
            }
        }
    }

    /// Writes a task's record: from here on its result exists.
    pub fn commit(&self, action: &Action) -> Result<()> {
        write_aside(&self.action_path(&action.key), action.to_text().as_bytes())?;
        // The work is done: its checkpoints have served. Failing to remove them costs space only. Whoever waits for the
        // lock looks for the record next, and finds it, even if the lock's file is gone by then.
        let _ = std::fs::remove_dir_all(self.scratch(&action.key));
        let _ = std::fs::remove_file(self.lock_path(&action.key));
        Ok(())
    }
}

/// A folder to work in.
pub struct Workspace {
    folder: tempfile::TempDir,
    shown: PathBuf,
    _lock: File,
}

impl Workspace {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The folder goes by itself, after this; a lock that is left is swept by the next run.
        let _ = std::fs::remove_file(&self.shown);
    }
}

/// Makes a file read-only and sees that it is on the disk. Gives its size.
fn seal(path: &Path) -> Result<u64> {
    let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
    let metadata = file.metadata().map_err(|e| Error::io("read", path, &e))?;
    let mut permissions = metadata.permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(path, permissions).map_err(|e| Error::io("protect", path, &e))?;
    // Small files of a folder are checked by the digest of whoever reads them; a sync each would take minutes.
    const WORTH_A_SYNC: u64 = 1 << 20;
    if metadata.len() >= WORTH_A_SYNC {
        file.sync_all().map_err(|e| Error::io("write", path, &e))?;
    }
    Ok(metadata.len())
}

/// Writes a file so that readers see the old content or the new, and nothing between.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
    let aside = parent.join(format!(".{}-{}.tmp", std::process::id(), unique()));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&aside, path)).map_err(|e| {
        let _ = std::fs::remove_file(&aside);
        Error::io("write", path, &e)
    })
}

fn sync_folder(folder: &Path) {
    // Best effort: some file systems refuse to sync folders, and a lost rename is only a miss.
    let _ = File::open(folder).and_then(|file| file.sync_all());
}

/// A number no other call of this process has given.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or("nothing readable")
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

    #[test]
    fn leftovers_are_swept_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let used = store.workspace().unwrap();
        let left = store.root.join("tmp/1-left");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.with_extension("lock"), "").unwrap();
        Store::open(folder.path()).unwrap();
        assert!(used.path().exists() && !left.exists() && !left.with_extension("lock").exists());
        drop(used);
        assert_eq!(std::fs::read_dir(store.root.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_good_copy_takes_the_place_of_a_damaged_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let put = || {
            let file = folder.path().join("x");
            std::fs::write(&file, "good").unwrap();
            store.put(&file).unwrap()
        };
        let path = store.object_path(&put());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "evil").unwrap();
        assert_eq!(std::fs::read(store.object_path(&put())).unwrap(), b"good");
    }
}
