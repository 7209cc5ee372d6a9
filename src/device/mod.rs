//! CPU, or a CUDA slot, as a candle device; in builds with CUDA, also what compiles and launches programs on one.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(all(feature = "cuda", target_arch = "x86_64", target_os = "linux"))]
mod libraries;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
#[cfg(feature = "cuda")]
pub(crate) mod pinned;
mod room;

pub use room::give;

use crate::error::Result;
use candle_core::Device;

/// Opens the CPU (`None`) or the GPU in the given slot.
///
/// A GPU is opened once in a process; asked again, the same device is given. All work on it goes through one stream: it is
/// done in the order in which it was asked for, whichever threads ask.
///
/// # Errors
/// If this build has no CUDA, or the driver, the GPU or one of CUDA's libraries cannot be used: what is wrong, and what
/// to do about it.
pub fn open(slot: Option<usize>) -> Result<Device> {
    match slot {
        None => Ok(Device::Cpu),
        Some(slot) => open_gpu(slot),
    }
}

#[cfg(feature = "cuda")]
fn open_gpu(slot: usize) -> Result<Device> {
    cuda::open(slot)
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(_: usize) -> Result<Device> {
    Err(crate::error::Error::input("a GPU was asked for, but this hashpipe was built without CUDA").hint(HOW_TO_BUILD))
}

/// Whether it is a GPU of which this process was given a part.
pub(crate) fn is_shared(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return room::given(gpu.cuda_stream().context().ordinal()).is_some();
    }
    let _ = device;
    false
}

/// The GPU in a slot, for a test; nothing, and a word about it, where there is none.
#[cfg(all(test, feature = "cuda"))]
#[expect(clippy::print_stderr, reason = "a test that is skipped must say so")]
pub(crate) fn for_test(slot: usize) -> Option<Device> {
    // Scripts look for these words: a machine with one GPU is all right, one without is not.
    let which = if slot == 0 { "no GPU" } else { "no second GPU" };
    open_gpu(slot).map_err(|error| eprintln!("skipped: {which}: {}", error.message())).ok()
}

/// Makes a GPU the one that this thread speaks to. Most calls do so themselves, but memory is freed without.
///
/// # Errors
/// A GPU that was lost.
pub(crate) fn bind(device: &Device) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return cuda::WrapErr::w(gpu.cuda_stream().context().bind_to_thread());
    }
    let _ = device;
    Ok(())
}

/// What to do where a GPU cannot be used.
#[cfg(feature = "cuda")]
const USE_THE_CPU: &str = "`--gpus 0` of `run` and `--device cpu` of other commands use the CPU";

/// What to do about a build without CUDA.
pub const HOW_TO_BUILD: &str = "leave out `--gpus` or `--device` to use the CPU; `scripts/cuda-toolkit.sh build` makes a \
                                hashpipe for NVIDIA GPUs (README, \"GPU\")";

/// Whether this build can use GPUs at all.
pub const fn can_use_gpus() -> bool {
    cfg!(feature = "cuda")
}
