//! Who works on what: a kernel lock per key, and beside it a note for whoever waits.
//!
//! The locks are the kernel's and end with the process that holds them; there is nothing to unlock by hand.

use super::{Key, Store};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Who works on a key, and how far they are. Read by those who wait, and by `status`; kept after a crash, to tell what
/// was interrupted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    pub host: String,
    pub pipeline: String,
    pub task: String,
    pub run: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    pub done: u64,
    pub total: u64,
    /// What it last said of its progress.
    pub note: String,
    /// GPUs it works on.
    #[serde(default)]
    pub gpus: Vec<usize>,
}

impl Owner {
    /// `another run (pid 4711 on atlas) is at epoch 12/100`
    pub fn told(&self, here: &str) -> String {
        let host = if self.host == here { String::new() } else { format!(" on {}", self.host) };
        let percent = (self.done * 100).checked_div(self.total).map_or(String::new(), |percent| format!(" {percent}%"));
        let note = if self.note.is_empty() { String::new() } else { format!(": {}", self.note) };
        format!("another run (pid {}{host}) makes the same{percent}{note}", self.pid)
    }
}

impl Store {
    /// Keeps other processes off this key until the lock is dropped; `None` if another one has it.
    pub fn try_lock(&self, key: &Key) -> Result<Option<File>> {
        let path = self.lock_path(key);
        loop {
            let file = File::create(&path).map_err(|e| Error::io("make the lock", &path, &e))?;
            match file.try_lock() {
                // Whoever held it before may have removed the file: a lock on a file without a name locks nobody out.
                Ok(()) if is_still_at(&file, &path) => return Ok(Some(file)),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, &e)),
            }
        }
    }

    /// Whether a process works on this key now. Asking holds the lock for an instant, which a runner that tries to get
    /// it then takes for another one at work, and tries again.
    pub fn is_locked(&self, key: &Key) -> bool {
        File::open(self.lock_path(key))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Removes the lock's file and its note, once the work is done. The lock itself must be held.
    pub(super) fn remove_lock(&self, key: &Key) {
        for path in [self.owner_path(key), self.owner_aside(key), self.lock_path(key)] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Tells who works on a key, which is whoever holds its lock. Not being able to keeps nobody from working.
    pub fn set_owner(&self, key: &Key, owner: &Owner) {
        let text = serde_json::to_vec(owner).expect("an owner is plain data");
        // One name, as one process writes it: what a killed one leaves of it goes with the next one's lock.
        let aside = self.owner_aside(key);
        let _ = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, self.owner_path(key)));
    }

    /// Who works on a key, or last did without finishing it.
    pub fn owner(&self, key: &Key) -> Option<Owner> {
        serde_json::from_slice(&std::fs::read(self.owner_path(key)).ok()?).ok()
    }

    fn lock_path(&self, key: &Key) -> PathBuf {
        self.root.join("scratch").join(format!("{key}.lock"))
    }

    fn owner_path(&self, key: &Key) -> PathBuf {
        self.root.join("scratch").join(format!("{key}.owner"))
    }

    fn owner_aside(&self, key: &Key) -> PathBuf {
        self.owner_path(key).with_extension("owner.new")
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

    /// Removes the work folders of processes that are gone: those whose lock can be had. Failing to costs space only.
    pub(super) fn sweep(&self) {
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
}

fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn one_at_a_time_works_on_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let key = Key::parse(&"a".repeat(64)).unwrap();
        assert!(!store.is_locked(&key));
        let held = store.try_lock(&key).unwrap();
        assert!(held.is_some() && store.try_lock(&key).unwrap().is_none() && store.is_locked(&key));
        // A process was killed while it told who it was.
        std::fs::write(store.owner_aside(&key), "{").unwrap();
        store.remove_lock(&key);
        assert_eq!(std::fs::read_dir(store.root.join("scratch")).unwrap().count(), 0);
        // A lock on the removed file keeps nobody out, and is not mistaken for one that does.
        assert!(store.try_lock(&key).unwrap().is_some());
    }
}
