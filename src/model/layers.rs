//! Layers of a network: parameters from [`Parameters`], arithmetic from `kernel`.

use super::backbone::Operations;
use super::net::{How, Mode};
use super::parameters::{Init, Parameters};
use crate::error::Result;
use crate::kernel::{self, GradientSink};
use candle_core::{Tensor, Var};

/// A convolution with bias, ReLU and whatever else its operation says.
pub(super) struct Conv {
    weight: Var,
    bias: Var,
    op: kernel::Conv2d,
}

/// Sizes of a convolution's weights.
#[derive(Clone, Copy)]
pub(super) struct Filters {
    pub(super) count: usize,
    pub(super) channels: usize,
    pub(super) side: usize,
}

impl Conv {
    /// Adds `{name}.weight` `[count, channels, side, side]` and `{name}.bias`.
    pub(super) fn new(params: &mut Parameters, name: &str, filters: Filters, op: kernel::Conv2d) -> Result<Self> {
        let Filters { count, channels, side } = filters;
        let init = Init::He { fan_in: channels * side * side };
        let weight = params.add(format!("{name}.weight"), &[count, channels, side, side], init)?;
        let bias = params.add(format!("{name}.bias"), &[count], Init::Zero)?;
        Ok(Self { weight, bias, op })
    }

    pub(super) fn forward(&self, xs: &Tensor, how: How) -> candle_core::Result<Tensor> {
        let op = kernel::Conv2d { precision: how.precision, ..self.op };
        op.apply(xs, &value(&self.weight, how.mode), &value(&self.bias, how.mode))
    }

    /// Multiplications and additions for an image of `side` pixels or places, and the side of what comes out.
    pub(super) fn operations(&self, side: usize) -> (Operations, usize) {
        let kernel::Conv2d { stride, padding, pool, input, .. } = self.op;
        let kernel = self.weight.dims()[3];
        let places = (side + 2 * padding).saturating_sub(kernel) / stride + 1;
        let forward = 2.0 * (places * places * self.weight.elem_count()) as f64;
        // Images need no gradient.
        let training = if input == kernel::Input::Images { 2.0 * forward } else { 3.0 * forward };
        let out = pool.map_or(places, |pool| pool.outputs(places).unwrap_or(0));
        (Operations { forward, training }, out)
    }
}

/// A linear layer with bias, and ReLU where asked.
pub struct Linear {
    weight: Var,
    bias: Var,
    op: kernel::Linear,
}

impl Linear {
    /// Adds `{name}.weight` `[outputs, inputs]` and `{name}.bias`; ReLU follows.
    pub(super) fn with_relu(params: &mut Parameters, name: &str, outputs: usize, inputs: usize) -> Result<Self> {
        Self::new(params, name, [outputs, inputs], Init::He { fan_in: inputs }, true)
    }

    /// The layer of hash functions: small weights, so that training starts where tanh is steep. No ReLU.
    pub(super) fn hash(params: &mut Parameters, name: &str, outputs: usize, inputs: usize) -> Result<Self> {
        Self::new(params, name, [outputs, inputs], Init::Normal { std: 0.01 }, false)
    }

    fn new(params: &mut Parameters, name: &str, shape: [usize; 2], init: Init, relu: bool) -> Result<Self> {
        let weight = params.add(format!("{name}.weight"), &shape, init)?;
        let bias = params.add(format!("{name}.bias"), &shape[..1], Init::Zero)?;
        Ok(Self {
            weight,
            bias,
            op: kernel::Linear { relu, sink: Some(GradientSink::default()), precision: kernel::Precision::F32 },
        })
    }

    /// The weights with the gradient that the last backward pass kept from candle.
    pub(super) fn kept_gradient(&self) -> Option<(&Var, Tensor)> {
        Some((&self.weight, self.op.sink.as_ref()?.get()?))
    }

    pub(super) fn forward(&self, xs: &Tensor, how: How) -> candle_core::Result<Tensor> {
        let op = kernel::Linear { precision: how.precision, ..self.op.clone() };
        xs.apply_op3(&value(&self.weight, how.mode), &value(&self.bias, how.mode), op)
    }

    /// Multiplications and additions of a forward pass of an image.
    pub(super) fn operations(&self) -> f64 {
        2.0 * self.weight.elem_count() as f64
    }
}

/// A parameter as the mode needs it: outside training nothing is recorded, and memory is freed layer by layer.
fn value(var: &Var, mode: Mode) -> Tensor {
    match mode {
        Mode::Eval => var.as_detached_tensor(),
        Mode::Train { .. } => var.as_tensor().clone(),
    }
}

/// Dropout in training; `layer` tells the places of one network apart.
pub(super) fn dropout(xs: &Tensor, p: f64, layer: u64, mode: Mode) -> candle_core::Result<Tensor> {
    match mode {
        Mode::Train { seed, step, first } if p > 0.0 => {
            let row = xs.elem_count() / xs.dim(0)?.max(1);
            xs.apply_op1(kernel::Dropout { p, seed, step, layer, first: first * row })
        }
        _ => Ok(xs.clone()),
    }
}
