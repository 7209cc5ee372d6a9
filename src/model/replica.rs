//! A training step, in parts: a network on a device makes logits of its share of a batch, a loss judges those of the
//! whole batch, the network turns that into gradients, and updates its weights by them.
//!
//! The loss sees one batch, however many networks made its logits: a loss that compares images needs not know of shares.

use super::feed::{Pixels, bound};
use super::loss::{Loss, Step};
use super::net::{HashModel, Mode};
use super::optim::Optimizer;
use super::tensor_error;
use crate::dataset::Examples;
use crate::error::{Error, Kind, Result};
use candle_core::{Device, Tensor, Var, bail};

/// A network on a device, and what updates it.
pub(super) struct Replica {
    pub(super) model: HashModel,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) device: Device,
}

/// Consecutive images of a batch, or all of them.
pub(super) struct Share {
    pixels: Material,
    count: usize,
    /// How many images of the batch come before these.
    first: usize,
}

/// A share's images, `[count, 3, side, side]`, normalised.
enum Material {
    /// On the host, row-major.
    Numbers(Vec<f32>),
    /// On the device.
    There(Tensor),
}

/// Which step of a training, for what is drawn in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub(super) seed: u64,
    /// From the training's beginning.
    pub(super) step: u64,
}

/// What a loss says of a batch. Nothing of it has been read: it lies where the loss was computed.
pub(super) struct Verdict {
    /// A scalar.
    pub(super) loss: Tensor,
    /// By the logits, `[n, bits]`.
    pub(super) gradient: Tensor,
}

impl Share {
    /// A batch in so many shares, in order; some are empty if there are fewer images.
    ///
    /// # Errors
    /// A batch that was cut into another number of shares.
    pub(super) fn cut(pixels: Pixels, count: usize, parts: usize) -> Result<Vec<Self>> {
        let firsts = (0..parts).map(|part| (bound(count, part, parts), bound(count, part + 1, parts)));
        let materials: Vec<Material> = match pixels {
            Pixels::There(tensors) => tensors.into_iter().map(Material::There).collect(),
            Pixels::Numbers(mut rest) => {
                let size = rest.len() / count.max(1);
                let mut cut: Vec<_> =
                    (1..parts).rev().map(|part| rest.split_off(bound(count, part, parts) * size)).collect();
                cut.push(rest);
                cut.into_iter().rev().map(Material::Numbers).collect()
            }
        };
        if materials.len() != parts {
            return Err(Error::new(Kind::Stage, format!("a batch of {} shares for {parts} devices", materials.len())));
        }
        let share = |(pixels, (first, end))| Self { pixels, count: end - first, first };
        Ok(materials.into_iter().zip(firsts).map(share).collect())
    }
}

impl Replica {
    /// Logits `[count, bits]` of a share, for [`Replica::backward`]; none of an empty one.
    pub(super) fn forward(&self, share: Share, draw: Draw) -> Result<Option<Tensor>> {
        let Share { pixels, count, first } = share;
        if count == 0 {
            return Ok(None);
        }
        let xs = match pixels {
            Material::Numbers(pixels) => self.model.images(pixels, count, &self.device)?,
            Material::There(xs) => xs,
        };
        let mode = Mode::Train { seed: draw.seed, step: draw.step, first };
        self.model.forward(&xs, mode).map(Some).map_err(tensor_error)
    }

    /// Gradients of all parameters, in their order, from the loss's gradient by the logits of the last forward pass. They
    /// may lie in memory that the next backward pass uses again.
    pub(super) fn backward(&self, logits: Option<&Tensor>, gradient: &Tensor) -> candle_core::Result<Vec<Tensor>> {
        let Some(logits) = logits else {
            return self.model.parameters().iter().map(|(_, var)| var.zeros_like()).collect();
        };
        // A number whose gradient by the logits is the given one.
        let gradient = gradient.detach().to_device(&self.device)?;
        self.model.backward(&(logits * gradient)?.sum_all()?)
    }

    /// One update, by gradients on this device or on the host; `factor` is what the optimiser's learning rate is multiplied
    /// by.
    pub(super) fn update(&mut self, gradients: &[Tensor], factor: f64) -> candle_core::Result<()> {
        let gradients = gradients.iter().map(|gradient| gradient.to_device(&self.device));
        self.optimizer.step(&gradients.collect::<candle_core::Result<Vec<_>>>()?, factor)
    }
}

/// Judges the logits of a whole batch.
pub(super) fn judge(
    loss: &mut dyn Loss,
    logits: &Tensor,
    labels: &Tensor,
    index: &[u32],
    step: Step,
) -> candle_core::Result<Verdict> {
    // Gradients end here, so that the way back into the network is a step of its own.
    let logits = Var::from_tensor(&logits.detach())?;
    let value = loss.forward(&logits, labels, index, step)?;
    let Some(gradient) = value.backward()?.remove(&logits) else { bail!("the loss does not depend on the logits") };
    Ok(Verdict { loss: value.detach(), gradient })
}

/// Multi-hot labels of images, `[n, classes]`, on the CPU.
pub(super) fn labels(examples: &dyn Examples, index: &[u32]) -> Result<Tensor> {
    let classes = examples.classes();
    let mut rows = vec![0f32; index.len() * classes];
    for (row, &image) in rows.chunks_exact_mut(classes).zip(index) {
        for &class in examples.labels(image as usize) {
            let Some(cell) = row.get_mut(class as usize) else {
                return Err(Error::data(format!("image {image} has class {class} of {classes}")));
            };
            *cell = 1.0;
        }
    }
    Tensor::from_vec(rows, (index.len(), classes), &Device::Cpu).map_err(tensor_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_batch_cut_in_order() {
        for (count, parts) in [(1, 1), (7, 1), (7, 2), (7, 3), (3, 3), (2, 3), (0, 2)] {
            let pixels: Vec<f32> = (0..count * 4).map(|i| i as f32).collect();
            let shares = Share::cut(Pixels::Numbers(pixels.clone()), count, parts).unwrap();
            assert_eq!(shares.len(), parts);
            let (mut first, mut together) = (0, vec![]);
            for share in shares {
                let Material::Numbers(numbers) = share.pixels else { panic!("they are on the host") };
                assert_eq!((share.first, numbers.len()), (first, share.count * 4), "{count} in {parts}");
                assert!(share.count.abs_diff(count / parts) <= 1);
                first += share.count;
                together.extend(numbers);
            }
            assert_eq!(first, count);
            assert_eq!(together, pixels);
        }
    }
}
