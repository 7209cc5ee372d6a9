//! Weights for other programs. Equal weights give equal files; tensors are asked for one after the other.

use super::names::turn;
use super::paddle::NAMES;
use super::{FORMATS, Format};
use crate::error::{Error, Kind, Result};
use crate::npy;
use crate::outfile::Outfile;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A tensor as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether the numbers come with rows and columns the other way round.
    pub turns: bool,
}

/// Gives the numbers of the tensor at this position, in C order.
pub type Source<'a> = dyn FnMut(usize) -> Result<Vec<f32>> + 'a;

/// What a writer is given.
pub(super) struct Job<'a> {
    tensors: &'a [Outgoing],
    metadata: &'a BTreeMap<String, String>,
    source: &'a mut Source<'a>,
}

pub(super) type Write = fn(&mut Outfile, &mut Job) -> Result<(), Failure>;

/// What may go wrong: the disk, or where the numbers come from.
pub(super) enum Failure {
    Io(io::Error),
    Other(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<zip::result::ZipError> for Failure {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Io(match error {
            zip::result::ZipError::Io(error) => error,
            error => io::Error::other(error),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The format that a file of this name is written in.
///
/// # Errors
/// No format's files are called that.
pub fn can_write(path: &Path) -> Result<&'static Format> {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    let found = FORMATS.iter().find(|format| format.write.is_some() && format.suffixes.contains(&suffix));
    found.ok_or_else(|| {
        let known = FORMATS.iter().filter(|format| format.write.is_some());
        let mut known: Vec<String> = known.map(|format| format!(".{}", format.suffixes[0])).collect();
        // A network's, not a dictionary's: `model/onnx` writes it.
        known.push(".onnx".into());
        Error::input(format!("`{}` has no ending that tells a format", path.display()))
            .hint(format!("weights are written as {}", known.join(", ")))
    })
}

/// Writes a file, whole or not at all: what is there already stays until the new one is whole. `metadata` is kept by
/// formats that can.
///
/// # Errors
/// The disk, or an error of `source`.
pub fn write<'a>(
    path: &Path,
    format: &Format,
    tensors: &'a [Outgoing],
    metadata: &'a BTreeMap<String, String>,
    source: &'a mut Source<'a>,
) -> Result<()> {
    let Some(write) = format.write else {
        return Err(Error::input(format!("{} is not written", format.name)));
    };
    let mut out = Outfile::create(path)?;
    let mut job = Job { tensors, metadata, source };
    write(&mut out, &mut job).map_err(|failure| match failure {
        Failure::Io(error) => out.failed(&error),
        Failure::Other(error) => error,
    })?;
    out.finish()
}

impl Job<'_> {
    /// The bytes of a tensor, in its own order.
    fn bytes(&mut self, index: usize) -> Result<Vec<u8>> {
        let values = (self.source)(index)?;
        let Outgoing { name, shape, turns } = &self.tensors[index];
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::new(Kind::Stage, format!("`{name}` {shape:?} has {} numbers", values.len())));
        }
        let values = match shape[..] {
            [rows, columns] if *turns => turn(&values, columns, rows),
            _ => values,
        };
        Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

pub(super) fn safetensors(out: &mut Outfile, job: &mut Job) -> Result<(), Failure> {
    use safetensors::Dtype;
    use safetensors::tensor::{Metadata, TensorInfo};
    let mut offset = 0;
    let mut infos = vec![];
    for Outgoing { name, shape, .. } in job.tensors {
        let end = offset + shape.iter().product::<usize>() * 4;
        infos.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (offset, end) }));
        offset = end;
    }
    let metadata = job.metadata.iter().map(|(key, text)| (key.clone(), text.clone())).collect();
    let metadata = Metadata::new(Some(metadata), infos).map_err(|e| Error::data(e.to_string()))?;
    // Metadata are written in the order of a hash table: sorted, equal weights give equal files.
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::to_value(&metadata).and_then(serde_json::from_value).map_err(|e| Error::data(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::data(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for index in 0..job.tensors.len() {
        let bytes = job.bytes(index)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// An entry that is not compressed and whose bytes begin at a multiple of 64, as PyTorch lays them.
fn plain(size: usize) -> SimpleFileOptions {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    options.large_file(size as u64 >= u64::from(u32::MAX))
}

pub(super) fn torch(out: &mut Outfile, job: &mut Job) -> Result<(), Failure> {
    let mut archive = ZipWriter::new(out);
    let mut pickle = Pickler(b"\x80\x02".to_vec());
    pickle.raw(b"ccollections\nOrderedDict\n)R(");
    for (index, Outgoing { name, shape, .. }) in job.tensors.iter().enumerate() {
        pickle.text(name);
        pickle.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.text("storage");
        pickle.raw(b"ctorch\nFloatStorage\n");
        pickle.text(&index.to_string());
        pickle.text("cpu");
        pickle.number(shape.iter().product());
        pickle.raw(b"tQK\x00");
        pickle.numbers(shape);
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        pickle.numbers(&strides);
        pickle.raw(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.raw(b"u.");
    let mut entry = |name: &str, bytes: &[u8]| -> Result<(), Failure> {
        archive.start_file(format!("archive/{name}"), plain(bytes.len()))?;
        Ok(archive.write_all(bytes)?)
    };
    entry("data.pkl", &pickle.0)?;
    entry("byteorder", b"little")?;
    for index in 0..job.tensors.len() {
        entry(&format!("data/{index}"), &job.bytes(index)?)?;
    }
    entry("version", b"3\n")?;
    archive.finish()?;
    Ok(())
}

pub(super) fn npz(out: &mut Outfile, job: &mut Job) -> Result<(), Failure> {
    let mut archive = ZipWriter::new(out);
    for index in 0..job.tensors.len() {
        let bytes = job.bytes(index)?;
        let Outgoing { name, shape, .. } = &job.tensors[index];
        archive.start_file(format!("{name}.npy"), plain(bytes.len() + 1024))?;
        archive.write_all(&npy::head("<f4", shape))?;
        archive.write_all(&bytes)?;
    }
    archive.finish()?;
    Ok(())
}

/// A pickle of protocol 4, as `paddle.save` writes it; the old name of NumPy's module is known to old and new.
pub(super) fn paddle(out: &mut Outfile, job: &mut Job) -> Result<(), Failure> {
    out.write_all(b"\x80\x04}(")?;
    for index in 0..job.tensors.len() {
        let bytes = job.bytes(index)?;
        let Outgoing { name, shape, .. } = &job.tensors[index];
        let mut pickle = Pickler(vec![]);
        pickle.text(name);
        pickle.raw(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01");
        pickle.numbers(shape);
        pickle.raw(b"cnumpy\ndtype\n");
        pickle.text("f4");
        pickle.raw(b"\x89\x88\x87R(K\x03");
        pickle.text("<");
        pickle.raw(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
        match u32::try_from(bytes.len()) {
            Ok(length) => {
                pickle.raw(b"B");
                pickle.raw(&length.to_le_bytes());
            }
            Err(_) => {
                pickle.raw(b"\x8e");
                pickle.raw(&(bytes.len() as u64).to_le_bytes());
            }
        }
        out.write_all(&pickle.0)?;
        out.write_all(&bytes)?;
        out.write_all(b"tb")?;
    }
    // Paddle takes the arrays named here for parameters, and makes tensors of them.
    let mut pickle = Pickler(vec![]);
    pickle.text(NAMES);
    pickle.raw(b"}(");
    for Outgoing { name, .. } in job.tensors {
        pickle.text(name);
        pickle.text(name);
    }
    pickle.raw(b"uu.");
    Ok(out.write_all(&pickle.0)?)
}

/// Opcodes of a pickle.
struct Pickler(Vec<u8>);

impl Pickler {
    fn raw(&mut self, opcodes: &[u8]) {
        self.0.extend(opcodes);
    }

    fn text(&mut self, text: &str) {
        self.raw(b"X");
        self.raw(&(text.len() as u32).to_le_bytes());
        self.raw(text.as_bytes());
    }

    fn number(&mut self, number: usize) {
        match i32::try_from(number) {
            Ok(number) => {
                self.raw(b"J");
                self.raw(&number.to_le_bytes());
            }
            Err(_) => {
                self.raw(b"\x8a\x09");
                self.raw(&(number as u64).to_le_bytes());
                self.raw(b"\0");
            }
        }
    }

    /// A tuple.
    fn numbers(&mut self, numbers: &[usize]) {
        self.raw(b"(");
        numbers.iter().for_each(|number| self.number(*number));
        self.raw(b"t");
    }
}
