//! Which results are given up when room is needed.
//!
//! Those not used for too long, all of them; then, until enough is free, results of which the task has a newer one, then
//! stored parts of codes, then the newest results; each time the ones first that give the most room for the least work,
//! and of equals those that were used longest ago. An object goes when every result that names it does.

use super::inventory::{Inventory, Recorded};
use super::item::Why;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// Codes of a part of a list, kept beside the results.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// What asks for room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Bytes to free.
    pub(super) bytes: u64,
    /// What was used longer ago is not kept.
    pub(super) max_age: Option<Duration>,
    pub(super) now: SystemTime,
}

/// Something that is given up, by its place in the inventory or among the parts.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    Result { index: usize, why: Why, objects: Vec<String> },
    Part { index: usize, why: Why },
}

/// Something that may be given up.
struct Step {
    what: What,
    why: Why,
    /// Seconds of work per byte.
    price: f64,
    used: SystemTime,
}

#[derive(Clone, Copy)]
enum What {
    Result(usize),
    Part(usize),
}

/// Chooses what is given up, in order.
pub(super) fn choose(inventory: &Inventory, parts: &[Part], demand: &Demand) -> Vec<Given> {
    let mut holders: HashMap<&str, usize> = HashMap::new();
    for digest in inventory.results.iter().flat_map(|result| &result.outputs) {
        *holders.entry(digest).or_default() += 1;
    }
    let mut freed = 0;
    let mut given: Vec<Given> = vec![];
    for step in steps(inventory, parts, demand, &holders) {
        if freed >= demand.bytes && !matches!(step.why, Why::Old(_)) {
            break;
        }
        let why = step.why;
        match step.what {
            What::Part(index) => {
                freed += parts[index].bytes;
                given.push(Given::Part { index, why });
            }
            What::Result(index) => {
                let objects = let_go(&inventory.results[index], inventory, &mut holders);
                freed += objects.iter().map(|digest| inventory.bytes(digest)).sum::<u64>();
                given.push(Given::Result { index, why, objects });
            }
        }
    }
    without_unharmed(given, inventory)
}

/// Takes a result off its objects. Gives those that nobody else holds.
fn let_go(result: &Recorded, inventory: &Inventory, holders: &mut HashMap<&str, usize>) -> Vec<String> {
    let mut objects = vec![];
    for digest in &result.outputs {
        let Some(count) = holders.get_mut(digest.as_str()) else { continue };
        *count -= 1;
        if *count == 0 && inventory.objects.contains_key(digest) {
            objects.push(digest.clone());
        }
    }
    objects
}

/// A result all of whose objects are held by others as well is still there.
fn without_unharmed(given: Vec<Given>, inventory: &Inventory) -> Vec<Given> {
    let freed: HashSet<String> = given
        .iter()
        .flat_map(|given| match given {
            Given::Result { objects, .. } => objects.clone(),
            Given::Part { .. } => vec![],
        })
        .collect();
    let is_harmed = |given: &Given| match given {
        Given::Result { index, .. } => inventory.results[*index].outputs.iter().any(|digest| freed.contains(digest)),
        Given::Part { .. } => true,
    };
    given.into_iter().filter(is_harmed).collect()
}

/// Everything that may be given up, the first to go first.
fn steps(inventory: &Inventory, parts: &[Part], demand: &Demand, holders: &HashMap<&str, usize>) -> Vec<Step> {
    let old = |used: SystemTime| {
        let age = demand.now.duration_since(used).unwrap_or_default();
        demand.max_age.filter(|most| age > *most).map(|_| Why::Old(age))
    };
    let results = inventory.results.iter().enumerate().filter(|(_, result)| !inventory.is_safe(&result.key));
    let results = results.filter_map(|(index, result)| {
        // A part of a shared object, so that what is shared does not look like much room.
        let share = |digest: &String| inventory.bytes(digest) as f64 / holders[digest.as_str()].max(1) as f64;
        let bytes: f64 = result.outputs.iter().map(share).sum();
        if !result.outputs.iter().any(|digest| inventory.objects.contains_key(digest)) {
            return None;
        }
        let kept = if result.newest { Why::Room } else { Why::Superseded };
        // Of what is not whole, everything must be made again as it is.
        let seconds = if inventory.is_whole(result) { result.seconds } else { 0.0 };
        let price = seconds / bytes.max(1.0);
        Some(Step { what: What::Result(index), why: old(result.used).unwrap_or(kept), price, used: result.used })
    });
    let parts = parts.iter().enumerate().map(|(index, part)| {
        let why = old(part.used).unwrap_or(Why::Room);
        Step { what: What::Part(index), why, price: 0.0, used: part.used }
    });
    let mut steps: Vec<Step> = results.chain(parts).collect();
    steps.sort_by(|a, b| a.rank().cmp(&b.rank()).then(a.price.total_cmp(&b.price)).then(a.used.cmp(&b.used)));
    steps
}

impl Step {
    fn rank(&self) -> u8 {
        match (self.why, self.what) {
            (Why::Old(_), _) => 0,
            (Why::Superseded, _) => 1,
            (_, What::Part(_)) => 2,
            (_, What::Result(_)) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Key;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1_000 * DAY
    }

    fn key(n: usize) -> Key {
        Key::parse(&format!("{n:064x}")).unwrap()
    }

    /// A result that took so many seconds, with these objects of 10 bytes each.
    fn result(n: usize, newest: bool, seconds: f64, days: u32, outputs: &[&str]) -> Recorded {
        Recorded {
            key: key(n),
            kind: "command".into(),
            outputs: outputs.iter().map(ToString::to_string).collect(),
            variants: vec![],
            seconds,
            used: now() - days * DAY,
            tasks: vec![],
            newest,
        }
    }

    fn inventory(results: Vec<Recorded>) -> Inventory {
        let objects = results.iter().flat_map(|result| result.outputs.clone()).map(|digest| (digest, 10)).collect();
        Inventory { results, objects, ..Inventory::default() }
    }

    /// Positions of the results given up for so many bytes.
    fn given(inventory: &Inventory, bytes: u64, max_age: Option<Duration>) -> Vec<usize> {
        let parts = [];
        let given = choose(inventory, &parts, &Demand { bytes, max_age, now: now() });
        let index = |given| match given {
            Given::Result { index, .. } => index,
            Given::Part { index, .. } => 1_000 + index,
        };
        given.into_iter().map(index).collect()
    }

    #[test]
    fn older_results_go_first_then_cheap_ones_then_those_long_unused() {
        let all = inventory(vec![
            result(0, true, 1.0, 1, &["a"]),
            result(1, false, 100.0, 1, &["b"]),
            result(2, true, 2.0, 1, &["c"]),
            result(3, false, 5.0, 1, &["d"]),
            result(4, false, 5.0, 9, &["e"]),
        ]);
        assert_eq!(given(&all, 1_000, None), [4, 3, 1, 0, 2]);
        assert_eq!(given(&all, 11, None), [4, 3]);
        assert_eq!(given(&all, 0, None), [0; 0]);
        assert_eq!(given(&all, 0, Some(5 * DAY)), [4]);
        let parts = [Part { bytes: 7, used: now() }];
        let order = choose(&all, &parts, &Demand { bytes: 1_000, max_age: None, now: now() });
        assert_eq!(order[3], Given::Part { index: 0, why: Why::Room });
    }

    #[test]
    fn what_is_shared_goes_with_its_last_holder() {
        let mut all = inventory(vec![
            result(0, false, 1.0, 1, &["shared"]),
            result(1, false, 2.0, 1, &["shared", "own"]),
            result(2, true, 3.0, 1, &["shared"]),
        ]);
        assert_eq!(given(&all, 10, None), [1], "only `own` is free; the first result is still there");
        assert_eq!(given(&all, 20, None), [0, 1, 2]);
        all.pinned.insert(key(2));
        assert_eq!(given(&all, 1_000, None), [1]);
        all.objects.remove("own");
        assert_eq!(given(&all, 1_000, None), [0; 0]);
    }

    proptest! {
        #[test]
        fn nothing_safe_is_lost_and_no_more_than_needed(
            results in prop::collection::vec((any::<bool>(), 0u32..50, 0u32..99, prop::collection::vec(0usize..12, 1..4)), 1..12),
            safe in prop::collection::vec(0usize..12, 0..4),
            bytes in 0u64..200,
        ) {
            let names: Vec<String> = (0..12).map(|n| format!("{n}")).collect();
            let made = results.iter().enumerate().map(|(n, (newest, seconds, days, objects))| {
                let mut objects: Vec<&str> = objects.iter().map(|object| names[*object].as_str()).collect();
                objects.sort_unstable();
                objects.dedup();
                result(n, *newest, f64::from(*seconds), *days, &objects)
            });
            let mut all = inventory(made.collect());
            all.pinned = safe.iter().map(|n| key(*n)).collect();
            let given = choose(&all, &[], &Demand { bytes, max_age: None, now: now() });
            let mut freed: Vec<&String> = vec![];
            let mut lost = HashSet::new();
            for given in &given {
                let Given::Result { index, objects, .. } = given else { continue };
                lost.insert(*index);
                freed.extend(objects);
            }
            let distinct: HashSet<&String> = freed.iter().copied().collect();
            prop_assert_eq!(distinct.len(), freed.len(), "freed once");
            for (index, result) in all.results.iter().enumerate() {
                let harmed = result.outputs.iter().any(|digest| distinct.contains(digest));
                prop_assert_eq!(harmed, lost.contains(&index), "who loses an object is told, and nobody else");
                prop_assert!(!harmed || !all.is_safe(&result.key));
            }
            let room = freed.len() as u64 * 10;
            let possible: HashSet<&String> = all.results.iter().flat_map(|r| &r.outputs)
                .filter(|digest| !all.results.iter().any(|r| all.is_safe(&r.key) && r.outputs.contains(digest))).collect();
            prop_assert!(room >= bytes.min(possible.len() as u64 * 10), "{room} of {bytes}");
            // The last one given up was needed.
            if let Some(Given::Result { objects, .. }) = given.iter().rev().find(|given| matches!(given, Given::Result { objects, .. } if !objects.is_empty())) {
                prop_assert!(room - objects.len() as u64 * 10 < bytes);
            }
        }
    }
}
