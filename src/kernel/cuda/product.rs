//! Products of matrices by cuBLAS, of f32, TF32 or bf16 numbers, summed up in f32.

#![expect(unsafe_code, reason = "cuBLAS is C: it is called after the matrices' sizes were checked")]

use super::check;
use super::elements::rounded;
use crate::device::cuda::cudarc::cublas::{result::gemm_ex, sys};
use crate::device::cuda::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, SyncOnDrop,
};
use crate::device::cuda::{CudaDevice, WrapErr};
use crate::kernel::bf16::Precision;
use candle_core::{Result, bail};
use std::ffi::{c_int, c_void};

/// A factor's numbers.
pub(super) enum Held<'a> {
    Borrowed(CudaView<'a, f32>),
    Made(CudaSlice<f32>),
    /// To bf16.
    Rounded(CudaSlice<u16>),
}

impl<'a> Held<'a> {
    /// Numbers as the precision takes them. cuBLAS rounds to TF32 by itself.
    pub(super) fn new(device: &CudaDevice, numbers: CudaView<'a, f32>, precision: Precision) -> Result<Self> {
        match precision {
            Precision::F32 | Precision::Tf32 => Ok(Self::Borrowed(numbers)),
            Precision::Bf16 => Ok(Self::Rounded(rounded(device, &numbers)?)),
        }
    }

    /// A part of the numbers, as a factor that is stored as it is multiplied.
    pub(super) fn part(&self, first: usize, len: usize) -> Factor<'_> {
        let numbers = match self {
            Self::Borrowed(numbers) => Numbers::Plain(numbers.slice(first..first + len)),
            Self::Made(numbers) => Numbers::Plain(numbers.slice(first..first + len)),
            Self::Rounded(numbers) => Numbers::Rounded(numbers.slice(first..first + len)),
        };
        Factor { numbers, turned: false }
    }

    /// All of them.
    pub(super) fn factor(&self) -> Factor<'_> {
        let len = match self {
            Self::Borrowed(numbers) => numbers.len(),
            Self::Made(numbers) => numbers.len(),
            Self::Rounded(numbers) => numbers.len(),
        };
        self.part(0, len)
    }
}

/// One factor of a product, row-major.
pub(super) struct Factor<'a> {
    numbers: Numbers<'a>,
    /// Whether it is stored with rows and columns exchanged.
    turned: bool,
}

enum Numbers<'a> {
    Plain(CudaView<'a, f32>),
    Rounded(CudaView<'a, u16>),
}

impl Factor<'_> {
    /// The same numbers, meant as the matrix whose columns are the rows that are stored.
    pub(super) fn turned(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    fn len(&self) -> usize {
        match &self.numbers {
            Numbers::Plain(numbers) => numbers.len(),
            Numbers::Rounded(numbers) => numbers.len(),
        }
    }

    fn kind(&self) -> sys::cudaDataType_t {
        match self.numbers {
            Numbers::Plain(_) => sys::cudaDataType_t::CUDA_R_32F,
            Numbers::Rounded(_) => sys::cudaDataType_t::CUDA_R_16BF,
        }
    }

    fn operation(&self) -> sys::cublasOperation_t {
        if self.turned { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
    }
}

/// `[rows, inner]` times `[inner, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
}

/// Writes the product of two factors to `out`, `[rows, columns]`, or adds it to what is there.
///
/// Both factors are of f32, or both rounded to bf16; with TF32, cuBLAS rounds them where the GPU's tensor cores can.
pub(super) fn multiply(
    device: &CudaDevice,
    sizes: Sizes,
    (a, b): (Factor, Factor),
    out: &mut CudaViewMut<f32>,
    adds: bool,
    precision: Precision,
) -> Result<()> {
    let Sizes { rows, columns, inner } = sizes;
    check("product", &[(a.len(), rows * inner), (b.len(), inner * columns), (out.len(), rows * columns)])?;
    if a.kind() != b.kind() {
        bail!("product: factors of two types");
    }
    let int = |size: usize| c_int::try_from(size).map_err(candle_core::Error::wrap);
    let compute = match precision {
        Precision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        Precision::F32 | Precision::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let (alpha, beta) = (1f32, if adds { 1f32 } else { 0f32 });
    let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
    // A thread may work on several GPUs in turn.
    stream.context().bind_to_thread().w()?;
    // cuBLAS counts down columns: what we store, it takes for the matrix turned. `out`, turned, is `b` turned times `a`
    // turned; a factor that is stored turned is what it wants.
    let (a_row, b_row) = (if a.turned { rows } else { inner }, if b.turned { inner } else { columns });
    let (a_kind, a_operation, b_kind, b_operation) = (a.kind(), a.operation(), b.kind(), b.operation());
    let (a_at, _a) = pointer(&a, &stream);
    let (b_at, _b) = pointer(&b, &stream);
    let (out_at, _out) = out.device_ptr_mut(&stream);
    // Sound: all three matrices have the sizes that are handed over, and live until the work on this stream is done:
    // memory is given back on the same stream.
    unsafe {
        gemm_ex(
            *blas.handle(),
            b_operation,
            a_operation,
            int(columns)?,
            int(rows)?,
            int(inner)?,
            (&raw const alpha).cast(),
            b_at as *const c_void,
            b_kind,
            int(b_row)?,
            a_at as *const c_void,
            a_kind,
            int(a_row)?,
            (&raw const beta).cast(),
            out_at as *mut c_void,
            sys::cudaDataType_t::CUDA_R_32F,
            int(columns)?,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// Where a factor lies, and what has to be kept until the work on it was asked for.
fn pointer<'a>(factor: &'a Factor, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
    match &factor.numbers {
        Numbers::Plain(numbers) => numbers.device_ptr(stream),
        Numbers::Rounded(numbers) => numbers.device_ptr(stream),
    }
}
