//! What a run found, as a table, as `report.md` and as `report.json`.

use super::outputs::task_folder;
use super::{duration, table};
use crate::cache::{Actions, write_aside};
use crate::error::Result;
use crate::plan::{Axes, Plan, Task, TaskId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One row per evaluated point of a pipeline.
pub struct Summary {
    pipeline: String,
    folder: PathBuf,
    rows: Vec<Row>,
    /// Task and text of every warning that its result came with.
    warnings: Vec<(String, String)>,
}

struct Row {
    task: String,
    axes: Axes,
    metrics: BTreeMap<String, f64>,
    /// Kind of stage to the wall time of its tasks for this row, whenever they ran.
    seconds: BTreeMap<&'static str, f64>,
    files: Vec<PathBuf>,
}

/// A row's text in one column.
type Cell = Box<dyn Fn(&Row) -> String>;

impl Summary {
    /// Gathers the rows from the results that are there.
    pub fn new(plan: &Plan, results: &Actions, folder: &Path) -> Self {
        let measured = plan.tasks.iter().filter(|task| {
            results.get(&task.id).is_some_and(|action| !action.metrics.is_empty()) && task.kind.name == "evaluate"
        });
        let mut rows: Vec<(Vec<SortKey>, Row)> = measured
            .map(|task| (task.axes.values().map(SortKey::of).collect(), Row::new(plan, results, folder, task)))
            .collect();
        rows.sort_by(|a, b| (&a.0, &a.1.task).partial_cmp(&(&b.0, &b.1.task)).unwrap_or(std::cmp::Ordering::Equal));
        Self {
            pipeline: plan.pipeline.clone(),
            folder: folder.to_path_buf(),
            rows: rows.into_iter().map(|(_, row)| row).collect(),
            warnings: warnings(plan, results),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The columns of the table: heading, and a row's cell.
    fn columns(&self) -> Vec<(String, Cell)> {
        let names = |pick: fn(&Row) -> Vec<&str>| -> BTreeSet<&str> { self.rows.iter().flat_map(pick).collect() };
        let mut columns: Vec<(String, Cell)> = vec![];
        if names(|row| vec![row.stage()]).len() > 1 {
            columns.push(("stage".into(), Box::new(|row| row.stage().to_string())));
        }
        for axis in names(|row| row.axes.keys().map(String::as_str).collect()) {
            let own = axis.to_string();
            columns.push((axis.into(), Box::new(move |row| row.axes.get(&own).map_or(String::new(), value_text))));
        }
        let mut metrics: Vec<&str> =
            names(|row| row.metrics.keys().map(String::as_str).collect()).into_iter().collect();
        // What is measured first, what it is to be compared with last.
        metrics.sort_by_key(|name| (*name == "chance", !name.starts_with("mAP")));
        for metric in metrics {
            let own = metric.to_string();
            let cell = move |row: &Row| row.metrics.get(&own).map_or(String::new(), |value| format!("{value:.4}"));
            columns.push((metric.into(), Box::new(cell)));
        }
        let seen = names(|row| row.seconds.keys().copied().collect());
        for kind in crate::stage::STAGES.iter().map(|kind| kind.name).filter(|kind| seen.contains(kind)) {
            let cell = move |row: &Row| row.seconds.get(kind).map_or(String::new(), |seconds| duration(*seconds));
            columns.push((kind.into(), Box::new(cell)));
        }
        let files = |row: &Row| row.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        columns.push(("files".into(), Box::new(files)));
        columns
    }

    fn heads_and_cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = self.columns();
        let cells = self.rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect();
        (columns.into_iter().map(|(head, _)| head).collect(), cells)
    }

    /// The table a person reads.
    pub fn to_text(&self) -> String {
        let (heads, cells) = self.heads_and_cells();
        table(&heads.iter().map(String::as_str).collect::<Vec<_>>(), &cells)
    }

    fn to_markdown(&self) -> String {
        let (heads, cells) = self.heads_and_cells();
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> = heads.iter().map(|_| "---".to_string()).collect();
        let body: String = cells.iter().map(|cells| row(cells)).collect();
        format!(
            "# {}\n\n{}{}{body}\nTimes are those of the tasks when they ran; shared tasks count in every row.\n{}",
            self.pipeline,
            row(&heads),
            row(&rule),
            self.warnings_as_markdown()
        )
    }

    fn warnings_as_markdown(&self) -> String {
        let items: String = self.warnings.iter().map(|(task, text)| format!("- {task}: {text}\n")).collect();
        if items.is_empty() { items } else { format!("\n## To know\n\n{items}") }
    }

    /// The same for a script.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "task": row.task, "axes": row.axes, "metrics": row.metrics,
                "seconds": row.seconds, "files": row.files,
            })
        });
        json!({ "event": "report", "pipeline": self.pipeline, "rows": rows.collect::<Vec<_>>(), "warnings": self.warnings })
    }

    /// Writes `report.md` and `report.json`, and gives the path of the former.
    pub fn write(&self) -> Result<PathBuf> {
        let path = self.folder.join("report.md");
        let json = serde_json::to_string_pretty(&self.to_json()).expect("a report is plain data");
        for (path, text) in [(self.folder.join("report.json"), json), (path.clone(), self.to_markdown())] {
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                write_aside(&path, text.as_bytes())?;
            }
        }
        Ok(path)
    }
}

impl Row {
    /// The task's stage, without its point.
    fn stage(&self) -> &str {
        self.task.split('@').next().unwrap_or(&self.task)
    }

    fn new(plan: &Plan, results: &Actions, folder: &Path, task: &Task) -> Self {
        let mut related: BTreeSet<TaskId> = plan.graph.with_needs(&[task.id]).into_iter().collect();
        // What else was made of the very networks that are measured here.
        let networks: Vec<TaskId> = related.iter().copied().filter(|id| plan.task(*id).kind.name == "train").collect();
        let exports = plan.tasks.iter().filter(|other| other.kind.name == "export");
        related.extend(
            exports.map(|other| other.id).filter(|id| plan.graph.needs(*id).iter().any(|need| networks.contains(need))),
        );
        let mut seconds = BTreeMap::new();
        let mut files = vec![];
        for id in related {
            let (other, Some(action)) = (plan.task(id), results.get(&id)) else { continue };
            *seconds.entry(other.kind.name).or_insert(0.0) += action.seconds;
            if other.kind.name == "export" {
                files.push(task_folder(folder, other));
            }
        }
        if files.is_empty() {
            files.push(task_folder(folder, task));
        }
        Self {
            task: task.name.clone(),
            axes: task.axes.clone(),
            metrics: results.get(&task.id).map(|action| action.metrics.clone()).unwrap_or_default(),
            seconds,
            files,
        }
    }
}

/// What the results came with that a person should know, whenever they were made.
fn warnings(plan: &Plan, results: &Actions) -> Vec<(String, String)> {
    let of = |task: &Task| {
        let texts = results.get(&task.id).map(|action| action.warnings.clone()).unwrap_or_default();
        texts.into_iter().map(|text| (task.name.clone(), text)).collect::<Vec<_>>()
    };
    plan.tasks.iter().flat_map(of).collect()
}

/// A point's value without the quotes of a string.
fn value_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// Numbers by value, words by spelling.
#[derive(PartialEq, PartialOrd)]
enum SortKey {
    Number(f64),
    Word(String),
}

impl SortKey {
    fn of(value: &Value) -> Self {
        value.as_f64().map_or_else(|| Self::Word(value.to_string()), Self::Number)
    }
}
