//! Codes of parts of lists, kept for whoever needs them again: a database that grows by an image is encoded in one part.
//!
//! ```text
//! shards/
//!   3c/3ccf01...      a codes file, named by what its codes were made from
//! ```
//!
//! A part's name is a digest of the model, of how images are prepared, and of the content of its images in order; not of
//! their paths, their labels, or the list that they are in. Each file carries its own checksum and its name. One that
//! does not bear them out is removed and made again.

use crate::dataset::Item;
use crate::error::{Error, Result};
use crate::model::weights::Card;
use crate::retrieval::{self, Codes, Header, Provenance};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Separates these names from all other digests.
const CONTEXT: &str = "hashpipe 2026-11 part of codes v1";

/// Where the codes of one model are kept.
pub(super) struct Shelf<'a> {
    folder: &'a Path,
    /// Where files are written before they get their names, on the same disk; gone with the task.
    aside: PathBuf,
    bits: usize,
    /// Raised with the version of the stage, when the same model and images would give other codes.
    version: u32,
    model: String,
    transform: String,
}

/// Codes of some images, and how many outputs were exactly 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) codes: Codes,
    pub(super) zeros: u64,
}

impl Part {
    pub(super) fn empty(bits: usize) -> Result<Self> {
        Ok(Self { codes: Codes::new(bits)?, zeros: 0 })
    }
}

impl<'a> Shelf<'a> {
    /// `model` is the digest of the model's file; `aside` is a file that nobody else writes.
    pub(super) fn new(folder: &'a Path, aside: PathBuf, version: u32, model: &str, card: &Card) -> Result<Self> {
        let transform = card.transform_digest()?;
        Ok(Self { folder, aside, bits: card.bits, version, model: model.to_string(), transform })
    }

    /// The name of a part.
    pub(super) fn name(&self, images: &[Item]) -> String {
        let (version, bits) = (self.version.to_string(), self.bits.to_string());
        let of_model = [version.as_str(), &self.model, &self.transform, &bits];
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for text in of_model.into_iter().chain(images.iter().map(|image| image.digest.as_str())) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A part of so many codes that was put there before; and a warning, if there was one that cannot be used.
    pub(super) fn take(&self, name: &str, count: usize) -> (Option<Part>, Option<String>) {
        let path = self.path(name);
        let found = match retrieval::read(&path) {
            Ok((codes, header)) if codes.len() == count && header.provenance == self.provenance(name) => {
                return (Some(Part { codes, zeros: header.zeros }), None);
            }
            Ok(_) => "it is not what its name says".to_string(),
            Err(_) if !path.exists() => return (None, None),
            Err(error) => error.message().to_string(),
        };
        // Written over in any case; not being able to remove it shows then.
        let _ = fs::remove_file(&path);
        (None, Some(format!("stored codes were damaged and are made again: `{}`: {found}", path.display())))
    }

    /// Keeps a part.
    pub(super) fn put(&self, name: &str, part: &Part) -> Result<()> {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(self.folder);
        fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
        let header = Header { zeros: part.zeros, provenance: self.provenance(name) };
        retrieval::write(&self.aside, &part.codes, &header)?;
        let synced = File::open(&self.aside).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&self.aside, &path)).map_err(|e| Error::io("write", &path, &e))
    }

    fn provenance(&self, name: &str) -> Provenance {
        Provenance {
            model: Some(self.model.clone()),
            list: Some(name.to_string()),
            transform: Some(self.transform.clone()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(&name[..2]).join(name)
    }
}
