//! Backward to the weights with bf16 numbers: pairs are images of the batch.
//!
//! The sums go over all of them, and with two images' numbers side by side every window finds its pairs whatever its
//! stride.

use super::job::Job;
use crate::kernel::bf16::{Pair, of_rows, of_rows_turned};
use crate::kernel::frame::Geometry;
use crate::kernel::packed::panel;
use crate::kernel::product::{Output, Start, Terms, pair_sums};
use crate::kernel::scratch::{Shared, of_thread};
use rayon::prelude::*;

impl Job {
    /// The gradient of the weights, `[m, c, k, k]`.
    pub(super) fn weight_sums_of_pairs(&self, xs: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (image_len, frame_len, map_len) = (self.geometry.image_len(), self.frame.len(), self.conv_len());
        let pairs = self.images.div_ceil(2);
        let (mut frames, mut turned) = (Shared::<Pair>::take(), Shared::<Pair>::take());
        let (frames, turned) = (frames.sized(pairs * frame_len), turned.sized(pairs * map_len));
        frames.par_chunks_exact_mut(frame_len).zip(xs.par_chunks(2 * image_len)).for_each(|(out, images)| {
            of_thread(|own| {
                let (first, second) = (own.frame.sized(frame_len), own.maps.sized(frame_len));
                let (image, next) = images.split_at(image_len);
                self.frame.fill(image, first);
                if next.is_empty() {
                    return of_rows(first, None, out);
                }
                self.frame.fill(next, second);
                of_rows(first, Some(second), out);
            });
        });
        turned.par_chunks_exact_mut(map_len).zip(gradient.par_chunks(2 * map_len)).for_each(|(out, maps)| {
            let (map, next) = maps.split_at(map_len);
            of_rows_turned(map, (!next.is_empty()).then_some(next), self.filters, out);
        });

        // A unit is a panel of numbers in one row of all windows, by all filters.
        let (kernel, row, panel) = (self.geometry.kernel, self.geometry.kernel * self.frame.cell, panel());
        let panels = row.div_ceil(panel);
        let (unit_len, units) = (self.filters * panel, kernel * panels);
        let per_task = units.div_ceil(rayon::current_num_threads());
        let mut sums = Shared::take();
        let sums = sums.sized(units * unit_len);
        sums.par_chunks_mut(per_task * unit_len).enumerate().for_each(|(task, sums)| {
            self.sum_pairs(frames, turned, task * per_task, sums);
        });
        self.arrange(|filter, ky, kx, channel| {
            let number = kx * self.frame.cell + channel;
            sums[(ky * panels + number / panel) * unit_len + filter * panel + number % panel]
        })
    }

    /// Some units of the weights' gradient, from the `first` on, over all images.
    fn sum_pairs(&self, frames: &[Pair], gradient: &[Pair], first: usize, units: &mut [f32]) {
        /// So many places of one panel fit the first cache, and are read again for each filter.
        const BLOCK: usize = 128;
        let Geometry { kernel, stride, out_height, out_width, .. } = self.geometry;
        let (row_len, row, places) = (self.frame.row_len(), kernel * self.frame.cell, self.geometry.places());
        let (lines, panel) = ((BLOCK / out_width).max(1), panel());
        units.fill(0.0);
        of_thread(|own| {
            let packed = own.pairs.sized(lines * out_width * panel);
            for (frame, gradient) in frames.chunks_exact(self.frame.len()).zip(gradient.chunks_exact(self.conv_len())) {
                for y in (0..out_height).step_by(lines) {
                    let len = lines.min(out_height - y) * out_width;
                    for (i, values) in units.chunks_exact_mut(self.filters * panel).enumerate() {
                        let (at, ky) = ((first + i) % row.div_ceil(panel) * panel, (first + i) / row.div_ceil(panel));
                        let columns = panel.min(row - at);
                        for (place, line) in packed.chunks_exact_mut(columns).take(len).enumerate() {
                            let (down, across) = (y + place / out_width, place % out_width);
                            let from = (down * stride + ky) * row_len + across * stride * self.frame.cell + at;
                            line.copy_from_slice(&frame[from..from + columns]);
                        }
                        let (a_row, b_step) = (places, columns);
                        let terms = Terms { segments: 1, len, a_row, a_step: 1, a_segment: 0, b_step, b_segment: 0 };
                        let out = Output { values, stride: panel, rows: self.filters, columns };
                        pair_sums(&terms, &gradient[y * out_width..], packed, Start::Output, false, out);
                    }
                }
            }
        });
    }
}
