//! PaddlePaddle's `.pdparams`: one pickle of a dictionary of NumPy arrays. Any pickle of arrays by name will do.

use super::{Contents, Format, Head, Place, Tensor, damaged};
use crate::error::{Error, Result};
use crate::pickle;
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "PaddlePaddle's parameters",
    suffixes: &["pdparams"],
    transposed: true,
    fits,
    open,
    write: Some(super::write::paddle),
};

/// The key under which Paddle keeps its own names of the parameters.
pub(super) const NAMES: &str = "StructuredToParameterName@@";

/// The key under which Paddle tells how it cut arrays of more than a gigabyte.
const PARTS: &str = "UnpackBigParamInfor@@";

/// The largest file: it is read whole, once.
const MAX_FILE: u64 = 8 << 30;

fn fits(head: &Head) -> bool {
    matches!(head.bytes[..], [0x80, 2..=5, ..])
}

fn open(path: &Path, mut file: &File) -> Result<Contents> {
    let io = |error: std::io::Error| Error::io("read", path, &error);
    let length = file.metadata().map_err(io)?.len();
    if length > MAX_FILE {
        return Err(damaged(path, format!("it has {length} bytes, more than {MAX_FILE}")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.read_to_end(&mut bytes).map_err(io)?;
    let pickle = pickle::parse(&bytes)?;
    let root = pickle.root();
    let Some(entries) = root.entries() else {
        return Err(Error::data(format!("the file holds {}, not arrays by name", root.kind())));
    };
    let mut contents = Contents::default();
    let mut made = 0;
    for (key, value) in entries {
        let name = key.text().unwrap_or_default().to_string();
        let Some(array) = value.array() else {
            match name.as_str() {
                NAMES => {}
                PARTS => {
                    return Err(Error::data("the file holds arrays cut in parts").hint("save it with `protocol=4`"));
                }
                _ => contents.skipped.push(format!("{name} ({})", value.kind())),
            }
            continue;
        };
        let array = array.map_err(|error| error.note(format!("array `{name}`")))?;
        let place = match array.data {
            // Borrowed from the file's bytes, so this is where it lies.
            Cow::Borrowed(data) => match (data.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize) {
                Some(at) if at + data.len() <= bytes.len() => Place::At(at as u64),
                _ => Place::Here(data.to_vec()),
            },
            Cow::Owned(data) => Place::Here(data),
        };
        if let Place::Here(data) = &place {
            made += data.len();
        }
        // One array may stand under many names; copies of it must not fill the memory.
        if made > 2 * bytes.len() {
            return Err(damaged(path, "it has one array under many names"));
        }
        contents.tensors.push(Tensor { name, number: array.number, shape: array.shape, place });
    }
    Ok(contents)
}
