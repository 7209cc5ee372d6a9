//! Batches of CIFAR as they are published: records of fixed size, or pickled NumPy arrays.

use super::bmp::PLANES;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use std::io::Read as _;
use std::path::Path;

/// The largest batch that is taken, in bytes; CIFAR-100's training batch has 154 MB.
const LARGEST: u64 = 1 << 30;

/// Pictures of one batch, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Class of each.
    pub(super) labels: Vec<u32>,
    /// [`PLANES`] bytes of each.
    pub(super) pixels: Vec<u8>,
}

/// Where a record keeps its class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Bytes in front of the pixels.
    pub(super) labels: usize,
    /// Which of them is the class.
    pub(super) class: usize,
    /// Key of the classes in a pickled batch.
    pub(super) key: &'static str,
    /// How many classes there are.
    pub(super) classes: usize,
}

/// Reads a batch of the binary version.
///
/// # Errors
/// A size that is no whole number of records, and every class out of range.
pub(super) fn binary(path: &Path, layout: Layout) -> Result<Batch> {
    let bytes = bytes(path)?;
    let record = layout.labels + PLANES;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(Error::data(format!("the batch has {} bytes, which is no multiple of {record}", bytes.len()))
            .at(Place::Path(path.display().to_string()))
            .note(format!("a picture takes {} bytes for its labels and {PLANES} for its pixels", layout.labels))
            .hint("it was cut off, or is of the other CIFAR: fetch it again, or set `version`"));
    }
    let mut batch = Batch { labels: vec![], pixels: Vec::with_capacity(bytes.len()) };
    for record in bytes.chunks_exact(record) {
        batch.labels.push(u32::from(record[layout.class]));
        batch.pixels.extend(&record[layout.labels..]);
    }
    batch.checked(path, layout)
}

impl Batch {
    /// The pixels of one picture.
    pub(super) fn planes(&self, picture: usize) -> Option<&[u8; PLANES]> {
        self.pixels.get(picture * PLANES..)?.first_chunk()
    }

    pub(super) fn checked(self, path: &Path, layout: Layout) -> Result<Self> {
        let mut faults = Faults::default();
        for (picture, label) in self.labels.iter().enumerate() {
            if *label as usize >= layout.classes {
                let message = format!("picture {picture} has class {label}, but there are {} classes", layout.classes);
                faults.push(
                    Error::data(message)
                        .at(Place::Path(path.display().to_string()))
                        .note("pictures and classes are counted from 0"),
                );
            }
        }
        faults.into_result().map(|()| self)
    }
}

pub(super) fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::data("a batch is missing").at(Place::Path(path.display().to_string())).note(e.to_string())
        }
        _ => Error::io("read", path, &e),
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::data("the batch is larger than 1 GiB").at(Place::Path(path.display().to_string())));
    }
    Ok(bytes)
}
