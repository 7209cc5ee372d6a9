//! Launches what makes windows of maps the rows of a matrix, and back.

#![expect(unsafe_code, reason = "kernels are launched, each after its buffers' sizes were checked")]

use super::product::Held;
use super::{check, launch, over_rows, u32_of, uninit};
use crate::device::cuda::cudarc::driver::{CudaView, CudaViewMut, DeviceRepr};
use crate::device::cuda::{CudaDevice, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::kernel::bf16::Precision;
use crate::kernel::frame::{Form, Geometry};
use candle_core::Result;

const UNFOLD: Program = Program::new("unfold", &[include_str!("bf16.cu"), include_str!("unfold.cu")]);

/// `Windows` of `unfold.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Windows {
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
    out_height: u32,
    out_width: u32,
    pixel: u32,
    plane: u32,
}

// Sound: it is made of numbers alone and lies as the C struct does.
unsafe impl DeviceRepr for Windows {}

impl Windows {
    fn new(geometry: &Geometry, form: Form, images: usize) -> Result<Self> {
        let (pixel, plane) = match form {
            Form::Pixels => (geometry.channels, 1),
            Form::Planes => (1, geometry.height * geometry.width),
        };
        // Places along a row of windows are told by 32 bits.
        u32_of(geometry.window_len().max(geometry.width * geometry.channels))?;
        u32_of(images * geometry.height.max(geometry.out_height))?;
        Ok(Self {
            images: u32_of(images)?,
            height: u32_of(geometry.height)?,
            width: u32_of(geometry.width)?,
            channels: u32_of(geometry.channels)?,
            kernel: u32_of(geometry.kernel)?,
            stride: u32_of(geometry.stride)?,
            padding: u32_of(geometry.padding)?,
            out_height: u32_of(geometry.out_height)?,
            out_width: u32_of(geometry.out_width)?,
            pixel: u32_of(pixel)?,
            plane: u32_of(plane)?,
        })
    }
}

/// What lies under all windows of some images: `[images * places, k * k * channels]`, as the precision has it.
pub(super) fn unfold<'a>(
    device: &CudaDevice,
    geometry: &Geometry,
    form: Form,
    xs: &CudaView<f32>,
    precision: Precision,
) -> Result<Held<'a>> {
    let images = xs.len() / geometry.image_len();
    check("unfold", &[(xs.len(), images * geometry.image_len())])?;
    let (windows, len) = (Windows::new(geometry, form, images)?, geometry.window_len());
    let total = images * geometry.places() * len;
    // Small windows get small blocks.
    let threads = u32_of(len.next_multiple_of(32))?.min(super::THREADS);
    let over = over_rows(images * geometry.out_height, len)?;
    let grid_dim = (u32_of(len)?.div_ceil(threads), over.grid_dim.1, 1);
    let config = LaunchConfig { grid_dim, block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    if precision == Precision::Bf16 {
        let mut out = uninit::<u16>(device, total)?;
        launch!(UNFOLD, device, "unfold_bf16", config, &windows, xs, &mut out)?;
        return Ok(Held::Rounded(out));
    }
    let mut out = uninit::<f32>(device, total)?;
    launch!(UNFOLD, device, "unfold_f32", config, &windows, xs, &mut out)?;
    Ok(Held::Made(out))
}

/// Adds up what windows, `[images * places, k * k * channels]`, hold of each number of the maps, to all of `out`.
pub(super) fn fold(
    device: &CudaDevice,
    geometry: &Geometry,
    windows: &CudaView<f32>,
    out: &mut CudaViewMut<f32>,
) -> Result<()> {
    let images = out.len() / geometry.image_len();
    let total = images * geometry.places() * geometry.window_len();
    check("fold", &[(out.len(), images * geometry.image_len()), (windows.len(), total)])?;
    let config = over_rows(images * geometry.height, geometry.width * geometry.channels)?;
    let sizes = Windows::new(geometry, Form::Pixels, images)?;
    launch!(UNFOLD, device, "fold", config, &sizes, windows, out)
}
