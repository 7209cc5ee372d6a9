//! `[resources]`: what tasks occupy and what the machine has. Never in a key.
//!
//! Three tables may speak of a stage, the closer one before the wider, key by key: `"kind.name"` of `[resources]`, the
//! `resources` of the stage's own table if its kind has that, and `kind` of `[resources]`. The subject `host` is the
//! machine.

use super::{Config, Mark};
use crate::amounts::{Host, Wants};
use crate::error::Error;
use crate::names::known_or_nearest;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The subject of `[resources]` that is no stage but the machine.
const HOST: &str = "host";

impl Config {
    /// What tasks of a stage may occupy.
    pub fn wants(&self, kind: &str, name: &str) -> Wants {
        let close = self.resources(&format!("{kind}.{name}"));
        let own = self.own_resources(kind, name).and_then(read);
        let wide = self.resources(kind);
        [close, own, wide].into_iter().flatten().fold(Wants::default(), Wants::over)
    }

    /// What the machine has, in the file's words.
    pub fn host(&self) -> Host {
        self.resources(HOST).unwrap_or_default()
    }

    /// Faults of the `resources` in a stage's own table; none if it has no such table.
    pub fn check_own_resources(&self, kind: &str, name: &str) -> Vec<Error> {
        let Some(value) = self.own_resources(kind, name) else { return vec![] };
        let what = format!("`resources` of `[{kind}.{name}]`");
        self.faults::<Wants>(value, Wants::KEYS, &what, &[kind, name, "resources"])
    }

    /// Faults of `[resources]` that its stages need not be known for.
    pub(super) fn check_resources(&self) -> Vec<Error> {
        let subjects = self.tree.get("resources").and_then(Value::as_object).into_iter().flatten();
        subjects
            .flat_map(|(subject, value)| {
                let (what, path) = (format!("`[resources]` of `{subject}`"), ["resources", subject]);
                match subject.as_str() {
                    HOST => self.faults::<Host>(value, Host::KEYS, &what, &path),
                    _ => self.faults::<Wants>(value, Wants::KEYS, &what, &path),
                }
            })
            .collect()
    }

    /// Subjects of `[resources]` that no stage has.
    pub(super) fn unknown_in_resources(&self, kinds: &[&str], ids: &[&str]) -> Vec<Error> {
        let known: Vec<&str> = kinds.iter().chain(ids).chain(&[HOST]).copied().collect();
        let subjects = self.tree.get("resources").and_then(Value::as_object).into_iter().flatten();
        subjects
            .filter(|(subject, _)| !known.contains(&subject.as_str()))
            .map(|(subject, _)| {
                Error::input(format!("`[resources]` speaks of `{subject}`, which is no kind and no stage"))
                    .at(self.place(&["resources", subject], Mark::Key))
                    .hint(known_or_nearest(subject, &known, "names"))
            })
            .collect()
    }

    fn resources<T: DeserializeOwned>(&self, subject: &str) -> Option<T> {
        self.tree.get("resources")?.get(subject).and_then(read)
    }

    fn own_resources(&self, kind: &str, name: &str) -> Option<&Value> {
        self.tree.get(kind)?.get(name)?.get("resources")
    }

    /// Every fault of one table at its place; `what` names the table.
    fn faults<T: DeserializeOwned>(
        &self,
        value: &Value,
        keys: &[(&str, &str)],
        what: &str,
        path: &[&str],
    ) -> Vec<Error> {
        let Value::Object(table) = value else {
            let error = Error::input(format!("{what} must be a table")).at(self.place(path, Mark::Value));
            return vec![error.hint("write a table such as `{ cpus = 2, memory = \"4GiB\" }`")];
        };
        let fault = |(key, value): (&String, &Value)| {
            let path = [path, &[key.as_str()]].concat();
            let Some((_, expected)) = keys.iter().find(|(known, _)| known == key) else {
                let known: Vec<&str> = keys.iter().map(|(known, _)| *known).collect();
                let error = Error::input(format!("unknown key `{key}` in {what}")).at(self.place(&path, Mark::Key));
                return Some(error.hint(known_or_nearest(key, &known, "keys")));
            };
            // Alone in a table, so that one wrong value hides no other.
            let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            let wrong = serde_json::from_value::<T>(alone).is_err();
            wrong.then(|| {
                Error::input(format!("`{key}` in {what} cannot be {}", shown(value)))
                    .at(self.place(&path, Mark::Value))
                    .note(format!("expected {expected}"))
            })
        };
        table.iter().filter_map(fault).collect()
    }
}

/// A table that was checked, or is wrong and told elsewhere.
fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

/// A value as it was written.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::{Bytes, CardMemory};
    use crate::config::Request;
    use crate::error::Result;
    use std::num::NonZeroUsize;

    fn load(text: &str, sets: &[&str]) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&Request { file, sets: sets.iter().map(ToString::to_string).collect(), profile: None })
    }

    #[test]
    fn the_closest_table_wins() {
        let text = r#"
            [resources]
            command = { cpus = 1, memory = "1GiB", priority = 1 }
            "command.a" = { cpus = 3 }
            [command.a]
            resources = { cpus = 2, memory = "2GiB", gpu_memory = "auto" }
            [command.b]
        "#;
        let config = load(text, &[]).unwrap();
        let wants = config.wants("command", "a");
        assert_eq!(wants.cpus, NonZeroUsize::new(3));
        assert_eq!(wants.memory, Some(Bytes(2 << 30)));
        assert_eq!(wants.gpu_memory, Some(CardMemory::Auto));
        assert_eq!(wants.priority, Some(1));
        assert_eq!(config.wants("command", "b").cpus, NonZeroUsize::new(1));
        assert_eq!(config.wants("train", "c"), Wants::default());
        let set = load(text, &["resources.command.cpus=5"]).unwrap();
        assert_eq!(set.wants("command", "b").cpus, NonZeroUsize::new(5));
    }

    #[test]
    fn the_host_is_no_stage() {
        let text = "[vars]\nram = '16GiB'\n[resources]\nhost = { memory = '{vars.ram}', gpus = 2, gpu_memory = '24G' }";
        let config = load(text, &[]).unwrap();
        let host = config.host();
        assert_eq!((host.memory, host.gpus, host.gpu_memory), (Some(Bytes(16 << 30)), Some(2), Some(Bytes(24 << 30))));
        assert!(config.unknown_in_resources(&["train"], &[]).is_empty());
    }

    #[test]
    fn every_fault_is_told_at_its_place() {
        let text = r#"
[resources]
train = { cpus = 0, memory = "2 Gibs", timeout = 90 }
host = { gpu = 1 }
encode = 3
"#;
        let said = load(text, &[]).err().unwrap().render("error");
        let pieces = [
            "`cpus` in `[resources]` of `train` cannot be 0",
            "expected a whole number of at least 1",
            "`memory` in `[resources]` of `train` cannot be \"2 Gibs\"",
            "p.toml:3:30",
            "expected a size such as \"2GiB\"",
            "`timeout` in `[resources]` of `train` cannot be 90",
            "expected a length of time such as \"90s\"",
            "unknown key `gpu` in `[resources]` of `host`",
            "did you mean `gpus`?",
            "`[resources]` of `encode` must be a table",
            "5 errors",
        ];
        for piece in pieces {
            assert!(said.contains(piece), "{piece}\n{said}");
        }
    }

    #[test]
    fn a_stages_own_table_is_checked_like_the_common_one() {
        let text = "[command.a]\nresources = { cpu = 1, gpus = -1 }\n[command.b]\nresources = { gpus = 1 }";
        let config = load(text, &[]).unwrap();
        let said = Error::all(config.check_own_resources("command", "a")).unwrap().render("error");
        for piece in ["unknown key `cpu` in `resources` of `[command.a]`", "p.toml:2:15", "cannot be -1", "2 errors"] {
            assert!(said.contains(piece), "{piece}\n{said}");
        }
        assert!(config.check_own_resources("command", "b").is_empty());
    }
}
