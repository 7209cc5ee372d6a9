//! The products of a linear layer of bf16 numbers: as in `linear.rs`, but each term is a pair of products.
//!
//! The weights are rounded block by block where they are used: they are read once and not written.

use super::bf16::{Pair, of_neighbours, of_rows};
use super::linear::{Sizes, rows_per_part, transpose, turn_panels};
use super::packed::panel;
use super::product::{Output, Start, Terms, pair_sums};
use super::scratch::{Shared, of_thread};
use rayon::prelude::*;

/// Rows of weights, or of their gradient, that are worked on at once.
const TILE: usize = 32;

/// Pairs of a batch's neighbours, row by row: `[n, k / 2]`.
fn neighbours(rows: &[f32], columns: usize, out: &mut [Pair]) {
    let lines = out.par_chunks_exact_mut(columns.div_ceil(2));
    lines.zip(rows.par_chunks_exact(columns)).for_each(|(line, row)| of_neighbours(row, line));
}

/// Two rows next to each other, of some columns; the last one may be alone.
fn two_rows(rows: &[f32], len: usize, columns: usize, out: &mut [Pair]) {
    of_rows(&rows[..columns], rows.get(len..).and_then(|rows| rows.get(..columns)), out);
}

impl Sizes {
    /// `W x^T`, `[m, n]`.
    pub(super) fn outputs_of_pairs(self, xs: &[f32], weights: &[f32], out: &mut [f32]) {
        let Self { n, k, m } = self;
        let half = k.div_ceil(2);
        let (mut pairs, mut turned) = (Shared::<Pair>::take(), Shared::<Pair>::take());
        let (pairs, turned) = (pairs.sized(n * half), turned.sized(n * half));
        neighbours(xs, k, pairs);
        turn_panels(pairs, half, turned);
        let rows = rows_per_part(m);
        out.par_chunks_mut(rows * n)
            .zip(weights.par_chunks(rows * k))
            .for_each(|(out, weights)| self.outputs_part_of_pairs(turned, weights, out));
    }

    /// Rows of `W x^T`, of the batch's pairs in panels that are turned.
    fn outputs_part_of_pairs(self, turned: &[Pair], weights: &[f32], out: &mut [f32]) {
        /// Inputs at a time: a tile's weights stay in the first cache, and of a batch of 64, they in the second.
        const BLOCK: usize = 512;
        let Self { n, k, .. } = self;
        let (half, panel) = (k.div_ceil(2), panel());
        of_thread(|own| {
            let tile = own.pairs.sized(TILE * BLOCK / 2);
            for first in (0..k).step_by(BLOCK) {
                let numbers = BLOCK.min(k - first);
                let len = numbers.div_ceil(2);
                let start = if first == 0 { Start::Zero } else { Start::Output };
                for (values, weights) in out.chunks_mut(TILE * n).zip(weights.chunks(TILE * k)) {
                    for (line, row) in tile.chunks_exact_mut(len).zip(weights.chunks_exact(k)) {
                        of_neighbours(&row[first..first + numbers], line);
                    }
                    for (i, turned) in turned.chunks(panel * half).enumerate() {
                        let (columns, rows) = (turned.len() / half, values.len() / n);
                        let (a_row, b_step) = (len, columns);
                        let terms = Terms { segments: 1, len, a_row, a_step: 1, a_segment: 0, b_step, b_segment: 0 };
                        let out = Output { values: &mut values[i * panel..], stride: n, rows, columns };
                        pair_sums(&terms, tile, &turned[first / 2 * columns..], start, false, out);
                    }
                }
            }
        });
    }

    /// The gradient of the weights, `[m, k]`, of the gradient `[n, m]`.
    pub(super) fn weight_gradient_of_pairs(self, xs: &[f32], gradient: &[f32], out: &mut [f32]) {
        let Self { n, k, m } = self;
        let (half, most) = (n.div_ceil(2), panel());
        let mut panels = Shared::<Pair>::take();
        let panels = panels.sized(half * k);
        panels.par_chunks_mut(half * most).enumerate().for_each(|(panel, out)| {
            let columns = out.len() / half;
            for (line, rows) in out.chunks_exact_mut(columns).zip(xs.chunks(2 * k)) {
                two_rows(&rows[panel * most..], k, columns, line);
            }
        });
        let (mut pairs, mut turned) = (Shared::<Pair>::take(), Shared::<Pair>::take());
        let (pairs, turned) = (pairs.sized(half * m), turned.sized(half * m));
        let rows = pairs.par_chunks_exact_mut(m).zip(gradient.par_chunks(2 * m));
        rows.for_each(|(line, rows)| two_rows(rows, m, m, line));
        transpose(pairs, m, turned);
        let rows = rows_per_part(m);
        out.par_chunks_mut(rows * k).enumerate().for_each(|(part, out)| {
            self.weight_gradient_part_of_pairs(panels, &turned[part * rows * half..], out);
        });
    }

    /// Rows of the gradient of the weights, of pairs of the batch's rows in panels, and of the gradient's turned.
    fn weight_gradient_part_of_pairs(self, panels: &[Pair], gradient: &[Pair], out: &mut [f32]) {
        /// Columns at a time: of a batch of 64, they stay in the second cache.
        const BLOCK: usize = 2048;
        let (k, len, most) = (self.k, self.n.div_ceil(2), panel());
        for (block, panels) in panels.chunks(BLOCK * len).enumerate() {
            for (values, gradient) in out.chunks_mut(TILE * k).zip(gradient.chunks(TILE * len)) {
                for (panel, xs) in panels.chunks(len * most).enumerate() {
                    let (rows, columns) = (values.len() / k, xs.len() / len);
                    let terms =
                        Terms { segments: 1, len, a_row: len, a_step: 1, a_segment: 0, b_step: columns, b_segment: 0 };
                    let values = &mut values[block * BLOCK + panel * most..];
                    let out = Output { values, stride: k, rows, columns };
                    pair_sums(&terms, gradient, xs, Start::Zero, false, out);
                }
            }
        }
    }

    /// Columns of the gradient of the input, `[n, columns]` each, one after the other; of the gradient `[n, m]`.
    pub(super) fn input_gradient_of_pairs(self, weights: &[f32], gradient: &[f32], columns: usize, parts: &mut [f32]) {
        let mut pairs = Shared::<Pair>::take();
        let pairs = pairs.sized(self.n * self.m.div_ceil(2));
        neighbours(gradient, self.m, pairs);
        parts.par_chunks_mut(self.n * columns).enumerate().for_each(|(part, out)| {
            self.input_gradient_part_of_pairs(&weights[part * columns..], pairs, out);
        });
    }

    fn input_gradient_part_of_pairs(self, weights: &[f32], gradient: &[Pair], out: &mut [f32]) {
        /// Rows of weights at a time: a panel of them stays in the first cache for the whole batch.
        const BLOCK: usize = 256;
        /// Columns that are packed at once, a multiple of a panel's: so much of a row is read in one go.
        const WIDE: usize = 128;
        let Self { n, k, m } = self;
        let (width, most) = (out.len() / n, panel());
        of_thread(|own| {
            let packed = own.pairs.sized(BLOCK / 2 * WIDE);
            for first in (0..m).step_by(BLOCK) {
                let len = BLOCK.min(m - first).div_ceil(2);
                let start = if first == 0 { Start::Zero } else { Start::Output };
                for left in (0..width).step_by(WIDE) {
                    let wide = WIDE.min(width - left);
                    // As in `linear.rs`, side by side they do not displace each other from the cache.
                    for (i, rows) in weights[first * k + left..].chunks(2 * k).take(len).enumerate() {
                        for column in (0..wide).step_by(most) {
                            let columns = most.min(wide - column);
                            let at = column * len + i * columns;
                            two_rows(&rows[column..], k, columns, &mut packed[at..at + columns]);
                        }
                    }
                    for (panel, packed) in packed[..len * wide].chunks(most * len).enumerate() {
                        let (a_row, b_step) = (m.div_ceil(2), packed.len() / len);
                        let terms = Terms { segments: 1, len, a_row, a_step: 1, a_segment: 0, b_step, b_segment: 0 };
                        let values = &mut out[left + panel * most..];
                        let out = Output { values, stride: width, rows: n, columns: b_step };
                        pair_sums(&terms, &gradient[first / 2..], packed, start, false, out);
                    }
                }
            }
        });
    }
}
