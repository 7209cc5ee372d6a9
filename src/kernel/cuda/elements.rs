//! Launches what is done to numbers one by one, to columns, and to the order of numbers.

#![expect(unsafe_code, reason = "kernels are launched, each after its buffers' sizes were checked")]

use super::{HIGHEST, check, launch, over, over_rows, u32_of, uninit};
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView};
use crate::device::cuda::{CudaDevice, LaunchConfig, Program, PushKernelArg, WrapErr};
use candle_core::{Result, bail};

const ELEMENTS: Program = Program::new("elements", &[include_str!("bf16.cu"), include_str!("elements.cu")]);

/// Rows that one block adds up, at least; the most parts that columns are added up in.
const PART: usize = 64;
const PARTS: usize = 512;

/// Adds a bias per channel to numbers `[.., channels]`, then the ReLU where asked.
///
/// They are `rows` rows, so that places in one can be told by 32 bits.
pub(super) fn bias_relu(
    device: &CudaDevice,
    values: &mut CudaSlice<f32>,
    bias: &CudaView<f32>,
    rows: usize,
    relu: bool,
) -> Result<()> {
    let (len, channels) = (values.len() / rows.max(1), bias.len());
    check("bias", &[(values.len(), rows * len), (len % channels.max(1) + 1, 1)])?;
    let (config, relu) = (over_rows(rows, len)?, i32::from(relu));
    let (rows, len, channels) = (u32_of(rows)?, u32_of(len)?, u32_of(channels)?);
    launch!(ELEMENTS, device, "bias_relu", config, values, bias, &rows, &len, &channels, &relu)
}

/// The gradient before the ReLU whose output is `ys`.
pub(super) fn relu_gradient(
    device: &CudaDevice,
    upstream: &CudaView<f32>,
    ys: &CudaView<f32>,
) -> Result<CudaSlice<f32>> {
    check("relu", &[(upstream.len(), ys.len())])?;
    let mut gradient = uninit::<f32>(device, ys.len())?;
    let (config, len) = (over(ys.len())?, ys.len() as u64);
    launch!(ELEMENTS, device, "relu_gradient", config, upstream, ys, &mut gradient, &len)?;
    Ok(gradient)
}

/// Sums of the columns of `[rows, columns]`, in parts first, so that many blocks have work and rounding stays small.
pub(super) fn column_sums(device: &CudaDevice, matrix: &CudaView<f32>, columns: usize) -> Result<CudaSlice<f32>> {
    let rows = matrix.len() / columns.max(1);
    check("sums", &[(matrix.len(), rows * columns)])?;
    let part = PART.max(rows.div_ceil(PARTS));
    let parts = sums_of_parts(device, matrix, columns, part)?;
    if parts.len() == columns {
        return Ok(parts);
    }
    let rows = parts.len() / columns;
    sums_of_parts(device, &parts.as_view(), columns, rows)
}

fn sums_of_parts(device: &CudaDevice, matrix: &CudaView<f32>, columns: usize, part: usize) -> Result<CudaSlice<f32>> {
    let rows = matrix.len() / columns;
    let parts = rows.div_ceil(part);
    let mut sums = uninit::<f32>(device, parts * columns)?;
    let grid_dim = (u32_of(columns)?.div_ceil(32), u32_of(parts)?, 1);
    let config = LaunchConfig { grid_dim, block_dim: (32, 8, 1), shared_mem_bytes: 0 };
    let (rows, columns, part) = (rows as u64, u32_of(columns)?, part as u64);
    launch!(ELEMENTS, device, "column_sums", config, matrix, &mut sums, &rows, &columns, &part)?;
    Ok(sums)
}

/// Turns so many matrices of `[rows, columns]` into `[columns, rows]`.
pub(in crate::kernel) fn transpose(
    device: &CudaDevice,
    from: &CudaView<f32>,
    matrices: usize,
    rows: usize,
    columns: usize,
) -> Result<CudaSlice<f32>> {
    check("transpose", &[(from.len(), matrices * rows * columns)])?;
    let mut to = uninit::<f32>(device, from.len())?;
    let (matrices, rows, columns) = (u32_of(matrices)?, u32_of(rows)?, u32_of(columns)?);
    if rows.div_ceil(32) > HIGHEST {
        bail!("transpose: {rows} rows are more than a GPU's grid is high");
    }
    let grid_dim = (columns.div_ceil(32), rows.div_ceil(32), matrices.min(HIGHEST));
    let config = LaunchConfig { grid_dim, block_dim: (32, 8, 1), shared_mem_bytes: 0 };
    launch!(ELEMENTS, device, "transpose", config, from, &mut to, &matrices, &rows, &columns)?;
    Ok(to)
}

/// The numbers rounded to bf16, as their bits.
pub(super) fn rounded(device: &CudaDevice, from: &CudaView<f32>) -> Result<CudaSlice<u16>> {
    let mut to = uninit::<u16>(device, from.len())?;
    let (config, len) = (over(from.len())?, from.len() as u64);
    launch!(ELEMENTS, device, "round_bf16", config, from, &mut to, &len)?;
    Ok(to)
}
