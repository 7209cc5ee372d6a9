//! Maps turned into rows of numbers, for the linear layers behind them.

use super::host::values;
use super::linear::transpose;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Maps `[n, h, w, c]` as rows `[n, c * h * w]` in the order of torchvision's weights: channel after channel.
pub fn flatten(maps: &Tensor) -> Result<Tensor> {
    let (_, height, width, columns) = maps.dims4()?;
    maps.contiguous()?.apply_op1(Turn { rows: height * width, columns })
}

/// Every image's `[rows, columns]` becomes `[columns, rows]`.
#[derive(Debug, Clone, Copy)]
struct Turn {
    rows: usize,
    columns: usize,
}

impl Turn {
    /// Numbers of an image, and the shape of what comes out.
    fn sizes(self, layout: &Layout) -> Result<(usize, Shape)> {
        let (len, count) = (self.rows * self.columns, layout.shape().elem_count());
        if len == 0 || count == 0 || !count.is_multiple_of(len) {
            bail!("flatten: {:?} are no images of {self:?}", layout.shape());
        }
        Ok((len, (count / len, len).into()))
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (len, shape) = self.sizes(layout)?;
        let xs = values(storage, layout)?;
        let mut out = vec![0.0; xs.len()];
        let images = out.par_chunks_exact_mut(len).zip(xs.par_chunks_exact(len));
        images.for_each(|(out, image)| transpose(image, self.columns, out));
        Ok((CpuStorage::F32(out), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let (_, shape) = self.sizes(layout)?;
        let (device, xs) = (storage.device(), super::cuda::values(storage, layout)?);
        let out = super::cuda::transpose(device, &xs, shape.dims()[0], self.rows, self.columns)?;
        Ok((candle_core::CudaStorage::wrap_cuda_slice(out, device.clone()), shape))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let back = Self { rows: self.columns, columns: self.rows };
        Ok(Some(upstream.contiguous()?.apply_op1_no_bwd(&back)?.reshape(xs.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{agree, tensor};
    use candle_core::Var;

    #[test]
    fn agrees_with_candle_forward_and_backward() {
        for shape in [(1, 1, 1, 1), (3, 2, 5, 7), (2, 40, 3, 1), (2, 1, 1, 70), (5, 6, 6, 33)] {
            let maps = [Var::from_tensor(&tensor(1, shape)).unwrap()];
            let plain = maps[0].permute((0, 3, 1, 2)).unwrap().flatten_from(1).unwrap().contiguous().unwrap();
            agree(&flatten(&maps[0]).unwrap(), &plain, &maps, 0.0);
        }
    }
}
