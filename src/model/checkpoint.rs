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

use super::record::Record;
use super::tensor_file::{TensorFile, write};
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

    /// What is written in an open file, if it is of this format.
    pub(super) fn of(file: &TensorFile) -> Option<Self> {
        toml::from_str(file.card()?).ok().filter(|progress: &Self| progress.format == FORMAT)
    }

    pub(super) fn is_of(&self, training: &str) -> bool {
        self.training == training
    }

    pub(super) fn to_text(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}

/// A training as it was after an epoch: opened files, from which tensors are read one by one.
pub(super) struct Saved {
    pub(super) progress: Progress,
    /// What optimiser and loss remember, as `optimizer.*` and `loss.*`; and the weights as `model.*`, unless `model` is
    /// there.
    pub(super) state: TensorFile,
    /// The weights under their own names.
    pub(super) model: Option<TensorFile>,
    /// Where it lies, if it is a checkpoint.
    pub(super) checkpoint: Option<PathBuf>,
}

impl Saved {
    /// The numbers of a weight.
    pub(super) fn weight(&self, name: &str) -> Result<Vec<f32>> {
        match &self.model {
            Some(model) => model.read_f32(name),
            None => self.state.read_f32(&format!("model.{name}")),
        }
    }
}

/// Writes a checkpoint and removes the ones that are no longer kept.
pub(super) fn save(dir: &Path, progress: &Progress, tensors: &[(String, Tensor)]) -> anyhow::Result<PathBuf> {
    let aside = dir.join("writing.tmp");
    let io = |error| Error::io("write", &aside, &error);
    fs::create_dir_all(dir).map_err(io)?;
    let file = File::create(&aside).map_err(io)?;
    let mut out = Hashed { out: BufWriter::new(&file), hasher: blake3::Hasher::new() };
    write(&mut out, &progress.to_text()?, tensors).map_err(|e| e.downcast().map_or_else(|e| e, |e| io(e).into()))?;
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

/// The newest whole checkpoint of this training, of at most so many epochs; removes those that are not.
pub(super) fn newest(dir: &Path, training: &str, epochs: usize) -> Result<Option<Saved>> {
    for path in list(dir)? {
        match read(&path, training).filter(|saved| saved.progress.records.len() <= epochs) {
            Some(saved) => return Ok(Some(saved)),
            None => fs::remove_file(&path).map_err(|e| Error::io("remove", &path, &e))?,
        }
    }
    Ok(None)
}

/// The last epoch that a training could go on after, as far as can be told in a moment: the newest file that has all its
/// bytes, whether or not they are still the right ones. Changes nothing.
pub fn finished_epochs(dir: &Path) -> Option<usize> {
    list(dir).ok()?.into_iter().find_map(|path| {
        let (epoch, _) = name_parts(&path)?;
        let progress = Progress::of(&TensorFile::open(&path).ok()?)?;
        (progress.records.len() == epoch).then_some(epoch)
    })
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
fn read(path: &Path, training: &str) -> Option<Saved> {
    let (epoch, hash) = name_parts(path)?;
    if digest(path).ok()? != hash {
        return None;
    }
    let state = TensorFile::open(path).ok()?;
    let progress = Progress::of(&state)?;
    let ours = progress.is_of(training) && progress.records.len() == epoch;
    ours.then_some(Saved { progress, state, model: None, checkpoint: Some(path.to_path_buf()) })
}

/// blake3 of a file, in hex.
pub(super) fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
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

/// Tensors with their part of a checkpoint in front of their names.
pub(super) fn named(prefix: &str, tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use tempfile::TempDir;

    fn record(epoch: usize) -> Record {
        let lr = 0.1 + 0.2 * epoch as f64;
        Record {
            epoch,
            loss: 1.0 / 3.0,
            lr,
            scale: 2f64.sqrt(),
            images: 5,
            selection: None,
            seconds: 0.1,
            images_per_second: 50.0,
        }
    }

    fn save_epoch(dir: &Path, epoch: usize) -> PathBuf {
        let tensor = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
        let progress = Progress::new("this".into(), (1..=epoch).map(record).collect());
        save(dir, &progress, &[("model.a".into(), tensor)]).unwrap()
    }

    fn epoch_of(dir: &Path, training: &str) -> Option<usize> {
        newest(dir, training, 100).unwrap().map(|saved| saved.progress.records.len())
    }

    #[test]
    fn the_newest_two_are_kept_and_records_come_back_to_the_bit() {
        let dir = TempDir::new().unwrap();
        assert_eq!(epoch_of(&dir.path().join("absent"), "this"), None);
        for epoch in 1..=11 {
            save_epoch(dir.path(), epoch);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let saved = newest(dir.path(), "this", 11).unwrap().unwrap();
        assert_eq!(saved.progress.records, (1..=11).map(record).collect::<Vec<_>>());
        assert_eq!(saved.weight("a").unwrap(), [1.0; 4]);
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
        assert_eq!(finished_epochs(dir.path()), Some(2), "a look does not read all of it");
        assert_eq!(epoch_of(dir.path(), "this"), Some(1));
        assert!(!damaged.exists());
    }

    #[test]
    fn a_look_tells_the_last_epoch_and_changes_nothing() {
        let dir = TempDir::new().unwrap();
        assert_eq!(finished_epochs(&dir.path().join("absent")), None);
        assert_eq!(finished_epochs(dir.path()), None);
        save_epoch(dir.path(), 36);
        let newest = save_epoch(dir.path(), 37);
        assert_eq!(finished_epochs(dir.path()), Some(37));
        let whole = fs::read(&newest).unwrap();
        for part in [0, 7, 100, whole.len() - 1] {
            fs::write(&newest, &whole[..part]).unwrap();
            assert_eq!(finished_epochs(dir.path()), Some(36), "{part} of {} bytes", whole.len());
        }
        fs::write(&newest, "garbage").unwrap();
        assert_eq!(finished_epochs(dir.path()), Some(36));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_of_another_training_is_not_used() {
        let dir = TempDir::new().unwrap();
        save_epoch(dir.path(), 1);
        assert_eq!(epoch_of(dir.path(), "another"), None);
    }

    #[test]
    fn one_of_more_epochs_than_are_wanted_is_not_used() {
        let dir = TempDir::new().unwrap();
        save_epoch(dir.path(), 1);
        save_epoch(dir.path(), 2);
        assert_eq!(newest(dir.path(), "this", 1).unwrap().unwrap().progress.records.len(), 1);
    }
}
