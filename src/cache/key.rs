//! What a result depends on, said once: the same walk feeds the hash and the explanation.

use crate::plan::Task;
use crate::stage::{self, Kind, Late, Ref};
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
/// the digest of what they mean. Parameters that the stage got later are left out while they say what was done before
/// there were any; see [`Late`].
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
    each_line_of((task.kind, task.kind.late()), &task.params, contents, line);
}

fn each_line_of(
    (kind, late): (&Kind, Option<&Late>),
    params: &Value,
    contents: &Contents,
    line: &mut dyn FnMut(&str, &str),
) {
    line("kind", kind.name);
    line("version", &kind.version.to_string());
    walk(&mut PARAMS.into(), params, late, contents, line);
    if !contents.files.is_empty() {
        let digest = digest_of_lines(contents.files.iter().map(|(name, digest)| [name.as_str(), digest.as_str()]));
        line("files", &format!("{} files, {CONTENT}{digest}", contents.files.len()));
    }
    contents.facts.iter().for_each(|(name, value)| line(name, value));
}

/// What the names of parameters begin with.
const PARAMS: &str = "params";

/// The lines of a key with those it leaves out, each with what was done before there was such a parameter: for whoever
/// shows or compares values, since who made a result may not have known of them.
pub fn with_left_out(lines: &[Line]) -> Vec<Line> {
    let mut all = lines.to_vec();
    all.extend(left_out(lines));
    all
}

/// The lines that a key of these lines leaves out.
pub fn left_out(lines: &[Line]) -> Vec<Line> {
    let kind = lines.iter().find(|line| line.name == "kind");
    let late = kind.and_then(|kind| stage::find(&kind.value)).and_then(stage::Kind::late);
    let mut found = vec![];
    if let Some(late) = late {
        missing(&mut PARAMS.into(), late, lines, &mut found);
    }
    found
}

/// Finds late parameters below `at` that have no line.
fn missing(at: &mut String, late: &Late, lines: &[Line], found: &mut Vec<Line>) {
    let below =
        |at: &str, name: &str| name.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if let Some(before) = late.before()
        && !lines.iter().any(|line| below(at, &line.name))
    {
        let line = &mut |name: &str, value: &str| found.push(Line { name: name.into(), value: value.into() });
        return walk(at, before, None, &Contents::default(), line);
    }
    let name = format!("{at}.name");
    let name = lines.iter().find(|line| line.name == name);
    let name = name.and_then(|line| serde_json::from_str::<String>(&line.value).ok());
    let there = || {
        let inside = lines.iter().filter_map(|line| line.name.strip_prefix(at.as_str())?.strip_prefix('.'));
        let mut keys: Vec<&str> = inside.map(|rest| rest.split('.').next().unwrap_or(rest)).collect();
        keys.dedup();
        keys
    };
    let keys: Vec<(String, &Late)> =
        late.keys(name.as_deref(), there).into_iter().map(|(key, late)| (key.to_string(), late)).collect();
    for (key, late) in keys {
        let end = at.len();
        at.push('.');
        at.push_str(&key);
        missing(at, late, lines, found);
        at.truncate(end);
    }
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
fn walk_below(
    at: &mut String,
    (name, value): (&str, &Value),
    late: Option<&Late>,
    contents: &Contents,
    line: &mut dyn FnMut(&str, &str),
) {
    let end = at.len();
    at.push('.');
    at.push_str(name);
    walk(at, value, late, contents, line);
    at.truncate(end);
}

/// Tells the lines of a value that stands at `at`; `late` are the parameters below it that may be left out.
fn walk(at: &mut String, value: &Value, late: Option<&Late>, contents: &Contents, line: &mut dyn FnMut(&str, &str)) {
    if late.is_some_and(|late| late.leaves_out(value)) {
        return;
    }
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
                let below = late.and_then(|late| late.below(name, map));
                walk_below(at, (name, &map[name]), below, contents, line);
            }
        }
        Value::Array(items) => {
            // The length, so that [[1], 2] and [1, [2]] differ.
            line(at, &format!("{} items", items.len()));
            for (i, item) in items.iter().enumerate() {
                walk_below(at, (&i.to_string(), item), late.and_then(Late::item), contents, line);
            }
        }
        other => line(at, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Lookup, Store};
    use super::*;
    use crate::stage::{Ctx, Describe, Stage, kind_of};
    use schemars::JsonSchema;
    use serde_json::json;

    /// Parameter structs of one stage, as it was and as it became.
    macro_rules! definitions {
        ($($(#[$about:meta])* $name:ident { $($(#[$mark:meta])* $field:ident: $type:ty),* })*) => {$(
            $(#[$about])*
            #[derive(Serialize, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            struct $name { size: usize, $($(#[$mark])* $field: $type),* }
            impl Stage for $name {
                fn outputs(&self) -> Vec<&str> {
                    vec![]
                }
                fn run(&self, _: &mut Ctx) -> anyhow::Result<()> {
                    Ok(())
                }
            }
            impl Describe for $name {
                const NAME: &'static str = "pile";
                const VERSION: u32 = 3;
                const ABOUT: &'static str = "Pile things up";
            }
        )*};
    }

    definitions! {
        Older {}
        /// A parameter came, and it says what was done before.
        Newer { #[serde(default)] #[schemars(extend("before" = "flat"))] form: Form }
        /// It came, and nobody thought of results from before.
        Forgetful { #[serde(default)] form: Form }
        /// The default became another one later.
        Changed { #[serde(default = "round")] #[schemars(extend("before" = "flat"))] form: Form }
        /// A parameter came within a choice in a list.
        Nested { parts: Vec<Part> }
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Form {
        #[default]
        Flat,
        Round,
    }

    fn round() -> Form {
        Form::Round
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "name", rename_all = "lowercase")]
    enum Part {
        Stone {
            weight: u32,
            #[serde(default)]
            #[schemars(extend("before" = false))]
            wet: bool,
        },
        Wood {
            wet: bool,
        },
    }

    fn lines_of<S: Describe>(table: &Value) -> Vec<Line> {
        let kind = kind_of::<S>();
        let params = kind.parse(table).unwrap().params;
        let mut lines = vec![];
        let late = Late::of(&kind.shape());
        each_line_of((&kind, late.as_ref()), &params, &Contents::default(), &mut |name, value| {
            lines.push(Line { name: name.into(), value: value.into() });
        });
        lines
    }

    /// A cache with the result of these lines.
    fn cache_of(lines: &[Line]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let action = json!({
            "key": key(lines), "lines": lines, "kind": "pile", "outputs": {}, "metrics": {}, "warnings": [],
            "seconds": 1.0, "threads": 1, "host": "h", "made": 1,
        });
        store.commit(&serde_json::from_value::<Action>(action).unwrap()).unwrap();
        (folder, store)
    }

    #[test]
    fn what_the_older_stage_made_is_found_by_the_newer_one() {
        let old = lines_of::<Older>(&json!({"size": 2}));
        let (_folder, store) = cache_of(&old);
        let found = |lines: &[Line]| matches!(store.find(&key(lines), &store.digests()), Lookup::Hit(_));
        assert!(found(&lines_of::<Newer>(&json!({"size": 2}))));
        assert!(found(&lines_of::<Newer>(&json!({"size": 2, "form": "flat"}))), "written out");
        assert!(!found(&lines_of::<Newer>(&json!({"size": 2, "form": "round"}))), "any other value");
        assert!(!found(&lines_of::<Newer>(&json!({"size": 3}))));
        assert!(!found(&lines_of::<Forgetful>(&json!({"size": 2}))), "without the mark it costs a run");
        // What was made before was flat, whatever the default has become.
        assert!(!found(&lines_of::<Changed>(&json!({"size": 2}))));
        assert!(found(&lines_of::<Changed>(&json!({"size": 2, "form": "flat"}))));
    }

    #[test]
    fn marks_hold_where_they_stand_and_nowhere_else() {
        let names = |parts: Value| -> Vec<String> {
            lines_of::<Nested>(&json!({"size": 1, "parts": parts})).into_iter().map(|line| line.name).collect()
        };
        let dry = names(json!([{"name": "stone", "weight": 1}, {"name": "wood", "wet": false}]));
        assert!(!dry.contains(&"params.parts.0.wet".into()) && dry.contains(&"params.parts.1.wet".into()), "{dry:?}");
        let wet = names(json!([{"name": "stone", "weight": 1, "wet": true}]));
        assert!(wet.contains(&"params.parts.0.wet".into()), "{wet:?}");
    }

    #[test]
    fn what_is_left_out_is_told_all_the_same() {
        let line = |name: &str, value: &str| Line { name: name.into(), value: value.into() };
        let told = |lines: &[Line]| -> Vec<(String, String)> {
            left_out(lines).into_iter().map(|line| (line.name, line.value)).collect()
        };
        let all = told(&[line("kind", "evaluate"), line("params.top_k", "5")]);
        let expected = [("exclude_self", "false"), ("form", "\"jsonl\""), ("retrieved", "0")]
            .map(|(name, value)| (format!("params.{name}"), value.to_string()));
        assert_eq!(all, expected);
        assert_eq!(
            told(&[line("kind", "evaluate"), line("params.form", "\"parquet\""), line("params.retrieved", "3")]),
            expected[..1]
        );
        assert_eq!(told(&[line("kind", "nobody")]), []);
        let old = [line("kind", "command"), line("params.run", "\"x\"")];
        let new = [old[0].clone(), old[1].clone(), line("params.resume", "true")];
        let differences = super::super::differences(&old, &new);
        assert_eq!(differences.len(), 1);
        assert_eq!((differences[0].old.as_deref(), differences[0].new.as_deref()), (Some("false"), Some("true")));
    }
}
