//! One stage table against what its kind may hold: every fault at once, and the sweeps and references it has.

use super::{point_text, target};
use crate::config::{Config, Mark};
use crate::error::Error;
use crate::names::known_or_nearest;
use crate::stage::{Param, Shape};
use serde_json::{Map, Value};

/// What a walk over a stage table finds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) errors: Vec<Error>,
    pub(super) axes: Vec<Axis>,
    /// Key paths of values given per sweep point: `{ by = "bits", 16 = 0, 64 = 2000 }`.
    pub(super) by: Vec<Vec<String>>,
    /// Key paths and texts of references.
    pub(super) refs: Vec<(Vec<String>, String)>,
}

/// A parameter that was given several values.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// The parameter's key path, dotted: also the axis's name in ids.
    pub(super) name: String,
    pub(super) path: Vec<String>,
    pub(super) values: Vec<Value>,
}

/// Walks the table of stage `kind.name`.
pub(super) fn check(config: &Config, kind: &str, name: &str, shape: &Shape, table: &Value) -> Found {
    let mut walk = Walk { config, stage: [kind, name], found: Found::default() };
    walk.value(shape, table, &mut vec![]);
    walk.found
}

struct Walk<'a> {
    config: &'a Config,
    stage: [&'a str; 2],
    found: Found,
}

impl Walk<'_> {
    fn value(&mut self, shape: &Shape, value: &Value, path: &mut Vec<String>) {
        match (shape, value) {
            (shape, Value::Object(map)) if map.contains_key("by") && !is_table(shape) => self.by(shape, map, path),
            (shape, Value::Array(items)) if shape.is_single() => self.sweep(shape, items, path),
            (Shape::List { item, min, max }, Value::Array(items)) => {
                if min.is_some_and(|min| items.len() < min) || max.is_some_and(|max| items.len() > max) {
                    self.wrong(shape, value, path);
                }
                for (i, value) in items.iter().enumerate() {
                    // A list in a list is no sweep: which of the two it should run over could only be guessed.
                    path.push(i.to_string());
                    if item.is_single() && value.is_array() {
                        self.wrong(item, value, path);
                    } else {
                        self.value(item, value, path);
                    }
                    path.pop();
                }
            }
            (Shape::Table(params), Value::Object(map)) => self.table(params, map, path, &[]),
            (Shape::Choice(variants), Value::Object(map)) => match map.get("name") {
                Some(Value::String(name)) => match variants.iter().find(|variant| variant.name == *name) {
                    Some(variant) => self.table(&variant.params, map, path, &["name"]),
                    None => {
                        let known: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
                        let what = path.last().cloned().unwrap_or_default();
                        path.push("name".into());
                        let error = Error::input(format!("there is no {what} `{name}`"));
                        self.add(error.hint(known_or_nearest(name, &known, "names")), path, Mark::Value);
                        path.pop();
                    }
                },
                Some(_) => self.wrong(shape, value, path),
                None => {
                    let error = Error::input(format!("`{}` needs `name`", path.join(".")));
                    self.add(error.note(format!("expected {}", shape.expected())), path, Mark::Key);
                }
            },
            (Shape::Wants, _) => {}
            (Shape::Words, Value::Array(words)) => {
                for (i, word) in words.iter().enumerate() {
                    path.push(i.to_string());
                    self.single(&Shape::Text, word, path);
                    path.pop();
                }
            }
            (Shape::Map(item), Value::Object(map)) => {
                for (key, value) in map {
                    self.below(item, value, path, key);
                }
            }
            (shape, value) => self.single(shape, value, path),
        }
    }

    fn below(&mut self, shape: &Shape, value: &Value, path: &mut Vec<String>, step: &str) {
        path.push(step.to_string());
        self.value(shape, value, path);
        path.pop();
    }

    fn table(&mut self, params: &[Param], map: &Map<String, Value>, path: &mut Vec<String>, also: &[&str]) {
        let known: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
        for (key, value) in map.iter().filter(|(key, _)| !also.contains(&key.as_str())) {
            match params.iter().find(|param| param.name == *key) {
                Some(param) => self.below(&param.shape, value, path, key),
                None => {
                    path.push(key.clone());
                    let error =
                        Error::input(format!("unknown key `{key}` in {}", self.table_name(&path[..path.len() - 1])));
                    self.add(error.hint(known_or_nearest(key, &known, "keys")), path, Mark::Key);
                    path.pop();
                }
            }
        }
        for param in params.iter().filter(|param| param.required && !map.contains_key(&param.name)) {
            let mut error = Error::input(format!("{} needs `{}`", self.table_name(path), param.name))
                .note(format!("expected {}", param.shape.expected()));
            if !param.about.is_empty() {
                error = error.note(param.about.clone());
            }
            self.add(error, path, Mark::Key);
        }
    }

    fn single(&mut self, shape: &Shape, value: &Value, path: &[String]) {
        let within = |number: f64, min: &Option<f64>, max: &Option<f64>| {
            min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max)
        };
        let fits = match (shape, value) {
            (Shape::Integer { min, max }, Value::Number(n)) => {
                (n.is_i64() || n.is_u64()) && within(n.as_f64().unwrap_or(f64::NAN), min, max)
            }
            (Shape::Number { min, max }, Value::Number(n)) => within(n.as_f64().unwrap_or(f64::NAN), min, max),
            (Shape::Bool, Value::Bool(_)) | (Shape::Text | Shape::Place | Shape::Words, Value::String(_)) => true,
            (Shape::Scalar, Value::Bool(_) | Value::Number(_) | Value::String(_)) => true,
            (Shape::Word(words), Value::String(text)) => {
                if let Some(hint) = (!words.iter().any(|(word, _)| word == text)).then(|| {
                    known_or_nearest(text, &words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>(), "words")
                }) {
                    let error = Error::input(format!("`{}` cannot be \"{text}\"", path.join(".")));
                    self.add(error.note(format!("expected {}", shape.expected())).hint(hint), path, Mark::Value);
                }
                return;
            }
            (Shape::Ref | Shape::Refs, Value::String(text)) => {
                self.found.refs.push((path.to_vec(), text.clone()));
                if matches!(shape, Shape::Ref) && target::gathers(text) {
                    let error =
                        Error::input(format!("`{}` takes one input, and `{text}` means several", path.join(".")))
                            .note("`*` stands for all points of an axis")
                            .hint(format!(
                                "pick one, as in `@bits=64`, or leave the axis out to make a task for each; {}",
                                "`inputs` of a `[command.*]` takes several"
                            ));
                    self.add(error, path, Mark::Value);
                }
                true
            }
            _ => false,
        };
        if !fits {
            self.wrong(shape, value, path);
        }
    }

    /// A list where one value is expected: one task for each.
    fn sweep(&mut self, shape: &Shape, items: &[Value], path: &mut Vec<String>) {
        let name = path.join(".");
        if items.is_empty() {
            let error = Error::input(format!("`{name}` has no values to sweep over"));
            return self.add(
                error.note(format!("expected {}, or a list of them", shape.expected())),
                path,
                Mark::Value,
            );
        }
        for (i, item) in items.iter().enumerate() {
            path.push(i.to_string());
            if items[..i].contains(item) {
                self.add(Error::input(format!("`{name}` sweeps over {item} twice")), path, Mark::Value);
            } else if let Some(other) =
                items[..i].iter().find(|other| point_text(&name, other) == point_text(&name, item))
            {
                let point = point_text(&name, item);
                let error =
                    Error::input(format!("`{name}` sweeps over {other} and {item}: both would be called {point}"))
                        .note("a point of a sweep is named by its text, whether it is a number or not")
                        .hint("leave out one of them");
                self.add(error, path, Mark::Value);
            }
            self.single(shape, item, path);
            path.pop();
        }
        self.found.axes.push(Axis { name, path: path.clone(), values: items.to_vec() });
    }

    /// A value for each point of an axis.
    fn by(&mut self, shape: &Shape, map: &Map<String, Value>, path: &mut Vec<String>) {
        if !map["by"].is_string() {
            path.push("by".into());
            self.add(Error::input("`by` must name a swept parameter, as in `by = \"bits\"`"), path, Mark::Value);
            path.pop();
        }
        // An output would be of a task that belongs to another point; a file of the user's belongs to none.
        let output = |value: &Value| matches!(value.as_str().map(target::parse), Some(target::Text::Output { .. }));
        if matches!(shape, Shape::Ref | Shape::Refs) && map.iter().any(|(key, value)| key != "by" && output(value)) {
            self.add(Error::input("an output of a stage cannot be given `by` an axis"), path, Mark::Key);
        }
        for (key, value) in map.iter().filter(|(key, _)| *key != "by") {
            self.below(shape, value, path, key);
        }
        self.found.by.push(path.clone());
    }

    fn wrong(&mut self, shape: &Shape, value: &Value, path: &[String]) {
        let error = Error::input(format!("`{}` cannot be {}", path.join("."), shown(value)))
            .note(format!("expected {}", shape.expected()));
        self.add(error, path, Mark::Value);
    }

    fn add(&mut self, error: Error, path: &[String], mark: Mark) {
        let steps: Vec<&str> = self.stage.into_iter().chain(path.iter().map(String::as_str)).collect();
        let place = self.config.place(&steps, mark);
        self.found.errors.push(error.at(place));
    }

    fn table_name(&self, path: &[String]) -> String {
        let stage = self.stage.join(".");
        if path.is_empty() { format!("`[{stage}]`") } else { format!("`{}` of `[{stage}]`", path.join(".")) }
    }
}

fn is_table(shape: &Shape) -> bool {
    matches!(shape, Shape::Table(_) | Shape::Choice(_) | Shape::Map(_))
}

/// A value as a person wrote it, cut short.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => "a table".to_string(),
        Value::Array(_) => "a list".to_string(),
        other => other.to_string(),
    };
    if text.chars().count() > 40 { format!("{}...", text.chars().take(40).collect::<String>()) } else { text }
}
