//! AlexNet out of candle's own operations, as one would write it without this crate: the peer that `--plain` times.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module as _, Optimizer as _, SGD, VarBuilder, VarMap};

/// Channels in and out, side, stride, padding, and whether a pool follows.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize, bool); 5] = [
    (3, 64, 11, 4, 2, true),
    (64, 192, 5, 1, 2, true),
    (192, 384, 3, 1, 1, false),
    (384, 256, 3, 1, 1, false),
    (256, 256, 3, 1, 1, true),
];

pub(crate) struct Plain {
    convolutions: Vec<Conv2d>,
    linears: Vec<Linear>,
    sgd: SGD,
}

impl Plain {
    /// With drawn weights and 64 outputs.
    pub(crate) fn new() -> Result<Self> {
        let weights = VarMap::new();
        let root = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
        let convolution = |(i, (inputs, outputs, side, stride, padding, _))| {
            let config = Conv2dConfig { stride, padding, ..Conv2dConfig::default() };
            candle_nn::conv2d(inputs, outputs, side, config, root.pp(format!("convolution{i}")))
        };
        let linear = |(i, (inputs, outputs))| candle_nn::linear(inputs, outputs, root.pp(format!("linear{i}")));
        Ok(Self {
            convolutions: CONVOLUTIONS.into_iter().enumerate().map(convolution).collect::<Result<_>>()?,
            linears: [(9216, 4096), (4096, 4096), (4096, 64)]
                .into_iter()
                .enumerate()
                .map(linear)
                .collect::<Result<_>>()?,
            // Without momentum, which candle's does not have: less work than ours.
            sgd: SGD::new(weights.all_vars(), 1e-6)?,
        })
    }

    /// Logits of images `[n, 3, 224, 224]`.
    pub(crate) fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (convolution, (.., pooled)) in self.convolutions.iter().zip(CONVOLUTIONS) {
            xs = convolution.forward(&xs)?.relu()?;
            xs = match (pooled, train) {
                (true, true) => pool_with_gradient(&xs)?,
                (true, false) => xs.max_pool2d_with_stride(3, 2)?,
                (false, _) => xs,
            };
        }
        xs = xs.flatten_from(1)?;
        let [first, second, last] = self.linears.as_slice() else { unreachable!("three layers") };
        for linear in [first, second] {
            if train {
                xs = candle_nn::ops::dropout(&xs, 0.5)?;
            }
            xs = linear.forward(&xs)?.relu()?;
        }
        last.forward(&xs)
    }

    /// Forward, backward, update.
    pub(crate) fn step(&mut self, xs: &Tensor) -> Result<()> {
        let loss = self.forward(xs, true)?.sqr()?.mean_all()?;
        self.sgd.backward_step(&loss)
    }
}

/// Windows of 3, 2 apart. candle's own max pooling has no gradient where windows overlap.
fn pool_with_gradient(xs: &Tensor) -> Result<Tensor> {
    let along = |xs: &Tensor, dimension: usize| {
        let outputs = (xs.dim(dimension)? - 3) / 2 + 1;
        let place = |first: u32| {
            let places: Vec<u32> = (0..outputs as u32).map(|i| first + 2 * i).collect();
            xs.index_select(&Tensor::new(places, xs.device())?, dimension)
        };
        place(0)?.maximum(&place(1)?)?.maximum(&place(2)?)
    };
    along(&along(xs, 2)?, 3)
}
