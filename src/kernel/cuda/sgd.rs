//! Momentum SGD on a GPU: all parameters of a network in one launch.

#![expect(unsafe_code, reason = "launches kernels; their safe twins are `momentum_step` and `is_finite`")]

use super::super::sgd::{Rates, Update};
use super::values;
use crate::device::cuda::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use crate::device::cuda::{CudaDevice, CudaStorage, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::device::pinned::Uploads;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use std::cell::RefCell;

const PROGRAM: Program = Program::new("sgd", &[include_str!("sgd.cu")]);

const THREADS: u32 = 256;
/// Numbers that a block takes.
const PER_BLOCK: usize = 256 * 16;
/// Words of an entry of the table, as in `sgd.cu`.
const ENTRY: usize = 6;

/// What the kernels are told of the parameters.
#[derive(Default)]
struct Table {
    words: Vec<u64>,
    blocks: usize,
}

impl Table {
    /// Adds a parameter of so many numbers, that lies at `p`.
    fn push(&mut self, [p, g, v]: [u64; 3], count: usize, rate: f32) {
        self.words.extend([p, g, v, count as u64, self.blocks as u64, u64::from(rate.to_bits())]);
        self.blocks += count.div_ceil(PER_BLOCK);
    }

    /// The number of parameters, and how the kernels are launched.
    fn config(&self) -> Result<(i32, LaunchConfig)> {
        let (Ok(parameters), Ok(blocks)) = ((self.words.len() / ENTRY).try_into(), self.blocks.try_into()) else {
            bail!("sgd: more numbers than a launch can have")
        };
        Ok((parameters, LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }))
    }
}

/// Updates all parameters, which are on this GPU as all else is. Shapes have been compared.
pub(in crate::kernel) fn momentum_steps(
    device: &CudaDevice,
    updates: &[Update],
    rates: Rates,
    uploads: &mut Uploads,
) -> Result<()> {
    // A kernel could not be stopped from reading beyond a number's worth of blocks that nobody has.
    let updates: Vec<&Update> = updates.iter().filter(|update| update.p.elem_count() > 0).collect();
    let state = RefCell::new((Table::default(), uploads));
    Holding { device, held: None, rest: &updates, rates, state: &state }.next()
}

/// Holds the numbers of some parameters and velocities for writing, and of gradients for reading, until all are held: then
/// the kernel is launched.
struct Holding<'a> {
    device: &'a CudaDevice,
    /// The parameter that comes before its velocity, with its gradient: both lie there.
    held: Option<[u64; 2]>,
    rest: &'a [&'a Update<'a>],
    rates: Rates,
    state: &'a RefCell<(Table, &'a mut Uploads)>,
}

impl Holding<'_> {
    fn next(&self) -> Result<()> {
        match self.rest {
            [] => self.launch(),
            [update, ..] => match self.held {
                None => update.p.inplace_op1(self),
                Some(_) => update.v.inplace_op1(self),
            },
        }
    }

    fn launch(&self) -> Result<()> {
        let (table, uploads) = &mut *self.state.borrow_mut();
        if table.blocks == 0 {
            return Ok(());
        }
        let (parameters, config) = table.config()?;
        let words = uploads.send(self.device, &table.words)?;
        let kernel = PROGRAM.function(self.device, "momentum_sgd")?;
        let mut builder = kernel.builder();
        builder.arg(&words).arg(&parameters).arg(&self.rates.momentum).arg(&self.rates.decay);
        // Sound: each address of the table is that of so many numbers, and whoever found it holds them until this returns.
        // What is launched later on the device's stream, even giving memory back, comes after it.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

impl InplaceOp1 for Holding<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("sgd: parameters on the CPU among those on a GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let [update, rest @ ..] = self.rest else { bail!("sgd: nothing to hold") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("sgd: expected contiguous tensors") };
        let stream = storage.device().cuda_stream();
        let mut numbers = storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        let (place, _held) = numbers.device_ptr_mut(&stream);
        let Some([p, g]) = self.held else {
            // A parameter: its gradient is held from here on, too.
            let gradient = update.g.contiguous()?;
            let (storage, layout) = gradient.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else { bail!("sgd: a gradient that is not on the GPU") };
            let numbers = values(storage, layout)?;
            let (g, _held) = numbers.device_ptr(&stream);
            return Holding { held: Some([place, g]), ..*self }.next();
        };
        self.state.borrow_mut().0.push([p, g, place], end - start, update.lr);
        Holding { held: None, rest, ..*self }.next()
    }
}

/// Which of these tensors of f32 hold a number that is infinite or NaN; all are on this GPU.
pub(in crate::kernel) fn not_finite(device: &CudaDevice, tensors: &[&Tensor]) -> Result<Vec<bool>> {
    let stream = device.cuda_stream();
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut views = vec![];
    for (storage, layout) in &held {
        let Storage::Cuda(storage) = &**storage else { bail!("a tensor that is not on the GPU") };
        views.push(values(storage, layout)?);
    }
    let pointers: Vec<_> = views.iter().map(|view| view.device_ptr(&stream)).collect();
    let mut table = Table::default();
    for ((place, _), view) in pointers.iter().zip(&views) {
        table.push([*place, 0, 0], view.len(), 0.0);
    }
    let mut found: CudaSlice<u32> = device.alloc_zeros(tensors.len().max(1))?;
    if table.blocks > 0 {
        let (parameters, config) = table.config()?;
        let words = device.clone_htod(&table.words)?;
        let kernel = PROGRAM.function(device, "not_finite")?;
        let mut builder = kernel.builder();
        builder.arg(&words).arg(&parameters).arg(&mut found);
        // Sound: each address is that of so many numbers, which are held here; there is a word for each of them.
        unsafe { builder.launch(config) }.w()?;
    }
    let found = device.clone_dtoh(&found)?;
    Ok(found.into_iter().take(tensors.len()).map(|found| found != 0).collect())
}
