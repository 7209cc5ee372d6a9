//! Events on a terminal: the plain lines scroll, and the board stands below them.
//!
//! Events only change the board; a thread of its own draws it a few times a second, however many events there are.

use super::Screen;
use super::board::Board;
use super::plain::Plain;
use crate::event::{Event, Line};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the board is drawn.
const TICK: Duration = Duration::from_millis(200);
/// Lines for running tasks.
const ROWS: usize = 10;

pub(super) struct Tty {
    shown: Arc<Mutex<Shown>>,
    lines: Plain,
    /// Dropped to end the drawing.
    pencil: Option<(Sender<()>, JoinHandle<()>)>,
    bars: MultiProgress,
}

struct Shown {
    board: Board,
    /// The time of the last event, by the run's clock and by this process's.
    last: (f64, Instant),
}

impl Tty {
    pub(super) fn new(verbose: bool) -> Self {
        let bars = MultiProgress::new();
        let above = bars.clone();
        // A terminal that cannot be written to any more cannot be told so either.
        let lines = Plain::new(Box::new(move |line| drop(above.println(line))), verbose);
        let shown = Shown { board: Board::default(), last: (0.0, Instant::now()) };
        Self { shown: Arc::new(Mutex::new(shown)), lines, pencil: None, bars }
    }

    fn start_drawing(&mut self) {
        let (stop, stopped) = channel();
        let (shown, bars) = (self.shown.clone(), self.bars.clone());
        let drawing = std::thread::spawn(move || {
            let mut rows = vec![];
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let texts = texts(&shown);
                draw(&bars, &mut rows, &texts);
            }
            draw(&bars, &mut rows, &[]);
        });
        self.pencil = Some((stop, drawing));
    }

    fn stop_drawing(&mut self) {
        if let Some((stop, drawing)) = self.pencil.take() {
            drop(stop);
            // It can only have failed to draw.
            let _ = drawing.join();
        }
    }
}

fn texts(shown: &Mutex<Shown>) -> Vec<String> {
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    let (at, since) = shown.last;
    shown.board.lines(at + since.elapsed().as_secs_f64(), ROWS)
}

/// Gives each text a row.
fn draw(bars: &MultiProgress, rows: &mut Vec<ProgressBar>, texts: &[String]) {
    for row in rows.drain(texts.len().min(rows.len())..) {
        row.finish_and_clear();
        bars.remove(&row);
    }
    while rows.len() < texts.len() {
        let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let row = bars.add(ProgressBar::new(0));
        row.set_style(style);
        rows.push(row);
    }
    for (row, text) in rows.iter().zip(texts) {
        row.set_message(text.clone());
    }
}

impl Screen for Tty {
    fn show(&mut self, line: &Line) {
        {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.board.hear(line);
            shown.last = (line.ts, Instant::now());
        }
        match &line.event {
            Event::Begin { .. } => self.start_drawing(),
            Event::End { .. } => self.stop_drawing(),
            // It is on the board.
            Event::Progress { .. } | Event::Reading { .. } => return,
            _ => {}
        }
        self.lines.show(line);
    }

    fn say(&mut self, text: &str) {
        self.lines.say(text);
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.stop_drawing();
    }
}
