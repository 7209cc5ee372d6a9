//! Files of weights, whoever wrote them: named tensors of f32, read one by one, and written for other programs.
//!
//! One file per format and a line in [`FORMATS`]; `names.rs` knows how others call the tensors of a hashing network.
//! Whatever the format, opening gives where each tensor's numbers lie; reading seeks there. A file's claims are checked
//! against its length before memory is taken for them.

mod archive;
mod names;
mod npz;
mod paddle;
mod read;
mod safetensors;
mod torch;
mod torch_legacy;
mod write;

pub use names::{Fit, LAYOUTS, Layout, Wanted, fit, here, rename};
pub use safetensors::header as safetensors_header;
pub use write::{Outgoing, Source, can_write, write};

use crate::error::{Error, Result};
use crate::pickle::Number;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A format of files of weights.
#[derive(Debug)]
pub struct Format {
    /// What people call it.
    pub name: &'static str,
    /// How its files' names end.
    pub suffixes: &'static [&'static str],
    /// Whether its linear layers' weights are `[in, out]`, and not PyTorch's `[out, in]`.
    pub transposed: bool,
    /// Whether a file begins like one.
    fits: fn(&Head) -> bool,
    open: fn(&Path, &File) -> Result<Contents>,
    write: Option<write::Write>,
}

/// Every format, in the order they are tried.
pub static FORMATS: &[Format] =
    &[torch::FORMAT, npz::FORMAT, torch_legacy::FORMAT, safetensors::FORMAT, paddle::FORMAT];

/// What a format is recognised by.
#[derive(Debug)]
struct Head {
    /// The first bytes.
    bytes: Vec<u8>,
    /// Names in a ZIP archive, if it is one.
    entries: Vec<String>,
}

/// What a file holds.
#[derive(Default)]
struct Contents {
    tensors: Vec<Tensor>,
    /// Texts beside the tensors.
    metadata: BTreeMap<String, String>,
    /// What was passed over, for a person.
    skipped: Vec<String>,
    /// Of an archive, the entries that are not compressed.
    parts: Vec<archive::Part>,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub number: Number,
    pub shape: Vec<usize>,
    place: Place,
}

/// Where the numbers are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In C order from this byte of the file on.
    At(u64),
    /// From this byte of the file on, with these steps in elements.
    Strided(u64, Vec<usize>),
    /// In C order, at hand.
    Here(Vec<u8>),
    /// In a compressed entry of the archive, behind so many bytes.
    Packed { entry: usize, skip: u64 },
}

/// An open file of weights.
pub struct WeightFile {
    path: PathBuf,
    file: File,
    format: &'static Format,
    contents: Contents,
    /// The parts whose sums were found right.
    checked: Mutex<HashSet<usize>>,
}

/// The most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;

impl WeightFile {
    /// Opens a file of any known format, recognised by its content.
    ///
    /// # Errors
    /// A file of another kind, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
        let mut bytes = vec![];
        (&file).take(64).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
        let entries = if bytes.starts_with(b"PK") { archive::names(path, &file)? } else { vec![] };
        let head = Head { bytes, entries };
        let Some(format) = FORMATS.iter().find(|format| (format.fits)(&head)) else {
            let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
            return Err(Error::data(format!("`{}` is no file of weights", path.display()))
                .note(format!("it is none of {}", names.join(", ")))
                .hint("it may have been cut short: copy or download it again"));
        };
        let contents = (format.open)(path, &file).map_err(|error| named(error, path))?;
        let file = Self { path: path.to_path_buf(), file, format, contents, checked: Mutex::default() };
        let mut names = HashSet::new();
        for tensor in file.tensors() {
            if tensor.shape.len() > MAX_DIMENSIONS || tensor.elements().is_none() {
                return Err(file.damaged(format!("`{}` has the shape {:?}", tensor.name, tensor.shape)));
            }
            if !names.insert(&tensor.name) {
                return Err(file.damaged(format!("`{}` stands in it twice", tensor.name)));
            }
        }
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.contents.tensors
    }

    /// Texts beside the tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// What the file holds that is no tensor, by name.
    pub fn skipped(&self) -> &[String] {
        &self.contents.skipped
    }

    /// Checks the sum of the archive's entry in which this byte of the file lies, the first time.
    fn check_sum(&self, byte: u64) -> Result<()> {
        let Some(position) = archive::part_at(&self.contents.parts, byte) else { return Ok(()) };
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if !checked.contains(&position) {
            self.contents.parts[position].check(&self.path, &self.file)?;
            checked.insert(position);
        }
        Ok(())
    }

    fn damaged(&self, note: impl Into<String>) -> Error {
        damaged(&self.path, note)
    }
}

impl Tensor {
    /// How many numbers; `None` if that is beyond counting.
    pub fn elements(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length))?;
        count.checked_mul(self.number.size()).map(|_| count)
    }
}

/// A file that is not what its form says.
fn damaged(path: &Path, note: impl Into<String>) -> Error {
    Error::data(format!("`{}` is not a whole file of weights", path.display())).note(note)
}

/// An error about a file's inside, with the file's name.
fn named(error: Error, path: &Path) -> Error {
    error.within(crate::error::Place::Path(path.display().to_string()))
}

#[cfg(test)]
mod tests;
