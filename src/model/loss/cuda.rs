//! The likelihood of pairs on a GPU, where the bank stays between steps.
//!
//! Nothing of the size of batch times bank is ever written, and the host waits for nothing.

#![expect(unsafe_code, reason = "launches kernels; their safe twin is `pairs::likelihood`")]

use super::labels::LabelSets;
use super::pairs::Known;
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView};
use crate::device::cuda::{CudaDevice, CudaFunc, CudaStorage, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::device::pinned::Uploads;
use candle_core::op::BackpropOp;
use candle_core::{Device, Result, Storage, Tensor, bail};

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

/// Images with codes.
struct Side<'a> {
    codes: CudaView<'a, f32>,
    labels: CudaView<'a, u64>,
    count: usize,
}

impl OnGpu {
    /// Takes the bank, if there is one, to the GPU.
    pub(super) fn new(device: &CudaDevice, bits: usize, bank: Option<(&[f32], &LabelSets)>) -> Result<Self> {
        let up = |(codes, labels): (&[f32], &LabelSets)| {
            let (images, codes, labels) = (labels.len(), device.clone_htod(codes)?, device.clone_htod(labels.words())?);
            Ok::<_, candle_core::Error>(Bank { codes, labels, images })
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

    /// Writes the batch to the bank, if there is one, and forms the pairs. The sizes of a batch and its places in the bank
    /// have been checked.
    pub(super) fn forward(&mut self, batch: &Batch) -> Result<Tensor> {
        let (count, width) = (batch.index.len(), batch.labels.width());
        if batch.labels.len() != count || batch.logits.dims() != [count, self.bits] || count == 0 {
            bail!("hashnet: logits {:?}, {} labels, {count} images", batch.logits.dims(), batch.labels.len());
        }
        if let Some(bank) = &self.bank
            && (batch.index.iter().any(|&image| image as usize >= bank.images)
                || bank.labels.len() != bank.images * width)
        {
            bail!("hashnet: a batch that does not fit the bank");
        }
        let codes = self.squash(batch)?;
        let words: Vec<u64> =
            batch.index.iter().map(|&i| u64::from(i)).chain(batch.labels.words().iter().copied()).collect();
        let sent = self.uploads.send(&self.device, &words)?;
        let (index, labels) = (sent.slice(..count), sent.slice(count..count * (1 + width)));
        let queries = Side { codes: codes.as_view(), labels, count };
        if let Some(bank) = &mut self.bank {
            remember(&self.device, bank, &queries, &index, (self.bits, width))?;
        }
        let bank = match &self.bank {
            Some(Bank { codes, labels, images }) => {
                Side { codes: codes.as_view(), labels: labels.as_view(), count: *images }
            }
            None => Side { codes: codes.as_view(), labels: queries.labels.slice(..), count },
        };
        // Without a bank each pair stands twice, (i, j) and (j, i), with one and the same derivative.
        let factor = if self.bank.is_some() { 1.0 } else { 2.0 };
        let (loss, gradient) = self.likelihood(&queries, &bank, width, batch, factor)?;
        let gradient = of_storage(gradient, &self.device, batch.logits.dims());
        let loss = of_storage(loss, &self.device, &[]);
        batch.logits.apply_op1(Known::on_gpu(loss, gradient))
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

    /// The loss, and its gradient by the logits.
    fn likelihood(
        &self,
        queries: &Side,
        bank: &Side,
        width: usize,
        batch: &Batch,
        factor: f32,
    ) -> Result<(CudaSlice<f32>, CudaSlice<f32>)> {
        let (device, bits) = (&self.device, self.bits);
        let tiles = queries.count.div_ceil(TILE);
        let slices = bank.count.div_ceil(SLICE).clamp(1, (BLOCKS / tiles).max(FEWEST));
        let per_slice = bank.count.div_ceil(slices);
        let [count, images, width, per_slice] = [queries.count, bank.count, width, per_slice].map(i32::try_from);
        let (Ok(count), Ok(images), Ok(width), Ok(per_slice)) = (count, images, width, per_slice) else {
            bail!("hashnet: more images than a GPU's kernel can count")
        };
        let (numbers, all_pairs) = (queries.count * bits, queries.count as u64 * bank.count as u64);
        let [bits32, shares, slices32] = [bits, slices * tiles, slices].map(|size| size as i32);

        let mut similar = device.alloc_zeros::<u64>(1)?;
        let kernel = self.kernel("count_similar")?;
        let mut builder = kernel.builder();
        builder.arg(&queries.labels).arg(&count).arg(&bank.labels).arg(&images).arg(&width).arg(&mut similar);
        let blocks = all_pairs.div_ceil(16 * THREADS as u64).min(4 * BLOCKS as u64) as usize;
        // Sound: each side has `width` words for each of its images.
        unsafe { builder.launch(grid([blocks, 1, 1])?) }.w()?;

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
            .arg(&batch.alpha)
            .arg(&similar)
            .arg(&mut losses)
            .arg(&mut parts);
        // Sound: sides have `bits` numbers and `width` words for each image; there are two sums for each block of a plane
        // of the grid, and a gradient of the queries for each slice.
        unsafe { builder.launch(grid([tiles, slices, bits.div_ceil(TILE)])?) }.w()?;

        let mut loss = device.alloc_zeros::<f32>(1)?;
        let kernel = self.kernel("whole_loss")?;
        let mut builder = kernel.builder();
        builder.arg(&losses).arg(&shares).arg(&all_pairs).arg(&similar).arg(&mut loss);
        // Sound: there are two sums for each share, and one loss.
        unsafe { builder.launch(grid([1, 1, 1])?) }.w()?;

        let mut gradient = device.alloc_zeros::<f32>(numbers)?;
        let kernel = self.kernel("whole_gradient")?;
        let mut builder = kernel.builder();
        let numbers64 = numbers as u64;
        builder.arg(&parts).arg(&slices32).arg(&queries.codes).arg(&factor).arg(&batch.scale).arg(&mut gradient);
        builder.arg(&numbers64);
        // Sound: codes and gradient have `numbers` numbers, and the parts as many for each slice.
        unsafe { builder.launch(threads_for(numbers)?) }.w()?;
        Ok((loss, gradient))
    }

    fn kernel(&self, name: &str) -> Result<CudaFunc> {
        PROGRAM.function(&self.device, name)
    }
}

fn remember(
    device: &CudaDevice,
    bank: &mut Bank,
    queries: &Side,
    index: &CudaView<u64>,
    (bits, width): (usize, usize),
) -> Result<()> {
    let kernel = PROGRAM.function(device, "remember")?;
    let mut builder = kernel.builder();
    let [count, bits, width] = [queries.count, bits, width].map(|size| size as i32);
    builder.arg(&queries.codes).arg(&queries.labels).arg(index).arg(&count).arg(&bits).arg(&width);
    builder.arg(&mut bank.codes).arg(&mut bank.labels);
    // Sound: `forward` has compared every index with the bank's images, each of which has `bits` numbers and `width` words.
    unsafe { builder.launch(LaunchConfig { block_dim: (64, 1, 1), ..grid([queries.count, 1, 1])? }) }.w()?;
    Ok(())
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
        let Ok(gpu @ Device::Cuda(_)) = crate::device::open(Some(0)) else { return eprintln!("skipped: no GPU") };
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
