//! A run as a trace: the JSON that `chrome://tracing` and <https://ui.perfetto.dev> read.
//!
//! Format: "Trace Event Format", Google, 2016. A row per CPU slot and per GPU with a slice for each attempt at a task;
//! times between ready and started as asynchronous slices; hits as instants.

use super::Record;
use crate::event::{Event, Line};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Process ids of the trace stand for groups of rows.
#[derive(Debug, Clone, Copy)]
enum Group {
    Run = 1,
    Cpus = 2,
    Gpus = 3,
    Waiting = 4,
    Hits = 5,
}

const GROUPS: [(Group, &str); 5] = [
    (Group::Run, "run"),
    (Group::Cpus, "CPU slots"),
    (Group::Gpus, "GPUs"),
    (Group::Waiting, "waiting for a slot"),
    (Group::Hits, "found in the cache"),
];

/// An attempt at a task that goes on.
struct Going {
    task: String,
    from: f64,
    cpus: Vec<usize>,
    gpus: Vec<usize>,
    arguments: Value,
}

/// The trace of a run.
pub fn trace(record: &Record, lines: &[Line]) -> Value {
    let mut maker = Maker { began: record.began, events: vec![], busy: vec![], going: BTreeMap::new() };
    let last = lines.last().map_or(record.began, |line| line.ts);
    for (group, name) in GROUPS {
        maker.events.push(json!({
            "ph": "M", "pid": group as u32, "tid": 0, "name": "process_name", "args": { "name": name },
        }));
        maker.events.push(json!({
            "ph": "M", "pid": group as u32, "tid": 0, "name": "process_sort_index", "args": { "sort_index": group as u32 },
        }));
    }
    for line in lines {
        maker.hear(line);
    }
    // What was at work when the run died was at work until the last word.
    for span in maker.going.keys().copied().collect::<Vec<_>>() {
        maker.end(span, last, "unfinished");
    }
    let end = record.ended.unwrap_or(last);
    let (name, outcome) = (&record.pipeline, record.outcome.word());
    maker.slice(Group::Run, 0, name, record.began, end, &json!({ "outcome": outcome, "host": record.host }));
    json!({
        "traceEvents": maker.events,
        "displayTimeUnit": "ms",
        "otherData": { "run": record.id, "pipeline": record.pipeline, "hashpipe": record.version },
    })
}

struct Maker {
    began: f64,
    events: Vec<Value>,
    /// Which CPU slots are taken. Which threads a task has is the system's affair; it is drawn on the lowest free rows.
    busy: Vec<bool>,
    going: BTreeMap<u64, Going>,
}

impl Maker {
    fn hear(&mut self, line: &Line) {
        match &line.event {
            Event::Start { task, threads, gpu, gpus, waited, reason, key, .. } => {
                if *waited > 0.0 {
                    self.waiting(line.span, task, line.ts - waited, line.ts);
                }
                let cpus = self.take(*threads);
                let arguments = json!({ "key": key, "reason": reason, "threads": threads, "gpu": gpu });
                let gpus = if gpus.is_empty() { gpu.iter().copied().collect() } else { gpus.clone() };
                self.going.insert(line.span, Going { task: task.clone(), from: line.ts, cpus, gpus, arguments });
            }
            Event::Done { .. } => self.end(line.span, line.ts, "done"),
            Event::Failed { .. } => self.end(line.span, line.ts, "failed"),
            Event::Stopped { .. } => self.end(line.span, line.ts, "stopped"),
            Event::Cached { task, key, seconds } => {
                // One that was started waited for another run to make the result.
                self.end(line.span, line.ts, "cached");
                let (ts, pid) = (self.microseconds(line.ts), Group::Hits as u32);
                let arguments = json!({ "key": key, "saved_seconds": seconds });
                self.events.push(json!({
                    "ph": "i", "s": "t", "pid": pid, "tid": 0, "ts": ts, "name": task, "cat": "hit", "args": arguments,
                }));
            }
            _ => {}
        }
    }

    /// The lowest rows that are free.
    fn take(&mut self, threads: usize) -> Vec<usize> {
        let taken: Vec<usize> =
            (0..).filter(|row| !self.busy.get(*row).copied().unwrap_or(false)).take(threads).collect();
        let rows = taken.last().map_or(0, |last| last + 1).max(self.busy.len());
        self.busy.resize(rows, false);
        for row in &taken {
            self.busy[*row] = true;
        }
        taken
    }

    fn end(&mut self, span: u64, at: f64, how: &str) {
        let Some(mut going) = self.going.remove(&span) else { return };
        going.arguments["ended"] = how.into();
        for row in &going.cpus {
            self.busy[*row] = false;
            self.slice(Group::Cpus, *row, &going.task, going.from, at, &going.arguments);
        }
        for gpu in going.gpus {
            self.slice(Group::Gpus, gpu, &going.task, going.from, at, &going.arguments);
        }
    }

    fn slice(&mut self, group: Group, row: usize, name: &str, from: f64, to: f64, arguments: &Value) {
        let (ts, end) = (self.microseconds(from), self.microseconds(to));
        self.events.push(json!({
            "ph": "X", "pid": group as u32, "tid": row, "ts": ts, "dur": (end - ts).max(0), "name": name, "cat": "task",
            "args": arguments,
        }));
    }

    fn waiting(&mut self, span: u64, task: &str, from: f64, to: f64) {
        for (phase, at) in [("b", from), ("e", to)] {
            let (ts, pid) = (self.microseconds(at), Group::Waiting as u32);
            self.events.push(json!({
                "ph": phase, "pid": pid, "tid": 0, "ts": ts, "id": span, "name": task, "cat": "wait", "args": {},
            }));
        }
    }

    /// Time in the trace: microseconds since the run began.
    fn microseconds(&self, ts: f64) -> i64 {
        ((ts - self.began).max(0.0) * 1e6).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Phase;

    fn line(ts: f64, span: u64, event: Event) -> Line {
        Line { v: 1, ts, run: "r".into(), span, parent: Some(0), phase: Phase::Instant, event }
    }

    fn start(ts: f64, span: u64, threads: usize) -> Line {
        let (task, key, reason) = (format!("t{span}"), String::new(), String::new());
        line(
            ts,
            span,
            Event::Start { task, key, reason, threads, gpu: None, gpus: vec![], waited: 0.5, expected: None },
        )
    }

    #[test]
    fn a_task_takes_the_lowest_free_rows_and_gives_them_back() {
        let mut maker = Maker { began: 10.0, events: vec![], busy: vec![], going: BTreeMap::new() };
        let stopped = |ts: f64, span: u64| line(ts, span, Event::Stopped { task: format!("t{span}") });
        for line in [start(11.0, 1, 2), start(12.0, 2, 1), stopped(13.0, 1), start(13.5, 3, 1), stopped(14.0, 3)] {
            maker.hear(&line);
        }
        let slices: Vec<_> = maker.events.iter().filter(|event| event["ph"] == "X").collect();
        let of = |event: &Value| (event["name"].as_str().unwrap().to_string(), event["tid"].as_u64().unwrap());
        let rows: Vec<_> = slices.iter().map(|event| of(event)).collect();
        assert_eq!(rows, [("t1".to_string(), 0), ("t1".to_string(), 1), ("t3".to_string(), 0)]);
        assert_eq!((&slices[0]["ts"], &slices[0]["dur"]), (&json!(1_000_000), &json!(2_000_000)));
        let waited = maker.events.iter().filter(|event| event["ph"] == "b" || event["ph"] == "e").count();
        assert_eq!((waited, maker.going.len()), (6, 1));
    }
}
