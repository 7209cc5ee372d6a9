//! A linear layer with bias and ReLU in one operation.
//!
//! Weights are far larger than a batch (AlexNet's first: 151 MB against 2), so all products are cut along the weights,
//! which are read once, as they lie. A row of the batch is computed for itself: its numbers do not depend on how many
//! others there are.

use super::bf16::{Precision, factors};
use super::host::{host, values, values_mut};
use super::packed::panel;
use super::product::{Output, Start, Terms, sums};
use super::scratch::{Shared, of_thread};
use super::simd::Kind;
use super::{add_to, relu, relu_gradient};
use candle_core::{CpuStorage, CustomOp3, DType, InplaceOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaStorage;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage as _;

/// `[n, k]`, weights `[m, k]`, bias `[m]` to `[n, m]`: `relu(x W^T + b)`, as PyTorch's `linear` and `relu`.
#[derive(Debug, Clone)]
pub struct Linear {
    pub relu: bool,
    /// Where the gradient of the weights is put, instead of being handed to candle, which would copy it twice.
    pub sink: Option<GradientSink>,
    pub precision: Precision,
}

/// The gradient of a layer's weights, of the last backward pass; its memory is used again by the next one.
#[derive(Debug, Clone, Default)]
pub struct GradientSink(Arc<Mutex<Option<Tensor>>>);

impl GradientSink {
    /// The gradient, if there was a backward pass. It is overwritten by the next one.
    pub fn get(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tensor to write to, made when first needed.
    fn of_shape(&self, like: &Tensor) -> Result<Tensor> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = place.as_ref().filter(|tensor| tensor.dims() == like.dims()) {
            return Ok(tensor.clone());
        }
        let tensor = Tensor::zeros(like.shape(), DType::F32, like.device())?;
        *place = Some(tensor.clone());
        Ok(tensor)
    }
}

/// Rows in one of some parts of `rows`: two for each thread, so that one that is held up is helped out.
pub(super) fn rows_per_part(rows: usize) -> usize {
    rows.div_ceil(2 * rayon::current_num_threads())
}

/// Turns a matrix of so many columns: `[rows, columns]` to `[columns, rows]`.
pub(super) fn transpose<T: Copy + Send + Sync>(matrix: &[T], columns: usize, out: &mut [T]) {
    /// Columns at once: what is read of a row is a cache line or more.
    const BLOCK: usize = 64;
    let rows = matrix.len() / columns;
    out.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(block, out)| {
        for (row, line) in matrix.chunks_exact(columns).enumerate() {
            let places = out[row..].iter_mut().step_by(rows);
            places.zip(&line[block * BLOCK..]).for_each(|(place, &value)| *place = value);
        }
    });
}

/// Turns panels of rows, each for itself: `[rows, columns]` to `[rows / panel][columns, panel]`.
pub(super) fn turn_panels<T: Copy + Send + Sync>(matrix: &[T], columns: usize, out: &mut [T]) {
    let len = panel() * columns;
    matrix.chunks(len).zip(out.chunks_mut(len)).for_each(|(rows, out)| transpose(rows, columns, out));
}

/// Batch, inputs and outputs of one layer.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) m: usize,
}

impl Sizes {
    fn new(xs: &[usize], weight: &[usize], bias: &[usize]) -> Result<Self> {
        match (xs, weight, bias) {
            (&[n, k], &[m, inputs], &[biases]) if inputs == k && biases == m && n * k * m > 0 => Ok(Self { n, k, m }),
            _ => bail!("linear: weights {weight:?} and biases {bias:?} do not fit {xs:?}"),
        }
    }

    /// `W x^T`, `[m, n]`.
    fn outputs(self, xs: &[f32], weights: &[f32], out: &mut [f32]) {
        let (mut turned, rows) = (Shared::take(), rows_per_part(self.m));
        let turned = turned.sized(self.n * self.k);
        turn_panels(xs, self.k, turned);
        let weights = weights.par_chunks(rows * self.k);
        out.par_chunks_mut(rows * self.n)
            .zip(weights)
            .for_each(|(out, weights)| self.outputs_part(turned, weights, out));
    }

    /// The gradient of the weights, `[m, k]`, of the gradient `[n, m]`.
    fn weight_gradient(self, xs: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (mut panels, most) = (Shared::take(), panel());
        let panels = panels.sized(self.n * self.k);
        panels.par_chunks_mut(self.n * most).enumerate().for_each(|(panel, out)| {
            let columns = out.len() / self.n;
            for (line, row) in out.chunks_exact_mut(columns).zip(xs.chunks_exact(self.k)) {
                line.copy_from_slice(&row[panel * most..panel * most + columns]);
            }
        });
        // Down a column, numbers of some widths fall on one place of the cache.
        let (mut turned, rows) = (Shared::take(), rows_per_part(self.m));
        let turned = turned.sized(self.n * self.m);
        transpose(gradient, self.m, turned);
        out.par_chunks_mut(rows * self.k).enumerate().for_each(|(part, out)| {
            self.weight_gradient_part(panels, &turned[part * rows * self.n..], out);
        });
    }

    /// The gradient of the input, `[n, k]`.
    fn input_gradient(self, weights: &[f32], gradient: &[f32], precision: Precision) -> Vec<f32> {
        let (weights, gradient) = (&*factors(weights, precision), &*factors(gradient, precision));
        let columns = rows_per_part(self.k);
        let mut parts = Shared::take();
        let parts = parts.sized(self.n * self.k);
        match precision {
            Precision::F32 | Precision::Tf32 => {
                parts.par_chunks_mut(self.n * columns).enumerate().for_each(|(part, out)| {
                    self.input_gradient_part(&weights[part * columns..], gradient, out);
                })
            }
            Precision::Bf16 => self.input_gradient_of_pairs(weights, gradient, columns, parts),
        }
        let mut dx = vec![0.0; self.n * self.k];
        dx.par_chunks_exact_mut(self.k).enumerate().for_each(|(row, dx)| {
            for (part, dx) in parts.chunks(self.n * columns).zip(dx.chunks_mut(columns)) {
                dx.copy_from_slice(&part[row * dx.len()..(row + 1) * dx.len()]);
            }
        });
        dx
    }

    /// Rows of `W x^T`, of the batch in panels that are turned.
    fn outputs_part(self, turned: &[f32], weights: &[f32], out: &mut [f32]) {
        /// Inputs at a time: of a batch of 64, they and a tile's weights stay in the second cache.
        const BLOCK: usize = 512;
        let Self { n, k, .. } = self;
        let (rows, panel) = (Kind::of_process().rows(), panel());
        for first in (0..k).step_by(BLOCK) {
            let len = BLOCK.min(k - first);
            let start = if first == 0 { Start::Zero } else { Start::Output };
            for (values, weights) in out.chunks_mut(rows * n).zip(weights.chunks(rows * k)) {
                for (i, turned) in turned.chunks(panel * k).enumerate() {
                    let (columns, rows) = (turned.len() / k, values.len() / n);
                    let b_step = columns;
                    let terms = Terms { segments: 1, len, a_row: k, a_step: 1, a_segment: 0, b_step, b_segment: 0 };
                    let out = Output { values: &mut values[i * panel..], stride: n, rows, columns };
                    sums(&terms, &weights[first..], &turned[first * columns..], start, false, out);
                }
            }
        }
    }

    /// Rows of the gradient of the weights, of the batch in panels and the gradient turned.
    fn weight_gradient_part(self, panels: &[f32], gradient: &[f32], out: &mut [f32]) {
        /// Columns at a time: of a batch of 64, they stay in the second cache.
        const BLOCK: usize = 1024;
        let Self { n, k, .. } = self;
        let (tile, most) = (Kind::of_process().rows(), panel());
        for (block, panels) in panels.chunks(BLOCK * n).enumerate() {
            for (i, values) in out.chunks_mut(tile * k).enumerate() {
                for (panel, xs) in panels.chunks(n * most).enumerate() {
                    let (rows, columns) = (values.len() / k, xs.len() / n);
                    let terms =
                        Terms { segments: 1, len: n, a_row: n, a_step: 1, a_segment: 0, b_step: columns, b_segment: 0 };
                    let values = &mut values[block * BLOCK + panel * most..];
                    let out = Output { values, stride: k, rows, columns };
                    sums(&terms, &gradient[i * tile * n..], xs, Start::Zero, false, out);
                }
            }
        }
    }

    /// Columns of the gradient of the input, `[n, columns]`.
    fn input_gradient_part(self, weights: &[f32], gradient: &[f32], out: &mut [f32]) {
        /// Rows of weights at a time: a panel of them stays in the first cache for the whole batch.
        const BLOCK: usize = 128;
        /// Columns that are packed at once, a multiple of a panel's: so much of a row is read in one go.
        const WIDE: usize = 128;
        let Self { n, k, m } = self;
        let (width, most) = (out.len() / n, panel());
        of_thread(|own| {
            let packed = own.maps.sized(BLOCK * WIDE);
            for first in (0..m).step_by(BLOCK) {
                let len = BLOCK.min(m - first);
                let start = if first == 0 { Start::Zero } else { Start::Output };
                for left in (0..width).step_by(WIDE) {
                    let wide = WIDE.min(width - left);
                    // Rows of some powers of two fall on the same places of the cache; side by side they do not.
                    for (i, row) in weights[first * k + left..].chunks(k).take(len).enumerate() {
                        for (panel, numbers) in row[..wide].chunks(most).enumerate() {
                            let at = panel * most * len + i * numbers.len();
                            packed[at..at + numbers.len()].copy_from_slice(numbers);
                        }
                    }
                    for (panel, packed) in packed[..len * wide].chunks(most * len).enumerate() {
                        let columns = packed.len() / len;
                        let (a_row, b_step) = (m, columns);
                        let terms = Terms { segments: 1, len, a_row, a_step: 1, a_segment: 0, b_step, b_segment: 0 };
                        let values = &mut out[left + panel * most..];
                        let out = Output { values, stride: width, rows: n, columns };
                        sums(&terms, &gradient[first..], packed, start, false, out);
                    }
                }
            }
        });
    }
}

/// Writes the gradient of the weights.
struct IntoSink<'a> {
    sizes: Sizes,
    xs: &'a [f32],
    gradient: &'a [f32],
    precision: Precision,
}

impl InplaceOp1 for IntoSink<'_> {
    fn name(&self) -> &'static str {
        "linear-weight-gradient"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let out = values_mut(storage, layout)?;
        match self.precision {
            Precision::F32 | Precision::Tf32 => {
                let of = |numbers| factors(numbers, self.precision);
                self.sizes.weight_gradient(&of(self.xs), &of(self.gradient), out);
            }
            Precision::Bf16 => self.sizes.weight_gradient_of_pairs(self.xs, self.gradient, out),
        }
        Ok(())
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(xs_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let Sizes { n, m, .. } = sizes;
        let mut product = Shared::take();
        let product = product.sized(n * m);
        let (xs, weights) = (values(xs, xs_layout)?, values(weight, weight_layout)?);
        match self.precision {
            Precision::F32 | Precision::Tf32 => {
                sizes.outputs(&factors(xs, self.precision), &factors(weights, self.precision), product);
            }
            Precision::Bf16 => sizes.outputs_of_pairs(xs, weights, product),
        }
        let mut out = vec![0.0; n * m];
        transpose(product, n, &mut out);
        let bias = values(bias, bias_layout)?;
        out.par_chunks_exact_mut(m).for_each(|row| {
            add_to(row, bias);
            if self.relu {
                relu(row);
            }
        });
        Ok((CpuStorage::F32(out), (n, m).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        xs: &CudaStorage,
        xs_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let sizes = Sizes::new(xs_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let (device, xs) = (xs.device(), cuda::values(xs, xs_layout)?);
        let (weight, bias) = (cuda::values(weight, weight_layout)?, cuda::values(bias, bias_layout)?);
        let out = cuda::linear_forward(device, sizes, (xs, weight, &bias), self.relu, self.precision)?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (sizes.n, sizes.m).into()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        ys: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::new(xs.dims(), weight.dims(), bias.dims())?;
        let Sizes { n, k, m } = sizes;
        let upstream = upstream.contiguous()?;
        #[cfg(feature = "cuda")]
        if xs.device().is_cuda() {
            return self.cuda_bwd(sizes, [xs, weight, ys, &upstream]);
        }
        let (xs_host, weight_host, ys_host, up_host) = (host(xs), host(weight), host(ys), host(&upstream));
        let mut gradient = up_host.values()?.to_vec();
        if self.relu {
            relu_gradient(&mut gradient, up_host.values()?, ys_host.values()?);
        }
        let into = IntoSink { sizes, xs: xs_host.values()?, gradient: &gradient, precision: self.precision };
        let dw = self.weight_gradient(weight, &into)?;
        let mut db = vec![0.0; m];
        gradient.chunks_exact(m).for_each(|row| add_to(&mut db, row));
        let dx = sizes.input_gradient(weight_host.values()?, &gradient, self.precision);
        let device = xs.device();
        Ok((Some(Tensor::from_vec(dx, (n, k), device)?), dw, Some(Tensor::from_vec(db, m, device)?)))
    }
}

impl Linear {
    /// Has the gradient of the weights written, and returns it unless it goes into the sink.
    fn weight_gradient(&self, weight: &Tensor, into: &impl InplaceOp1) -> Result<Option<Tensor>> {
        if let Some(sink) = &self.sink {
            sink.of_shape(weight)?.inplace_op1(into)?;
            return Ok(None);
        }
        let dw = weight.zeros_like()?;
        dw.inplace_op1(into)?;
        Ok(Some(dw))
    }

    /// Gradients of `[xs, weight, ys, upstream]` on a GPU.
    #[cfg(feature = "cuda")]
    fn cuda_bwd(
        &self,
        sizes: Sizes,
        [xs, weight, ys, upstream]: [&Tensor; 4],
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let device = &cuda::device_of(xs)?;
        let (on_xs, on_weight, on_ys, on_up) = (cuda::gpu(xs), cuda::gpu(weight), cuda::gpu(ys), cuda::gpu(upstream));
        let upstream = on_up.values()?;
        let inner = cuda::linear_inner_gradient(device, &on_ys.values()?, &upstream, self.relu)?;
        let gradient = &inner.as_ref().map_or(upstream, |inner| inner.as_view());
        let (xs_values, precision) = (&on_xs.values()?, self.precision);
        let into = cuda::IntoSink { device, layer: sizes, xs: xs_values, gradient, precision };
        let dw = self.weight_gradient(weight, &into)?;
        let (dx, db) = cuda::linear_backward(device, sizes, on_weight.values()?, gradient, precision)?;
        Ok((Some(cuda::tensor(dx, device, xs.shape())?), dw, Some(cuda::tensor(db, device, sizes.m)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{agree, check_gradients, close, gradients, on_threads, rounded, tensor};
    use candle_core::Var;

    const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 1), (3, 70, 16), (17, 33, 300), (5, 530, 18), (64, 600, 257)];

    fn linear(relu: bool) -> Linear {
        Linear { relu, sink: None, precision: Precision::F32 }
    }

    fn of_bf16(relu: bool) -> Linear {
        Linear { precision: Precision::Bf16, ..linear(relu) }
    }

    fn variables((n, k, m): (usize, usize, usize)) -> [Var; 3] {
        [tensor(1, (n, k)), tensor(2, (m, k)), tensor(3, m)].map(|t| Var::from_tensor(&t).unwrap())
    }

    #[test]
    fn agrees_with_candle_forward_and_backward() {
        for shape in SHAPES {
            for relu in [false, true] {
                let vars = variables(shape);
                let ours = vars[0].apply_op3(&vars[1], &vars[2], linear(relu)).unwrap();
                let plain = vars[0].matmul(&vars[1].t().unwrap()).unwrap().broadcast_add(&vars[2]).unwrap();
                let plain = if relu { plain.relu().unwrap() } else { plain };
                agree(&ours, &plain, &vars, 1e-5);
            }
        }
    }

    #[test]
    fn bf16_is_f32_on_rounded_numbers() {
        for shape in SHAPES {
            for relu in [false, true] {
                let vars = variables(shape);
                let ours = vars[0].apply_op3(&vars[1], &vars[2], of_bf16(relu)).unwrap();
                let factors = [rounded(&vars[0]), rounded(&vars[1]), vars[2].clone()];
                let plain = factors[0].apply_op3(&factors[1], &factors[2], linear(relu)).unwrap();
                close(&ours, &plain, 1e-5);
                // The gradient that is rounded is the one before the ReLU; it is exact for weights of the outputs that
                // are.
                let weights = rounded(&tensor(99, ours.shape()));
                let [ours, plain] = [(&ours, &vars), (&plain, &factors)].map(|(ys, vars)| {
                    let grads = (ys * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
                    vars.each_ref().map(|var| grads.get(var).unwrap().clone())
                });
                for (ours, plain) in ours.iter().zip(&plain) {
                    close(ours, plain, 1e-5);
                }
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        check_gradients(&variables((5, 7, 6)), |[x, w, b]| x.apply_op3(w, b, linear(false)).unwrap());
    }

    #[test]
    fn a_sink_takes_the_gradient_of_the_weights() {
        let (vars, sink) = (variables((5, 70, 18)), GradientSink::default());
        let expected = gradients(&vars[0].apply_op3(&vars[1], &vars[2], linear(true)).unwrap(), &vars);
        for _ in 0..2 {
            let op = Linear { sink: Some(sink.clone()), ..linear(true) };
            let ys = vars[0].apply_op3(&vars[1], &vars[2], op).unwrap();
            let grads = (&ys * tensor(99, ys.shape())).unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&vars[1]).is_none());
            close(&sink.get().unwrap(), &expected[1], 0.0);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let [xs, weight, bias] = variables((70, 530, 48));
        for op in [linear(true), of_bf16(true)] {
            let apply = |xs: &Tensor| xs.contiguous().unwrap().apply_op3(&weight, &bias, op.clone()).unwrap();
            let whole = apply(&xs);
            for count in [1, 2, 15, 16, 17, 33, 69] {
                close(&apply(&xs.narrow(0, 1, count).unwrap()), &whole.narrow(0, 1, count).unwrap(), 0.0);
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (shape, op) in SHAPES.into_iter().flat_map(|shape| [(shape, linear(true)), (shape, of_bf16(true))]) {
            on_threads(|| {
                let vars = variables(shape);
                let ys = vars[0].apply_op3(&vars[1], &vars[2], op.clone()).unwrap();
                let mut all = gradients(&ys, &vars);
                all.push(ys);
                all
            });
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let op = || linear(false);
        assert!(tensor(1, (2, 3)).apply_op3(&tensor(2, (4, 5)), &tensor(3, 4), op()).is_err());
        assert!(tensor(1, (2, 3)).apply_op3(&tensor(2, (4, 3)), &tensor(3, 5), op()).is_err());
        assert!(tensor(1, (0, 3)).apply_op3(&tensor(2, (4, 3)), &tensor(3, 4), op()).is_err());
    }
}
