//! Which epoch of a training is kept: the last one, or the one that a measure finds best.
//!
//! The measure is asked every so many epochs and after the last. A later epoch must be better, not only as good, to take
//! the place of an earlier one, as in the reference. The best weights so far are part of each checkpoint, so that a
//! training that was stopped ends in the same bytes.

use super::net::HashModel;
use super::record::Record;
use super::tensor_file::TensorFile;
use crate::error::{Error, Kind, Result};
use candle_core::{Device, Tensor};

/// How the epoch that is kept is found.
pub struct Selection<'a> {
    /// Epochs between two measurements; at least 1.
    pub every: usize,
    /// How good a network is: more is better.
    pub measure: &'a mut Measure<'a>,
}

/// Gives a figure for a network; an error stops the training.
pub type Measure<'a> = dyn FnMut(&HashModel) -> anyhow::Result<f64> + 'a;

/// The epoch that was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selected {
    pub epoch: usize,
    pub value: f64,
}

impl Selected {
    /// The best of what was measured, the earliest of equal ones.
    pub fn of(records: &[Record]) -> Option<Self> {
        let measured = records.iter().filter_map(|record| Some(Self { epoch: record.epoch, value: record.selection? }));
        measured.reduce(|best, next| if next.value > best.value { next } else { best })
    }
}

impl Selection<'_> {
    /// Whether an epoch is to be measured.
    pub(super) fn is_due(&self, epoch: usize, epochs: usize) -> bool {
        epoch.is_multiple_of(self.every.max(1)) || epoch == epochs
    }
}

/// Weights of the best epoch so far, on the host, under the names of the network's parameters.
pub(super) type Best = Vec<(String, Tensor)>;

/// A copy of a network's weights.
pub(super) fn copy(model: &HashModel) -> candle_core::Result<Best> {
    let copied = model
        .parameters()
        .iter()
        .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().to_device(&Device::Cpu)?.copy()?)));
    copied.collect()
}

/// Puts weights back into the network that they are of.
pub(super) fn restore(model: &HashModel, best: &Best) -> anyhow::Result<()> {
    for (name, var) in model.parameters() {
        let Some((_, tensor)) = best.iter().find(|(other, _)| other == name) else {
            return Err(Error::new(Kind::Stage, format!("the best epoch has no `{name}`")).into());
        };
        var.set(&tensor.to_device(var.device())?)?;
    }
    Ok(())
}

/// The best weights in a checkpoint, with `best.` in front of their names.
pub(super) fn read(file: &TensorFile) -> Result<Best> {
    let names = file.names().into_iter().filter_map(|name| Some((name.strip_prefix("best.")?.to_string(), name)));
    names.map(|(short, name)| Ok((short, file.read_tensor(&name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::train_loop::tests::{bytes, files, recipe, shapes};
    use crate::model::{Recipe, Tick, Trained, train, train_selecting};
    use std::path::Path;
    use tempfile::TempDir;

    fn plain(
        recipe: &Recipe,
        scratch: &Path,
        watch: &mut dyn FnMut(&Tick) -> anyhow::Result<()>,
    ) -> anyhow::Result<Trained> {
        train(recipe, &shapes(), &files(scratch, None), &Device::Cpu, watch)
    }

    #[test]
    fn the_best_epoch_is_kept_wherever_the_training_was_stopped() {
        // Epochs 2, 4 and 5 are measured; 4 is as good as 2, which stays. What was measured before a stop is not asked
        // again, so a figure is known by the weights.
        let recipe = Recipe { epochs: 5, ..recipe() };
        let figures: std::collections::HashMap<_, _> = plain_weights().into_iter().zip([0.4, 0.4, 0.3]).collect();
        let with = |stop: usize, scratch: &Path| {
            let mut steps = 0;
            let mut watch = |_: &Tick| {
                steps += 1;
                if steps == stop { anyhow::bail!("stopped") } else { Ok(()) }
            };
            let mut measure = |model: &HashModel| Ok(figures[&first_weights(model)]);
            let mut selection = Selection { every: 2, measure: &mut measure };
            train_selecting(&recipe, &shapes(), &files(scratch, None), &[Device::Cpu], &mut watch, Some(&mut selection))
        };
        let expected = {
            let scratch = TempDir::new().unwrap();
            bytes(&plain(&Recipe { epochs: 2, ..recipe.clone() }, scratch.path(), &mut |_| Ok(())).unwrap()).0
        };
        for stop in [1, 6, 7, 9, 12, 13, 15] {
            let scratch = TempDir::new().unwrap();
            assert!(with(stop, scratch.path()).is_err());
            let resumed = with(usize::MAX, scratch.path()).unwrap();
            assert_eq!(resumed.selected, Some(Selected { epoch: 2, value: 0.4 }), "stopped at step {stop}");
            assert!(bytes(&resumed).0 == expected, "stopped at step {stop}");
            let measured: Vec<_> = resumed.records.iter().map(|record| record.selection).collect();
            assert_eq!(measured, [None, Some(0.4), None, Some(0.4), Some(0.3)]);
        }
    }

    fn first_weights(model: &HashModel) -> Vec<u32> {
        let weights = model.parameters()[0].1.flatten_all().and_then(|weights| weights.to_vec1::<f32>()).unwrap();
        weights.iter().map(|weight| weight.to_bits()).collect()
    }

    /// The first weights after epochs 2, 4 and 5.
    fn plain_weights() -> Vec<Vec<u32>> {
        let after = |epochs| {
            let scratch = TempDir::new().unwrap();
            first_weights(&plain(&Recipe { epochs, ..recipe() }, scratch.path(), &mut |_| Ok(())).unwrap().model)
        };
        [2, 4, 5].map(after).to_vec()
    }
}
