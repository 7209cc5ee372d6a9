//! Settings to tasks: names resolved, sweeps unrolled, every fault of the file said at once.

mod check;
mod graph;
mod planner;
mod sweep;
mod target;

pub use graph::Graph;

use crate::amounts::{Host, Wants};
use crate::config::{Config, Mark, Places};
use crate::error::{Error, Place, Result};
use crate::names::known_or_nearest;
use crate::stage::{Kind, Ref, Stage};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    /// Outputs that are put at a path of the user's.
    pub puts: Vec<(String, PathBuf)>,
    /// How to get what it needs, in the pipeline's words.
    pub obtain: Option<String>,
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Output { task: TaskId, port: String },
    Path { path: PathBuf },
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
    /// What is not wrong but probably not meant.
    pub remarks: Vec<Error>,
    places: Places,
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
        planner::plan(config)
    }

    pub fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.0]
    }

    /// The files it was read from, with their texts.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.places.texts()
    }

    /// Where a parameter of a task, `optimizer.lr`, was written.
    pub fn place(&self, task: &Task, key_path: &str, mark: Mark) -> Option<Place> {
        let steps = task.stage.split('.').chain(key_path.split('.').filter(|step| !step.is_empty()));
        self.places.place(&steps.collect::<Vec<_>>(), mark)
    }

    /// Where a reference of a task was written.
    pub fn place_of_ref(&self, task: &Task, text: &str) -> Option<Place> {
        let (path, _) = refs_in(&task.params).into_iter().find(|(_, found)| found == text)?;
        self.place(task, &path.join("."), Mark::Value)
    }

    /// The tasks that `pattern` means: a task (`train.a@bits=16`), a stage (`train.a`), or a kind (`train`). All tasks
    /// of an axis may be written as in references, `train.a@bits=*`.
    pub fn select(&self, pattern: &str) -> Result<Vec<TaskId>> {
        let (stage, points) = pattern.split_once('@').unwrap_or((pattern, ""));
        let wanted: Vec<&str> = points.split(',').filter(|p| !p.is_empty()).collect();
        let found: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|task| task.stage == stage || task.kind.name == stage)
            .filter(|task| {
                let points: Vec<String> = task.axes.iter().map(|(a, v)| point_text(a, v)).collect();
                wanted.iter().all(|point| points.iter().any(|p| is_at(p, point)))
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

/// Whether a point is the one that is meant, or one of an axis of which all are: `bits=*`.
fn is_at(point: &str, meant: &str) -> bool {
    let all = meant.strip_suffix(target::ALL).filter(|axis| axis.ends_with('='));
    point == meant || all.is_some_and(|axis| point.starts_with(axis))
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
