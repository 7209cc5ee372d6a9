//! What stands below the scrolling lines on a terminal: a line per running task, and one for the whole run.

use super::tally::stage_of;
use super::{count, duration, size};
use crate::event::{Event, Line, Phase};
use std::collections::BTreeMap;

/// What goes on now. Takes in events for next to nothing; text is only made when it is drawn.
#[derive(Default)]
pub(super) struct Board {
    tasks: usize,
    settled: usize,
    began: f64,
    /// When the rest was last foretold, and how long it would take then.
    forecast: Option<(f64, f64)>,
    running: BTreeMap<u64, Running>,
    /// Bytes of input read, and to be read.
    reading: Option<(u64, u64)>,
}

struct Running {
    task: String,
    from: f64,
    expected: Option<f64>,
    done: u64,
    total: u64,
    note: String,
}

impl Board {
    pub(super) fn hear(&mut self, line: &Line) {
        match &line.event {
            Event::Begin { tasks, .. } => *self = Self { tasks: *tasks, began: line.ts, ..Self::default() },
            Event::Forecast { seconds } => self.forecast = Some((line.ts, *seconds)),
            Event::Reading { read, total } => self.reading = (read < total).then_some((*read, *total)),
            Event::Start { task, expected, .. } => {
                let (task, note) = (task.clone(), String::new());
                let running = Running { task, from: line.ts, expected: *expected, done: 0, total: 0, note };
                self.running.insert(line.span, running);
            }
            Event::Progress { done, total, note, .. } => {
                if let Some(running) = self.running.get_mut(&line.span) {
                    (running.done, running.total) = (*done, *total);
                    running.note.clone_from(note);
                }
            }
            event if event.is_final() => {
                self.settled += 1;
                if line.phase == Phase::End {
                    self.running.remove(&line.span);
                }
            }
            _ => {}
        }
    }

    /// The board at the given time, with at most `most` lines for tasks; further ones are counted by stage.
    pub(super) fn lines(&self, now: f64, most: usize) -> Vec<String> {
        if self.tasks == 0 {
            return vec![];
        }
        let mut lines: Vec<String> = self.running.values().take(most).map(|running| running.text(now)).collect();
        let mut others: BTreeMap<&str, usize> = BTreeMap::new();
        for running in self.running.values().skip(most) {
            *others.entry(stage_of(&running.task)).or_default() += 1;
        }
        if !others.is_empty() {
            let parts: Vec<String> = others.iter().map(|(stage, n)| format!("{n} {stage}")).collect();
            lines.push(format!("and {}", parts.join(", ")));
        }
        if let Some((read, total)) = self.reading {
            let share = read as f64 / total as f64;
            let (percent, bar) = (share * 100.0, bar(share, 12));
            lines.push(format!("{:<32} {bar} {percent:>3.0}%  {} of {}", "reading inputs", size(read), size(total)));
        }
        lines.push(self.whole(now));
        lines
    }

    fn whole(&self, now: f64) -> String {
        let share = self.settled as f64 / self.tasks as f64;
        let left = self.forecast.map(|(at, seconds)| (seconds - (now - at)).max(0.0));
        let left = left.map_or(String::new(), |left| format!("  about {} left", coarse(left)));
        let (settled, tasks) = (count(self.settled as u64), count(self.tasks as u64));
        format!("[{}] {settled} of {tasks} tasks  {}{left}", bar(share, 40), duration(now - self.began))
    }
}

impl Running {
    fn text(&self, now: f64) -> String {
        let so_far = now - self.from;
        let share = (self.total > 0).then(|| self.done as f64 / self.total as f64);
        // A task's own progress knows more than its history.
        let left = match share.filter(|share| *share > 0.0) {
            Some(share) => Some(so_far * (1.0 - share) / share),
            None => self.expected.map(|expected| (expected - so_far).max(0.0)),
        };
        let left = left.map_or(String::new(), |left| format!(" (-{})", coarse(left)));
        let percent = share.map_or(String::new(), |share| format!("{:.0}%", share * 100.0));
        let (bar, so_far) = (bar(share.unwrap_or(0.0), 12), format!("{}{left}", duration(so_far)));
        let task: String = self.task.chars().take(32).collect();
        format!("{task:<32} {bar} {percent:>4}  {so_far:<16}  {}", self.note).trim_end().to_string()
    }
}

/// Time left, without the tenths of seconds that no forecast knows.
fn coarse(seconds: f64) -> String {
    if seconds < 60.0 { format!("{:.0}s", seconds.ceil()) } else { duration(seconds) }
}

fn bar(share: f64, width: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * width as f64).floor() as usize;
    let tip = if full < width { ">" } else { "" };
    format!("{:<width$}", format!("{}{tip}", "=".repeat(full)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Journal;

    fn board(events: Vec<Event>) -> Board {
        let (mut board, mut journal) = (Board::default(), Journal::new("r"));
        for event in events {
            board.hear(&Line { ts: 0.0, ..journal.line(&event) });
        }
        board
    }

    fn begin(tasks: usize) -> Event {
        Event::Begin { pipeline: "p".into(), tasks, cpus: 2, gpus: 0, stages: BTreeMap::new() }
    }

    fn start(task: &str, expected: Option<f64>) -> Event {
        let (task, key, reason) = (task.to_string(), String::new(), String::new());
        Event::Start { task, key, reason, threads: 1, gpu: None, gpus: vec![], waited: 0.0, expected }
    }

    #[test]
    fn the_board_tells_what_runs_and_how_long_it_will() {
        let progress = Event::Progress { task: "train.a".into(), done: 1, total: 4, note: "epoch 1/4".into() };
        let cached = Event::Cached { task: "lists.a".into(), key: String::new(), seconds: 1.0 };
        let forecast = Event::Forecast { seconds: 100.0 };
        let events = vec![begin(4), cached, start("train.a", None), progress, start("train.b", Some(40.0)), forecast];
        assert_eq!(
            board(events).lines(10.0, 8),
            [
                "train.a                          ===>          25%  10.0s (-30s)      epoch 1/4",
                "train.b                          >                  10.0s (-30s)",
                "[==========>                             ] 1 of 4 tasks  10.0s  about 1m30s left",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let many = (0..70).map(|i| start(&format!("encode.a@seed={i}"), None));
        let lines = board(std::iter::once(begin(70)).chain(many).collect()).lines(1.0, 8);
        assert_eq!((lines.len(), lines[8].as_str()), (10, "and 62 encode.a"));
    }
}
