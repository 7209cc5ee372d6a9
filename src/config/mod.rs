//! Pipeline text to one table of values, each with the place it was written.
//!
//! Layers, later ones over earlier ones: what `extends` names, the file, its profile, `HASHPIPE_*` variables, `--set`.
//! Defaults are those of the parameter structs. Knows the form of a pipeline file, not what its stages mean.

mod layer;
mod resources;

pub use layer::Mark;

use crate::error::{Error, Place, Result};
use crate::names::{is_name, known_or_nearest};
use layer::{Layer, Origin, Source};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of a pipeline file that are not kinds of stages.
pub const TOP_KEYS: &[&str] = &["name", "about", "extends", "vars", "profile", "resources", "obtain"];

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub file: PathBuf,
    pub profile: Option<String>,
    /// Arguments of `--set`, in order.
    pub sets: Vec<String>,
}

/// A pipeline's settings, merged.
pub struct Config {
    /// The pipeline's name, with its profile if there is one: its folder in `output/`.
    pub name: String,
    pub file: PathBuf,
    /// Folder that relative paths are taken from, and that holds `cache/` and `output/`; empty for the present one.
    pub project: PathBuf,
    tree: Map<String, Value>,
    places: Places,
}

/// Where everything of a pipeline was written. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Vec<Layer>>);

impl Places {
    /// The files among the layers, with their texts.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.0.iter().filter_map(|layer| match &layer.origin {
            Origin::File { source, .. } => Some((source.path.as_path(), source.text())),
            Origin::Env | Origin::Set(_) => None,
        })
    }

    /// Where the key or value at `path` was last written; the nearest table above it if it was not written at all.
    pub fn place(&self, path: &[&str], mark: Mark) -> Option<Place> {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        (1..=path.len()).rev().find_map(|depth| {
            let mark = if depth == path.len() { mark } else { Mark::Key };
            self.0.iter().rev().find_map(|layer| place_in(layer, &path[..depth], mark))
        })
    }
}

impl Config {
    /// Reads a pipeline and everything laid over it.
    pub fn load(request: &Request) -> Result<Self> {
        let mut layers = files(&request.file)?;
        if let Some(profile) = &request.profile {
            let found = profiles(&layers, profile)?;
            layers.extend(found);
        }
        layers.push(layer::env()?);
        for argument in &request.sets {
            let layer = layer::set(argument)?;
            if layer.value.get("extends").is_some() {
                return Err(Error::input("`extends` can only be set in a file")
                    .at(Place::Argument(format!("--set {argument}"))));
            }
            layers.push(layer);
        }
        let mut tree = Value::Object(Map::new());
        for layer in &mut layers {
            let value = match layer.origin {
                Origin::File { .. } => std::mem::take(&mut layer.value),
                Origin::Env | Origin::Set(_) => layer.value.clone(),
            };
            layer::merge(&mut tree, value, 0);
        }
        let Value::Object(tree) = tree else { unreachable!("merging tables gives a table") };
        let mut config = Self {
            name: String::new(),
            file: request.file.clone(),
            project: project_of(&request.file)?,
            tree,
            places: Places(Arc::new(layers)),
        };
        let mut errors = config.check_top();
        if let Some(profile) = &request.profile {
            // A pipeline of its own: neither its report nor its history takes the place of the full one's.
            config.name = format!("{}-{profile}", config.name);
        }
        errors.extend(config.fill_in_vars());
        errors.extend(config.check_resources());
        match Error::all(errors) {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }

    /// The tables of a kind of stage: (name, table), sorted by name.
    pub fn stages(&self, kind: &str) -> impl Iterator<Item = (&str, &Value)> {
        let tables = self.tree.get(kind).and_then(Value::as_object);
        tables.into_iter().flatten().map(|(name, table)| (name.as_str(), table))
    }

    /// Where the key or value at `path` was last written; the nearest table above it if it was not written at all.
    pub fn place(&self, path: &[&str], mark: Mark) -> Option<Place> {
        self.places.place(path, mark)
    }

    /// Where everything was written, for whoever outlives the settings.
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// Text that tells how to get what a stage needs, from `[obtain]`.
    pub fn obtain(&self, kind: &str, name: &str) -> Option<&str> {
        self.tree.get("obtain")?.get(kind)?.get(name)?.as_str()
    }

    /// Faults outside the stage tables.
    fn check_top(&mut self) -> Vec<Error> {
        let mut errors = vec![];
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match self.tree.get("name") {
            None => self.name = stem,
            Some(Value::String(name)) if is_name(name) => self.name.clone_from(name),
            Some(other) => errors.push(
                Error::input(format!("`name` must be letters, digits, `-` and `_`, not {other}"))
                    .at(self.place(&["name"], Mark::Value))
                    .note("it names a folder in `output/`"),
            ),
        }
        for key in ["about", "extends"] {
            if self.tree.get(key).is_some_and(|value| !value.is_string()) {
                errors.push(Error::input(format!("`{key}` must be a string")).at(self.place(&[key], Mark::Value)));
            }
        }
        for key in ["vars", "profile", "resources", "obtain"] {
            if self.tree.get(key).is_some_and(|value| !value.is_object()) {
                errors.push(Error::input(format!("`{key}` must be a table")).at(self.place(&[key], Mark::Key)));
            }
        }
        errors
    }

    /// Replaces `{vars.name}` in every string of the stage tables.
    fn fill_in_vars(&mut self) -> Vec<Error> {
        let mut errors = vec![];
        let vars = self.resolve_vars(&mut errors);
        let mut tree = std::mem::take(&mut self.tree);
        for (key, value) in tree.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "vars" | "profile")) {
            self.fill(value, &mut vec![key.clone()], &vars, &mut errors);
        }
        self.tree = tree;
        errors
    }

    /// The variables, with those that name others filled in.
    fn resolve_vars(&self, errors: &mut Vec<Error>) -> Map<String, Value> {
        let mut vars = self.tree.get("vars").and_then(Value::as_object).cloned().unwrap_or_default();
        // Each pass fills in one level. What still names a variable after as many passes as there are variables, goes
        // round in a circle.
        for _ in 0..=vars.len() {
            let before = vars.clone();
            for (name, value) in &mut vars {
                let mut told = vec![];
                self.fill(value, &mut vec!["vars".into(), name.clone()], &before, &mut told);
                if errors.is_empty() {
                    errors.extend(told);
                }
            }
            if vars == before {
                break;
            }
        }
        let circle = vars.iter().find(|(_, value)| value.as_str().is_some_and(|text| text.contains(OPEN)));
        if let Some((name, _)) = circle
            && errors.is_empty()
        {
            let place = self.place(&["vars", name], Mark::Value);
            errors.push(Error::input(format!("the variable `{name}` is defined by itself")).at(place));
        }
        vars
    }

    fn fill(&self, value: &mut Value, path: &mut Vec<String>, vars: &Map<String, Value>, errors: &mut Vec<Error>) {
        match value {
            Value::String(text) => match fill_text(text, vars) {
                Ok(filled) => *text = filled,
                Err(name) => {
                    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
                    let error = Error::input(format!("there is no `{name}` in `[vars]`"));
                    errors.push(error.at(self.place(&steps, Mark::Value)).hint(known_or_nearest(
                        &name,
                        &vars.keys().map(String::as_str).collect::<Vec<_>>(),
                        "variables",
                    )));
                }
            },
            Value::Object(map) => {
                for (key, value) in map {
                    path.push(key.clone());
                    self.fill(value, path, vars, errors);
                    path.pop();
                }
            }
            Value::Array(items) => {
                for (i, value) in items.iter_mut().enumerate() {
                    path.push(i.to_string());
                    self.fill(value, path, vars, errors);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// Names in `[resources]` and `[obtain]` that no stage has.
    pub fn unknown_subjects(&self, kinds: &[&str], ids: &[String]) -> Vec<Error> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut errors = self.unknown_in_resources(kinds, &ids);
        for (kind, texts) in self.tree.get("obtain").and_then(Value::as_object).into_iter().flatten() {
            for (name, text) in texts.as_object().into_iter().flatten() {
                let (id, place) = (format!("{kind}.{name}"), self.place(&["obtain", kind, name], Mark::Key));
                if !ids.contains(&id.as_str()) {
                    let error = Error::input(format!("`[obtain]` speaks of `{id}`, which is no stage"));
                    errors.push(error.at(place).hint(known_or_nearest(&id, &ids, "stages")));
                } else if !text.is_string() {
                    errors.push(Error::input(format!("`[obtain]` of `{id}` must be a string")).at(place));
                }
            }
        }
        errors
    }

    /// Top-level keys that are neither settings nor one of the given kinds.
    pub fn unknown_top_keys(&self, kinds: &[&str]) -> Vec<Error> {
        let known: Vec<&str> = kinds.iter().chain(TOP_KEYS).copied().collect();
        let unknown = self.tree.keys().filter(|key| !known.contains(&key.as_str()));
        let plain = kinds.iter().filter(|kind| self.tree.get(**kind).is_some_and(|value| !value.is_object()));
        let plain = plain.map(|kind| {
            Error::input(format!("`{kind}` must be a table of stages"))
                .at(self.place(&[kind], Mark::Key))
                .hint(format!("write `[{kind}.some-name]` with its keys below"))
        });
        unknown
            .map(|key| {
                let what = if self.tree[key].is_object() { "unknown kind of stage" } else { "unknown key" };
                Error::input(format!("{what} `{key}`")).at(self.place(&[key], Mark::Key)).hint(known_or_nearest(
                    key,
                    &known,
                    if self.tree[key].is_object() { "kinds" } else { "keys" },
                ))
            })
            .chain(plain)
            .collect()
    }
}

/// What a variable's use begins with.
const OPEN: &str = "{vars.";

/// The text with each `{vars.name}` replaced, or the first name that is unknown.
fn fill_text(text: &str, vars: &Map<String, Value>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once('}') else { break };
        out.push_str(before);
        match vars.get(name) {
            Some(Value::String(value)) => out.push_str(value),
            Some(value) => out.push_str(&value.to_string()),
            None => return Err(name.to_string()),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn place_in(layer: &Layer, path: &[String], mark: Mark) -> Option<Place> {
    if !matches!(layer.origin, Origin::File { .. }) {
        layer::lookup(&layer.value, path)?;
    }
    match &layer.origin {
        Origin::File { source, prefix } => source.place(&[prefix.as_slice(), path].concat(), mark),
        Origin::Env => Some(Place::Argument(format!("HASHPIPE_{}", path.join("__").to_uppercase()))),
        Origin::Set(argument) => Some(Place::Argument(format!("--set {argument}"))),
    }
}

/// The file and what it extends, the farthest base first.
fn files(file: &Path) -> Result<Vec<Layer>> {
    let (mut layers, mut seen) = (vec![], vec![]);
    let mut next = Some((file.to_path_buf(), None::<Place>));
    while let Some((path, named_at)) = next.take() {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if seen.contains(&real) {
            return Err(Error::input(format!("`{}` extends itself", path.display())).at(named_at));
        }
        seen.push(real);
        let (source, value) = Source::read(&path).map_err(|e| match named_at {
            Some(place) if !path.exists() => e.at(place),
            _ => e,
        })?;
        let source = Arc::new(source);
        if let Some(Value::String(base)) = value.get("extends") {
            let place = source.place(&["extends".to_string()], Mark::Value);
            next = Some((path.parent().unwrap_or(Path::new("")).join(base), place));
        }
        layers.insert(0, Layer { origin: Origin::File { source, prefix: vec![] }, value });
    }
    Ok(layers)
}

/// The layers of a profile, from every file that has one of that name.
fn profiles(layers: &[Layer], profile: &str) -> Result<Vec<Layer>> {
    let (mut found, mut known) = (vec![], vec![]);
    for layer in layers {
        let Origin::File { source, .. } = &layer.origin else { continue };
        let Some(tables) = layer.value.get("profile").and_then(Value::as_object) else { continue };
        known.extend(tables.keys().cloned());
        if let Some(value) = tables.get(profile) {
            if !value.is_object() || value.get("extends").is_some() {
                let path = ["profile".to_string(), profile.to_string()];
                return Err(Error::input(format!("the profile `{profile}` must be tables of values"))
                    .at(source.place(&path, Mark::Key))
                    .hint("a profile lies over one pipeline: it cannot extend another"));
            }
            let prefix = vec!["profile".to_string(), profile.to_string()];
            found.push(Layer { origin: Origin::File { source: source.clone(), prefix }, value: value.clone() });
        }
    }
    if found.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(Error::input(format!("there is no profile `{profile}`"))
            .at(Place::Argument(format!("--profile {profile}")))
            .hint(known_or_nearest(profile, &known, "profiles")));
    }
    Ok(found)
}

/// The folder that relative paths of a pipeline file are taken from; empty for the present one.
///
/// # Errors
/// If the present folder cannot be found.
pub fn project(file: &Path) -> Result<PathBuf> {
    project_of(file)
}

/// The folder that holds `pipelines/`, if the file lies in one; otherwise the file's own folder.
fn project_of(file: &Path) -> Result<PathBuf> {
    let real = std::path::absolute(file).map_err(|e| Error::io("find", file, &e))?;
    let pipelines = real.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "pipelines"));
    let project = pipelines.and_then(Path::parent).or(real.parent()).unwrap_or(Path::new("/"));
    // Short paths in messages: relative to where the user stands, if that is where the project is.
    let here = std::env::current_dir().unwrap_or_default();
    Ok(if project == here { PathBuf::new() } else { project.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)], profile: Option<&str>, sets: &[&str]) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Config::load(&Request {
            file: folder.path().join(files[0].0),
            profile: profile.map(str::to_string),
            sets: sets.iter().map(ToString::to_string).collect(),
        })
    }

    fn value(config: &Config) -> i64 {
        config.stages("train").next().unwrap().1["epochs"].as_i64().unwrap()
    }

    #[test]
    fn later_layers_win() {
        let base = ("base.toml", "[train.a]\nepochs = 1\nbits = 8\n[profile.lite.train.a]\nepochs = 2");
        let file = ("p.toml", "extends = \"base.toml\"\n[train.a]\nepochs = 3");
        assert_eq!(value(&load(&[file, base], None, &[]).unwrap()), 3);
        assert_eq!(value(&load(&[file, base], Some("lite"), &[]).unwrap()), 2);
        let set = load(&[file, base], Some("lite"), &["train.a.epochs=5"]).unwrap();
        assert_eq!(value(&set), 5);
        assert_eq!(
            set.place(&["train", "a", "epochs"], Mark::Key),
            Some(Place::Argument("--set train.a.epochs=5".into()))
        );
        let Some(Place::File { line, column, text, .. }) = set.place(&["train", "a", "bits"], Mark::Value) else {
            panic!("no place")
        };
        assert_eq!((line, column, text.as_str()), (3, 8, "bits = 8"));
    }

    #[test]
    fn variables_are_filled_in_and_unknown_ones_are_told() {
        let text = "[vars]\nroot = \"data\"\n[lists.a]\nx = \"{vars.root}/a\"";
        let config = load(&[("p.toml", text)], None, &["vars.root=else"]).unwrap();
        assert_eq!(config.stages("lists").next().unwrap().1["x"], "else/a");
        let nested = text.replace("root = \"data\"", "root = \"{vars.base}/x\"\nbase = \"b\"");
        assert_eq!(load(&[("p.toml", &nested)], None, &[]).unwrap().stages("lists").next().unwrap().1["x"], "b/x/a");
        let circle = text.replace("root = \"data\"", "root = \"{vars.base}\"\nbase = \"{vars.root}\"");
        assert!(load(&[("p.toml", &circle)], None, &[]).err().unwrap().message().contains("defined by itself"));
        let error = load(&[("p.toml", &text.replace("{vars.root}", "{vars.rot}"))], None, &[]).err().unwrap();
        assert!(error.render("error").contains("did you mean `root`?"), "{}", error.render("error"));
    }

    #[test]
    fn a_file_that_extends_itself_is_an_error() {
        let error =
            load(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "extends = 'a.toml'")], None, &[]).err().unwrap();
        assert!(error.message().contains("extends itself"));
    }
}
