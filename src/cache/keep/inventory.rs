//! What the cache holds: results, the objects they name, and who needs them.

use super::pins::pinned_keys;
use crate::cache::{Action, Key, Object, Store};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A result that a record tells of, whether or not its objects are there.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) key: Key,
    /// Kind of stage.
    pub(super) kind: String,
    /// Digests of its outputs, each once.
    pub(super) outputs: Vec<String>,
    /// Digests of what the same key gave later; nothing reads them.
    pub(super) variants: Vec<String>,
    /// Wall time of making it.
    pub(super) seconds: f64,
    pub(super) used: SystemTime,
    /// Tasks that had it: (pipeline, task), sorted.
    pub(super) tasks: Vec<(String, String)>,
    /// Whether it is the newest result of any of them.
    pub(super) newest: bool,
}

/// The results and objects of a cache.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Sorted by key.
    pub(super) results: Vec<Recorded>,
    /// Digests of the objects that are there, and their bytes.
    pub(super) objects: HashMap<String, u64>,
    /// Results that are pinned.
    pub(super) pinned: HashSet<Key>,
    /// Results that live processes use.
    pub(super) claimed: HashSet<Key>,
}

impl Inventory {
    /// Looks at all of the cache.
    ///
    /// # Errors
    /// If a record, a pin or a claim cannot be read: what is needed is not known then. A record that is torn is none.
    pub(super) fn take(store: &Store) -> Result<Self> {
        let (pinned, claimed) = (pinned_keys(store)?, store.claims(None)?.into_iter().collect());
        Ok(Self { pinned, claimed, ..Self::of_contents(store)? })
    }

    /// The same without what is pinned or in use.
    pub(super) fn of_contents(store: &Store) -> Result<Self> {
        // Before the records: an object whose record is made in between is missing here, and so left alone.
        let names = object_names(store);
        let records = records(store)?;
        let mut sizes: HashMap<String, u64> = HashMap::new();
        for (action, _) in &records {
            let variants = action.variants.iter().flat_map(|variant| variant.outputs.values());
            let objects = action.outputs.values().chain(variants);
            sizes.extend(objects.map(|object| (object.digest.clone(), object.size)));
        }
        let objects = names
            .into_par_iter()
            .map(|digest| {
                let bytes = sizes.get(&digest).copied().unwrap_or_else(|| bytes_of(&store.place(&digest)));
                (digest, bytes)
            })
            .collect();
        let known = Tasks::read(store);
        let mut results: Vec<Recorded> = records.into_iter().map(|(action, used)| known.result(action, used)).collect();
        results.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { results, objects, ..Self::default() })
    }

    /// Bytes of an object; none if it is not there.
    pub(super) fn bytes(&self, digest: &str) -> u64 {
        self.objects.get(digest).copied().unwrap_or(0)
    }

    /// Whether all outputs of a result are there.
    pub(super) fn is_whole(&self, result: &Recorded) -> bool {
        result.outputs.iter().all(|digest| self.objects.contains_key(digest))
    }

    /// Whether a result is never given up.
    pub(super) fn is_safe(&self, key: &Key) -> bool {
        self.pinned.contains(key) || self.claimed.contains(key)
    }
}

/// Which tasks had which results.
pub(super) struct Tasks {
    pub(super) of: HashMap<Key, Vec<(String, String)>>,
    newest: HashSet<Key>,
}

impl Tasks {
    pub(super) fn read(store: &Store) -> Self {
        let mut tasks = Self { of: HashMap::new(), newest: HashSet::new() };
        for pipeline in store.pipelines() {
            let known = store.known(&pipeline);
            for (task, _) in known.tasks() {
                let keys = known.keys(task);
                tasks.newest.extend(keys.first().map(|key| (*key).clone()));
                for key in keys {
                    tasks.of.entry(key.clone()).or_default().push((pipeline.clone(), task.to_string()));
                }
            }
        }
        tasks
    }

    fn result(&self, action: Action, used: SystemTime) -> Recorded {
        let digests = |objects: &mut dyn Iterator<Item = &Object>| {
            let mut digests: Vec<String> = objects.map(|object| object.digest.clone()).collect();
            digests.sort();
            digests.dedup();
            digests
        };
        Recorded {
            outputs: digests(&mut action.outputs.values()),
            variants: digests(&mut action.variants.iter().flat_map(|variant| variant.outputs.values())),
            seconds: action.seconds,
            used,
            tasks: self.of.get(&action.key).cloned().unwrap_or_default(),
            newest: self.newest.contains(&action.key),
            kind: action.kind,
            key: action.key,
        }
    }
}

impl Store {
    /// Where an object with this digest lies, or would.
    pub(super) fn place(&self, digest: &str) -> PathBuf {
        self.root.join("objects").join(&digest[..2]).join(digest)
    }
}

/// Every record that can be read, and when it was last written or used.
fn records(store: &Store) -> Result<Vec<(Action, SystemTime)>> {
    let found: Vec<Option<(Action, SystemTime)>> =
        record_paths(store).par_iter().map(|(key, path)| read_record(key, path)).collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// A record; nothing if it is gone or torn.
pub(super) fn read_record(key: &Key, path: &Path) -> Result<Option<(Action, SystemTime)>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read the record", path, &e)),
    };
    let used = path.metadata().and_then(|metadata| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
    let action = std::str::from_utf8(&text).ok().and_then(|text| Action::from_text(text, key));
    Ok(action.map(|action| (action, used)))
}

/// Files of records, with the keys that they are named by.
fn record_paths(store: &Store) -> Vec<(Key, PathBuf)> {
    two_deep(&store.root.join("actions")).into_iter().filter_map(record_key).collect()
}

/// A record's file, with the key that it is named by; nothing for other files.
pub(super) fn record_key(path: PathBuf) -> Option<(Key, PathBuf)> {
    Some((Key::parse(name(&path).strip_suffix(".json")?)?, path))
}

/// Names of all objects that are there.
pub(super) fn object_names(store: &Store) -> Vec<String> {
    let paths = two_deep(&store.root.join("objects"));
    paths.iter().map(|path| name(path)).filter(|name| is_digest(name)).collect()
}

pub(super) fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Everything in the folders of a folder.
pub(super) fn two_deep(folder: &Path) -> Vec<PathBuf> {
    entries(folder).iter().flat_map(|folder| entries(folder)).collect()
}

/// Everything in a folder, sorted; nothing if there is no such folder.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// Bytes of a file, or of all files below a folder.
pub(super) fn bytes_of(path: &Path) -> u64 {
    fold(path, 0, &|bytes, metadata| if metadata.is_dir() { bytes } else { bytes + metadata.len() })
}

/// How long ago something was last changed: it itself, or anything below it.
pub(super) fn age(path: &Path, now: SystemTime) -> Duration {
    let changed = fold(path, SystemTime::UNIX_EPOCH, &|newest, metadata| {
        // Who moves a file changes the one time, who writes to it both; copying may set the other back.
        let moved = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        newest.max(moved).max(metadata.modified().unwrap_or(moved))
    });
    now.duration_since(changed).unwrap_or_default()
}

fn fold<T>(path: &Path, start: T, with: &dyn Fn(T, &Metadata) -> T) -> T {
    let Ok(metadata) = path.symlink_metadata() else { return start };
    let folded = with(start, &metadata);
    if !metadata.is_dir() {
        return folded;
    }
    entries(path).iter().fold(folded, |folded, path| fold(path, folded, with))
}
