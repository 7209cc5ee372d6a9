//! What makes a retrieval experiment measure something else than it says: images in lists where they do not belong.
//!
//! Images are compared by content: a copy under another name is the same picture. Each breach is told with its count
//! and its first examples.

use super::{Item, List};
use std::collections::HashMap;

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
    let learnt = within(query, train);
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
    let learnt = told(&learnt, format!("of {} queries are training images, by content", query.len()));
    [queries_in_database(query, database), learnt, strays].into_iter().flatten().collect()
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
