//! How a training is divided among several devices.

use super::loss::part::Bank;
use crate::choices;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What dividing a training needs to know.
pub trait Divide {
    /// How many trainings run side by side, each with batches, draws and a loss of its own, and make one update of the mean
    /// of their gradients; `None` if it is one, whose batches are cut.
    fn ranks(&self) -> Option<usize>;

    /// What the learning rate is multiplied by, for batches of this size.
    fn rate(&self, batch: usize) -> f64;

    /// Where the loss keeps what it saw of other images, if it is one for all devices.
    fn bank(&self) -> Bank;
}

/// One training, whatever it runs on: every batch is cut into equal shares, one for each device, and the loss is that of
/// the whole batch. More devices change the last bits of sums, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Synchronous {
    /// Where the loss keeps the codes of all training images.
    #[serde(default)]
    #[schemars(extend("before" = "first"))]
    bank: Bank,
}

impl Divide for Synchronous {
    fn ranks(&self) -> Option<usize> {
        None
    }

    fn rate(&self, _batch: usize) -> f64 {
        1.0
    }

    fn bank(&self) -> Bank {
        self.bank
    }
}

/// As paddle_hashnet on several GPUs, which does not divide the images: each rank sees all of them in every epoch, shuffled
/// and varied by `seed` plus its number, and has a bank of its own; an update takes the mean of the ranks' gradients. `batch`
/// is that of one rank. Ranks need no GPU each: those of one device take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// How many ranks there are; the published numbers were made with 2.
    #[schemars(range(min = 1, max = 1024))]
    ranks: usize,
    /// Multiply the learning rate by `batch * ranks / 64`.
    #[serde(default = "yes")]
    scale_lr: bool,
}

fn yes() -> bool {
    true
}

impl Divide for Reference {
    fn ranks(&self) -> Option<usize> {
        Some(self.ranks.max(1))
    }

    fn rate(&self, batch: usize) -> f64 {
        if self.scale_lr { (batch * self.ranks.max(1)) as f64 / 64.0 } else { 1.0 }
    }

    fn bank(&self) -> Bank {
        Bank::First
    }
}

choices! {
    /// What `data_parallel = { name = ".." }` may be.
    pub enum DataParallel: Divide {
        Synchronous(Synchronous) = "synchronous",
        Reference(Reference) = "reference",
    }
}

impl Default for DataParallel {
    fn default() -> Self {
        Self::Synchronous(Synchronous::default())
    }
}

impl DataParallel {
    /// Whether it is what a training is that says nothing of it: then it is in no key.
    pub fn is_default(&self) -> bool {
        matches!(self, Self::Synchronous(division) if *division == Synchronous::default())
    }
}
