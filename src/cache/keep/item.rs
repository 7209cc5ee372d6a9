//! Something in the cache that is to go, and why.

use crate::cache::Key;
use std::path::PathBuf;
use std::time::Duration;

/// Something that goes as a whole.
#[derive(Debug, Clone)]
pub struct Item {
    pub what: What,
    pub(super) why: Why,
    /// What a person knows it by.
    pub name: String,
    /// The key it belongs to.
    pub key: Option<Key>,
    /// Bytes that are free when it is gone.
    pub bytes: u64,
    /// Wall time of making it again.
    pub seconds: f64,
    pub(super) paths: Vec<PathBuf>,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A result, of which the record stays.
    Result,
    /// Codes of a part of a list.
    Part,
    /// An object that no result consists of.
    Object,
    /// What unfinished work goes on from.
    Resume,
    /// What was set aside as damaged.
    Damaged,
    /// What a process that is gone has left.
    Leftover,
}

impl Item {
    /// Why it goes, in a person's words.
    pub fn because(&self) -> String {
        self.why.text()
    }
}

impl What {
    /// All of them, the dearest first.
    pub const ALL: [Self; 6] = [Self::Result, Self::Part, Self::Object, Self::Resume, Self::Damaged, Self::Leftover];

    pub fn word(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Part => "stored part",
            Self::Object => "object",
            Self::Resume => "resume state",
            Self::Damaged => "damaged file",
            Self::Leftover => "leftover",
        }
    }
}

/// Why it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Not used for so long.
    Old(Duration),
    /// No task has it as its newest result.
    Superseded,
    /// The room is needed.
    Room,
    /// No record names it.
    Unnamed,
    /// Its key gave it after another result, and that one is used.
    Variant,
    /// The work it belongs to is done.
    Done,
    /// Nobody went on from it for so long.
    Forgotten(Duration),
    /// Set aside so long ago.
    Damaged(Duration),
    /// Its process is gone.
    Left,
}

impl Why {
    fn text(self) -> String {
        let days = |age: Duration| format!("{} days", age.as_secs() / (24 * 60 * 60));
        match self {
            Self::Old(age) => format!("not used for {}", days(age)),
            Self::Superseded => "no task's newest result".into(),
            Self::Room => "room is needed".into(),
            Self::Unnamed => "no record names it".into(),
            Self::Variant => "its key's first result is used instead".into(),
            Self::Done => "its work is done".into(),
            Self::Forgotten(age) => format!("not gone on from for {}", days(age)),
            Self::Damaged(age) => format!("set aside {} ago", days(age)),
            Self::Left => "its process is gone".into(),
        }
    }
}
