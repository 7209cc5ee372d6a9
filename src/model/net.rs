//! The whole network: a backbone and the layer of hash functions.

use super::backbone::{Backbone, BackboneSpec};
use super::layers::Linear;
use super::parameters::{Parameters, Source, draw};
use super::tensor_error;
use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

/// The hash layer's name, which its parameters' names begin with.
pub(super) const HASH_LAYER: &str = "hash";

/// The longest code: longer ones are typing errors, and a lying file must not make us allocate.
const MAX_BITS: usize = 1024;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No dropout, nothing recorded for gradients.
    Eval,
    /// Dropout with masks named by the training's seed and step.
    Train { seed: u64, step: u64 },
}

/// A backbone and a linear layer of hash functions on its features. A code's bit is the sign of its logit.
pub struct HashModel {
    backbone: Box<dyn Backbone>,
    hash: Linear,
    parameters: Vec<(String, Var)>,
    bits: usize,
    side: usize,
}

impl HashModel {
    /// A network with drawn weights, for images of `side` pixels.
    pub fn seeded(spec: &BackboneSpec, bits: usize, side: usize, seed: u64, device: &Device) -> Result<Self> {
        let mut source = |name: &str, shape: &[usize], init| Ok(draw(seed, name, shape, init));
        Self::build(spec, bits, side, device, &mut source)
    }

    /// A network whose weights come from `source`, by name and shape.
    pub(super) fn build<'a>(
        spec: &BackboneSpec,
        bits: usize,
        side: usize,
        device: &'a Device,
        source: &'a mut Source<'a>,
    ) -> Result<Self> {
        if !device.is_cpu() {
            return Err(Error::input("the network's operations run on the CPU only").hint("leave out `--gpus`"));
        }
        if bits == 0 || bits > MAX_BITS {
            return Err(Error::input(format!("a code has 1 to {MAX_BITS} bits, not {bits}")));
        }
        let mut params = Parameters::new(device, source);
        let backbone = spec.builder().build(side, &mut params)?;
        let hash = Linear::hash(&mut params, HASH_LAYER, bits, backbone.width())?;
        Ok(Self { backbone, hash, parameters: params.into_named(), bits, side })
    }

    /// Logits `[n, bits]` of images `[n, 3, side, side]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        self.hash.forward(&self.backbone.features(xs, mode)?, mode)
    }

    /// Gradients of all parameters, of a loss on the logits of the last forward pass.
    ///
    /// Those of linear layers lie in memory that the next backward pass uses again.
    pub fn backward(&self, loss: &Tensor) -> candle_core::Result<GradStore> {
        let mut gradients = loss.backward()?;
        for linear in self.backbone.linears().iter().chain([&self.hash]) {
            if let Some((weight, gradient)) = linear.kept_gradient() {
                gradients.insert(weight, gradient);
            }
        }
        Ok(gradients)
    }

    /// The images' pixels as the tensor that `forward` takes.
    pub(super) fn images(&self, pixels: Vec<f32>, count: usize, device: &Device) -> Result<Tensor> {
        Tensor::from_vec(pixels, (count, 3, self.side, self.side), device).map_err(tensor_error)
    }

    /// All parameters by name, in the order of the layers.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// Length of the codes.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Side of the images, in pixels.
    pub fn side(&self) -> usize {
        self.side
    }
}

/// Whether a parameter belongs to the hash layer.
pub(super) fn is_of_hash_layer(name: &str) -> bool {
    name.strip_prefix(HASH_LAYER).is_some_and(|rest| rest.starts_with('.'))
}
