//! What a network is taught: from logits and labels to one number.

#[cfg(feature = "cuda")]
mod cuda;
pub mod hashnet;
mod labels;
mod pairs;
pub mod part;

use crate::choices;
use crate::error::{Error, Result};
use candle_core::Tensor;
use part::{Division, Part};

/// Where a training stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Epochs count from 1.
    pub epoch: usize,
}

/// A hashing loss. It may remember what it saw of other images.
pub trait Loss: Send {
    /// The loss of one batch, a scalar that gradients flow from.
    ///
    /// `logits` is `[b, bits]`, `labels` `[b, classes]` of 0 and 1, `index` the images' positions in the training list. The
    /// loss lies where the logits lie. Labels come from the host, and should be on the CPU: to read them off a GPU is to
    /// wait for it.
    fn forward(&mut self, logits: &Tensor, labels: &Tensor, index: &[u32], step: Step) -> candle_core::Result<Tensor>;

    /// What logits are multiplied by before they are squashed, for the records.
    fn scale(&self, _epoch: usize) -> f64 {
        1.0
    }

    /// What it remembers between steps, by name, as tensors of f32 or u8.
    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        Ok(vec![])
    }

    /// Takes back what `state` gave.
    fn load_state(&mut self, _state: &[(String, Tensor)]) -> candle_core::Result<()> {
        Ok(())
    }
}

/// The sizes a loss may need before the first batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Training images.
    pub images: usize,
    pub classes: usize,
    pub bits: usize,
}

/// Builds a loss out of its parameters in the pipeline file.
pub trait BuildLoss {
    fn build(&self, sizes: Sizes) -> Result<Box<dyn Loss>>;

    /// One device's part of it, for a training that divides its bank.
    ///
    /// # Errors
    /// A loss without a bank, and a bank of fewer images than it has parts.
    fn part(&self, _sizes: Sizes, _division: Division) -> Result<Box<dyn Part>> {
        Err(Error::input("this loss keeps no bank that devices could divide").hint("leave out `bank`"))
    }

    /// Whether what it computes in an epoch depends on how many there will be: then a finished training cannot be made
    /// longer. No default, so that whoever writes a loss decides.
    fn looks_ahead(&self) -> bool;
}

choices! {
    /// What `loss = { name = ".." }` may be.
    pub enum LossSpec: BuildLoss {
        HashNet(hashnet::HashNet) = "hashnet",
    }
}
