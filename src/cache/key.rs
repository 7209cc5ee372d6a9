//! What a result depends on, said once: the same walk feeds the hash and the explanation.

use crate::plan::Task;
use crate::stage::Ref;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// blake3 over everything a task's result depends on, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(String);

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for a person.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// Reads a key back from the disk.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(text.to_string()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One named part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    pub value: String,
}

/// What content a task reads: digests of its references, by their text, and of its further files.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    pub inputs: BTreeMap<String, String>,
    /// (name, digest), sorted by name.
    pub files: Vec<(String, String)>,
    /// Programs, environment variables, names that programs see: (name in the key, what stands there).
    pub facts: Vec<(String, String)>,
}

/// Marks a value that stands for content.
pub const CONTENT: &str = "blake3:";

/// Every part of a task's key, in order: kind, version, parameters, content of inputs.
///
/// Names of stages, paths, resources and places are left out: they change nothing in the result. References stand as
/// the digest of what they mean.
pub fn lines(task: &Task, contents: &Contents) -> Vec<Line> {
    let mut lines = vec![];
    each_line(task, contents, &mut |name, value| lines.push(Line { name: name.into(), value: value.into() }));
    lines
}

/// The key of a task: that of its [`lines`], without keeping them.
pub(super) fn key_of(task: &Task, contents: &Contents) -> Key {
    let mut digest = LineDigest::new();
    each_line(task, contents, &mut |name, value| digest.add(name, value));
    Key(digest.finish())
}

fn each_line(task: &Task, contents: &Contents, line: &mut dyn FnMut(&str, &str)) {
    line("kind", task.kind.name);
    line("version", &task.kind.version.to_string());
    walk(&mut "params".into(), &task.params, contents, line);
    if !contents.files.is_empty() {
        let digest = digest_of_lines(contents.files.iter().map(|(name, digest)| [name.as_str(), digest.as_str()]));
        line("files", &format!("{} files, {CONTENT}{digest}", contents.files.len()));
    }
    contents.facts.iter().for_each(|(name, value)| line(name, value));
}

/// The key made of these lines.
pub fn key(lines: &[Line]) -> Key {
    Key(digest_of_lines(lines.iter().map(|line| [line.name.as_str(), line.value.as_str()])))
}

/// Digest of names and values in order.
pub(super) fn digest_of_lines<'a>(lines: impl Iterator<Item = [&'a str; 2]>) -> String {
    let mut digest = LineDigest::new();
    lines.for_each(|[name, value]| digest.add(name, value));
    digest.finish()
}

/// A digest that names and values are added to one by one: each text with its length in front, so that no two different
/// sequences give the same bytes.
pub(super) struct LineDigest(blake3::Hasher);

impl LineDigest {
    pub(super) fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("hashpipe 2026-11 key v1"))
    }

    pub(super) fn add(&mut self, name: &str, value: &str) {
        for text in [name, value] {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
    }

    pub(super) fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// Tells the lines of a value that stands at `name` below `at`.
fn walk_below(at: &mut String, name: &str, value: &Value, contents: &Contents, line: &mut dyn FnMut(&str, &str)) {
    let end = at.len();
    at.push('.');
    at.push_str(name);
    walk(at, value, contents, line);
    at.truncate(end);
}

/// Tells the lines of a value that stands at `at`.
fn walk(at: &mut String, value: &Value, contents: &Contents, line: &mut dyn FnMut(&str, &str)) {
    if let Some(text) = Ref::of(value) {
        let digest = contents.inputs.get(text).map_or("unknown", String::as_str);
        return line(at, &format!("{CONTENT}{digest}"));
    }
    match value {
        // Where things lie does not matter: their content is in the key by its own lines.
        Value::Object(map) if map.len() == 1 && map.contains_key("$place") => line(at, "a place"),
        Value::Object(map) => {
            let mut names: Vec<&String> = map.keys().collect();
            names.sort();
            for name in names {
                walk_below(at, name, &map[name], contents, line);
            }
        }
        Value::Array(items) => {
            // The length, so that [[1], 2] and [1, [2]] differ.
            line(at, &format!("{} items", items.len()));
            for (i, item) in items.iter().enumerate() {
                walk_below(at, &i.to_string(), item, contents, line);
            }
        }
        other => line(at, &other.to_string()),
    }
}
