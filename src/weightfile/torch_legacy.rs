//! PyTorch's files before version 1.6: five pickles, then the bytes of each storage behind its length.

use super::torch::state;
use super::{Contents, Format, Head, damaged};
use crate::error::{Error, Result};
use crate::pickle::{self, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

pub(super) const FORMAT: Format =
    Format { name: "PyTorch's old file", suffixes: &[], transposed: false, fits, open, write: None };

/// The pickle of 0x1950a86a20f9469cfc6c, with which each begins.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The most bytes that the pickles may have: they hold names and shapes only.
const MAX_PICKLES: u64 = 64 << 20;

fn fits(head: &Head) -> bool {
    head.bytes.get(2..).is_some_and(|rest| rest.starts_with(MAGIC))
}

fn open(path: &Path, mut file: &File) -> Result<Contents> {
    let io = |error: std::io::Error| Error::io("read", path, &error);
    let length = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut bytes = vec![];
    file.take(MAX_PICKLES).read_to_end(&mut bytes).map_err(io)?;
    let mut at = 0;
    let mut part = || {
        let pickle = pickle::parse(&bytes[at..])?;
        at += pickle.length();
        Ok::<_, Error>(pickle)
    };
    let (_magic, version, machine) = (part()?, part()?, part()?);
    if version.root().integer() != Some(1001) {
        return Err(Error::data("a PyTorch file of another version").note("1001 is read"));
    }
    if machine.root().get("little_endian").and_then(Value::integer) == Some(0) {
        return Err(Error::data("the file was written by a big-endian machine"));
    }
    let (tensors, keys) = (part()?, part()?);
    // Where each storage lies, and how many numbers it has.
    let keys = keys.root();
    let keys: Vec<&str> = keys.elements().into_iter().flatten().filter_map(Value::text).collect();
    let widths = widths(tensors.root());
    let (mut places, mut place) = (HashMap::new(), at as u64);
    for key in keys {
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(place)).map_err(io)?;
        file.read_exact(&mut count).map_err(|_| damaged(path, "it is cut short"))?;
        // Storages that no tensor of the dictionary uses could have any width; PyTorch writes none.
        let width = widths.get(key).copied().unwrap_or(4);
        let size = u64::from_le_bytes(count).checked_mul(width);
        let end = size.and_then(|size| place.checked_add(8)?.checked_add(size));
        let (Some(size), Some(end)) = (size, end.filter(|end| *end <= length)) else {
            return Err(damaged(path, "it is cut short"));
        };
        places.insert(key.to_string(), (place + 8, size));
        place = end;
    }
    let locate = |key: &str, size: u64| match places.get(key) {
        Some((start, has)) if *has >= size => Ok(*start),
        Some((_, has)) => Err(damaged(path, format!("storage `{key}` has {has} bytes, expected {size}"))),
        None => Err(damaged(path, format!("it has no storage `{key}`"))),
    };
    state(tensors.root(), &locate)
}

/// Bytes of a number of each storage, from the tensors in a dictionary or in dictionaries inside.
fn widths(root: Value) -> HashMap<String, u64> {
    let mut widths = HashMap::new();
    let mut left = vec![(root, 0)];
    while let Some((value, depth)) = left.pop() {
        if let Some(tensor) = value.tensor() {
            widths.insert(tensor.key.clone(), tensor.number.size() as u64);
        }
        if depth < 4 && left.len() < 1_000_000 {
            left.extend(value.entries().into_iter().flatten().map(|(_, value)| (value, depth + 1)));
            left.extend(value.elements().into_iter().flatten().map(|value| (value, depth + 1)));
        }
    }
    widths
}
