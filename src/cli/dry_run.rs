//! `hashpipe run --dry-run`: what a run would do, why, and what it would take. Writes nothing and holds no lock.

use crate::cache::{Known, Standing, Start, State, Store, survey};
use crate::error::{Error, Result};
use crate::plan::{Plan, Target, TaskId};
use crate::report::{duration, note, plural, print, size, table};
use crate::schedule::{Machine, Prediction, Use, impossible, need, predict};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is looked at.
pub(super) struct Dry<'a> {
    pub(super) plan: &'a Plan,
    pub(super) store: &'a Store,
    pub(super) machine: &'a Machine,
}

/// What running would take.
struct Forecast {
    work: Prediction,
    /// Bytes added to the cache, of tasks of which that is known.
    bytes: u64,
}

/// Says what would run, and what is missing for it.
pub(super) fn run(dry: &Dry, targets: &[TaskId], force: &[TaskId], json: bool) -> Result<u8> {
    let Dry { plan, store, .. } = dry;
    let standings = survey(plan, store, targets, force);
    let forecast = dry.forecast(&standings);
    let gpus = dry.gpus(&standings);
    for remark in &plan.remarks {
        note(&remark.render("warning"));
    }
    if json {
        for standing in &standings {
            let mut line = standing.to_json(plan, store);
            line["would"] = json!(would(standing));
            print(&line.to_string());
        }
        let Prediction { wall, cpu_seconds, gpu_seconds, unknown } = forecast.work;
        print(
            &json!({
                "forecast": { "seconds": wall, "cpu_seconds": cpu_seconds, "gpu_seconds": gpu_seconds,
                "bytes": forecast.bytes, "unknown": unknown, "gpus": gpus },
            })
            .to_string(),
        );
        return dry.end(&standings);
    }
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|standing| {
            let because = format!("{}{}", standing.because, standing.start);
            vec![would(standing).into(), plan.task(standing.task).name.clone(), because]
        })
        .collect();
    print(&table(&["would", "task", "because"], &rows));
    needs(plan, &standings);
    print(&format!("\n{}", counts(&standings)));
    print(&sharing(plan, &standings));
    if !gpus.is_empty() {
        print(&format!("\n{}\n", shown(&gpus)));
    }
    if let Some(text) = told(&forecast) {
        print(&text);
    }
    dry.end(&standings)
}

impl Dry<'_> {
    /// Ends as a run would end before its first task, if this machine can never run one of those that would.
    fn end(&self, standings: &[Standing]) -> Result<u8> {
        let runs = standings.iter().filter(|standing| standing.runs != Some(false));
        let tasks: Vec<TaskId> = runs.map(|standing| standing.task).collect();
        let known = self.store.known(&self.plan.pipeline);
        Error::all(impossible(self.plan, &known, self.machine, &tasks)).map_or(Ok(0), Err)
    }

    /// What the tasks that run, or may run, would take by what is known of earlier runs.
    fn forecast(&self, standings: &[Standing]) -> Forecast {
        let known = self.store.known(&self.plan.pipeline);
        let runs = standings.iter().filter(|s| s.runs != Some(false) && s.state != State::Missing);
        let tasks: Vec<(TaskId, f64)> =
            runs.map(|standing| (standing.task, rest(standing) * self.scale(&known, standing.task))).collect();
        let bytes = tasks.iter().filter_map(|(id, _)| {
            let attempts = known.attempts(&self.plan.task(*id).name);
            attempts
                .iter()
                .rev()
                .map(|attempt| attempt.outputs.values().map(|o| o.size).sum())
                .find(|sum: &u64| *sum > 0)
        });
        let bytes = bytes.sum();
        Forecast { work: predict(self.plan, &known, self.store, self.machine, &tasks), bytes }
    }

    /// The GPUs, if anything that runs, or may run, wants one: asking for them may load the driver.
    fn gpus(&self, standings: &[Standing]) -> Vec<Value> {
        let known = self.store.known(&self.plan.pipeline);
        let wants = |standing: &Standing| {
            need(self.plan, self.plan.task(standing.task), &known, self.machine).is_ok_and(|need| need.gpus > 0)
        };
        if !standings.iter().any(|standing| standing.runs != Some(false) && wants(standing)) {
            return vec![];
        }
        let cards = self.machine.cards().iter().zip(self.machine.used_by_others(&[])).enumerate();
        let told = cards.map(|(position, (card, used))| {
            let used = if let Use::Bytes(used) = used { Some(used) } else { None };
            json!({
                "gpu": card.number, "instance": card.instance, "model": self.machine.about(position).model,
                "name": card.name, "memory": card.memory, "used_by_others": used, "lost": used.is_none(),
            })
        });
        told.collect()
    }

    /// How much longer a task takes than when it last ran, because a number of rounds has changed.
    fn scale(&self, known: &Known, id: TaskId) -> f64 {
        let task = self.plan.task(id);
        let Some(rounds) = task.step.extends().map(|extends| extends.param) else { return 1.0 };
        let now = task.params.get(rounds).and_then(serde_json::Value::as_f64);
        let last = known.keys(&task.name).first().and_then(|key| self.store.action(key));
        let line = last.as_ref().and_then(|a| a.lines.iter().find(|line| line.name == format!("params.{rounds}")));
        let before: Option<f64> = line.and_then(|line| line.value.parse().ok());
        match (now, before) {
            (Some(now), Some(before)) if before > 0.0 => now / before,
            _ => 1.0,
        }
    }
}

/// GPUs as a table.
fn shown(gpus: &[Value]) -> String {
    let bytes = |value: &Value| value.as_u64().map_or("not known".into(), size);
    let rows: Vec<Vec<String>> = gpus
        .iter()
        .map(|gpu| {
            let instance = gpu["instance"].as_u64().map_or(String::new(), |instance| format!(".{instance}"));
            let used = if gpu["lost"] == true { "does not answer".into() } else { bytes(&gpu["used_by_others"]) };
            let text = |key: &str| gpu[key].as_str().unwrap_or_default().to_string();
            vec![format!("{}{instance}", gpu["gpu"]), bytes(&gpu["memory"]), used, text("model"), text("name")]
        })
        .collect();
    table(&["gpu", "memory", "used by others", "model", "name"], &rows)
}

/// The part of a task that is left to do, by where it would begin.
fn rest(standing: &Standing) -> f64 {
    let part = match &standing.start {
        Start::Beginning => 0.0,
        Start::Extend(extension) => extension.from as f64 / extension.to as f64,
        // In its own words: `epoch 37 of 100`.
        Start::Resume(place) => {
            let numbers: Vec<f64> = place.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            if let [done, total] = numbers[..] { done / total } else { 0.0 }
        }
    };
    (1.0 - part).clamp(0.0, 1.0)
}

fn counts(standings: &[Standing]) -> String {
    let count = |words: &[&str]| standings.iter().filter(|standing| words.contains(&would(standing))).count();
    let parts = [
        format!("{} cached", count(&["cached"])),
        format!("{} to run", count(&["run", "resume", "extend"])),
        format!("{} not known before those ran", count(&["unknown"])),
        format!("{} with missing files", count(&["missing"])),
    ];
    parts.join(", ")
}

/// How many tasks each stage has, and how many are spared because stages share what does not depend on an axis.
fn sharing(plan: &Plan, standings: &[Standing]) -> String {
    let mut stages: BTreeMap<TaskId, (&str, usize)> = BTreeMap::new();
    let mut first: BTreeMap<&str, TaskId> = BTreeMap::new();
    let mut axes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for standing in standings {
        let task = plan.task(standing.task);
        let id = *first.entry(task.stage.as_str()).or_insert(task.id);
        stages.entry(id).or_insert((&task.stage, 0)).1 += 1;
        for (axis, value) in &task.axes {
            axes.entry(axis).or_default().insert(value.to_string());
        }
    }
    let points: usize = axes.values().map(BTreeSet::len).product();
    let told: Vec<String> = stages.values().map(|(stage, count)| format!("{stage} {count}")).collect();
    let spared: usize = stages.values().map(|(_, count)| points.saturating_sub(*count)).sum();
    let spared = if spared > 0 { format!("; sharing spares {}", plural(spared, "task")) } else { String::new() };
    format!("{}{spared}", told.join(", "))
}

/// What it would take, if anything would run.
fn told(forecast: &Forecast) -> Option<String> {
    let Prediction { wall, gpu_seconds, unknown, .. } = forecast.work;
    if wall == 0.0 && unknown == 0 {
        return None;
    }
    let mut parts = vec![];
    if wall > 0.0 {
        let gpus = if gpu_seconds > 0.0 { format!(", {} of GPUs", duration(gpu_seconds)) } else { String::new() };
        parts.push(format!("about {} on this machine{gpus}, {} of cache", duration(wall), size(forecast.bytes)));
    }
    if unknown > 0 {
        parts.push(format!("nothing is known yet of {}", plural(unknown, "task")));
    }
    Some(format!("expected: {}", parts.join("; ")))
}

/// What a run would do with a task.
fn would(standing: &Standing) -> &'static str {
    match (standing.state, standing.runs, &standing.start) {
        (State::Missing, ..) => "missing",
        (_, None, _) => "unknown",
        (_, Some(false), _) => "cached",
        (_, Some(true), Start::Resume(_)) => "resume",
        (_, Some(true), Start::Extend(_)) => "extend",
        (_, Some(true), Start::Beginning) => "run",
    }
}

/// The files that tasks with missing inputs need, and where to get them.
fn needs(plan: &Plan, standings: &[Standing]) {
    let mut told = vec![];
    for standing in standings.iter().filter(|standing| standing.state == State::Missing) {
        let task = plan.task(standing.task);
        let wanted =
            (&task.stage, task.inputs.values().filter(|t| matches!(t, Target::Path { .. })).collect::<Vec<_>>());
        if told.contains(&wanted) {
            continue;
        }
        print(&format!("\n{} needs these files:", task.stage));
        told.push(wanted);
        let paths = task.inputs.values().filter_map(|target| match target {
            Target::Path { path, .. } => Some(("named in the pipeline".to_string(), path.clone())),
            Target::Output { .. } => None,
        });
        let rows: Vec<Vec<String>> = paths
            .chain(task.step.needs(&plan.project))
            .map(|(what, path)| {
                let there = if path.exists() { "there" } else { "missing" };
                vec![format!("  {there}"), path.display().to_string(), what]
            })
            .collect();
        if rows.iter().all(|row| row[0].trim() == "there") {
            // The folders are there; what is missing is inside.
            print(&standing.error.as_ref().map_or(String::new(), |error| error.render("error")));
        } else {
            print(&table(&["  ", "path", "what it is"], &rows));
        }
        if let Some(obtain) = &task.obtain {
            print(obtain.trim_end());
        }
    }
}
