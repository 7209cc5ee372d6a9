//! Convolution, bias and ReLU in one operation: each image is unfolded and multiplied by the weights.

use super::gemm::{Into, Matrix, multiply};
use super::host::{host, values};
use super::unfold::{Geometry, fold, unfold};
use super::{PARTS, add_to, relu, relu_gradient, scratch};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `[n, c, h, w]`, weights `[m, c, k, k]`, bias `[m]` to `[n, m, oh, ow]`, as PyTorch's `conv2d` and `relu`.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    pub stride: usize,
    pub padding: usize,
    pub relu: bool,
    /// Whether the input gets a gradient; the first layer's images need none.
    pub need_dx: bool,
}

/// What every part of one convolution needs to know.
struct Job<'a> {
    geometry: Geometry,
    images: usize,
    filters: usize,
    weights: Matrix<'a>,
    relu: bool,
}

impl Conv2d {
    fn job<'a>(&self, xs: &[usize], weight_dims: &[usize], weights: &'a [f32]) -> Result<Job<'a>> {
        let (&[images, channels, height, width], &[filters, inputs, kernel, across]) = (xs, weight_dims) else {
            bail!("conv2d: expected 4 dimensions, got {xs:?} and weights {weight_dims:?}");
        };
        if inputs != channels || kernel != across || images == 0 || filters == 0 {
            bail!("conv2d: weights {weight_dims:?} do not fit {xs:?}");
        }
        let geometry = Geometry::new([channels, height, width], kernel, self.stride, self.padding)?;
        let weights = Matrix::new(weights, filters, geometry.window_len());
        Ok(Job { geometry, images, filters, weights, relu: self.relu })
    }
}

impl Job<'_> {
    /// Numbers of one output image.
    fn out_len(&self) -> usize {
        self.filters * self.geometry.places()
    }

    /// Images that one part of the backward pass takes.
    fn images_per_part(&self) -> usize {
        self.images.div_ceil(PARTS)
    }

    fn forward_image(&self, image: &[f32], bias: &[f32], out: &mut [f32]) {
        let (window, places) = (self.geometry.window_len(), self.geometry.places());
        scratch::with(|scratch| {
            let (columns, _) = scratch.sized(window * places, 0);
            unfold(&self.geometry, image, columns);
            multiply(out, Into::Overwrite, self.weights, Matrix::new(columns, window, places));
        });
        for (plane, &bias) in out.chunks_exact_mut(places).zip(bias) {
            plane.iter_mut().for_each(|v| *v += bias);
        }
        if self.relu {
            relu(out);
        }
    }

    /// Gradients of weights and bias summed over some images; writes the images' own gradient if `dx` is not empty.
    fn backward_images(&self, xs: &[f32], ys: &[f32], upstream: &[f32], dx: &mut [f32]) -> Gradients {
        let (window, places) = (self.geometry.window_len(), self.geometry.places());
        let mut sums = Gradients { weight: vec![0.0; self.filters * window], bias: vec![0.0; self.filters] };
        let mut dx_images = dx.chunks_exact_mut(self.geometry.image_len());
        let outputs = ys.chunks_exact(self.out_len()).zip(upstream.chunks_exact(self.out_len()));
        for (image, (y, up)) in xs.chunks_exact(self.geometry.image_len()).zip(outputs) {
            scratch::with(|scratch| {
                let (columns, gradient) = scratch.sized(window * places, self.out_len());
                if self.relu {
                    relu_gradient(gradient, up, y);
                } else {
                    gradient.copy_from_slice(up);
                }
                for (bias, plane) in sums.bias.iter_mut().zip(gradient.chunks_exact(places)) {
                    *bias += sum(plane);
                }
                unfold(&self.geometry, image, columns);
                let gradient = Matrix::new(gradient, self.filters, places);
                multiply(&mut sums.weight, Into::Add, gradient, Matrix::new(columns, window, places).transposed());
                if let Some(dx) = dx_images.next() {
                    multiply(columns, Into::Overwrite, self.weights.transposed(), gradient);
                    fold(&self.geometry, columns, dx);
                }
            });
        }
        sums
    }

    /// Both gradients over the whole batch: parts of it side by side, added in their order.
    fn backward(&self, xs: &[f32], ys: &[f32], upstream: &[f32], dx: &mut [f32]) -> Gradients {
        let per_part = self.images_per_part();
        let parts = self.images.div_ceil(per_part);
        let dx: Vec<&mut [f32]> = if dx.is_empty() {
            (0..parts).map(|_| &mut [][..]).collect()
        } else {
            dx.chunks_mut(per_part * self.geometry.image_len()).collect()
        };
        let outputs = ys.par_chunks(per_part * self.out_len()).zip(upstream.par_chunks(per_part * self.out_len()));
        let parts: Vec<Gradients> = (xs.par_chunks(per_part * self.geometry.image_len()), outputs, dx)
            .into_par_iter()
            .map(|(xs, (ys, upstream), dx)| self.backward_images(xs, ys, upstream, dx))
            .collect();
        Gradients::total(parts)
    }
}

/// Gradients of a layer's weights and bias.
struct Gradients {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Gradients {
    /// The sum, part after part for every number.
    fn total(parts: Vec<Self>) -> Self {
        const CHUNK: usize = 1 << 14;
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or(Self { weight: vec![], bias: vec![] });
        let rest: Vec<Self> = parts.collect();
        total.weight.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sums)| {
            let start = i * CHUNK;
            for part in &rest {
                add_to(sums, &part.weight[start..start + sums.len()]);
            }
        });
        for part in &rest {
            add_to(&mut total.bias, &part.bias);
        }
        total
    }
}

/// A sum over eight lanes: as exact as a sum by halves for the sizes at hand, and the compiler can vectorise it.
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = values.chunks_exact(lanes.len());
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        add_to(&mut lanes, chunk);
    }
    lanes.iter().sum::<f32>() + rest
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let job = self.job(xs_layout.dims(), weight_layout.dims(), values(weight, weight_layout)?)?;
        let (xs, bias) = (values(xs, xs_layout)?, values(bias, bias_layout)?);
        if bias.len() != job.filters {
            bail!("conv2d: {} biases for {} filters", bias.len(), job.filters);
        }
        let mut out = vec![0.0; job.images * job.out_len()];
        (out.par_chunks_exact_mut(job.out_len()), xs.par_chunks_exact(job.geometry.image_len()))
            .into_par_iter()
            .for_each(|(out, image)| job.forward_image(image, bias, out));
        let shape = (job.images, job.filters, job.geometry.out_height, job.geometry.out_width);
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        ys: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let upstream = upstream.contiguous()?;
        let (xs_host, weight_host, ys_host, up_host) = (host(xs), host(weight), host(ys), host(&upstream));
        let job = self.job(xs.dims(), weight.dims(), weight_host.values()?)?;
        let mut dx = vec![0.0; if self.need_dx { xs.elem_count() } else { 0 }];
        let sums = job.backward(xs_host.values()?, ys_host.values()?, up_host.values()?, &mut dx);
        let dx = self.need_dx.then(|| Tensor::from_vec(dx, xs.shape(), xs.device())).transpose()?;
        let dw = Tensor::from_vec(sums.weight, weight.shape(), weight.device())?;
        let db = Tensor::from_vec(sums.bias, job.filters, weight.device())?;
        Ok((dx, Some(dw), Some(db)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{agree, check_gradients, gradients, on_threads, tensor};
    use candle_core::Var;

    /// Batch, channels, height, width, filters, kernel, stride, padding: AlexNet's kinds, and odd ones.
    const SHAPES: [[usize; 8]; 6] = [
        [3, 3, 23, 23, 4, 11, 4, 2],
        [5, 4, 9, 9, 6, 5, 1, 2],
        [17, 2, 6, 6, 3, 3, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 0],
        [2, 3, 7, 5, 2, 3, 2, 0],
        [33, 2, 5, 8, 3, 4, 3, 3],
    ];

    fn variables([n, c, h, w, m, k, ..]: [usize; 8]) -> [Var; 3] {
        let xs = tensor(1, (n, c, h, w));
        [xs, tensor(2, (m, c, k, k)), tensor(3, m)].map(|t| Var::from_tensor(&t).unwrap())
    }

    fn apply(shape: [usize; 8], relu: bool, [xs, weight, bias]: &[Var; 3]) -> Tensor {
        let [.., stride, padding] = shape;
        xs.apply_op3(weight, bias, Conv2d { stride, padding, relu, need_dx: true }).unwrap()
    }

    #[test]
    fn agrees_with_candle_forward_and_backward() {
        for shape in SHAPES {
            for relu in [false, true] {
                let vars = variables(shape);
                let [.., m, _, stride, padding] = shape;
                let ours = apply(shape, relu, &vars);
                let plain = vars[0].conv2d(&vars[1], padding, stride, 1, 1).unwrap();
                let plain = plain.broadcast_add(&vars[2].reshape((1, m, 1, 1)).unwrap()).unwrap();
                let plain = if relu { plain.relu().unwrap() } else { plain };
                agree(&ours, &plain, &vars, 1e-4);
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let shape = [3, 2, 6, 6, 3, 3, 2, 1];
        check_gradients(&variables(shape), |vars| apply(shape, false, vars));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for shape in SHAPES {
            on_threads(|| {
                let vars = variables(shape);
                let ys = apply(shape, true, &vars);
                let mut all = gradients(&ys, &vars);
                all.push(ys);
                all
            });
        }
    }

    #[test]
    fn images_get_no_gradient_unless_asked() {
        let [xs, weight, bias] = variables(SHAPES[1]);
        let op = Conv2d { stride: 1, padding: 2, relu: true, need_dx: false };
        let grads = xs.apply_op3(&weight, &bias, op).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&xs).is_none() && grads.get(&weight).is_some());
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let op = Conv2d { stride: 1, padding: 0, relu: false, need_dx: false };
        let apply = |x: [usize; 4], w: [usize; 4]| tensor(1, &x[..]).apply_op3(&tensor(2, &w[..]), &tensor(3, 2), op);
        assert!(apply([1, 3, 4, 4], [2, 3, 3, 3]).is_ok());
        assert!(apply([1, 3, 4, 4], [2, 4, 3, 3]).is_err());
        assert!(apply([1, 3, 4, 4], [2, 3, 5, 5]).is_err());
        assert!(apply([1, 3, 4, 4], [5, 3, 3, 3]).is_err());
        assert!(apply([0, 3, 4, 4], [2, 3, 3, 3]).is_err());
    }
}
