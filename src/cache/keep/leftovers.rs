//! What nothing can use any more: removed by every `gc`, with limits or without.

use super::inventory::{Inventory, age, bytes_of, entries, name, two_deep};
use super::item::{Item, What, Why};
use crate::cache::{Key, Store};
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long unfinished work may be gone on from.
const RESUMABLE: Duration = DAY.saturating_mul(14);
/// How long what was damaged may be looked into.
const DAMAGED: Duration = DAY.saturating_mul(30);

/// What is younger may be in the making.
pub const GRACE: Duration = Duration::from_secs(60 * 60);

/// Finds leftovers.
pub(super) struct Finder<'a> {
    pub(super) store: &'a Store,
    pub(super) inventory: &'a Inventory,
    /// For objects, which are safe without any: whoever puts one there holds the cache until a record names it.
    pub(super) grace: Duration,
    pub(super) now: SystemTime,
}

impl Finder<'_> {
    /// Everything that nothing can use.
    pub(super) fn find(&self) -> Vec<Item> {
        [self.objects(), self.scratch(), self.work(), self.asides(), self.damaged(), self.trash()].concat()
    }

    fn item(&self, what: What, why: Why, path: PathBuf) -> Item {
        let shown = path.strip_prefix(&self.store.root).unwrap_or(&path).display().to_string();
        Item { what, why, name: shown, key: None, bytes: bytes_of(&path), seconds: 0.0, paths: vec![path] }
    }

    /// Objects that are no result's.
    fn objects(&self) -> Vec<Item> {
        let results = &self.inventory.results;
        let used: HashSet<&String> = results.iter().flat_map(|result| &result.outputs).collect();
        let variants: HashSet<&String> = results.iter().flat_map(|result| &result.variants).collect();
        let mut unused: Vec<&String> = self.inventory.objects.keys().filter(|digest| !used.contains(digest)).collect();
        unused.sort();
        let old = unused.into_iter().filter(|digest| age(&self.store.place(digest), self.now) > self.grace);
        old.map(|digest| {
            let why = if variants.contains(digest) { Why::Variant } else { Why::Unnamed };
            let bytes = self.inventory.bytes(digest);
            let paths = vec![self.store.place(digest)];
            Item { what: What::Object, why, name: digest[..12].into(), key: None, bytes, seconds: 0.0, paths }
        })
        .collect()
    }

    /// Unfinished work that nobody goes on from.
    fn scratch(&self) -> Vec<Item> {
        let folder = self.store.root.join("scratch");
        let names = entries(&folder).into_iter().map(|path| name(&path));
        let keys: BTreeSet<Key> = names.filter_map(|name| Key::parse(name.split('.').next()?)).collect();
        let whole = self.inventory.results.iter().filter(|result| self.inventory.is_whole(result));
        let whole: HashSet<&Key> = whole.map(|result| &result.key).collect();
        let item = |key: Key| {
            let path = self.store.scratch(&key);
            let beside = ["owner", "lock"].map(|end| age(&path.with_extension(end), self.now));
            let age = beside.into_iter().fold(age(&path, self.now), Duration::min);
            let why = match age {
                age if age > RESUMABLE => Why::Forgotten(age),
                age if age > GRACE && whole.contains(&key) => Why::Done,
                _ => return None,
            };
            let item = self.item(What::Resume, why, path);
            (!self.store.is_locked(&key)).then_some(Item { key: Some(key), ..item })
        };
        keys.into_iter().filter_map(item).collect()
    }

    /// Folders that processes worked in which are gone.
    fn work(&self) -> Vec<Item> {
        let folder = self.store.root.join("tmp");
        let folders = entries(&folder).into_iter().filter(|path| !name(path).ends_with(".lock"));
        let is_left = |path: &PathBuf| match File::open(path.with_extension("lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            // Its process died before it could show its lock; or it is about to.
            Err(_) => age(path, self.now) > GRACE,
        };
        let with_lock = |path: PathBuf| {
            let lock = path.with_extension("lock");
            let mut item = self.item(What::Leftover, Why::Left, path);
            item.paths.push(lock);
            item
        };
        folders.filter(is_left).map(with_lock).collect()
    }

    /// Files that were to be renamed to what they are.
    fn asides(&self) -> Vec<Item> {
        let root = &self.store.root;
        let mut paths = two_deep(&root.join("actions"));
        for folder in [root.clone(), root.join("known"), root.join("scratch")] {
            paths.extend(entries(&folder));
        }
        let is_aside = |path: &PathBuf| name(path).starts_with('.') && name(path).ends_with(".tmp");
        let left = paths.into_iter().filter(is_aside).filter(|path| age(path, self.now) > GRACE);
        left.map(|path| self.item(What::Leftover, Why::Left, path)).collect()
    }

    fn damaged(&self) -> Vec<Item> {
        let paths = entries(&self.store.root.join("damaged")).into_iter();
        let aged = paths.map(|path| (age(&path, self.now), path)).filter(|(age, _)| *age > DAMAGED);
        aged.map(|(age, path)| self.item(What::Damaged, Why::Damaged(age), path)).collect()
    }

    /// What an earlier `gc` had moved away and not removed.
    fn trash(&self) -> Vec<Item> {
        let paths = entries(&trash(self.store)).into_iter();
        paths.map(|path| self.item(What::Leftover, Why::Left, path)).collect()
    }
}

/// Where things lie that are about to be removed.
pub(super) fn trash(store: &Store) -> PathBuf {
    store.root.join("trash")
}

/// Removes a file or a folder, whatever rights the folders in it have.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.is_dir() {
        return std::fs::remove_file(path);
    }
    if std::fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.permissions().mode() | 0o700))?;
    for entry in entries(path) {
        remove(&entry)?;
    }
    std::fs::remove_dir(path)
}
