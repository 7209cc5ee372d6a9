//! What a task may occupy, and what a machine has, as tables of a pipeline file. Never part of a key.

use super::{Bytes, Period};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

/// What tasks of a stage occupy while they run. What is not said is left to the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wants {
    /// Threads, exactly; without it, a fair part of what is free.
    pub cpus: Option<NonZeroUsize>,
    /// Main memory that is kept free of other tasks.
    pub memory: Option<Bytes>,
    /// GPUs: 0 keeps it off them; without it, one if it can use one and there is one.
    pub gpus: Option<usize>,
    /// Memory of each of its GPUs, shared with tasks that leave as much; without it, whole cards. `auto` is what it
    /// was seen to use.
    pub gpu_memory: Option<CardMemory>,
    /// Ended as failed when it takes longer.
    pub timeout: Option<Period>,
    /// Larger ones start first; 0 if it is not said.
    pub priority: Option<i64>,
}

impl Wants {
    /// Every key, with what a person is told to write.
    pub const KEYS: &[(&str, &str)] = &[
        ("cpus", "a whole number of at least 1"),
        ("memory", Bytes::EXPECTED),
        ("gpus", "a whole number of at least 0"),
        ("gpu_memory", CardMemory::EXPECTED),
        ("timeout", Period::EXPECTED),
        ("priority", "a whole number; larger ones start first"),
    ];

    /// These wants, and where they say nothing, those of `wider`.
    #[must_use]
    pub fn over(self, wider: Self) -> Self {
        Self {
            cpus: self.cpus.or(wider.cpus),
            memory: self.memory.or(wider.memory),
            gpus: self.gpus.or(wider.gpus),
            gpu_memory: self.gpu_memory.or(wider.gpu_memory),
            timeout: self.timeout.or(wider.timeout),
            priority: self.priority.or(wider.priority),
        }
    }
}

/// What the machine has, where it cannot be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Threads to use, unless `--jobs` says so.
    pub cpus: Option<NonZeroUsize>,
    /// Main memory to use.
    pub memory: Option<Bytes>,
    /// GPUs, if no driver tells; the first so many, if one does.
    pub gpus: Option<usize>,
    /// Memory of each GPU to use.
    pub gpu_memory: Option<Bytes>,
}

impl Host {
    /// Every key, with what a person is told to write.
    pub const KEYS: &[(&str, &str)] = &[
        ("cpus", "a whole number of at least 1"),
        ("memory", Bytes::EXPECTED),
        ("gpus", "a whole number of at least 0"),
        ("gpu_memory", Bytes::EXPECTED),
    ];
}

/// How much of a GPU's memory a task wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardMemory {
    /// What it was seen to use before; the whole card while nothing is known.
    Auto,
    /// So much, never 0.
    Bytes(Bytes),
}

impl CardMemory {
    /// What a person is told to write.
    pub const EXPECTED: &'static str = "\"auto\", or a size such as \"6GiB\" above 0";
}

impl<'de> Deserialize<'de> for CardMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = CardMemory;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CardMemory::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<CardMemory, E> {
        // A card shared at no cost would be shared without end.
        if value == 0 {
            return Err(E::invalid_value(de::Unexpected::Unsigned(0), &self));
        }
        Ok(CardMemory::Bytes(Bytes(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<CardMemory, E> {
        let positive = u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
        self.visit_u64(positive)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<CardMemory, E> {
        if value == "auto" {
            return Ok(CardMemory::Auto);
        }
        let bytes: Bytes = value.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(value), &self))?;
        self.visit_u64(bytes.0)
    }
}

impl JsonSchema for CardMemory {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CardMemory".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 1,
            "pattern": "^(auto|\\s*[0-9]+([.][0-9]+)?\\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\\s*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn every_wanted_thing_is_read() {
        let text =
            r#"{"cpus": 2, "memory": "2GiB", "gpus": 1, "gpu_memory": "auto", "timeout": "90s", "priority": -1}"#;
        let wants: Wants = serde_json::from_str(text).unwrap();
        let expected = Wants {
            cpus: NonZeroUsize::new(2),
            memory: Some(Bytes(2 << 30)),
            gpus: Some(1),
            gpu_memory: Some(CardMemory::Auto),
            timeout: Some(Period(Duration::from_secs(90))),
            priority: Some(-1),
        };
        assert_eq!(wants, expected);
        let read = |text: &str| serde_json::from_str::<Wants>(text);
        let sized = read(r#"{"gpu_memory": "6GiB"}"#).unwrap();
        assert_eq!(sized.gpu_memory, Some(CardMemory::Bytes(Bytes(6 << 30))));
        for wrong in [r#"{"cpus": 0}"#, r#"{"gpu_memory": 0}"#, r#"{"gpu_memory": "0G"}"#, r#"{"gpus": -1}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_closer_table_wins_key_by_key() {
        let wide = Wants { gpus: Some(1), memory: Some(Bytes(1)), ..Wants::default() };
        let close = Wants { gpus: Some(0), priority: Some(3), ..Wants::default() };
        let both = Wants { gpus: Some(0), memory: Some(Bytes(1)), priority: Some(3), ..Wants::default() };
        assert_eq!(close.over(wide), both);
    }

    #[test]
    fn the_lists_of_keys_are_those_of_the_structs() {
        let names =
            |schema: Value| -> BTreeSet<String> { schema["properties"].as_object().unwrap().keys().cloned().collect() };
        let listed =
            |keys: &[(&str, &str)]| -> BTreeSet<String> { keys.iter().map(|(key, _)| key.to_string()).collect() };
        assert_eq!(names(json!(schemars::schema_for!(Wants))), listed(Wants::KEYS));
        assert_eq!(names(json!(schemars::schema_for!(Host))), listed(Host::KEYS));
    }
}
