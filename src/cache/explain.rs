//! Why a task runs, part by part: what its key holds now beside what it held before.

use super::reason::{Difference, differences};
use super::sets::{self, Members, set_digest};
use super::{Action, CONTENT, Contents, Line, Store};
use crate::plan::{Target, Task};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};

/// A difference with what can be said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    #[serde(flatten)]
    pub difference: Difference,
    /// For contents that the cache still has, and sets of files: what was added, removed and changed.
    pub detail: Option<String>,
}

/// An earlier result of a task, and all that its key differs in.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub earlier: Action,
    pub differences: Vec<Explained>,
}

/// A task as it stands: its key lines, and what they were made from.
pub struct Now<'a> {
    pub task: &'a Task,
    pub contents: &'a Contents,
    pub lines: &'a [Line],
}

impl Now<'_> {
    /// What a set with this digest holds that the task reads now.
    fn set(&self, store: &Store, digest: &str) -> Option<Members> {
        if set_digest(&self.contents.files) == digest {
            return Some(self.contents.files.clone());
        }
        let mut folders = self.task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path } if self.contents.inputs.get(text)? == digest && path.is_dir() => Some(path),
            _ => None,
        });
        folders.next().and_then(|folder| store.digests().listing(folder).ok())
    }
}

/// Compares a task's key lines with an earlier result's.
pub fn compare(store: &Store, earlier: Action, now: &Now) -> Comparison {
    let differences = differences(&earlier.lines, now.lines)
        .into_iter()
        .map(|difference| Explained {
            detail: detail(store, &difference).or_else(|| of_sets(store, &difference, now)),
            difference,
        })
        .collect();
    Comparison { earlier, differences }
}

/// Compares a task's key lines with the earlier result of this pipeline that differs least.
pub fn nearest(store: &Store, pipeline: &str, now: &Now) -> Option<Comparison> {
    let known = store.known(pipeline);
    let earlier = known.keys(&now.task.name).into_iter().filter_map(|key| store.action(key));
    let nearest = earlier.min_by_key(|action| differences(&action.lines, now.lines).len())?;
    Some(compare(store, nearest, now))
}

/// Files that were added, removed and changed, if both contents are sets of which that is known.
fn of_sets(store: &Store, difference: &Difference, now: &Now) -> Option<String> {
    let digest = |value: &Option<String>| Some(value.as_deref()?.rsplit_once(CONTENT)?.1.to_string());
    let (old, new) = (digest(&difference.old)?, digest(&difference.new)?);
    let old = store.set(&old)?;
    let new = now.set(store, &new).or_else(|| store.set(&new))?;
    Some(sets::difference(&old, &new))
}

/// Lines that were added and removed, if both contents are texts in the cache.
fn detail(store: &Store, difference: &Difference) -> Option<String> {
    let content = |value: &Option<String>| {
        let digest = value.as_deref()?.strip_prefix(CONTENT)?;
        lines_of(store, digest)
    };
    let (mut old, new) = (content(&difference.old)?, content(&difference.new)?);
    let mut added: u64 = 0;
    for (line, count) in new {
        let before = old.remove(&line).unwrap_or(0);
        added += u64::from(count.saturating_sub(before));
        if before > count {
            old.insert(line, before - count);
        }
    }
    let removed: u64 = old.values().map(|count| u64::from(*count)).sum();
    Some(match (added, removed) {
        (0, 0) => "the same lines in another order".into(),
        _ => format!("+{added} -{removed} lines"),
    })
}

/// How often each line of a text occurs, by its digest; nothing for what is no text.
fn lines_of(store: &Store, digest: &str) -> Option<HashMap<[u8; 16], u32>> {
    const LARGEST: u64 = 1 << 30;
    let path = store.object_at(digest)?;
    let file = std::fs::File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    let mut counts = HashMap::new();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = vec![];
    while reader.read_until(b'\n', &mut line).ok()? > 0 {
        if line.contains(&0) || std::str::from_utf8(&line).is_err() {
            return None;
        }
        let digest = blake3::hash(line.strip_suffix(b"\n").unwrap_or(&line));
        let short: [u8; 16] = digest.as_bytes()[..16].try_into().ok()?;
        *counts.entry(short).or_insert(0) += 1;
        line.clear();
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_by_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let put = |text: &str| {
            let out = folder.path().join("out");
            std::fs::create_dir_all(&out).unwrap();
            std::fs::write(out.join("x"), text).unwrap();
            let outputs = store.put_outputs(&out, &["x".to_string()], false).unwrap();
            Some(format!("{CONTENT}{}", outputs["x"].digest))
        };
        let told = |old: &str, new: &str| {
            detail(&store, &Difference { name: "params.list".into(), old: put(old), new: put(new) })
        };
        assert_eq!(told("a\nb\nb\n", "b\na\nc\nd"), Some("+2 -1 lines".into()));
        assert_eq!(told("a\nb\n", "b\na\n"), Some("the same lines in another order".into()));
        assert_eq!(told("a\n", "\0\n"), None);
        let unknown = Difference { name: "x".into(), old: Some("10".into()), new: Some("20".into()) };
        assert_eq!(detail(&store, &unknown), None);
    }
}
