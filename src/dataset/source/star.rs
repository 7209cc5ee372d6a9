//! A list that lies in several files, named with a star: `test/database*.txt`.

use crate::error::{Error, Place, Result};
use std::path::{Path, PathBuf};

/// The file itself, or all files of its folder that its name with a star stands for. Numbers in names are ordered by
/// their value: `database10.txt` comes after `database9.txt`.
///
/// # Errors
/// A star that stands for nothing.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((before, behind)) = name.split_once('*') else { return Ok(vec![path.to_path_buf()]) };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.map_err(|e| Error::io("list folder", folder, &e))?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        let Some(star) = file.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind)) else { continue };
        found.push((star.parse::<u64>().ok(), file.to_string()));
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::data(format!("no file is called `{name}`")).at(Place::Path(folder.display().to_string()))),
        false => Ok(found.into_iter().map(|(_, file)| folder.join(file)).collect()),
    }
}

/// A path that exists as soon as there is a file: the first one, or the name with its star.
pub(super) fn shown(path: &Path) -> PathBuf {
    files(path).ok().and_then(|files| files.into_iter().next()).unwrap_or_else(|| path.to_path_buf())
}
