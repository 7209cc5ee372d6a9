//! Why a task has to run: one vocabulary for `run`, `status` and reports.

use super::key::{CONTENT, Line};
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
    /// `--force`.
    Forced,
}

impl Reason {
    /// The first difference between the last run's key lines and the present ones.
    pub(super) fn between(old: &[Line], new: &[Line]) -> Self {
        let value = |lines: &[Line], name: &str| {
            lines.iter().find(|line| line.name == name).map_or("none".to_string(), |line| line.value.clone())
        };
        let mut names: Vec<&str> = new.iter().chain(old).map(|line| line.name.as_str()).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        let changed: Vec<&str> = names.into_iter().filter(|name| value(old, name) != value(new, name)).collect();
        match changed.first() {
            Some(name) => Self::Changed {
                name: (*name).to_string(),
                old: value(old, name),
                new: value(new, name),
                others: changed.len() - 1,
            },
            None => Self::Forgotten,
        }
    }
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
