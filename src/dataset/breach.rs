//! What makes a retrieval experiment measure something else than it says: images in lists where they do not belong.
//!
//! Images are compared by content: a copy under another name is the same picture. Each breach is told with its count
//! and its first examples.

use super::{Item, List};
use std::collections::{BTreeMap, HashMap};

/// Examples that are named.
const SHOWN: usize = 3;

/// Queries that are in the database: each finds itself, at distance 0.
pub fn queries_in_database(query: &List, database: &List) -> Option<String> {
    let found = within(query, database);
    told(&found, format!("of {} queries are in the database, by content: each finds itself", query.len()))
}

/// Breaches among the lists of one experiment. `train_in_database` is what the protocol says of the training images, if
/// it says anything.
pub(super) fn among(train: &List, query: &List, database: &List, train_in_database: Option<bool>) -> Vec<String> {
    let training = train.len();
    let strays = match train_in_database {
        None => None,
        Some(true) => {
            let text = "training images are not in the database, by content, but the protocol says so";
            told(&without(train, database), format!("of {training} {text}"))
        }
        Some(false) => {
            let text = "training images are in the database, by content, but the protocol keeps them apart";
            told(&within(train, database), format!("of {training} {text}"))
        }
    };
    [queries_in_database(query, database), queries_in_training(query, train), strays].into_iter().flatten().collect()
}

/// Queries that are training images: the network has seen the answer.
pub fn queries_in_training(query: &List, train: &List) -> Option<String> {
    told(&within(query, train), format!("of {} queries are training images, by content", query.len()))
}

/// For each query, the database images of the same content; queries without any are left out.
pub fn same_images(query: &List, database: &List) -> BTreeMap<usize, Vec<u32>> {
    let digests = |list: &'_ List| list.items.iter().map(|item| item.digest.clone()).collect::<Vec<_>>();
    same_names(&digests(query), &digests(database))
}

/// For each name of one side, where it stands on the other; names that do not are left out.
pub fn same_names(names: &[String], others: &[String]) -> BTreeMap<usize, Vec<u32>> {
    let mut places: HashMap<&str, Vec<u32>> = HashMap::new();
    for (place, name) in (0..).zip(others) {
        places.entry(name).or_default().push(place);
    }
    let found = names.iter().enumerate().filter_map(|(i, name)| Some((i, places.get(name.as_str())?.clone())));
    found.collect()
}

/// Classes without a single image in some of the lists, which are given with the words for their images.
pub(super) fn absent(lists: &[(&str, &List)]) -> Option<String> {
    let mut parts = vec![];
    for (images, list) in lists {
        let mut present = vec![false; list.classes.len()];
        list.items.iter().flat_map(|item| &item.labels).for_each(|label| present[*label as usize] = true);
        let missing: Vec<&String> =
            list.classes.iter().zip(&present).filter(|(_, present)| !**present).map(|(name, _)| name).collect();
        if missing.is_empty() || list.is_empty() {
            continue;
        }
        let shown: Vec<String> = missing.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
        let more = if missing.len() > SHOWN { ", ..." } else { "" };
        let (count, classes, shown) = (missing.len(), list.classes.len(), shown.join(", "));
        parts.push(format!("without {images}: {count} of {classes} ({shown}{more})"));
    }
    (!parts.is_empty()).then(|| format!("classes {}", parts.join("; ")))
}

/// Images that are in several places with other labels each time.
pub(super) fn contradicting(lists: &[&List]) -> Option<String> {
    let mut seen: HashMap<&str, &Item> = HashMap::new();
    let mut found: Vec<(&Item, Option<&Item>)> = vec![];
    for item in lists.iter().flat_map(|list| &list.items) {
        match seen.get(item.digest.as_str()) {
            Some(first) if first.labels != item.labels => found.push((item, Some(first))),
            Some(_) => {}
            None => drop(seen.insert(&item.digest, item)),
        }
    }
    told(&found, "rows list an image again, by content, with other labels".into())
}

/// Images of one list that have an equal one before them.
pub(super) fn repeated<'a>(list: &'a List) -> Vec<(&'a Item, Option<&'a Item>)> {
    let mut seen: HashMap<&str, &'a Item> = HashMap::new();
    let again = |item: &'a Item| seen.insert(&item.digest, item).map(|before| (item, Some(before)));
    list.items.iter().filter_map(again).collect()
}

/// The images of one list that are in another, each with its like there.
fn within<'a>(list: &'a List, other: &'a List) -> Vec<(&'a Item, Option<&'a Item>)> {
    let known = by_content(other);
    list.items.iter().filter_map(|item| Some((item, Some(*known.get(item.digest.as_str())?)))).collect()
}

/// The images of one list that are not in another.
fn without<'a>(list: &'a List, other: &List) -> Vec<(&'a Item, Option<&'a Item>)> {
    let known = by_content(other);
    let strays = list.items.iter().filter(|item| !known.contains_key(item.digest.as_str()));
    strays.map(|item| (item, None)).collect()
}

fn by_content(list: &List) -> HashMap<&str, &Item> {
    list.items.iter().map(|item| (item.digest.as_str(), item)).collect()
}

/// Count, words and examples, if there are any.
pub(super) fn told(found: &[(&Item, Option<&Item>)], text: String) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let example = |(item, like): &(&Item, Option<&Item>)| match like {
        Some(like) if like.path != item.path => format!("`{}` as `{}`", item.path, like.path),
        _ => format!("`{}`", item.path),
    };
    let examples: Vec<String> = found.iter().take(SHOWN).map(example).collect();
    let more = if found.len() > SHOWN { ", ..." } else { "" };
    Some(format!("{} {text} ({}{more})", found.len(), examples.join(", ")))
}
