//! Backward to the weights: each thread sums some of them up over all images.

use super::job::Job;
use crate::kernel::frame::Geometry;
use crate::kernel::packed::panel;
use crate::kernel::product::{Output, Start, Terms, sums};
use crate::kernel::scratch::{Shared, of_thread};
use rayon::prelude::*;

impl Job {
    /// The gradient of the weights, `[m, c, k, k]`.
    pub(super) fn weight_sums(&self, xs: &[f32], gradient: &[f32]) -> Vec<f32> {
        let Geometry { channels, kernel, .. } = self.geometry;
        let frame_len = self.frame.len();
        let mut frames = Shared::take();
        let frames = frames.sized(self.images * frame_len);
        let images = xs.par_chunks_exact(self.geometry.image_len());
        frames.par_chunks_exact_mut(frame_len).zip(images).for_each(|(frame, image)| self.frame.fill(image, frame));

        // One row of all windows and one panel of filters is a unit. Every sum is of one unit alone, so that it does not
        // matter how many of them a task takes; fewer tasks read the images less often.
        let panel = panel();
        let (unit_len, units) = (kernel * channels * panel, kernel * self.filters.div_ceil(panel));
        let per_task = units.div_ceil(rayon::current_num_threads());
        let mut sums = Shared::take();
        let sums = sums.sized(units * unit_len);
        sums.par_chunks_mut(per_task * unit_len).enumerate().for_each(|(task, sums)| {
            self.sum_units(frames, gradient, task * per_task, sums);
        });

        self.arrange(|filter, ky, kx, channel| {
            let unit = filter / panel * kernel + ky;
            sums[unit * unit_len + (kx * channels + channel) * panel + filter % panel]
        })
    }

    /// Some units of the weights' gradient, from the `first` on, over all images.
    fn sum_units(&self, frames: &[f32], gradient: &[f32], first: usize, units: &mut [f32]) {
        /// So many outputs of one panel fit the first cache, and are read again for each unit.
        const BLOCK: usize = 128;
        let Geometry { channels, kernel, stride, out_height, out_width, .. } = self.geometry;
        let (filters, row_len, rows, panel) = (self.filters, self.frame.row_len(), kernel * channels, panel());
        let lines = (BLOCK / out_width).max(1);
        units.fill(0.0);
        of_thread(|own| {
            let packed = own.maps.sized(lines * out_width * panel);
            for (frame, gradient) in frames.chunks_exact(self.frame.len()).zip(gradient.chunks_exact(self.conv_len())) {
                for y in (0..out_height).step_by(lines) {
                    let segments = lines.min(out_height - y);
                    let (frame, gradient) = (&frame[y * stride * row_len..], &gradient[y * out_width * filters..]);
                    let mut last = None;
                    for (i, values) in units.chunks_exact_mut(rows * panel).enumerate() {
                        let (at, ky) = ((first + i) / kernel * panel, (first + i) % kernel);
                        let columns = panel.min(filters - at);
                        if last.replace(at) != Some(at) {
                            let pixels = gradient[at..].chunks(filters).take(segments * out_width);
                            let places = packed.chunks_exact_mut(columns);
                            places.zip(pixels).for_each(|(place, pixel)| place.copy_from_slice(&pixel[..columns]));
                        }
                        let terms = Terms {
                            segments,
                            len: out_width,
                            a_row: 1,
                            a_step: stride * channels,
                            a_segment: stride * row_len,
                            b_step: columns,
                            b_segment: out_width * columns,
                        };
                        let out = Output { values, stride: panel, rows, columns };
                        sums(&terms, &frame[ky * row_len..], packed, Start::Output, false, out);
                    }
                }
            }
        });
    }
}
