//! ZIP archives, as PyTorch and NumPy write them.

use super::damaged;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
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
    crc: u32,
}

/// An entry whose bytes lie in the file as they are, and the sum that must come out of them.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    start: u64,
    size: u64,
    crc: u32,
}

/// The parts of an archive, by where they begin.
pub(super) fn parts<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Part> {
    let part =
        |entry: &Entry| Some(Part { name: entry.name.clone(), start: entry.offset?, size: entry.size, crc: entry.crc });
    let mut parts: Vec<Part> = entries.filter_map(part).collect();
    parts.sort_by_key(|part| part.start);
    parts
}

/// The position of the part in which this byte of the file lies.
pub(super) fn part_at(parts: &[Part], byte: u64) -> Option<usize> {
    let position = parts.partition_point(|part| part.start <= byte).checked_sub(1)?;
    (byte - parts[position].start < parts[position].size).then_some(position)
}

impl Part {
    /// Reads all of it, and compares its sum.
    pub(super) fn check(&self, path: &Path, mut file: &File) -> Result<()> {
        let io = |error: std::io::Error| Error::io("read", path, &error);
        file.seek(SeekFrom::Start(self.start)).map_err(io)?;
        let mut sum = crc32fast::Hasher::new();
        let mut buffer = vec![0; (1 << 20).min(self.size as usize)];
        let mut left = self.size as usize;
        while left > 0 {
            let bytes = &mut buffer[..left.min(1 << 20)];
            file.read_exact(bytes).map_err(io)?;
            sum.update(bytes);
            left -= bytes.len();
        }
        compare(path, &self.name, sum.finalize(), self.crc)
    }
}

/// Refuses an entry whose sum is not the one that was recorded. 0 stands for none: PyTorch can be told to make none.
fn compare(path: &Path, name: &str, found: u32, recorded: u32) -> Result<()> {
    if found == recorded || recorded == 0 {
        return Ok(());
    }
    Err(damaged(path, format!("`{name}` of its archive has the CRC-32 {found:08x}, and {recorded:08x} was recorded"))
        .hint("its bytes were changed since it was written: copy or download the file again, or save it anew"))
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
        let (size, crc) = (entry.size(), entry.crc32());
        let fits = match offset {
            Some(offset) => offset.checked_add(size).is_some_and(|end| end <= length),
            None => size <= MAX_UNPACKED && size / 1100 <= entry.compressed_size(),
        };
        if !fits {
            return Err(damaged(path, format!("`{name}` of its archive claims {size} bytes")));
        }
        entries.push(Entry { index, name, size, offset, crc });
    }
    Ok(entries)
}

/// Unpacks an entry, or its first `most` bytes; the sum of a whole one is checked.
pub(super) fn unpack(path: &Path, file: &File, index: usize, most: u64) -> Result<Vec<u8>> {
    let mut archive = open(path, file)?;
    let entry = archive.by_index(index).map_err(|e| damaged(path, format!("its archive: {e}")))?;
    let (size, crc, mut bytes) = (entry.size(), entry.crc32(), vec![]);
    let name = entry.name().map_err(|e| damaged(path, format!("its archive: {e}")))?.into_owned();
    entry.take(most.min(size)).read_to_end(&mut bytes).map_err(|e| damaged(path, format!("its archive: {e}")))?;
    if (bytes.len() as u64) < most.min(size) {
        return Err(damaged(path, "an entry of its archive has fewer bytes than it claims"));
    }
    if most >= size {
        compare(path, &name, crc32fast::hash(&bytes), crc)?;
    }
    Ok(bytes)
}
