//! The sizes of one convolution, and how its numbers lie.

use crate::kernel::bf16::Precision;
use crate::kernel::frame::{Frame, Geometry};
use crate::kernel::packed::Weight;
use crate::kernel::pool::Pooling;
use candle_core::Shape;
use rayon::prelude::*;

/// The sizes of one operation.
pub(in crate::kernel) struct Job {
    pub(in crate::kernel) geometry: Geometry,
    pub(in crate::kernel) frame: Frame,
    pub(in crate::kernel) pooling: Option<Pooling>,
    pub(in crate::kernel) images: usize,
    pub(in crate::kernel) filters: usize,
    pub(in crate::kernel) relu: bool,
    pub(in crate::kernel) precision: Precision,
}

impl Job {
    /// Height and width of the output.
    fn out_sides(&self) -> (usize, usize) {
        match &self.pooling {
            Some(pooling) => (pooling.out_height, pooling.out_width),
            None => (self.geometry.out_height, self.geometry.out_width),
        }
    }

    pub(super) fn out_shape(&self) -> Shape {
        let (height, width) = self.out_sides();
        (self.images, height, width, self.filters).into()
    }

    /// Numbers of one output image.
    pub(in crate::kernel) fn out_len(&self) -> usize {
        let (height, width) = self.out_sides();
        height * width * self.filters
    }

    /// Numbers of one image between convolution and pooling.
    pub(in crate::kernel) fn conv_len(&self) -> usize {
        self.geometry.places() * self.filters
    }

    /// All weights' numbers, `[m, c, k, k]`, by filter, row and column of the window, and channel.
    pub(super) fn arrange(&self, number: impl Weight) -> Vec<f32> {
        let Geometry { channels, kernel, .. } = self.geometry;
        let mut weight = vec![0.0; self.filters * self.geometry.window_len()];
        weight.par_chunks_exact_mut(self.geometry.window_len()).enumerate().for_each(|(filter, weight)| {
            let mut places = weight.iter_mut();
            for channel in 0..channels {
                for ky in 0..kernel {
                    for (kx, place) in (0..kernel).zip(&mut places) {
                        *place = number(filter, ky, kx, channel);
                    }
                }
            }
        });
        weight
    }
}

/// A frame as the precision needs it.
pub(super) fn framed(frame: Frame, stride: usize, precision: Precision) -> Frame {
    match precision {
        Precision::F32 | Precision::Tf32 => frame,
        Precision::Bf16 => frame.even(stride),
    }
}
