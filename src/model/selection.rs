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
