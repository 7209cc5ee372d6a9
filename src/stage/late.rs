//! Parameters that a stage got after results of it had been made.
//!
//! Such a parameter says in its schema what was done before there was a choice:
//!
//! ```text
//! #[serde(default)]
//! #[schemars(extend("before" = false))]
//! exclude_self: bool,
//! ```
//!
//! While it has that value, it is left out of the key, and results from before it stay good. Any other value is in the
//! key. A parameter that is not marked is always in the key: to forget the mark costs a run, and never gives a stale
//! result. The mark holds a value of its own, and not the default: whoever changes a default later changes keys, too.

use super::{Param, Shape, Variant};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The late parameters of a table, each where the table has it.
#[derive(Debug, Default)]
pub struct Late {
    /// What was done before there was this parameter, if it is a late one.
    before: Option<Value>,
    below: Below,
}

#[derive(Debug, Default)]
enum Below {
    #[default]
    Nothing,
    Table(BTreeMap<String, Late>),
    /// By the table's `name`.
    Choice(BTreeMap<String, BTreeMap<String, Late>>),
    /// Of every item of a list, or every value of a map.
    Each(Box<Late>),
}

impl Late {
    /// The late parameters of what may be written here; nothing if there are none.
    pub fn of(shape: &Shape) -> Option<Self> {
        let below = match shape {
            Shape::Table(params) => Below::Table(table(params)?),
            Shape::Choice(variants) => {
                let late = |variant: &Variant| Some((variant.name.clone(), table(&variant.params)?));
                Below::Choice(
                    Some(variants.iter().filter_map(late).collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty())?,
                )
            }
            Shape::Map(item) | Shape::List { item, .. } => Below::Each(Box::new(Self::of(item)?)),
            _ => return None,
        };
        Some(Self { before: None, below })
    }

    /// Whether a key leaves this value out.
    pub fn leaves_out(&self, value: &Value) -> bool {
        self.before.as_ref() == Some(value)
    }

    /// What was done before there was this parameter.
    pub fn before(&self) -> Option<&Value> {
        self.before.as_ref()
    }

    /// The late parameters below a key of this table.
    pub fn below(&self, key: &str, table: &Map<String, Value>) -> Option<&Self> {
        let named = || table.get("name").and_then(Value::as_str);
        self.named(key, named)
    }

    /// The late parameters of an item of this list.
    pub fn item(&self) -> Option<&Self> {
        match &self.below {
            Below::Each(item) => Some(item),
            _ => None,
        }
    }

    /// Those below a key of a table whose `name` is looked up only where it decides.
    fn named<'a>(&self, key: &str, name: impl FnOnce() -> Option<&'a str>) -> Option<&Self> {
        match &self.below {
            Below::Nothing => None,
            Below::Table(table) => table.get(key),
            Below::Choice(variants) => variants.get(name()?)?.get(key),
            Below::Each(item) => Some(item),
        }
    }

    /// The keys that late parameters of this table stand under; for lists and maps, those of `there`.
    pub fn keys<'a>(&'a self, name: Option<&str>, there: impl FnOnce() -> Vec<&'a str>) -> Vec<(&'a str, &'a Self)> {
        let all = |table: &'a BTreeMap<String, Self>| table.iter().map(|(key, late)| (key.as_str(), late)).collect();
        match &self.below {
            Below::Nothing => vec![],
            Below::Table(table) => all(table),
            Below::Choice(variants) => name.and_then(|name| variants.get(name)).map(all).unwrap_or_default(),
            Below::Each(item) => there().into_iter().map(|key| (key, item.as_ref())).collect(),
        }
    }
}

fn table(params: &[Param]) -> Option<BTreeMap<String, Late>> {
    let late = |param: &Param| {
        let below = Late::of(&param.shape).map(|late| late.below);
        (below.is_some() || param.before.is_some())
            .then(|| (param.name.clone(), Late { before: param.before.clone(), below: below.unwrap_or_default() }))
    };
    Some(params.iter().filter_map(late).collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::STAGES;

    /// Every marked parameter of a table, with its key path.
    fn marked<'a>(params: &'a [Param], at: &str, out: &mut Vec<(String, &'a Param)>) {
        for param in params {
            let path = format!("{at}.{}", param.name);
            if param.before.is_some() {
                out.push((path.clone(), param));
            }
            below(&param.shape, &path, out);
        }
    }

    fn below<'a>(shape: &'a Shape, at: &str, out: &mut Vec<(String, &'a Param)>) {
        match shape {
            Shape::Table(params) => marked(params, at, out),
            Shape::Choice(variants) => {
                variants.iter().for_each(|v| marked(&v.params, &format!("{at}[{}]", v.name), out));
            }
            Shape::Map(item) | Shape::List { item, .. } => below(item, at, out),
            _ => {}
        }
    }

    #[test]
    fn what_was_done_before_is_what_is_done_where_nothing_is_said() {
        let mut all = 0;
        for kind in STAGES {
            let (shape, mut found) = (kind.shape(), vec![]);
            below(&shape, kind.name, &mut found);
            all += found.len();
            for (path, param) in found {
                // A `null` is no default to schemars; nothing is what an `Option` is without one.
                let default = param.default.clone().unwrap_or(Value::Null);
                assert_eq!(param.before, Some(default), "{path}: who says nothing must get what was done before");
                assert!(!param.required, "{path}: what must be said cannot have been there before");
            }
        }
        assert!(all >= 10, "{all}");
    }
}
