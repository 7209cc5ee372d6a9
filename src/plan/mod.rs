//! Settings to tasks: names resolved, sweeps unrolled, every fault of the file said at once.

mod check;
mod graph;
mod sweep;
mod target;

pub use graph::Graph;

use crate::amounts::{Host, Wants};
use crate::config::{Config, Mark};
use crate::error::{Error, Place, Result};
use crate::names::{is_name, known_or_nearest};
use crate::stage::{Kind, Ref, STAGES, Stage};
use check::Found;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use target::Text;

/// A task's number in its plan; smaller ones never need larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub usize);

/// The point of a sweep a task stands at: axis name to value.
pub type Axes = BTreeMap<String, Value>;

/// A stage ready to be run: single values, resolved inputs.
pub struct Task {
    pub id: TaskId,
    /// `train.hashnet@bits=16`
    pub name: String,
    /// `train.hashnet`
    pub stage: String,
    pub kind: &'static Kind,
    pub axes: Axes,
    pub step: Box<dyn Stage>,
    /// Every parameter, references as `{"$ref": ..}`.
    pub params: Value,
    /// What each reference means, by its text.
    pub inputs: BTreeMap<String, Target>,
    /// What it occupies while it runs.
    pub wants: Wants,
    /// How to get what it needs, in the pipeline's words.
    pub obtain: Option<String>,
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Output { task: TaskId, port: String },
    Path { path: PathBuf, place: Option<Place> },
}

/// All tasks of a pipeline.
pub struct Plan {
    pub pipeline: String,
    pub file: PathBuf,
    pub project: PathBuf,
    /// What the machine has, in the file's words.
    pub host: Host,
    /// In an order in which each comes after what it needs.
    pub tasks: Vec<Task>,
    pub graph: Graph,
}

/// `bits=64`: how a point is written in ids.
pub fn point_text(axis: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{axis}={text}"),
        other => format!("{axis}={other}"),
    }
}

impl Plan {
    /// Plans every stage of a pipeline.
    pub fn new(config: &Config) -> Result<Self> {
        Planner::new(config).plan()
    }

    pub fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.0]
    }

    /// The tasks that `pattern` means: a task (`train.a@bits=16`), a stage (`train.a`), or a kind (`train`).
    pub fn select(&self, pattern: &str) -> Result<Vec<TaskId>> {
        let (stage, points) = pattern.split_once('@').unwrap_or((pattern, ""));
        let wanted: Vec<&str> = points.split(',').filter(|p| !p.is_empty()).collect();
        let found: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|task| task.stage == stage || task.kind.name == stage)
            .filter(|task| {
                let points: Vec<String> = task.axes.iter().map(|(a, v)| point_text(a, v)).collect();
                wanted.iter().all(|point| points.iter().any(|p| p == point))
            })
            .map(|task| task.id)
            .collect();
        if found.is_empty() {
            let names = self.tasks.iter().flat_map(|task| [task.kind.name, task.stage.as_str(), task.name.as_str()]);
            let known: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
            return Err(Error::input(format!("`{}` has no stage `{pattern}`", self.pipeline))
                .hint(known_or_nearest(pattern, &known, "stages")));
        }
        Ok(found)
    }
}

/// A stage table that passed its check.
struct Sound<'a> {
    kind: &'static Kind,
    name: &'a str,
    table: &'a Value,
    found: Found,
}

impl Sound<'_> {
    fn id(&self) -> String {
        format!("{}.{}", self.kind.name, self.name)
    }
}

struct Planner<'a> {
    config: &'a Config,
    errors: Vec<Error>,
    tasks: Vec<Task>,
    graph: Graph,
}

impl<'a> Planner<'a> {
    fn new(config: &'a Config) -> Self {
        Self { config, errors: vec![], tasks: vec![], graph: Graph::default() }
    }

    fn plan(mut self) -> Result<Plan> {
        let kinds: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
        self.errors.extend(self.config.unknown_top_keys(&kinds));
        let (sound, ids) = self.check_tables();
        if ids.is_empty() && self.errors.is_empty() {
            self.errors.push(
                Error::input(format!("`{}` has no stages", self.config.file.display()))
                    .hint(format!("add a table such as `[lists.name]`; kinds: {}", kinds.join(", "))),
            );
        }
        self.errors.extend(self.config.unknown_subjects(&kinds, &ids));
        let edges = self.edges(&sound, &ids);
        match graph::order(sound.len(), &edges) {
            Ok(order) => {
                for position in order {
                    self.unroll(&sound[position]);
                }
            }
            Err(cycles) => self.cycles(&sound, &cycles),
        }
        match Error::all(self.errors) {
            Some(error) => Err(error),
            None => Ok(Plan {
                pipeline: self.config.name.clone(),
                file: self.config.file.clone(),
                project: self.config.project.clone(),
                host: self.config.host(),
                tasks: self.tasks,
                graph: self.graph,
            }),
        }
    }

    /// Checks each table by itself; gives those without faults, and the ids of all.
    fn check_tables(&mut self) -> (Vec<Sound<'a>>, Vec<String>) {
        let (mut sound, mut ids) = (vec![], vec![]);
        let config = self.config;
        let tables =
            STAGES.iter().flat_map(|kind| config.stages(kind.name).map(move |(name, table)| (kind, name, table)));
        for (kind, name, table) in tables {
            ids.push(format!("{}.{name}", kind.name));
            if !is_name(name) || !table.is_object() {
                let fault = if table.is_object() {
                    "has a name with other characters than letters, digits, `-`, `_`"
                } else {
                    "is not a table"
                };
                let error = Error::input(format!("`{}.{name}` {fault}", kind.name))
                    .hint(format!("write `[{}.some-name]` with its keys below", kind.name));
                self.errors.push(error.at(self.config.place(&[kind.name, name], Mark::Key)));
                continue;
            }
            let mut found = check::check(self.config, kind.name, name, &kind.shape(), table);
            let faults = std::mem::take(&mut found.errors);
            if faults.is_empty() {
                sound.push(Sound { kind, name, table, found });
            }
            self.errors.extend(faults);
        }
        (sound, ids)
    }

    /// Who needs whom, as positions in `sound`; references to stages that do not exist are errors.
    fn edges(&mut self, sound: &[Sound], ids: &[String]) -> Vec<(usize, usize)> {
        let mut edges = vec![];
        for (to, stage) in sound.iter().enumerate() {
            for (path, text) in &stage.found.refs {
                let Text::Output { stage: needed, .. } = target::parse(text) else { continue };
                match sound.iter().position(|other| other.id() == needed) {
                    Some(from) => edges.push((from, to)),
                    // It exists but has faults of its own, which are told already.
                    None if ids.contains(&needed) => {}
                    None => {
                        let known: Vec<&str> = ids.iter().map(String::as_str).collect();
                        let error = Error::input(format!("there is no stage `{needed}`"))
                            .hint(known_or_nearest(&needed, &known, "stages"));
                        self.add(error, stage, path, Mark::Value);
                    }
                }
            }
        }
        edges
    }

    fn cycles(&mut self, sound: &[Sound], cycles: &[Vec<usize>]) {
        for cycle in cycles {
            let mut names: Vec<String> = cycle.iter().map(|i| sound[*i].id()).collect();
            names.push(names[0].clone());
            let first = &sound[cycle[0]];
            let needed = &names[1];
            let path = first
                .found
                .refs
                .iter()
                .find(|(_, text)| text.starts_with(needed.as_str()))
                .map(|(path, _)| path.clone());
            let error = Error::input(format!("stages need each other: {}", names.join(" -> ")))
                .note("an arrow reads \"needs\"")
                .hint("one of them must take its input from somewhere else");
            self.add(error, first, &path.unwrap_or_default(), Mark::Value);
        }
    }

    /// Plans the tasks of one stage; what it needs is planned already.
    fn unroll(&mut self, stage: &Sound) {
        // A stage whose inputs could not be planned has nothing to join with; the cause is told already.
        let missing = stage.found.refs.iter().any(|(_, text)| match target::parse(text) {
            Text::Output { stage, .. } => !self.tasks.iter().any(|task| task.stage == stage),
            Text::Path(_) => false,
        });
        if missing || self.check_points(stage) {
            return;
        }
        let known: Vec<sweep::Known> =
            self.tasks.iter().map(|t| sweep::Known { id: t.id, stage: &t.stage, axes: &t.axes }).collect();
        let mut refs: Vec<Vec<String>> =
            stage.found.refs.iter().map(|(path, _)| swept_path(path, &stage.found)).collect();
        refs.dedup();
        match sweep::unroll(stage.table, &stage.found.axes, &stage.found.by, &refs, &known) {
            Ok(points) => {
                for point in points {
                    self.task(stage, point);
                }
            }
            Err(fault) => self.add(Error::input(fault.message), stage, &fault.path, Mark::Value),
        }
    }

    /// Tells points of references that name no axis of the stage they pick from; whether there are any.
    fn check_points(&mut self, stage: &Sound) -> bool {
        let before = self.errors.len();
        for (path, text) in &stage.found.refs {
            let Text::Output { stage: needed, select, .. } = target::parse(text) else { continue };
            let axes: Vec<String> = self
                .tasks
                .iter()
                .find(|task| task.stage == needed)
                .into_iter()
                .flat_map(|t| t.axes.keys().cloned())
                .collect();
            for (axis, _) in select.iter().filter(|(axis, _)| !axes.contains(axis)) {
                let known: Vec<&str> = axes.iter().map(String::as_str).collect();
                let error = Error::input(format!("`{needed}` is not swept over `{axis}`"))
                    .note("a point is picked as in \"train.name@bits=64/model\"")
                    .hint(known_or_nearest(axis, &known, "axes"));
                self.add(error, stage, path, Mark::Value);
            }
        }
        self.errors.len() > before
    }

    fn task(&mut self, stage: &Sound, point: sweep::Point) {
        let parsed = match stage.kind.parse(&point.table) {
            Ok(parsed) => parsed,
            Err(e) => {
                for e in *e {
                    let path = e.path.clone();
                    self.add(Error::input(e.kind.to_string()), stage, &path, Mark::Value);
                }
                return;
            }
        };
        let before = self.errors.len();
        for (key, error) in parsed.stage.check() {
            self.add(error, stage, &[key.to_string()], Mark::Key);
        }
        let inputs = self.inputs(stage, &parsed.params, &point);
        if self.errors.len() > before {
            // Further points of the sweep would only repeat it; they are checked once this is mended.
            self.dedup_errors(before);
            return;
        }
        let needs: Vec<TaskId> = point.inputs.values().copied().collect();
        let points: Vec<String> = point.axes.iter().map(|(axis, value)| point_text(axis, value)).collect();
        let name = if points.is_empty() { stage.id() } else { format!("{}@{}", stage.id(), points.join(",")) };
        self.tasks.push(Task {
            id: self.graph.add(&needs),
            name,
            stage: stage.id(),
            kind: stage.kind,
            axes: point.axes,
            step: parsed.stage,
            params: parsed.params,
            inputs,
            wants: self.config.wants(stage.kind.name, stage.name),
            obtain: self.config.obtain(stage.kind.name, stage.name).map(str::to_string),
        });
    }

    /// What every reference of a task means.
    fn inputs(&mut self, stage: &Sound, params: &Value, point: &sweep::Point) -> BTreeMap<String, Target> {
        let mut inputs = BTreeMap::new();
        for (path, text) in refs_in(params) {
            let target = match (target::parse(&text), point.inputs.get(&text)) {
                (Text::Output { port, stage: needed, .. }, Some(task)) => {
                    let ports = self.tasks[task.0].step.outputs();
                    if port.is_empty() {
                        let error = Error::input(format!("`{needed}` is a stage: say which of its outputs"))
                            .hint(format!("write \"{needed}/{}\"; its outputs: {}", ports[0], ports.join(", ")));
                        self.add(error, stage, &path, Mark::Value);
                    } else if !ports.contains(&port.as_str()) {
                        let error = Error::input(format!("`{needed}` has no output `{port}`"))
                            .hint(known_or_nearest(&port, &ports, "outputs"));
                        self.add(error, stage, &path, Mark::Value);
                    }
                    Target::Output { task: *task, port }
                }
                _ => {
                    Target::Path { path: self.config.project.join(&text), place: self.place(stage, &path, Mark::Value) }
                }
            };
            inputs.insert(text, target);
        }
        inputs
    }

    /// Drops errors since `before` that say again what an earlier one said.
    fn dedup_errors(&mut self, before: usize) {
        let fresh = self.errors.split_off(before);
        for error in fresh {
            let text = error.render("error");
            if !self.errors.iter().any(|known| known.render("error") == text) {
                self.errors.push(error);
            }
        }
    }

    fn add(&mut self, error: Error, stage: &Sound, path: &[String], mark: Mark) {
        let place = self.place(stage, path, mark);
        self.errors.push(error.at(place));
    }

    fn place(&self, stage: &Sound, path: &[String], mark: Mark) -> Option<Place> {
        let steps: Vec<&str> =
            [stage.kind.name, stage.name].into_iter().chain(path.iter().map(String::as_str)).collect();
        self.config.place(&steps, mark)
    }
}

/// The path of a swept reference is that of the parameter, not of the element in its list.
fn swept_path(path: &[String], found: &Found) -> Vec<String> {
    match found.axes.iter().find(|axis| path.len() == axis.path.len() + 1 && path.starts_with(&axis.path)) {
        Some(axis) => axis.path.clone(),
        None => path.to_vec(),
    }
}

/// Every reference in serialized parameters, with its key path.
fn refs_in(params: &Value) -> Vec<(Vec<String>, String)> {
    fn walk(value: &Value, path: &mut Vec<String>, out: &mut Vec<(Vec<String>, String)>) {
        if let Some(text) = Ref::of(value) {
            out.push((path.clone(), text.to_string()));
            return;
        }
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
            _ => vec![],
        };
        for (step, value) in children {
            path.push(step);
            walk(value, path, out);
            path.pop();
        }
    }
    let mut out = vec![];
    walk(params, &mut vec![], &mut out);
    out
}
