//! The operations under the network that candle lacks or does slowly: convolution, max pooling, linear layers, dropout,
//! and the update of momentum SGD.
//!
//! Products of convolutions and linear layers are of f32, or of numbers rounded to bf16 (`bf16.rs`).
//!
//! On the CPU, all are bit-identical for any number of threads: each sum is made by one thread, in an order that its place
//! in the data decides. `cuda/` has what GPUs do instead.
//!
//! Maps of a network lie as `[n, height, width, channels]`; `product.rs` has the inner loop of all, `simd/` the vectors
//! that it is made of.

mod bf16;
mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod evenly;
mod flatten;
pub mod floor;
mod frame;
mod gemm;
mod host;
mod linear;
mod linear_pairs;
mod packed;
mod pool;
mod product;
mod scratch;
mod sgd;
mod simd;

pub use bf16::Precision;
pub use conv::{Conv2d, Input};
pub use dropout::Dropout;
pub use evenly::evenly;
pub use flatten::flatten;

pub(crate) use gemm::{Into, Matrix, multiply};
pub(crate) use host::host;
pub use linear::{GradientSink, Linear};
pub use pool::MaxPool2d;
pub use sgd::{Momentum, Rates, Update, not_finite};
pub use simd::{check_vectors, has_bf16, vectors};

/// Into how many parts a loss cuts its sums; more threads than this find nothing to do there.
pub(crate) const PARTS: usize = 16;

/// `max(x, 0)` in place. NaN stays NaN, so that a diverged network shows.
#[inline(always)]
fn relu(values: &mut [f32]) {
    for value in values {
        *value = if *value < 0.0 { 0.0 } else { *value };
    }
}

/// The gradient before the ReLU whose output is `ys`; its derivative at 0 is 0, as in PyTorch.
#[inline(always)]
fn relu_gradient(gradient: &mut [f32], upstream: &[f32], ys: &[f32]) {
    for ((g, &up), &y) in gradient.iter_mut().zip(upstream).zip(ys) {
        *g = if y > 0.0 { up } else { 0.0 };
    }
}

/// Adds `term` to `sum`, element by element.
#[inline(always)]
fn add_to(sum: &mut [f32], term: &[f32]) {
    for (s, &t) in sum.iter_mut().zip(term) {
        *s += t;
    }
}

#[cfg(test)]
pub(crate) mod testing;
