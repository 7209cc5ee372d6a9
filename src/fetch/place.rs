//! What was unpacked, to where it belongs: by renaming, and without writing over anything else.

use crate::error::{Error, Place, Result};
use std::fs;
use std::path::Path;

/// Moves everything in `from` to `to`, or to a folder `into` of it unless `from` holds one of that name and nothing
/// else. Returns what is now at the top of `to`.
///
/// # Errors
/// Files that are there already and hold something else; nothing of them is touched.
pub(super) fn into(from: &Path, to: &Path, into: Option<&str>) -> Result<Vec<String>> {
    let names = names(from)?;
    let target = match into {
        Some(folder) if names != [folder] => Some(folder),
        _ => None,
    };
    let root = target.map_or_else(|| to.to_path_buf(), |folder| to.join(folder));
    let mut taken = vec![];
    conflicts(from, &root, &mut taken)?;
    if let Some(first) = taken.first() {
        return Err(Error::data(format!("{} files are there already and hold something else", taken.len()))
            .at(Place::Path(first.clone()))
            .hint("move them away, or fetch to another folder"));
    }
    merge(from, &root)?;
    Ok(target.map_or(names, |folder| vec![folder.to_string()]))
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::io("list folder", folder, &e);
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(failed)? {
        // Made from texts, so nothing is lost.
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn conflicts(from: &Path, to: &Path, taken: &mut Vec<String>) -> Result<()> {
    if !to.exists() {
        return Ok(());
    }
    for name in names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        match (from.is_dir(), to.is_dir()) {
            (true, true) => conflicts(&from, &to, taken)?,
            (false, false) if !to.exists() || same(&from, &to)? => {}
            (true, false) if !to.exists() => {}
            _ => taken.push(to.display().to_string()),
        }
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    let size = |path: &Path| fs::metadata(path).map(|found| found.len()).map_err(|e| Error::io("read", path, &e));
    if size(one)? != size(other)? {
        return Ok(false);
    }
    let digest = |path: &Path| -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let read = fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
        read.map_err(|e| Error::io("read", path, &e))?;
        Ok(hasher.finalize())
    };
    Ok(digest(one)? == digest(other)?)
}

/// Moves files; a folder that is not there yet is moved as a whole.
fn merge(from: &Path, to: &Path) -> Result<()> {
    if !to.exists() {
        return fs::rename(from, to).map_err(|e| Error::io("move to", to, &e));
    }
    for name in names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() && to.is_dir() {
            true => merge(&from, &to)?,
            false => fs::rename(&from, &to).map_err(|e| Error::io("move to", &to, &e))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn folders_are_joined_and_nothing_is_written_over() {
        let space = tempfile::tempdir().unwrap();
        let (to, one) = (space.path().join("to"), |name: &str| space.path().join(name));
        write(&to, "annotations/old.json", "old");
        write(&one("a"), "annotations/new.json", "new");
        write(&one("a"), "annotations/old.json", "old");
        assert_eq!(into(&one("a"), &to, None).unwrap(), ["annotations"]);
        assert_eq!(fs::read_to_string(to.join("annotations/new.json")).unwrap(), "new");

        write(&one("b"), "annotations/other.json", "1");
        write(&one("b"), "annotations/old.json", "changed");
        let error = into(&one("b"), &to, None).unwrap_err();
        assert!(error.message().starts_with("1 files are there already"), "{error}");
        assert!(!to.join("annotations/other.json").exists());
        assert_eq!(fs::read_to_string(to.join("annotations/old.json")).unwrap(), "old");
    }

    #[test]
    fn an_archive_without_a_folder_gets_one() {
        let space = tempfile::tempdir().unwrap();
        let (to, one) = (space.path().join("to"), |name: &str| space.path().join(name));
        fs::create_dir(&to).unwrap();
        write(&one("a"), "sky.txt", "1");
        write(&one("b"), "labels/sea.txt", "1");
        assert_eq!(into(&one("a"), &to, Some("labels")).unwrap(), ["labels"]);
        assert_eq!(into(&one("b"), &to, Some("labels")).unwrap(), ["labels"]);
        assert!(to.join("labels/sky.txt").is_file() && to.join("labels/sea.txt").is_file());
    }
}
