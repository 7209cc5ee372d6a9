//! Launches bias, ReLU and max pooling in one pass, and its gradient.

#![expect(unsafe_code, reason = "kernels are launched, each after its buffers' sizes were checked")]

use super::{check, launch, over_rows, u32_of, uninit};
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use crate::device::cuda::{CudaDevice, Program, PushKernelArg, WrapErr};
use crate::kernel::pool::Pooling;
use candle_core::Result;

const POOL: Program = Program::new("pool", &[include_str!("pool.cu")]);

/// `Pooling` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sizes {
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    window: u32,
    stride: u32,
    out_height: u32,
    out_width: u32,
}

// Sound: it is made of numbers alone and lies as the C struct does.
unsafe impl DeviceRepr for Sizes {}

impl Sizes {
    fn new(pooling: &Pooling, images: usize) -> Result<Self> {
        Ok(Self {
            images: u32_of(images)?,
            height: u32_of(pooling.height)?,
            width: u32_of(pooling.width)?,
            channels: u32_of(pooling.channels)?,
            window: u32_of(pooling.kernel)?,
            stride: u32_of(pooling.stride)?,
            out_height: u32_of(pooling.out_height)?,
            out_width: u32_of(pooling.out_width)?,
        })
    }
}

/// Numbers of one map, before and after.
fn lens(pooling: &Pooling) -> (usize, usize) {
    let &Pooling { height, width, channels, out_height, out_width, .. } = pooling;
    (height * width * channels, out_height * out_width * channels)
}

/// Bias, ReLU where asked, and maxima of `images` maps; where they were found, if that is to be `noted`.
pub(super) fn forward(
    device: &CudaDevice,
    pooling: &Pooling,
    maps: &CudaView<f32>,
    bias: &CudaView<f32>,
    relu: bool,
    noted: bool,
) -> Result<(CudaSlice<f32>, Option<CudaSlice<u8>>)> {
    let (len, out_len) = lens(pooling);
    let images = maps.len() / len;
    check("pooling", &[(maps.len(), images * len), (bias.len(), pooling.channels)])?;
    let sizes = Sizes::new(pooling, images)?;
    let mut out = uninit::<f32>(device, images * out_len)?;
    let mut winners = noted.then(|| uninit::<u8>(device, images * out_len)).transpose()?;
    let (config, relu) = (over_rows(images, out_len)?, i32::from(relu));
    match &mut winners {
        Some(winners) => {
            launch!(POOL, device, "bias_relu_pool", config, &sizes, maps, bias, &mut out, winners, &relu)?;
        }
        // A null pointer.
        None => launch!(POOL, device, "bias_relu_pool", config, &sizes, maps, bias, &mut out, &0u64, &relu)?,
    }
    Ok((out, winners))
}

/// The gradient before pooling, ReLU and bias.
pub(super) fn backward(
    device: &CudaDevice,
    pooling: &Pooling,
    upstream: &CudaView<f32>,
    ys: &CudaView<f32>,
    winners: &CudaSlice<u8>,
    relu: bool,
) -> Result<CudaSlice<f32>> {
    let (len, out_len) = lens(pooling);
    let images = ys.len() / out_len;
    check("pooling", &[(ys.len(), images * out_len), (upstream.len(), ys.len()), (winners.len(), ys.len())])?;
    let sizes = Sizes::new(pooling, images)?;
    let mut gradient = uninit::<f32>(device, images * len)?;
    let (config, relu) = (over_rows(images, len)?, i32::from(relu));
    launch!(POOL, device, "pool_gradient", config, &sizes, upstream, ys, winners, &mut gradient, &relu)?;
    Ok(gradient)
}
