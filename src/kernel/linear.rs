//! A linear layer with bias and ReLU in one operation.
//!
//! Weights are far larger than a batch (AlexNet's first: 151 MB against 2), so all products are cut along the weights,
//! and each part of them is read once.

use super::gemm::{Into, Matrix, multiply};
use super::host::{host, values};
use super::{PARTS, relu, relu_gradient};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `[n, k]`, weights `[m, k]`, bias `[m]` to `[n, m]`: `relu(x W^T + b)`, as PyTorch's `linear` and `relu`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub relu: bool,
}

/// Rows in one of at most [`PARTS`] parts of `rows`; multiples of 16 suit the products.
fn rows_per_part(rows: usize) -> usize {
    rows.div_ceil(PARTS).next_multiple_of(16)
}

/// `(a b)^T` for `a` of many rows and `b` of few columns, cut along the rows of `a`: `[b.columns, a.rows]`.
fn product_transposed(a: Matrix, rows: usize, b: Matrix, columns: usize) -> Vec<f32> {
    let per_part = rows_per_part(rows);
    let mut product = vec![0.0; rows * columns];
    product.par_chunks_mut(per_part * columns).enumerate().for_each(|(part, out)| {
        multiply(out, Into::Overwrite, a.rows(part * per_part, out.len() / columns), b);
    });
    let mut turned = vec![0.0; rows * columns];
    turned.par_chunks_exact_mut(rows).enumerate().for_each(|(column, out)| {
        for (value, &p) in out.iter_mut().zip(product[column..].iter().step_by(columns)) {
            *value = p;
        }
    });
    turned
}

/// Batch, inputs and outputs of one layer.
fn sizes(xs: &[usize], weight: &[usize], bias: &[usize]) -> Result<(usize, usize, usize)> {
    match (xs, weight, bias) {
        (&[n, k], &[m, inputs], &[biases]) if inputs == k && biases == m && n * k * m > 0 => Ok((n, k, m)),
        _ => bail!("linear: weights {weight:?} and biases {bias:?} do not fit {xs:?}"),
    }
}

impl Linear {
    /// The gradient before the ReLU.
    fn inner_gradient(self, upstream: &[f32], ys: &[f32]) -> Vec<f32> {
        let mut gradient = upstream.to_vec();
        if self.relu {
            relu_gradient(&mut gradient, upstream, ys);
        }
        gradient
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
        let (n, k, m) = sizes(xs_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let xs = Matrix::new(values(xs, xs_layout)?, n, k);
        let weight = Matrix::new(values(weight, weight_layout)?, m, k);
        let mut out = product_transposed(weight, m, xs.transposed(), n);
        let bias = values(bias, bias_layout)?;
        out.par_chunks_exact_mut(m).for_each(|row| {
            super::add_to(row, bias);
            if self.relu {
                relu(row);
            }
        });
        Ok((CpuStorage::F32(out), (n, m).into()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        ys: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, k, m) = sizes(xs.dims(), weight.dims(), bias.dims())?;
        let upstream = upstream.contiguous()?;
        let (xs_host, weight_host, ys_host, up_host) = (host(xs), host(weight), host(ys), host(&upstream));
        let gradient = self.inner_gradient(up_host.values()?, ys_host.values()?);
        let columns = Matrix::new(&gradient, n, m).transposed();

        let per_part = rows_per_part(m);
        let inputs = Matrix::new(xs_host.values()?, n, k);
        let mut dw = vec![0.0; m * k];
        dw.par_chunks_mut(per_part * k).enumerate().for_each(|(part, out)| {
            multiply(out, Into::Overwrite, columns.rows(part * per_part, out.len() / k), inputs);
        });
        let mut db = vec![0.0; m];
        gradient.chunks_exact(m).for_each(|row| super::add_to(&mut db, row));
        let dx = product_transposed(Matrix::new(weight_host.values()?, m, k).transposed(), k, columns, n);

        let device = xs.device();
        let dw = Tensor::from_vec(dw, (m, k), device)?;
        Ok((Some(Tensor::from_vec(dx, (n, k), device)?), Some(dw), Some(Tensor::from_vec(db, m, device)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{agree, check_gradients, gradients, on_threads, tensor};
    use candle_core::Var;

    const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 1), (3, 70, 16), (17, 33, 300), (5, 530, 18), (64, 20, 257)];

    fn variables((n, k, m): (usize, usize, usize)) -> [Var; 3] {
        [tensor(1, (n, k)), tensor(2, (m, k)), tensor(3, m)].map(|t| Var::from_tensor(&t).unwrap())
    }

    #[test]
    fn agrees_with_candle_forward_and_backward() {
        for shape in SHAPES {
            for relu in [false, true] {
                let vars = variables(shape);
                let ours = vars[0].apply_op3(&vars[1], &vars[2], Linear { relu }).unwrap();
                let plain = vars[0].matmul(&vars[1].t().unwrap()).unwrap().broadcast_add(&vars[2]).unwrap();
                let plain = if relu { plain.relu().unwrap() } else { plain };
                agree(&ours, &plain, &vars, 1e-5);
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        check_gradients(&variables((5, 7, 6)), |[x, w, b]| x.apply_op3(w, b, Linear { relu: false }).unwrap());
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for shape in SHAPES {
            on_threads(|| {
                let vars = variables(shape);
                let ys = vars[0].apply_op3(&vars[1], &vars[2], Linear { relu: true }).unwrap();
                let mut all = gradients(&ys, &vars);
                all.push(ys);
                all
            });
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let op = Linear { relu: false };
        assert!(tensor(1, (2, 3)).apply_op3(&tensor(2, (4, 5)), &tensor(3, 4), op).is_err());
        assert!(tensor(1, (2, 3)).apply_op3(&tensor(2, (4, 3)), &tensor(3, 5), op).is_err());
        assert!(tensor(1, (0, 3)).apply_op3(&tensor(2, (4, 3)), &tensor(3, 4), op).is_err());
    }
}
