//! HashNet's loss (Cao et al. 2017, "HashNet: Deep Learning to Hash by Continuation", eq. 4), as its ports compute it.

#[cfg(feature = "cuda")]
use super::cuda::OnGpu;
use super::labels::LabelSets;
use super::pairs::{Known, Likelihood, Side, Weights, count_similar, likelihood};
use super::part::{Batch, Division, Judged, Part};
use super::{BuildLoss, Loss, Sizes, Step};
use crate::error::{Error, Result};
use crate::kernel::host;
use candle_core::{DType, Device, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::ops::Range;

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

/// The loss of all pairs, or a device's part of it.
struct State {
    params: HashNet,
    sizes: Sizes,
    /// Which pairs, unless it is all of them.
    division: Option<Division>,
    /// For [`Pairs::Bank`].
    bank: Option<Bank>,
    /// Where the bank is instead, once logits have come from a GPU.
    #[cfg(feature = "cuda")]
    on_gpu: Option<OnGpu>,
    /// A batch that is taken in and not judged.
    begun: Option<Begun>,
}

/// Images with the codes that they had when last seen, `[images, bits]` and 0 at first, and the labels.
struct Bank {
    /// Where in the training list they are.
    images: Range<usize>,
    codes: Vec<f32>,
    labels: LabelSets,
}

/// The queries of a part.
enum Begun {
    Here {
        rows: Range<usize>,
        codes: Vec<f32>,
        labels: LabelSets,
        scale: f32,
    },
    #[cfg(feature = "cuda")]
    There(super::cuda::Begun),
}

impl BuildLoss for HashNet {
    fn build(&self, sizes: Sizes) -> Result<Box<dyn Loss>> {
        Ok(Box::new(State::new(self, sizes, None)?))
    }

    fn part(&self, sizes: Sizes, division: Division) -> Result<Box<dyn Part>> {
        if self.pairs == Pairs::Batch {
            return Err(Error::input("`pairs = \"batch\"` keeps no bank that devices could divide")
                .hint("leave out `bank`, or pair with the bank"));
        }
        if sizes.images < division.of {
            let (images, of) = (sizes.images, division.of);
            return Err(Error::data(format!("a bank of {images} images cannot be divided among {of} devices"))
                .hint("leave out `bank`, or want fewer `gpus` in `[resources]`"));
        }
        Ok(Box::new(State::new(self, sizes, Some(division))?))
    }

    fn looks_ahead(&self) -> bool {
        false
    }
}

impl Bank {
    fn empty(images: Range<usize>, Sizes { classes, bits, .. }: Sizes) -> Self {
        Self { codes: vec![0.0; images.len() * bits], labels: LabelSets::empty(images.len(), classes), images }
    }

    fn side(&self) -> Side<'_> {
        Side { codes: &self.codes, labels: &self.labels }
    }

    /// Writes down what is new of its images. Of an image that is there twice, the last counts.
    fn remember(&mut self, queries: Side, index: &[u32], bits: usize) {
        for (row, &image) in index.iter().enumerate().filter(|(_, image)| self.images.contains(&(**image as usize))) {
            let slot = image as usize - self.images.start;
            self.codes[slot * bits..][..bits].copy_from_slice(&queries.codes[row * bits..][..bits]);
            self.labels.set(slot, queries.labels.get(row));
        }
    }
}

impl State {
    fn new(params: &HashNet, sizes: Sizes, division: Option<Division>) -> Result<Self> {
        if !(params.alpha.is_finite() && params.alpha > 0.0) {
            return Err(Error::input(format!("`alpha` must be a number above 0, not {}", params.alpha)));
        }
        let images = division.map_or(0..sizes.images, |division| division.images(sizes.images));
        Ok(Self {
            params: params.clone(),
            sizes,
            division,
            bank: (params.pairs == Pairs::Bank).then(|| Bank::empty(images, sizes)),
            #[cfg(feature = "cuda")]
            on_gpu: None,
            begun: None,
        })
    }

    /// What logits are multiplied by.
    fn scale_in(&self, epoch: usize) -> f64 {
        ((epoch.saturating_sub(1) / self.params.scale_every + 1) as f64).sqrt()
    }

    /// Whether a batch is of the training that this was made for.
    fn check(&self, dims: &[usize], labels: &LabelSets, index: &[u32]) -> candle_core::Result<()> {
        if dims != [index.len(), self.sizes.bits] || labels.len() != index.len() {
            bail!("hashnet: logits {dims:?}, {} labels, {} images", labels.len(), index.len());
        }
        let Some(bank) = &self.bank else { return Ok(()) };
        if !labels.has_classes_of(&bank.labels) {
            bail!("hashnet: labels of another number of classes than the training list");
        }
        match index.iter().find(|&&image| image as usize >= self.sizes.images) {
            Some(image) => bail!("hashnet: image {image} is not in the training list"),
            None => Ok(()),
        }
    }

    /// Writes the batch to the bank, if there is one.
    fn remember(&mut self, queries: Side, index: &[u32]) {
        if let Some(bank) = &mut self.bank {
            bank.remember(queries, index, self.sizes.bits);
        }
    }

    /// What queries are paired with.
    fn others<'a>(&'a self, queries: Side<'a>) -> Side<'a> {
        self.bank.as_ref().map_or(queries, Bank::side)
    }

    /// The loss, and its gradient by the logits that the queries are of.
    fn likelihood(&self, queries: Side, [similar, pairs]: [u64; 2], scale: f32) -> Likelihood {
        let weights = Weights::new(similar, pairs, self.params.alpha as f32);
        let mut likelihood = likelihood(queries, self.others(queries), self.sizes.bits, weights);
        for (g, u) in likelihood.gradient.iter_mut().zip(queries.codes) {
            *g *= self.factor() * (scale * (1.0 - u * u));
        }
        likelihood
    }

    /// Without a bank each pair stands twice, (i, j) and (j, i), with one and the same derivative.
    fn factor(&self) -> f32 {
        if self.bank.is_some() { 1.0 } else { 2.0 }
    }

    /// What is on the GPU that logits are on. The bank is there from now on.
    #[cfg(feature = "cuda")]
    fn on_gpu(&mut self, device: &crate::device::cuda::CudaDevice) -> candle_core::Result<&mut OnGpu> {
        if self.on_gpu.as_ref().is_some_and(|on_gpu| !on_gpu.is_on(device)) {
            bail!("hashnet: logits from another GPU than before");
        }
        let on_gpu = match self.on_gpu.take() {
            Some(on_gpu) => on_gpu,
            None => {
                let bank = self.bank.as_ref().map(|bank| (bank.images.start, &bank.codes[..], &bank.labels));
                OnGpu::new(device, self.sizes.bits, bank)?
            }
        };
        Ok(self.on_gpu.insert(on_gpu))
    }

    /// Codes and labels of the bank, wherever it is.
    fn whole_bank(&self) -> candle_core::Result<Option<(Vec<f32>, LabelSets)>> {
        let Some(bank) = &self.bank else { return Ok(None) };
        #[cfg(feature = "cuda")]
        if let Some(on_gpu) = &self.on_gpu {
            let with_labels = |(codes, words)| Ok((codes, bank.labels.clone().with_words(words)?));
            return on_gpu.bank()?.map(with_labels).transpose();
        }
        Ok(Some((bank.codes.clone(), bank.labels.clone())))
    }

    fn bank_state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let Some((codes, labels)) = self.whole_bank()? else { return Ok(vec![]) };
        let codes = Tensor::from_vec(codes, (labels.len(), self.sizes.bits), &Device::Cpu)?;
        Ok(vec![("codes".into(), codes), ("labels".into(), labels.to_tensor()?)])
    }

    /// Takes its rows out of a bank of all images.
    fn load_bank(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()> {
        let Some(bank) = &mut self.bank else { return Ok(()) };
        let find = |wanted: &str| state.iter().find(|(name, _)| name == wanted).map(|(_, tensor)| tensor);
        let (Some(codes), Some(labels)) = (find("codes"), find("labels")) else { bail!("hashnet: no bank") };
        if codes.dims() != [self.sizes.images, self.sizes.bits] || labels.dim(0)? != self.sizes.images {
            bail!("hashnet: a bank of {:?} codes and {:?} labels", codes.dims(), labels.dims());
        }
        let own = |tensor: &Tensor| tensor.narrow(0, bank.images.start, bank.images.len());
        bank.codes = own(codes)?.flatten_all()?.to_vec1()?;
        bank.labels.load(&own(labels)?)?;
        #[cfg(feature = "cuda")]
        {
            self.on_gpu = None;
        }
        self.begun = None;
        Ok(())
    }
}

/// `tanh(scale * logits)`
fn squash(logits: &[f32], scale: f32) -> Vec<f32> {
    logits.iter().map(|x| (scale * x).tanh()).collect()
}

impl Loss for State {
    fn forward(&mut self, logits: &Tensor, labels: &Tensor, index: &[u32], step: Step) -> candle_core::Result<Tensor> {
        let scale = self.scale_in(step.epoch) as f32;
        let labels = LabelSets::from_tensor(labels)?;
        self.check(logits.dims(), &labels, index)?;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = logits.device() {
            let alpha = self.params.alpha as f32;
            let batch = super::cuda::Batch { logits, labels: &labels, index, scale, alpha };
            return self.on_gpu(device)?.forward(&batch);
        }
        let plain = logits.detach().to_dtype(DType::F32)?.contiguous()?;
        let codes = squash(host(&plain).values()?, scale);
        let queries = Side { codes: &codes, labels: &labels };
        self.remember(queries, index);
        let others = self.others(queries);
        let totals = [count_similar(queries, others), pairs(queries, others)];
        let Likelihood { loss, gradient } = self.likelihood(queries, totals, scale);
        let gradient = Tensor::from_vec(gradient, logits.shape(), &Device::Cpu)?;
        logits.apply_op1(Known::new(loss, gradient))
    }

    fn scale(&self, epoch: usize) -> f64 {
        self.scale_in(epoch)
    }

    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        self.bank_state()
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()> {
        self.load_bank(state)
    }
}

/// Counts are of similar pairs, and of all pairs.
impl Part for State {
    fn begin(&mut self, batch: &Batch, device: &Device) -> candle_core::Result<Vec<u64>> {
        let scale = self.scale_in(batch.epoch) as f32;
        let labels = LabelSets::from_tensor(&batch.labels)?;
        let (count, bits) = (batch.index.len(), self.sizes.bits);
        self.check(&[count, batch.logits.len() / count.max(1)], &labels, &batch.index)?;
        let rows = self.division.map_or(0..count, |division| division.rows(count));
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            let logits = &Tensor::from_slice(&batch.logits, (count, bits), device)?;
            let alpha = self.params.alpha as f32;
            let batch = super::cuda::Batch { logits, labels: &labels, index: &batch.index, scale, alpha };
            let on_gpu = self.on_gpu(gpu)?;
            let begun = on_gpu.begin(&batch, rows)?;
            let counts = on_gpu.counts(&begun)?;
            self.begun = Some(Begun::There(begun));
            return Ok(counts.to_vec());
        }
        if !device.is_cpu() {
            bail!("hashnet: a device that is neither the CPU nor a CUDA one");
        }
        let codes = squash(&batch.logits, scale);
        self.remember(Side { codes: &codes, labels: &labels }, &batch.index);
        let codes = codes[rows.start * bits..rows.end * bits].to_vec();
        let labels = labels.part(rows.start, rows.end);
        let queries = Side { codes: &codes, labels: &labels };
        let others = self.others(queries);
        let counts = vec![count_similar(queries, others), pairs(queries, others)];
        self.begun = Some(Begun::Here { rows, codes, labels, scale });
        Ok(counts)
    }

    fn judge(&mut self, totals: &[u64]) -> candle_core::Result<Judged> {
        let &[similar, pairs] = totals else { bail!("hashnet: {} counts of pairs", totals.len()) };
        match self.begun.take() {
            None => bail!("hashnet: no batch was taken in"),
            Some(Begun::Here { rows, codes, labels, scale }) => {
                let queries = Side { codes: &codes, labels: &labels };
                let Likelihood { loss, gradient } = self.likelihood(queries, [similar, pairs], scale);
                Ok(Judged { loss, rows, gradient })
            }
            #[cfg(feature = "cuda")]
            Some(Begun::There(begun)) => {
                let Some(on_gpu) = &self.on_gpu else { bail!("hashnet: a batch without its GPU") };
                on_gpu.judge(begun, [similar, pairs])
            }
        }
    }

    fn scale(&self, epoch: usize) -> f64 {
        self.scale_in(epoch)
    }

    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        self.bank_state()
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()> {
        self.load_bank(state)
    }
}

/// How many pairs there are.
fn pairs(queries: Side, others: Side) -> u64 {
    queries.labels.len() as u64 * others.labels.len() as u64
}

#[cfg(test)]
mod tests;
