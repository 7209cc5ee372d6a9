//! Events to screen and files. Knows nothing of how the work is done.

mod board;
mod form;
mod json;
mod leaderboard;
mod meter;
mod out;
mod outputs;
mod plain;
mod sheet;
mod spread;
mod summary;
mod tail;
mod tally;
mod text;
mod tty;

pub use form::{Form, Table};
pub use leaderboard::{Entry, Leaderboard, Named};
pub use meter::Meter;
pub use out::{is_heard, print, print_bytes, printed};
pub use outputs::materialise;
pub use sheet::sheet;
pub use summary::Summary;
pub use tail::tail;
pub use text::{age, count, duration, metrics, plural, size, table};

use crate::event::Line;
use std::io::{IsTerminal as _, Write as _};

/// Shows a run while it goes on.
pub trait Screen {
    fn show(&mut self, line: &Line);
    /// Says one thing outside of any event.
    fn say(&mut self, text: &str);
}

/// The screen for the present standard error: a board on a terminal, lines elsewhere, JSON lines if asked for. Runs of
/// many tasks are told by stage unless `verbose`.
pub fn screen(json: bool, verbose: bool) -> Box<dyn Screen> {
    if json {
        Box::new(json::Json)
    } else if std::io::stderr().is_terminal() {
        Box::new(tty::Tty::new(verbose))
    } else {
        Box::new(plain::Plain::new(Box::new(note), verbose))
    }
}

/// Writes a message for the user: standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
