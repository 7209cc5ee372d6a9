//! Unfinished trainings on disk, so that a killed one goes on where its last epoch ended.
//!
//! ```text
//! scratch/
//!   epoch-00011.<blake3 of the file>.safetensors    the newest two are kept
//!   epoch-00012.<blake3 of the file>.safetensors
//!   writing.tmp                                     left by a crash, overwritten by the next checkpoint
//! ```
//!
//! A file gets its name, and with it its checksum, when all of it is on disk. One that does not match its name, or is
//! of another training, is removed and the one before it used.

use super::tensor_file::{TensorFile, write};
use super::train_loop::Record;
use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// How many checkpoints are kept: the second is for the day the first turns out damaged.
const KEPT: usize = 2;

/// What a checkpoint is of; stored as TOML, which gives floats back to the bit.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Raised when the meaning of the tensors changes.
    format: u32,
    /// Names the training: its parameters and the sizes of its data.
    training: String,
    /// One per finished epoch.
    pub(super) records: Vec<Record>,
}

const FORMAT: u32 = 1;

impl Progress {
    pub(super) fn new(training: String, records: Vec<Record>) -> Self {
        Self { format: FORMAT, training, records }
    }
}

/// Writes a checkpoint and removes the ones that are no longer kept.
pub(super) fn save(dir: &Path, progress: &Progress, tensors: &[(String, Tensor)]) -> anyhow::Result<PathBuf> {
    let aside = dir.join("writing.tmp");
    let io = |error| Error::io("write", &aside, &error);
    fs::create_dir_all(dir).map_err(io)?;
    let file = File::create(&aside).map_err(io)?;
    let mut out = Hashed { out: BufWriter::new(&file), hasher: blake3::Hasher::new() };
    write(&mut out, &toml::to_string(progress)?, tensors)
        .map_err(|e| e.downcast().map_or_else(|e| e, |e| io(e).into()))?;
    out.flush().map_err(io)?;
    let hash = out.hasher.finalize();
    drop(out);
    file.sync_all().map_err(io)?;

    let path = dir.join(format!("epoch-{:05}.{}.safetensors", progress.records.len(), hash.to_hex()));
    fs::rename(&aside, &path).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    for old in list(dir)?.iter().skip(KEPT) {
        fs::remove_file(old).map_err(|e| Error::io("remove", old, &e))?;
    }
    Ok(path)
}

/// The newest whole checkpoint of this training, and its place; removes those that are not.
pub(super) fn newest(dir: &Path, training: &str) -> Result<Option<(PathBuf, Progress, TensorFile)>> {
    for path in list(dir)? {
        match read(&path, training) {
            Some((progress, file)) => return Ok(Some((path, progress, file))),
            None => fs::remove_file(&path).map_err(|e| Error::io("remove", &path, &e))?,
        }
    }
    Ok(None)
}

/// Checkpoints by name, the newest first.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| Error::io("read", dir, &error);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(io)?,
    };
    let mut named = vec![];
    for entry in entries {
        let path = entry.map_err(io)?.path();
        named.extend(name_parts(&path).map(|(epoch, _)| (epoch, path.clone())));
    }
    named.sort_unstable_by(|a, b| b.cmp(a));
    Ok(named.into_iter().map(|(_, path)| path).collect())
}

/// Epoch and checksum out of a checkpoint's name.
fn name_parts(path: &Path) -> Option<(usize, &str)> {
    let name = path.file_name()?.to_str()?;
    let (epoch, hash) = name.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.split_once('.')?;
    Some((epoch.parse().ok()?, hash))
}

/// A checkpoint if it is whole and of this training.
fn read(path: &Path, training: &str) -> Option<(Progress, TensorFile)> {
    let (epoch, hash) = name_parts(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).ok()?).ok()?;
    if hasher.finalize().to_hex().as_str() != hash {
        return None;
    }
    let file = TensorFile::open(path).ok()?;
    let progress: Progress = toml::from_str(file.card()?).ok()?;
    let ours = progress.format == FORMAT && progress.training == training && progress.records.len() == epoch;
    ours.then_some((progress, file))
}

/// Writes on and hashes what went through.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use tempfile::TempDir;

    fn record(epoch: usize) -> Record {
        let lr = 0.1 + 0.2 * epoch as f64;
        Record { epoch, loss: 1.0 / 3.0, lr, scale: 2f64.sqrt(), images: 5, seconds: 0.1, images_per_second: 50.0 }
    }

    fn save_epoch(dir: &Path, epoch: usize) -> PathBuf {
        let tensor = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
        let progress = Progress::new("this".into(), (1..=epoch).map(record).collect());
        save(dir, &progress, &[("model.a".into(), tensor)]).unwrap()
    }

    fn epoch_of(dir: &Path, training: &str) -> Option<usize> {
        newest(dir, training).unwrap().map(|(_, progress, _)| progress.records.len())
    }

    #[test]
    fn the_newest_two_are_kept_and_records_come_back_to_the_bit() {
        let dir = TempDir::new().unwrap();
        assert_eq!(epoch_of(&dir.path().join("absent"), "this"), None);
        for epoch in 1..=11 {
            save_epoch(dir.path(), epoch);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let (_, progress, file) = newest(dir.path(), "this").unwrap().unwrap();
        assert_eq!(progress.records, (1..=11).map(record).collect::<Vec<_>>());
        assert_eq!(file.read_f32("model.a").unwrap(), [1.0; 4]);
    }

    #[test]
    fn a_damaged_one_is_removed_and_the_one_before_it_used() {
        let dir = TempDir::new().unwrap();
        save_epoch(dir.path(), 1);
        let damaged = save_epoch(dir.path(), 2);
        let mut bytes = fs::read(&damaged).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&damaged, bytes).unwrap();
        fs::write(dir.path().join("writing.tmp"), "half").unwrap();
        assert_eq!(epoch_of(dir.path(), "this"), Some(1));
        assert!(!damaged.exists());
    }

    #[test]
    fn one_of_another_training_is_not_used() {
        let dir = TempDir::new().unwrap();
        save_epoch(dir.path(), 1);
        assert_eq!(epoch_of(dir.path(), "another"), None);
    }
}
