//! What a training is told: everything but its data and first weights.

use super::backbone::BackboneSpec;
use super::data_parallel::DataParallel;
use super::loss::LossSpec;
use super::optim::OptimizerSpec;
use super::schedule::ScheduleSpec;
use crate::dataset::Examples;
use crate::error::{Error, Kind, Result};
use crate::kernel::Precision;
use serde::Serialize;

/// Everything about a training but its data and first weights.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// Length of the codes.
    pub bits: usize,
    pub epochs: usize,
    /// Images per step; the last step of an epoch takes what is left.
    pub batch: usize,
    pub seed: u64,
    pub backbone: BackboneSpec,
    pub loss: LossSpec,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    /// Crop at random places.
    pub crop: bool,
    /// Mirror half of the images.
    pub flip: bool,
    /// What products round their factors to.
    #[serde(skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// How several devices share the work.
    #[serde(skip_serializing_if = "DataParallel::is_default")]
    pub data_parallel: DataParallel,
}

impl Recipe {
    /// Whether `epochs` only says when to stop, so that a finished training is the beginning of a longer one.
    pub fn can_be_extended(&self) -> bool {
        !self.schedule.builder().looks_ahead() && !self.loss.builder().looks_ahead()
    }

    /// A name for what is saved of a training: one whose recipe, sizes or `given` digests differ is another one, and one
    /// that only stops earlier is the same if it can be extended.
    pub(super) fn name(&self, examples: &dyn Examples, given: &[String]) -> Result<String> {
        // No training has 0 epochs: it stands for any number of them.
        let epochs = if self.can_be_extended() { 0 } else { self.epochs };
        let recipe = Self { epochs, ..self.clone() };
        let parts = (recipe, given, examples.len(), examples.classes(), examples.side());
        let text = serde_json::to_vec(&parts)
            .map_err(|e| Error::new(Kind::Stage, "cannot write down the recipe").note(e.to_string()))?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }

    /// How many of so many devices the training can use.
    ///
    /// # Errors
    /// More devices than a batch has images.
    pub fn devices(&self, given: usize) -> Result<usize> {
        match self.data_parallel.builder().ranks() {
            Some(ranks) => Ok(given.min(ranks)),
            None if given <= self.batch => Ok(given),
            None => Err(Error::resources(format!("a batch of {} cannot be cut into {given} shares", self.batch))
                .note(format!("`batch` is {}, and the training was given {given} devices", self.batch))
                .hint("want fewer `gpus` in `[resources]`, or make `batch` larger")),
        }
    }

    pub(super) fn check(&self, examples: &dyn Examples) -> Result<()> {
        for (key, value) in [("epochs", self.epochs), ("batch", self.batch)] {
            if value == 0 {
                return Err(Error::input(format!("`{key}` must be at least 1")));
            }
        }
        if examples.is_empty() || examples.classes() == 0 {
            let (images, classes) = (examples.len(), examples.classes());
            return Err(Error::data(format!("cannot train on {images} images of {classes} classes")));
        }
        Ok(())
    }
}
