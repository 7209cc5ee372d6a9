//! Backward: images side by side through pooling and ReLU, to the bias and to the input; and to the weights, as the
//! precision sums them up.

use super::job::{Job, framed};
use super::windows::Weights;
use crate::kernel::bf16::{Precision, factors};
use crate::kernel::packed;
use crate::kernel::scratch::of_thread;
use crate::kernel::{add_to, relu_gradient};
use rayon::prelude::*;

impl Job {
    /// Gradients before bias, ReLU and pooling, and of the bias.
    pub(super) fn inner_gradient(
        &self,
        ys: &[f32],
        upstream: &[f32],
        winners: &[u8],
        gradient: &mut [f32],
    ) -> Vec<f32> {
        let none: &[u8] = &[];
        let winners: Vec<&[u8]> = match &self.pooling {
            Some(_) => winners.chunks_exact(self.out_len()).collect(),
            None => vec![none; self.images],
        };
        let outputs = ys.par_chunks_exact(self.out_len()).zip(upstream.par_chunks_exact(self.out_len()));
        let sums: Vec<Vec<f32>> = (gradient.par_chunks_exact_mut(self.conv_len()), outputs, winners)
            .into_par_iter()
            .map(|(gradient, (ys, upstream), winners)| self.inner_gradient_of_image(ys, upstream, winners, gradient))
            .collect();
        let mut bias = vec![0.0; self.filters];
        sums.iter().for_each(|sum| add_to(&mut bias, sum));
        bias
    }

    /// The same for one image; returns the sums over its pixels.
    fn inner_gradient_of_image(&self, ys: &[f32], upstream: &[f32], winners: &[u8], gradient: &mut [f32]) -> Vec<f32> {
        match &self.pooling {
            Some(pooling) => pooling.backward(ys, upstream, winners, self.relu, gradient),
            None if self.relu => relu_gradient(gradient, upstream, ys),
            None => gradient.copy_from_slice(upstream),
        }
        let mut sums = vec![0.0; self.filters];
        gradient.chunks_exact(self.filters).for_each(|pixel| add_to(&mut sums, pixel));
        sums
    }

    /// The gradient of the weights, `[m, c, k, k]`.
    pub(super) fn weight_gradient(&self, xs: &[f32], gradient: &[f32]) -> Vec<f32> {
        match self.precision {
            Precision::F32 | Precision::Tf32 => {
                self.weight_sums(&factors(xs, self.precision), &factors(gradient, self.precision))
            }
            Precision::Bf16 => self.weight_sums_of_pairs(xs, gradient),
        }
    }

    /// The gradient of the input: a convolution of the outputs' gradient.
    pub(super) fn input_gradient(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (geometry, frame) = self.geometry.backward(self.filters);
        let frame = framed(frame, 1, self.precision);
        let channels = self.geometry.channels;
        let (weights, gradient) = (&*factors(weights, self.precision), &*factors(gradient, self.precision));
        let weights = packed::backward(&geometry, channels, weights);
        let weights = &Weights::new(&geometry, &frame, self.precision, channels, weights);
        let len = self.geometry.image_len();
        let mut dx = vec![0.0; self.images * len];
        dx.par_chunks_exact_mut(len).zip(gradient.par_chunks_exact(self.conv_len())).for_each(|(out, image)| {
            of_thread(|own| {
                let framed = own.frame.sized(frame.len());
                frame.fill(image, framed);
                weights.convolve(&geometry, &frame, (framed, &mut own.pairs), None, false, out);
            });
        });
        dx
    }
}
