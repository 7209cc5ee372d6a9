//! Events as lines of JSON on standard output, for scripts.

use super::{Screen, note, print};
use crate::event::Line;

pub(super) struct Json;

impl Screen for Json {
    fn show(&mut self, line: &Line) {
        print(&serde_json::to_string(line).expect("an event is plain data"));
    }

    fn say(&mut self, text: &str) {
        note(text);
    }
}
