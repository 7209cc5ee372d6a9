//! A network with a batch of noise, to be run again and again: what `hashpipe bench` measures.

use super::backbone::{BackboneSpec, Operations};
use super::loss::{Loss, LossSpec, Sizes, Step};
use super::net::{HashModel, Mode};
use super::optim::{Optimizer, OptimizerSpec};
use super::tensor_error;
use crate::error::Result;
use crate::kernel::{Precision, floor};
use crate::seeded::stream;
use candle_core::{DType, Device, Tensor};
use std::time::Instant;

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
    pub fn new(
        backbone: &BackboneSpec,
        bits: usize,
        side: usize,
        batch: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        backbone.builder().check(side)?;
        let model = HashModel::seeded(backbone, bits, side, 1, device)?.in_precision(precision);
        let loss = LossSpec::HashNet(Default::default());
        let loss = loss.builder().build(Sizes { images: batch, classes: CLASSES, bits })?;
        let sgd: OptimizerSpec =
            serde_json::from_str(r#"{"name": "sgd", "lr": 0.001}"#).expect("its one parameter is there");
        let optimizer = sgd.builder().build(model.parameters())?;
        let mut draw = stream(1, "probe", &[]);
        let pixels = (0..batch * 3 * side * side).map(|_| draw.range(-2.0, 2.0) as f32).collect();
        let images = model.images(pixels, batch, device)?;
        let labels = (0..batch * CLASSES).map(|i| f32::from(i % CLASSES == (i / CLASSES) % 2)).collect();
        let labels = Tensor::from_vec(labels, (batch, CLASSES), device).map_err(tensor_error)?;
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

    /// Bytes of all parameters.
    pub fn parameter_bytes(&self) -> f64 {
        self.model.parameters().iter().map(|(_, var)| var.elem_count() * var.dtype().size_in_bytes()).sum::<usize>()
            as f64
    }

    /// Waits until all that was asked for is done: a GPU works while the program goes on.
    pub fn synchronise(&self) -> Result<()> {
        self.images.device().synchronize().map_err(tensor_error)
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

/// What a device does at most: one large product of matrices, and one large copy, by the libraries' own functions.
pub struct Limits {
    factors: [Tensor; 2],
    bytes: Tensor,
    precision: Precision,
}

/// What a device did at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Multiplications and additions per second.
    pub operations: f64,
    /// Bytes read and bytes written per second, together.
    pub bytes: f64,
}

impl Limits {
    /// For products that round their factors to this. Sizes are doubled until the work takes long enough for all of a GPU
    /// to be busy: matrices of 256 to 8192 rows, and 4 MiB to 1 GiB.
    ///
    /// # Errors
    /// If the device has no memory for it: up to 2.5 GiB on a GPU.
    pub fn new(precision: Precision, device: &Device) -> Result<Self> {
        let number = if precision == Precision::Bf16 && !device.is_cpu() { DType::BF16 } else { DType::F32 };
        let make = || {
            let factors = grown(256, 8192, |side| {
                let factor = || Tensor::ones((side, side), number, device);
                let factors = [factor()?, factor()?];
                let took = in_products(precision, || seconds(device, || factors[0].matmul(&factors[1])))?;
                Ok((factors, took))
            })?;
            let bytes = grown(1 << 20, 1 << 28, |numbers| {
                let bytes = Tensor::zeros(numbers, DType::F32, device)?;
                let took = seconds(device, || bytes.copy())?;
                Ok((bytes, took))
            })?;
            candle_core::Result::Ok(Self { factors, bytes, precision })
        };
        make().map_err(tensor_error)
    }

    /// Measures; some milliseconds on a GPU.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rates(&self) -> Result<Rates> {
        let device = self.bytes.device();
        let [left, right] = &self.factors;
        let product = in_products(self.precision, || seconds(device, || left.matmul(right))).map_err(tensor_error)?;
        let copy = seconds(device, || self.bytes.copy()).map_err(tensor_error)?;
        let numbers = left.elem_count() as f64;
        Ok(Rates {
            operations: 2.0 * numbers * numbers.sqrt() / product,
            bytes: 2.0 * (self.bytes.elem_count() * size_of::<f32>()) as f64 / copy,
        })
    }
}

/// What is made of the smallest size at which it takes long enough, or of the largest; sizes are doubled.
fn grown<T>(
    least: usize,
    most: usize,
    make: impl Fn(usize) -> candle_core::Result<(T, f64)>,
) -> candle_core::Result<T> {
    const ENOUGH: f64 = 2e-3;
    let mut size = least;
    loop {
        let (made, took) = make(size)?;
        if took >= ENOUGH || size >= most {
            return Ok(made);
        }
        size *= 2;
    }
}

/// Seconds that some work takes on a device, on average of several times behind each other; the first does not count.
fn seconds(device: &Device, work: impl Fn() -> candle_core::Result<Tensor>) -> candle_core::Result<f64> {
    const TIMES: usize = 4;
    work()?;
    device.synchronize()?;
    let began = Instant::now();
    for _ in 0..TIMES {
        work()?;
    }
    device.synchronize()?;
    Ok(began.elapsed().as_secs_f64().max(1e-9) / TIMES as f64)
}

/// Does something while candle's products of f32 on GPUs take factors of this precision.
fn in_products<T>(precision: Precision, work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "cuda")]
    {
        use candle_core::cuda_backend::{gemm_reduced_precision_f32, set_gemm_reduced_precision_f32};
        let before = gemm_reduced_precision_f32();
        set_gemm_reduced_precision_f32(precision == Precision::Tf32);
        let done = work();
        set_gemm_reduced_precision_f32(before);
        done
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = precision;
        work()
    }
}

/// Multiplications and additions that this thread pool does of nothing else, in some milliseconds; returns how many.
pub fn multiply(precision: Precision) -> f64 {
    floor::multiply(precision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_does_something() {
        let rates = Limits::new(Precision::F32, &Device::Cpu).unwrap().rates().unwrap();
        assert!(rates.operations > 0.0 && rates.bytes > 0.0, "{rates:?}");
    }
}
