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

use crate::dataset::{Item, List};
use crate::error::{Error, Result};
use crate::model::weights::Card;
use crate::model::{Precision, Sign};
use crate::retrieval::{self, Codes, Header, Provenance};
use std::fs::{self, File};
use std::ops::Range;
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
    precision: Precision,
}

/// Codes of some images, and how many outputs were exactly 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) codes: Codes,
    pub(super) zeros: u64,
}

impl Part {
    fn empty(bits: usize) -> Result<Self> {
        Ok(Self { codes: Codes::new(bits)?, zeros: 0 })
    }
}

impl<'a> Shelf<'a> {
    /// `model` is the digest of the model's file; `aside` is a file that nobody else writes.
    pub(super) fn new(folder: &'a Path, aside: PathBuf, version: u32, model: &str, card: &Card) -> Result<Self> {
        let transform = card.transform_digest()?;
        Ok(Self {
            folder,
            aside,
            bits: card.bits,
            version,
            model: model.to_string(),
            transform,
            precision: Precision::F32,
        })
    }

    /// The same for codes that are made in this precision.
    pub(super) fn of_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The name of a part.
    fn name(&self, images: &[Item]) -> String {
        let (version, bits) = (self.version.to_string(), self.bits.to_string());
        let of_model = [version.as_str(), &self.model, &self.transform, &bits];
        let precision = (!self.precision.is_default()).then(|| self.precision.name());
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for text in of_model.into_iter().chain(precision).chain(images.iter().map(|image| image.digest.as_str())) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A part of so many codes that was put there before; and a warning, if there was one that cannot be used.
    fn take(&self, name: &str, count: usize) -> (Option<Part>, Option<String>) {
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
    fn put(&self, name: &str, part: &Part) -> Result<()> {
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

/// The parts of a list, in its order: some taken from the shelf, the others filled one after the other.
pub(super) struct Parts<'a> {
    shelf: &'a Shelf<'a>,
    slots: Vec<Slot>,
    /// The part that is being filled.
    growing: Part,
    /// Images that were encoded.
    pub(super) encoded: usize,
    /// Images whose codes were there.
    pub(super) reused: usize,
}

struct Slot {
    range: Range<usize>,
    name: String,
    part: Option<Part>,
}

impl<'a> Parts<'a> {
    /// Takes what there is from the shelf.
    pub(super) fn gather(list: &List, shelf: &'a Shelf, warn: &mut dyn FnMut(String)) -> Result<Self> {
        let mut slots = vec![];
        for range in list.shards() {
            let name = shelf.name(&list.items[range.clone()]);
            let (part, warning) = shelf.take(&name, range.len());
            warning.into_iter().for_each(&mut *warn);
            slots.push(Slot { range, name, part });
        }
        let reused = slots.iter().filter(|slot| slot.part.is_some()).map(|slot| slot.range.len()).sum();
        Ok(Self { shelf, slots, growing: Part::empty(shelf.bits)?, encoded: 0, reused })
    }

    /// How many images there are.
    pub(super) fn images(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.range.end)
    }

    /// Positions of the images that have no codes, in order and in batches, none of which reaches into another part.
    pub(super) fn batches(&self, batch: usize) -> Result<Vec<Vec<u32>>> {
        let mut batches = vec![];
        for slot in self.slots.iter().filter(|slot| slot.part.is_none()) {
            let position = |_| Error::data("the list has more images than can be numbered");
            let order: Vec<u32> = slot.range.clone().map(u32::try_from).collect::<Result<_, _>>().map_err(position)?;
            batches.extend(order.chunks(batch.max(1)).map(<[u32]>::to_vec));
        }
        Ok(batches)
    }

    /// Takes the signs of the outputs for the next of those images. A part that is whole is kept at once.
    pub(super) fn push(&mut self, sign: Sign) -> Result<()> {
        self.growing.codes.push_words(sign.words, sign.not_a_number)?;
        self.growing.zeros += sign.zeros as u64;
        self.encoded += 1;
        let next = self.slots.iter_mut().find(|slot| slot.part.is_none());
        if let Some(slot) = next.filter(|slot| slot.range.len() == self.growing.codes.len()) {
            self.shelf.put(&slot.name, &self.growing)?;
            slot.part = Some(std::mem::replace(&mut self.growing, Part::empty(self.shelf.bits)?));
        }
        Ok(())
    }

    /// All codes, in the order of the list.
    pub(super) fn into_whole(self) -> Result<Part> {
        let mut whole = Part::empty(self.shelf.bits)?;
        for part in self.slots.into_iter().filter_map(|slot| slot.part) {
            whole.codes.append(&part.codes)?;
            whole.zeros += part.zeros;
        }
        Ok(whole)
    }
}
