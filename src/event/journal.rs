//! Events as numbered, timed lines: what machines read.

use super::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Version of the lines. Members and events are added without raising it.
pub const VERSION: u32 = 1;

/// An event with when and where in the run it happened: one line of JSON.
///
/// Readers pass over members and events they do not know, so nothing here is checked for unknown names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Version of this form: 1.
    pub v: u32,
    /// Seconds since 1970. Within a run it never goes back.
    pub ts: f64,
    /// The run's id.
    pub run: String,
    /// The span it belongs to: 0 is the run, any other number an attempt at a task.
    pub span: u64,
    /// The span around that one; `null` around the run.
    pub parent: Option<u64>,
    /// Whether its span starts or ends here.
    pub phase: Phase,
    #[serde(flatten)]
    pub event: Event,
}

/// Where in its span an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Start,
    Instant,
    End,
}

const RUN: u64 = 0;

/// Turns a run's events into lines.
pub struct Journal {
    run: String,
    began: f64,
    clock: Instant,
    /// Attempts that go on.
    open: HashMap<String, u64>,
    last: u64,
}

impl Journal {
    /// The journal of a run that begins now.
    pub fn new(run: &str) -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { run: run.to_string(), began, clock: Instant::now(), open: HashMap::new(), last: RUN }
    }

    /// When the run began, in seconds since 1970.
    pub fn began(&self) -> f64 {
        self.began
    }

    /// Now, by the run's own clock: the computer's may be set while it goes on.
    pub fn now(&self) -> f64 {
        self.began + self.clock.elapsed().as_secs_f64()
    }

    /// The line of an event that happens now.
    pub fn line(&mut self, event: &Event) -> Line {
        let (span, phase) = self.place(event);
        let ts = (self.now() * 1000.0).round() / 1000.0;
        let parent = (span != RUN).then_some(RUN);
        Line { v: VERSION, ts, run: self.run.clone(), span, parent, phase, event: event.clone() }
    }

    /// The span an event belongs to, and whether it starts or ends it.
    fn place(&mut self, event: &Event) -> (u64, Phase) {
        match event {
            Event::Begin { .. } => return (RUN, Phase::Start),
            Event::End { .. } => return (RUN, Phase::End),
            Event::Start { task, .. } => {
                self.last += 1;
                self.open.insert(task.clone(), self.last);
                return (self.last, Phase::Start);
            }
            _ => {}
        }
        let span = event.task().and_then(|task| match event.is_final() {
            true => self.open.remove(task).map(|span| (span, Phase::End)),
            false => self.open.get(task).map(|span| (*span, Phase::Instant)),
        });
        span.unwrap_or((RUN, Phase::Instant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(task: &str) -> Event {
        let (task, key, reason) = (task.to_string(), String::new(), String::new());
        Event::Start { task, key, reason, threads: 1, gpu: None, gpus: vec![], waited: 0.0, expected: None }
    }

    #[test]
    fn every_attempt_is_a_span_of_its_own() {
        let mut journal = Journal::new("r");
        let stopped = |task: &str| Event::Stopped { task: task.into() };
        let events = [start("a"), start("b"), stopped("a"), start("a"), stopped("a"), stopped("c")];
        let lines = events.map(|event| journal.line(&event));
        assert_eq!(lines.clone().map(|line| line.span), [1, 2, 1, 3, 3, 0]);
        use Phase::{End, Instant, Start};
        assert_eq!(lines.clone().map(|line| line.phase), [Start, Start, End, Start, End, Instant]);
        assert_eq!([lines[0].parent, lines[5].parent], [Some(0), None]);
    }

    #[test]
    fn a_line_survives_a_round_trip_and_members_of_later_versions() {
        let line = Journal::new("r").line(&start("a"));
        let mut json = serde_json::to_value(&line).unwrap();
        json["later"] = 1.into();
        assert_eq!(serde_json::from_value::<Line>(json).unwrap(), line);
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with(r#"{"v":1,"ts":"#) && text.contains(r#""event":"start","task":"a""#), "{text}");
    }
}
