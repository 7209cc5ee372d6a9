//! An input that may be one file, or one for each point of a sweep.

use super::Ref;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;

/// A [`Ref`], or all points of an axis: `evaluate.map@bits=*/result`.
///
/// The pipeline says either as a string. The plan puts a table of points in the place of the second, so that each of them
/// is an ordinary reference, to be found and keyed as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refs {
    One(Ref),
    /// Each with its point, `bits=16`, in the order of the values.
    Points(Vec<(String, Ref)>),
}

impl Refs {
    /// Every reference in it, each with its point if it has one.
    pub fn all(&self) -> Vec<(Option<&str>, &Ref)> {
        match self {
            Self::One(input) => vec![(None, input)],
            Self::Points(points) => points.iter().map(|(point, input)| (Some(point.as_str()), input)).collect(),
        }
    }
}

/// The order of points by their values, axis by axis: numbers by size, before texts by letters. So it does not depend on
/// how the sweep is written.
fn by_values(a: &str, b: &str) -> Ordering {
    let first = a.split(',').zip(b.split(',')).map(|(a, b)| by_value(a, b)).find(|order| order.is_ne());
    first.unwrap_or_else(|| a.split(',').count().cmp(&b.split(',').count()))
}

/// The order of two `axis=value`.
fn by_value(a: &str, b: &str) -> Ordering {
    let [(a_axis, a), (b_axis, b)] = [a, b].map(|part| part.split_once('=').unwrap_or((part, "")));
    let number = |value: &str| value.parse::<f64>().ok().filter(|number| !number.is_nan());
    let numbers = match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    a_axis.cmp(b_axis).then(numbers).then_with(|| a.cmp(b))
}

impl Serialize for Refs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(input) => input.serialize(serializer),
            Self::Points(points) => {
                let mut map = serializer.serialize_map(Some(points.len()))?;
                for (point, input) in points {
                    map.serialize_entry(point, input)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Refs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Refs;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a string such as \"train.name/model\" or \"train.name@bits=*/model\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Refs, E> {
                Ok(Refs::One(Ref(text.to_string())))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Refs, A::Error> {
                let mut points: Vec<(String, Ref)> = vec![];
                while let Some((point, input)) = map.next_entry::<String, Ref>()? {
                    if point == super::reference::MARK {
                        return Ok(Refs::One(input));
                    }
                    points.push((point, input));
                }
                if points.is_empty() {
                    return Err(A::Error::custom("expected a reference"));
                }
                points.sort_by(|(a, _), (b, _)| by_values(a, b));
                Ok(Refs::Points(points))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Refs {
    fn schema_name() -> Cow<'static, str> {
        "Refs".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "refs" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_and_many_survive_a_round_trip() {
        let again = |refs: &Refs| serde_json::from_value::<Refs>(serde_json::to_value(refs).unwrap()).unwrap();
        let one: Refs = serde_json::from_value(json!("train.a/model")).unwrap();
        assert_eq!((again(&one), one.all().len()), (one.clone(), 1));
        assert_eq!(serde_json::to_value(&one).unwrap(), json!({"$ref": "train.a/model"}));
        let many: Refs = serde_json::from_value(json!({"bits=128": "b", "bits=16": "a"})).unwrap();
        assert_eq!(many, Refs::Points(vec![("bits=16".into(), Ref("a".into())), ("bits=128".into(), Ref("b".into()))]));
        assert_eq!(again(&many), many);
        assert!(serde_json::from_value::<Refs>(json!({})).is_err());
    }

    #[test]
    fn points_are_ordered_by_their_values() {
        let mut points = vec![
            "lr=0.1,seed=2",
            "lr=word,seed=1",
            "lr=0.01,seed=10",
            "lr=1e-3,seed=1",
            "lr=0.01,seed=9",
            "lr=-1,seed=0",
            "lr=1",
        ];
        points.sort_by(|a, b| by_values(a, b));
        let sorted = [
            "lr=-1,seed=0",
            "lr=1e-3,seed=1",
            "lr=0.01,seed=9",
            "lr=0.01,seed=10",
            "lr=0.1,seed=2",
            "lr=1",
            "lr=word,seed=1",
        ];
        assert_eq!(points, sorted);
    }
}
