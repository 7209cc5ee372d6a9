//! A compact convolutional network for small images: the `cuda-convnet` of the CIFAR-10 days, with He initialisation.

use super::{Backbone, BuildBackbone, Layer, Operations, check_dropout, operations_of};
use crate::error::{Error, Result};
use crate::kernel::{Conv2d, Input, MaxPool2d, Precision, flatten};
use crate::model::layers::{Conv, Filters, Linear, dropout};
use crate::model::net::How;
use crate::model::parameters::Parameters;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Blocks of convolution, ReLU and overlapping max pooling (3x3, stride 2), then one fully connected layer.
///
/// The first convolution is 5x5, the others 3x3, all keep the side; each pool halves it. Meant for 32 to 64 pixels,
/// but any side will do that leaves each pool its window.
///
/// All of it learns from nothing, so its hash layer should not learn ten times faster: with SGD at `lr = 0.02` and
/// `hash_lr = 1`, and HashNet's `alpha` near 10 / bits, 2,500 pictures of coloured shapes were learnt in 20 epochs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Small {
    /// Filters of each convolution: one block per number.
    #[serde(default = "channels")]
    pub channels: Vec<usize>,
    /// Features: outputs of the fully connected layer.
    #[serde(default = "width")]
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Probability to drop a number before the fully connected layer and after it, while training.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub dropout: f64,
}

fn channels() -> Vec<usize> {
    vec![32, 64, 128]
}

fn width() -> usize {
    256
}

impl Default for Small {
    fn default() -> Self {
        Self { channels: channels(), width: width(), dropout: 0.0 }
    }
}

const POOL: MaxPool2d = MaxPool2d { kernel: 3, stride: 2 };

struct Network {
    convolutions: Vec<Conv>,
    linear: Linear,
    width: usize,
    dropout: f64,
}

impl Small {
    /// Side of the last feature maps.
    fn last_side(&self, side: usize) -> Result<usize> {
        self.channels.iter().try_fold(side, |side, _| POOL.outputs(side)).ok_or_else(|| {
            Error::input(format!("`small` with {} blocks cannot take images of {side} pixels", self.channels.len()))
                .note("each block halves the side, and its pool needs 3 pixels")
                .hint("leave out a number of `channels`, or make `crop` larger")
        })
    }
}

impl BuildBackbone for Small {
    fn check(&self, side: usize) -> Result<()> {
        check_dropout(self.dropout)?;
        if self.channels.is_empty() || self.channels.contains(&0) {
            let message = format!("`channels` needs at least one number, none of them 0: {:?}", self.channels);
            return Err(Error::input(message));
        }
        if self.width == 0 {
            return Err(Error::input("`width` must be at least 1"));
        }
        self.last_side(side).map(|_| ())
    }

    fn layers(&self) -> Option<Vec<Layer>> {
        let convolutions = (0..self.channels.len()).map(|block| {
            let side = if block == 0 { 5 } else { 3 };
            Layer::Conv {
                name: format!("features.{}", 3 * block),
                side,
                stride: 1,
                padding: side / 2,
                pool: Some(POOL),
            }
        });
        let linear = Layer::Linear { name: "classifier.1".into(), relu: true };
        Some(convolutions.chain([Layer::Flatten, linear]).collect())
    }

    fn build(&self, side: usize, params: &mut Parameters) -> Result<Box<dyn Backbone>> {
        self.check(side)?;
        let last = self.last_side(side)?;
        let (mut convolutions, mut channels) = (vec![], 3);
        for (block, &count) in self.channels.iter().enumerate() {
            let side = if block == 0 { 5 } else { 3 };
            let input = if block == 0 { Input::Images } else { Input::Maps };
            let (relu, pool, precision) = (true, Some(POOL), Precision::F32);
            let op = Conv2d { stride: 1, padding: side / 2, relu, pool, input, precision };
            // Numbered as torchvision would: convolution, ReLU, pool.
            convolutions.push(Conv::new(
                params,
                &format!("features.{}", 3 * block),
                Filters { count, channels, side },
                op,
            )?);
            channels = count;
        }
        let linear = Linear::with_relu(params, "classifier.1", self.width, channels * last * last)?;
        Ok(Box::new(Network { convolutions, linear, width: self.width, dropout: self.dropout }))
    }
}

impl Backbone for Network {
    fn features(&self, xs: &Tensor, how: How) -> candle_core::Result<Tensor> {
        let mut xs = xs.clone();
        for convolution in &self.convolutions {
            xs = convolution.forward(&xs, how)?;
        }
        let xs = dropout(&flatten(&xs)?, self.dropout, 0, how.mode)?;
        dropout(&self.linear.forward(&xs, how)?, self.dropout, 1, how.mode)
    }

    fn linears(&self) -> &[Linear] {
        std::slice::from_ref(&self.linear)
    }

    fn operations(&self, side: usize) -> Operations {
        operations_of(&self.convolutions, std::slice::from_ref(&self.linear), side)
    }

    fn width(&self) -> usize {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backbone::BackboneSpec;
    use crate::model::{HashModel, Mode};
    use candle_core::{DType, Device};

    fn model(spec: Small, side: usize) -> Result<HashModel> {
        HashModel::seeded(&BackboneSpec::Small(spec), 12, side, 1, &Device::Cpu)
    }

    #[test]
    fn takes_any_side_that_its_pools_can_halve() {
        for side in [15, 32, 33, 48, 64] {
            let model = model(Small::default(), side).unwrap();
            let xs = Tensor::ones((2, 3, side, side), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(model.forward(&xs, Mode::Eval).unwrap().dims(), [2, 12]);
        }
        assert!(model(Small::default(), 14).is_err());
    }

    #[test]
    fn parameters_that_make_no_network_are_refused() {
        for wrong in [
            Small { channels: vec![], ..Small::default() },
            Small { channels: vec![8, 0], ..Small::default() },
            Small { width: 0, ..Small::default() },
            Small { dropout: 1.0, ..Small::default() },
        ] {
            assert!(model(wrong, 32).is_err());
        }
    }
}
