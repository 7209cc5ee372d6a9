//! safetensors files, read and written tensor by tensor: no more than one of them is in memory twice.
//!
//! The header is believed only where the file's length bears it out, so a damaged file costs an error and no memory.

use super::tensor_error;
use crate::error::{Error, Result};
use crate::kernel::host;
use crate::weightfile::safetensors_header;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The one key of the metadata that is ours: JSON of what the file is.
const CARD: &str = "hashpipe";

/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 20;

/// An open safetensors file whose header fits its length.
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the numbers begin.
    data: u64,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
        let (metadata, data) = safetensors_header(path, &file)?;
        Ok(Self { path: path.to_path_buf(), file, metadata, data })
    }

    /// What `write` was given as `card`.
    pub(super) fn card(&self) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(CARD).map(String::as_str)
    }

    /// The tensors' names, in the order of the file.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// The numbers of an f32 tensor; infinite ones and NaN are refused.
    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        // The file is at least this long: `open` checked it.
        let mut values = Vec::with_capacity(self.info(name)?.shape.iter().product());
        self.read(name, Dtype::F32, |bytes| {
            values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of 4"))));
        })?;
        if values.iter().all(|v: &f32| v.is_finite()) {
            return Ok(values);
        }
        Err(Error::data(format!("`{name}` in `{}` holds NaN or infinite numbers", self.path.display())))
    }

    /// A tensor of f32 or u8, on the CPU.
    pub(super) fn read_tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let tensor = if info.dtype == Dtype::U8 {
            let mut values = vec![];
            self.read(name, Dtype::U8, |bytes| values.extend_from_slice(bytes))?;
            Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu)
        } else {
            Tensor::from_vec(self.read_f32(name)?, info.shape.as_slice(), &Device::Cpu)
        };
        tensor.map_err(tensor_error)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::data(format!("`{}` has no tensor `{name}`", self.path.display()));
        self.metadata.info(name).ok_or_else(missing)
    }

    fn read(&self, name: &str, dtype: Dtype, mut take: impl FnMut(&[u8])) -> Result<()> {
        let info = self.info(name)?;
        if info.dtype != dtype {
            let error = Error::data(format!("`{name}` in `{}` is of type {}", self.path.display(), info.dtype));
            return Err(error.note(format!("expected {dtype}")));
        }
        let io = |error: std::io::Error| Error::io("read", &self.path, &error);
        let (start, end) = info.data_offsets;
        (&self.file).seek(SeekFrom::Start(self.data + start as u64)).map_err(io)?;
        let mut buffer = vec![0; CHUNK.min(end - start)];
        let mut left = end - start;
        while left > 0 {
            let bytes = &mut buffer[..CHUNK.min(left)];
            (&self.file).read_exact(bytes).map_err(io)?;
            take(bytes);
            left -= bytes.len();
        }
        Ok(())
    }
}

/// Writes named tensors of f32 and u8, and `card`. Equal arguments give equal bytes.
pub(super) fn write(out: &mut dyn Write, card: &str, tensors: &[(String, Tensor)]) -> anyhow::Result<()> {
    // Bytes go last: an f32 must lie on a multiple of 4.
    let mut tensors: Vec<&(String, Tensor)> = tensors.iter().collect();
    tensors.sort_by_key(|(_, tensor)| tensor.dtype() == DType::U8);
    let mut offset = 0;
    let mut infos = vec![];
    for (name, tensor) in &tensors {
        let dtype = if tensor.dtype() == DType::U8 { Dtype::U8 } else { Dtype::F32 };
        let end = offset + tensor.elem_count() * tensor.dtype().size_in_bytes();
        infos.push((name.clone(), TensorInfo { dtype, shape: tensor.dims().to_vec(), data_offsets: (offset, end) }));
        offset = end;
    }
    let card = HashMap::from([(CARD.to_string(), card.to_string())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(card), infos)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in tensors {
        write_numbers(out, tensor)?;
    }
    Ok(())
}

/// Writes the numbers of one tensor of f32 or u8.
pub(super) fn write_numbers(out: &mut dyn Write, tensor: &Tensor) -> anyhow::Result<()> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    if tensor.dtype() == DType::U8 {
        out.write_all(&tensor.flatten_all()?.to_vec1::<u8>()?)?;
        return Ok(());
    }
    for chunk in host(&tensor).values()?.chunks(CHUNK / 4) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, Tensor)> {
        let cpu = &Device::Cpu;
        let bytes = Tensor::from_vec(vec![7u8, 8, 9], 3, cpu).unwrap();
        let numbers = Tensor::arange(0f32, 6.0, cpu).unwrap().reshape((2, 3)).unwrap();
        vec![("bytes".into(), bytes), ("numbers".into(), numbers)]
    }

    fn bytes() -> Vec<u8> {
        let mut out = vec![];
        write(&mut out, "{}", &tensors()).unwrap();
        out
    }

    fn open(bytes: &[u8]) -> Result<TensorFile> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        TensorFile::open(file.path())
    }

    #[test]
    fn what_was_written_is_read_here_and_by_the_crate() {
        let file = open(&bytes()).unwrap();
        assert_eq!(file.card(), Some("{}"));
        assert_eq!(file.names(), ["numbers", "bytes"]);
        assert_eq!(file.shape("numbers"), Some(&[2, 3][..]));
        assert_eq!(file.read_f32("numbers").unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(file.read_tensor("bytes").unwrap().to_vec1::<u8>().unwrap(), [7, 8, 9]);
        let bytes = bytes();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("bytes").unwrap().data(), [7, 8, 9]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = bytes();
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn headers_that_lie_are_errors_and_cost_no_memory() {
        let with_header = |header: &str| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            open(&bytes).map(|_| ())
        };
        assert!(open(&[0xff; 64]).is_err());
        assert!(with_header("{}").is_ok());
        assert!(
            with_header(r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#).is_err()
        );
        assert!(with_header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#).is_err());
        assert!(with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#).is_err());
        assert!(with_header(r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[18446744073709551615,0]}}"#).is_err());
        assert!(with_header("[1, 2").is_err());
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        let file = open(&bytes()).unwrap();
        assert!(file.read_f32("bytes").is_err() && file.read_f32("absent").is_err());
        let mut out = vec![];
        let nan = Tensor::from_vec(vec![f32::NAN], 1, &Device::Cpu).unwrap();
        write(&mut out, "", &[("a".into(), nan)]).unwrap();
        assert!(open(&out).unwrap().read_f32("a").unwrap_err().message().contains("NaN"));
    }
}
