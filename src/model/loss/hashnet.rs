//! HashNet's loss (Cao et al. 2017, "HashNet: Deep Learning to Hash by Continuation", eq. 4), as its ports compute it.

use super::labels::LabelSets;
use super::pairs::{Known, Likelihood, Side, likelihood};
use super::{BuildLoss, Loss, Sizes, Step};
use crate::error::{Error, Result};
use crate::kernel::host;
use candle_core::{DType, Device, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Similar images should have codes with a large inner product, others a small one, both kinds of pairs weighing half.
///
/// Codes are `u = tanh(scale * logits)`, and `scale = sqrt((epoch - 1) / scale_every + 1)`, with whole division, takes
/// them closer to binary as the training goes on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashNet {
    /// Factor of the inner products.
    #[serde(default = "alpha")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
    /// Epochs between two steps of the scale.
    #[serde(default = "scale_every")]
    pub scale_every: NonZeroUsize,
    /// What the batch is paired with.
    #[serde(default)]
    pub pairs: Pairs,
}

impl Default for HashNet {
    fn default() -> Self {
        Self { alpha: alpha(), scale_every: scale_every(), pairs: Pairs::default() }
    }
}

fn alpha() -> f64 {
    0.1
}

fn scale_every() -> NonZeroUsize {
    const { NonZeroUsize::new(20).expect("20 is not 0") }
}

/// What the images of a batch are paired with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// All training images, with the codes they had when last seen; those take no gradient. An image not seen yet is
    /// similar to none.
    #[default]
    Bank,
    /// The batch itself; both sides take gradient.
    Batch,
}

struct State {
    params: HashNet,
    bits: usize,
    /// For [`Pairs::Bank`]: the codes last seen `[images, bits]`, 0 at first, and the labels.
    bank: Option<(Vec<f32>, LabelSets)>,
    /// Where the bank is instead, once logits have come from a GPU.
    #[cfg(feature = "cuda")]
    on_gpu: Option<super::cuda::OnGpu>,
}

impl BuildLoss for HashNet {
    fn build(&self, Sizes { images, classes, bits }: Sizes) -> Result<Box<dyn Loss>> {
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::input(format!("`alpha` must be a number above 0, not {}", self.alpha)));
        }
        let bank = || (vec![0.0; images * bits], LabelSets::empty(images, classes));
        Ok(Box::new(State {
            params: self.clone(),
            bits,
            bank: (self.pairs == Pairs::Bank).then(bank),
            #[cfg(feature = "cuda")]
            on_gpu: None,
        }))
    }

    fn looks_ahead(&self) -> bool {
        false
    }
}

impl State {
    /// Writes the batch to the bank, if there is one, and forms the pairs. The gradient is by `codes`.
    fn pairs(&mut self, codes: &[f32], labels: &LabelSets, index: &[u32]) -> candle_core::Result<Likelihood> {
        let (bits, alpha) = (self.bits, self.params.alpha as f32);
        let queries = Side { codes, labels };
        let Some((bank, bank_labels)) = &mut self.bank else {
            let mut pairs = likelihood(queries, queries, bits, alpha);
            // Each pair stands twice, (i, j) and (j, i), with one and the same derivative.
            pairs.gradient.iter_mut().for_each(|g| *g *= 2.0);
            return Ok(pairs);
        };
        fits(bank_labels, labels, index)?;
        for (row, &image) in index.iter().enumerate() {
            let image = image as usize;
            let slot = &mut bank[image * bits..(image + 1) * bits];
            slot.copy_from_slice(&codes[row * bits..(row + 1) * bits]);
            bank_labels.set(image, labels.get(row));
        }
        Ok(likelihood(queries, Side { codes: bank, labels: bank_labels }, bits, alpha))
    }

    /// The same on the GPU that the logits are on, and the bank from now on.
    #[cfg(feature = "cuda")]
    fn forward_on_gpu(
        &mut self,
        device: &crate::device::cuda::CudaDevice,
        logits: &Tensor,
        labels: &LabelSets,
        index: &[u32],
        scale: f32,
    ) -> candle_core::Result<Tensor> {
        use super::cuda::{Batch, OnGpu};
        if let Some((_, bank_labels)) = &self.bank {
            fits(bank_labels, labels, index)?;
        }
        if self.on_gpu.as_ref().is_some_and(|on_gpu| !on_gpu.is_on(device)) {
            bail!("hashnet: logits from another GPU than before");
        }
        let on_gpu = match self.on_gpu.take() {
            Some(on_gpu) => on_gpu,
            None => OnGpu::new(device, self.bits, self.bank.as_ref().map(|(codes, labels)| (&codes[..], labels)))?,
        };
        let alpha = self.params.alpha as f32;
        self.on_gpu.insert(on_gpu).forward(&Batch { logits, labels, index, scale, alpha })
    }

    /// The bank, wherever it is.
    fn whole_bank(&self) -> candle_core::Result<Option<(Vec<f32>, LabelSets)>> {
        #[cfg(feature = "cuda")]
        if let (Some(on_gpu), Some((_, labels))) = (&self.on_gpu, &self.bank) {
            let with_labels = |(codes, words)| Ok((codes, labels.clone().with_words(words)?));
            return on_gpu.bank()?.map(with_labels).transpose();
        }
        Ok(self.bank.clone())
    }
}

/// Whether a batch can be written to a bank with these labels.
fn fits(bank: &LabelSets, labels: &LabelSets, index: &[u32]) -> candle_core::Result<()> {
    if !labels.has_classes_of(bank) {
        bail!("hashnet: labels of another number of classes than the training list");
    }
    match index.iter().find(|&&image| image as usize >= bank.len()) {
        Some(image) => bail!("hashnet: image {image} is not in the training list"),
        None => Ok(()),
    }
}

impl Loss for State {
    fn forward(&mut self, logits: &Tensor, labels: &Tensor, index: &[u32], step: Step) -> candle_core::Result<Tensor> {
        let scale = self.scale(step.epoch) as f32;
        let labels = LabelSets::from_tensor(labels)?;
        if logits.dims() != [index.len(), self.bits] || labels.len() != index.len() {
            bail!("hashnet: logits {:?}, {} labels, {} images", logits.dims(), labels.len(), index.len());
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = logits.device() {
            return self.forward_on_gpu(device, logits, &labels, index, scale);
        }
        let plain = logits.detach().to_dtype(DType::F32)?.contiguous()?;
        let codes: Vec<f32> = host(&plain).values()?.iter().map(|x| (scale * x).tanh()).collect();
        let Likelihood { loss, mut gradient } = self.pairs(&codes, &labels, index)?;
        for (g, u) in gradient.iter_mut().zip(&codes) {
            *g *= scale * (1.0 - u * u);
        }
        let gradient = Tensor::from_vec(gradient, logits.shape(), &Device::Cpu)?;
        logits.apply_op1(Known::new(loss, gradient))
    }

    fn scale(&self, epoch: usize) -> f64 {
        ((epoch.saturating_sub(1) / self.params.scale_every + 1) as f64).sqrt()
    }

    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let Some((codes, labels)) = self.whole_bank()? else { return Ok(vec![]) };
        let codes = Tensor::from_vec(codes, (labels.len(), self.bits), &Device::Cpu)?;
        Ok(vec![("codes".into(), codes), ("labels".into(), labels.to_tensor()?)])
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()> {
        let Some((codes, labels)) = &mut self.bank else { return Ok(()) };
        let find = |wanted: &str| state.iter().find(|(name, _)| name == wanted).map(|(_, tensor)| tensor);
        let (Some(new_codes), Some(new_labels)) = (find("codes"), find("labels")) else { bail!("hashnet: no bank") };
        if new_codes.dims() != [labels.len(), self.bits] {
            bail!("hashnet: a bank of {:?}", new_codes.dims());
        }
        *codes = new_codes.flatten_all()?.to_vec1()?;
        #[cfg(feature = "cuda")]
        {
            self.on_gpu = None;
        }
        labels.load(new_labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use serde_json::Value;

    fn goldens(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(items) => items.iter().flat_map(numbers).collect(),
            number => vec![number.as_f64().unwrap()],
        }
    }

    fn build(pairs: Pairs, sizes: Sizes) -> Box<dyn Loss> {
        HashNet { alpha: 0.1, scale_every: const { NonZeroUsize::new(1).unwrap() }, pairs }.build(sizes).unwrap()
    }

    /// make_goldens.py's `weight`.
    fn formula(tensor: u64, len: usize, bound: f64) -> Vec<f64> {
        let mix = |i: u64| {
            let mut x = ((tensor << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^ (x >> 31)
        };
        let value = |i| ((mix(i) >> 40) as f64 - 8_388_608.0) / 8_388_608.0 * bound;
        (0..len as u64).map(|i| f64::from(value(i) as f32)).collect()
    }

    /// Loss and gradient of one batch, computed in the given type.
    fn run(
        loss: &mut dyn Loss,
        logits: &[f64],
        labels: &[f64],
        index: &[u32],
        epoch: usize,
        dtype: DType,
    ) -> (f64, Vec<f64>) {
        let tensor = |values: &[f64]| {
            let shape = (index.len(), values.len() / index.len());
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let logits = Var::from_tensor(&tensor(logits)).unwrap();
        let value = loss.forward(&logits, &tensor(labels), index, Step { epoch }).unwrap();
        let gradient = value.backward().unwrap().get(&logits).unwrap().clone();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (wide(&value)[0], wide(&gradient))
    }

    #[track_caller]
    fn close(ours: f64, golden: f64, tolerance: f64) {
        assert!((ours - golden).abs() <= tolerance, "{ours}, expected {golden}");
    }

    /// Both compared to 1e-6 of the largest, for f64 and f32 alike.
    #[track_caller]
    fn compare((loss, gradient): (f64, Vec<f64>), golden_loss: &Value, golden_gradient: &Value) {
        close(loss, golden_loss.as_f64().unwrap(), 1e-6);
        let golden = numbers(golden_gradient);
        assert_eq!(gradient.len(), golden.len());
        let largest = golden.iter().fold(0f64, |max, g| max.max(g.abs()));
        gradient.iter().zip(golden).for_each(|(ours, golden)| close(*ours, golden, 1e-6 * largest));
    }

    #[test]
    fn three_passes_over_a_bank_agree_with_pytorch() {
        let golden = goldens(include_str!("../../../tests/golden/hashnet_loss.json"));
        let (logits, labels) = (formula(100, 9 * 8 * 16, 2.0), numbers(&golden["labels"]));
        for dtype in [DType::F64, DType::F32] {
            let mut loss = build(Pairs::Bank, Sizes { images: 24, classes: 6, bits: 16 });
            for (i, step) in golden["trace"].as_array().unwrap().iter().enumerate() {
                let first = 8 * (i % 3);
                let index: Vec<u32> = (first as u32..first as u32 + 8).collect();
                let batch = (&logits[i * 128..(i + 1) * 128], &labels[first * 6..(first + 8) * 6]);
                close(loss.scale(i / 3 + 1), step["scale"].as_f64().unwrap(), 1e-12);
                let ours = run(loss.as_mut(), batch.0, batch.1, &index, i / 3 + 1, dtype);
                compare(ours, &step["loss"], &step["grad"]);
            }
        }
    }

    #[test]
    fn single_steps_agree_with_the_field_study() {
        let golden = goldens(include_str!("../../../tests/golden/formats.json"));
        for case in golden["hashnet_detached_bank"].as_array().unwrap() {
            let size = |name: &str| case["shape"][name].as_u64().unwrap() as usize;
            let (images, bits, classes) = (size("N"), size("K"), size("C"));
            let scale = case["scale"].as_f64().unwrap();
            let mut loss = build(Pairs::Bank, Sizes { images, classes, bits });
            let mut labels = LabelSets::empty(images, classes);
            for (i, row) in numbers(&case["bank_y_before"]).chunks(classes).enumerate() {
                let word = (0..classes).filter(|&c| row[c] > 0.0).fold(0, |word, c| word | 1 << c);
                labels.set(i, &[word]);
            }
            let codes: Vec<f32> = numbers(&case["bank_u_before"]).iter().map(|&u| u as f32).collect();
            let codes = Tensor::from_vec(codes, (images, bits), &Device::Cpu).unwrap();
            loss.load_state(&[("codes".into(), codes), ("labels".into(), labels.to_tensor().unwrap())]).unwrap();

            let epoch = (scale * scale).round() as usize;
            let index: Vec<u32> = numbers(&case["ind"]).iter().map(|&i| i as u32).collect();
            let ours = run(loss.as_mut(), &numbers(&case["u"]), &numbers(&case["y"]), &index, epoch, DType::F64);
            compare(ours, &case["loss"], &case["grad_u"]);
        }
    }

    #[test]
    fn in_batch_pairs_agree_with_pytorch_and_with_finite_differences() {
        let golden = goldens(include_str!("../../../tests/golden/hashnet_loss.json"));
        let logits = &formula(100, 8 * 16, 2.0)[..6 * 16];
        let labels = numbers(&golden["labels"])[..36].to_vec();
        let (ones, disjoint) = (vec![1.0; 36], (0..36).map(|i| f64::from(u8::from(i % 7 == 0))).collect());
        let index: Vec<u32> = (0..6).collect();
        for (labels, name) in [(labels, "in_batch"), (ones, "all_similar"), (disjoint, "only_self_similar")] {
            let mut loss = build(Pairs::Batch, Sizes { images: 6, classes: 6, bits: 16 });
            let mut at = |logits: &[f64]| run(loss.as_mut(), logits, &labels, &index, 1, DType::F64);
            let (value, gradient) = at(logits);
            close(value, golden[name].as_f64().unwrap(), 1e-6);
            for i in [0, 17, 95] {
                let mut shifted = logits.to_vec();
                shifted[i] += 0.05;
                let above = at(&shifted).0;
                shifted[i] -= 0.1;
                close(gradient[i], (above - at(&shifted).0) / 0.1, 2e-5);
            }
        }
    }

    #[test]
    fn pairs_of_one_kind_only_give_no_nan() {
        let sizes = Sizes { images: 3, classes: 2, bits: 4 };
        for label in [0.0, 1.0] {
            let mut loss = build(Pairs::Bank, sizes);
            let (value, gradient) = run(loss.as_mut(), &[0.5; 12], &[label; 6], &[0, 1, 2], 1, DType::F32);
            assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()));
        }
    }

    #[test]
    fn the_scale_steps_as_the_reference() {
        let golden = goldens(include_str!("../../../tests/golden/formats.json"));
        let loss: HashNet = serde_json::from_str("{}").unwrap();
        let loss = loss.build(Sizes { images: 1, classes: 1, bits: 1 }).unwrap();
        for (epoch, scale) in golden["scale"].as_object().unwrap() {
            close(loss.scale(epoch.parse().unwrap()), scale.as_f64().unwrap(), 1e-12);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_and_a_reloaded_bank_goes_on() {
        let sizes = Sizes { images: 2500, classes: 70, bits: 20 };
        let labels: Vec<f64> = formula(7, 50 * 70, 1.0).iter().map(|x| f64::from(u8::from(*x > 0.9))).collect();
        let losses = |threads: usize, reload: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut loss = build(Pairs::Bank, sizes);
                (0..4)
                    .map(|step| {
                        if reload {
                            let state = loss.state().unwrap();
                            loss = build(Pairs::Bank, sizes);
                            loss.load_state(&state).unwrap();
                        }
                        let index: Vec<u32> = (0..50).map(|i| i * 50 + step).collect();
                        let logits = formula(u64::from(step), 50 * 20, 2.0);
                        let (value, gradient) = run(loss.as_mut(), &logits, &labels, &index, 2, DType::F32);
                        (value.to_bits(), gradient.iter().map(|g| g.to_bits()).collect::<Vec<_>>())
                    })
                    .collect::<Vec<_>>()
            })
        };
        let one = losses(1, false);
        assert!(one == losses(2, false) && one == losses(3, true));
    }

    #[test]
    fn a_batch_that_does_not_fit_is_an_error() {
        let mut loss = build(Pairs::Bank, Sizes { images: 3, classes: 2, bits: 4 });
        let tensor = |rows: usize, columns: usize| Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap();
        let mut forward = |bits, classes, index: &[u32]| {
            loss.forward(&tensor(2, bits), &tensor(2, classes), index, Step { epoch: 1 }).is_ok()
        };
        assert!(forward(4, 2, &[0, 2]));
        assert!(!forward(4, 2, &[0, 3]) && !forward(5, 2, &[0, 1]) && !forward(4, 3, &[0, 1]) && !forward(4, 2, &[0]));
    }
}
