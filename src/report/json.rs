//! Events as lines of JSON on standard output, for scripts.

use super::{Screen, note, print};
use crate::event::Event;

pub(super) struct Json;

impl Screen for Json {
    fn show(&mut self, event: &Event) {
        print(&serde_json::to_string(event).expect("an event is plain data"));
    }

    fn say(&mut self, text: &str) {
        note(text);
    }
}
