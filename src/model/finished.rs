//! What a finished training leaves for a longer one: beside its model, a file with all that a checkpoint has but the
//! weights.
//!
//! With both, a training of 150 epochs starts where one of 100 ended. The file holds no times, so that equal trainings
//! leave equal bytes.

use super::checkpoint::{Progress, Saved, digest};
use super::tensor_file::{TensorFile, write as write_tensors};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// A file and the blake3 that it had when it was made.
#[derive(Debug, Clone)]
pub struct Made {
    pub path: PathBuf,
    pub digest: String,
}

/// The same training with fewer epochs, finished.
#[derive(Debug, Clone)]
pub struct Shorter {
    pub model: Made,
    pub state: Made,
}

/// Writes what is needed beside the model.
pub(super) fn write(path: &Path, progress: &Progress, tensors: &[(String, Tensor)]) -> anyhow::Result<()> {
    let io = |error| Error::io("write", path, &error);
    let mut out = BufWriter::new(File::create(path).map_err(io)?);
    write_tensors(&mut out, &progress.to_text()?, tensors)?;
    Ok(out.flush().map_err(io)?)
}

/// Opens a shorter training; nothing in it is believed before its digests are checked.
///
/// # Errors
/// Files that are gone or changed, and those of another training or of too many epochs.
pub(super) fn read(shorter: &Shorter, training: &str, epochs: usize) -> Result<Saved> {
    for made in [&shorter.model, &shorter.state] {
        let found = digest(&made.path).map_err(|e| Error::io("read", &made.path, &e))?;
        if found != made.digest {
            return Err(Error::data(format!("`{}` has another content than was recorded", made.path.display())));
        }
    }
    let path = &shorter.state.path;
    let state = TensorFile::open(path)?;
    let progress = progress(&state, path)?;
    if !progress.is_of(training) {
        return Err(Error::data(format!("`{}` is of another training", path.display())));
    }
    let done = progress.records.len();
    if done > epochs {
        return Err(Error::data(format!("`{}` is of {done} epochs, more than {epochs}", path.display())));
    }
    Ok(Saved { progress, state, model: Some(TensorFile::open(&shorter.model.path)?), checkpoint: None })
}

/// How many epochs a file that `write` wrote is of.
///
/// # Errors
/// A file that is not whole, or of another format.
pub fn epochs_of(path: &Path) -> Result<usize> {
    Ok(progress(&TensorFile::open(path)?, path)?.records.len())
}

fn progress(file: &TensorFile, path: &Path) -> Result<Progress> {
    Progress::of(file).ok_or_else(|| {
        Error::data(format!("`{}` is not the end of a training that this hashpipe knows", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Transform;
    use crate::model::Recipe;
    use crate::model::testing::Shapes;
    use crate::model::train_loop::tests::{bytes, files, recipe, shapes};
    use crate::model::train_loop::{Trained, Watch, train};
    use crate::model::weights::{Card, save};
    use candle_core::Device;
    use tempfile::TempDir;

    const EPOCHS: usize = 5;

    fn of(epochs: usize) -> Recipe {
        Recipe { epochs, ..recipe() }
    }

    /// A training in a scratch folder of its own.
    fn run(recipe: &Recipe, shorter: Option<&Shorter>, watch: &mut Watch) -> anyhow::Result<Trained> {
        let scratch = TempDir::new().unwrap();
        train(recipe, &shapes(), &files(scratch.path(), shorter), &Device::Cpu, watch)
    }

    /// Model and state of a training on disk.
    fn finish(trained: &Trained, dir: &Path) -> Shorter {
        let card = Card::new(recipe().backbone, 12, Transform::imagenet(20, 16), vec![]);
        let made = |name: &str| {
            let path = dir.join(name);
            Made { digest: digest(&path).unwrap(), path }
        };
        save(&dir.join("model"), &trained.model, &card).unwrap();
        trained.save_state(&dir.join("state")).unwrap();
        Shorter { model: made("model"), state: made("state") }
    }

    fn state(trained: &Trained) -> Vec<u8> {
        let dir = TempDir::new().unwrap();
        finish(trained, dir.path());
        std::fs::read(dir.path().join("state")).unwrap()
    }

    #[test]
    fn a_training_made_longer_ends_in_the_bytes_of_a_long_one() {
        let whole = run(&of(EPOCHS), None, &mut |_| Ok(())).unwrap();
        let (expected, expected_state) = (bytes(&whole), state(&whole));
        for epochs in 1..=EPOCHS {
            let dir = TempDir::new().unwrap();
            let shorter = finish(&run(&of(epochs), None, &mut |_| Ok(())).unwrap(), dir.path());
            assert_eq!(epochs_of(&shorter.state.path).unwrap(), epochs);
            let mut first = None;
            let longer = run(&of(EPOCHS), Some(&shorter), &mut |tick| {
                first.get_or_insert(tick.epoch);
                Ok(())
            });
            let longer = longer.unwrap();
            assert_eq!((longer.extended, longer.refused.is_none()), (epochs, true));
            assert_eq!(first, (epochs < EPOCHS).then_some(epochs + 1));
            assert!(bytes(&longer) == expected, "from {epochs} epochs");
            assert!(state(&longer) == expected_state, "from {epochs} epochs");
        }
    }

    #[test]
    fn a_stopped_extension_goes_on_and_may_be_made_longer_once_more() {
        let expected = bytes(&run(&of(EPOCHS), None, &mut |_| Ok(())).unwrap());
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let one = finish(&run(&of(1), None, &mut |_| Ok(())).unwrap(), first.path());
        let three = finish(&run(&of(3), Some(&one), &mut |_| Ok(())).unwrap(), second.path());
        // Three steps an epoch: in the middle of either epoch, and at the end of each.
        for stop in 1..=6 {
            let (scratch, mut steps) = (TempDir::new().unwrap(), 0);
            let go = |watch: &mut Watch| {
                train(&of(EPOCHS), &shapes(), &files(scratch.path(), Some(&three)), &Device::Cpu, watch)
            };
            let stopped = go(&mut |_| {
                steps += 1;
                if steps == stop { anyhow::bail!("stopped") } else { Ok(()) }
            });
            assert_eq!(stopped.err().unwrap().to_string(), "stopped");
            assert!(bytes(&go(&mut |_| Ok(())).unwrap()) == expected, "stopped at step {stop}");
        }
    }

    #[test]
    fn what_is_damaged_or_of_another_training_is_refused() {
        let expected = bytes(&run(&of(2), None, &mut |_| Ok(())).unwrap());
        let dir = TempDir::new().unwrap();
        let good = finish(&run(&of(1), None, &mut |_| Ok(())).unwrap(), dir.path());
        let other = Recipe { seed: 8, ..of(1) };
        let (other_dir, long_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let other = finish(&run(&other, None, &mut |_| Ok(())).unwrap(), other_dir.path());
        let longer = finish(&run(&of(3), None, &mut |_| Ok(())).unwrap(), long_dir.path());
        let swapped = Shorter { model: good.state.clone(), state: good.model.clone() };
        let gone = Made { path: dir.path().join("gone"), ..good.model.clone() };
        let gone = Shorter { model: gone, state: good.state.clone() };
        for (shorter, reason) in [
            (&other, "is of another training"),
            (&longer, "is of 3 epochs, more than 2"),
            (&swapped, "is not the end of a training"),
            (&gone, "cannot read"),
        ] {
            let trained = run(&of(2), Some(shorter), &mut |_| Ok(())).unwrap();
            let refused = trained.refused.as_ref().unwrap().message();
            assert!(refused.contains(reason) && trained.extended == 0, "{refused}");
            assert!(bytes(&trained) == expected, "{reason}");
        }
        for part in ["model", "state"] {
            let path = dir.path().join(part);
            let mut damaged = std::fs::read(&path).unwrap();
            let whole = damaged.clone();
            *damaged.last_mut().unwrap() ^= 1;
            std::fs::write(&path, damaged).unwrap();
            let trained = run(&of(2), Some(&good), &mut |_| Ok(())).unwrap();
            assert!(trained.refused.as_ref().unwrap().message().contains("another content"), "{part}");
            assert!(bytes(&trained) == expected, "{part}");
            std::fs::write(&path, whole).unwrap();
        }
        assert!(run(&of(2), Some(&good), &mut |_| Ok(())).unwrap().refused.is_none());
    }

    #[test]
    fn what_a_training_is_given_is_in_its_name() {
        let name = |recipe: &Recipe, examples: &Shapes, given: &[&str]| {
            recipe.name(examples, &given.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
        };
        let base = name(&of(3), &shapes(), &["a"]);
        assert_eq!(name(&of(100), &shapes(), &["a"]), base, "how long it is decides nothing else");
        assert_ne!(name(&of(3), &shapes(), &["b"]), base);
        assert_ne!(name(&of(3), &Shapes::new(41, 16, 3), &["a"]), base);
        assert_ne!(name(&Recipe { batch: 15, ..of(3) }, &shapes(), &["a"]), base);
    }
}
