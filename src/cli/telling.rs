//! Where a run's events go: the screen, the run's record, and a file if one is asked for.

use super::Pipeline;
use crate::error::{Error, Place, Result};
use crate::event::{Event, Journal, Line};
use crate::plan::{Plan, TaskId};
use crate::report::Screen;
use crate::runs::{Machine, Outcome, Record, Recorder, RunId, Runs, Task, Thin};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Tells every event to all who want it.
pub(super) struct Telling {
    journal: Journal,
    recorder: Recorder,
    file: Option<Sink>,
    screen: Box<dyn Screen>,
}

/// The file of `--events`.
struct Sink {
    file: File,
    thin: Thin,
}

impl Telling {
    /// Begins the record of a run.
    pub(super) fn new(runs: &Runs, mut record: Record, events: Option<&Path>, screen: Box<dyn Screen>) -> Result<Self> {
        let journal = Journal::new(record.id.as_str());
        record.began = journal.began();
        let open = |path: &Path| -> Result<Sink> {
            let file = File::create(path).map_err(|e| {
                Error::io("write", path, &e).at(Place::Argument(format!("--events {}", path.display())))
            })?;
            Ok(Sink { file, thin: Thin::default() })
        };
        let file = events.map(open).transpose()?;
        Ok(Self { journal, recorder: Recorder::new(runs, record), file, screen })
    }

    /// The run's name.
    pub(super) fn id(&self) -> String {
        self.recorder.id().as_str().to_string()
    }

    /// Folder of the run's logs.
    pub(super) fn logs(&self) -> std::path::PathBuf {
        self.recorder.logs()
    }

    pub(super) fn tell(&mut self, event: &Event) {
        let line = self.journal.line(event);
        if let Some(fault) = self.recorder.hear(&line) {
            self.screen.say(&fault.hint("the run goes on without a record").render("warning"));
        }
        if let Some(fault) = self.write(&line) {
            self.file = None;
            self.screen.say(&Error::io("write", Path::new("--events"), &fault).render("warning"));
        }
        self.screen.show(&line);
    }

    fn write(&mut self, line: &Line) -> Option<std::io::Error> {
        let sink = self.file.as_mut()?;
        if !sink.thin.keeps(line) {
            return None;
        }
        let mut text = serde_json::to_vec(line).expect("an event is plain data");
        text.push(b'\n');
        sink.file.write_all(&text).err()
    }

    pub(super) fn say(&mut self, text: &str) {
        self.screen.say(text);
    }

    /// Ends the record; gives the run's id if it left one.
    pub(super) fn finish(
        self,
        exit_code: u8,
        metrics: impl FnMut(&str) -> Option<BTreeMap<String, f64>>,
    ) -> Option<RunId> {
        let mut screen = self.screen;
        self.recorder.finish(self.journal.now(), exit_code, metrics).unwrap_or_else(|fault| {
            screen.say(&fault.render("warning"));
            None
        })
    }
}

/// What is known of a run before it begins.
pub(super) fn record(plan: &Plan, asked: &Pipeline, targets: &[TaskId]) -> Record {
    let tasks = plan.graph.with_needs(targets).into_iter().map(|id| {
        let task = plan.task(id);
        Task::new(&task.name, &task.stage, &task.axes)
    });
    Record {
        v: 0,
        id: RunId::now(),
        pipeline: plan.pipeline.clone(),
        file: asked.file.clone(),
        profile: asked.over.profile.clone(),
        sets: asked.over.sets.clone(),
        environment: environment(),
        arguments: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        began: 0.0,
        ended: None,
        outcome: Outcome::Running,
        exit_code: None,
        host: file_line("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".into()),
        version: env!("CARGO_PKG_VERSION").into(),
        machine: Machine { cpu: cpu(), ..Machine::default() },
        saved: 0.0,
        tasks: tasks.collect(),
    }
}

/// What is laid over the pipeline, or set for the runner, by variables.
fn environment() -> BTreeMap<String, String> {
    let own = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("HASHPIPE_"))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    own.collect()
}

/// The processor's model: the last bits of floating-point results depend on it.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn file_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_string())
}
