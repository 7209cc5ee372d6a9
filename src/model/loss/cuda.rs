//! The likelihood of pairs on a GPU, where the bank stays between steps.
//!
//! Nothing of the size of batch times bank is ever written, and the host waits for nothing.

#![expect(unsafe_code, reason = "launches kernels; their safe twin is `pairs::likelihood`")]

use super::labels::LabelSets;
use super::pairs::Known;
use super::part::Judged;
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView};
use crate::device::cuda::{CudaDevice, CudaFunc, CudaStorage, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::device::pinned::Uploads;
use candle_core::op::BackpropOp;
use candle_core::{Device, Result, Storage, Tensor, bail};
use std::ops::Range;

const PROGRAM: Program = Program::new("pairs", &[include_str!("pairs.cu")]);

/// Queries, images and bits of a tile, and threads of a block, as in `pairs.cu`.
const TILE: usize = 64;
const THREADS: usize = 256;

/// Images of the bank that a block takes at least, and blocks that keep a large GPU busy.
const SLICE: usize = 256;
const BLOCKS: usize = 256;
/// Slices that even a large batch is cut into.
const FEWEST: usize = 8;

/// What a loss has on a GPU.
pub(super) struct OnGpu {
    device: CudaDevice,
    bits: usize,
    bank: Option<Bank>,
    uploads: Uploads,
}

/// The codes last seen, `[images, bits]`, and the images' label sets.
struct Bank {
    codes: CudaSlice<f32>,
    labels: CudaSlice<u64>,
    /// Where in the training list its images begin, and how many they are.
    first: usize,
    images: usize,
}

/// One batch.
pub(super) struct Batch<'a> {
    /// `[n, bits]`.
    pub(super) logits: &'a Tensor,
    pub(super) labels: &'a LabelSets,
    pub(super) index: &'a [u32],
    pub(super) scale: f32,
    pub(super) alpha: f32,
}

/// A batch that is on the GPU, and which of its images are paired.
pub(super) struct Begun {
    codes: CudaSlice<f32>,
    /// Places in the training list, then label sets.
    sent: CudaSlice<u64>,
    count: usize,
    rows: Range<usize>,
    width: usize,
    similar: CudaSlice<u64>,
    scale: f32,
    alpha: f32,
}

impl Begun {
    fn side(&self, rows: Range<usize>, bits: usize) -> Side<'_> {
        let labels = |row: usize| self.count + row * self.width;
        Side {
            codes: self.codes.slice(rows.start * bits..rows.end * bits),
            labels: self.sent.slice(labels(rows.start)..labels(rows.end)),
            count: rows.len(),
        }
    }
}

/// Images with codes.
struct Side<'a> {
    codes: CudaView<'a, f32>,
    labels: CudaView<'a, u64>,
    count: usize,
}

impl OnGpu {
    /// Takes the bank, if there is one, to the GPU: where in the training list its images begin, their codes and labels.
    pub(super) fn new(device: &CudaDevice, bits: usize, bank: Option<(usize, &[f32], &LabelSets)>) -> Result<Self> {
        let up = |(first, codes, labels): (usize, &[f32], &LabelSets)| {
            let (images, codes, labels) = (labels.len(), device.clone_htod(codes)?, device.clone_htod(labels.words())?);
            Ok::<_, candle_core::Error>(Bank { codes, labels, first, images })
        };
        let bank = bank.map(up).transpose()?;
        Ok(Self { device: device.clone(), bits, bank, uploads: Uploads::default() })
    }

    /// Whether it is on this GPU.
    pub(super) fn is_on(&self, device: &CudaDevice) -> bool {
        self.device.id() == device.id()
    }

    /// The bank's numbers, row-major.
    pub(super) fn bank(&self) -> Result<Option<(Vec<f32>, Vec<u64>)>> {
        let down = |bank: &Bank| Ok((self.device.clone_dtoh(&bank.codes)?, self.device.clone_dtoh(&bank.labels)?));
        self.bank.as_ref().map(down).transpose()
    }

    /// Writes the batch to the bank, if there is one, and forms the pairs. The host waits for nothing.
    pub(super) fn forward(&mut self, batch: &Batch) -> Result<Tensor> {
        let begun = self.begin(batch, 0..batch.index.len())?;
        let pairs = self.pairs(&begun);
        let (loss, gradient) = self.likelihood(&begun, pairs)?;
        let gradient = of_storage(gradient, &self.device, batch.logits.dims());
        let loss = of_storage(loss, &self.device, &[]);
        batch.logits.apply_op1(Known::on_gpu(loss, gradient))
    }

    /// Writes the batch's images that the bank has to it, and counts the similar pairs of some of the batch.
    pub(super) fn begin(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Begun> {
        let (count, width) = (batch.index.len(), batch.labels.width());
        let fits = |bank: &Bank| bank.labels.len() == bank.images * width && bank.images > 0;
        if batch.labels.len() != count
            || batch.logits.dims() != [count, self.bits]
            || count == 0
            || rows.end > count
            || !self.bank.as_ref().is_none_or(fits)
        {
            bail!("hashnet: logits {:?}, {} labels, {count} images", batch.logits.dims(), batch.labels.len());
        }
        let codes = self.squash(batch)?;
        let words: Vec<u64> =
            batch.index.iter().map(|&i| u64::from(i)).chain(batch.labels.words().iter().copied()).collect();
        let sent = self.uploads.send(&self.device, &words)?;
        let mut begun = Begun {
            codes,
            sent,
            count,
            rows,
            width,
            similar: self.device.alloc_zeros::<u64>(1)?,
            scale: batch.scale,
            alpha: batch.alpha,
        };
        if let Some(bank) = &mut self.bank {
            remember(&self.device, bank, &begun, self.bits)?;
        }
        if !begun.rows.is_empty() {
            begun.similar = self.count_similar(&begun)?;
        }
        Ok(begun)
    }

    /// How many similar pairs, and how many pairs, have been counted. Waits for the GPU.
    pub(super) fn counts(&self, begun: &Begun) -> Result<[u64; 2]> {
        let similar = self.device.clone_dtoh(&begun.similar)?;
        Ok([similar.first().copied().unwrap_or(0), self.pairs(begun)])
    }

    /// Judges some of a batch by how many similar pairs, and how many pairs, there are in all. Waits for the GPU.
    pub(super) fn judge(&self, mut begun: Begun, [similar, pairs]: [u64; 2]) -> Result<Judged> {
        if begun.rows.is_empty() {
            return Ok(Judged { loss: 0.0, rows: begun.rows, gradient: vec![] });
        }
        begun.similar = self.device.clone_htod(&[similar])?;
        let (loss, gradient) = self.likelihood(&begun, pairs)?;
        let loss = self.device.clone_dtoh(&loss)?.iter().map(|&loss| f64::from(loss)).sum();
        Ok(Judged { loss, gradient: self.device.clone_dtoh(&gradient)?, rows: begun.rows })
    }

    /// How many pairs the queries of a batch form.
    fn pairs(&self, begun: &Begun) -> u64 {
        begun.rows.len() as u64 * self.others(begun).count as u64
    }

    /// The images that queries are paired with.
    fn others<'a>(&'a self, begun: &'a Begun) -> Side<'a> {
        match &self.bank {
            Some(Bank { codes, labels, images, .. }) => {
                Side { codes: codes.as_view(), labels: labels.as_view(), count: *images }
            }
            None => begun.side(0..begun.count, self.bits),
        }
    }

    /// `tanh(scale * logits)`
    fn squash(&self, batch: &Batch) -> Result<CudaSlice<f32>> {
        let plain = batch.logits.detach().contiguous()?;
        let (storage, layout) = plain.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("hashnet: logits that are not on the GPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("hashnet: logits that are not contiguous") };
        let logits = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let mut codes = self.device.alloc_zeros::<f32>(logits.len())?;
        let kernel = self.kernel("squash")?;
        let mut builder = kernel.builder();
        let count = logits.len() as u64;
        builder.arg(&logits).arg(&batch.scale).arg(&mut codes).arg(&count);
        // Sound: both have `count` numbers.
        unsafe { builder.launch(threads_for(logits.len())?) }.w()?;
        Ok(codes)
    }

    /// How many pairs of the queries are similar, one number.
    fn count_similar(&self, begun: &Begun) -> Result<CudaSlice<u64>> {
        let mut similar = self.device.alloc_zeros::<u64>(1)?;
        let (queries, others) = (begun.side(begun.rows.clone(), self.bits), self.others(begun));
        let [count, images, width] = whole([queries.count, others.count, begun.width])?;
        let kernel = self.kernel("count_similar")?;
        let mut builder = kernel.builder();
        builder.arg(&queries.labels).arg(&count).arg(&others.labels).arg(&images).arg(&width).arg(&mut similar);
        let blocks = self.pairs(begun).div_ceil(16 * THREADS as u64).min(4 * BLOCKS as u64) as usize;
        // Sound: each side has `width` words for each of its images.
        unsafe { builder.launch(grid([blocks, 1, 1])?) }.w()?;
        Ok(similar)
    }

    /// The loss of the queries, and its gradient by their logits, where there are so many pairs in all.
    fn likelihood(&self, begun: &Begun, all_pairs: u64) -> Result<(CudaSlice<f32>, CudaSlice<f32>)> {
        let (device, bits, similar) = (&self.device, self.bits, &begun.similar);
        let (queries, bank) = (begun.side(begun.rows.clone(), bits), self.others(begun));
        let tiles = queries.count.div_ceil(TILE);
        let slices = bank.count.div_ceil(SLICE).clamp(1, (BLOCKS / tiles).max(FEWEST));
        let [count, images, width] = whole([queries.count, bank.count, begun.width])?;
        let [per_slice, bits32, shares, slices32] = whole([bank.count.div_ceil(slices), bits, slices * tiles, slices])?;
        let numbers = queries.count * bits;
        // Without a bank each pair stands twice, (i, j) and (j, i), with one and the same derivative.
        let factor = if self.bank.is_some() { 1f32 } else { 2f32 };

        // Sound: the kernel writes all of them.
        let mut losses = unsafe { device.alloc::<f64>(2 * slices * tiles) }?;
        let mut parts = unsafe { device.alloc::<f32>(slices * numbers) }?;
        let kernel = self.kernel("pair_likelihood")?;
        let mut builder = kernel.builder();
        builder.arg(&queries.codes).arg(&queries.labels).arg(&count).arg(&bank.codes).arg(&bank.labels).arg(&images);
        builder
            .arg(&bits32)
            .arg(&width)
            .arg(&per_slice)
            .arg(&begun.alpha)
            .arg(&all_pairs)
            .arg(similar)
            .arg(&mut losses)
            .arg(&mut parts);
        // Sound: sides have `bits` numbers and `width` words for each image; there are two sums for each block of a plane
        // of the grid, and a gradient of the queries for each slice.
        unsafe { builder.launch(grid([tiles, slices, bits.div_ceil(TILE)])?) }.w()?;

        let mut loss = device.alloc_zeros::<f32>(1)?;
        let kernel = self.kernel("whole_loss")?;
        let mut builder = kernel.builder();
        builder.arg(&losses).arg(&shares).arg(&all_pairs).arg(similar).arg(&mut loss);
        // Sound: there are two sums for each share, and one loss.
        unsafe { builder.launch(grid([1, 1, 1])?) }.w()?;

        let mut gradient = device.alloc_zeros::<f32>(numbers)?;
        let kernel = self.kernel("whole_gradient")?;
        let mut builder = kernel.builder();
        let numbers64 = numbers as u64;
        builder.arg(&parts).arg(&slices32).arg(&queries.codes).arg(&factor).arg(&begun.scale).arg(&mut gradient);
        builder.arg(&numbers64);
        // Sound: codes and gradient have `numbers` numbers, and the parts as many for each slice.
        unsafe { builder.launch(threads_for(numbers)?) }.w()?;
        Ok((loss, gradient))
    }

    fn kernel(&self, name: &str) -> Result<CudaFunc> {
        PROGRAM.function(&self.device, name)
    }
}

fn remember(device: &CudaDevice, bank: &mut Bank, begun: &Begun, bits: usize) -> Result<()> {
    let kernel = PROGRAM.function(device, "remember")?;
    let mut builder = kernel.builder();
    let queries = begun.side(0..begun.count, bits);
    let index = begun.sent.slice(..begun.count);
    let [count, bits, width] = whole([begun.count, bits, begun.width])?;
    let [first, images] = [bank.first as u64, bank.images as u64];
    builder.arg(&queries.codes).arg(&queries.labels).arg(&index).arg(&count).arg(&bits).arg(&width);
    builder.arg(&first).arg(&images).arg(&mut bank.codes).arg(&mut bank.labels);
    // Sound: the kernel leaves out images that the bank does not have; each of its has `bits` numbers and `width` words.
    unsafe { builder.launch(LaunchConfig { block_dim: (64, 1, 1), ..grid([begun.count, 1, 1])? }) }.w()?;
    Ok(())
}

/// Sizes as kernels take them.
fn whole<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    if sizes.iter().any(|&size| i32::try_from(size).is_err()) {
        bail!("hashnet: more images than a GPU's kernel can count");
    }
    Ok(sizes.map(|size| size as i32))
}

/// A grid of blocks of `THREADS` threads.
fn grid(blocks: [usize; 3]) -> Result<LaunchConfig> {
    let [Ok(x), Ok(y), Ok(z)] = blocks.map(u32::try_from) else { bail!("hashnet: a launch of {blocks:?} blocks") };
    Ok(LaunchConfig { grid_dim: (x, y, z), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 })
}

/// One thread for each of so many numbers.
fn threads_for(numbers: usize) -> Result<LaunchConfig> {
    grid([numbers.div_ceil(THREADS), 1, 1])
}

fn of_storage(numbers: CudaSlice<f32>, device: &CudaDevice, shape: &[usize]) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(numbers, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// A copy of a scalar on a GPU.
pub(super) fn copied(loss: &Tensor) -> Result<CudaStorage> {
    let (storage, _) = loss.storage_and_layout();
    let (Storage::Cuda(storage), Device::Cuda(device)) = (&*storage, loss.device()) else {
        bail!("hashnet: a loss that is not on the GPU")
    };
    let copy = device.cuda_stream().clone_dtod(storage.as_cuda_slice::<f32>()?).w()?;
    Ok(CudaStorage::wrap_cuda_slice(copy, device.clone()))
}

#[cfg(test)]
mod cuda_tests {
    use super::super::hashnet::{HashNet, Pairs};
    use super::super::{BuildLoss, Sizes, Step};
    use crate::seeded::stream;
    use candle_core::{Device, Tensor, Var};

    /// Loss and gradient of some steps of shuffled batches, and the bank in the end, on a device.
    fn run(
        pairs: Pairs,
        sizes: Sizes,
        batch: usize,
        reload: bool,
        device: &Device,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<u8>) {
        let params = HashNet { alpha: 10.0 / sizes.bits as f64, pairs, ..HashNet::default() };
        let mut loss = params.build(sizes).unwrap();
        let (mut losses, mut gradients) = (vec![], vec![]);
        for step in 0..4u64 {
            if reload {
                let state = loss.state().unwrap();
                loss = params.build(sizes).unwrap();
                loss.load_state(&state).unwrap();
            }
            let mut draw = stream(step, "pairs", &[]);
            let mut index: Vec<u32> = (0..sizes.images as u32).collect();
            draw.shuffle(&mut index);
            index.truncate(batch);
            // Of an image that is there twice, the last counts.
            index[0] = index[batch - 1];
            let logits: Vec<f32> = (0..batch * sizes.bits).map(|_| draw.range(-2.0, 2.0) as f32).collect();
            let labels: Vec<f32> =
                (0..batch * sizes.classes).map(|_| f32::from(u8::from(draw.unit() < 0.03))).collect();
            let logits = Var::from_vec(logits, (batch, sizes.bits), device).unwrap();
            let labels = Tensor::from_vec(labels, (batch, sizes.classes), &Device::Cpu).unwrap();
            let value = loss.forward(&logits, &labels, &index, Step { epoch: 21 }).unwrap();
            let gradient = value.backward().unwrap().get(&logits).unwrap().flatten_all().unwrap();
            losses.push(value.to_scalar::<f32>().unwrap());
            gradients.extend(gradient.to_vec1::<f32>().unwrap());
        }
        let mut codes = vec![];
        let mut labels = vec![];
        for (name, tensor) in loss.state().unwrap() {
            let tensor = tensor.flatten_all().unwrap();
            match name.as_str() {
                "codes" => codes = tensor.to_vec1::<f32>().unwrap(),
                _ => labels = tensor.to_vec1::<u8>().unwrap(),
            }
        }
        (losses, gradients, codes, labels)
    }

    #[test]
    fn losses_gradients_and_the_bank_are_those_of_the_cpu() {
        let Some(gpu @ Device::Cuda(_)) = crate::device::for_test(0) else { return };
        for (images, classes, bits, batch) in [(70, 3, 12, 5), (700, 80, 48, 70), (600, 130, 130, 64), (65, 10, 64, 65)]
        {
            for pairs in [Pairs::Bank, Pairs::Batch] {
                let sizes = Sizes { images, classes, bits };
                let cpu = run(pairs, sizes, batch, false, &Device::Cpu);
                let ours = run(pairs, sizes, batch, false, &gpu);
                let close = |a: &[f32], b: &[f32], tolerance: f32, what: &str| {
                    let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
                    assert_eq!(a.len(), b.len());
                    let far = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                    assert!(far <= tolerance * largest, "{what}: {far} of {largest}, {sizes:?} {pairs:?}");
                };
                close(&ours.0, &cpu.0, 1e-6, "losses");
                close(&ours.1, &cpu.1, 1e-5, "gradients");
                close(&ours.2, &cpu.2, 1e-6, "codes of the bank");
                assert!(ours.3 == cpu.3, "labels of the bank");
                // The same bits again, and by way of a checkpoint.
                assert!(run(pairs, sizes, batch, true, &gpu) == ours);
            }
        }
    }
}
