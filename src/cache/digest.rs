//! blake3 of files and folders, with a memo so that what did not change is not read again.

use super::key::digest_of_lines;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Remembers digests by path, trusted while size, times and inode stay the same. Safe to delete.
///
/// One line a file: digest, size, mtime and ctime in nanoseconds, inode, path. A file that changed less than two
/// seconds ago is not remembered: it could change again within the resolution of its own times.
pub struct Digests {
    memo: PathBuf,
    known: HashMap<PathBuf, (Stamp, String)>,
    changed: bool,
}

/// What tells that a file is still the same, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: i128,
    ctime: i128,
    inode: u64,
}

const RACY_NANOSECONDS: i128 = 2_000_000_000;

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: metadata.len(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    fn is_settled(&self, now: i128) -> bool {
        self.mtime.max(self.ctime) + RACY_NANOSECONDS < now
    }
}

impl Digests {
    /// Reads the memo; lines that cannot be read are forgotten, which only costs time.
    pub(super) fn open(memo: PathBuf) -> Self {
        let text = std::fs::read_to_string(&memo).unwrap_or_default();
        let known = text.lines().filter_map(parse).collect();
        Self { memo, known, changed: false }
    }

    /// Writes the memo, if it holds anything new.
    pub fn save(&mut self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut text = Vec::new();
        for (path, (stamp, digest)) in &self.known {
            let Stamp { size, mtime, ctime, inode } = stamp;
            let Some(path) = path.to_str().filter(|path| !path.contains('\n')) else { continue };
            let _ = writeln!(text, "{digest} {size} {mtime} {ctime} {inode} {path}");
        }
        super::write_aside(&self.memo, &text)?;
        self.changed = false;
        Ok(())
    }

    /// Digest of one file's content.
    pub fn file(&mut self, path: &Path) -> Result<String> {
        Ok(self.files(std::slice::from_ref(&path.to_path_buf()))?.remove(0))
    }

    /// Digests of many files, in order, read side by side where they are not known.
    pub fn files(&mut self, paths: &[PathBuf]) -> Result<Vec<String>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
        let known = &self.known;
        let found: Vec<(Stamp, String, bool)> = paths
            .par_iter()
            .map(|path| {
                let absolute = absolute(path)?;
                let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
                let stamp = Stamp::of(&metadata);
                match known.get(&absolute) {
                    Some((before, digest)) if *before == stamp => Ok((stamp, digest.clone(), false)),
                    _ => Ok((stamp, hash_file(path)?, true)),
                }
            })
            .collect::<Result<_>>()?;
        for (path, (stamp, digest, fresh)) in paths.iter().zip(&found) {
            if *fresh && stamp.is_settled(now) {
                self.known.insert(absolute(path)?, (*stamp, digest.clone()));
                self.changed = true;
            }
        }
        Ok(found.into_iter().map(|(_, digest, _)| digest).collect())
    }

    /// Digest of a folder: the names below it, each with its content.
    pub fn folder(&mut self, path: &Path) -> Result<String> {
        let files = files_below(path)?;
        let paths: Vec<PathBuf> = files.iter().map(|name| path.join(name)).collect();
        let digests = self.files(&paths)?;
        Ok(digest_of_lines(files.iter().zip(&digests).map(|(name, digest)| [name.as_str(), digest.as_str()])))
    }

    /// Digest of a file or a folder.
    pub fn path(&mut self, path: &Path) -> Result<String> {
        if path.is_dir() { self.folder(path) } else { self.file(path) }
    }
}

/// blake3 of a file, in hexadecimal.
fn hash_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::io("read", path, &e))?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).map_err(|e| Error::io("read", path, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Digest of a file, or of a folder's names and contents, without any memo.
pub(super) fn hash_path(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return hash_file(path);
    }
    let files = files_below(path)?;
    let digests = files.par_iter().map(|name| hash_file(&path.join(name))).collect::<Result<Vec<_>>>()?;
    Ok(digest_of_lines(files.iter().zip(&digests).map(|(name, digest)| [name.as_str(), digest.as_str()])))
}

/// Names of all files below a folder, relative, with `/`, sorted.
pub fn files_below(folder: &Path) -> Result<Vec<String>> {
    fn walk(folder: &Path, prefix: &str, out: &mut Vec<String>) -> Result<()> {
        for entry in std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, &e))? {
            let path = entry.map_err(|e| Error::io("read", folder, &e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
                Error::data(format!("the name of `{}` is not UTF-8", path.display())).hint("rename it")
            })?;
            let name = format!("{prefix}{name}");
            if path.is_dir() { walk(&path, &format!("{name}/"), out)? } else { out.push(name) }
        }
        Ok(())
    }
    let mut files = vec![];
    walk(folder, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, &e))
}

fn parse(line: &str) -> Option<(PathBuf, (Stamp, String))> {
    let mut parts = line.splitn(6, ' ');
    let digest = parts.next().filter(|digest| digest.len() == 64)?.to_string();
    let (size, mtime, ctime) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (inode, path) = (parts.next()?.parse().ok()?, parts.next()?);
    Some((PathBuf::from(path), (Stamp { size, mtime, ctime, inode }, digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_not_names_of_folders() {
        let folder = tempfile::tempdir().unwrap();
        let mut digests = Digests::open(folder.path().join("memo"));
        let make = |name: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join(name).join("sub")).unwrap();
            std::fs::write(folder.path().join(name).join("sub/x"), text).unwrap();
            folder.path().join(name)
        };
        let (a, b, c) = (make("a", "1"), make("b", "1"), make("c", "2"));
        assert_eq!(digests.path(&a).unwrap(), digests.path(&b).unwrap());
        assert_ne!(digests.path(&a).unwrap(), digests.path(&c).unwrap());
    }

    #[test]
    fn a_fresh_file_is_not_remembered_and_an_edit_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let mut digests = Digests::open(folder.path().join("memo"));
        std::fs::write(&file, "one").unwrap();
        let before = digests.file(&file).unwrap();
        std::fs::write(&file, "two").unwrap();
        assert_ne!(digests.file(&file).unwrap(), before);
        assert!(digests.known.is_empty());
    }

    #[test]
    fn the_memo_survives_a_round_trip_and_garbage() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memo) = (folder.path().join("a name with spaces"), folder.path().join("memo"));
        std::fs::write(&file, "one").unwrap();
        let past = SystemTime::now() - std::time::Duration::from_secs(60);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(past).unwrap();
        let mut digests = Digests::open(memo.clone());
        let stamp = Stamp::of(&std::fs::metadata(&file).unwrap());
        digests.known.insert(absolute(&file).unwrap(), (stamp, "0".repeat(64)));
        digests.changed = true;
        digests.save().unwrap();
        assert_eq!(Digests::open(memo.clone()).file(&file).unwrap(), "0".repeat(64));
        std::fs::write(&memo, "garbage\n\u{0}").unwrap();
        assert_eq!(Digests::open(memo).file(&file).unwrap(), blake3::hash(b"one").to_hex().to_string());
    }
}
