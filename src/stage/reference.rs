//! An input named in a parameter table.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// An input: `train.hashnet/model`, an output of another stage, or a path of the user's.
///
/// Reads as a string and serializes as `{"$ref": ..}`, which is how the plan finds it, however deep it stands, and how
/// the key comes to hold the content instead of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref(pub String);

/// The member that marks a reference among serialized parameters.
pub(super) const MARK: &str = "$ref";

impl Ref {
    /// The text of a serialized reference, if `value` is one.
    pub fn of(value: &serde_json::Value) -> Option<&str> {
        value.as_object().filter(|map| map.len() == 1)?.get(MARK)?.as_str()
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(MARK, &self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Ref;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a string such as \"train.name/model\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ref, E> {
                Ok(Ref(text.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ref, A::Error> {
                match map.next_entry::<String, String>()? {
                    Some((mark, text)) if mark == MARK => Ok(Ref(text)),
                    _ => Err(serde::de::Error::custom("expected a reference")),
                }
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Ref {
    fn schema_name() -> Cow<'static, str> {
        "Ref".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "ref" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_a_round_trip_and_is_found() {
        let json = serde_json::to_value(Ref("train.a/model".into())).unwrap();
        assert_eq!(Ref::of(&json), Some("train.a/model"));
        assert_eq!(serde_json::from_value::<Ref>(json).unwrap(), Ref("train.a/model".into()));
        assert_eq!(serde_json::from_str::<Ref>("\"x\"").unwrap(), Ref("x".into()));
    }
}
