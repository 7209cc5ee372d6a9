//! AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick"), up to its second fully connected layer.

use super::{Backbone, BuildBackbone, Layer, Operations, check_dropout, operations_of};
use crate::error::{Error, Result};
use crate::kernel::{Conv2d, Input, MaxPool2d, Precision, flatten};
use crate::model::layers::{Conv, Filters, Linear, dropout};
use crate::model::net::How;
use crate::model::parameters::Parameters;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// AlexNet without its last layer: 4,096 features of images of 224 pixels. 57 million weights.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlexNet {
    /// Probability to drop a number before each fully connected layer, while training.
    #[serde(default = "half")]
    #[schemars(range(min = 0, max = 1))]
    pub dropout: f64,
}

fn half() -> f64 {
    0.5
}

impl Default for AlexNet {
    fn default() -> Self {
        Self { dropout: half() }
    }
}

const WIDTH: usize = 4096;

/// Side of the last feature maps; torchvision pools any other to it, the reference and we accept no other.
const LAST_SIDE: usize = 6;

const POOL: MaxPool2d = MaxPool2d { kernel: 3, stride: 2 };

/// The convolutions: position in torchvision's `features`, filters, side, stride, padding, and whether a pool follows.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize, bool); 5] = [
    (0, 64, 11, 4, 2, true),
    (3, 192, 5, 1, 2, true),
    (6, 384, 3, 1, 1, false),
    (8, 256, 3, 1, 1, false),
    (10, 256, 3, 1, 1, true),
];

struct Network {
    convolutions: Vec<Conv>,
    /// `classifier.1` and `classifier.4`.
    linears: [Linear; 2],
    dropout: f64,
}

/// Side of the last feature maps for images of `side` pixels; 0 if a window does not fit.
fn last_side(side: usize) -> usize {
    CONVOLUTIONS.iter().fold(side, |side, &(_, _, kernel, stride, padding, pooled)| {
        let Some(side) = (side + 2 * padding).checked_sub(kernel).map(|rest| rest / stride + 1) else { return 0 };
        if pooled { POOL.outputs(side).unwrap_or(0) } else { side }
    })
}

impl BuildBackbone for AlexNet {
    fn check(&self, side: usize) -> Result<()> {
        check_dropout(self.dropout)?;
        if last_side(side) != LAST_SIDE {
            return Err(Error::input(format!("`alexnet` cannot take images of {side} pixels"))
                .note(format!("its last feature maps would have side {} and not {LAST_SIDE}", last_side(side)))
                .hint("set `crop = 224` and `resize = 256` in the transform"));
        }
        Ok(())
    }

    fn layers(&self) -> Option<Vec<Layer>> {
        let convolutions = CONVOLUTIONS.map(|(position, _, side, stride, padding, pooled)| {
            let name = format!("features.{position}");
            Layer::Conv { name, side, stride, padding, pool: pooled.then_some(POOL) }
        });
        let linears = [1, 4].map(|position| Layer::Linear { name: format!("classifier.{position}"), relu: true });
        Some(convolutions.into_iter().chain([Layer::Flatten]).chain(linears).collect())
    }

    fn build(&self, side: usize, params: &mut Parameters) -> Result<Box<dyn Backbone>> {
        self.check(side)?;
        let (mut convolutions, mut channels) = (vec![], 3);
        for (position, count, side, stride, padding, pooled) in CONVOLUTIONS {
            let input = if position == 0 { Input::Images } else { Input::Maps };
            let op =
                Conv2d { stride, padding, relu: true, pool: pooled.then_some(POOL), input, precision: Precision::F32 };
            let filters = Filters { count, channels, side };
            convolutions.push(Conv::new(params, &format!("features.{position}"), filters, op)?);
            channels = count;
        }
        let linears = [
            Linear::with_relu(params, "classifier.1", WIDTH, channels * LAST_SIDE * LAST_SIDE)?,
            Linear::with_relu(params, "classifier.4", WIDTH, WIDTH)?,
        ];
        Ok(Box::new(Network { convolutions, linears, dropout: self.dropout }))
    }
}

impl Backbone for Network {
    fn features(&self, xs: &Tensor, how: How) -> candle_core::Result<Tensor> {
        let mut xs = xs.clone();
        for convolution in &self.convolutions {
            xs = convolution.forward(&xs, how)?;
        }
        xs = flatten(&xs)?;
        for (layer, linear) in self.linears.iter().enumerate() {
            xs = linear.forward(&dropout(&xs, self.dropout, layer as u64, how.mode)?, how)?;
        }
        Ok(xs)
    }

    fn linears(&self) -> &[Linear] {
        &self.linears
    }

    fn operations(&self, side: usize) -> Operations {
        operations_of(&self.convolutions, &self.linears, side)
    }

    fn width(&self) -> usize {
        WIDTH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_published_network() {
        let spec = crate::model::backbone::BackboneSpec::AlexNet(AlexNet::default());
        let model = crate::model::HashModel::seeded(&spec, 64, 224, 1, &candle_core::Device::Cpu).unwrap();
        let Operations { forward, training } = model.operations();
        // 710.4 million multiplications and as many additions; no gradient goes to the images.
        assert!((forward - 1.4208e9).abs() < 1e6 && (training - 3.0 * forward + 140.6e6).abs() < 1e5, "{forward}");
    }

    #[test]
    fn takes_the_sides_that_end_in_six() {
        assert_eq!([224, 227, 256, 32, 1].map(last_side), [6, 6, 7, 0, 0]);
    }
}
