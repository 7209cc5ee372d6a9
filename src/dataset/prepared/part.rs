//! A file of prepared images, all numbers little-endian.
//!
//! ```text
//! 8    "HPIMAGE1"
//! 4    length of the shorter side, in pixels
//! 4    1 if pictures were turned upright, 0 if not
//! 8    number of images
//! 32   the file's name: a digest of how its images were prepared, and of their content
//! 32   blake3 of all above, and of the index
//! the index, 80 bytes for each image:
//!   32   blake3 of the file it was made from
//!   32   blake3 of its pixels
//!   8    where its pixels begin
//!   4    width, 0 if it is not kept
//!   4    height
//! the pixels of one image after the other: rows of red, green and blue
//! ```

use super::Scale;
use crate::dataset::Item;
use crate::error::{Error, Result};
use crate::image::{Pixels, scratch};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"HPIMAGE1";
/// Bytes before the checksum, of the whole header, and of an entry of the index.
const FIELDS: usize = 56;
const HEADER: usize = FIELDS + 32;
const ENTRY: usize = 80;
/// Images that a file may claim to have.
const MOST: u64 = 1 << 20;

/// One image of the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The file it was made from.
    pub(super) source: blake3::Hash,
    checksum: blake3::Hash,
    offset: u64,
    width: u32,
    height: u32,
}

impl Entry {
    pub(super) fn is_kept(&self) -> bool {
        self.width > 0
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    fn bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    /// Reads the pixels from the file.
    pub(super) fn pixels(&self, path: &Path) -> Result<Pixels> {
        let mut data = scratch::take(self.bytes());
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut data, self.offset));
        read.map_err(|e| Error::io("read", path, &e))?;
        if blake3::hash(&data) != self.checksum {
            return Err(damaged(path, "an image's pixels have another digest than its index says"));
        }
        Ok(Pixels::new(self.width as usize, self.height as usize, data))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.source.as_bytes());
        out.extend(self.checksum.as_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.width.to_le_bytes());
        out.extend(self.height.to_le_bytes());
    }

    fn parse(bytes: &[u8; ENTRY]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            source: fields.digest(),
            checksum: fields.digest(),
            offset: fields.number(),
            width: fields.short(),
            height: fields.short(),
        }
    }
}

/// What a part says of itself.
pub(super) struct Index {
    pub(super) scale: Scale,
    name: blake3::Hash,
    pub(super) entries: Vec<Entry>,
}

/// Reads what is in a part.
///
/// # Errors
/// A file that is no part, that is damaged, or that is shorter or longer than its index says.
pub(super) fn read(path: &Path) -> Result<Index> {
    let io = |e| Error::io("read", path, &e);
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut header = [0; HEADER];
    if length < HEADER as u64 {
        return Err(damaged(path, "it is shorter than a header"));
    }
    file.read_exact(&mut header).map_err(io)?;
    let mut fields = Fields(&header);
    if fields.take::<8>() != *MAGIC {
        return Err(damaged(path, "it does not begin as one"));
    }
    let (resize, apply_exif, count) = (fields.short(), fields.short() == 1, fields.number());
    let (name, checksum) = (fields.digest(), fields.digest());
    if count > MOST || length < HEADER as u64 + count * ENTRY as u64 {
        return Err(damaged(path, "it is shorter than its index"));
    }
    let mut index = vec![0; count as usize * ENTRY];
    file.read_exact(&mut index).map_err(io)?;
    if checksum_of(&header, &index) != checksum {
        return Err(damaged(path, "its index has another digest than its header says"));
    }
    let entries: Vec<Entry> = index.as_chunks().0.iter().map(Entry::parse).collect();
    let pixels: u64 = entries.iter().map(|entry| entry.bytes() as u64).sum();
    if length != (HEADER + index.len()) as u64 + pixels {
        return Err(damaged(path, "its length is not what its index says"));
    }
    Ok(Index { scale: Scale { resize, apply_exif }, name, entries })
}

/// Whether a part of this name lies there, whole and with all its pixels as they were written.
pub fn is_part(path: &Path, name: &str) -> bool {
    let is_sound =
        |entry: &Entry| !entry.is_kept() || entry.pixels(path).map(|image| scratch::give(image.data)).is_ok();
    read(path).is_ok_and(|index| index.name.to_hex().as_str() == name && index.entries.par_iter().all(is_sound))
}

fn checksum_of(header: &[u8; HEADER], index: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(&header[..FIELDS]).update(index).finalize()
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::data(format!("`{}` is not a whole file of prepared images", path.display()))
        .note(what)
        .hint("run its `prepare` stage again; `hashpipe cache verify` finds what else is damaged")
}

/// Writes a part, one image after the other.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    header: [u8; HEADER],
    entries: Vec<Entry>,
    count: usize,
    /// Where the next image begins.
    end: u64,
}

impl Writer {
    /// Begins a part of so many images. It becomes one with [`finish`](Self::finish).
    pub fn create(path: &Path, scale: Scale, name: &str, count: usize) -> Result<Self> {
        let name = blake3::Hash::from_hex(name).map_err(|e| Error::input(format!("`{name}` names no part: {e}")))?;
        let mut fields = Vec::with_capacity(HEADER);
        fields.extend(MAGIC);
        fields.extend(scale.resize.to_le_bytes());
        fields.extend(u32::from(scale.apply_exif).to_le_bytes());
        fields.extend((count as u64).to_le_bytes());
        fields.extend(name.as_bytes());
        let mut header = [0; HEADER];
        header[..FIELDS].copy_from_slice(&fields);
        let end = (HEADER + count * ENTRY) as u64;
        let begin = || {
            let mut file = BufWriter::new(File::create(path)?);
            file.seek(SeekFrom::Start(end))?;
            Ok(file)
        };
        let file = begin().map_err(|e| Error::io("write", path, &e))?;
        Ok(Self { path: path.to_path_buf(), file, header, entries: Vec::with_capacity(count), count, end })
    }

    /// Adds an image; one that is not kept gets an entry without pixels.
    pub fn push(&mut self, image: &Item, pixels: Option<&Pixels>) -> Result<()> {
        let source = blake3::Hash::from_hex(&image.digest)
            .map_err(|e| Error::data(format!("`{}` has no digest in its list: {e}", image.path)))?;
        let (width, height, data) = pixels.map_or((0, 0, &[][..]), |p| (p.width as u32, p.height as u32, &p.data));
        self.entries.push(Entry { source, checksum: blake3::hash(data), offset: self.end, width, height });
        self.end += data.len() as u64;
        self.file.write_all(data).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Writes the index, and waits for the disk: a part that is there is whole.
    pub fn finish(mut self) -> Result<()> {
        debug_assert_eq!(self.entries.len(), self.count, "as many images as were announced");
        let mut index = Vec::with_capacity(self.count * ENTRY);
        self.entries.iter().for_each(|entry| entry.write(&mut index));
        let checksum = checksum_of(&self.header, &index);
        self.header[FIELDS..].copy_from_slice(checksum.as_bytes());
        let mut end = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&self.header)?;
            self.file.write_all(&index)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        };
        end().map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Fields of a fixed layout, read one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a fixed layout has all its fields");
        self.0 = rest;
        *field
    }

    fn digest(&mut self) -> blake3::Hash {
        blake3::Hash::from_bytes(self.take())
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn short(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}
