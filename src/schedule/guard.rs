//! Whether what a task read is still what it was when its key was made.

use crate::cache::{Digests, files_below};
use crate::error::{Error, Kind, Result};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file or folder that a task reads.
pub(super) struct Guard {
    path: PathBuf,
    /// What its key holds.
    digest: String,
    /// How it looked before the task started; nothing if it could not be looked at.
    looks: Option<Looks>,
    /// Whether it lies in the cache, where nobody but hashpipe writes.
    cached: bool,
}

/// How files look, without reading them.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    /// Name, device, inode, size, and time of the last change of content.
    content: blake3::Hash,
    /// Time of the last change of anything: content, name, rights, number of links.
    rest: blake3::Hash,
}

impl Guard {
    /// Notes how a file of the user's looks now; whether it has this digest is to be asked after that, not before.
    pub(super) fn new(path: PathBuf, digest: &str) -> Self {
        Self { looks: looks(&path), path, digest: digest.to_string(), cached: false }
    }

    /// Notes how an output of another task looks now.
    pub(super) fn cached(path: PathBuf, digest: &str) -> Self {
        Self { cached: true, ..Self::new(path, digest) }
    }

    /// A folder of the user's, with the digest that the key holds.
    pub(super) fn folder(&self) -> Option<(&Path, &str)> {
        (!self.cached && self.path.is_dir()).then_some((&self.path, &self.digest))
    }

    /// Whether nobody wrote to it. That it holds what it held before is not enough: it may have held something else
    /// meanwhile, when the task read it.
    fn holds(&self, digests: &Digests) -> bool {
        let now = looks(&self.path);
        if now.as_ref().map(|looks| looks.content) != self.looks.as_ref().map(|looks| looks.content) {
            return false;
        }
        // Files do not tell of empty folders beside them.
        let told = self.cached || !self.path.is_dir();
        (told && now == self.looks && now.is_some()) || self.is_equal(digests)
    }

    fn is_equal(&self, digests: &Digests) -> bool {
        digests.path(&self.path).is_ok_and(|digest| digest == self.digest)
    }
}

/// A result made from files that changed meanwhile is not that of its key.
pub(super) fn check(guards: &[Guard], digests: &Digests, task: &str) -> Result<()> {
    let Some(guard) = guards.iter().find(|guard| !guard.holds(digests)) else { return Ok(()) };
    let error = Error::new(Kind::Changed, format!("`{}` changed while `{task}` ran", guard.path.display()))
        .note("its result was thrown away");
    let error = match guard.is_equal(digests) {
        true => error.note("it holds again what it held before, but was written to meanwhile"),
        false => error,
    };
    Err(match guard.cached {
        true => error.hint("it lies in the cache: a program that changes its input must do so with a copy"),
        false => error.hint("run again once the file is no longer written to"),
    })
}

/// How a file looks, or all files below a folder.
fn looks(path: &Path) -> Option<Looks> {
    let (mut content, mut rest) = (blake3::Hasher::new(), blake3::Hasher::new());
    let mut add = |name: &str, metadata: &Metadata| {
        content.update(&name.len().to_le_bytes()).update(name.as_bytes());
        for number in [metadata.dev(), metadata.ino(), metadata.size()] {
            content.update(&number.to_le_bytes());
        }
        content.update(&metadata.mtime().to_le_bytes()).update(&metadata.mtime_nsec().to_le_bytes());
        rest.update(&metadata.ctime().to_le_bytes()).update(&metadata.ctime_nsec().to_le_bytes());
    };
    let metadata = path.metadata().ok()?;
    if metadata.is_dir() {
        for name in files_below(path).ok()? {
            add(&name, &path.join(&name).metadata().ok()?);
        }
    } else {
        add("", &metadata);
    }
    Some(Looks { content: content.finalize(), rest: rest.finalize() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// Whether a guard holds after something was done to a folder with a file `a`, of which the file or the whole is
    /// guarded.
    fn holds(guarded: &str, change: impl Fn(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "one").unwrap();
        let digests = Digests::read_only(folder.path().join("no memo"));
        let path = folder.path().join(guarded);
        let guard = Guard::new(path.clone(), &digests.path(&path).unwrap());
        change(folder.path());
        let held = guard.holds(&digests);
        assert_eq!(check(&[guard], &digests, "t").is_ok(), held);
        held
    }

    /// Sets the time of the last change of content apart from the present one, which may be the same tick of the clock.
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(earlier).unwrap();
    }

    #[test]
    fn what_was_written_to_is_not_trusted_even_if_it_is_equal_again() {
        for guarded in ["a", ""] {
            assert!(holds(guarded, |_| {}), "{guarded}");
            assert!(!holds(guarded, |folder| write(&folder.join("a"), "two")), "{guarded}");
            assert!(!holds(guarded, |folder| {
                write(&folder.join("a"), "two");
                write(&folder.join("a"), "one");
            }));
            assert!(!holds(guarded, |folder| std::fs::remove_file(folder.join("a")).unwrap()), "{guarded}");
        }
        assert!(!holds("", |folder| std::fs::create_dir(folder.join("empty")).unwrap()));
        assert!(!holds("", |folder| std::fs::write(folder.join("b"), "").unwrap()));
    }

    #[test]
    fn other_rights_and_names_are_no_other_content() {
        assert!(holds("a", |folder| std::fs::set_permissions(folder.join("a"), Permissions::from_mode(0o600)).unwrap()));
        assert!(holds("a", |folder| std::fs::hard_link(folder.join("a"), folder.join("b")).unwrap()));
    }
}
