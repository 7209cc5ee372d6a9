//! Dropout on a GPU, with the mask that the CPU draws.

#![expect(unsafe_code, reason = "launches a kernel; its safe twin is `Dropout::apply`")]

use super::super::dropout::{CHUNK, Dropout};
use super::values;
use crate::device::cuda::{CudaStorage, LaunchConfig, Program, PushKernelArg, WrapErr};
use candle_core::backend::BackendStorage;
use candle_core::{Layout, Result, Shape, bail};

const PROGRAM: Program = Program::new("dropout", &[include_str!("../../seeded.cu"), include_str!("dropout.cu")]);

/// Threads of a block, which does a chunk.
const THREADS: u32 = 256;

/// The numbers after dropout.
pub(in crate::kernel) fn dropout(op: &Dropout, xs: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let (xs, device) = (values(xs, layout)?, xs.device());
    let count = layout.shape().elem_count();
    // Sound: the kernel writes all of it.
    let mut ys = unsafe { device.alloc::<f32>(count.max(1)) }?;
    let chunks = (op.first + count).div_ceil(CHUNK) - op.first / CHUNK;
    let Ok(chunks) = u32::try_from(chunks) else { bail!("dropout of {count} numbers") };
    if count > 0 {
        let (below, scale) = op.rule();
        let kernel = PROGRAM.function(device, "dropout")?;
        let mut builder = kernel.builder();
        let (first, count) = (op.first as u64, count as u64);
        builder.arg(&xs).arg(&mut ys).arg(&first).arg(&count).arg(&op.seed).arg(&op.step).arg(&op.layer);
        builder.arg(&below).arg(&scale);
        let config = LaunchConfig { grid_dim: (chunks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // Sound: it reads and writes `count` numbers, which both have.
        unsafe { builder.launch(config) }.w()?;
    }
    Ok((CudaStorage::wrap_cuda_slice(ys, device.clone()), layout.shape().clone()))
}
