//! Events as lines that scroll.

use super::tally::{Tally, stage_of};
use super::{Screen, duration, plural, size, tail};
use crate::event::{Event, Line};
use std::collections::{BTreeMap, HashMap};

/// How often a running task's progress, or a folded run's, is worth a line: in seconds.
const EVERY: f64 = 10.0;
/// Hits up to this number are named; of more, their number is told.
const FEW: usize = 20;
/// Runs with more tasks than this are told by stage.
const MANY: usize = 200;
/// Of a folded run's warnings and failures so many are told in full.
const IN_FULL: usize = 10;
/// Lines of a failed task's log that are shown.
const LOG_LINES: usize = 40;

/// Writes a line per event. Tasks found in the cache are only named if something else happens: when nothing is to be
/// done, there is nothing to read.
pub(super) struct Plain {
    line: Box<dyn FnMut(&str)>,
    /// Every task is told, however many there are.
    verbose: bool,
    heading: Option<String>,
    /// Hits before anything else happened.
    cached: Vec<(String, String)>,
    /// When each running task was last told of.
    told: HashMap<String, f64>,
    fold: Option<Fold>,
}

/// A run that is told by stage.
#[derive(Default)]
struct Fold {
    tally: Tally,
    told: f64,
    told_in_full: usize,
}

impl Plain {
    pub(super) fn new(line: Box<dyn FnMut(&str)>, verbose: bool) -> Self {
        Self { line, verbose, heading: None, cached: vec![], told: HashMap::new(), fold: None }
    }

    /// Says what was held back: from here on something happens.
    fn flush(&mut self) {
        if let Some(heading) = self.heading.take() {
            (self.line)(&heading);
        }
        let cached = std::mem::take(&mut self.cached);
        if self.verbose || cached.len() <= FEW {
            for (task, key) in cached {
                (self.line)(&head("cached", &task, &key));
            }
            return;
        }
        let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
        for (task, _) in &cached {
            *stages.entry(stage_of(task)).or_default() += 1;
        }
        for (stage, tasks) in stages {
            (self.line)(&head("cached", stage, &plural(tasks, "task")));
        }
    }

    /// Whether a progress line of this task is due.
    fn is_due(&mut self, task: &str, now: f64) -> bool {
        let last = self.told.entry(task.to_string()).or_insert(now);
        let due = now - *last >= EVERY;
        if due {
            *last = now;
        }
        due
    }

    fn tell(&mut self, event: &Event) {
        self.flush();
        for line in lines(event) {
            (self.line)(&line);
        }
    }

    /// One event of a folded run.
    fn show_folded(&mut self, line: &Line) {
        let Some(fold) = &mut self.fold else { return };
        fold.tally.hear(line);
        if self.heading.is_some() && line.event.is_idle() {
            return;
        }
        let due = self.heading.is_some() || line.ts - fold.told >= EVERY || matches!(line.event, Event::End { .. });
        if due {
            fold.told = line.ts;
        }
        let news = fold.tally.news(due);
        let told = matches!(line.event, Event::Failed { .. } | Event::Warning { .. });
        fold.told_in_full += usize::from(told);
        let in_full = fold.told_in_full;
        self.flush();
        for line in news {
            (self.line)(&line);
        }
        if told && in_full <= IN_FULL {
            self.tell(&line.event);
        } else if told && in_full == IN_FULL + 1 {
            (self.line)("        further warnings and failures: with `--verbose`, or in the record of the run");
        }
    }
}

impl Screen for Plain {
    fn show(&mut self, line: &Line) {
        if let Event::Begin { tasks, .. } = &line.event {
            self.heading = lines(&line.event).into_iter().next();
            self.fold = (*tasks > MANY && !self.verbose).then(|| Fold { told: line.ts, ..Fold::default() });
        }
        if self.fold.is_some() {
            return self.show_folded(line);
        }
        match &line.event {
            Event::Begin { .. } | Event::Forecast { .. } | Event::End { .. } | Event::Report(_) => {}
            Event::Progress { task, .. } if !self.is_due(task, line.ts) => {}
            Event::Reading { .. } if !self.is_due("", line.ts) => {}
            Event::Cached { task, key, .. } if self.heading.is_some() => {
                self.cached.push((task.clone(), short(key).to_string()));
            }
            event => self.tell(event),
        }
    }

    fn say(&mut self, text: &str) {
        (self.line)(text);
    }
}

/// Enough of a key for a person.
fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

fn head(word: &str, task: &str, rest: &str) -> String {
    format!("{word:<7} {task:<32} {rest}").trim_end().to_string()
}

/// An event as lines of text.
fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::Begin { pipeline, tasks, cpus, gpus, .. } => {
            let gpus = if *gpus > 0 { format!(", {}", plural(*gpus, "gpu")) } else { String::new() };
            vec![format!("hashpipe: {pipeline}, {}, {}{gpus}", plural(*tasks, "task"), plural(*cpus, "cpu"))]
        }
        Event::Reading { read, total } => vec![format!("reading inputs: {} of {}", size(*read), size(*total))],
        Event::Cached { task, key, .. } => vec![head("cached", task, short(key))],
        Event::Start { task, reason, threads, gpu, gpus, .. } => {
            let on = match (gpu, &gpus[..]) {
                (None, []) => plural(*threads, "thread"),
                (Some(gpu), []) => format!("gpu {gpu}"),
                (_, gpus) => format!("gpus {}", gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            };
            vec![head("start", task, &format!("{on}; {reason}"))]
        }
        Event::Progress { task, done, total, note } => {
            let percent = if *total > 0 { format!("{:>3}%  ", done * 100 / total) } else { String::new() };
            vec![head("", task, &format!("{percent}{note}"))]
        }
        Event::Threads { task, threads } => vec![head("", task, &format!("{} now", plural(*threads, "thread")))],
        Event::Warning { task, text } if text.starts_with("warning") => std::iter::once(head("warning", task, ""))
            .chain(text.lines().map(|line| format!("        {line}")))
            .collect(),
        Event::Warning { task, text } => vec![head("warning", task, text)],
        Event::Done { task, key, seconds, metrics } => {
            let mut lines = vec![head("done", task, &format!("{} in {}", short(key), duration(*seconds)))];
            let shown: Vec<String> =
                super::metrics(metrics).iter().map(|(name, figure)| format!("{name} {figure}")).collect();
            if !shown.is_empty() {
                lines.push(format!("        {}", shown.join("  ")));
            }
            lines
        }
        Event::Failed { task, error, log } => {
            let mut lines = vec![head("failed", task, "")];
            lines.extend(error.lines().map(str::to_string));
            if let Some(log) = log {
                let last = tail(log, LOG_LINES);
                if !last.is_empty() {
                    lines.push(format!("note: the last {} of its log:", plural(last.len(), "line")));
                    lines.extend(last.iter().map(|line| format!("    | {line}")));
                }
                lines.push(format!("note: log: {}", log.display()));
            }
            lines
        }
        Event::Stopped { task } => vec![head("stopped", task, "what it had done is kept")],
        Event::Retry { task, because } => vec![head("again", task, because)],
        Event::Blocked { task, needs } => vec![head("blocked", task, &format!("needs {needs}"))],
        Event::Forecast { .. } | Event::End { .. } | Event::Report(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Journal;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What is written of events that happen a second apart.
    fn shown(events: impl IntoIterator<Item = Event>, verbose: bool) -> Vec<String> {
        let lines = Rc::new(RefCell::new(vec![]));
        let kept = lines.clone();
        let mut plain = Plain::new(Box::new(move |line| kept.borrow_mut().push(line.to_string())), verbose);
        let mut journal = Journal::new("r");
        for (second, event) in events.into_iter().enumerate() {
            plain.show(&Line { ts: second as f64, ..journal.line(&event) });
        }
        lines.take()
    }

    fn begin(stages: &[(&str, usize)]) -> Event {
        let stages: BTreeMap<String, usize> = stages.iter().map(|(name, n)| (name.to_string(), *n)).collect();
        Event::Begin { pipeline: "p".into(), tasks: stages.values().sum(), cpus: 2, gpus: 0, stages }
    }

    fn cached(task: &str) -> Event {
        Event::Cached { task: task.into(), key: "3f9a12c0b7e1ffff".into(), seconds: 1.0 }
    }

    fn start(task: &str) -> Event {
        let (task, key, reason) = (task.to_string(), "8b".to_string(), "never run before".to_string());
        Event::Start { task, key, reason, threads: 1, gpu: None, gpus: vec![], waited: 0.0, expected: None }
    }

    fn done(task: &str) -> Event {
        Event::Done { task: task.into(), key: "8b".into(), seconds: 1.0, metrics: BTreeMap::new() }
    }

    fn end() -> Event {
        Event::End { ran: 0, cached: 0, failed: 0, blocked: 0, stopped: 0, seconds: 1.0 }
    }

    #[test]
    fn nothing_to_do_is_silent_and_work_is_told_in_full() {
        let first = [begin(&[("lists.a", 1), ("train.a", 1)]), cached("lists.a")];
        assert_eq!(shown(first.clone(), false), [""; 0]);
        assert_eq!(
            shown(first.into_iter().chain([start("train.a")]), false),
            [
                "hashpipe: p, 2 tasks, 2 cpus",
                "cached  lists.a                          3f9a12c0b7e1",
                "start   train.a                          1 thread; never run before",
            ]
        );
    }

    #[test]
    fn where_a_task_runs_is_told() {
        let on = |card: Option<usize>, cards: &[usize]| {
            let mut event = start("train.a");
            let Event::Start { gpu, gpus, .. } = &mut event else { unreachable!() };
            (*gpu, *gpus) = (card, cards.to_vec());
            shown([begin(&[("train.a", 1)]), event], false).pop().unwrap()
        };
        assert!(on(None, &[]).ends_with(" 1 thread; never run before"));
        assert!(on(Some(2), &[]).ends_with(" gpu 2; never run before"));
        assert!(on(Some(0), &[0, 3]).ends_with(" gpus 0, 3; never run before"));
    }

    #[test]
    fn many_hits_are_counted_by_stage() {
        let tasks = (0..30).map(|i| cached(&format!("encode.a@bits={i}")));
        let run = || {
            std::iter::once(begin(&[("encode.a", 30), ("train.a", 1)])).chain(tasks.clone()).chain([start("train.a")])
        };
        let lines = shown(run(), false);
        assert_eq!((lines.len(), lines[1].as_str()), (3, "cached  encode.a                         30 tasks"));
        assert_eq!(shown(run(), true).len(), 32);
    }

    #[test]
    fn a_run_of_thousands_is_told_by_stage() {
        let task = |i: usize| format!("encode.a@seed={i}");
        let hits = (0..2000).map(|i| cached(&task(i)));
        let work = (2000..3000).flat_map(|i| [start(&task(i)), done(&task(i))]);
        let all = || std::iter::once(begin(&[("encode.a", 3000)])).chain(hits.clone());
        assert_eq!(shown(all().chain([end()]), false), [""; 0], "hits alone are silent");
        let lines = shown(all().chain(work).chain([end()]), false);
        assert_eq!(lines[0], "hashpipe: p, 3,000 tasks, 2 cpus");
        assert!(lines[1].contains("2,0") && lines[1].contains("of 3,000 tasks, 2,000 cached"), "{}", lines[1]);
        assert_eq!(
            lines.last().unwrap(),
            "done    encode.a                         3,000 tasks, 2,000 cached, in 33m19s"
        );
        assert!(lines.len() < 210, "a line in ten seconds, not {}", lines.len());
    }

    #[test]
    fn failures_of_a_large_run_are_told_in_full_only_at_first() {
        let failed = |i: usize| Event::Failed { task: format!("a.b@i={i}"), error: "error: x".into(), log: None };
        let lines = shown(std::iter::once(begin(&[("a.b", 500)])).chain((0..500).map(failed)).chain([end()]), false);
        assert_eq!(lines.iter().filter(|line| line.starts_with("failed  a.b@")).count(), IN_FULL);
        assert_eq!(lines.last().unwrap(), "failed  a.b                              500 tasks");
    }

    #[test]
    fn a_failed_task_shows_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, (0..50).map(|i| format!("{i}\n")).collect::<String>()).unwrap();
        let event = Event::Failed { task: "a.b".into(), error: "error: it died".into(), log: Some(log) };
        let lines = lines(&event);
        assert_eq!(lines[1..4], ["error: it died", "note: the last 40 lines of its log:", "    | 10"]);
        assert_eq!(lines.len(), 44);
    }
}
