//! NumPy's `.npz`: a ZIP archive of `.npy` files, each named like its array.

use super::archive::{self, Entry};
use super::{Contents, Format, Head, Place, Tensor, damaged};
use crate::error::Result;
use crate::npy;
use crate::pickle::Number;
use std::fs::File;
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "NumPy's archive",
    suffixes: &["npz"],
    transposed: false,
    fits,
    open,
    write: Some(super::write::npz),
};

/// Bytes in which a header must end.
const LONGEST_HEADER: u64 = 1 << 16;

fn fits(head: &Head) -> bool {
    !head.entries.is_empty() && head.entries.iter().all(|name| name.ends_with(".npy"))
}

fn open(path: &Path, file: &File) -> Result<Contents> {
    let entries = archive::entries(path, file)?;
    let mut contents = Contents { parts: archive::parts(entries.iter()), ..Contents::default() };
    for Entry { index, name, size, offset, .. } in entries {
        let name = name.trim_end_matches(".npy").to_string();
        let head = archive::unpack(path, file, index, LONGEST_HEADER)?;
        let header = npy::header(&head).map_err(|error| error.note(format!("array `{name}`")))?;
        let code = header.descr.trim_start_matches(['<', '|', '=']);
        let (Some(number), false) = (Number::of_numpy(code), header.fortran_order && header.shape.len() > 1) else {
            let order = if header.fortran_order { " in Fortran order" } else { "" };
            contents.skipped.push(format!("{name} ({}{order})", header.descr));
            continue;
        };
        let skip = header.length as u64;
        let place = offset.map_or(Place::Packed { entry: index, skip }, |offset| Place::At(offset + skip));
        let tensor = Tensor { name, number, shape: header.shape, place };
        if tensor.elements().map(|count| (count * number.size()) as u64) != Some(size.wrapping_sub(skip)) {
            return Err(damaged(path, format!("`{}` {:?} has another size than its shape", tensor.name, tensor.shape)));
        }
        contents.tensors.push(tensor);
    }
    Ok(contents)
}
