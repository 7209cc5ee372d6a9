//! Progress told less often: a record of a day's training is not read line by line.

use crate::event::{Event, Line};
use std::collections::HashMap;

/// Seconds between two words of progress on a task, at least.
const EVERY: f64 = 1.0;
/// The same, as a part of the task's time so far: the tenth hour is told in as many lines as the tenth second.
const PART: f64 = 0.01;

/// Says which lines are worth keeping.
#[derive(Default)]
pub struct Thin {
    /// By span: when it was first and last told of.
    told: HashMap<u64, (f64, f64)>,
}

impl Thin {
    /// Whether to keep a line. Only progress is ever left out, and never the first or the last of a task.
    pub fn keeps(&mut self, line: &Line) -> bool {
        let Event::Progress { done, total, .. } = &line.event else {
            if line.event.is_final() {
                self.told.remove(&line.span);
            }
            return true;
        };
        let Some((first, last)) = self.told.get_mut(&line.span) else {
            self.told.insert(line.span, (line.ts, line.ts));
            return true;
        };
        let due = line.ts - *last >= EVERY.max((line.ts - *first) * PART);
        if due {
            *last = line.ts;
        }
        due || (*total > 0 && done == total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Phase;

    #[test]
    fn progress_is_thinned_and_nothing_else() {
        let line = |ts: f64, event: Event| Line {
            v: 1,
            ts,
            run: "r".into(),
            span: 1,
            parent: Some(0),
            phase: Phase::Instant,
            event,
        };
        let progress = |ts: f64, done: u64| {
            line(ts, Event::Progress { task: "a".into(), done, total: 100_000, note: String::new() })
        };
        let mut thin = Thin::default();
        let kept = (0..100_000).filter(|i| thin.keeps(&progress(*i as f64 / 10.0, *i))).count();
        assert!((500..700).contains(&kept), "{kept}");
        assert!(thin.keeps(&progress(10_000.0, 100_000)));
        assert!(thin.keeps(&line(10_000.0, Event::Warning { task: "a".into(), text: String::new() })));
    }
}
