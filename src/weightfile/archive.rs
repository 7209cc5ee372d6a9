//! ZIP archives, as PyTorch and NumPy write them.

use super::damaged;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// The most entries: no network has as many tensors.
const MAX_ENTRIES: usize = 100_000;

/// The most bytes that one compressed entry may unpack to.
pub(super) const MAX_UNPACKED: u64 = 1 << 30;

/// An entry of an archive.
pub(super) struct Entry {
    pub(super) index: usize,
    pub(super) name: String,
    /// Unpacked.
    pub(super) size: u64,
    /// Where its bytes lie in the file, if they are not compressed.
    pub(super) offset: Option<u64>,
}

fn open<'f>(path: &Path, file: &'f File) -> Result<ZipArchive<std::io::BufReader<&'f File>>> {
    let archive = ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| {
        damaged(path, format!("its archive: {e}")).hint("copy or download the file again; it may have been cut short")
    })?;
    if archive.len() > MAX_ENTRIES {
        return Err(damaged(path, format!("its archive has {} entries", archive.len())));
    }
    Ok(archive)
}

/// The names of all entries.
pub(super) fn names(path: &Path, file: &File) -> Result<Vec<String>> {
    let archive = open(path, file)?;
    let names: std::result::Result<Vec<String>, _> = archive.file_names().map(|name| Ok(name?.into_owned())).collect();
    names.map_err(|e: zip::result::ZipError| damaged(path, format!("its archive: {e}")))
}

/// All entries, each inside the file.
pub(super) fn entries(path: &Path, file: &File) -> Result<Vec<Entry>> {
    let length = file.metadata().map_err(|e| Error::io("read", path, &e))?.len();
    let mut archive = open(path, file)?;
    let mut entries = vec![];
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(path, format!("its archive: {e}")))?;
        let stored = entry.compression() == CompressionMethod::Stored;
        let offset = if stored { entry.data_start() } else { None };
        let name = entry.name().map_err(|e| damaged(path, format!("its archive: {e}")))?.into_owned();
        let size = entry.size();
        let fits = match offset {
            Some(offset) => offset.checked_add(size).is_some_and(|end| end <= length),
            None => size <= MAX_UNPACKED && size / 1100 <= entry.compressed_size(),
        };
        if !fits {
            return Err(damaged(path, format!("`{name}` of its archive claims {size} bytes")));
        }
        entries.push(Entry { index, name, size, offset });
    }
    Ok(entries)
}

/// Unpacks an entry, or its first `most` bytes.
pub(super) fn unpack(path: &Path, file: &File, index: usize, most: u64) -> Result<Vec<u8>> {
    let mut archive = open(path, file)?;
    let entry = archive.by_index(index).map_err(|e| damaged(path, format!("its archive: {e}")))?;
    let (size, mut bytes) = (entry.size(), vec![]);
    entry.take(most.min(size)).read_to_end(&mut bytes).map_err(|e| damaged(path, format!("its archive: {e}")))?;
    if (bytes.len() as u64) < most.min(size) {
        return Err(damaged(path, "an entry of its archive has fewer bytes than it claims"));
    }
    Ok(bytes)
}
