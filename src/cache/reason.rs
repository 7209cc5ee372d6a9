//! Why a task has to run: one vocabulary for `run`, `status` and reports.

use super::key::{CONTENT, Line, with_left_out};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Why a task's result is not there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This task has not run in this pipeline before.
    New,
    /// A part of its key is other than at its last run.
    Changed { name: String, old: String, new: String, others: usize },
    /// It ran before with this very key, but an output is gone from the cache.
    Gone { output: String },
    /// It ran before with this very key, but an output was changed in the cache.
    Damaged { output: String },
    /// The record of its last run is gone or cannot be read.
    Forgotten,
    /// It was stopped or killed in the middle, with this very key.
    Interrupted { note: String },
    /// It failed at its last attempt, with this very key.
    Failed { cause: String },
    /// At its last attempt an input changed while it ran.
    Tainted,
    /// Its stage says `cache = false`.
    Always,
    /// `--force`.
    Forced,
}

impl Reason {
    /// The first difference between the last run's key lines and the present ones.
    pub(super) fn between(old: &[Line], new: &[Line]) -> Self {
        let changed = differences(old, new);
        match changed.first() {
            Some(Difference { name, old, new }) => {
                let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
                Self::Changed { name: name.clone(), old: told(old), new: told(new), others: changed.len() - 1 }
            }
            None => Self::Forgotten,
        }
    }
}

/// A part of a key that is other than it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub name: String,
    /// What stood there before; nothing if it was not part of the key.
    pub old: Option<String>,
    /// What stands there now; nothing if it is no longer part of the key.
    pub new: Option<String>,
}

/// Every difference between two keys' lines, in the order of the new one's; what is gone comes last. What one of them
/// leaves out stands for what was done before there was a choice.
pub fn differences(old: &[Line], new: &[Line]) -> Vec<Difference> {
    let (old, new) = (&with_left_out(old), &with_left_out(new));
    let by_name = |lines: &[Line]| -> HashMap<String, String> {
        lines.iter().map(|line| (line.name.clone(), line.value.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let gone = old.iter().filter(|line| !after.contains_key(&line.name));
    let names = new.iter().chain(gone).map(|line| &line.name);
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| Difference { name: name.clone(), old: before.get(name).cloned(), new: after.get(name).cloned() })
        .collect()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("never run before"),
            Self::Changed { name, old, new, others } => {
                let name = name.strip_prefix("params.").unwrap_or(name);
                if old.contains(CONTENT) && new.contains(CONTENT) {
                    write!(f, "`{name}` has new content")?;
                } else {
                    write!(f, "`{name}` changed: {old} -> {new}")?;
                }
                match others {
                    0 => Ok(()),
                    n => write!(f, ", and {n} more"),
                }
            }
            Self::Gone { output } => write!(f, "its output `{output}` is gone from the cache"),
            Self::Damaged { output } => write!(f, "its output `{output}` was damaged in the cache"),
            Self::Forgotten => f.write_str("its last result is no longer in the cache"),
            Self::Interrupted { note } if note.is_empty() => f.write_str("was interrupted"),
            Self::Interrupted { note } => write!(f, "was interrupted at {note}"),
            Self::Failed { cause } => write!(f, "failed before: {cause}"),
            Self::Tainted => f.write_str("an input changed while it ran"),
            Self::Always => f.write_str("is never cached"),
            Self::Forced => f.write_str("asked for with --force"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: &str) -> Line {
        Line { name: name.into(), value: value.into() }
    }

    #[test]
    fn the_first_difference_is_the_reason() {
        let old = [line("kind", "train"), line("params.epochs", "10"), line("params.list", "blake3:aa")];
        let new = [line("kind", "train"), line("params.epochs", "20"), line("params.list", "blake3:bb")];
        assert_eq!(Reason::between(&old, &new).to_string(), "`epochs` changed: 10 -> 20, and 1 more");
        let new = [old[0].clone(), old[1].clone(), line("params.list", "blake3:bb")];
        assert_eq!(Reason::between(&old, &new).to_string(), "`list` has new content");
    }
}
