//! Sums over several GPUs by NCCL: from card to card, without the way through main memory.

use super::cuda::CudaStorage;
use super::cuda::cudarc::nccl::result::NcclError;
use super::cuda::cudarc::nccl::{Comm, ReduceOp, group_end, group_start};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, bail};

/// Several GPUs of one process, each with a place in every sum.
pub(crate) struct Ring {
    comms: Vec<Comm>,
}

impl Ring {
    /// Of different GPUs, in order.
    ///
    /// # Errors
    /// Devices that are no GPUs, or one GPU twice; GPUs that NCCL cannot bring together.
    pub(crate) fn new(devices: &[Device]) -> Result<Self> {
        let stream = |device: &Device| match device {
            Device::Cuda(gpu) => Ok(gpu.cuda_stream()),
            _ => Err(Error::resources("NCCL adds up between GPUs only")),
        };
        let streams = devices.iter().map(stream).collect::<Result<_>>()?;
        let comms = Comm::from_devices(streams).map_err(|e| {
            Error::resources(format!("NCCL cannot bring {} GPUs together", devices.len()))
                .note(told(&e))
                .hint("`NCCL_DEBUG=INFO` makes it tell why, in the task's log; `gpus = 1` trains on one")
        })?;
        Ok(Self { comms })
    }

    /// Replaces the tensors of each GPU by the sums over all of them: `tensors[gpu][number]`, contiguous, of f32, of equal
    /// sizes on all. All of them get the same bits.
    ///
    /// The work is given to the GPUs' streams and not waited for.
    pub(crate) fn sum(&self, tensors: &[Vec<Tensor>]) -> candle_core::Result<()> {
        let count = tensors.first().map_or(0, Vec::len);
        if tensors.len() != self.comms.len() || tensors.iter().any(|of_one| of_one.len() != count) {
            bail!("nccl: tensors of {} devices for {} GPUs", tensors.len(), self.comms.len());
        }
        // One thread speaks to all GPUs, so nothing may begin before all of it is said; and it must end, whatever fails.
        group_start().map_err(error)?;
        let said = (0..count).try_for_each(|number| {
            self.comms.iter().zip(tensors).try_for_each(|(comm, of_one)| of_one[number].inplace_op1(&Sum(comm)))
        });
        let ended = group_end().map_err(error);
        said.and(ended.map(|_| ()))
    }
}

/// One GPU's part of a sum.
struct Sum<'a>(&'a Comm);

impl InplaceOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "nccl-sum"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        bail!("nccl: a tensor on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("nccl: a tensor that is not contiguous") };
        let numbers = storage.as_cuda_slice_mut::<f32>()?;
        self.0.all_reduce_in_place(&mut numbers.slice_mut(start..end), &ReduceOp::Sum).map_err(error)?;
        Ok(())
    }
}

fn error(e: NcclError) -> candle_core::Error {
    candle_core::Error::Msg(told(&e))
}

/// An error of NCCL, as its own documentation calls it.
fn told(error: &NcclError) -> String {
    format!("NCCL: {:?}", error.0)
}
