//! Convolution, bias, ReLU and max pooling in one operation, on maps `[n, height, width, channels]`.
//!
//! With the channels innermost, a row of a window is one run of numbers, so that nothing has to be unfolded or packed but
//! the weights (`packed.rs`); a frame of zeros around each image (`frame.rs`) spares the borders. Forward and towards the
//! input, images are computed side by side; towards the weights, each thread sums some of them up over all images.
//!
//! Here is the operation as candle sees it. [`forward`] and [`backward`] compute it on the CPU: both by [`windows`], that
//! is all filters over one image, and backward by the [`weight_sums`]. All are of the sizes in [`job`].

mod backward;
mod forward;
mod job;
mod weight_sums;
mod weight_sums_pairs;
mod windows;

pub(super) use job::Job;

use super::bf16::Precision;
use super::frame::{Form, Geometry};
use super::host::{host, values};
use super::pool::MaxPool2d;
use super::scratch::Shared;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use job::framed;
use std::sync::{Mutex, PoisonError};

#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(feature = "cuda")]
use crate::device::cuda::{CudaStorage, cudarc};
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage as _;

/// A convolution of square windows as PyTorch's `conv2d`, then `relu` and `max_pool2d` where asked.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    pub stride: usize,
    pub padding: usize,
    pub relu: bool,
    pub pool: Option<MaxPool2d>,
    pub input: Input,
    pub precision: Precision,
}

/// What a convolution is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Images `[n, c, h, w]`, which need no gradient.
    Images,
    /// Maps `[n, h, w, c]` of another layer.
    Maps,
}

impl Conv2d {
    /// Maps `[n, oh, ow, m]` of the input under weights `[m, c, k, k]` and bias `[m]`.
    pub fn apply(&self, xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let trained = xs.track_op() || weight.track_op() || bias.track_op();
        xs.apply_op3(weight, bias, Operation { conv: *self, trained, winners: Mutex::default() })
    }

    /// The order of the input's numbers.
    fn form(&self) -> Form {
        match self.input {
            Input::Images => Form::Planes,
            Input::Maps => Form::Pixels,
        }
    }

    fn job(&self, xs: &[usize], weight: &[usize]) -> Result<Job> {
        let (&[images, a, b, c], &[filters, inputs, kernel, across]) = (xs, weight) else {
            bail!("conv2d: expected 4 dimensions, got {xs:?} and weights {weight:?}");
        };
        let image = match self.input {
            Input::Images => [b, c, a],
            Input::Maps => [a, b, c],
        };
        if inputs != image[2] || kernel != across || images == 0 || filters == 0 {
            bail!("conv2d: weights {weight:?} do not fit {xs:?}");
        }
        let geometry = Geometry::new(image, kernel, self.stride, self.padding)?;
        let pool = |pool: MaxPool2d| pool.of(geometry.out_height, geometry.out_width, filters);
        let pooling = self.pool.map(pool).transpose()?;
        let frame = framed(geometry.frame(self.form()), self.stride, self.precision);
        Ok(Job { geometry, frame, pooling, images, filters, relu: self.relu, precision: self.precision })
    }
}

/// One forward pass, and what its backward pass has to know.
struct Operation {
    conv: Conv2d,
    /// Whether there will be a backward pass.
    trained: bool,
    /// Where each maximum of the pooling was found in its window.
    winners: Mutex<Winners>,
}

/// Places in windows, where the operation ran.
#[derive(Default)]
struct Winners {
    host: Vec<u8>,
    #[cfg(feature = "cuda")]
    gpu: Option<cudarc::driver::CudaSlice<u8>>,
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let job = self.conv.job(xs_layout.dims(), weight_layout.dims())?;
        let (xs, weights, bias) = (values(xs, xs_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        if bias.len() != job.filters {
            bail!("conv2d: {} biases for {} filters", bias.len(), job.filters);
        }
        let noted = self.trained && job.pooling.is_some();
        let mut winners = vec![0; if noted { job.images * job.out_len() } else { 0 }];
        let out = job.forward(xs, weights, bias, &mut winners);
        self.winners.lock().unwrap_or_else(PoisonError::into_inner).host = winners;
        Ok((CpuStorage::F32(out), job.out_shape()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let job = self.conv.job(xs_layout.dims(), weight_layout.dims())?;
        let (xs, device) = (cuda::values(xs, xs_layout)?, xs.device());
        let (weight, bias) = (cuda::values(weight, weight_layout)?, cuda::values(bias, bias_layout)?);
        let tensors = (&xs, &weight, &bias);
        let (out, winners) = cuda::conv_forward(device, &job, self.conv.form(), tensors, self.trained)?;
        self.winners.lock().unwrap_or_else(PoisonError::into_inner).gpu = winners;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), job.out_shape()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        ys: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let job = self.conv.job(xs.dims(), weight.dims())?;
        let upstream = upstream.contiguous()?;
        let winners = self.winners.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(feature = "cuda")]
        if xs.device().is_cuda() {
            return self.cuda_bwd(&job, [xs, weight, ys, &upstream], winners.gpu.as_ref());
        }
        let (xs_host, weight_host, ys_host, up_host) = (host(xs), host(weight), host(ys), host(&upstream));
        let mut gradient = Shared::take();
        let gradient = gradient.sized(job.images * job.conv_len());
        let db = job.inner_gradient(ys_host.values()?, up_host.values()?, &winners.host, gradient);
        let dw = job.weight_gradient(xs_host.values()?, gradient);
        let dx = match self.conv.input {
            Input::Images => None,
            Input::Maps => {
                let dx = job.input_gradient(weight_host.values()?, gradient);
                Some(Tensor::from_vec(dx, xs.shape(), xs.device())?)
            }
        };
        let dw = Tensor::from_vec(dw, weight.shape(), weight.device())?;
        let db = Tensor::from_vec(db, job.filters, weight.device())?;
        Ok((dx, Some(dw), Some(db)))
    }
}

#[cfg(feature = "cuda")]
impl Operation {
    /// Gradients of `[xs, weight, ys, upstream]` on a GPU.
    fn cuda_bwd(
        &self,
        job: &Job,
        [xs, weight, ys, upstream]: [&Tensor; 4],
        winners: Option<&cudarc::driver::CudaSlice<u8>>,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let device = &cuda::device_of(xs)?;
        let (on_xs, on_weight, on_ys, on_up) = (cuda::gpu(xs), cuda::gpu(weight), cuda::gpu(ys), cuda::gpu(upstream));
        let passed = cuda::Passed { xs: on_xs.values()?, weight: on_weight.values()?, ys: on_ys.values()?, winners };
        let gradients = cuda::conv_backward(device, job, self.conv.form(), &passed, &on_up.values()?)?;
        let dx = gradients.input.map(|dx| cuda::tensor(dx, device, xs.shape())).transpose()?;
        let dw = cuda::tensor(gradients.weight, device, weight.shape())?;
        Ok((dx, Some(dw), Some(cuda::tensor(gradients.bias, device, job.filters)?)))
    }
}

#[cfg(test)]
mod tests;
