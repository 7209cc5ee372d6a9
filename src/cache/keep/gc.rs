//! Frees room: what nothing can use goes always, what could be made again as far as limits ask for it.
//!
//! What is to go is chosen without keeping anybody waiting. It is then moved to `trash/` in small batches, each of them
//! alone with the cache: what a run has found, published or locked since the choice is left where it is. What lies in
//! `trash/` is out of everyone's sight and removed; what a `gc` that is killed leaves there, the next one removes.

use super::choose::{Demand, Given, Part, choose};
use super::inventory::{Inventory, Recorded, entries, name, read_record, record_key, two_deep};
use super::item::{Item, What, Why};
use super::leftovers::{Finder, GRACE, remove, trash};
use super::limits::Limits;
use super::usage::total;
use crate::cache::hold::Alone;
use crate::cache::{Key, Store, unique};
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub limits: Limits,
    /// Objects that no record names and that are younger stay.
    pub grace: Duration,
    /// Find what would go, and change nothing.
    pub dry_run: bool,
    pub now: SystemTime,
}

/// What went, or would go.
#[derive(Debug, Default)]
pub struct Freed {
    pub items: Vec<Item>,
    /// Bytes of the whole cache, before and after.
    pub before: u64,
    pub after: u64,
    /// Bytes by which the limits are still exceeded.
    pub short_by: u64,
    /// Bytes of results that are pinned or in use.
    pub safe: u64,
    /// What could not be removed.
    pub failures: Vec<Error>,
}

/// How many things are moved away while others wait.
const BATCH: usize = 64;

/// Frees room; `waits` is told for what, when that takes its time.
pub fn gc(store: &Store, request: &Request, waits: &dyn Fn(&str)) -> Result<Freed> {
    if !store.root.is_dir() {
        return Ok(Freed::default());
    }
    if request.dry_run {
        return Ok(plan(store, &Inventory::take(store)?, request));
    }
    let path = store.root.join("gc.lock");
    let lock = open_lock(&path)?;
    if lock.try_lock().is_err() {
        waits("another `gc`");
        lock.lock().map_err(|e| Error::io("lock", &path, &e))?;
    }
    locked(store, request, lock, waits)
}

/// Keeps a cache to its limits at the end of a run: at most daily, and not if another `gc` is at work or there are no
/// limits. What this process has claimed is in use.
pub fn gc_after_run(store: &Store, limits: Limits) -> Result<Option<Freed>> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let request = Request { limits, grace: GRACE, dry_run: false, now: SystemTime::now() };
    let path = store.root.join("gc.lock");
    let last = path.metadata().and_then(|metadata| metadata.modified());
    let is_recent = last.is_ok_and(|last| request.now.duration_since(last).unwrap_or_default() < DAY);
    if limits.is_none() || is_recent {
        return Ok(None);
    }
    let lock = open_lock(&path)?;
    if lock.try_lock().is_err() {
        return Ok(None);
    }
    locked(store, &request, lock, &|_| {}).map(Some)
}

fn open_lock(path: &Path) -> Result<File> {
    // Not emptied: its time is that of the last `gc`, and this one may not get the lock.
    let file = File::options().create(true).truncate(false).write(true).open(path);
    file.map_err(|e| Error::io("make the lock", path, &e))
}

fn locked(store: &Store, request: &Request, mut lock: File, waits: &dyn Fn(&str)) -> Result<Freed> {
    let path = store.root.join("gc.lock");
    // The time is the file system's own, which may differ from this machine's and is what its files will have.
    let since = lock.set_len(0).and_then(|()| lock.write_all(b"gc\n")).and_then(|()| lock.metadata()?.modified());
    let since = since.map_err(|e| Error::io("write", &path, &e))?;
    let trash = trash(store);
    std::fs::create_dir_all(&trash).map_err(|e| Error::io("make the folder", &trash, &e))?;
    let inventory = Inventory::take(store)?;
    let plan = plan(store, &inventory, request);
    let mut sweep = Sweep { store, inventory: &inventory, since, gone: vec![], failures: vec![] };
    for batch in plan.items.chunks(BATCH) {
        sweep.batch(batch, waits)?;
    }
    let Sweep { gone, failures, .. } = sweep;
    let after = plan.before - bytes_of_all(&gone);
    Ok(Freed { after, items: gone, short_by: request.limits.exceeded_by(after, available(store)), failures, ..plan })
}

fn bytes_of_all(items: &[Item]) -> u64 {
    items.iter().map(|item| item.bytes).sum()
}

/// What is to go, as things stand.
fn plan(store: &Store, inventory: &Inventory, request: &Request) -> Freed {
    let Request { limits, grace, now, .. } = *request;
    let mut items = Finder { store, inventory, grace, now }.find();
    let (before, available) = (total(store, inventory), available(store));
    let over = |freed: u64| limits.exceeded_by(before - freed, available + freed);
    let (paths, parts) = parts(store);
    let demand = Demand { bytes: over(bytes_of_all(&items)), max_age: limits.max_age.map(|age| age.0), now };
    for given in choose(inventory, &parts, &demand) {
        items.push(match given {
            Given::Part { index, why } => Item {
                what: What::Part,
                why,
                name: name(&paths[index])[..12].to_string(),
                key: None,
                bytes: parts[index].bytes,
                seconds: 0.0,
                paths: vec![paths[index].clone()],
            },
            Given::Result { index, why, objects } => {
                given_up(store, inventory, &inventory.results[index], why, &objects)
            }
        });
    }
    let safe: HashSet<&String> =
        inventory.results.iter().filter(|result| inventory.is_safe(&result.key)).flat_map(|r| &r.outputs).collect();
    Freed {
        before,
        after: before - bytes_of_all(&items),
        short_by: over(bytes_of_all(&items)),
        safe: safe.into_iter().map(|digest| inventory.bytes(digest)).sum(),
        failures: vec![],
        items,
    }
}

fn given_up(store: &Store, inventory: &Inventory, result: &Recorded, why: Why, objects: &[String]) -> Item {
    let name = match result.tasks.as_slice() {
        [] => format!("{} {}", result.kind, result.key.short()),
        [(pipeline, task)] => format!("{pipeline}: {task}"),
        [(pipeline, task), others @ ..] => format!("{pipeline}: {task} and {} more", others.len()),
    };
    Item {
        what: What::Result,
        why,
        name,
        key: Some(result.key.clone()),
        bytes: objects.iter().map(|digest| inventory.bytes(digest)).sum(),
        seconds: if inventory.is_whole(result) { result.seconds } else { 0.0 },
        paths: objects.iter().map(|digest| store.place(digest)).collect(),
    }
}

/// Stored parts of codes.
fn parts(store: &Store) -> (Vec<PathBuf>, Vec<Part>) {
    let paths = two_deep(&store.root.join("shards")).into_iter().filter(|path| name(path).len() >= 12);
    let part = |path: PathBuf| {
        let metadata = path.metadata().ok()?;
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Some((path, Part { bytes: metadata.len(), used }))
    };
    paths.filter_map(part).unzip()
}

/// Bytes that are free on the cache's disk for this user; more than any limit asks for, if that cannot be told.
fn available(store: &Store) -> u64 {
    // Systems differ in how wide these numbers are.
    fn wide(n: impl Into<u64>) -> u64 {
        n.into()
    }
    let told = nix::sys::statvfs::statvfs(&store.root);
    told.map_or(u64::MAX / 2, |disk| wide(disk.blocks_available()) * wide(disk.fragment_size()))
}

/// Moves things away and removes them.
struct Sweep<'a> {
    store: &'a Store,
    inventory: &'a Inventory,
    /// When the look at the cache began.
    since: SystemTime,
    gone: Vec<Item>,
    failures: Vec<Error>,
}

/// What has come into use since the choice was made.
struct InUse {
    keys: HashSet<Key>,
    digests: HashSet<String>,
}

impl Sweep<'_> {
    fn batch(&mut self, items: &[Item], waits: &dyn Fn(&str)) -> Result<()> {
        let mut moved = vec![];
        {
            let alone = self.store.alone(&|| waits("a run to write down what it uses"))?;
            let in_use = self.in_use(&alone)?;
            for item in items {
                self.move_away(item, &in_use, &mut moved);
            }
        }
        for path in moved {
            if let Err(e) = remove(&path) {
                self.failures.push(Error::io("remove", &path, &e));
            }
        }
        Ok(())
    }

    /// What live processes use, and what was published since the choice was made.
    fn in_use(&self, alone: &Alone) -> Result<InUse> {
        let keys: HashSet<Key> = self.store.claims(Some(alone))?.into_iter().collect();
        let mut digests = HashSet::new();
        for key in &keys {
            match self.chosen_from(key) {
                Some(outputs) => digests.extend(outputs.iter().cloned()),
                None => digests.extend(outputs(key, &self.store.action_path(key))?),
            }
        }
        for (key, path) in self.new_records() {
            let outputs = outputs(&key, &path)?;
            if self.chosen_from(&key) != Some(outputs.as_slice()) {
                digests.extend(outputs);
            }
        }
        Ok(InUse { keys, digests })
    }

    /// Outputs of a result as they were when the choice was made.
    fn chosen_from(&self, key: &Key) -> Option<&[String]> {
        let results = &self.inventory.results;
        let found = results.binary_search_by(|result| result.key.cmp(key));
        found.ok().map(|index| results[index].outputs.as_slice())
    }

    /// Records that may be younger than the look at the cache, by their times, which may be coarse.
    fn new_records(&self) -> Vec<(Key, PathBuf)> {
        const COARSE: Duration = Duration::from_secs(2);
        let is_new = |path: &Path| {
            let changed = path.metadata().and_then(|metadata| metadata.modified());
            changed.is_ok_and(|changed| changed + COARSE >= self.since)
        };
        let folders = entries(&self.store.root.join("actions")).into_iter().filter(|folder| is_new(folder));
        let paths = folders.flat_map(|folder| entries(&folder)).filter(|path| is_new(path));
        paths.filter_map(record_key).collect()
    }

    fn move_away(&mut self, item: &Item, in_use: &InUse, moved: &mut Vec<PathBuf>) {
        // Held until the thing is moved: of unfinished work, the key's; of a work folder, its own.
        let _lock = match (item.what, &item.key) {
            (What::Result, Some(key)) if in_use.keys.contains(key) || self.store.is_locked(key) => return,
            (What::Resume, Some(key)) => match self.store.try_lock(key) {
                Ok(Some(lock)) => Some(lock),
                _ => return,
            },
            _ => None,
        };
        let mut bytes = 0;
        let mut any = false;
        for path in &item.paths {
            if matches!(item.what, What::Result | What::Object) && in_use.digests.contains(&name(path)) {
                continue;
            }
            match self.to_trash(path) {
                Ok(None) => {}
                Ok(Some(aside)) => {
                    any = true;
                    bytes += if item.what == What::Result { self.inventory.bytes(&name(path)) } else { 0 };
                    moved.push(aside);
                }
                Err(e) => self.failures.push(Error::io("move away", path, &e).hint(
                    "a cache that several people use needs a common group, folders with its `setgid` bit, and `umask 002`",
                )),
            }
        }
        if let (What::Resume, Some(key)) = (item.what, &item.key) {
            self.store.remove_lock(key);
        }
        if any {
            let bytes = if item.what == What::Result { bytes } else { item.bytes };
            self.gone.push(Item { bytes, ..item.clone() });
        }
    }

    /// Moves something out of everyone's sight, if it is there. Gives where it lies now.
    fn to_trash(&self, path: &Path) -> std::io::Result<Option<PathBuf>> {
        let trash = trash(self.store);
        if path.parent() == Some(&trash) {
            return Ok(Some(path.to_path_buf()));
        }
        let aside = trash.join(format!("{}-{}-{}", name(path), std::process::id(), unique()));
        match std::fs::rename(path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Digests of a record's outputs, sorted, each once; none if there is no such record.
fn outputs(key: &Key, path: &Path) -> Result<Vec<String>> {
    let action = read_record(key, path)?.map(|(action, _)| action);
    let outputs: BTreeSet<String> =
        action.into_iter().flat_map(|action| action.outputs.into_values()).map(|object| object.digest).collect();
    Ok(outputs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Line, Outputs, Variant, key};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn request(now: SystemTime) -> Request {
        Request { limits: Limits::default(), grace: Duration::from_millis(1), dry_run: false, now }
    }

    fn later(days: u32) -> SystemTime {
        SystemTime::now() + days * DAY
    }

    /// Puts files with these texts into the cache.
    fn put(store: &Store, texts: &[&str]) -> Outputs {
        let work = store.workspace().unwrap();
        let names: Vec<String> = (0..texts.len()).map(|n| format!("{n}")).collect();
        for (name, text) in names.iter().zip(texts) {
            std::fs::write(work.path().join(name), text).unwrap();
        }
        store.put_outputs(work.path(), &names, false).unwrap()
    }

    /// Publishes a result with a key made of `part`.
    fn publish(store: &Store, part: &str, outputs: Outputs, other: Option<Outputs>) -> Key {
        let lines = vec![Line { name: "part".into(), value: part.into() }];
        let variant = |outputs| Variant { outputs, metrics: Default::default(), made: 0, run: String::new() };
        let action = crate::cache::Action {
            key: key(&lines),
            lines,
            kind: "command".into(),
            outputs,
            varies: vec![],
            metrics: Default::default(),
            facts: Default::default(),
            warnings: vec![],
            seconds: 1.0,
            usage: None,
            threads: 1,
            gpus: vec![],
            gpu_memory: None,
            host: String::new(),
            made: 0,
            run: String::new(),
            log: String::new(),
            boot: None,
            variants: other.map(variant).into_iter().collect(),
        };
        store.commit(&action).unwrap();
        action.key
    }

    fn is_there(store: &Store, outputs: &Outputs) -> bool {
        outputs.values().all(|object| store.object_path(object).exists())
    }

    #[test]
    fn what_was_published_since_the_choice_stays() {
        let folder = tempfile::tempdir().unwrap();
        let gc = Store::open(folder.path()).unwrap();
        let [again, never] = ["again", "never"].map(|text| put(&gc, &[text]));
        let inventory = Inventory::take(&gc).unwrap();
        let plan = plan(&gc, &inventory, &request(later(1)));
        assert_eq!(plan.items.len(), 2);
        std::fs::create_dir_all(trash(&gc)).unwrap();
        // A run that begins and ends meanwhile gives the very bytes that lay there of no use.
        let run = Store::open(folder.path()).unwrap();
        let outputs = put(&run, &["again"]);
        publish(&run, "a", outputs, None);
        drop(run);
        let since = SystemTime::now();
        let mut sweep = Sweep { store: &gc, inventory: &inventory, since, gone: vec![], failures: vec![] };
        sweep.batch(&plan.items, &|_| {}).unwrap();
        assert!(is_there(&gc, &again) && !is_there(&gc, &never));
        assert_eq!(sweep.gone.len(), 1);
    }

    #[test]
    fn what_a_key_gave_later_goes_and_what_it_gave_first_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [first, later_one] = [["a", "same"], ["b", "same"]].map(|texts| put(&store, &texts));
        publish(&store, "x", first.clone(), Some(later_one.clone()));
        let freed = gc(&store, &request(later(1)), &|_| {}).unwrap();
        assert_eq!(
            freed.items.iter().map(Item::because).collect::<Vec<_>>(),
            ["its key's first result is used instead"]
        );
        assert!(is_there(&store, &first) && !is_there(&store, &later_one));
    }

    #[test]
    fn unfinished_work_may_be_gone_on_from_for_two_weeks() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let done = publish(&store, "done", put(&store, &["x"]), None);
        let evicted = publish(&store, "evicted", put(&store, &["y"]), None);
        std::fs::remove_file(store.object_path(&store.action(&evicted).unwrap().outputs["0"])).unwrap();
        let [left, locked] = ["1", "2"].map(|digit| Key::parse(&digit.repeat(64)).unwrap());
        let all = [&done, &evicted, &left, &locked];
        for key in all {
            std::fs::create_dir_all(store.scratch(key)).unwrap();
            std::fs::write(store.scratch(key).join("epoch"), "7").unwrap();
        }
        let _lock = store.try_lock(&locked).unwrap();
        let there = || all.map(|key| store.scratch(key).exists());
        gc(&store, &request(later(13)), &|_| {}).unwrap();
        assert_eq!(there(), [false, true, true, true]);
        gc(&store, &request(later(15)), &|_| {}).unwrap();
        assert_eq!(there(), [false, false, false, true]);
    }

    #[test]
    fn what_may_be_in_the_making_is_left_for_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let paths =
            ["tmp/1-no-lock/outputs", "actions/ab/.1-2.tmp", "known/.1-2.tmp"].map(|name| store.root.join(name));
        for path in &paths {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "half").unwrap();
        }
        gc(&store, &request(SystemTime::now() + Duration::from_secs(3500)), &|_| {}).unwrap();
        assert!(paths.iter().all(|path| path.exists()));
        gc(&store, &request(SystemTime::now() + Duration::from_secs(3700)), &|_| {}).unwrap();
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn what_was_damaged_may_be_looked_into_for_a_month() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let damaged = store.root.join("damaged/x");
        std::fs::write(&damaged, "x").unwrap();
        for (days, stays) in [(29, true), (31, false)] {
            gc(&store, &request(later(days)), &|_| {}).unwrap();
            assert_eq!(damaged.exists(), stays, "{days} days");
        }
    }
}
