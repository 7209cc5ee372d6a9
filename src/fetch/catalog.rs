//! What can be fetched: a table of addresses and checksums that is compiled in.

use super::checksum::{Algorithm, Checksum};
use super::unpack::Archive;
use crate::error::{Error, Result};
use crate::names::known_or_nearest;
use serde::Deserialize;

const TEXT: &str = include_str!("catalog.toml");

/// A data set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Its name on the command line.
    pub name: String,
    pub about: String,
    /// Where its makers describe it.
    pub page: String,
    /// What has to be asked for by hand.
    #[serde(default)]
    pub form: Option<String>,
    #[serde(default, rename = "file")]
    pub files: Vec<Source>,
}

/// A file of a data set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub url: String,
    /// In bytes, if it is known.
    #[serde(default)]
    pub size: Option<u64>,
    /// Published checksums, in hexadecimal.
    #[serde(default)]
    pub md5: Option<String>,
    #[serde(default)]
    pub sha256: Option<String>,
    /// Folder it is unpacked into, unless the archive has one of that name.
    #[serde(default)]
    pub into: Option<String>,
    /// The most bytes it may unpack to.
    #[serde(default)]
    pub at_most: Option<u64>,
}

impl Source {
    /// A file at any address, with no checksum.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), size: None, md5: None, sha256: None, into: None, at_most: None }
    }

    /// The same with a published MD5, in hexadecimal.
    #[must_use]
    pub fn with_md5(self, md5: impl Into<String>) -> Self {
        Self { md5: Some(md5.into()), ..self }
    }

    /// Its name: the end of its address.
    pub fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// The published checksum.
    pub fn checksum(&self) -> Option<Checksum> {
        let of = |algorithm, hex: &Option<String>| Some(Checksum { algorithm, hex: hex.clone()?.to_lowercase() });
        of(Algorithm::Sha256, &self.sha256).or_else(|| of(Algorithm::Md5, &self.md5))
    }

    /// What kind of archive it is.
    pub fn archive(&self) -> Option<Archive> {
        Archive::of(self.name())
    }
}

/// Every data set, in the order of the table.
pub fn sets() -> Vec<Set> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        set: Vec<Set>,
    }
    let table: Table = toml::from_str(TEXT).expect("a test reads the table that is compiled in");
    table.set
}

/// The data set of this name.
///
/// # Errors
/// An unknown name, with the nearest known one.
pub fn find(name: &str) -> Result<Set> {
    let sets = sets();
    let known: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    let unknown = || {
        Error::input(format!("there is no data set `{name}` to fetch")).hint(known_or_nearest(
            name,
            &known,
            "data sets",
        ))
    };
    sets.iter().find(|set| set.name == name).cloned().ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_well_formed() {
        let mut names = HashSet::new();
        for set in sets() {
            assert!(names.insert(set.name.clone()), "{} twice", set.name);
            assert!(set.page.starts_with("http") && !set.about.ends_with('.'), "{}", set.name);
            assert!(!set.files.is_empty() || set.form.is_some(), "{}: nothing to fetch, and no word why", set.name);
            for file in &set.files {
                assert!(file.url.starts_with("http") && file.archive().is_some(), "{}", file.url);
                if let Some(sum) = file.checksum() {
                    let digits = if sum.algorithm == Algorithm::Md5 { 32 } else { 64 };
                    assert!(sum.hex.len() == digits && sum.hex.bytes().all(|b| b.is_ascii_hexdigit()), "{}", file.url);
                }
            }
        }
        assert!(find("coco2104").unwrap_err().render("error").contains("did you mean `coco2014`?"));
    }
}
