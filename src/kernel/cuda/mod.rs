//! The same operations on GPUs.
//!
//! Maps lie as on the CPU, `[n, height, width, channels]`: NVIDIA's tensor cores, and with them TF32 and bf16, take
//! neighbouring channels, and nothing has to be turned between layers. Weights stay `[filters, channels, k, k]`, as in
//! files; a step turns its copy of a convolution's weights, which are small, and leaves linear layers' as they are.
//!
//! Products are cuBLAS's; convolutions are cuDNN's in builds with it (`cudnn.rs`), else products of unfolded windows.
//! Each gives equal results for equal arguments on one kind of GPU: sums are added up in an order that only the sizes
//! decide.

mod conv;
#[cfg(feature = "cudnn")]
mod cudnn;
pub(super) mod dropout;
mod elements;
mod linear;
mod pool;
mod product;
pub(super) mod sgd;
#[cfg(test)]
mod cuda_tests;
mod unfold;

pub(super) use conv::{Passed, backward as conv_backward, forward as conv_forward};
pub(super) use elements::transpose;
pub(super) use linear::{
    IntoSink, backward as linear_backward, forward as linear_forward, inner_gradient as linear_inner_gradient,
};

use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr};
use crate::device::cuda::{CudaDevice, CudaStorage, LaunchConfig};
use candle_core::op::BackpropOp;
use candle_core::{Layout, Result, Shape, Storage, Tensor, bail};
use std::ops::Deref;

/// Threads of a block.
const THREADS: u32 = 256;
/// The most blocks that a grid has in its second and third dimension.
const HIGHEST: u32 = 65_535;

/// The numbers of a contiguous f32 tensor on a GPU, locked against writing while this lives.
pub(super) struct Gpu<'a, Guard> {
    storage: Guard,
    layout: &'a Layout,
}

/// Locks `tensor` for reading.
pub(super) fn gpu(tensor: &Tensor) -> Gpu<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Gpu { storage, layout }
}

impl<Guard: Deref<Target = Storage>> Gpu<'_, Guard> {
    /// The numbers, row-major; an error for a tensor that is elsewhere, of another type, or not contiguous.
    pub(super) fn values(&self) -> Result<CudaView<'_, f32>> {
        match &*self.storage {
            Storage::Cuda(storage) => values(storage, self.layout),
            _ => bail!("expected a tensor on a GPU"),
        }
    }
}

/// The numbers of a contiguous f32 tensor, row-major.
pub(super) fn values<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, f32>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(storage.as_cuda_slice::<f32>()?.slice(start..end))
}

/// The same for writing.
pub(super) fn values_mut<'a>(storage: &'a mut CudaStorage, layout: &Layout) -> Result<CudaViewMut<'a, f32>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end))
}

/// The GPU that a tensor lies on.
pub(super) fn device_of(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

/// Numbers as a tensor that no gradient goes through.
pub(super) fn tensor(numbers: CudaSlice<f32>, device: &CudaDevice, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != numbers.len() {
        bail!("{} numbers for a tensor of {shape:?}", numbers.len());
    }
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(numbers, device.clone()));
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// Memory whose content is whatever it was: the caller writes all of it before anything reads it.
#[expect(unsafe_code, reason = "candle has no other way to get memory without filling it")]
fn uninit<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    // Sound: numbers of these types may have any bits, and no memory outside is touched.
    unsafe { device.alloc::<T>(len) }
}

/// A number of a kernel's sizes.
fn u32_of(size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(size) if size <= i32::MAX as u32 => Ok(size),
        _ => bail!("{size} is more than a GPU's operation takes at once: make the batch smaller"),
    }
}

/// Blocks over each of so many rows of `len` numbers. Kernels loop over rows that the grid is too low for.
fn over_rows(rows: usize, len: usize) -> Result<LaunchConfig> {
    let grid_dim = (u32_of(len)?.div_ceil(THREADS), u32_of(rows)?.min(HIGHEST), 1);
    Ok(LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
}

/// Blocks over `len` numbers.
fn over(len: usize) -> Result<LaunchConfig> {
    let grid_dim = (u32_of(len.div_ceil(THREADS as usize))?, 1, 1);
    Ok(LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
}

/// Refuses to launch where a buffer has another size than the kernel will believe.
fn check(what: &str, sizes: &[(usize, usize)]) -> Result<()> {
    match sizes.iter().find(|(found, expected)| found != expected || *found == 0) {
        Some((found, expected)) => bail!("{what}: a buffer of {found} numbers where {expected} are expected"),
        None => Ok(()),
    }
}

/// Launches a kernel with these arguments, each by reference. To be called where it is sound to: the lengths of all
/// buffers were checked, and the kernel reads and writes within them.
macro_rules! launch {
    ($program:expr, $device:expr, $name:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let kernel = $program.function($device, $name)?;
        let mut builder = kernel.builder();
        $(builder.arg($argument);)+
        unsafe { builder.launch($config) }.w().map(drop)
    }};
}
use launch;
