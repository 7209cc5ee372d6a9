//! Writes a run's record while it goes on.

use super::record::VERSION;
use super::{Keep, Outcome, Record, RunId, Runs, Thin};
use crate::cache::write_aside;
use crate::error::{Error, Result};
use crate::event::Line;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// Keeps the record of one run.
///
/// Nothing is written before there is something to do, so that a run with nothing to do leaves nothing; from
/// then on each event is on the disk before the next one.
pub struct Recorder {
    runs: Runs,
    record: Record,
    index: HashMap<String, usize>,
    thin: Thin,
    /// Lines that wait for the folder.
    held: Vec<Line>,
    open: Option<Open>,
    /// A fault of writing was told: nothing more is written.
    given_up: bool,
}

/// A run's files.
struct Open {
    events: File,
    /// Kept for the run's whole life.
    _lock: File,
}

impl Recorder {
    /// A recorder of a run that begins now; `record` says what was asked for.
    pub fn new(runs: &Runs, mut record: Record) -> Self {
        record.v = VERSION;
        let index = record.index();
        let (thin, held) = (Thin::default(), vec![]);
        Self { runs: runs.clone(), record, index, thin, held, open: None, given_up: false }
    }

    pub fn id(&self) -> &RunId {
        &self.record.id
    }

    /// Folder of the run's logs.
    pub fn logs(&self) -> PathBuf {
        self.runs.logs(&self.record.id)
    }

    /// Takes in an event. Gives the first fault of writing: it costs the record, not the run.
    pub fn hear(&mut self, line: &Line) -> Option<Error> {
        self.record.hear(line, &self.index);
        if self.given_up || !self.thin.keeps(line) {
            return None;
        }
        let written = match &mut self.open {
            Some(open) => write_line(&mut open.events, line).map_err(|e| self.fault(&e)),
            None => {
                self.held.push(line.clone());
                if line.event.is_idle() { Ok(()) } else { self.begin() }
            }
        };
        self.given_up = written.is_err();
        written.err()
    }

    fn fault(&self, e: &std::io::Error) -> Error {
        Error::io("write the record of the run in", &self.runs.folder(&self.record.id), e)
    }

    /// Makes the folder and writes what is known by now.
    fn begin(&mut self) -> Result<()> {
        let folder = self.runs.folder(&self.record.id);
        let open = || -> std::io::Result<Open> {
            std::fs::create_dir_all(folder.join("log"))?;
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            Ok(Open {
                events: File::options().create(true).append(true).open(folder.join("events.jsonl"))?,
                _lock: lock,
            })
        };
        let mut open = open().map_err(|e| self.fault(&e))?;
        self.write()?;
        // What was held is a line for each task whose result was there: one write, not ten thousand.
        let text: Vec<u8> = std::mem::take(&mut self.held).iter().flat_map(text_of).collect();
        open.events.write_all(&text).map_err(|e| self.fault(&e))?;
        self.open = Some(open);
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.record).expect("a record is plain data");
        write_aside(&self.runs.folder(&self.record.id).join("run.json"), &text)
    }

    /// Ends the record. `metrics` gives the figures of tasks whose results were there.
    ///
    /// Gives the run's id, or `None` if it leaves no record: it never began, or nothing ran and every key is known from
    /// earlier runs.
    pub fn finish(
        mut self,
        ended: f64,
        exit_code: u8,
        mut metrics: impl FnMut(&str) -> Option<BTreeMap<String, f64>>,
    ) -> Result<Option<RunId>> {
        // Without a begin there was a fault in what was asked for, and no run.
        let idle = self.held.is_empty() || (exit_code == 0 && self.is_known());
        if self.given_up || (self.open.is_none() && idle) {
            return Ok(None);
        }
        self.record.ended = Some(ended);
        self.record.exit_code = Some(exit_code);
        self.record.outcome = Outcome::of(exit_code);
        for task in self.record.tasks.iter_mut().filter(|task| task.metrics.is_empty()) {
            task.metrics = metrics(&task.name).unwrap_or_default();
        }
        if self.open.is_none() {
            self.begin()?
        } else {
            self.write()?
        }
        self.runs.set_newest(&self.record)?;
        self.runs.prune(&Keep::default(), ended)?;
        Ok(Some(self.record.id.clone()))
    }

    /// Whether every task has the key it had in the pipeline's runs before.
    fn is_known(&self) -> bool {
        let Some((id, keys)) = self.runs.newest(&self.record.pipeline) else { return false };
        let known = |task: &super::Task| task.key.is_some() && keys.get(&task.name) == task.key.as_ref();
        self.runs.folder(&id).exists() && self.record.tasks.iter().all(known)
    }
}

/// Writes a line in one go, so that a reader never sees a part of it for longer than that takes.
fn write_line(file: &mut File, line: &Line) -> std::io::Result<()> {
    file.write_all(&text_of(line))
}

fn text_of(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("an event is plain data");
    text.push(b'\n');
    text
}
