//! What sets of files held that tasks were made from, so that an explanation can name what changed in one: a key has one
//! digest for all images of a list, or all files of a folder.
//!
//! ```text
//! sets/<digest in the key>    zlib: for each file what its content is told by, NUL, its name, NUL
//! ```
//!
//! A memo: what is torn or lost costs an explanation. Each is named by the digest of what it holds, and checked by it.

use super::key::digest_of_lines;
use super::{Store, Sync, write_aside_with};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Names of a set, each with what stands for its content, in the order of the set's digest.
pub type Members = Vec<(String, String)>;

/// The digest that a key has of a set.
pub(super) fn set_digest(members: &[(String, String)]) -> String {
    digest_of_lines(members.iter().map(|(name, told)| [name.as_str(), told.as_str()]))
}

/// Sets that are kept; a list of a hundred thousand images takes some four MB.
const KEPT: usize = 64;

impl Store {
    /// Keeps what the set with this digest holds, unless it is known. Failing to costs an explanation.
    pub fn keep_set(&self, digest: &str, members: impl FnOnce() -> Option<Members>) {
        let path = self.set_path(digest);
        if path.exists() {
            return;
        }
        let Some(members) = members().filter(|members| set_digest(members) == digest) else { return };
        if let Ok(bytes) = packed(&members) {
            self.drop_old_sets();
            let _ = write_aside_with(&path, &bytes, Sync::No);
        }
    }

    /// What the set with this digest held, if it was kept, or is a folder in the cache.
    pub(super) fn set(&self, digest: &str) -> Option<Members> {
        let kept = File::open(self.set_path(digest)).ok().and_then(unpacked);
        let of_object = || {
            let path = self.object_at(digest).filter(|path| path.is_dir())?;
            self.digests().listing(&path).ok()
        };
        kept.or_else(of_object).filter(|members| set_digest(members) == digest)
    }

    fn set_path(&self, digest: &str) -> PathBuf {
        self.root.join("sets").join(digest)
    }

    /// Removes the oldest sets, so that one more may be kept.
    fn drop_old_sets(&self) {
        let entries = std::fs::read_dir(self.root.join("sets")).into_iter().flatten().flatten();
        let mut sets: Vec<_> =
            entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
        sets.sort();
        for (_, path) in sets.iter().take((sets.len() + 1).saturating_sub(KEPT)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn packed(members: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut out = ZlibEncoder::new(vec![], Compression::fast());
    for (name, told) in members {
        for text in [told, name] {
            out.write_all(text.as_bytes())?;
            out.write_all(&[0])?;
        }
    }
    out.finish()
}

fn unpacked(file: File) -> Option<Members> {
    let mut text = String::new();
    ZlibDecoder::new(file).read_to_string(&mut text).ok()?;
    let mut texts = text.split_terminator('\0').map(str::to_string);
    let mut members = vec![];
    while let Some(told) = texts.next() {
        members.push((texts.next()?, told));
    }
    Some(members)
}

/// What differs between two sets, for a person: the first few names of each kind, and how many more.
pub(super) fn difference(old: &[(String, String)], new: &[(String, String)]) -> String {
    let by_name = |members: &[(String, String)]| -> BTreeMap<String, String> { members.iter().cloned().collect() };
    let (before, after) = (by_name(old), by_name(new));
    let changed = after.iter().filter(|(name, told)| before.get(*name).is_some_and(|then| then != *told));
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let removed = before.keys().filter(|name| !after.contains_key(*name));
    let kinds = [
        ("changed", changed.map(|(name, _)| name.as_str()).collect::<Vec<_>>()),
        ("added", added.map(String::as_str).collect()),
        ("removed", removed.map(String::as_str).collect()),
    ];
    let told =
        kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(word, names)| format!("{word} {}", few(names)));
    let told = told.collect::<Vec<_>>().join("; ");
    if told.is_empty() { "the same files in another order".into() } else { told }
}

/// `a.jpg, b.jpg, c.jpg and 17 more`
fn few(names: &[&str]) -> String {
    const FEW: usize = 3;
    let shown: Vec<String> = names.iter().take(FEW).map(|name| shown(name)).collect();
    let more = names.len().saturating_sub(FEW);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// A name as a person reads it: that of an empty folder ends in `/`; one with line breaks must not break the table.
fn shown(name: &str) -> String {
    Path::new(name).display().to_string().replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(of: &[(&str, &str)]) -> Members {
        of.iter().map(|(name, told)| (name.to_string(), told.to_string())).collect()
    }

    #[test]
    fn sets_come_back_and_torn_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let set = members(&[("a b.jpg", "11 x"), ("é/\n", "22"), ("empty/", "")]);
        let digest = set_digest(&set);
        store.keep_set(&digest, || Some(set.clone()));
        assert_eq!(store.set(&digest), Some(set.clone()));
        store.keep_set(&digest, || panic!("it is known"));
        let other = "0".repeat(64);
        store.keep_set(&other, || Some(set.clone()));
        assert_eq!(store.set(&other), None);
        let path = store.set_path(&digest);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(store.set(&digest), None);
    }

    #[test]
    fn old_sets_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let digests: Vec<String> = (0..KEPT + 3)
            .map(|number| {
                let set = members(&[("a", &number.to_string())]);
                store.keep_set(&set_digest(&set), || Some(set.clone()));
                set_digest(&set)
            })
            .collect();
        assert_eq!(std::fs::read_dir(folder.path().join("v2/sets")).unwrap().count(), KEPT);
        assert!(store.set(&digests[KEPT + 2]).is_some());
    }

    #[test]
    fn what_changed_is_named() {
        let old = members(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")]);
        let new = members(&[("a", "2"), ("b", "2"), ("c", "2"), ("d", "2"), ("e", "1"), ("g", "1")]);
        assert_eq!(difference(&old, &new), "changed a, b, c and 1 more; added g; removed f");
        assert_eq!(difference(&old, &old), "the same files in another order");
    }
}
