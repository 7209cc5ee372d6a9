//! A loss that several devices compute together, each for some of the pairs of images.

use candle_core::{Device, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Where the codes last seen of all training images are kept, if several devices train one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// On the first device, which computes the whole loss while the others wait. The loss is the same to the bit on any
    /// number of devices.
    #[default]
    First,
    /// Each device keeps some of the images, and pairs the whole batch with them: for lists so long that the bank is large,
    /// or the loss a matter of time.
    Sharded,
    /// Each device keeps all images, and pairs its share of the batch with them.
    Replicated,
}

impl Bank {
    /// Whether it is where a training has it that says nothing of it.
    pub fn is_first(&self) -> bool {
        *self == Self::First
    }
}

/// Which part of the pairs is a device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// Never [`Bank::First`].
    pub bank: Bank,
    /// Which device, from 0, of how many.
    pub number: usize,
    pub of: usize,
}

impl Division {
    /// The images of the bank that it keeps.
    pub fn images(self, all: usize) -> Range<usize> {
        if self.bank == Bank::Sharded { self.cut(all) } else { 0..all }
    }

    /// The images of a batch that it pairs with them.
    pub fn rows(self, batch: usize) -> Range<usize> {
        if self.bank == Bank::Sharded { 0..batch } else { self.cut(batch) }
    }

    fn cut(self, count: usize) -> Range<usize> {
        let bound = |number: usize| count * number / self.of;
        bound(self.number)..bound(self.number + 1)
    }
}

/// A batch as every device is given it.
pub struct Batch {
    /// `[n, bits]`, row-major.
    pub logits: Vec<f32>,
    /// `[n, classes]` of 0 and 1, on the CPU.
    pub labels: Tensor,
    /// The images' positions in the training list.
    pub index: Vec<u32>,
    /// Epochs count from 1.
    pub epoch: usize,
}

/// What a device says of a batch.
pub struct Judged {
    /// Its part of the loss: the loss is the sum of all parts.
    pub loss: f64,
    /// The images of the batch that its gradient is of.
    pub rows: Range<usize>,
    /// By the logits of those images, `[rows, bits]`: the gradient is the sum of all parts.
    pub gradient: Vec<f32>,
}

/// One device's part of a loss. It remembers what it saw of the images that it keeps.
pub trait Part: Send {
    /// Takes a batch in. Returns counts, which are added up over all parts before any of them goes on.
    fn begin(&mut self, batch: &Batch, device: &Device) -> Result<Vec<u64>>;

    /// Judges the batch that was taken in, by the sums of all counts.
    fn judge(&mut self, totals: &[u64]) -> Result<Judged>;

    /// What logits are multiplied by before they are squashed, for the records.
    fn scale(&self, epoch: usize) -> f64;

    /// What it remembers of its images, by name, as tensors of f32 or u8 with a row for each image.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes its rows out of tensors with a row for each image of the training.
    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_cover_all_pairs_once() {
        for (images, batch, of) in [(10, 7, 1), (10, 7, 2), (11, 3, 3), (5, 2, 4)] {
            for bank in [Bank::Sharded, Bank::Replicated] {
                let mut times = vec![0; images * batch];
                for number in 0..of {
                    let division = Division { bank, number, of };
                    for row in division.rows(batch) {
                        division.images(images).for_each(|image| times[row * images + image] += 1);
                    }
                }
                assert!(times.iter().all(|&times| times == 1), "{images} {batch} {of} {bank:?}");
            }
        }
    }
}
