//! All filters over the windows of one framed image.
//!
//! Pairs of bf16 numbers are neighbours in a row of a window.

use crate::kernel::bf16::{Pair, Precision, of_neighbours};
use crate::kernel::frame::{Frame, Geometry};
use crate::kernel::packed::{Packed, Weight, pairs_of_row, panel};
use crate::kernel::product::{Output, Start, Terms, pair_sums, sums};
use crate::kernel::scratch::Buffer;

/// Packed weights of a precision.
pub(super) enum Weights {
    Plain(Packed),
    Pairs(Packed<Pair>),
}

impl Weights {
    pub(super) fn new(
        geometry: &Geometry,
        frame: &Frame,
        precision: Precision,
        filters: usize,
        weight: impl Weight,
    ) -> Self {
        match precision {
            Precision::F32 | Precision::Tf32 => Self::Plain(Packed::new(geometry, filters, weight)),
            Precision::Bf16 => Self::Pairs(Packed::pairs(geometry, frame.cell, filters, weight)),
        }
    }

    /// All filters over a framed image, to `[out_height, out_width, filters]`.
    pub(super) fn convolve(
        &self,
        geometry: &Geometry,
        frame: &Frame,
        (image, pairs): (&[f32], &mut Buffer<Pair>),
        bias: Option<&[f32]>,
        relu: bool,
        out: &mut [f32],
    ) {
        match self {
            Self::Plain(weights) => convolve_rows(geometry, frame.row_len(), image, weights, bias, relu, out),
            Self::Pairs(weights) => convolve_pairs(geometry, frame, (image, pairs), weights, bias, relu, out),
        }
    }
}

/// All filters over a framed image, or over its rows from some on, to `[rows, out_width, filters]`.
pub(super) fn convolve_rows(
    geometry: &Geometry,
    row_len: usize,
    frame: &[f32],
    weights: &Packed,
    bias: Option<&[f32]>,
    relu: bool,
    out: &mut [f32],
) {
    let Geometry { channels, kernel, stride, out_width, .. } = *geometry;
    let filters = weights.filters;
    for (first, packed) in weights.panels() {
        let columns = panel().min(filters - first);
        let terms = Terms {
            segments: kernel,
            len: kernel * channels,
            a_row: stride * channels,
            a_step: 1,
            a_segment: row_len,
            b_step: columns,
            b_segment: kernel * channels * columns,
        };
        let start = bias.map_or(Start::Zero, |bias| Start::Bias(&bias[first..]));
        for (y, line) in out.chunks_exact_mut(out_width * filters).enumerate() {
            let out = Output { values: &mut line[first..], stride: filters, rows: out_width, columns };
            sums(&terms, &frame[y * stride * row_len..], packed, start, relu, out);
        }
    }
}

/// The same with pairs, over the whole image, to `[out_height, out_width, filters]`.
fn convolve_pairs(
    geometry: &Geometry,
    frame: &Frame,
    (image, pairs): (&[f32], &mut Buffer<Pair>),
    weights: &Packed<Pair>,
    bias: Option<&[f32]>,
    relu: bool,
    out: &mut [f32],
) {
    let Geometry { kernel, stride, out_height, out_width, .. } = *geometry;
    let (filters, row_len, row) = (weights.filters, frame.row_len() / 2, pairs_of_row(geometry, frame.cell));
    let pairs = pairs.sized(frame.len() / 2);
    of_neighbours(image, pairs);
    for (first, packed) in weights.panels() {
        let columns = panel().min(filters - first);
        let terms = Terms {
            segments: kernel,
            len: row,
            a_row: stride * frame.cell / 2,
            a_step: 1,
            a_segment: row_len,
            b_step: columns,
            b_segment: row * columns,
        };
        let start = bias.map_or(Start::Zero, |bias| Start::Bias(&bias[first..]));
        for y in 0..out_height {
            let values = &mut out[y * out_width * filters + first..];
            let out = Output { values, stride: filters, rows: out_width, columns };
            pair_sums(&terms, &pairs[y * stride * row_len..], packed, start, relu, out);
        }
    }
}
