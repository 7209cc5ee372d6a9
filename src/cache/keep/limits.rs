//! How large a cache may grow: from the command line, the environment, or `config.toml` in the cache.

use crate::amounts::{Bytes, Period};
use crate::error::{Error, Place, Result};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::Path;

/// What a cache is kept to; no pipeline says anything of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of everything in the cache.
    pub max_size: Option<Bytes>,
    /// What was not used for so long goes.
    pub max_age: Option<Period>,
    /// Bytes that stay free on the disk.
    pub min_free: Option<Bytes>,
}

impl Limits {
    /// What `config.toml` in a cache's folder says; nothing if there is no such file.
    pub fn of(folder: &Path) -> Result<Self> {
        let path = folder.join("config.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        toml::from_str(&text).map_err(|e| {
            let before = e.span().map_or("", |span| &text[..span.start.min(text.len())]);
            let line = before.matches('\n').count();
            let shown = text.lines().nth(line).unwrap_or_default();
            Error::input(e.message().trim().to_string())
                .at(Place::line(&path, line + 1, shown))
                .hint("it may hold `max_size = \"50GiB\"`, `max_age = \"90d\"` and `min_free = \"10GiB\"`")
        })
    }

    /// These, and where they say nothing, those of `wider`.
    #[must_use]
    pub fn over(self, wider: Self) -> Self {
        Self {
            max_size: self.max_size.or(wider.max_size),
            max_age: self.max_age.or(wider.max_age),
            min_free: self.min_free.or(wider.min_free),
        }
    }

    /// By how many bytes a cache of this size, on a disk with so much room, exceeds them.
    pub(super) fn exceeded_by(&self, size: u64, available: u64) -> u64 {
        let too_large = self.max_size.map_or(0, |most| size.saturating_sub(most.0));
        let too_full = self.min_free.map_or(0, |least| least.0.saturating_sub(available));
        too_large.max(too_full)
    }

    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_its_faults_have_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(folder.path().join("config.toml"), text).unwrap();
            Limits::of(folder.path())
        };
        assert!(Limits::of(folder.path()).unwrap().is_none());
        let limits = read("max_size = \"1KiB\"\n").unwrap();
        assert_eq!(limits, Limits { max_size: Some(Bytes(1024)), ..Limits::default() });
        assert_eq!(limits.over(Limits { max_size: Some(Bytes(7)), ..limits }), limits);
        for wrong in ["# size\nmax_size = \"large\"\n", "\nmax_sise = \"1GiB\"\n"] {
            let error = read(wrong).unwrap_err().render("error");
            assert!(error.contains("config.toml:2:1"), "{error}");
        }
    }
}
