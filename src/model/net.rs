//! The whole network: a backbone and the layer of hash functions.

use super::backbone::{Backbone, BackboneSpec, Operations};
use super::layers::Linear;
use super::parameters::{Parameters, Source, draw};
use super::tensor_error;
use crate::error::{Error, Result};
use crate::kernel::{Precision, evenly};
use candle_core::{Device, Tensor, Var, bail};

/// The hash layer's name, which its parameters' names begin with.
pub(super) const HASH_LAYER: &str = "hash";

/// The longest code: longer ones are typing errors, and a lying file must not make us allocate.
const MAX_BITS: usize = 1024;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No dropout, nothing recorded for gradients.
    Eval,
    /// Dropout with masks named by the training's seed and step. The images are a batch from its image `first` on: 0,
    /// unless they are a share of it.
    Train { seed: u64, step: u64, first: usize },
}

/// How a network is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    pub mode: Mode,
    /// What products round their factors to.
    pub precision: Precision,
}

/// A backbone and a linear layer of hash functions on its features. A code's bit is the sign of its logit.
pub struct HashModel {
    backbone: Box<dyn Backbone>,
    hash: Linear,
    parameters: Vec<(String, Var)>,
    bits: usize,
    side: usize,
    precision: Precision,
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
        if bits == 0 || bits > MAX_BITS {
            return Err(Error::input(format!("a code has 1 to {MAX_BITS} bits, not {bits}")));
        }
        let mut params = Parameters::new(device, source);
        let backbone = spec.builder().build(side, &mut params)?;
        let hash = Linear::hash(&mut params, HASH_LAYER, bits, backbone.width())?;
        Ok(Self { backbone, hash, parameters: params.into_named(), bits, side, precision: Precision::F32 })
    }

    /// The same network, whose backbone computes in this precision; its weights stay as they are.
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Logits `[n, bits]` of images `[n, 3, side, side]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        let forward = |xs: &Tensor| {
            let features = self.backbone.features(xs, How { mode, precision: self.precision })?;
            // A small part of the work, and the one that decides bits.
            self.hash.forward(&features, How { mode, precision: Precision::F32 })
        };
        match mode {
            Mode::Eval => evenly(xs, &forward),
            Mode::Train { .. } => forward(xs),
        }
    }

    /// Multiplications and additions of one image.
    pub fn operations(&self) -> Operations {
        let hash = self.hash.operations();
        let Operations { forward, training } = self.backbone.operations(self.side);
        Operations { forward: forward + hash, training: training + 3.0 * hash }
    }

    /// Gradients of all parameters, in their order, of a loss on the logits of the last forward pass.
    ///
    /// Those of linear layers lie in memory that the next backward pass uses again.
    pub fn backward(&self, loss: &Tensor) -> candle_core::Result<Vec<Tensor>> {
        let mut gradients = loss.backward()?;
        for linear in self.backbone.linears().iter().chain([&self.hash]) {
            if let Some((weight, gradient)) = linear.kept_gradient() {
                gradients.insert(weight, gradient);
            }
        }
        let of = |(name, var): &(String, Var)| match gradients.remove(var) {
            Some(gradient) => Ok(gradient),
            None => bail!("no gradient for {name}"),
        };
        self.parameters.iter().map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backbone::small::Small;
    use crate::seeded::stream;

    const IMAGES: usize = 3;
    const SIDE: usize = 19;

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut draw = stream(seed, "test", &[]);
        (0..len).map(|_| draw.range(-1.0, 1.0) as f32).collect()
    }

    fn network(precision: Precision) -> HashModel {
        let spec = BackboneSpec::Small(Small { channels: vec![5, 7], width: 9, dropout: 0.0 });
        let model = HashModel::seeded(&spec, 6, SIDE, 3, &Device::Cpu).unwrap().in_precision(precision);
        for (i, (_, var)) in model.parameters().iter().enumerate() {
            // Biases begin at 0, and the hash layer's weights near it.
            let shaken = Tensor::from_vec(numbers(10 + i as u64, var.elem_count()), var.shape(), &Device::Cpu).unwrap();
            var.set(&(var.as_tensor() + (shaken * 0.1).unwrap()).unwrap()).unwrap();
        }
        model
    }

    /// Maps `[c, h, w]` in f64.
    struct Maps {
        values: Vec<f64>,
        channels: usize,
        side: usize,
    }

    impl Maps {
        fn at(&self, channel: usize, y: isize, x: isize) -> f64 {
            let inside = |i: isize| usize::try_from(i).ok().filter(|&i| i < self.side);
            let place = inside(y).zip(inside(x));
            place.map_or(0.0, |(y, x)| self.values[(channel * self.side + y) * self.side + x])
        }

        fn of(channels: usize, side: usize, value: impl Fn(usize, isize, isize) -> f64) -> Self {
            let place = |i: usize| (i / side / side, (i / side % side) as isize, (i % side) as isize);
            let values = (0..channels * side * side).map(place).map(|(channel, y, x)| value(channel, y, x)).collect();
            Self { values, channels, side }
        }
    }

    fn linear(xs: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let rows = weight.chunks_exact(xs.len()).zip(bias);
        rows.map(|(row, b)| b + row.iter().zip(xs).map(|(w, x)| w * x).sum::<f64>()).collect()
    }

    /// The network's twin in f64, written down by definition: logits of one image.
    fn twin(parameters: &[Vec<f64>], image: &[f32]) -> Vec<f64> {
        let mut maps = Maps { values: image.iter().map(|&x| f64::from(x)).collect(), channels: 3, side: SIDE };
        let [convolutions @ .., width, width_bias, hash, hash_bias] = parameters else { panic!("layers") };
        for (layer, pair) in convolutions.chunks_exact(2).enumerate() {
            let (weight, bias, kernel) = (&pair[0], &pair[1], if layer == 0 { 5 } else { 3 });
            let convolved = Maps::of(bias.len(), maps.side, |filter, y, x| {
                let window = Maps::of(maps.channels, kernel, |channel, ky, kx| {
                    let half = kernel as isize / 2;
                    maps.at(channel, y + ky - half, x + kx - half)
                });
                let filter = (&weight[filter * window.values.len()..], bias[filter]);
                (filter.1 + window.values.iter().zip(filter.0).map(|(x, w)| x * w).sum::<f64>()).max(0.0)
            });
            maps = Maps::of(bias.len(), (maps.side - 3) / 2 + 1, |channel, y, x| {
                let places = (0..9).map(|i| convolved.at(channel, 2 * y + i / 3, 2 * x + i % 3));
                places.fold(f64::NEG_INFINITY, f64::max)
            });
        }
        let features: Vec<f64> = linear(&maps.values, width, width_bias).iter().map(|x| x.max(0.0)).collect();
        linear(&features, hash, hash_bias)
    }

    /// The network's numbers and gradients beside those of its twin: by how much they differ at most, in parts of the
    /// largest. Gradients are compared along three directions of each parameter.
    fn apart(precision: Precision) -> (f64, f64) {
        const STEP: f64 = 1e-6;
        let model = network(precision);
        let images = numbers(1, IMAGES * 3 * SIDE * SIDE);
        let weights = numbers(2, IMAGES * model.bits());
        let xs = model.images(images.clone(), IMAGES, &Device::Cpu).unwrap();
        let logits = model.forward(&xs, Mode::Train { seed: 0, step: 0, first: 0 }).unwrap();
        let weighted = (&logits * Tensor::from_vec(weights.clone(), logits.shape(), &Device::Cpu).unwrap()).unwrap();
        let gradients = model.backward(&weighted.sum_all().unwrap()).unwrap();

        let of = |tensor: &Tensor| -> Vec<f64> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            values.into_iter().map(f64::from).collect()
        };
        let parameters: Vec<Vec<f64>> = model.parameters().iter().map(|(_, var)| of(var)).collect();
        let all = |parameters: &[Vec<f64>]| -> Vec<f64> {
            images.chunks_exact(3 * SIDE * SIDE).flat_map(|image| twin(parameters, image)).collect()
        };
        let total = |parameters: &[Vec<f64>]| -> f64 {
            all(parameters).iter().zip(&weights).map(|(logit, &weight)| logit * f64::from(weight)).sum()
        };
        let expected = all(&parameters);
        let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
        let far = of(&logits).iter().zip(&expected).fold(0f64, |most, (x, y)| most.max((x - y).abs()));

        let mut worst = 0f64;
        for i in 0..model.parameters().len() {
            let gradient = of(&gradients[i]);
            let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!(length > 0.0, "parameter {i} learns nothing");
            for seed in 0..3 {
                let direction = numbers(100 + 3 * i as u64 + seed, gradient.len());
                let at = |step: f64| {
                    let mut moved = parameters.clone();
                    moved[i].iter_mut().zip(&direction).for_each(|(p, &d)| *p += step * f64::from(d));
                    total(&moved)
                };
                let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let ours: f64 = gradient.iter().zip(&direction).map(|(g, &d)| g * f64::from(d)).sum();
                worst = worst.max((ours - slope).abs() / length);
            }
        }
        (far / largest, worst)
    }

    #[test]
    fn the_whole_network_agrees_with_finite_differences_of_its_twin_in_f64() {
        let (logits, gradients) = apart(Precision::F32);
        assert!(logits < 1e-5 && gradients < 1e-4, "f32: logits {logits:.1e}, gradients {gradients:.1e}");
        let (logits, gradients) = apart(Precision::Bf16);
        assert!(logits > 1e-5, "nothing was rounded");
        // A bf16 number has 8 bits: each is off by up to 0.4 %.
        assert!(logits < 2e-2 && gradients < 5e-2, "bf16: logits {logits:.1e}, gradients {gradients:.1e}");
    }
}
