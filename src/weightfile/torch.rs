//! PyTorch's files since version 1.6: a ZIP archive of one pickle and the bytes of each storage.

use super::archive::{self, Entry};
use super::{Contents, Format, Head, Place, Tensor, damaged};
use crate::error::{Error, Result};
use crate::pickle::{self, Value};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "PyTorch's archive",
    suffixes: &["pth", "pt", "bin", "ckpt", "tar"],
    transposed: false,
    fits,
    open,
    write: Some(super::write::torch),
};

/// The most bytes of the pickle: it holds names and shapes only.
const MAX_PICKLE: u64 = 64 << 20;

fn fits(head: &Head) -> bool {
    head.entries.iter().any(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
}

fn open(path: &Path, file: &File) -> Result<Contents> {
    let entries: HashMap<String, Entry> =
        archive::entries(path, file)?.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
    let pickle = entries.keys().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| damaged(path, "it has no `data.pkl`"))?;
    let root = pickle.strip_suffix("data.pkl").unwrap_or_default();
    let read = |entry: &Entry, most| archive::unpack(path, file, entry.index, most);
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && read(order, 16)? != b"little"
    {
        return Err(Error::data("the file was written by a big-endian machine"));
    }
    let entry = &entries[pickle];
    if entry.size > MAX_PICKLE {
        return Err(damaged(path, format!("its `data.pkl` claims {} bytes", entry.size)));
    }
    let bytes = read(entry, MAX_PICKLE)?;
    let pickle = pickle::parse(&bytes)?;
    let locate = |key: &str, size: u64| {
        let name = format!("{root}data/{key}");
        let entry = entries.get(&name).ok_or_else(|| damaged(path, format!("its archive has no `{name}`")))?;
        match entry.offset {
            Some(offset) if entry.size >= size => Ok(offset),
            Some(_) => Err(damaged(path, format!("`{name}` has {} bytes, expected {size}", entry.size))),
            None => Err(damaged(path, format!("`{name}` is compressed, which PyTorch does not do"))),
        }
    };
    let contents = state(pickle.root(), &locate)?;
    Ok(Contents { parts: archive::parts(entries.values()), ..contents })
}

/// Keys under which trainings keep the weights beside other things.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "net", "state_dict_ema", "weights"];

/// The tensors of a state_dict, or of one inside a checkpoint. `locate` gives where a storage of so many bytes lies.
pub(super) fn state(root: Value, locate: &dyn Fn(&str, u64) -> Result<u64>) -> Result<Contents> {
    let mut contents = Contents::default();
    let has_tensors = |value: Value| value.entries().is_some_and(|mut all| all.any(|(_, v)| v.tensor().is_some()));
    let dict = match WRAPPERS.iter().filter_map(|key| root.get(key)).find(|value| has_tensors(*value)) {
        Some(inside) if !has_tensors(root) => inside,
        _ => root,
    };
    let Some(entries) = dict.entries() else {
        return Err(Error::data(format!("the file holds {}, not a state_dict", root.kind()))
            .hint("save the weights by name: `torch.save(model.state_dict(), ..)`"));
    };
    let mut places = HashMap::new();
    for (key, value) in entries {
        let name = key.text().unwrap_or_default().to_string();
        let Some(tensor) = value.tensor() else {
            contents.skipped.push(format!("{name} ({})", value.kind()));
            continue;
        };
        let count = tensor.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length));
        // Expanded tensors repeat numbers: no weights do, and they would cost memory that the file does not have.
        if count.is_none_or(|count| count > tensor.total) {
            return Err(Error::data(format!("`{name}` {:?} has more numbers than its storage", tensor.shape)));
        }
        let width = tensor.number.size() as u64;
        let start = match places.get(&tensor.key) {
            Some(start) => *start,
            None => {
                let size = (tensor.total as u64).checked_mul(width);
                let start = locate(&tensor.key, size.ok_or_else(|| Error::data("a storage beyond counting"))?)?;
                places.insert(tensor.key.clone(), start);
                start
            }
        };
        let at = start + tensor.offset as u64 * width;
        let place = if in_order(&tensor.shape, &tensor.strides) {
            Place::At(at)
        } else {
            Place::Strided(at, tensor.strides.clone())
        };
        contents.tensors.push(Tensor { name, number: tensor.number, shape: tensor.shape.clone(), place });
    }
    Ok(contents)
}

/// Whether these steps are those of C order.
fn in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1;
    shape.iter().zip(strides).rev().all(|(length, stride)| {
        let fits = *length <= 1 || *stride == step;
        step *= length.max(&1);
        fits
    })
}
