//! NumPy's `.npy`: signs as float32, as the reference keeps its `database_code_64.npy`, or packed bytes.

use super::{CodeSet, Format, Options, from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::npy::{self, Values};
use crate::retrieval::Codes;
use std::path::Path;

pub(super) const FLOATS: Format = Format {
    name: "npy",
    suffix: ".npy",
    about: "NumPy, a number for each bit, written as float32 of -1 and +1: [codes, bits]",
    fits: |head, _| head.starts_with(b"\x93NUMPY") && !is_packed(head),
    read,
    write: |path, set, _| {
        let (codes, shape) = (&set.codes, [set.codes.len(), set.codes.bits()]);
        npy::write_f32(path, shape, (0..codes.len()).flat_map(|i| codes.unpack(i)))
    },
};

pub(super) const PACKED: Format = Format {
    name: "npy-packed",
    suffix: "packed.npy",
    about: "NumPy, uint8: [codes, bits / 8]",
    fits: |head, _| is_packed(head),
    read,
    write: |path, set, options| {
        let shape = [set.codes.len(), set.codes.bits().div_ceil(8)];
        npy::write_u8(path, shape, to_bytes(&set.codes, options.order))
    },
};

/// Bytes are packed codes.
fn is_packed(head: &[u8]) -> bool {
    npy::header(head).is_ok_and(|header| header.descr.ends_with("u1"))
}

/// Bytes are packed codes; any other numbers are signs.
fn read(path: &Path, options: &Options) -> Result<CodeSet> {
    let array = npy::read(path)?;
    let [count, width] = array.shape[..] else {
        return Err(
            Error::data(format!("an array {:?} is no table of codes", array.shape)).note("expected two dimensions")
        );
    };
    if let Values::U8(bytes) = array.values {
        return Ok(CodeSet::new(from_bytes(bytes, width, options)?));
    }
    let mut codes = Codes::new(width)?;
    let mut zeros = 0;
    let values: Vec<f32> = array.to_f64().into_iter().map(|value| value as f32).collect();
    for row in values.chunks_exact(width) {
        zeros += codes.push(row)? as u64;
    }
    debug_assert_eq!(codes.len(), count);
    Ok(CodeSet { codes, ids: None, zeros })
}
