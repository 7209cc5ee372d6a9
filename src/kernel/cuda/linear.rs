//! Linear layers on a GPU, and their gradients.

use super::elements::{bias_relu, column_sums, relu_gradient};
use super::product::{Held, Sizes, multiply};
use super::{check, uninit, values_mut};
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use crate::device::cuda::{CudaDevice, CudaStorage};
use crate::kernel::bf16::Precision;
use crate::kernel::linear::Sizes as Layer;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};

/// `[n, m]` of a batch `[n, k]`, weights `[m, k]` and bias `[m]`.
pub(in crate::kernel) fn forward(
    device: &CudaDevice,
    Layer { n, k, m }: Layer,
    (xs, weight, bias): (CudaView<f32>, CudaView<f32>, &CudaView<f32>),
    relu: bool,
    precision: Precision,
) -> Result<CudaSlice<f32>> {
    check("linear", &[(bias.len(), m)])?;
    let mut out = uninit::<f32>(device, n * m)?;
    let (xs, weight) = (Held::new(device, xs, precision)?, Held::new(device, weight, precision)?);
    let sizes = Sizes { rows: n, columns: m, inner: k };
    let factors = (xs.factor(), weight.factor().turned());
    multiply(device, sizes, factors, &mut out.as_view_mut(), false, precision)?;
    bias_relu(device, &mut out, bias, n, relu)?;
    Ok(out)
}

/// The gradient before the ReLU, if there is one, which the others are made of.
pub(in crate::kernel) fn inner_gradient(
    device: &CudaDevice,
    ys: &CudaView<f32>,
    upstream: &CudaView<f32>,
    relu: bool,
) -> Result<Option<CudaSlice<f32>>> {
    relu.then(|| relu_gradient(device, upstream, ys)).transpose()
}

/// The gradients by the input, `[n, k]`, and by the bias, `[m]`, of the outputs' `[n, m]`.
pub(in crate::kernel) fn backward(
    device: &CudaDevice,
    Layer { n, k, m }: Layer,
    weight: CudaView<f32>,
    gradient: &CudaView<f32>,
    precision: Precision,
) -> Result<(CudaSlice<f32>, CudaSlice<f32>)> {
    let mut dx = uninit::<f32>(device, n * k)?;
    let bias = column_sums(device, gradient, m)?;
    let (weight, gradient) = (Held::new(device, weight, precision)?, Held::new(device, gradient.slice(..), precision)?);
    let sizes = Sizes { rows: n, columns: k, inner: m };
    let factors = (gradient.factor(), weight.factor());
    multiply(device, sizes, factors, &mut dx.as_view_mut(), false, precision)?;
    Ok((dx, bias))
}

/// Writes the gradient of the weights, `[m, k]`, of the outputs' `[n, m]`.
pub(in crate::kernel) struct IntoSink<'a> {
    pub(in crate::kernel) device: &'a CudaDevice,
    pub(in crate::kernel) layer: Layer,
    pub(in crate::kernel) xs: &'a CudaView<'a, f32>,
    pub(in crate::kernel) gradient: &'a CudaView<'a, f32>,
    pub(in crate::kernel) precision: Precision,
}

impl InplaceOp1 for IntoSink<'_> {
    fn name(&self) -> &'static str {
        "linear-weight-gradient"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("linear: the batch lies on a GPU, its weights on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Self { device, layer: Layer { n, k, m }, xs, gradient, precision } = *self;
        let mut out: CudaViewMut<f32> = values_mut(storage, layout)?;
        let sizes = Sizes { rows: m, columns: k, inner: n };
        let xs = Held::new(device, xs.slice(..), precision)?;
        let gradient = Held::new(device, gradient.slice(..), precision)?;
        multiply(device, sizes, (gradient.factor().turned(), xs.factor()), &mut out, false, precision)
    }
}
