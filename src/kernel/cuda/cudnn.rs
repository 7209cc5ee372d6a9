//! Convolutions and their gradients by cuDNN, on maps `[n, h, w, c]` and weights `[m, k, k, c]` of f32.
//!
//! Only algorithms that give equal results each time are taken: the first of cuDNN's own order that is, and whose
//! workspace is not too large. It is asked once for each size; descriptors and the workspace are kept.
//!
//! bf16 is not among this: cuDNN would round the sums as well, where this program's bf16 rounds the factors alone.

#![expect(unsafe_code, reason = "cuDNN is C: it is called after the buffers' sizes were checked")]

use super::elements::transpose;
use super::{check, uninit};
use crate::device::cuda::cudarc::cudnn::{CudnnError, result, sys};
use crate::device::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut};
use crate::device::cuda::{CudaDevice, DeviceId, WrapErr};
use crate::kernel::bf16::Precision;
use crate::kernel::conv::Job;
use crate::kernel::frame::Form;
use candle_core::{Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::mem::{ManuallyDrop, zeroed};
use std::sync::Arc;

/// The most bytes that an algorithm may want for itself.
const WORKSPACE: usize = 1 << 30;

/// Sizes of a convolution, and whether factors are rounded to TF32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    images: c_int,
    height: c_int,
    width: c_int,
    channels: c_int,
    filters: c_int,
    kernel: c_int,
    stride: c_int,
    padding: c_int,
    out_height: c_int,
    out_width: c_int,
    tf32: bool,
}

impl Shape {
    /// Nothing if cuDNN does not take it: other precisions, and more numbers than 32 bits can tell.
    fn of(job: &Job) -> Option<Self> {
        let geometry = &job.geometry;
        let tf32 = match job.precision {
            Precision::F32 => false,
            Precision::Tf32 => true,
            Precision::Bf16 => return None,
        };
        let int = |size: usize| c_int::try_from(size).ok();
        int(job.images * geometry.image_len().max(job.conv_len()))?;
        Some(Self {
            images: int(job.images)?,
            height: int(geometry.height)?,
            width: int(geometry.width)?,
            channels: int(geometry.channels)?,
            filters: int(job.filters)?,
            kernel: int(geometry.kernel)?,
            stride: int(geometry.stride)?,
            padding: int(geometry.padding)?,
            out_height: int(geometry.out_height)?,
            out_width: int(geometry.out_width)?,
            tf32,
        })
    }
}

/// What cuDNN is to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Forward,
    Weights,
    Input,
}

/// cuDNN's descriptions of one convolution. They live as long as the process.
#[derive(Clone, Copy)]
struct Described {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

/// An algorithm of one of the passes.
#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
}

/// How a convolution is computed.
#[derive(Clone, Copy)]
struct Way {
    described: Described,
    algorithm: Algorithm,
    workspace: usize,
}

/// cuDNN on one device, of one thread: a handle may not be used by two at once.
struct Dnn {
    handle: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    /// Nothing where cuDNN has no algorithm that would do.
    ways: HashMap<(Pass, Shape), Option<Way>>,
    workspace: Option<CudaSlice<u8>>,
}

thread_local! {
    // Never dropped: the driver may be gone by the time a thread ends, and the process gives back everything.
    static DEVICES: RefCell<HashMap<DeviceId, ManuallyDrop<Dnn>>> = RefCell::default();
}

/// The maps before bias of `xs` under `weight`; false if cuDNN cannot make them.
pub(super) fn forward(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    xs: &CudaView<f32>,
    weight: &CudaView<f32>,
    maps: &mut CudaSlice<f32>,
) -> Result<bool> {
    let turned = pixels(device, job, form, xs)?;
    let xs = turned.as_ref().map_or_else(|| xs.slice(..), CudaSlice::as_view);
    compute(device, job, Pass::Forward, (&xs, weight), maps)
}

/// The gradient of the weights, `[m, k, k, c]`; false if cuDNN cannot make it.
pub(super) fn weight_gradient(
    device: &CudaDevice,
    job: &Job,
    form: Form,
    xs: &CudaView<f32>,
    gradient: &CudaView<f32>,
    sum: &mut CudaSlice<f32>,
) -> Result<bool> {
    let turned = pixels(device, job, form, xs)?;
    let xs = turned.as_ref().map_or_else(|| xs.slice(..), CudaSlice::as_view);
    compute(device, job, Pass::Weights, (&xs, gradient), sum)
}

/// The gradient of the input; false if cuDNN cannot make it.
pub(super) fn input_gradient(
    device: &CudaDevice,
    job: &Job,
    weight: &CudaView<f32>,
    gradient: &CudaView<f32>,
    dx: &mut CudaSlice<f32>,
) -> Result<bool> {
    compute(device, job, Pass::Input, (weight, gradient), dx)
}

/// Images as maps, where they are not yet.
fn pixels(device: &CudaDevice, job: &Job, form: Form, xs: &CudaView<f32>) -> Result<Option<CudaSlice<f32>>> {
    let geometry = &job.geometry;
    match (form, Shape::of(job)) {
        (Form::Planes, Some(_)) => {
            Ok(Some(transpose(device, xs, job.images, geometry.channels, geometry.height * geometry.width)?))
        }
        _ => Ok(None),
    }
}

fn compute(
    device: &CudaDevice,
    job: &Job,
    pass: Pass,
    (a, b): (&CudaView<f32>, &CudaView<f32>),
    out: &mut CudaSlice<f32>,
) -> Result<bool> {
    let Some(shape) = Shape::of(job) else { return Ok(false) };
    let (x, y) = (job.images * job.geometry.image_len(), job.images * job.conv_len());
    let w = job.filters * job.geometry.window_len();
    let (first, second, third) = match pass {
        Pass::Forward => (x, w, y),
        Pass::Weights => (x, y, w),
        Pass::Input => (w, y, x),
    };
    check("cudnn", &[(a.len(), first), (b.len(), second), (out.len(), third)])?;
    // A thread may work on several GPUs in turn.
    device.cuda_stream().context().bind_to_thread().w()?;
    DEVICES.with_borrow_mut(|devices| {
        let dnn = match devices.entry(device.id()) {
            std::collections::hash_map::Entry::Occupied(dnn) => dnn.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(ManuallyDrop::new(Dnn::new(device)?)),
        };
        let Some(way) = dnn.way(pass, shape)? else { return Ok(false) };
        dnn.make_room(device, way.workspace)?;
        match dnn.run(&way, (a, b), out) {
            Ok(()) => Ok(true),
            // It promises more than it keeps for some sizes and formats.
            Err(error) if is_refusal(error) => {
                dnn.ways.insert((pass, shape), None);
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    })
}

/// What cuDNN says, as an error of candle's.
fn failed(error: CudnnError) -> Error {
    Error::Msg(format!("cuDNN: {:?}", error.0))
}

/// Whether it means "not supported", of which there are many kinds, all in the three thousands.
fn is_refusal(error: CudnnError) -> bool {
    (3000..4000).contains(&(error.0 as u32))
}

/// The first algorithm of a list that is deterministic and wants no more workspace than it may.
macro_rules! chosen {
    ($list:expr, $kind:path) => {
        $list.iter().find_map(|found| {
            let fits = found.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && found.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && found.memory <= WORKSPACE;
            fits.then_some($kind(found.algo))
        })
    };
}

impl Dnn {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let handle = result::create_handle().map_err(failed)?;
        // Sound: both were made by the libraries, and the stream is kept beside the handle.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(failed)?;
        Ok(Self { handle, stream, ways: HashMap::new(), workspace: None })
    }

    fn way(&mut self, pass: Pass, shape: Shape) -> Result<Option<Way>> {
        if let Some(way) = self.ways.get(&(pass, shape)) {
            return Ok(*way);
        }
        let chosen = describe(&shape).and_then(|described| self.choose(pass, described));
        let way = match chosen {
            Err(error) if is_refusal(error) => None,
            way => way.map_err(failed)?,
        };
        self.ways.insert((pass, shape), way);
        Ok(way)
    }

    /// The algorithm that cuDNN expects to be the fastest of those that may be taken.
    fn choose(&self, pass: Pass, described: Described) -> std::result::Result<Option<Way>, CudnnError> {
        const MOST: usize = 16;
        let Described { x, w, y, conv } = described;
        let (handle, most, mut count) = (self.handle, MOST as c_int, 0);
        let counted = |count: c_int| usize::try_from(count).unwrap_or(0).min(MOST);
        // Sound: the descriptors are whole, and the lists are as long as is said. All zeros is a value of their structs,
        // whose enums have one of 0.
        let algorithm = unsafe {
            match pass {
                Pass::Forward => {
                    let mut list: [sys::cudnnConvolutionFwdAlgoPerf_t; MOST] = zeroed();
                    let at = list.as_mut_ptr();
                    result::get_convolution_forward_algorithm(handle, x, w, conv, y, most, &mut count, at)?;
                    chosen!(list[..counted(count)], Algorithm::Forward)
                }
                Pass::Weights => {
                    let mut list: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; MOST] = zeroed();
                    let at = list.as_mut_ptr();
                    result::get_convolution_backward_filter_algorithm(handle, x, y, conv, w, most, &mut count, at)?;
                    chosen!(list[..counted(count)], Algorithm::Weights)
                }
                Pass::Input => {
                    let mut list: [sys::cudnnConvolutionBwdDataAlgoPerf_t; MOST] = zeroed();
                    let at = list.as_mut_ptr();
                    result::get_convolution_backward_data_algorithm(handle, w, y, conv, x, most, &mut count, at)?;
                    chosen!(list[..counted(count)], Algorithm::Input)
                }
            }
        };
        let Some(algorithm) = algorithm else { return Ok(None) };
        // Sound: as above.
        let workspace = unsafe {
            match algorithm {
                Algorithm::Forward(a) => result::get_convolution_forward_workspace_size(handle, x, w, conv, y, a)?,
                Algorithm::Weights(a) => {
                    result::get_convolution_backward_filter_workspace_size(handle, x, y, conv, w, a)?
                }
                Algorithm::Input(a) => result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, a)?,
            }
        };
        Ok((workspace <= WORKSPACE).then_some(Way { described, algorithm, workspace }))
    }

    /// Makes the workspace at least so large.
    fn make_room(&mut self, device: &CudaDevice, bytes: usize) -> Result<()> {
        if self.workspace.as_ref().is_none_or(|space| space.len() < bytes) {
            // The old one is given back first.
            self.workspace = None;
            self.workspace = Some(uninit::<u8>(device, bytes.max(1 << 20))?);
        }
        Ok(())
    }

    /// Computes: forward of `x, w`; by the weights of `x, dy`; by the input of `w, dy`. There is room.
    fn run(
        &mut self,
        way: &Way,
        (a, b): (&CudaView<f32>, &CudaView<f32>),
        out: &mut CudaSlice<f32>,
    ) -> std::result::Result<(), CudnnError> {
        let Way { described: Described { x, w, y, conv }, algorithm, workspace: bytes } = *way;
        let (handle, stream) = (self.handle, &self.stream);
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let space = self.workspace.as_mut().map(|space| space.device_ptr_mut(stream));
        let (space, _space) = space.unzip();
        let (a, _a) = a.device_ptr(stream);
        let (b, _b) = b.device_ptr(stream);
        let (out, _out) = out.device_ptr_mut(stream);
        let (space, a, b, out) =
            (space.unwrap_or(0) as *mut c_void, a as *const c_void, b as *const c_void, out as *mut c_void);
        // Sound: `compute` checked that the buffers have the sizes that the descriptors tell; the workspace is as large
        // as was asked for; all memory is given back on this stream, behind the work.
        unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => {
                    result::convolution_forward(handle, one, x, a, w, b, conv, algorithm, space, bytes, zero, y, out)
                }
                Algorithm::Weights(algorithm) => result::convolution_backward_filter(
                    handle, one, x, a, y, b, conv, algorithm, space, bytes, zero, w, out,
                ),
                Algorithm::Input(algorithm) => result::convolution_backward_data(
                    handle, one, w, a, y, b, conv, algorithm, space, bytes, zero, x, out,
                ),
            }
        }
    }
}

fn describe(shape: &Shape) -> std::result::Result<Described, CudnnError> {
    const FORMAT: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
    const TYPE: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    const MODE: sys::cudnnConvolutionMode_t = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    let &Shape { images, height, width, channels, filters, kernel, stride, padding, .. } = shape;
    // By default, cuDNN rounds f32 to TF32.
    let math = if shape.tf32 { sys::cudnnMathType_t::CUDNN_DEFAULT_MATH } else { sys::cudnnMathType_t::CUDNN_FMA_MATH };
    let described = Described {
        x: result::create_tensor_descriptor()?,
        w: result::create_filter_descriptor()?,
        y: result::create_tensor_descriptor()?,
        conv: result::create_convolution_descriptor()?,
    };
    let Described { x, w, y, conv } = described;
    // Sound: all four were just made. Sizes are told as n, c, h, w whatever the format.
    unsafe {
        result::set_tensor4d_descriptor(x, FORMAT, TYPE, [images, channels, height, width])?;
        result::set_filter4d_descriptor(w, TYPE, FORMAT, [filters, channels, kernel, kernel])?;
        result::set_tensor4d_descriptor(y, FORMAT, TYPE, [images, filters, shape.out_height, shape.out_width])?;
        result::set_convolution2d_descriptor(conv, padding, padding, stride, stride, 1, 1, MODE, TYPE)?;
        result::set_convolution_math_type(conv, math)?;
    }
    Ok(described)
}
