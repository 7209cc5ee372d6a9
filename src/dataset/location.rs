//! A file or folder of the user's, named in a parameter table.

use schemars::JsonSchema;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// Path of a file or folder, relative to the project folder or absolute.
///
/// It is written as a string and serialises as `{"$place": "text"}`: what lies at a place decides a result, the place
/// does not, so whoever builds a cache key from serialised parameters can tell the two apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(inline, extend("format" = "place"))]
pub struct Location(pub String);

impl Location {
    /// Where the place is on this machine.
    pub fn resolve(&self, project: &Path) -> PathBuf {
        project.join(&self.0)
    }
}

const KEY: &str = "$place";

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(KEY, &self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Location;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Location, E> {
                Ok(Location(text.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Location, A::Error> {
                let Some((key, text)) = map.next_entry::<String, String>()? else {
                    return Err(A::Error::custom("a path, but the table is empty"));
                };
                match map.next_key::<String>()? {
                    None if key == KEY => Ok(Location(text)),
                    _ => Err(A::Error::custom(format!("a path is a string, not a table with `{key}`"))),
                }
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_becomes_a_place_and_comes_back() {
        let location: Location = serde_json::from_str(r#""data/coco""#).unwrap();
        let written = serde_json::to_string(&location).unwrap();
        assert_eq!(written, r#"{"$place":"data/coco"}"#);
        assert_eq!(serde_json::from_str::<Location>(&written).unwrap(), location);
        assert_eq!(location.resolve(Path::new("/p")), Path::new("/p/data/coco"));
        assert_eq!(Location("/else".into()).resolve(Path::new("/p")), Path::new("/else"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["7", "{}", r#"{"path":"x"}"#, r#"{"$place":"x","y":"z"}"#] {
            assert!(serde_json::from_str::<Location>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_schema_says_what_it_is() {
        let schema = serde_json::to_value(schemars::schema_for!(Location)).unwrap();
        assert_eq!((&schema["type"], &schema["format"]), (&"string".into(), &"place".into()));
    }
}
