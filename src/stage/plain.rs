//! Parameter values whose form the user chooses: a line or a list of words, and single values of any type.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;

/// A command: one line for the shell, or a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    Line(String),
    List(Vec<String>),
}

impl Words {
    /// Every text in it.
    pub fn texts(&self) -> &[String] {
        match self {
            Self::Line(line) => std::slice::from_ref(line),
            Self::List(words) => words,
        }
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Line(line) => line.serialize(serializer),
            Self::List(words) => words.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Words;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a string for the shell, or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words::Line(text.to_string()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Words, A::Error> {
                let mut words = vec![];
                while let Some(word) = items.next_element()? {
                    words.push(word);
                }
                Ok(Words::List(words))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Words {
    fn schema_name() -> Cow<'static, str> {
        "Words".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" }, "format": "words" })
    }
}

/// A truth value, a number, or a text; kept with its type, so that `1`, `1.0` and `"1"` are three values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Scalar(Value);

impl Scalar {
    /// As a word of a command: a text without its quotes.
    pub fn word(&self) -> String {
        self.0.as_str().map_or_else(|| self.0.to_string(), str::to_string)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            value @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => Ok(Self(value)),
            other => Err(D::Error::custom(format!("expected a single value, not {other}"))),
        }
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "integer", "number", "string"], "format": "scalar" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values_come_back_as_they_were() {
        for text in [r#""a b""#, r#"["a","b"]"#] {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<Words>(text).unwrap()).unwrap(), text);
        }
        for text in ["true", "1", "1.0", r#""1""#] {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<Scalar>(text).unwrap()).unwrap(), text);
        }
        assert!(serde_json::from_str::<Scalar>("[1]").is_err() && serde_json::from_str::<Scalar>("null").is_err());
        assert!(serde_json::from_str::<Words>("[1]").is_err());
    }
}
