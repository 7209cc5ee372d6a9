//! Events on a terminal: the plain lines scroll, and a bar per running task stands below them.

use super::Screen;
use super::plain::Plain;
use crate::event::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::time::Duration;

/// How often bars move on their own, so that elapsed times do.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Tty {
    bars: MultiProgress,
    whole: ProgressBar,
    tasks: HashMap<String, ProgressBar>,
    lines: Plain,
}

impl Tty {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::new();
        let above = bars.clone();
        // A terminal that cannot be written to any more cannot be told so either.
        let lines = Plain::new(Box::new(move |line| drop(above.println(line))));
        Self { bars, whole: ProgressBar::hidden(), tasks: HashMap::new(), lines }
    }

    fn start(&mut self, task: &str) {
        if self.whole.is_hidden() {
            self.whole.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.whole = self.bars.add(self.whole.clone());
            self.whole.enable_steady_tick(TICK);
        }
        let bar = self.bars.insert_before(&self.whole, ProgressBar::new(0));
        bar.set_style(style("{prefix:<28.28} {bar:12} {percent:>3}%  {elapsed} (-{eta})  {wide_msg}"));
        bar.set_prefix(task.to_string());
        bar.enable_steady_tick(TICK);
        self.tasks.insert(task.to_string(), bar);
    }

    fn finish(&mut self, task: &str) {
        if let Some(bar) = self.tasks.remove(task) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.whole.inc(1);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=- ")
}

impl Screen for Tty {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Progress { task, done, total, note } => {
                if let Some(bar) = self.tasks.get(task) {
                    bar.set_length(*total);
                    bar.set_position(*done);
                    bar.set_message(note.clone());
                }
                return;
            }
            Event::Begin { tasks, .. } => {
                self.whole.set_length(*tasks as u64);
                self.whole.set_style(style("[{bar:40}] {pos}/{len} done  {elapsed}"));
            }
            Event::Start { task, .. } => self.start(task),
            Event::Cached { task, .. }
            | Event::Done { task, .. }
            | Event::Failed { task, .. }
            | Event::Stopped { task }
            | Event::Blocked { task, .. } => self.finish(task),
            Event::End { .. } => self.whole.finish_and_clear(),
            Event::Warning { .. } | Event::Retry { .. } => {}
        }
        self.lines.show(event);
    }

    fn say(&mut self, text: &str) {
        self.lines.say(text);
    }
}
