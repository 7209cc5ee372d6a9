//! The operations under the network that candle lacks or does slowly: convolution, max pooling, linear layers, dropout,
//! and the update of momentum SGD.
//!
//! All are f32 on the CPU and bit-identical for any number of threads: work is cut into at most [`PARTS`] parts by the
//! size of the data, and partial sums are added in the order of the parts. candle says "no cuda implementation" when
//! one is used on a GPU.

mod conv;
mod dropout;
mod gemm;
mod host;
mod linear;
mod pool;
mod scratch;
mod sgd;
mod unfold;

pub use conv::Conv2d;
pub use dropout::Dropout;

pub(crate) use gemm::{Into, Matrix, multiply};
pub(crate) use host::host;
pub use linear::Linear;
pub use pool::MaxPool2d;
pub use sgd::momentum_step;

/// Into how many parts work is cut where the cut could change a result; more threads than this find nothing to do there.
pub(crate) const PARTS: usize = 16;

/// `max(x, 0)` in place. NaN stays NaN, so that a diverged network shows.
fn relu(values: &mut [f32]) {
    for value in values {
        *value = if *value < 0.0 { 0.0 } else { *value };
    }
}

/// The gradient before the ReLU whose output is `ys`; its derivative at 0 is 0, as in PyTorch.
fn relu_gradient(gradient: &mut [f32], upstream: &[f32], ys: &[f32]) {
    for ((g, &up), &y) in gradient.iter_mut().zip(upstream).zip(ys) {
        *g = if y > 0.0 { up } else { 0.0 };
    }
}

/// Adds `term` to `sum`, element by element.
fn add_to(sum: &mut [f32], term: &[f32]) {
    for (s, &t) in sum.iter_mut().zip(term) {
        *s += t;
    }
}

#[cfg(test)]
mod testing;
