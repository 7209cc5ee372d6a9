//! Networks from images to features; the hash layer is added by [`super::HashModel`].

pub mod alexnet;
pub mod small;

use super::layers::{Conv, Linear};
use super::net::How;
use super::parameters::Parameters;
use crate::choices;
use crate::error::{Error, Result};
use crate::kernel::MaxPool2d;
use candle_core::Tensor;

/// Features of images.
pub trait Backbone: Send + Sync {
    /// `[n, 3, side, side]` to `[n, width]`.
    fn features(&self, xs: &Tensor, how: How) -> candle_core::Result<Tensor>;

    /// The linear layers, whose gradients are kept from candle.
    fn linears(&self) -> &[Linear];

    /// Multiplications and additions for an image of `side` pixels.
    fn operations(&self, side: usize) -> Operations;

    /// Numbers per image.
    fn width(&self) -> usize;
}

/// Multiplications and additions of one image, of a forward pass and of a training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operations {
    pub forward: f64,
    pub training: f64,
}

/// Those of convolutions one after the other, and of linear layers after them.
fn operations_of(convolutions: &[Conv], linears: &[Linear], side: usize) -> Operations {
    let linear: f64 = linears.iter().map(Linear::operations).sum();
    let mut sum = Operations { forward: linear, training: 3.0 * linear };
    let mut side = side;
    for convolution in convolutions {
        let (own, out) = convolution.operations(side);
        (sum.forward, sum.training, side) = (sum.forward + own.forward, sum.training + own.training, out);
    }
    sum
}

/// Builds a backbone out of its parameters in the pipeline file.
pub trait BuildBackbone {
    /// Whether parameters and image side make a network.
    fn check(&self, side: usize) -> Result<()>;

    /// Its layers in order, for programs that run it elsewhere; `None` if they are not a chain of these.
    fn layers(&self) -> Option<Vec<Layer>> {
        None
    }

    /// For images of `side` pixels; the weights are added to `params` under the backbone's own names.
    fn build(&self, side: usize, params: &mut Parameters) -> Result<Box<dyn Backbone>>;
}

/// A layer of a backbone that is a chain of layers. Weights are `{name}.weight` and `{name}.bias`.
#[derive(Debug, Clone)]
pub enum Layer {
    /// A convolution with square filters of `side`, ReLU behind it, and a pool behind that.
    Conv { name: String, side: usize, stride: usize, padding: usize, pool: Option<MaxPool2d> },
    /// Maps to rows of numbers, channel after channel.
    Flatten,
    /// A linear layer, and ReLU behind it where asked.
    Linear { name: String, relu: bool },
}

choices! {
    /// What `backbone = { name = ".." }` may be.
    pub enum BackboneSpec: BuildBackbone {
        AlexNet(alexnet::AlexNet) = "alexnet",
        Small(small::Small) = "small",
    }
}

/// Refuses what is no probability to drop with.
fn check_dropout(p: f64) -> Result<()> {
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    Err(Error::input(format!("`dropout` must be at least 0 and below 1, not {p}")))
}
