//! Reads every record and every object in full, trusting neither names nor times nor the memo of digests.

use super::inventory::{Inventory, Tasks, is_digest, name, two_deep};
use crate::cache::{Action, Digests, Key, Store, key};
use crate::error::{Error, Kind, Result};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was found.
#[derive(Debug)]
pub struct Verified {
    pub records: usize,
    pub objects: usize,
    /// Bytes of the objects.
    pub bytes: u64,
    /// Records of which an object is gone: their tasks run again if somebody needs them.
    pub evicted: usize,
    /// Objects that no record names.
    pub orphans: usize,
    pub faults: Vec<Fault>,
}

/// A record or an object that is not what it should be.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `record` or `object`.
    pub what: &'static str,
    pub path: PathBuf,
    pub problem: String,
    /// Tasks whose newest or earlier results it belongs to: (pipeline, task).
    pub tasks: BTreeSet<(String, String)>,
    /// Where it lies now, if it was moved.
    pub moved: Option<PathBuf>,
}

/// Reads everything, with so many threads. `progress` is told the bytes read, of how many. With `repair`, what is bad is
/// moved to where nothing is read from, so that the next run makes it again.
///
/// # Errors
/// If the cache cannot be looked through. What is bad in it is no error here.
pub fn verify(store: &Store, jobs: usize, repair: bool, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified> {
    let inventory = Inventory::of_contents(store)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|e| Error::new(Kind::Io, format!("cannot start threads: {e}")))?;
    let records = visible(store, "actions");
    let objects = visible(store, "objects");
    let tasks = Tasks::read(store);
    let digests = unbelieving(store, repair);
    let (total, done) = (inventory.objects.values().sum(), AtomicU64::new(0));
    let mut faults: Vec<Fault> = pool.install(|| {
        let of_records = records.par_iter().filter_map(|path| check_record(path, &tasks));
        let of_objects = objects.par_iter().filter_map(|path| {
            let fault = check_object(path, &inventory, &digests);
            let bytes = inventory.bytes(&name(path));
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
            fault
        });
        of_records.chain(of_objects).collect()
    });
    if repair {
        faults.iter_mut().try_for_each(|fault| mend(store, fault, &digests))?;
        digests.save()?;
    }
    let evicted = inventory.results.iter().filter(|result| !inventory.is_whole(result)).count();
    let named: HashSet<&String> =
        inventory.results.iter().flat_map(|result| result.outputs.iter().chain(&result.variants)).collect();
    let orphans = inventory.objects.keys().filter(|digest| !named.contains(digest)).count();
    Ok(Verified { records: records.len(), objects: objects.len(), bytes: total, evicted, orphans, faults })
}

/// Digests of which every one is found by reading. If it writes at all, the memo of digests learns what was read.
fn unbelieving(store: &Store, writes: bool) -> Digests {
    let memo = store.root.join("digests");
    let digests = if writes { Digests::open(memo) } else { Digests::read_only(memo) };
    digests.trusted_for(Duration::ZERO)
}

/// Everything in the folders of a folder that is not being written just now.
fn visible(store: &Store, folder: &str) -> Vec<PathBuf> {
    let mut paths = two_deep(&store.root.join(folder));
    paths.retain(|path| !name(path).starts_with('.'));
    paths
}

fn is_in_its_folder(path: &Path) -> bool {
    path.parent().is_some_and(|folder| name(path).starts_with(&name(folder)) && name(folder).len() == 2)
}

fn check_record(path: &Path, tasks: &Tasks) -> Option<Fault> {
    let named = name(path).strip_suffix(".json").and_then(Key::parse);
    let problem = record_problem(path, named.as_ref())?;
    let tasks = named.and_then(|key| tasks.of.get(&key).cloned()).unwrap_or_default().into_iter().collect();
    Some(Fault { what: "record", path: path.to_path_buf(), problem, tasks, moved: None })
}

fn record_problem(path: &Path, named: Option<&Key>) -> Option<String> {
    let Some(named) = named.filter(|_| is_in_its_folder(path)) else {
        return Some("no record has such a name".into());
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(_) if path.symlink_metadata().is_err() => return None,
        Err(e) => return Some(format!("cannot be read: {e}")),
    };
    match std::str::from_utf8(&bytes).ok().and_then(Action::whole) {
        None => Some("is torn or was changed".into()),
        Some(action) if action.key != *named => Some(format!("is that of key {}", action.key)),
        Some(action) if key(&action.lines) != action.key => Some("its key is not made of its lines".into()),
        Some(_) => None,
    }
}

fn check_object(path: &Path, inventory: &Inventory, digests: &Digests) -> Option<Fault> {
    let digest = name(path);
    let problem = object_problem(path, digests)?;
    let owners = inventory.results.iter().filter(|result| result.outputs.contains(&digest));
    let tasks = owners.flat_map(|result| result.tasks.iter().cloned()).collect();
    Some(Fault { what: "object", path: path.to_path_buf(), problem, tasks, moved: None })
}

fn object_problem(path: &Path, digests: &Digests) -> Option<String> {
    let digest = name(path);
    if !is_digest(&digest) || !is_in_its_folder(path) {
        return Some("no object has such a name".into());
    }
    match digests.path(path) {
        Ok(found) if found == digest => None,
        Ok(found) => Some(format!("has blake3 {found}")),
        // `gc` may have removed it meanwhile.
        Err(_) if path.symlink_metadata().is_err() => None,
        Err(e) => Some(e.render("cannot be checked").replace('\n', "; ")),
    }
}

/// Moves what is bad away, unless a run has done so already and put a good one in its place.
fn mend(store: &Store, fault: &mut Fault, digests: &Digests) -> Result<()> {
    let named = name(&fault.path).strip_suffix(".json").and_then(Key::parse);
    let still = match fault.what {
        "record" => record_problem(&fault.path, named.as_ref()),
        _ => object_problem(&fault.path, digests),
    };
    if still.is_some() {
        fault.moved = Some(store.set_aside(&fault.path, &name(&fault.path))?);
    }
    Ok(())
}
