//! Max pooling of any window and stride, without padding: candle has no gradient where they differ.

use super::host::{host, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `[n, c, h, w]` to `[n, c, oh, ow]`, as PyTorch's `max_pool2d`; of equal maxima the first takes the gradient.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d {
    pub kernel: usize,
    pub stride: usize,
}

/// Planes that one task takes at least.
const PLANES: usize = 16;

/// Sizes of one plane, before and after.
#[derive(Clone, Copy)]
struct Plane {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl MaxPool2d {
    /// Side after pooling of a side of `side`, or `None` if the window does not fit.
    pub fn outputs(&self, side: usize) -> Option<usize> {
        Some(side.checked_sub(self.kernel)?.checked_div(self.stride)? + 1)
    }

    fn plane(&self, (n, c, height, width): (usize, usize, usize, usize)) -> Result<Plane> {
        let fits = self.kernel > 0 && n * c > 0;
        match (self.outputs(height), self.outputs(width)) {
            (Some(out_height), Some(out_width)) if fits => Ok(Plane { height, width, out_height, out_width }),
            _ => bail!("max_pool2d: a window of {self:?} does not fit {:?}", (n, c, height, width)),
        }
    }

    /// The maximum over rows of the window first, then along it.
    fn forward_plane(&self, plane: Plane, xs: &[f32], rows: &mut [f32], out: &mut [f32]) {
        for (oy, line) in out.chunks_exact_mut(plane.out_width).enumerate() {
            let mut window = xs[oy * self.stride * plane.width..].chunks_exact(plane.width).take(self.kernel);
            rows.copy_from_slice(window.next().expect("the window fits the plane"));
            for row in window {
                rows.iter_mut().zip(row).for_each(|(max, &x)| *max = larger(*max, x));
            }
            for (ox, value) in line.iter_mut().enumerate() {
                let start = ox * self.stride;
                *value = rows[start + 1..start + self.kernel].iter().fold(rows[start], |max, &x| larger(max, x));
            }
        }
    }

    /// Adds each output's gradient to the first number of its window that equals it.
    fn backward_plane(&self, plane: Plane, xs: &[f32], ys: &[f32], upstream: &[f32], dx: &mut [f32]) {
        for (place, (&y, &up)) in ys.iter().zip(upstream).enumerate() {
            let (oy, ox) = (place / plane.out_width, place % plane.out_width);
            let corner = oy * self.stride * plane.width + ox * self.stride;
            for row in (0..self.kernel).map(|ky| corner + ky * plane.width) {
                let window = &xs[row..row + self.kernel];
                if let Some(kx) = window.iter().position(|&x| x == y || x.is_nan()) {
                    dx[row + kx] += up;
                    break;
                }
            }
        }
    }
}

/// The larger of two numbers; NaN is larger than any, as in PyTorch.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, height, width) = layout.shape().dims4()?;
        let plane = self.plane((n, c, height, width))?;
        let mut out = vec![0.0; n * c * plane.out_height * plane.out_width];
        out.par_chunks_exact_mut(plane.out_height * plane.out_width)
            .zip(values(xs, layout)?.par_chunks_exact(height * width))
            .with_min_len(PLANES)
            .for_each_init(|| vec![0.0; width], |rows, (out, xs)| self.forward_plane(plane, xs, rows, out));
        Ok((CpuStorage::F32(out), (n, c, plane.out_height, plane.out_width).into()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let plane = self.plane(xs.dims4()?)?;
        let upstream = upstream.contiguous()?;
        let (xs_host, ys_host, up_host) = (host(xs), host(ys), host(&upstream));
        let (len, out_len) = (plane.height * plane.width, plane.out_height * plane.out_width);
        let mut dx = vec![0.0; xs.elem_count()];
        let outputs = ys_host.values()?.par_chunks_exact(out_len).zip(up_host.values()?.par_chunks_exact(out_len));
        (dx.par_chunks_exact_mut(len), xs_host.values()?.par_chunks_exact(len), outputs)
            .into_par_iter()
            .with_min_len(PLANES)
            .for_each(|(dx, xs, (ys, up))| self.backward_plane(plane, xs, ys, up, dx));
        Ok(Some(Tensor::from_vec(dx, xs.shape(), xs.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{close, gradients, on_threads, tensor};
    use candle_core::{Device, Var};

    const SHAPES: [([usize; 4], usize, usize); 6] = [
        ([3, 5, 13, 13], 3, 2),
        ([1, 40, 7, 9], 3, 2),
        ([2, 3, 8, 8], 2, 2),
        ([2, 3, 9, 7], 2, 3),
        ([5, 1, 5, 5], 5, 1),
        ([1, 1, 1, 1], 1, 1),
    ];

    /// The maximum of the window's shifted copies, which candle can differentiate where no two are equal.
    fn by_slices(xs: &Tensor, kernel: usize, stride: usize) -> Tensor {
        let side = |side: usize| (side - kernel) / stride + 1;
        let (_, _, h, w) = xs.dims4().unwrap();
        let pick = |offset: usize, outputs: usize| {
            let places: Vec<u32> = (0..outputs).map(|o| (o * stride + offset) as u32).collect();
            Tensor::from_vec(places, outputs, &Device::Cpu).unwrap()
        };
        let shifted = |place: usize| {
            let rows = xs.index_select(&pick(place / kernel, side(h)), 2).unwrap();
            rows.index_select(&pick(place % kernel, side(w)), 3).unwrap()
        };
        (1..kernel * kernel).map(shifted).fold(shifted(0), |max, next| max.maximum(&next).unwrap())
    }

    #[test]
    fn agrees_with_candle_forward_and_backward() {
        for (shape, kernel, stride) in SHAPES {
            let xs = Var::from_tensor(&tensor(1, &shape[..])).unwrap();
            let ours = xs.apply_op1(MaxPool2d { kernel, stride }).unwrap();
            let plain = by_slices(&xs, kernel, stride);
            close(&ours, &plain, 0.0);
            let vars = [xs];
            close(&gradients(&ours, &vars)[0], &gradients(&plain, &vars)[0], 1e-6);
        }
    }

    #[test]
    fn the_first_of_equal_maxima_takes_the_gradient() {
        let xs = Var::from_tensor(&Tensor::ones((1, 1, 3, 5), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        let ys = xs.apply_op1(MaxPool2d { kernel: 3, stride: 2 }).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let dx: Vec<f32> = grads.get(&xs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(dx, [1., 0., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]);
    }

    #[test]
    fn nan_shows_through() {
        let xs = Tensor::new(&[[[[1f32, f32::NAN], [3.0, 2.0]]]], &Device::Cpu).unwrap();
        let ys = xs.apply_op1(MaxPool2d { kernel: 2, stride: 2 }).unwrap();
        assert!(ys.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (shape, kernel, stride) in SHAPES {
            on_threads(|| {
                let xs = [Var::from_tensor(&tensor(1, &shape[..])).unwrap()];
                let ys = xs[0].apply_op1(MaxPool2d { kernel, stride }).unwrap();
                vec![gradients(&ys, &xs).remove(0), ys]
            });
        }
    }

    #[test]
    fn a_window_that_does_not_fit_is_an_error() {
        let pool = |kernel, stride| tensor(1, (1, 1, 4, 4)).apply_op1(MaxPool2d { kernel, stride });
        assert!(pool(5, 1).is_err() && pool(0, 1).is_err() && pool(2, 0).is_err() && pool(4, 9).is_ok());
    }
}
