//! Events as lines that scroll.

use super::{Screen, duration, plural};
use crate::event::Event;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a running task's progress is worth a line.
const EVERY: Duration = Duration::from_secs(10);

/// Writes a line per event. Tasks found in the cache are only named if something else happens: when nothing is to be
/// done, there is nothing to read.
pub(super) struct Plain {
    line: Box<dyn FnMut(&str)>,
    heading: Option<String>,
    cached: Vec<String>,
    told: HashMap<String, Instant>,
}

impl Plain {
    pub(super) fn new(line: Box<dyn FnMut(&str)>) -> Self {
        Self { line, heading: None, cached: vec![], told: HashMap::new() }
    }

    /// Says what was held back: from here on something happens.
    fn flush(&mut self) {
        for line in self.heading.take().into_iter().chain(std::mem::take(&mut self.cached)) {
            (self.line)(&line);
        }
    }

    /// Whether a progress line of this task is due.
    fn is_due(&mut self, task: &str) -> bool {
        let now = Instant::now();
        let last = self.told.entry(task.to_string()).or_insert(now);
        let due = now.duration_since(*last) >= EVERY;
        if due {
            *last = now;
        }
        due
    }
}

impl Screen for Plain {
    fn show(&mut self, event: &Event) {
        if let Event::Progress { task, .. } = event
            && !self.is_due(task)
        {
            return;
        }
        match event {
            Event::Begin { .. } => self.heading = lines(event).into_iter().next(),
            Event::Cached { .. } if self.heading.is_some() => self.cached.extend(lines(event)),
            Event::End { .. } => {}
            event => {
                self.flush();
                for line in lines(event) {
                    (self.line)(&line);
                }
            }
        }
    }

    fn say(&mut self, text: &str) {
        (self.line)(text);
    }
}

/// An event as lines of text.
pub(super) fn lines(event: &Event) -> Vec<String> {
    let head = |word: &str, task: &str, rest: &str| format!("{word:<7} {task:<32} {rest}").trim_end().to_string();
    match event {
        Event::Begin { pipeline, tasks, cpus, gpus } => {
            let gpus = if *gpus > 0 { format!(", {}", plural(*gpus, "gpu")) } else { String::new() };
            vec![format!("hashpipe: {pipeline}, {}, {}{gpus}", plural(*tasks, "task"), plural(*cpus, "cpu"))]
        }
        Event::Cached { task, key } => vec![head("cached", task, key)],
        Event::Start { task, reason, threads, gpu, .. } => {
            let on = gpu.map_or(plural(*threads, "thread"), |slot| format!("gpu {slot}"));
            vec![head("start", task, &format!("{on}; {reason}"))]
        }
        Event::Progress { task, done, total, note } => {
            let percent = if *total > 0 { format!("{:>3}%  ", done * 100 / total) } else { String::new() };
            vec![head("", task, &format!("{percent}{note}"))]
        }
        Event::Warning { task, text } if text.starts_with("warning") => std::iter::once(head("warning", task, ""))
            .chain(text.lines().map(|line| format!("        {line}")))
            .collect(),
        Event::Warning { task, text } => vec![head("warning", task, text)],
        Event::Done { task, key, seconds, metrics } => {
            let mut lines = vec![head("done", task, &format!("{key} in {}", duration(*seconds)))];
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
            lines.extend(log.iter().map(|log| format!("note: log: {}", log.display())));
            lines
        }
        Event::Stopped { task } => vec![head("stopped", task, "what it had done is kept")],
        Event::Retry { task, because } => vec![head("again", task, because)],
        Event::Blocked { task, needs } => vec![head("blocked", task, &format!("needs {needs}"))],
        Event::End { .. } => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn shown(events: &[Event]) -> Vec<String> {
        let lines = Rc::new(RefCell::new(vec![]));
        let kept = lines.clone();
        let mut plain = Plain::new(Box::new(move |line| kept.borrow_mut().push(line.to_string())));
        for event in events {
            plain.show(event);
        }
        lines.take()
    }

    #[test]
    fn nothing_to_do_is_silent_and_work_is_told_in_full() {
        let begin = Event::Begin { pipeline: "p".into(), tasks: 2, cpus: 2, gpus: 0 };
        let cached = Event::Cached { task: "lists.a".into(), key: "3f9a12c0b7e1".into() };
        let start = Event::Start {
            task: "train.a".into(),
            key: "8b".into(),
            reason: "never run before".into(),
            threads: 1,
            gpu: None,
        };
        assert_eq!(shown(&[begin.clone(), cached.clone()]), Vec::<String>::new());
        assert_eq!(
            shown(&[begin, cached, start]),
            [
                "hashpipe: p, 2 tasks, 2 cpus",
                "cached  lists.a                          3f9a12c0b7e1",
                "start   train.a                          1 thread; never run before",
            ]
        );
    }
}
