//! Faiss's binary indexes, as `faiss.write_index_binary` writes them: `impl/index_write.cpp` and `impl/index_read.cpp`.
//!
//! All begin with four letters, `d` and the code's bytes as i32, the number of codes as i64, a byte 1 (trained), and the
//! metric as i32. A vector is its length as u64 and its elements. Numbers are little-endian.

use super::bits::{Reader as Bits, Writer};
use super::{CodeSet, Format, Options, from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::outfile;
use crate::retrieval::Codes;
use std::collections::BTreeMap;
use std::path::Path;

const FLAT_LETTERS: &[u8; 4] = b"IBxF";
const IDMAP_LETTERS: [&[u8; 4]; 2] = [b"IBMp", b"IBM2"];
const HASH_LETTERS: &[u8; 4] = b"IBHh";
const MULTIHASH_LETTERS: &[u8; 4] = b"IBHm";

/// The most bits of a bucket's name: more give buckets of one code each.
const MAX_HASH_BITS: usize = 32;

/// Faiss numbers the tables of an index with an i32; more than this are a typing error.
const MAX_TABLES: usize = 256;

pub(super) const FLAT: Format = Format {
    name: "faiss-flat",
    suffix: ".faiss",
    about: "Faiss IndexBinaryFlat: every code is compared",
    fits: |head, _| head.starts_with(FLAT_LETTERS),
    read: |path, options| read(path, options, |reader| Ok((flat(reader)?, None))),
    write: |path, set, options| {
        let bytes = checked(set, options)?;
        outfile::write(path, &flat_bytes(set, &bytes))
    },
};

pub(super) const IDMAP: Format = Format {
    name: "faiss-idmap",
    suffix: ".idmap.faiss",
    about: "Faiss IndexBinaryIDMap over a flat index: the codes keep their ids",
    fits: |head, _| IDMAP_LETTERS.iter().any(|letters| head.starts_with(*letters)),
    read: |path, options| read(path, options, idmap),
    write: |path, set, options| {
        let bytes = checked(set, options)?;
        let mut out = header(IDMAP_LETTERS[0], set);
        out.extend(flat_bytes(set, &bytes));
        out.extend((set.codes.len() as u64).to_le_bytes());
        out.extend((0..set.codes.len()).flat_map(|i| set.id(i).to_le_bytes()));
        outfile::write(path, &out)
    },
};

pub(super) const HASH: Format = Format {
    name: "faiss-hash",
    suffix: ".hash.faiss",
    about: "Faiss IndexBinaryHash: buckets by the first bits",
    fits: |head, _| head.starts_with(HASH_LETTERS),
    read: |path, options| read(path, options, hash),
    write: write_hash,
};

pub(super) const MULTIHASH: Format = Format {
    name: "faiss-multihash",
    suffix: ".multihash.faiss",
    about: "Faiss IndexBinaryMultiHash: several tables, each by other bits",
    fits: |head, _| head.starts_with(MULTIHASH_LETTERS),
    read: |path, options| read(path, options, multihash),
    write: write_multihash,
};

// Writing.

/// The codes' bytes, if Faiss can hold them.
fn checked(set: &CodeSet, options: &Options) -> Result<Vec<u8>> {
    if !set.codes.bits().is_multiple_of(8) {
        return Err(Error::input(format!("Faiss holds codes of whole bytes, not of {} bits", set.codes.bits())));
    }
    Ok(to_bytes(&set.codes, options.order))
}

fn header(letters: &[u8; 4], set: &CodeSet) -> Vec<u8> {
    let bits = set.codes.bits();
    let mut out = letters.to_vec();
    out.extend((bits as i32).to_le_bytes());
    out.extend((bits as i32 / 8).to_le_bytes());
    out.extend((set.codes.len() as i64).to_le_bytes());
    out.push(1);
    out.extend(1i32.to_le_bytes());
    out
}

fn vector(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn flat_bytes(set: &CodeSet, bytes: &[u8]) -> Vec<u8> {
    let mut out = header(FLAT_LETTERS, set);
    vector(&mut out, bytes);
    out
}

/// Refuses ids where Faiss numbers the codes itself.
fn unnamed(set: &CodeSet) -> Result<()> {
    if set.ids.is_some() {
        return Err(Error::input("this index numbers its codes from 0").hint("`faiss-idmap` keeps ids"));
    }
    Ok(())
}

/// About one code per bucket: the logarithm of their number.
fn hash_bits(set: &CodeSet, options: &Options) -> Result<usize> {
    let most = set.codes.bits().min(MAX_HASH_BITS);
    let fitting = (set.codes.len().max(2) as f64).log2().round() as usize;
    let bits = options.hash_bits.unwrap_or(fitting.clamp(1, most));
    if bits == 0 || bits > most {
        return Err(Error::input(format!("a bucket has 1 to {most} bits, not {bits}")));
    }
    Ok(bits)
}

/// Bits that are enough for numbers up to this one.
fn width_of(greatest: usize) -> usize {
    (usize::BITS - greatest.leading_zeros()) as usize
}

fn write_hash(path: &Path, set: &CodeSet, options: &Options) -> Result<()> {
    let (bytes, bits) = (checked(set, options)?, hash_bits(set, options)?);
    let row = set.codes.bits() / 8;
    let mut buckets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, code) in bytes.chunks_exact(row).enumerate() {
        buckets.entry(Bits::new(code).next(bits).unwrap_or_default()).or_default().push(i);
    }
    let width = width_of(buckets.values().map(Vec::len).max().unwrap_or(0));
    let mut index = Writer::default();
    for (hash, members) in &buckets {
        index.push(*hash, bits);
        index.push(members.len() as u64, width);
    }
    let mut out = header(HASH_LETTERS, set);
    out.extend((bits as i32).to_le_bytes());
    out.extend(0i32.to_le_bytes());
    out.extend((buckets.len() as u64).to_le_bytes());
    out.extend((width as i32).to_le_bytes());
    vector(&mut out, &index.into_bytes());
    for members in buckets.values() {
        out.extend((members.len() as u64).to_le_bytes());
        out.extend(members.iter().flat_map(|i| set.id(*i).to_le_bytes()));
        let codes: Vec<u8> = members.iter().flat_map(|i| &bytes[i * row..(i + 1) * row]).copied().collect();
        vector(&mut out, &codes);
    }
    outfile::write(path, &out)
}

fn write_multihash(path: &Path, set: &CodeSet, options: &Options) -> Result<()> {
    unnamed(set)?;
    let (bytes, bits) = (checked(set, options)?, hash_bits(set, options)?);
    let most = (set.codes.bits() / bits).min(MAX_TABLES);
    let tables = options.tables.unwrap_or(most.min(4));
    if tables == 0 || tables > most {
        return Err(Error::input(format!(
            "{} bits give 1 to {most} tables of {bits} bits, not {tables}",
            set.codes.bits()
        )));
    }
    let mut out = header(MULTIHASH_LETTERS, set);
    out.extend(flat_bytes(set, &bytes));
    for number in [bits, tables, 0] {
        out.extend((number as i32).to_le_bytes());
    }
    for table in 0..tables {
        let mut buckets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, code) in bytes.chunks_exact(set.codes.bits() / 8).enumerate() {
            let mut code = Bits::new(code);
            let hash = (0..=table).filter_map(|_| code.next(bits)).last();
            buckets.entry(hash.unwrap_or_default()).or_default().push(i);
        }
        // Enough for every id, as Faiss has it, and for the size of a bucket that holds all of them.
        let fullest = buckets.values().map(Vec::len).max().unwrap_or(0);
        let width = width_of(set.codes.len().saturating_sub(1)).max(width_of(fullest));
        let mut index = Writer::default();
        for (hash, members) in &buckets {
            index.push(*hash, bits);
            index.push(members.len() as u64, width);
            members.iter().for_each(|i| index.push(*i as u64, width));
        }
        out.extend((width as i32).to_le_bytes());
        out.extend((buckets.len() as u64).to_le_bytes());
        vector(&mut out, &index.into_bytes());
    }
    outfile::write(path, &out)
}

// Reading.

/// Codes as they lie in an index, and their ids.
type Found = (Vec<u8>, Option<Vec<i64>>);

fn read(path: &Path, options: &Options, inside: impl Fn(&mut Bytes) -> Result<Found>) -> Result<CodeSet> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    let row = Bytes(&bytes).header()?.row;
    let mut left = Bytes(&bytes);
    let (codes, ids) = inside(&mut left)?;
    if !left.0.is_empty() {
        return Err(odd(format!("{} bytes follow it", left.0.len())));
    }
    let codes: Codes = from_bytes(codes, row, options)?;
    let ids = ids.filter(|ids| ids.iter().enumerate().any(|(i, id)| i as i64 != *id));
    Ok(CodeSet { codes, ids, zeros: 0 })
}

fn odd(note: impl Into<String>) -> Error {
    Error::data("the Faiss index makes no sense").note(note)
}

/// What is left of a file.
struct Bytes<'a>(&'a [u8]);

struct Header {
    /// Bytes of a code.
    row: usize,
    count: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| odd("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| odd("it is cut short"))
    }

    /// A whole number of 32 bits, 0 to `most`.
    fn small(&mut self, what: &str, most: usize) -> Result<usize> {
        let number = i32::from_le_bytes(self.number()?);
        usize::try_from(number).ok().filter(|n| *n <= most).ok_or_else(|| odd(format!("{what} is {number}")))
    }

    fn length(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.number()?)).map_err(|_| odd("a length beyond counting"))
    }

    fn vector(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = self.length()?.checked_mul(width).ok_or_else(|| odd("a length beyond counting"))?;
        self.take(length)
    }

    fn header(&mut self) -> Result<Header> {
        self.take(4)?;
        let (bits, row) = (self.small("d", 1 << 20)?, self.small("code_size", 1 << 17)?);
        let count = i64::from_le_bytes(self.number()?);
        self.take(5)?;
        match usize::try_from(count) {
            Ok(count) if bits == row * 8 && row > 0 => Ok(Header { row, count }),
            _ => Err(odd(format!("{count} codes of {bits} bits in {row} bytes"))),
        }
    }
}

fn flat(bytes: &mut Bytes) -> Result<Vec<u8>> {
    if !bytes.0.starts_with(FLAT_LETTERS) {
        return Err(
            Error::data("the codes lie in an index of another kind").note("a flat one is read inside of others")
        );
    }
    let Header { row, count } = bytes.header()?;
    let codes = bytes.vector(1)?;
    if count.checked_mul(row) != Some(codes.len()) {
        return Err(odd(format!("{count} codes of {row} bytes do not make {}", codes.len())));
    }
    Ok(codes.to_vec())
}

fn as_ids(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|id| i64::from_le_bytes(*id)).collect()
}

fn idmap(bytes: &mut Bytes) -> Result<Found> {
    let Header { count, .. } = bytes.header()?;
    let codes = flat(bytes)?;
    let ids = as_ids(bytes.vector(8)?);
    if ids.len() != count {
        return Err(odd(format!("{} ids for {count} codes", ids.len())));
    }
    Ok((codes, Some(ids)))
}

fn hash(bytes: &mut Bytes) -> Result<Found> {
    let Header { row, count } = bytes.header()?;
    let bits = bytes.small("b", 64)?;
    bytes.small("nflip", 64)?;
    let lists = bytes.length()?;
    let width = bytes.small("il_nbit", 64)?;
    let mut index = Bits::new(bytes.vector(1)?);
    let mut found: Vec<(i64, &[u8])> = vec![];
    for _ in 0..lists {
        let (_, size) = (index.next(bits), index.next(width));
        let ids = as_ids(bytes.vector(8)?);
        let codes = bytes.vector(1)?;
        if size != Some(ids.len() as u64) || codes.len() != ids.len() * row {
            return Err(odd(format!("a list of {} ids and {} bytes of codes", ids.len(), codes.len())));
        }
        found.extend(ids.into_iter().zip(codes.chunks_exact(row)));
    }
    if found.len() != count {
        return Err(odd(format!("{} codes in lists, and {count} in all", found.len())));
    }
    found.sort_by_key(|(id, _)| *id);
    Ok((found.iter().flat_map(|(_, code)| *code).copied().collect(), Some(found.iter().map(|(id, _)| *id).collect())))
}

fn multihash(bytes: &mut Bytes) -> Result<Found> {
    bytes.header()?;
    let codes = flat(bytes)?;
    bytes.small("b", 64)?;
    let tables = bytes.small("nhash", 1 << 16)?;
    bytes.small("nflip", 64)?;
    // The tables say nothing that the codes do not: they are passed over.
    for _ in 0..tables {
        bytes.small("id_bits", 64)?;
        bytes.length()?;
        bytes.vector(1)?;
    }
    Ok((codes, None))
}
