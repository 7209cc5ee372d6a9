//! CPU, or a CUDA slot, as a candle device: the only file that says "cuda".

use crate::error::{Error, Result};
use candle_core::Device;

/// Opens the CPU (`None`) or the GPU in the given slot.
pub fn open(slot: Option<usize>) -> Result<Device> {
    let Some(slot) = slot else { return Ok(Device::Cpu) };
    if !can_use_gpus() {
        return Err(Error::input("a GPU was asked for, but this hashpipe was built without CUDA")
            .note("training and encoding run on the CPU in this version")
            .hint("leave out `--gpus`"));
    }
    Device::new_cuda(slot).map_err(|e| {
        Error::input(format!("cannot open GPU {slot}"))
            .note(e.to_string())
            .hint("`nvidia-smi` shows whether the driver sees the card; without `--gpus` the CPU is used")
    })
}

/// Whether this build can use GPUs at all.
pub const fn can_use_gpus() -> bool {
    cfg!(feature = "cuda")
}
