//! The weighted likelihood of pairs (Cao et al. 2017, "HashNet", eq. 4) and its gradient, in one pass.
//!
//! A batch against ten thousand images are a million pairs: as tensor operations each of a dozen intermediate results
//! would be written out. Here a block of pairs stays in the cache from the product of codes to the gradient.

use super::labels::{LabelSets, similar};
use crate::kernel::{Into, Matrix, PARTS, multiply};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Codes in (-1, 1), `[n, bits]` row-major, and the images' classes.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) codes: &'a [f32],
    pub(super) labels: &'a LabelSets,
}

impl<'a> Side<'a> {
    fn matrix(self, bits: usize) -> Matrix<'a> {
        Matrix::new(self.codes, self.labels.len(), bits)
    }
}

/// A loss and its gradient.
pub(super) struct Likelihood {
    pub(super) loss: f64,
    /// By the queries' codes, `[n, bits]` row-major; the bank is taken as constant.
    pub(super) gradient: Vec<f32>,
}

/// Bank rows per block: with 8 queries and 64 bits a block's codes and pairs fill 300 KB.
const BLOCK: usize = 1024;

/// How many pairs of a query and an image of the bank share a class.
pub(super) fn count_similar(queries: Side, bank: Side) -> u64 {
    let images = bank.labels.len();
    let of = |query: &[u64]| bank.labels.range(0, images).filter(|other| similar(query, other)).count() as u64;
    let count = |&(from, to): &(usize, usize)| -> u64 { queries.labels.range(from, to).map(of).sum() };
    parts(queries.labels.len()).1.par_iter().map(count).sum()
}

/// Weighted negative log likelihood of all pairs of a query `i` and an image `j` of the bank:
///
/// `d = alpha u_i . u_j`, `l = log(1 + exp(d)) - s d`, loss = mean of `l` over similar pairs (`s = 1`) + mean over the
/// others. A mean over no pairs is left out. Weights are those of all pairs there are, of which these may be some.
pub(super) fn likelihood(queries: Side, bank: Side, bits: usize, weights: Weights) -> Likelihood {
    let count = queries.labels.len();
    let (rows_per_part, parts) = parts(count);
    let mut gradient = vec![0.0; count * bits];
    let losses: Vec<f64> = (parts.par_iter(), gradient.par_chunks_mut(rows_per_part * bits))
        .into_par_iter()
        .map(|(&(from, to), gradient)| part(queries, (from, to), bank, bits, weights, gradient))
        .collect();
    Likelihood { loss: losses.iter().sum(), gradient }
}

/// Queries in parts that their number decides: how many are in one, and where each begins and ends.
fn parts(count: usize) -> (usize, Vec<(usize, usize)>) {
    let rows_per_part = count.div_ceil(PARTS).max(1);
    let part = |from: usize| (from, (from + rows_per_part).min(count));
    (rows_per_part, (0..count).step_by(rows_per_part).map(part).collect())
}

/// Weight of each similar pair and of each other pair, and the factor of inner products.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    positive: f64,
    negative: f64,
    alpha: f32,
}

impl Weights {
    /// Of so many pairs, some of which are similar.
    pub(super) fn new(similar: u64, pairs: u64, alpha: f32) -> Self {
        // A mean over nothing counts nothing, never 0 times infinity.
        let share = |count: u64| if count == 0 { 0.0 } else { 1.0 / count as f64 };
        Self { positive: share(similar), negative: share(pairs.saturating_sub(similar)), alpha }
    }
}

/// The loss of the queries `from..to`, block by block of the bank; adds their gradient to `gradient`.
fn part(
    queries: Side,
    (from, to): (usize, usize),
    bank: Side,
    bits: usize,
    weights: Weights,
    gradient: &mut [f32],
) -> f64 {
    let codes = queries.matrix(bits).rows(from, to - from);
    let images = bank.labels.len();
    let mut pairs = vec![0.0; (to - from) * BLOCK.min(images)];
    let mut loss = 0.0;
    for start in (0..images).step_by(BLOCK) {
        let end = (start + BLOCK).min(images);
        let block = Matrix::new(&bank.codes[start * bits..end * bits], end - start, bits);
        let pairs = &mut pairs[..(to - from) * (end - start)];
        multiply(pairs, Into::Overwrite, codes, block.transposed());
        for (query, row) in queries.labels.range(from, to).zip(pairs.chunks_exact_mut(end - start)) {
            loss += pair_losses(row, bank.labels.range(start, end).map(|other| similar(query, other)), weights);
        }
        multiply(gradient, Into::Add, Matrix::new(pairs, to - from, end - start), block);
    }
    loss
}

/// Replaces inner products by the loss's derivatives by them; returns the weighted sum of the losses.
fn pair_losses(products: &mut [f32], similar: impl Iterator<Item = bool>, weights: Weights) -> f64 {
    let (mut positive, mut negative) = (0.0, 0.0);
    let scaled = |weight: f64| (weight * f64::from(weights.alpha)) as f32;
    let (positive_slope, negative_slope) = (scaled(weights.positive), scaled(weights.negative));
    for (value, similar) in products.iter_mut().zip(similar) {
        let d = weights.alpha * *value;
        let e = (-d.abs()).exp();
        let softplus = f64::from(e.ln_1p() + d.max(0.0));
        let sigmoid = if d >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
        if similar {
            positive += softplus - f64::from(d);
            *value = (sigmoid - 1.0) * positive_slope;
        } else {
            negative += softplus;
            *value = sigmoid * negative_slope;
        }
    }
    positive * weights.positive + negative * weights.negative
}

/// A number with a known gradient, as an operation: the scalar `loss`, whose gradient by the argument is `gradient`.
pub(super) struct Known {
    loss: f64,
    /// The loss, if it was computed on a GPU: nobody has waited for it.
    #[cfg(feature = "cuda")]
    there: Option<Tensor>,
    gradient: Tensor,
}

impl Known {
    pub(super) fn new(loss: f64, gradient: Tensor) -> Self {
        Self {
            loss,
            #[cfg(feature = "cuda")]
            there: None,
            gradient,
        }
    }

    /// The same of a loss that is on a GPU, as a scalar; so is the gradient, and so will be the argument.
    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(loss: Tensor, gradient: Tensor) -> Self {
        Self { there: Some(loss), ..Self::new(f64::NAN, gradient) }
    }
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "pair-likelihood"
    }

    fn cpu_fwd(&self, argument: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = match argument {
            CpuStorage::F64(_) => CpuStorage::F64(vec![self.loss]),
            _ => CpuStorage::F32(vec![self.loss as f32]),
        };
        Ok((loss, Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &candle_core::CudaStorage, _: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        let Some(loss) = &self.there else { candle_core::bail!("a loss on the CPU of logits on a GPU") };
        Ok((super::cuda::copied(loss)?, Shape::from(())))
    }

    fn bwd(&self, argument: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient.to_dtype(argument.dtype())?.broadcast_mul(upstream)?))
    }
}
