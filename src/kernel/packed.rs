//! Weights of a convolution in the order in which they are read.

use super::frame::Geometry;
use super::scratch::Shared;
use rayon::prelude::*;

/// Filters that lie side by side: a multiple of what a tile takes, of all kinds of vectors.
pub(super) const PANEL: usize = 32;

/// Panels of filters, `[panel][ky][kx][channel][filter]`; the last one may be narrower.
pub(super) struct Packed {
    values: Shared,
    pub(super) filters: usize,
    terms: usize,
}

impl Packed {
    /// Filters as they are, of `[filters][channels][k][k]`.
    pub(super) fn forward(geometry: &Geometry, filters: usize, weights: &[f32]) -> Self {
        let Geometry { channels, kernel, .. } = *geometry;
        let area = kernel * kernel;
        Self::new(filters, geometry.window_len(), |filter, term| {
            weights[(filter * channels + term % channels) * area + term / channels]
        })
    }

    /// Filters that give the gradient of the input: channels and filters swapped, windows turned by half a circle.
    /// `backward` is the geometry of that convolution.
    pub(super) fn backward(backward: &Geometry, channels: usize, weights: &[f32]) -> Self {
        let Geometry { channels: filters, kernel, .. } = *backward;
        let area = kernel * kernel;
        Self::new(channels, backward.window_len(), |channel, term| {
            weights[((term % filters) * channels + channel) * area + area - 1 - term / filters]
        })
    }

    fn new(filters: usize, terms: usize, weight: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let mut values = Shared::take();
        values.sized(filters * terms).par_chunks_mut(PANEL * terms).enumerate().for_each(|(panel, out)| {
            let width = PANEL.min(filters - panel * PANEL);
            for (i, value) in out.iter_mut().enumerate() {
                *value = weight(panel * PANEL + i % width, i / width);
            }
        });
        Self { values, filters, terms }
    }

    /// The panels, with the first filter of each.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let values = self.values.get(self.filters * self.terms);
        values.chunks(PANEL * self.terms).enumerate().map(|(panel, values)| (panel * PANEL, values))
    }
}
