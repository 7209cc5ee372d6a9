//! Counts per stage: what is shown of a run with more tasks than anyone reads line by line.

use super::{count, duration, plural};
use crate::event::{Event, Line, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// Pipelines with more stages than this are told by kind of stage.
const MANY_STAGES: usize = 40;

/// Where the tasks of each group, a stage or a kind, stand.
#[derive(Default)]
pub(super) struct Tally {
    groups: BTreeMap<String, Counts>,
    by_kind: bool,
    /// Groups that changed since they were last told, and those that are complete by now.
    fresh: BTreeSet<String>,
    complete: BTreeSet<String>,
}

#[derive(Default, Clone)]
struct Counts {
    tasks: usize,
    running: usize,
    done: usize,
    cached: usize,
    failed: usize,
    blocked: usize,
    stopped: usize,
    /// When its first task started.
    began: Option<f64>,
    ended: f64,
}

/// The stage of a task's name.
pub(super) fn stage_of(task: &str) -> &str {
    task.split('@').next().unwrap_or(task)
}

impl Tally {
    /// Counts an event.
    pub(super) fn hear(&mut self, line: &Line) {
        if let Event::Begin { stages, .. } = &line.event {
            self.by_kind = stages.len() > MANY_STAGES;
            for (stage, tasks) in stages {
                self.groups.entry(self.group_of(stage).to_string()).or_default().tasks += tasks;
            }
        }
        let Some(task) = line.event.task() else { return };
        let group = self.group_of(task);
        let Some(counts) = self.groups.get_mut(group) else { return };
        if counts.hear(line) {
            self.fresh.insert(group.to_string());
            if counts.is_complete() {
                self.complete.insert(group.to_string());
            }
        }
    }

    fn group_of<'t>(&self, task: &'t str) -> &'t str {
        let stage = stage_of(task);
        if self.by_kind { stage.split('.').next().unwrap_or(stage) } else { stage }
    }

    /// A line per group that is complete, or with `all`, that changed since it was last told.
    pub(super) fn news(&mut self, all: bool) -> Vec<String> {
        let complete = std::mem::take(&mut self.complete);
        let told = if all { std::mem::take(&mut self.fresh) } else { complete };
        self.fresh.retain(|group| !told.contains(group));
        told.iter().map(|group| self.groups[group].text(group)).collect()
    }
}

impl Counts {
    /// Counts an event; whether it is one that counts.
    fn hear(&mut self, line: &Line) -> bool {
        let count = match &line.event {
            Event::Start { .. } => {
                self.began.get_or_insert(line.ts);
                &mut self.running
            }
            Event::Cached { .. } => &mut self.cached,
            Event::Done { .. } => &mut self.done,
            Event::Failed { .. } => &mut self.failed,
            Event::Blocked { .. } => &mut self.blocked,
            Event::Stopped { .. } => &mut self.stopped,
            _ => return false,
        };
        *count += 1;
        if line.phase == Phase::End {
            self.running = self.running.saturating_sub(1);
        }
        self.ended = line.ts;
        true
    }

    fn settled(&self) -> usize {
        self.done + self.cached + self.failed + self.blocked + self.stopped
    }

    fn is_complete(&self) -> bool {
        self.tasks > 0 && self.settled() >= self.tasks
    }

    fn text(&self, group: &str) -> String {
        let complete = self.is_complete();
        let word = match () {
            () if !complete => "",
            () if self.failed > 0 => "failed",
            () if self.blocked > 0 => "blocked",
            () if self.stopped > 0 => "stopped",
            () if self.done == 0 => "cached",
            () => "done",
        };
        let others = [
            (self.cached, "cached"),
            (self.failed, "failed"),
            (self.blocked, "blocked"),
            (self.stopped, "stopped"),
            (self.running, "running"),
        ];
        let mut parts = vec![match complete {
            true => plural(self.tasks, "task"),
            false => format!("{} of {}", count(self.settled() as u64), plural(self.tasks, "task")),
        }];
        // The first word has said it where it is true of all.
        let told = |(n, name): &(usize, &str)| *n == 0 || (*n == self.settled() && *name == word);
        parts
            .extend(others.iter().filter(|other| !told(other)).map(|(n, name)| format!("{} {name}", count(*n as u64))));
        if let Some(began) = self.began.filter(|_| complete) {
            parts.push(format!("in {}", duration(self.ended - began)));
        }
        format!("{word:<7} {group:<32} {}", parts.join(", "))
    }
}
