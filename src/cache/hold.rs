//! What a run uses is not taken away while it uses it: claims, and the lock between runs and `cache gc`.
//!
//! ```text
//! hold.lock                held shared from the look at an object until the claim is written down, and by `gc` alone
//!                          while it moves things away
//! claims/<pid>-<random>    keys whose results a process uses, a line each; locked while the process lives
//! ```
//!
//! Whoever looks first and claims later could find its object gone; whoever claims under the lock cannot. The lock is
//! held for moments, and nobody waits for it but `gc`, and whoever meets `gc` in the middle of a batch.

use super::{Key, Store};
use crate::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// The claims of this process on one cache.
#[derive(Debug)]
pub(super) struct Claims {
    root: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// How many [`Hold`]s there are: the lock belongs to all of them together.
    holds: usize,
    lock: Option<File>,
    /// Made with the first claim, removed at the end of the process.
    file: Option<NamedTempFile>,
    /// Claims that are not written down yet.
    pending: String,
}

/// While there is one, `gc` moves nothing away.
pub struct Hold<'a>(Option<&'a Claims>);

impl Claims {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) -> Result<Hold<'_>> {
        let mut held = self.held();
        if held.lock.is_none() {
            let (path, lock) = open_lock(&self.root)?;
            lock.lock_shared().map_err(|e| Error::io("lock", &path, &e))?;
            held.lock = Some(lock);
        }
        held.holds += 1;
        Ok(Hold(Some(self)))
    }

    fn add(&self, key: &Key) {
        let mut held = self.held();
        held.pending.push_str(key.as_str());
        held.pending.push('\n');
    }
}

impl Held {
    /// Writes down what is pending. The lock must be held: a file that has a name and no lock yet is taken for that of a
    /// dead process.
    fn write_down(&mut self, root: &Path) -> std::io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = tempfile::Builder::new()
                    .prefix(&format!("{}-", std::process::id()))
                    // Others who share the cache must be able to see that it is locked.
                    .permissions(Permissions::from_mode(0o666))
                    .tempfile_in(root.join(FOLDER))?;
                file.as_file().lock()?;
                self.file.insert(file)
            }
        };
        file.write_all(self.pending.as_bytes())?;
        self.pending.clear();
        Ok(())
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let Some(claims) = self.0 else { return };
        let mut held = claims.held();
        held.holds -= 1;
        // Claims that could not be written (the disk may be full) are still claims: the lock stays until they are.
        if held.holds == 0 && held.write_down(&claims.root).is_ok() {
            held.lock = None;
        }
    }
}

const FOLDER: &str = "claims";

impl Store {
    /// Keeps `gc` from moving anything away. Results found or committed meanwhile are claimed for as long as this
    /// process lives. A reader's store holds and claims nothing.
    pub fn hold(&self) -> Result<Hold<'_>> {
        self.claims.as_ref().map_or(Ok(Hold(None)), |claims| claims.hold())
    }

    /// Claims a result, of which a look under the same [`Hold`] has shown that it is there.
    pub fn claim(&self, key: &Key) {
        if let Some(claims) = &self.claims {
            claims.add(key);
        }
    }

    /// Whether a key has a record: without one it has no result, whatever else is known of it, and `gc` takes its
    /// objects. Notes by the record's time that the result is used; once a day is enough to tell what is used at all.
    pub(super) fn note_use(&self, key: &Key) -> bool {
        use nix::sys::stat::{UtimensatFlags, utimensat};
        use nix::sys::time::TimeSpec;
        const OFTEN_ENOUGH: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
        let path = self.action_path(key);
        let Ok(metadata) = path.metadata() else { return false };
        let is_old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OFTEN_ENOUGH));
        if is_old && self.claims.is_some() {
            // "Now" may be set by all who may write the file; any other time by its owner alone.
            let now = TimeSpec::UTIME_NOW;
            let _ = utimensat(nix::fcntl::AT_FDCWD, &path, &now, &now, UtimensatFlags::FollowSymlink);
        }
        true
    }

    /// The claims of all processes that live. Those of dead ones are removed if this is called alone with the lock.
    ///
    /// # Errors
    /// If claims cannot be read: what is in use is not known then.
    pub(super) fn claims(&self, alone: Option<&Alone>) -> Result<Vec<Key>> {
        let mut keys = vec![];
        for entry in std::fs::read_dir(self.root.join(FOLDER)).into_iter().flatten().flatten() {
            let path = entry.path();
            let read = File::open(&path).and_then(|mut file| {
                let mut text = String::new();
                let lives = file.try_lock_shared().is_err();
                if lives {
                    file.read_to_string(&mut text)?;
                } else if alone.is_some() {
                    // Failing to costs a look the next time.
                    let _ = std::fs::remove_file(&path);
                }
                Ok(text)
            });
            match read {
                Ok(text) => keys.extend(text.lines().filter_map(Key::parse)),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("read the claims", &path, &e)),
            }
        }
        Ok(keys)
    }

    /// Waits until nobody holds the cache, and keeps it so until dropped. `waits` is called if that is not at once.
    pub(super) fn alone(&self, waits: &dyn Fn()) -> Result<Alone> {
        let (path, lock) = open_lock(&self.root)?;
        if lock.try_lock().is_err() {
            waits();
            lock.lock().map_err(|e| Error::io("lock", &path, &e))?;
        }
        Ok(Alone { _lock: lock })
    }
}

/// Nobody but this process looks at objects in order to use them.
pub(super) struct Alone {
    _lock: File,
}

fn open_lock(root: &Path) -> Result<(PathBuf, File)> {
    let path = root.join("hold.lock");
    let lock = File::create(&path).map_err(|e| Error::io("make the lock", &path, &e))?;
    Ok((path, lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> Key {
        Key::parse(&digit.to_string().repeat(64)).unwrap()
    }

    fn is_free(store: &Store) -> bool {
        open_lock(&store.root).unwrap().1.try_lock().is_ok()
    }

    #[test]
    fn claims_are_written_before_the_lock_is_given_back_and_end_with_their_process() {
        let folder = tempfile::tempdir().unwrap();
        let (run, reader) = (Store::open(folder.path()).unwrap(), Store::at(folder.path()));
        let (outer, inner) = (run.hold().unwrap(), run.hold().unwrap());
        run.claim(&key('a'));
        drop(inner);
        run.claim(&key('b'));
        assert!(!is_free(&reader));
        drop(outer);
        assert!(is_free(&reader));
        assert_eq!(reader.claims(None).unwrap(), [key('a'), key('b')]);
        let dead = run.root.join("claims/1-dead");
        std::fs::write(&dead, format!("{}\n", key('c'))).unwrap();
        let alone = reader.alone(&|| panic!("nobody holds it")).unwrap();
        assert_eq!(reader.claims(Some(&alone)).unwrap(), [key('a'), key('b')]);
        assert!(!dead.exists());
        drop(run);
        assert_eq!(reader.claims(None).unwrap(), []);
    }

    #[test]
    fn a_claim_that_cannot_be_written_keeps_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let claims = store.root.join(FOLDER);
        std::fs::remove_dir(&claims).unwrap();
        let hold = store.hold().unwrap();
        store.claim(&key('a'));
        drop(hold);
        assert!(!is_free(&store));
        std::fs::create_dir(&claims).unwrap();
        drop(store.hold().unwrap());
        assert!(is_free(&store));
        assert_eq!(store.claims(None).unwrap(), [key('a')]);
    }

    #[test]
    fn a_use_is_noted_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = store.action_path(&key('a'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let now = std::time::SystemTime::now();
        for (hours, noted) in [(1, false), (25, true)] {
            let then = now - std::time::Duration::from_secs(hours * 3600);
            File::create(&path).unwrap().set_modified(then).unwrap();
            assert!(Store::at(folder.path()).note_use(&key('a')));
            assert_eq!(path.metadata().unwrap().modified().unwrap(), then, "a reader changes nothing");
            assert!(store.note_use(&key('a')));
            assert_eq!(path.metadata().unwrap().modified().unwrap() != then, noted, "{hours} hours ago");
        }
        assert!(!store.note_use(&key('b')));
    }
}
