//! safetensors: a length, a JSON header, and the numbers.

use super::{Contents, Format, Head, Place, Tensor, damaged};
use crate::error::{Error, Result};
use crate::pickle::Number;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "safetensors",
    suffixes: &["safetensors"],
    transposed: false,
    fits,
    open,
    write: Some(super::write::safetensors),
};

/// safetensors' own limit for a header, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

fn fits(head: &Head) -> bool {
    // The length of a header is below 4 GB, which no pickle looks like. Faults of an empty file are told best here.
    matches!(head.bytes[..], [_, _, _, _, 0, 0, 0, 0, b'{', ..]) || head.bytes.len() < 9
}

/// Reads the header; gives it and where the numbers begin. It is believed only where the file's length bears it out.
///
/// # Errors
/// What is no safetensors file, or not a whole one.
pub fn header(path: &Path, mut file: &File) -> Result<(Metadata, u64)> {
    let io = |error: std::io::Error| Error::io("read", path, &error);
    let length = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let not = |note: String| Error::data(format!("`{}` is not a whole safetensors file", path.display())).note(note);
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| not(format!("it has {length} bytes")))?;
    let header = u64::from_le_bytes(size);
    if header > LONGEST_HEADER || header > length - 8 {
        return Err(not(format!("its first bytes promise a header of {header} bytes, it has {length}"))
            .hint("`hashpipe weights convert IN OUT.safetensors` makes one of other files of weights"));
    }
    let mut text = vec![0; header as usize];
    file.read_exact(&mut text).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| not(format!("its header: {e}")))?;
    let data = 8 + header;
    let expected = data.saturating_add(metadata.data_len() as u64);
    if expected != length {
        return Err(not(format!("its header describes {expected} bytes, it has {length}")));
    }
    Ok((metadata, data))
}

fn open(path: &Path, file: &File) -> Result<Contents> {
    let (metadata, data) = header(path, file)?;
    let mut contents = Contents::default();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let number = match info.dtype {
            Dtype::F64 => Number::F64,
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::BF16,
            Dtype::I64 => Number::I64,
            Dtype::I32 => Number::I32,
            Dtype::I16 => Number::I16,
            Dtype::I8 => Number::I8,
            Dtype::U8 => Number::U8,
            Dtype::U16 => Number::U16,
            Dtype::U32 => Number::U32,
            Dtype::U64 => Number::U64,
            Dtype::BOOL => Number::Bool,
            _ => {
                contents.skipped.push(format!("{name} ({})", info.dtype));
                continue;
            }
        };
        let (start, end) = info.data_offsets;
        let tensor = Tensor { name, number, shape: info.shape.clone(), place: Place::At(data + start as u64) };
        let size = tensor.elements().map(|count| count * number.size());
        if size != Some(end.wrapping_sub(start)) {
            return Err(damaged(path, format!("`{}` {:?} has another size than its shape", tensor.name, tensor.shape)));
        }
        contents.tensors.push(tensor);
    }
    contents.metadata.extend(metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())));
    Ok(contents)
}
