//! Forward: images side by side, or the rows of each where there are few.

use super::job::Job;
use super::windows::{Weights, convolve_rows};
use crate::kernel::bf16::factors;
use crate::kernel::frame::Geometry;
use crate::kernel::packed::{self, Packed};
use crate::kernel::scratch::{Own, Shared, of_thread};
use rayon::prelude::*;

impl Job {
    pub(super) fn forward(&self, xs: &[f32], weights: &[f32], bias: &[f32], winners: &mut [u8]) -> Vec<f32> {
        let Self { geometry, frame, filters, precision, .. } = self;
        let (xs, weights) = (&*factors(xs, *precision), &*factors(weights, *precision));
        let weights = packed::forward(geometry, weights);
        let weights = &Weights::new(geometry, frame, *precision, *filters, weights);
        let mut out = vec![0.0; self.images * self.out_len()];
        if let Weights::Plain(weights) = weights
            && self.images < rayon::current_num_threads()
        {
            self.forward_by_rows(xs, weights, bias, winners, &mut out);
            return out;
        }
        let winners: Vec<Option<&mut [u8]>> = if winners.is_empty() {
            (0..self.images).map(|_| None).collect()
        } else {
            winners.chunks_exact_mut(self.out_len()).map(Some).collect()
        };
        (out.par_chunks_exact_mut(self.out_len()), xs.par_chunks_exact(self.geometry.image_len()), winners)
            .into_par_iter()
            .for_each(|(out, image, winners)| self.forward_image(image, weights, bias, winners, out));
        out
    }

    fn forward_image(
        &self,
        image: &[f32],
        weights: &Weights,
        bias: &[f32],
        winners: Option<&mut [u8]>,
        out: &mut [f32],
    ) {
        of_thread(|Own { frame, maps, pairs }| {
            let framed = frame.sized(self.frame.len());
            self.frame.fill(image, framed);
            let mut convolve = |out: &mut [f32]| {
                weights.convolve(&self.geometry, &self.frame, (framed, pairs), Some(bias), self.relu, out);
            };
            let Some(pooling) = &self.pooling else { return convolve(out) };
            let maps = maps.sized(self.conv_len());
            convolve(maps);
            pooling.forward(maps, out, winners);
        });
    }

    /// One image after the other, the rows of each side by side: a few images alone would leave threads idle.
    fn forward_by_rows(&self, xs: &[f32], weights: &Packed, bias: &[f32], winners: &mut [u8], out: &mut [f32]) {
        let Geometry { stride, out_height, out_width, .. } = self.geometry;
        let (mut frame, mut maps) = (Shared::take(), Shared::take());
        let (frame, maps) = (frame.sized(self.frame.len()), maps.sized(self.conv_len()));
        let (row_len, lines) = (self.frame.row_len(), out_height.div_ceil(2 * rayon::current_num_threads()));
        let mut winners = winners.chunks_exact_mut(self.out_len());
        for (out, image) in out.chunks_exact_mut(self.out_len()).zip(xs.chunks_exact(self.geometry.image_len())) {
            self.frame.fill(image, frame);
            maps.par_chunks_mut(lines * out_width * self.filters).enumerate().for_each(|(part, maps)| {
                let frame = &frame[part * lines * stride * row_len..];
                convolve_rows(&self.geometry, row_len, frame, weights, Some(bias), self.relu, maps);
            });
            match &self.pooling {
                Some(pooling) => pooling.forward(maps, out, winners.next()),
                None => out.copy_from_slice(maps),
            }
        }
    }
}
