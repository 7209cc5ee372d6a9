//! What a run found, as a table, as `report.md` and as `report.json`.

use super::form::{Form, Table};
use super::outputs::task_folder;
use super::spread::spread;
use super::tally::stage_of;
use super::{duration, metrics};
use crate::cache::{Actions, write_aside};
use crate::error::Result;
use crate::event::{Event, Report, Row, Seeds, Spread, Told};
use crate::plan::{Axes, Plan, Task, TaskId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The axis whose points are the same experiment, drawn by another lot.
const SEED: &str = "seed";

/// How a spread is to be read.
const OVER_SEEDS: &str =
    "Over seeds: mean ± half its 95 % interval (Student's t, n - 1 degrees of freedom); sd: standard deviation.";

/// One row per evaluated point of a pipeline.
pub struct Summary {
    report: Report,
    folder: PathBuf,
}

impl Summary {
    /// Gathers the rows from the results that are there.
    pub fn new(plan: &Plan, results: &Actions, folder: &Path) -> Self {
        let measured = plan.tasks.iter().filter(|task| {
            results.get(&task.id).is_some_and(|action| !action.metrics.is_empty()) && task.kind.name == "evaluate"
        });
        let mut rows: Vec<(Vec<SortKey>, Row)> = measured
            .map(|task| (task.axes.values().map(SortKey::of).collect(), row(plan, results, folder, task)))
            .collect();
        rows.sort_by(|a, b| (&a.0, &a.1.task).partial_cmp(&(&b.0, &b.1.task)).unwrap_or(std::cmp::Ordering::Equal));
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        let (pipeline, seeds, warnings) = (plan.pipeline.clone(), over_seeds(&rows), warnings(plan, results));
        Self { report: Report { pipeline, rows, seeds, warnings }, folder: folder.to_path_buf() }
    }

    pub fn is_empty(&self) -> bool {
        self.report.rows.is_empty()
    }

    /// The table a person reads.
    pub fn to_text(&self) -> String {
        let main = rows_table(&self.report.rows).to_form(Form::Text);
        if self.report.seeds.is_empty() {
            return main;
        }
        format!("{main}\n\n{OVER_SEEDS}\n{}", seeds_table(&self.report.seeds).to_form(Form::Text))
    }

    fn to_markdown(&self) -> String {
        let Report { pipeline, rows, seeds, warnings } = &self.report;
        let mut text = format!(
            "# {pipeline}\n\n{}\n\nTimes are those of the tasks when they ran; shared tasks count in every row.\n",
            rows_table(rows).to_form(Form::Markdown)
        );
        if !seeds.is_empty() {
            text += &format!("\n{OVER_SEEDS}\n\n{}\n", seeds_table(seeds).to_form(Form::Markdown));
        }
        if !warnings.is_empty() {
            let items: String = warnings.iter().map(|told| format!("- {}: {}\n", told.task, told.text)).collect();
            text += &format!("\n## To know\n\n{items}");
        }
        text
    }

    /// The same for a script.
    pub fn to_event(&self) -> Event {
        Event::Report(self.report.clone())
    }

    /// Writes `report.md` and `report.json`, and gives the path of the former.
    pub fn write(&self) -> Result<PathBuf> {
        let path = self.folder.join("report.md");
        let json = serde_json::to_string_pretty(&self.to_event()).expect("a report is plain data");
        for (path, text) in [(self.folder.join("report.json"), json), (path.clone(), self.to_markdown())] {
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                write_aside(&path, text.as_bytes())?;
            }
        }
        Ok(path)
    }
}

fn row(plan: &Plan, results: &Actions, folder: &Path, task: &Task) -> Row {
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
        *seconds.entry(other.kind.name.to_string()).or_insert(0.0) += action.seconds;
        if other.kind.name == "export" {
            files.push(task_folder(folder, other));
        }
    }
    if files.is_empty() {
        files.push(task_folder(folder, task));
    }
    Row {
        task: task.name.clone(),
        axes: task.axes.clone(),
        metrics: results.get(&task.id).map(|action| action.metrics.clone()).unwrap_or_default(),
        seconds,
        files,
    }
}

/// Rows that differ in nothing but the seed, taken together; of at least two seeds each.
fn over_seeds(rows: &[Row]) -> Vec<Seeds> {
    let mut groups: Vec<(&str, Axes, Vec<&Row>)> = vec![];
    for row in rows.iter().filter(|row| row.axes.contains_key(SEED)) {
        let mut axes = row.axes.clone();
        axes.remove(SEED);
        let stage = stage_of(&row.task);
        match groups.iter_mut().find(|group| (group.0, &group.1) == (stage, &axes)) {
            Some(group) => group.2.push(row),
            None => groups.push((stage, axes, vec![row])),
        }
    }
    let seeds = groups.into_iter().filter(|group| group.2.len() > 1).map(|(stage, axes, rows)| {
        let of = |name: &String| rows.iter().filter_map(|row| row.metrics.get(name).copied()).collect::<Vec<_>>();
        let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
        let metrics = names.into_iter().filter_map(|name| Some((name.clone(), spread(&of(name))?))).collect();
        Seeds { stage: stage.to_string(), axes, seeds: rows.len(), metrics }
    });
    seeds.collect()
}

/// A row's text in one column.
type Cell<R> = Box<dyn Fn(&R) -> String>;

fn tabled<R>(rows: &[R], columns: Vec<(String, Cell<R>)>) -> Table {
    let cells = rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect();
    Table { heads: columns.into_iter().map(|(head, _)| head).collect(), rows: cells }
}

/// Columns for the stage, where there are several, and for each axis.
fn points<R: 'static>(rows: &[R], stage: fn(&R) -> &str, axes: fn(&R) -> &Axes) -> Vec<(String, Cell<R>)> {
    let mut columns: Vec<(String, Cell<R>)> = vec![];
    if rows.iter().map(stage).collect::<BTreeSet<_>>().len() > 1 {
        columns.push(("stage".into(), Box::new(move |row| stage(row).to_string())));
    }
    for axis in rows.iter().flat_map(|row| axes(row).keys()).collect::<BTreeSet<_>>() {
        let own = axis.clone();
        columns.push((axis.clone(), Box::new(move |row| axes(row).get(&own).map_or(String::new(), value_text))));
    }
    columns
}

fn rows_table(rows: &[Row]) -> Table {
    let mut columns = points(rows, |row| stage_of(&row.task), |row| &row.axes);
    for metric in in_order(rows.iter().flat_map(|row| row.metrics.keys())) {
        let own = metric.clone();
        let cell = move |row: &Row| row.metrics.get(&own).map_or(String::new(), |value| format!("{value:.4}"));
        columns.push((metric, Box::new(cell)));
    }
    let seen: BTreeSet<&String> = rows.iter().flat_map(|row| row.seconds.keys()).collect();
    for kind in crate::stage::STAGES.iter().map(|kind| kind.name).filter(|kind| seen.contains(&kind.to_string())) {
        let cell = move |row: &Row| row.seconds.get(kind).map_or(String::new(), |seconds| duration(*seconds));
        columns.push((kind.into(), Box::new(cell)));
    }
    let files = |row: &Row| row.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    columns.push(("files".into(), Box::new(files)));
    tabled(rows, columns)
}

fn seeds_table(seeds: &[Seeds]) -> Table {
    let mut columns = points(seeds, |group| &group.stage, |group| &group.axes);
    columns.push(("seeds".into(), Box::new(|group| group.seeds.to_string())));
    for metric in in_order(seeds.iter().flat_map(|group| group.metrics.keys())) {
        let column = |text: fn(&Spread) -> String| -> Cell<Seeds> {
            let own = metric.clone();
            Box::new(move |group| group.metrics.get(&own).map_or(String::new(), text))
        };
        // What does not depend on the seed, as the chance level, has nothing to tell but itself.
        if seeds.iter().filter_map(|group| group.metrics.get(&metric)).all(|spread| spread.deviation == 0.0) {
            columns.push((metric.clone(), column(|spread| format!("{:.4}", spread.mean))));
        } else {
            columns.push((metric.clone(), column(|spread| format!("{:.4} ± {:.4}", spread.mean, spread.interval))));
            columns.push(("sd".into(), column(|spread| format!("{:.4}", spread.deviation))));
        }
    }
    tabled(seeds, columns)
}

/// Names of figures, each once: what is measured first, what it is to be compared with last.
pub(super) fn in_order<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let zeros: BTreeMap<String, f64> = names.map(|name| (name.clone(), 0.0)).collect();
    metrics(&zeros).into_iter().map(|(name, _)| name.to_string()).collect()
}

/// What the results came with that a person should know, whenever they were made.
fn warnings(plan: &Plan, results: &Actions) -> Vec<Told> {
    let of = |task: &Task| {
        let texts = results.get(&task.id).map(|action| action.warnings.clone()).unwrap_or_default();
        texts.into_iter().map(|text| Told { task: task.name.clone(), text }).collect::<Vec<_>>()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluated(bits: u64, seed: u64, map: f64) -> Row {
        Row {
            task: format!("evaluate.map@bits={bits},seed={seed}"),
            axes: [("bits".to_string(), json!(bits)), ("seed".to_string(), json!(seed))].into(),
            metrics: [("mAP@10".to_string(), map), ("chance".to_string(), 0.25)].into(),
            ..Row::default()
        }
    }

    #[test]
    fn rows_that_differ_in_the_seed_alone_are_taken_together() {
        let rows = [evaluated(16, 0, 0.5), evaluated(16, 1, 0.7), evaluated(32, 0, 0.8)];
        let seeds = over_seeds(&rows);
        assert_eq!((seeds.len(), seeds[0].seeds, &seeds[0].axes["bits"]), (1, 2, &json!(16)));
        let table = seeds_table(&seeds);
        assert_eq!(table.heads, ["bits", "seeds", "mAP@10", "sd", "chance"]);
        assert_eq!(table.rows, [["16", "2", "0.6000 ± 1.2706", "0.1414", "0.2500"]]);
    }
}
