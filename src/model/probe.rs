//! A network with a batch of noise, to be run again and again: what `hashpipe bench` measures.

use super::backbone::{BackboneSpec, Operations};
use super::loss::{Loss, LossSpec, Sizes, Step};
use super::net::{HashModel, Mode};
use super::optim::{Optimizer, OptimizerSpec};
use super::tensor_error;
use crate::error::Result;
use crate::kernel::{Precision, floor};
use crate::seeded::stream;
use candle_core::{Device, Tensor};

/// Classes of the noise.
const CLASSES: usize = 80;

/// A network, what it learns with, and one batch.
pub struct Probe {
    model: HashModel,
    loss: Box<dyn Loss>,
    optimizer: Box<dyn Optimizer>,
    images: Tensor,
    /// `[batch, classes]`.
    labels: Tensor,
    index: Vec<u32>,
    steps: u64,
}

impl Probe {
    /// Drawn weights, drawn pixels, and labels of which about half the pairs share one.
    ///
    /// # Errors
    /// If backbone, bits and side make no network.
    pub fn new(backbone: &BackboneSpec, bits: usize, side: usize, batch: usize, precision: Precision) -> Result<Self> {
        let device = Device::Cpu;
        backbone.builder().check(side)?;
        let model = HashModel::seeded(backbone, bits, side, 1, &device)?.in_precision(precision);
        let loss = LossSpec::HashNet(Default::default());
        let loss = loss.builder().build(Sizes { images: batch, classes: CLASSES, bits })?;
        let sgd: OptimizerSpec =
            serde_json::from_str(r#"{"name": "sgd", "lr": 0.001}"#).expect("its one parameter is there");
        let optimizer = sgd.builder().build(model.parameters())?;
        let mut draw = stream(1, "probe", &[]);
        let pixels = (0..batch * 3 * side * side).map(|_| draw.range(-2.0, 2.0) as f32).collect();
        let images = model.images(pixels, batch, &device)?;
        let labels = (0..batch * CLASSES).map(|i| f32::from(i % CLASSES == (i / CLASSES) % 2)).collect();
        let labels = Tensor::from_vec(labels, (batch, CLASSES), &device).map_err(tensor_error)?;
        let index = (0..u32::try_from(batch).unwrap_or(u32::MAX)).collect();
        Ok(Self { model, loss, optimizer, images, labels, index, steps: 0 })
    }

    /// Makes the batch's logits.
    pub fn forward(&self) -> Result<()> {
        self.model.forward(&self.images, Mode::Eval).map(drop).map_err(tensor_error)
    }

    /// Multiplications and additions of one image.
    pub fn operations(&self) -> Operations {
        self.model.operations()
    }

    /// One training step.
    pub fn train(&mut self) -> Result<()> {
        self.step().map_err(tensor_error)
    }

    fn step(&mut self) -> candle_core::Result<()> {
        self.steps += 1;
        let logits = self.model.forward(&self.images, Mode::Train { seed: 1, step: self.steps, first: 0 })?;
        let loss = self.loss.forward(&logits, &self.labels, &self.index, Step { epoch: 1 })?;
        // No update at all would be optimised for; one that matters could make the weights anything.
        self.optimizer.step(&self.model.backward(&loss)?, 1e-6)
    }
}

/// Multiplications and additions that this thread pool does of nothing else, in some milliseconds; returns how many.
pub fn multiply(precision: Precision) -> f64 {
    floor::multiply(precision)
}
