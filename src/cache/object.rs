//! Bytes in the cache, named by their own blake3: put in, checked, set aside when damaged.

use super::action::{Action, Made, Object, Outputs};
use super::{Digests, Key, Lookup, Reason, Store, digest, unique};
use crate::error::{Error, Kind, Place, Result};
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

impl Store {
    /// Where an object's bytes lie.
    pub fn object_path(&self, object: &Object) -> PathBuf {
        self.root.join("objects").join(&object.digest[..2]).join(&object.digest)
    }

    /// Whether all outputs of a result are there with the content they had when they were made.
    pub(super) fn check(&self, made: Made, boot: Option<&str>, digests: &Digests) -> Lookup {
        // Not forced to the disk, and the machine has started anew since: times and sizes prove nothing yet.
        let doubtful = boot.is_some_and(|boot| boot != this_boot());
        // Where there are no locks, nothing is removed either: `gc` could not have got its own.
        let _hold = self.hold().ok();
        for (name, object) in &made.outputs {
            let path = self.object_path(object);
            let found = if doubtful { digest::hash_path(&path) } else { digests.path(&path) };
            if found.ok().as_deref() != Some(object.digest.as_str()) {
                if path.symlink_metadata().is_err() {
                    return Lookup::Lost(made.clone(), Reason::Gone { output: name.clone() });
                }
                return Lookup::Lost(made.clone(), Reason::Damaged { output: name.clone() });
            }
        }
        self.claim(&made.key);
        Lookup::Hit(made)
    }

    /// Moves the damaged objects of a key out of the way, so that they are made again. Gives a warning for each.
    pub fn quarantine(&self, outputs: &Outputs) -> Result<Vec<Error>> {
        let mut warnings = vec![];
        for (name, object) in outputs {
            let path = self.object_path(object);
            let found = match path.symlink_metadata() {
                Ok(_) => digest::hash_path(&path).unwrap_or_default(),
                Err(_) => continue,
            };
            if found == object.digest {
                continue;
            }
            let aside = self.set_aside(&path, &object.digest)?;
            warnings.push(
                Error::new(Kind::Cache, format!("the cached output `{name}` is damaged and will not be used"))
                    .at(Place::Path(path.display().to_string()))
                    .note(format!("recorded blake3 {}, found {}", short(&object.digest), short(&found)))
                    .note(format!("moved to `{}`; the stage runs again", aside.display()))
                    .hint("if the disk filled up or failed, other objects may be damaged too: `hashpipe cache verify` reads them all"),
            );
        }
        Ok(warnings)
    }

    /// Moves a damaged object to where nothing is read from.
    pub(super) fn set_aside(&self, path: &Path, digest: &str) -> Result<PathBuf> {
        let aside = self.root.join("damaged").join(format!("{digest}-{}-{}", std::process::id(), unique()));
        std::fs::rename(path, &aside).map_err(|e| Error::io("move away the damaged", path, &e))?;
        Ok(aside)
    }

    /// Moves the outputs a task left in `folder` into the cache. With `sync`, they are on the disk when this returns.
    pub fn put_outputs(&self, folder: &Path, names: &[String], sync: bool) -> Result<Outputs> {
        names.iter().map(|name| Ok((name.clone(), self.put(&folder.join(name), sync)?))).collect()
    }

    /// Moves a file or folder into the cache.
    fn put(&self, path: &Path, sync: bool) -> Result<Object> {
        // What a link leads to is not the output's, and must stay as it is.
        let folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if folder {
            let objects = self.root.join("objects");
            let mode = objects.metadata().map_err(|e| Error::io("read", &objects, &e))?.permissions().mode();
            share(path, mode & 0o777)?;
        }
        let mut size = 0;
        for file in files_of(path)? {
            size += seal(&file, sync)?;
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
                if sync {
                    sync_folder(parent);
                }
                Ok(object)
            }
        }
    }

    /// Where the object with this digest lies, if the cache has it.
    pub fn object_at(&self, digest: &str) -> Option<PathBuf> {
        let path = self.root.join("objects").join(digest.get(..2)?).join(digest);
        path.symlink_metadata().is_ok().then_some(path)
    }

    /// Whether an object with this content is known to the cache.
    pub fn has_object(&self, digest: &str) -> bool {
        self.object_at(digest).is_some()
    }

    /// Looks a key up and checks that every output has the recorded content.
    pub fn find(&self, key: &Key, digests: &Digests) -> Lookup {
        match self.action(key) {
            Some(action) => self.check(action.made(), action.boot.as_deref(), digests),
            None => Lookup::Miss,
        }
    }

    /// Whether the outputs of a record are all there and whole, read in full.
    pub fn is_complete(&self, action: &Action) -> bool {
        let whole =
            |object: &Object| digest::hash_path(&self.object_path(object)).ok().as_ref() == Some(&object.digest);
        action.outputs.values().all(whole)
    }
}

/// The files of an output. Links are not followed: what they lead to is not the output's.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |path: &Path, e: &std::io::Error| Error::io("read", path, e);
    let (mut files, mut next) = (vec![], vec![path.to_path_buf()]);
    while let Some(path) = next.pop() {
        let metadata = path.symlink_metadata().map_err(|e| unreadable(&path, &e))?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|e| unreadable(&path, &e))? {
                next.push(entry.map_err(|e| unreadable(&path, &e))?.path());
            }
        } else if metadata.is_file() {
            files.push(path);
        } else {
            return Err(Error::new(Kind::Contract, format!("`{}` is not a file", path.display()))
                .note("an output holds files and folders, no links, pipes or devices")
                .hint("have the stage write a copy"));
        }
    }
    Ok(files)
}

/// Makes a file that has other names a file of its own: what is done to it must not be done to those, nor the other way
/// round.
fn part_from_other_names(path: &Path) -> Result<()> {
    let copy = path.with_file_name(format!(".{}-{}.copy", std::process::id(), unique()));
    let copied = reflink_copy::reflink_or_copy(path, &copy).and_then(|_| std::fs::rename(&copy, path));
    copied.map_err(|e| Error::io("copy", path, &e))
}

/// Gives a folder and those below it these rights beside its own: who may remove a file from the cache must be able to
/// remove a folder too, whoever made it.
fn share(folder: &Path, mode: u32) -> Result<()> {
    let read = |e: std::io::Error| Error::io("read", folder, &e);
    let own = folder.symlink_metadata().map_err(read)?.permissions().mode();
    if own & mode != mode {
        let both = Permissions::from_mode(own | mode);
        std::fs::set_permissions(folder, both).map_err(|e| Error::io("share", folder, &e))?;
    }
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.file_type().map_err(read)?.is_dir() {
            share(&entry.path(), mode)?;
        }
    }
    Ok(())
}

/// Makes a file read-only and, if asked to, sees that it is on the disk. Gives its size.
fn seal(path: &Path, sync: bool) -> Result<u64> {
    let metadata = path.symlink_metadata().map_err(|e| Error::io("read", path, &e))?;
    if metadata.nlink() > 1 {
        part_from_other_names(path)?;
    }
    // For all who may enter the cache, whatever the program that wrote it thought of others; and as executable as it was.
    let mode = 0o444 | (metadata.permissions().mode() & 0o111);
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| Error::io("protect", path, &e))?;
    if sync {
        File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io("write", path, &e))?;
    }
    Ok(metadata.len())
}

fn sync_folder(folder: &Path) {
    // Best effort: some file systems refuse to sync folders, and a lost rename is only a miss.
    let _ = File::open(folder).and_then(|file| file.sync_all());
}

/// What the kernel calls the time since the machine was started.
pub fn this_boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map_or_else(|_| format!("process {}", std::process::id()), |id| id.trim().to_string())
    })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or("nothing readable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_copy_takes_the_place_of_a_damaged_object() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let put = || {
            let file = folder.path().join("x");
            std::fs::write(&file, "good").unwrap();
            store.put(&file, false).unwrap()
        };
        let path = store.object_path(&put());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "evil").unwrap();
        assert_eq!(std::fs::read(store.object_path(&put())).unwrap(), b"good");
    }

    #[test]
    fn links_are_no_outputs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        for target in ["/etc/passwd", "/etc", "/nowhere"] {
            std::os::unix::fs::symlink(target, out.join("x")).unwrap();
            assert_eq!(store.put(&out, false).unwrap_err().kind(), Kind::Contract, "{target}");
            std::fs::remove_file(out.join("x")).unwrap();
        }
    }

    #[test]
    fn a_file_with_another_name_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [mine, out] = ["mine", "out"].map(|name| folder.path().join(name));
        std::fs::write(&mine, "mine").unwrap();
        std::fs::hard_link(&mine, &out).unwrap();
        let object = store.put(&out, false).unwrap();
        assert!(!mine.metadata().unwrap().permissions().readonly());
        std::fs::write(&mine, "edited").unwrap();
        assert_eq!(std::fs::read(store.object_path(&object)).unwrap(), b"mine");
    }
}
