//! What lies below a folder.
//!
//! Symbolic links are followed: a folder is what a program finds that opens its files, and data sets are often linked
//! together from several disks. A link that leads nowhere, a link to a folder that it lies in, and what is neither file
//! nor folder are errors, because no digest could say what is there.

use super::{Watch, unreadable};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::fs::{DirEntry, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Names below a folder, relative, with `/`, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) files: Vec<String>,
    /// Folders with nothing in them: all others are seen in the names of files.
    pub(super) empty: Vec<String>,
}

/// Names of all files below a folder, relative, with `/`, sorted.
///
/// # Errors
/// If a folder cannot be read, a name is not UTF-8, a link leads nowhere or in a circle, or something is neither file
/// nor folder.
pub fn files_below(folder: &Path) -> Result<Vec<String>> {
    Ok(Tree::below(folder, &Watch::default())?.files)
}

/// A folder on the way down.
struct Level<'a> {
    /// Device and inode.
    id: (u64, u64),
    above: Option<&'a Level<'a>>,
}

impl Tree {
    pub(super) fn below(folder: &Path, watch: &Watch) -> Result<Self> {
        let metadata = std::fs::metadata(folder).map_err(|e| unreadable(folder, &e))?;
        let mut tree = walk(folder, "", &Level { id: id(&metadata), above: None }, watch)?;
        tree.files.par_sort_unstable();
        tree.empty.sort_unstable();
        Ok(tree)
    }

    fn join(mut self, mut other: Self) -> Self {
        self.files.append(&mut other.files);
        self.empty.append(&mut other.empty);
        self
    }
}

fn walk(folder: &Path, prefix: &str, level: &Level, watch: &Watch) -> Result<Tree> {
    watch.check()?;
    let (mut tree, mut folders) = (Tree::default(), vec![]);
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, &e))? {
        let entry = entry.map_err(|e| Error::io("read", folder, &e))?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| {
            Error::data(format!("the name of `{}` is not UTF-8", entry.path().display())).hint("rename it")
        })?;
        let name = format!("{prefix}{name}");
        if is_folder(&entry, level)? { folders.push((entry.path(), name)) } else { tree.files.push(name) }
    }
    if folders.is_empty() && tree.files.is_empty() && !prefix.is_empty() {
        tree.empty.push(prefix.to_string());
    }
    let below = folders.into_par_iter().map(|(path, name)| {
        let metadata = std::fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        walk(&path, &format!("{name}/"), &Level { id: id(&metadata), above: Some(level) }, watch)
    });
    Ok(tree.join(below.try_reduce(Tree::default, |one, other| Ok(one.join(other)))?))
}

/// Whether an entry is a folder, links followed; if it is no file either, an error.
fn is_folder(entry: &DirEntry, level: &Level) -> Result<bool> {
    let mut kind = entry.file_type().map_err(|e| Error::io("read", &entry.path(), &e))?;
    if kind.is_symlink() {
        let path = entry.path();
        let metadata = std::fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        let mut levels = std::iter::successors(Some(level), |level| level.above);
        if metadata.is_dir() && levels.any(|level| level.id == id(&metadata)) {
            return Err(Error::data(format!("`{}` is a link to a folder that it lies in", path.display()))
                .hint("remove the link, or name the folders inside instead"));
        }
        kind = metadata.file_type();
    }
    if !kind.is_dir() && !kind.is_file() {
        let path = entry.path();
        return Err(
            Error::data(format!("`{}` is neither a file nor a folder", path.display())).hint("move it elsewhere")
        );
    }
    Ok(kind.is_dir())
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        folder
    }

    #[test]
    fn names_are_relative_and_sorted_as_text() {
        let folder = folder(&["b", "a/c/d", "a.x", "a/b", "Z"]);
        std::fs::create_dir_all(folder.path().join("none/deep")).unwrap();
        let tree = Tree::below(folder.path(), &Watch::default()).unwrap();
        assert_eq!(tree.files, ["Z", "a.x", "a/b", "a/c/d", "b"]);
        assert_eq!(tree.empty, ["none/deep/"]);
        assert_eq!(files_below(folder.path()).unwrap(), tree.files);
    }

    #[test]
    fn links_are_followed() {
        let (folder, elsewhere) = (folder(&["a/x"]), folder(&["y"]));
        symlink(elsewhere.path(), folder.path().join("b")).unwrap();
        symlink(elsewhere.path().join("y"), folder.path().join("c")).unwrap();
        // Beside and not around itself: seen twice, as a program would.
        symlink(folder.path().join("a"), folder.path().join("d")).unwrap();
        assert_eq!(files_below(folder.path()).unwrap(), ["a/x", "b/y", "c", "d/x"]);
    }

    #[test]
    fn what_has_no_digest_is_refused_by_name() {
        let refused = |make: &dyn Fn(&Path)| {
            let folder = folder(&["a/b/x"]);
            make(&folder.path().join("a/b/bad"));
            let error = files_below(folder.path()).unwrap_err();
            assert!(error.message().contains("a/b/bad"), "{error}");
            error.render("error")
        };
        assert!(
            refused(&|bad| symlink("nowhere", bad).unwrap()).contains("is a broken link\nnote: it leads to `nowhere`")
        );
        for up in [".", "..", "../.."] {
            assert!(refused(&|bad| symlink(up, bad).unwrap()).contains("is a link to a folder that it lies in"));
        }
        let socket = |bad: &Path| drop(std::os::unix::net::UnixListener::bind(bad).unwrap());
        assert!(refused(&socket).contains("is neither a file nor a folder"));
        assert!(refused(&|bad| symlink(bad, bad).unwrap()).contains("cannot read"));
    }
}
