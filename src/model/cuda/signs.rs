//! Codes from logits on a GPU: of 48 bits, a thirty-second of the bytes comes back.

#![expect(unsafe_code, reason = "launches a kernel; its safe twin is `Signs::of`")]

use crate::device::cuda::cudarc::driver::CudaSlice;
use crate::device::cuda::{CudaDevice, LaunchConfig, Program, PushKernelArg, WrapErr};
use candle_core::{Result, Storage, Tensor, bail};

const PROGRAM: Program = Program::new("signs", &[include_str!("signs.cu")]);

/// Two words more for each row of logits than its bits take: see `signs.cu`.
pub(in crate::model) fn pack(device: &CudaDevice, logits: &Tensor) -> Result<CudaSlice<u64>> {
    let (count, bits) = logits.dims2()?;
    let logits = logits.detach().contiguous()?;
    let (storage, layout) = logits.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("logits that are not on the GPU") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("logits that are not contiguous") };
    let numbers = storage.as_cuda_slice::<f32>()?.slice(start..end);
    let width = bits.div_ceil(64);
    let mut words = device.alloc_zeros::<u64>((count * (width + 2)).max(1))?;
    let (Ok(rows), Ok(bits), Ok(width)) = (u32::try_from(count), i32::try_from(bits), i32::try_from(width)) else {
        bail!("{count} codes at once")
    };
    if rows > 0 {
        let kernel = PROGRAM.function(device, "pack_signs")?;
        let mut builder = kernel.builder();
        builder.arg(&numbers).arg(&bits).arg(&width).arg(&mut words);
        let config = LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
        // Sound: there are `bits` numbers and `width + 2` words for each row.
        unsafe { builder.launch(config) }.w()?;
    }
    Ok(words)
}
