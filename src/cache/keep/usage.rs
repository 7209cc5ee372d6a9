//! What the cache holds, by pipeline and stage, and by what it is for.

use super::inventory::{Inventory, Recorded, bytes_of, entries, two_deep};
use super::leftovers::Finder;
use crate::cache::Store;
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

/// What a cache holds.
#[derive(Debug)]
pub struct Usage {
    pub stages: Vec<StageUsage>,
    /// Objects that several of them have: number and bytes.
    pub shared: (usize, u64),
    /// Objects that no result consists of: number and bytes.
    pub unused: (usize, u64),
    /// Everything that is no object: (what it is, number, bytes).
    pub others: Vec<(&'static str, usize, u64)>,
    pub total: u64,
    /// Bytes that nothing can use any more.
    pub free: u64,
    /// Bytes of results that are no task's newest and not pinned.
    pub superseded: u64,
    pub pinned: u64,
}

/// What the results of one stage in one pipeline take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageUsage {
    /// Empty if no pipeline knows it.
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    /// Results that are there.
    pub results: usize,
    /// Results of which only the record is there.
    pub evicted: usize,
    /// Bytes of objects that are this stage's alone.
    pub own: u64,
    /// Bytes of objects that other stages have too.
    pub shared: u64,
}

/// Counts everything.
pub fn usage(store: &Store, grace: Duration, now: SystemTime) -> Result<Usage> {
    let inventory = Inventory::take(store)?;
    let leftovers = Finder { store, inventory: &inventory, grace, now }.find();
    let owners = owners(&inventory);
    let sum = |of: &dyn Fn(&BTreeSet<Owner>) -> bool| {
        let objects = owners.iter().filter(|(_, owners)| of(owners));
        objects.fold((0, 0), |(n, bytes), (digest, _)| (n + 1, bytes + inventory.bytes(digest)))
    };
    let unused = inventory.objects.iter().filter(|(digest, _)| !owners.contains_key(digest.as_str()));
    let bytes_where = |of: &dyn Fn(&Recorded) -> bool| {
        let digests: BTreeSet<&String> = inventory.results.iter().filter(|r| of(r)).flat_map(|r| &r.outputs).collect();
        digests.into_iter().map(|digest| inventory.bytes(digest)).sum::<u64>()
    };
    let wanted = |result: &Recorded| result.newest || inventory.pinned.contains(&result.key);
    Ok(Usage {
        stages: stages(&inventory, &owners),
        shared: sum(&|owners| owners.len() > 1),
        unused: unused.fold((0, 0), |(n, bytes), (_, more)| (n + 1, bytes + more)),
        others: others(store),
        total: total(store, &inventory),
        free: leftovers.iter().map(|item| item.bytes).sum(),
        superseded: bytes_where(&|_| true) - bytes_where(&wanted),
        pinned: bytes_where(&|result| inventory.pinned.contains(&result.key)),
    })
}

/// Bytes of everything in a cache.
pub(super) fn total(store: &Store, inventory: &Inventory) -> u64 {
    let others: u64 = others(store).iter().map(|(_, _, bytes)| bytes).sum();
    inventory.objects.values().sum::<u64>() + others
}

/// Everything but the objects.
fn others(store: &Store) -> Vec<(&'static str, usize, u64)> {
    const FOLDERS: [(&str, &str); 9] = [
        ("actions", "records"),
        ("shards", "parts of codes"),
        ("longer", "notes for longer trainings"),
        ("scratch", "resume states"),
        ("runs", "runs and logs"),
        ("known", "histories of tasks"),
        ("damaged", "damaged"),
        ("tmp", "work in progress"),
        ("trash", "on its way out"),
    ];
    let mut others: Vec<(&str, usize, u64)> = FOLDERS
        .iter()
        .map(|(folder, what)| {
            let path = store.root.join(folder);
            let count = match *folder {
                "actions" | "shards" | "longer" => two_deep(&path).len(),
                "runs" => entries(&path).iter().filter(|run| run.join("run.json").exists()).count(),
                _ => entries(&path).iter().filter(|path| path.extension().is_none()).count(),
            };
            (*what, count, bytes_of(&path))
        })
        .collect();
    others.push(("memo of digests", 1, bytes_of(&store.root.join("digests"))));
    others.retain(|(_, _, bytes)| *bytes > 0);
    others
}

/// Pipeline, stage and kind.
type Owner = (String, String, String);

/// Which stages have which objects.
fn owners(inventory: &Inventory) -> HashMap<&str, BTreeSet<Owner>> {
    let mut owners: HashMap<&str, BTreeSet<Owner>> = HashMap::new();
    for result in &inventory.results {
        for digest in result.outputs.iter().filter(|digest| inventory.objects.contains_key(*digest)) {
            owners.entry(digest).or_default().extend(owners_of(result));
        }
    }
    owners
}

fn owners_of(result: &Recorded) -> Vec<Owner> {
    let stage = |task: &str| task.split('@').next().unwrap_or(task).to_string();
    let mut owners: Vec<Owner> =
        result.tasks.iter().map(|(pipeline, task)| (pipeline.clone(), stage(task), result.kind.clone())).collect();
    owners.dedup();
    if owners.is_empty() {
        owners.push((String::new(), String::new(), result.kind.clone()));
    }
    owners
}

fn stages(inventory: &Inventory, owners: &HashMap<&str, BTreeSet<Owner>>) -> Vec<StageUsage> {
    let mut stages: BTreeMap<Owner, StageUsage> = BTreeMap::new();
    let blank = |(pipeline, stage, kind): &Owner| StageUsage {
        pipeline: pipeline.clone(),
        stage: stage.clone(),
        kind: kind.clone(),
        results: 0,
        evicted: 0,
        own: 0,
        shared: 0,
    };
    for result in &inventory.results {
        for owner in owners_of(result) {
            let row = stages.entry(owner.clone()).or_insert_with(|| blank(&owner));
            let counter = if inventory.is_whole(result) { &mut row.results } else { &mut row.evicted };
            *counter += 1;
        }
    }
    for (digest, owners) in owners {
        for owner in owners {
            let Some(row) = stages.get_mut(owner) else { continue };
            let bytes = if owners.len() > 1 { &mut row.shared } else { &mut row.own };
            *bytes += inventory.bytes(digest);
        }
    }
    stages.into_values().collect()
}
