//! Which runs are kept, and the others removed.

use super::{Outcome, RunId, Runs};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How much history is kept. A run that exceeds any of these goes; failed runs have room of their own, three times as
/// much, and these are never removed: pinned runs, runs that go on, and the newest of each pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keep {
    pub runs: usize,
    pub days: f64,
    /// Bytes of the newest runs together, of which nearly all are logs.
    pub bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { runs: 100, days: 30.0, bytes: 1 << 30 }
    }
}

const FAILED: usize = 3;
/// How often runs look for old ones.
const DAILY: Duration = Duration::from_secs(24 * 60 * 60);
/// Folders that are on their way out.
const GONE: &str = ".gone-";

/// What decides about a run.
struct Candidate {
    id: RunId,
    days: f64,
    bytes: u64,
    failed: bool,
    /// Pinned, going on, or the newest of its pipeline.
    safe: bool,
}

impl Runs {
    /// Removes what is not to be kept, at most once a day and not beside another process that does. Gives what went.
    pub(super) fn prune(&self, keep: &Keep, now: f64) -> Result<Vec<RunId>> {
        let path = self.root.join("pruned");
        let fresh = path
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < DAILY));
        if fresh {
            return Ok(vec![]);
        }
        let marker =
            File::options().create(true).append(true).open(&path).map_err(|e| Error::io("write", &path, &e))?;
        if marker.try_lock().is_err() {
            return Ok(vec![]);
        }
        let gone = too_old(&self.candidates(now), keep);
        for id in &gone {
            // Moved first: a folder that is half removed must not be taken for a run.
            let (from, to) = (self.folder(id), self.root.join(format!("{GONE}{id}")));
            std::fs::rename(&from, &to).map_err(|e| Error::io("remove", &from, &e))?;
        }
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        for left in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(GONE)) {
            // What cannot be removed now is tried again tomorrow.
            let _ = std::fs::remove_dir_all(left.path());
        }
        marker.set_modified(SystemTime::now()).map_err(|e| Error::io("write", &path, &e))?;
        Ok(gone)
    }

    /// Every run, newest first. One that cannot be read counts as failed, and only its size and place in the row decide.
    fn candidates(&self, now: f64) -> Vec<Candidate> {
        let mut pipelines = HashSet::new();
        let ids = self.ids();
        let judged = ids.into_iter().rev().map(|id| {
            let record = self.read(&id).ok();
            let newest = record.as_ref().is_some_and(|record| pipelines.insert(record.pipeline.clone()));
            Candidate {
                days: record.as_ref().map_or(0.0, |record| (now - record.began) / 86_400.0),
                bytes: bytes_below(&self.folder(&id)),
                failed: record.as_ref().is_none_or(|record| record.outcome != Outcome::Done),
                safe: newest || self.is_pinned(&id) || self.is_going_on(&id),
                id,
            }
        });
        judged.collect()
    }
}

/// The candidates that exceed the limits; they come newest first.
fn too_old(candidates: &[Candidate], keep: &Keep) -> Vec<RunId> {
    // Counts of good runs, and of failed ones.
    let (mut runs, mut bytes) = ([0, 0], [0, 0]);
    let mut gone = vec![];
    for candidate in candidates {
        let (sort, room) = if candidate.failed { (1, FAILED) } else { (0, 1) };
        runs[sort] += 1;
        bytes[sort] += candidate.bytes;
        let exceeds = runs[sort] > keep.runs * room
            || candidate.days > keep.days * room as f64
            || bytes[sort] > keep.bytes * room as u64;
        if exceeds && !candidate.safe {
            gone.push(candidate.id.clone());
        }
    }
    gone
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    };
    entries.map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> RunId {
        RunId::parse(&format!("2611{:02}-000000-bbbb", 99 - number)).unwrap()
    }

    /// Positions of those that go; the others of a candidate's members are plain.
    fn gone(keep: Keep, change: impl Fn(usize, &mut Candidate)) -> Vec<usize> {
        let candidate = |number| {
            let mut plain = Candidate { id: id(number), days: number as f64, bytes: 10, failed: false, safe: false };
            change(number, &mut plain);
            plain
        };
        let candidates: Vec<Candidate> = (0..9).map(candidate).collect();
        let gone = too_old(&candidates, &keep);
        (0..9).filter(|number| gone.contains(&id(*number))).collect()
    }

    const ALL: Keep = Keep { runs: 100, days: 100.0, bytes: 1000 };

    #[test]
    fn number_age_and_size_each_set_a_limit() {
        assert_eq!(gone(ALL, |_, _| {}), [0; 0]);
        assert_eq!(gone(Keep { runs: 7, ..ALL }, |_, _| {}), [7, 8]);
        assert_eq!(gone(Keep { days: 5.5, ..ALL }, |_, _| {}), [6, 7, 8]);
        assert_eq!(gone(Keep { bytes: 55, ..ALL }, |_, _| {}), [5, 6, 7, 8]);
    }

    #[test]
    fn pinned_and_failed_runs_stay_longer() {
        let days = Keep { days: 2.5, ..ALL };
        assert_eq!(gone(days, |number, run| run.safe = number == 8), [3, 4, 5, 6, 7]);
        assert_eq!(gone(days, |_, run| run.failed = true), [8]);
        // Failed runs take no room from the others.
        assert_eq!(gone(Keep { runs: 3, ..ALL }, |number, run| run.failed = number < 6), [0; 0]);
    }
}
