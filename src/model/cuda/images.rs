//! Images on a GPU: all of them, if there is room, or batch after batch through memory that the driver has locked.
//!
//! Either way bytes lie there, a quarter of the size of numbers, and one kernel cuts, mirrors and normalises a batch.

#![expect(unsafe_code, reason = "launches a kernel; its safe twin is `Transform::normalise`")]

use crate::dataset::{Augment, Buffer, Cuts, Memory, Raw};
use crate::device::cuda::cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};
use crate::device::cuda::{CudaDevice, CudaStorage, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::device::pinned::{Locked, Turn, Uploads, WRITTEN};
use crate::error::{Error, Kind, Result};
use crate::image::Cut;
use candle_core::op::BackpropOp;
use candle_core::{Storage, Tensor, bail};
use rayon::prelude::*;
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

const PROGRAM: Program = Program::new("pixels", &[include_str!("pixels.cu")]);

/// Threads of a block, as in `pixels.cu`.
const THREADS: usize = 256;
/// Bytes of prepared images that are read and sent at a time.
const WINDOW: usize = 64 << 20;
/// Batches on the GPU at once: one that is computed on, and one that is on its way.
const SLOTS: usize = 2;

/// Images on a GPU, as the network takes them.
pub(in crate::model) struct Images {
    device: CudaDevice,
    side: usize,
    there: Option<There>,
}

/// What lies on the GPU.
struct There {
    /// What each value of red, green and blue becomes.
    table: CudaSlice<f32>,
    kept: Option<Kept>,
}

/// What makes the batches of one order of images.
struct Reader<'a> {
    images: &'a Images,
    raw: &'a dyn Raw,
    uploads: Uploads,
    streamed: Streamed,
}

/// All prepared images, one after the other.
struct Kept {
    bytes: CudaSlice<u8>,
    /// Where each begins.
    offsets: Vec<usize>,
    sizes: Vec<(usize, usize)>,
}

impl Images {
    /// Sees to images of `side` pixels. If all of them are prepared and take no more than `most` bytes, they are put on the
    /// GPU now.
    ///
    /// # Errors
    /// Images that cannot be read, and memory that is not there after all.
    pub(in crate::model) fn open(raw: &dyn Raw, side: usize, device: &CudaDevice, most: u64) -> Result<Self> {
        let _turn = Turn::of(device).map_err(on_gpu)?;
        let table: Vec<f32> = raw.table().concat();
        let table = device.clone_htod(&table).map_err(on_gpu)?;
        let sizes = if most > 0 { raw.prepared_sizes() } else { None };
        let fits = |sizes: &Vec<(usize, usize)>| bytes_of(sizes) as u64 <= most;
        let kept = sizes.filter(fits).map(|sizes| Kept::load(raw, sizes, device)).transpose()?;
        Ok(Self { device: device.clone(), side, there: Some(There { table, kept }) })
    }

    /// Whether all images are in the GPU's memory.
    #[cfg(test)]
    pub(in crate::model) fn are_kept(&self) -> bool {
        self.kept().is_some()
    }

    fn kept(&self) -> Option<&Kept> {
        self.there.as_ref()?.kept.as_ref()
    }

    /// The given batches in order, `[n, 3, side, side]` each: what [`Examples::batches`](crate::dataset::Examples::batches)
    /// gives, to the bit.
    pub(in crate::model) fn batches<'a>(
        &'a self,
        raw: &'a dyn Raw,
        order: Vec<Vec<u32>>,
        augment: Option<Augment>,
    ) -> Box<dyn Iterator<Item = Result<(Vec<u32>, Tensor)>> + 'a> {
        let streamed = Streamed { copies: None, slots: vec![], next: 0, pool: Arc::default() };
        let mut reader = Reader { images: self, raw, uploads: Uploads::default(), streamed };
        if let Some(kept) = self.kept() {
            return Box::new(order.into_iter().map(move |index| {
                let xs = reader.cut(kept, &index, augment)?;
                Ok((index, xs))
            }));
        }
        let memory = reader.streamed.memory(self.device.cuda_stream().context());
        Box::new(raw.cuts(order, augment, memory).map(move |cuts| {
            let Cuts { index, buffer } = cuts?;
            let xs = reader.send(buffer, index.len()).map_err(on_gpu)?;
            Ok((index, xs))
        }))
    }

    /// Launches the kernel. Each of the `count` places lies within `bytes`, which the caller has seen to.
    fn normalised(&self, bytes: &CudaSlice<u8>, places: &CudaSlice<u64>, count: usize) -> candle_core::Result<Tensor> {
        let Some(There { table, .. }) = &self.there else { bail!("images that are gone") };
        let pixels = self.side * self.side;
        // Sound: the kernel writes all of it.
        let mut xs = unsafe { self.device.alloc::<f32>((count * 3 * pixels).max(1)) }?;
        let Ok(blocks) = u32::try_from(count * pixels.div_ceil(THREADS)) else { bail!("a batch of {count} images") };
        if blocks > 0 {
            let kernel = PROGRAM.function(&self.device, "normalised_cuts")?;
            let mut builder = kernel.builder();
            let side = self.side as i32;
            builder.arg(bytes).arg(places).arg(table).arg(&side).arg(&mut xs);
            let config =
                LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
            // Sound: there is a place for each image, which lies within the bytes, and numbers for each pixel.
            unsafe { builder.launch(config) }.w()?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(xs, self.device.clone()));
        Ok(Tensor::from_storage(storage, (count, 3, self.side, self.side), BackpropOp::none(), false))
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // Memory that cannot be given back now is when the process ends.
        let _turn = Turn::of(&self.device);
        self.there = None;
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let _turn = Turn::of(&self.images.device);
        self.streamed.slots.clear();
        self.uploads = Uploads::default();
    }
}

impl Reader<'_> {
    /// A batch of images that are there.
    fn cut(&mut self, kept: &Kept, index: &[u32], augment: Option<Augment>) -> Result<Tensor> {
        let Images { device, side, .. } = self.images;
        let _turn = Turn::of(device).map_err(on_gpu)?;
        let places = index.iter().map(|&image| kept.place(self.raw, image as usize, *side, augment));
        let places: Vec<u64> = places.collect::<Result<Vec<_>>>()?.concat();
        let places = self.uploads.send(device, &places).map_err(on_gpu)?;
        self.images.normalised(&kept.bytes, &places, index.len()).map_err(on_gpu)
    }

    /// A batch of cuts in locked memory. It is sent while the GPU computes on the one before it.
    fn send(&mut self, buffer: Box<dyn Buffer>, count: usize) -> candle_core::Result<Tensor> {
        let Images { device, side, .. } = self.images;
        let _turn = Turn::of(device)?;
        let mut buffer: Box<dyn Any> = buffer;
        let Some(memory) = buffer.downcast_mut::<Pinned>().and_then(|pinned| pinned.memory.as_mut()) else {
            bail!("a batch in memory that is not ours")
        };
        let size = side * side * 3;
        if memory.len() < count * size {
            bail!("a batch of {count} images in {} bytes", memory.len());
        }
        let place = |image: usize| [(image * size) as u64, (side * 3) as u64, 0];
        let places = self.uploads.send(device, &(0..count).flat_map(place).collect::<Vec<u64>>())?;
        let slot = self.streamed.send(device, memory)?;
        let xs = self.images.normalised(&slot.bytes, &places, count)?;
        slot.free = Some(device.cuda_stream().record_event(None).w()?);
        Ok(xs)
    }
}

/// Bytes of images of these sizes.
fn bytes_of(sizes: &[(usize, usize)]) -> usize {
    sizes.iter().map(|(width, height)| width * height * 3).sum()
}

impl Kept {
    fn load(raw: &dyn Raw, sizes: Vec<(usize, usize)>, device: &CudaDevice) -> Result<Self> {
        let mut offsets = Vec::with_capacity(sizes.len());
        let mut total = 0;
        for (width, height) in &sizes {
            offsets.push(total);
            total += width * height * 3;
        }
        let mut bytes = device.alloc_zeros::<u8>(total.max(1)).map_err(on_gpu)?;
        let largest = sizes.iter().map(|(width, height)| width * height * 3).max().unwrap_or(0);
        let stream = device.cuda_stream();
        let window = WINDOW.max(largest);
        let mut memory = Locked::<u8>::new(stream.context(), window, WRITTEN).map_err(on_gpu)?;
        let mut first = 0;
        while first < sizes.len() {
            let fits = |&last: &usize| offsets[last] + bytes_of(&sizes[last..=last]) - offsets[first] <= window;
            let end = (first..sizes.len()).take_while(fits).last().map_or(first, |last| last + 1);
            let images = first..end;
            let filled = fill(raw, &sizes, images.clone(), memory.numbers().map_err(on_gpu)?)?;
            let mut there = bytes.slice_mut(offsets[first]..offsets[first] + filled);
            let sent = memory.numbers().and_then(|memory| {
                stream.memcpy_htod(&memory[..filled], &mut there).w()?;
                // Before the memory is filled again.
                stream.synchronize().w()
            });
            sent.map_err(on_gpu)?;
            first = end;
        }
        Ok(Self { bytes, offsets, sizes })
    }

    /// The three words of `pixels.cu` for an image.
    fn place(&self, raw: &dyn Raw, image: usize, side: usize, augment: Option<Augment>) -> Result<[u64; 3]> {
        let (Some(&offset), Some(&(width, height))) = (self.offsets.get(image), self.sizes.get(image)) else {
            return Err(Error::data(format!("there is no image {image} on the GPU")));
        };
        let Cut { left, top, mirrored } = raw.cut(image, (width, height), augment);
        if left + side > width || top + side > height {
            let message = format!("prepared image {} is {width} x {height} pixels, too few for its cut", image + 1);
            return Err(Error::data(message).hint("prepare the images again: `hashpipe run --force prepare`"));
        }
        Ok([(offset + (top * width + left) * 3) as u64, (width * 3) as u64, u64::from(mirrored)])
    }
}

/// Reads images one after the other into `memory`, in parallel; returns how many bytes they are.
fn fill(raw: &dyn Raw, sizes: &[(usize, usize)], images: Range<usize>, memory: &mut [u8]) -> Result<usize> {
    let (mut parts, mut rest, mut filled) = (vec![], memory, 0);
    for image in images {
        let size = bytes_of(&sizes[image..=image]);
        let Some((part, after)) = rest.split_at_mut_checked(size) else {
            return Err(Error::data(format!("prepared image {} is larger than a window", image + 1)));
        };
        parts.push((image, part));
        rest = after;
        filled += size;
    }
    let read = |(image, part): (usize, &mut [u8])| {
        let pixels = raw.prepared(image)?;
        if pixels.data.len() != part.len() {
            return Err(Error::data(format!("prepared image {} is not of the size that was told", image + 1)));
        }
        part.copy_from_slice(&pixels.data);
        Ok(())
    };
    let outcomes: Vec<Result<()>> = parts.into_par_iter().map(read).collect();
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(filled)
}

/// Batches on their way to the GPU, on a stream of their own.
struct Streamed {
    copies: Option<Arc<CudaStream>>,
    slots: Vec<Slot>,
    next: usize,
    pool: Pool,
}

/// Memory on the GPU for one batch.
struct Slot {
    bytes: CudaSlice<u8>,
    /// When the kernel that read it last is done.
    free: Option<CudaEvent>,
}

type Pool = Arc<Mutex<Vec<Locked<u8>>>>;

/// Locked memory that goes back to where it came from.
struct Pinned {
    memory: Option<Locked<u8>>,
    pool: Pool,
}

impl Buffer for Pinned {
    fn bytes(&mut self) -> Result<&mut [u8]> {
        // Waits until what was in it before has arrived.
        let Some(memory) = &mut self.memory else { return Ok(&mut []) };
        memory.numbers().map_err(on_gpu)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).extend(self.memory.take());
    }
}

impl Streamed {
    /// Gives locked memory, the same pieces again and again.
    fn memory(&self, context: &Arc<CudaContext>) -> Memory {
        let (context, pool) = (Arc::clone(context), Arc::clone(&self.pool));
        Arc::new(move |size| {
            let found = {
                let mut free = pool.lock().unwrap_or_else(PoisonError::into_inner);
                let fits = free.iter().position(|memory| memory.len() >= size);
                fits.map(|which| free.remove(which))
            };
            let memory = match found {
                Some(memory) => memory,
                None => Locked::new(&context, size, WRITTEN).map_err(on_gpu)?,
            };
            Ok(Box::new(Pinned { memory: Some(memory), pool: Arc::clone(&pool) }))
        })
    }

    /// Copies a batch to a slot, which work on the device's stream may read from now on.
    fn send(&mut self, device: &CudaDevice, memory: &mut Locked<u8>) -> candle_core::Result<&mut Slot> {
        let work = device.cuda_stream();
        let copies = match &self.copies {
            Some(copies) => Arc::clone(copies),
            None => Arc::clone(self.copies.insert(work.context().new_stream().w()?)),
        };
        let which = self.next;
        self.next = (self.next + 1) % SLOTS;
        if self.slots.get(which).is_none_or(|slot| slot.bytes.len() < memory.len()) {
            // What it held may still be read: it is given back on the stream that reads it, and so after that.
            let slot = Slot { bytes: device.alloc_zeros(memory.len())?, free: Some(work.record_event(None).w()?) };
            match self.slots.get_mut(which) {
                Some(old) => *old = slot,
                None => self.slots.push(slot),
            }
        }
        let slot = &mut self.slots[which];
        if let Some(free) = slot.free.take() {
            copies.wait(&free).w()?;
        }
        memory.send(&copies, &mut slot.bytes)?;
        work.wait(&copies.record_event(None).w()?).w()?;
        Ok(slot)
    }
}

fn on_gpu(error: candle_core::Error) -> Error {
    Error::new(Kind::Stage, "images could not be brought to the GPU").note(error.to_string())
}

#[cfg(test)]
mod cuda_tests {
    use super::super::testing::prepared;
    use super::*;
    use crate::dataset::Examples;
    use candle_core::Device;

    #[test]
    fn kept_and_streamed_batches_are_those_of_the_cpu_to_the_bit() {
        let Some(Device::Cuda(gpu)) = crate::device::for_test(0) else { return };
        let (_folder, images) = prepared(30, true);
        let raw = images.raw().unwrap();
        let order: Vec<Vec<u32>> = vec![(0..11).collect(), vec![29, 3, 3], vec![7], (5..30).collect(), vec![1, 2]];
        let all = bytes_of(&raw.prepared_sizes().unwrap()) as u64;
        for (most, are_kept) in [(0, false), (all - 1, false), (all, true)] {
            let on_gpu = Images::open(raw, 16, &gpu, most).unwrap();
            assert_eq!(on_gpu.are_kept(), are_kept);
            for augment in [None, Some(Augment { seed: 3, epoch: 1, crop: true, flip: true })] {
                let expected = images.batches(order.clone(), augment).map(Result::unwrap);
                let mut batches = 0;
                for (batch, ours) in expected.zip(on_gpu.batches(raw, order.clone(), augment)) {
                    let (index, xs) = ours.unwrap();
                    assert_eq!(index, batch.index);
                    assert_eq!(xs.dims(), [index.len(), 3, 16, 16]);
                    assert!(xs.flatten_all().unwrap().to_vec1::<f32>().unwrap() == batch.pixels, "{index:?} {most}");
                    batches += 1;
                }
                assert_eq!(batches, order.len());
            }
        }
    }
}
