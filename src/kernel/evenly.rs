//! A batch in parts of one size, where an image's numbers would depend on how many others there are.

use candle_core::{Result, Tensor};

/// Images of a part. Linear layers read all of their weights for each, which fewer images would make dear.
#[cfg(feature = "cuda")]
const PART: usize = 64;

/// What `forward` makes of each row of a batch.
///
/// On a GPU, libraries choose how to add up by the size of the batch. It is therefore given to `forward` in parts of 64
/// rows, the last one filled up with zeros: a row's numbers depend neither on how many there are, nor on how a list was
/// cut into batches. On a CPU they never do, and the batch stays whole.
pub fn evenly(xs: &Tensor, forward: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = xs.device() {
        return on_gpu(device, xs, forward);
    }
    forward(xs)
}

#[cfg(feature = "cuda")]
fn on_gpu(
    device: &crate::device::cuda::CudaDevice,
    xs: &Tensor,
    forward: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    use super::cuda::{gpu, tensor};
    let rows = xs.dim(0)?;
    if rows == 0 {
        return forward(xs);
    }
    let row_len = xs.elem_count() / rows;
    let mut shape = xs.dims().to_vec();
    shape[0] = PART;
    let mut out = None;
    for first in (0..rows).step_by(PART) {
        let count = PART.min(rows - first);
        let part = xs.narrow(0, first, count)?.contiguous()?;
        let ys = if count == PART {
            forward(&part)?
        } else {
            let mut filled = device.alloc_zeros::<f32>(PART * row_len)?;
            device.memcpy_dtod(&gpu(&part).values()?, &mut filled.slice_mut(..count * row_len))?;
            forward(&tensor(filled, device, shape.as_slice())?)?
        }
        .contiguous()?;
        let width = ys.elem_count() / PART;
        let all = match &mut out {
            Some(all) => all,
            None => out.insert(device.alloc_zeros::<f32>(rows * width)?),
        };
        let (from, to) = (gpu(&ys), first * width..(first + count) * width);
        device.memcpy_dtod(&from.values()?.slice(..count * width), &mut all.slice_mut(to))?;
    }
    let Some(all) = out else { return forward(xs) };
    let width = all.len() / rows;
    tensor(all, device, (rows, width))
}
