//! Convolution, bias, ReLU and max pooling on a GPU, and their gradients.

use super::elements::{bias_relu, column_sums, relu_gradient, transpose};
use super::product::{Held, Sizes, multiply};
use super::unfold::{fold, unfold};
use super::{check, pool, uninit};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaView};
use crate::kernel::conv::Job;
use crate::kernel::frame::Form;
use candle_core::{Result, bail};

/// Bytes of unfolded windows that are held at once; the batch is cut into as many parts as that takes.
const UNFOLDED: usize = 512 << 20;

/// The output of a convolution and what follows it, and where maxima were found if that is to be `noted`.
pub(in crate::kernel) fn forward(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    (xs, weight, bias): (&CudaView<f32>, &CudaView<f32>, &CudaView<f32>),
    noted: bool,
) -> Result<(CudaSlice<f32>, Option<CudaSlice<u8>>)> {
    let weights = job.filters * job.geometry.window_len();
    let images = job.images * job.geometry.image_len();
    check("conv2d", &[(xs.len(), images), (weight.len(), weights), (bias.len(), job.filters)])?;
    let mut maps = convolved(device, job, form, xs, weight)?;
    if let Some(pooling) = &job.pooling {
        return pool::forward(device, pooling, &maps.as_view(), bias, job.relu, noted);
    }
    bias_relu(device, &mut maps, bias, job.images, job.relu)?;
    Ok((maps, None))
}

/// What a backward pass is told of the forward pass.
pub(in crate::kernel) struct Passed<'a> {
    pub(in crate::kernel) xs: CudaView<'a, f32>,
    pub(in crate::kernel) weight: CudaView<'a, f32>,
    pub(in crate::kernel) ys: CudaView<'a, f32>,
    pub(in crate::kernel) winners: Option<&'a CudaSlice<u8>>,
}

/// Gradients of one convolution; none by images.
pub(in crate::kernel) struct Gradients {
    pub(in crate::kernel) input: Option<CudaSlice<f32>>,
    pub(in crate::kernel) weight: CudaSlice<f32>,
    pub(in crate::kernel) bias: CudaSlice<f32>,
}

/// Gradients by weights and bias, and by the input unless it is images.
pub(in crate::kernel) fn backward(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    passed: &Passed,
    upstream: &CudaView<f32>,
) -> Result<Gradients> {
    let Passed { xs, weight, ys, winners } = passed;
    let weights = job.filters * job.geometry.window_len();
    let (images, outputs) = (job.images * job.geometry.image_len(), job.images * job.out_len());
    let sizes = [(xs.len(), images), (weight.len(), weights), (ys.len(), outputs), (upstream.len(), outputs)];
    check("conv2d", &sizes)?;
    let inner = match (&job.pooling, winners) {
        (Some(pooling), Some(winners)) => Some(pool::backward(device, pooling, upstream, ys, winners, job.relu)?),
        (Some(_), None) => bail!("conv2d: a forward pass that noted no maxima has no gradient"),
        (None, _) if job.relu => Some(relu_gradient(device, upstream, ys)?),
        (None, _) => None,
    };
    let gradient = inner.as_ref().map_or_else(|| upstream.slice(..), CudaSlice::as_view);
    let bias = column_sums(device, &gradient, job.filters)?;
    let weight_gradient = weight_gradient(device, job, form, xs, &gradient)?;
    let input = match form {
        Form::Planes => None,
        Form::Pixels => Some(input_gradient(device, job, weight, &gradient)?),
    };
    Ok(Gradients { input, weight: weight_gradient, bias })
}

/// Weights `[m, c, k, k]` as `[m, k, k, c]`, where neighbours lie as they do in maps.
fn turned(device: &CudaDevice, job: &Job, weight: &CudaView<f32>) -> Result<CudaSlice<f32>> {
    transpose(device, weight, job.filters, job.geometry.channels, job.geometry.kernel.pow(2))
}

/// The other way round.
fn turned_back(device: &CudaDevice, job: &Job, weight: &CudaSlice<f32>) -> Result<CudaSlice<f32>> {
    transpose(device, &weight.as_view(), job.filters, job.geometry.kernel.pow(2), job.geometry.channels)
}

/// Maps `[n, oh, ow, m]` before the bias.
fn convolved(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    xs: &CudaView<f32>,
    weight: &CudaView<f32>,
) -> Result<CudaSlice<f32>> {
    let weight = turned(device, job, weight)?;
    let mut maps = uninit::<f32>(device, job.images * job.conv_len())?;
    #[cfg(feature = "cudnn")]
    if super::cudnn::forward(device, job, form, xs, &weight.as_view(), &mut maps)? {
        return Ok(maps);
    }
    let weight = Held::new(device, weight.as_view(), job.precision)?;
    for part in Part::all(job) {
        let windows = unfold(device, &job.geometry, form, &part.of(xs, job.geometry.image_len()), job.precision)?;
        let sizes =
            Sizes { rows: part.images * job.geometry.places(), columns: job.filters, inner: job.geometry.window_len() };
        let mut out = maps.slice_mut(part.range(job.conv_len()));
        multiply(device, sizes, (windows.factor(), weight.factor().turned()), &mut out, false, job.precision)?;
    }
    Ok(maps)
}

/// The gradient of the weights, `[m, c, k, k]`, of the maps' gradient.
fn weight_gradient(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    xs: &CudaView<f32>,
    gradient: &CudaView<f32>,
) -> Result<CudaSlice<f32>> {
    let mut sum = uninit::<f32>(device, job.filters * job.geometry.window_len())?;
    #[cfg(feature = "cudnn")]
    if super::cudnn::weight_gradient(device, job, form, xs, gradient, &mut sum)? {
        return turned_back(device, job, &sum);
    }
    let gradient = Held::new(device, gradient.slice(..), job.precision)?;
    for part in Part::all(job) {
        let windows = unfold(device, &job.geometry, form, &part.of(xs, job.geometry.image_len()), job.precision)?;
        let sizes =
            Sizes { rows: job.filters, columns: job.geometry.window_len(), inner: part.images * job.geometry.places() };
        let gradient = gradient.part(part.first * job.conv_len(), part.images * job.conv_len());
        let adds = part.first > 0;
        multiply(device, sizes, (gradient.turned(), windows.factor()), &mut sum.as_view_mut(), adds, job.precision)?;
    }
    turned_back(device, job, &sum)
}

/// The gradient of the maps that came in, of the gradient of those that went out.
fn input_gradient(
    device: &CudaDevice,
    job: &Job,
    weight: &CudaView<f32>,
    gradient: &CudaView<f32>,
) -> Result<CudaSlice<f32>> {
    let weight = turned(device, job, weight)?;
    let mut dx = uninit::<f32>(device, job.images * job.geometry.image_len())?;
    #[cfg(feature = "cudnn")]
    if super::cudnn::input_gradient(device, job, &weight.as_view(), gradient, &mut dx)? {
        return Ok(dx);
    }
    let weight = Held::new(device, weight.as_view(), job.precision)?;
    let gradient = Held::new(device, gradient.slice(..), job.precision)?;
    for part in Part::all(job) {
        let (rows, columns) = (part.images * job.geometry.places(), job.geometry.window_len());
        let sizes = Sizes { rows, columns, inner: job.filters };
        let mut windows = uninit::<f32>(device, rows * columns)?;
        let gradient = gradient.part(part.first * job.conv_len(), part.images * job.conv_len());
        let factors = (gradient, weight.factor());
        multiply(device, sizes, factors, &mut windows.as_view_mut(), false, job.precision)?;
        let mut out = dx.slice_mut(part.range(job.geometry.image_len()));
        fold(device, &job.geometry, &windows.as_view(), &mut out)?;
    }
    Ok(dx)
}

/// Images of a batch whose windows are unfolded together. Only sizes decide how a batch is cut: the order of sums, and
/// with it the result, is the same on every GPU of a kind.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    images: usize,
}

impl Part {
    fn all(job: &Job) -> impl Iterator<Item = Self> + use<> {
        let image = (job.geometry.places() * job.geometry.window_len() * size_of::<f32>()).max(1);
        let (images, most) = (job.images, (UNFOLDED / image).max(1));
        (0..images).step_by(most).map(move |first| Self { first, images: most.min(images - first) })
    }

    /// Where its numbers lie, with so many to an image.
    fn range(self, len: usize) -> std::ops::Range<usize> {
        self.first * len..(self.first + self.images) * len
    }

    fn of<'a>(self, numbers: &CudaView<'a, f32>, len: usize) -> CudaView<'a, f32> {
        numbers.slice(self.range(len))
    }
}
