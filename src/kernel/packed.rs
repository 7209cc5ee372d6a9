//! Weights of a convolution in the order in which they are read.

use super::bf16::Pair;
use super::frame::Geometry;
use super::scratch::{Kept, Shared};
use super::simd::Kind;
use rayon::prelude::*;

/// Numbers that lie side by side in what is packed: as many as a tile has columns, so that it reads one run of memory.
/// Columns of a wider panel fall on a part of the cache's sets, and displace each other.
pub(super) fn panel() -> usize {
    Kind::of_process().columns()
}

/// Panels of filters, `[panel][term][filter]`; the last one may be narrower.
///
/// Terms are `[ky][kx][channel]`, or pairs of them: then each row of a window has an even number of them, with zeros
/// where the frame has more than the window's channels.
pub(super) struct Packed<T: Kept = f32> {
    values: Shared<T>,
    pub(super) filters: usize,
    terms: usize,
}

/// A weight by filter, row and column of the window, and channel.
pub(super) trait Weight: Fn(usize, usize, usize, usize) -> f32 + Sync {}

impl<F: Fn(usize, usize, usize, usize) -> f32 + Sync> Weight for F {}

/// Filters as they are, of `[filters][channels][k][k]`.
pub(super) fn forward(geometry: &Geometry, weights: &[f32]) -> impl Weight {
    let Geometry { channels, kernel, .. } = *geometry;
    move |filter, ky, kx, channel| weights[(filter * channels + channel) * kernel * kernel + ky * kernel + kx]
}

/// Filters that give the gradient of the input: channels and filters swapped, windows turned by half a circle.
/// `backward` is the geometry of that convolution, `channels` are those of the weights.
pub(super) fn backward(backward: &Geometry, channels: usize, weights: &[f32]) -> impl Weight {
    let kernel = backward.kernel;
    let last = kernel * kernel - 1;
    move |channel, ky, kx, filter| weights[(filter * channels + channel) * kernel * kernel + last - ky * kernel - kx]
}

impl Packed {
    pub(super) fn new(geometry: &Geometry, filters: usize, weight: impl Weight) -> Self {
        let Geometry { channels, kernel, .. } = *geometry;
        Self::filled(filters, kernel * kernel * channels, |filter, term, line| {
            let (ky, kx, channel) = (term / channels / kernel, term / channels % kernel, term % channels);
            line.iter_mut().zip(filter..).for_each(|(value, filter)| *value = weight(filter, ky, kx, channel));
        })
    }
}

impl Packed<Pair> {
    /// `cell` is how many numbers the frame has for each pixel.
    pub(super) fn pairs(geometry: &Geometry, cell: usize, filters: usize, weight: impl Weight) -> Self {
        let Geometry { channels, kernel, .. } = *geometry;
        let row = pairs_of_row(geometry, cell);
        Self::filled(filters, kernel * row, |filter, term, line| {
            let (ky, number) = (term / row, 2 * (term % row));
            let [first, second] = [number, number + 1].map(|i| (i / cell, i % cell));
            let value = |filter, (kx, channel): (usize, usize)| {
                if kx < kernel && channel < channels { weight(filter, ky, kx, channel) } else { 0.0 }
            };
            let pair = |filter| Pair::new(value(filter, first), value(filter, second));
            line.iter_mut().zip(filter..).for_each(|(to, filter)| *to = pair(filter));
        })
    }
}

/// Pairs of numbers in a row of a window.
pub(super) fn pairs_of_row(geometry: &Geometry, cell: usize) -> usize {
    (geometry.kernel * cell).div_ceil(2)
}

impl<T: Kept + Send + Sync> Packed<T> {
    /// `fill` is given the first filter of a panel, a term, and the filters' places.
    fn filled(filters: usize, terms: usize, fill: impl Fn(usize, usize, &mut [T]) + Sync) -> Self {
        let (mut values, most) = (Shared::take(), panel());
        values.sized(filters * terms).par_chunks_mut(most * terms).enumerate().for_each(|(panel, out)| {
            let width = most.min(filters - panel * most);
            out.chunks_exact_mut(width).enumerate().for_each(|(term, line)| fill(panel * most, term, line));
        });
        Self { values, filters, terms }
    }

    /// The panels, with the first filter of each.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, &[T])> {
        let (values, most) = (self.values.get(self.filters * self.terms), panel());
        values.chunks(most * self.terms).enumerate().map(move |(panel, values)| (panel * most, values))
    }
}
