//! Codes as files of other programs: NumPy, Parquet, Faiss, JSON lines, pgvector.
//!
//! One file per program and a line for each format in [`FORMATS`]. Bit `j` of a code is bit `j % 8` of byte `j / 8`
//! everywhere, NumPy's `bitorder="little"`, and stands for the sign of the network's output `j`; [`BitOrder::Big`]
//! turns every byte round, for programs that use `numpy.packbits` as it is.

mod bits;
mod faiss;
mod json_lines;
mod native;
mod numpy;
mod parquet;
mod pgvector;

use crate::error::{Error, Place, Result};
use crate::retrieval::Codes;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Codes, and what they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSet {
    pub codes: Codes,
    /// One for each code; without, they are numbered from 0.
    pub ids: Option<Vec<i64>>,
    /// Outputs that were exactly 0, where the file can tell; they count as negative.
    pub zeros: u64,
}

impl CodeSet {
    pub fn new(codes: Codes) -> Self {
        Self { codes, ids: None, zeros: 0 }
    }

    /// What code `i` is called.
    pub fn id(&self, i: usize) -> i64 {
        self.ids.as_ref().map_or(i as i64, |ids| ids[i])
    }
}

/// Which end of a byte holds the first bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BitOrder {
    /// Bit `j` is bit `j % 8` of its byte.
    #[default]
    Little,
    /// Bit `j` is bit `7 - j % 8` of its byte.
    Big,
}

/// What files do not say, or what a writer may choose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Length of the codes, for files that tell bytes only.
    pub bits: Option<usize>,
    pub order: BitOrder,
    /// Bits of a bucket's name in Faiss's hash tables [default: as many as give about one code per bucket].
    pub hash_bits: Option<usize>,
    /// Tables of a Faiss multi-hash index [default: as many as the code has room for, at most 4].
    pub tables: Option<usize>,
}

/// A format of files of codes.
#[derive(Debug)]
pub struct Format {
    /// The word it is chosen by.
    pub name: &'static str,
    /// How its files' names end, the dot included.
    pub suffix: &'static str,
    pub about: &'static str,
    /// Whether a file that begins with these bytes and has this name is one.
    fits: fn(&[u8], &str) -> bool,
    read: fn(&Path, &Options) -> Result<CodeSet>,
    write: fn(&Path, &CodeSet, &Options) -> Result<()>,
}

/// Every format. A name tells the one with the longest suffix; of several that fit a content the first is read.
pub static FORMATS: &[Format] = &[
    native::FORMAT,
    numpy::FLOATS,
    numpy::PACKED,
    parquet::FORMAT,
    faiss::FLAT,
    faiss::IDMAP,
    faiss::HASH,
    faiss::MULTIHASH,
    json_lines::FORMAT,
    pgvector::FORMAT,
];

impl Format {
    /// The format with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> Result<&'static Self> {
        FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
            Error::input(format!("there is no format `{name}` of codes"))
                .note(format!("there are {}", names.join(", ")))
        })
    }

    /// The format that a file of this name is written in.
    ///
    /// # Errors
    /// No format's files are called that.
    pub fn of_name(path: &Path) -> Result<&'static Self> {
        let name = path.to_string_lossy();
        let fitting = FORMATS.iter().filter(|format| name.ends_with(format.suffix));
        fitting.max_by_key(|format| format.suffix.len()).ok_or_else(|| {
            let known: Vec<String> = FORMATS.iter().map(|f| format!("{} ({})", f.suffix, f.name)).collect();
            Error::input(format!("`{name}` has no ending that tells a format"))
                .note(format!("there are {}", known.join(", ")))
                .hint("or say it: `--to FORMAT`")
        })
    }

    /// Writes codes, all or none: what is there already stays until the new file is whole.
    ///
    /// # Errors
    /// The disk, or codes that the format cannot hold.
    pub fn write(&self, path: &Path, set: &CodeSet, options: &Options) -> Result<()> {
        (self.write)(path, set, options)
    }
}

/// Reads codes of any known format, recognised by content; says which it was.
///
/// # Errors
/// A file of another kind, or a damaged one.
pub fn read(path: &Path, options: &Options) -> Result<(CodeSet, &'static Format)> {
    let io = |e: std::io::Error| Error::io("read", path, &e);
    let mut head = vec![];
    File::open(path).map_err(io)?.take(256).read_to_end(&mut head).map_err(io)?;
    let name = path.to_string_lossy();
    let Some(format) = FORMATS.iter().find(|format| (format.fits)(&head, &name)) else {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        return Err(Error::data(format!("`{name}` is no file of codes")).note(format!("read are {}", names.join(", "))));
    };
    let set = (format.read)(path, options).map_err(|error| error.within(Place::Path(name.to_string())))?;
    Ok((set, format))
}

/// The codes' bytes in an order of bits, `ceil(bits / 8)` each.
fn to_bytes(codes: &Codes, order: BitOrder) -> Vec<u8> {
    let mut bytes = codes.packed_bytes();
    if order == BitOrder::Big {
        bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    bytes
}

/// Codes out of their bytes, `row` for each.
fn from_bytes(mut bytes: Vec<u8>, row: usize, options: &Options) -> Result<Codes> {
    if options.order == BitOrder::Big {
        bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    let bits = options.bits.unwrap_or(row * 8);
    if bits.div_ceil(8) != row {
        return Err(Error::input(format!("codes of {row} bytes do not have {bits} bits")));
    }
    Ok(Codes::from_packed_bytes(bits, &bytes)?)
}

#[cfg(test)]
mod tests;
