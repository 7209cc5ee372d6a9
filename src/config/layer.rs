//! The layers a pipeline's settings come from, and where in them each value stands.

use crate::error::{Error, Place, Result};
use figment::Provider;
use figment::providers::{Env, Format, Toml};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use toml_edit::{Document, Item};

/// Values from one source.
pub(super) struct Layer {
    pub(super) origin: Origin,
    /// Empty for a file's once it is merged: where its values stand is found in its text.
    pub(super) value: Value,
}

/// Where a layer's values were written.
pub(super) enum Origin {
    /// A file, or the part of it below `prefix` (a profile).
    File { source: Arc<Source>, prefix: Vec<String> },
    /// Environment variables.
    Env,
    /// One `--set`.
    Set(String),
}

/// A file of the user's, with the places of its keys.
pub(super) struct Source {
    pub(super) path: PathBuf,
    text: String,
    /// Read when the first place is asked for: only errors and explanations do.
    document: OnceLock<Option<Document<String>>>,
}

/// What a mark should stand under.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Key,
    Value,
}

impl Source {
    /// Reads and parses a pipeline file; a syntax error names its place.
    pub(super) fn read(path: &Path) -> Result<(Self, Value)> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::input(format!("there is no pipeline file `{}`", path.display()))
                .hint(match siblings(path) {
                    names if names.is_empty() => "pipeline files end in `.toml`".to_string(),
                    names => format!("beside it lie: {}", names.join(", ")),
                }),
            _ => Error::io("read", path, &e),
        })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).matches('\n').count() + 1;
            Error::input(format!("`{}` is not UTF-8 text", path.display()))
                .at(Place::Path(format!("{}:{line}", path.display())))
                .hint("save the file as UTF-8")
        })?;
        let value = toml::from_str(&text).map_err(|e| {
            let span = e.span().unwrap_or(0..0);
            Error::input(format!("not valid TOML: {}", e.message().replace('\n', ", "))).at(place_at(path, &text, span))
        })?;
        Ok((Self { path: path.to_path_buf(), text, document: OnceLock::new() }, value))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place of the key or value at `path`.
    pub(super) fn place(&self, path: &[String], mark: Mark) -> Option<Place> {
        let document = self.document.get_or_init(|| Document::parse(self.text.clone()).ok()).as_ref()?;
        let mut item = document.as_item();
        let mut span = None;
        for (depth, step) in path.iter().enumerate() {
            let (key, next) = child(item, step)?;
            let last = depth + 1 == path.len();
            let own = if last && mark == Mark::Value { next.and_then(Item::span).or(key) } else { key };
            span = own.or(span);
            match next {
                Some(next) => item = next,
                // An inline value: toml_edit gives its elements as values, which have a span and no further items.
                None if last => {}
                None => return None,
            }
        }
        Some(place_at(&self.path, &self.text, span?))
    }
}

type Span = std::ops::Range<usize>;

/// One step down: the span of the key (or element) and the item below it.
fn child<'a>(item: &'a Item, step: &str) -> Option<(Option<Span>, Option<&'a Item>)> {
    if let Some(table) = item.as_table_like() {
        let (key, next) = table.get_key_value(step)?;
        return Some((key.span(), Some(next)));
    }
    let element = item.as_array()?.get(step.parse().ok()?)?;
    Some((element.span(), None))
}

/// Turns a byte range into line, column and the line itself.
fn place_at(path: &Path, text: &str, span: Span) -> Place {
    let start = span.start.min(text.len());
    let begin = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[..start].matches('\n').count() + 1;
    let whole = text[begin..].lines().next().unwrap_or_default();
    let column = text[begin..start].chars().count() + 1;
    let width = text.get(span.start..span.end).unwrap_or_default().lines().next().unwrap_or_default().chars().count();
    Place::File { file: path.display().to_string(), line, column, text: whole.to_string(), width }
}

/// Names of the pipeline files in the folder of a file that is not there.
fn siblings(path: &Path) -> Vec<String> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml") && name != "Cargo.toml")
        .collect();
    names.sort();
    names
}

/// The layer of `HASHPIPE_TRAIN__HASHNET__EPOCHS=3`: two underscores stand for the dot of a key path.
///
/// Variables without them are settings of the runner (`HASHPIPE_JOBS`), not of a pipeline.
pub(super) fn env() -> Result<Layer> {
    let provider = Env::prefixed("HASHPIPE_").filter(|key| key.as_str().contains("__")).split("__");
    let data = provider.data().map_err(|e| Error::input(format!("environment: {e}")))?;
    Ok(Layer { origin: Origin::Env, value: first_profile(data) })
}

/// The layer of `--set key.path=value`; a value that is not TOML is taken as a string.
pub(super) fn set(argument: &str) -> Result<Layer> {
    let place = || Place::Argument(format!("--set {argument}"));
    let wrong = |message: &str| {
        Error::input(message)
            .at(place())
            .hint("write `--set train.hashnet.epochs=3`, or a list as in `--set train.hashnet.bits=[16,64]`")
    };
    let (key, value) = argument.split_once('=').ok_or_else(|| wrong("`--set` needs `key=value`"))?;
    let keys =
        toml_edit::Key::parse(key.trim()).map_err(|e| wrong(&format!("`{key}` is not a key: {}", e.message())))?;
    let typed = Toml::string(argument).data().map(first_profile);
    let value = typed.unwrap_or_else(|_| {
        keys.iter().rev().fold(Value::String(value.trim().to_string()), |value, key| {
            Value::Object(Map::from_iter([(key.get().to_string(), value)]))
        })
    });
    Ok(Layer { origin: Origin::Set(argument.to_string()), value })
}

fn first_profile(data: figment::value::Map<figment::Profile, figment::value::Dict>) -> Value {
    let dict = data.into_values().next().unwrap_or_default();
    serde_json::to_value(dict).unwrap_or_default()
}

/// The value at `path`.
pub(super) fn lookup<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Lays `upper` over `lower`. Tables merge key by key; anything else is replaced.
///
/// A table that says its `name` (a choice such as a loss) or `by` (a value per sweep point) is taken whole: mixing the
/// keys of two choices would give one with the other's settings.
pub(super) fn merge(lower: &mut Value, upper: Value, depth: usize) {
    const INSIDE_A_STAGE: usize = 3;
    match (lower, upper) {
        (Value::Object(lower), Value::Object(upper)) => {
            if depth >= INSIDE_A_STAGE && (upper.contains_key("name") || upper.contains_key("by")) {
                *lower = upper;
                return;
            }
            for (key, value) in upper {
                merge(lower.entry(key).or_insert(Value::Null), value, depth + 1);
            }
        }
        (lower, upper) => *lower = upper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_choice_is_taken_whole_and_other_tables_merge() {
        let mut lower =
            json!({"train": {"a": {"loss": {"name": "dsh", "alpha": 0.7}, "optimizer": {"lr": 1, "momentum": 2}}}});
        let upper = json!({"train": {"a": {"loss": {"name": "hashnet"}, "optimizer": {"lr": 3}}}});
        merge(&mut lower, upper, 0);
        let expected = json!({"train": {"a": {"loss": {"name": "hashnet"}, "optimizer": {"lr": 3, "momentum": 2}}}});
        assert_eq!(lower, expected);
    }

    #[test]
    fn settings_on_the_command_line_are_typed() {
        assert_eq!(set("train.a.epochs=3").unwrap().value, json!({"train": {"a": {"epochs": 3}}}));
        assert_eq!(set("train.a.bits=[16, 64]").unwrap().value, json!({"train": {"a": {"bits": [16, 64]}}}));
        assert_eq!(set("vars.root=../data/coco").unwrap().value, json!({"vars": {"root": "../data/coco"}}));
        assert!(set("epochs").is_err());
    }
}
