//! A small rasteriser: filled figures with textures, two by two samples a pixel.

use crate::seeded::Stream;

/// Red, green and blue, 0 to 1.
pub(super) type Colour = [f32; 3];

/// Samples along each side of a pixel.
const SAMPLES: usize = 2;

/// What can be drawn, inside the unit circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Circle,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
}

/// How a figure is filled: with its colour, or with two tones of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texture {
    Plain,
    Stripes,
    Dots,
    Checks,
}

/// A figure in the picture; lengths are in pixels.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    pub(super) kind: Kind,
    pub(super) texture: Texture,
    /// Colour, and the texture's second tone.
    pub(super) tones: [Colour; 2],
    pub(super) centre: [f32; 2],
    /// Half-lengths of its two axes.
    pub(super) radii: [f32; 2],
    /// Angle in radians.
    pub(super) turn: f32,
    /// Repeats of the texture across the figure.
    pub(super) pitch: f32,
    /// How much brighter one side is, along the figure's own axes.
    pub(super) shade: [f32; 2],
}

/// A picture while it is painted.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    /// `[height * SAMPLES, width * SAMPLES]`
    samples: Vec<Colour>,
}

impl Canvas {
    /// A canvas painted with a smooth pattern: `grid` x `grid` colours, blended between.
    pub(super) fn new(width: usize, height: usize, grid: &[Colour], columns: usize) -> Self {
        let (across, down) = (width * SAMPLES, height * SAMPLES);
        let last = (columns - 1) as f32;
        let mut samples = Vec::with_capacity(across * down);
        for y in 0..down {
            let (top, fy) = whole_and_part(y as f32 / down as f32 * last);
            for x in 0..across {
                let (left, fx) = whole_and_part(x as f32 / across as f32 * last);
                let at = |dx, dy| grid[(top + dy) * columns + left + dx];
                samples.push(mix(mix(at(0, 0), at(1, 0), fx), mix(at(0, 1), at(1, 1), fx), fy));
            }
        }
        Self { width, height, samples }
    }

    /// Paints a figure over what is there.
    pub(super) fn paint(&mut self, figure: &Figure) {
        let scale = SAMPLES as f32;
        let (sin, cos) = figure.turn.sin_cos();
        let reach = figure.radii[0].max(figure.radii[1]);
        let range = |centre: f32, size: usize| {
            let from = ((centre - reach) * scale).floor().max(0.0) as usize;
            let to = ((centre + reach) * scale).ceil().max(0.0) as usize;
            from.min(size * SAMPLES)..to.min(size * SAMPLES)
        };
        let across = self.width * SAMPLES;
        for y in range(figure.centre[1], self.height) {
            let dy = (y as f32 + 0.5) / scale - figure.centre[1];
            for x in range(figure.centre[0], self.width) {
                let dx = (x as f32 + 0.5) / scale - figure.centre[0];
                let (u, v) = ((cos * dx + sin * dy) / figure.radii[0], (cos * dy - sin * dx) / figure.radii[1]);
                if figure.kind.contains(u, v) {
                    self.samples[y * across + x] = figure.colour(u, v);
                }
            }
        }
    }

    /// The picture under uneven light and with noise: `[height, width, 3]`.
    ///
    /// `light` gives the brightness of each channel; `slope` its change from side to side; `noise` is in grey levels.
    pub(super) fn develop(&self, light: Colour, slope: [f32; 2], noise: f32, stream: &mut Stream) -> Vec<u8> {
        let across = self.width * SAMPLES;
        let mut out = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            let down = slope[1] * (y as f32 / self.height as f32 - 0.5);
            for x in 0..self.width {
                let bright = 1.0 + down + slope[0] * (x as f32 / self.width as f32 - 0.5);
                let bits = stream.bits();
                for (channel, light) in light.iter().enumerate() {
                    let sample = |i: usize| {
                        self.samples[(y * SAMPLES + i / SAMPLES) * across + x * SAMPLES + i % SAMPLES][channel]
                    };
                    let mean = (0..SAMPLES * SAMPLES).map(sample).sum::<f32>() / (SAMPLES * SAMPLES) as f32;
                    let level = 255.0 * mean * light * bright + noise * bell((bits >> (20 * channel)) as u32);
                    out.push(level.round().clamp(0.0, 255.0) as u8);
                }
            }
        }
        out
    }
}

impl Kind {
    /// Whether a point is in the figure.
    fn contains(self, u: f32, v: f32) -> bool {
        let square = u * u + v * v;
        match self {
            Self::Circle => square <= 0.85,
            Self::Square => u.abs().max(v.abs()) <= 0.78,
            Self::Triangle => TRIANGLE.iter().all(|n| n[0] * u + n[1] * v <= 0.5),
            // The pentagram: inside all but at most one of the five lines through its edges.
            Self::Star => square <= 1.0 && STAR.iter().filter(|n| n[0] * u + n[1] * v > 0.36).count() <= 1,
            Self::Ring => (0.3..=1.0).contains(&square),
            Self::Cross => u.abs().min(v.abs()) <= 0.3 && u.abs().max(v.abs()) <= 0.95,
        }
    }
}

/// Directions of the edges, in thirds and fifths of a turn.
const TRIANGLE: [[f32; 2]; 3] = [[0.0, 1.0], [0.866_025_4, -0.5], [-0.866_025_4, -0.5]];
const STAR: [[f32; 2]; 5] = [
    [0.0, 1.0],
    [0.951_056_5, 0.309_017],
    [0.587_785_25, -0.809_017],
    [-0.587_785_25, -0.809_017],
    [-0.951_056_5, 0.309_017],
];

impl Figure {
    fn colour(&self, u: f32, v: f32) -> Colour {
        let (p, q) = (u * self.pitch, v * self.pitch);
        let second = match self.texture {
            Texture::Plain => false,
            Texture::Stripes => p.rem_euclid(1.0) < 0.5,
            Texture::Dots => (p.rem_euclid(1.0) - 0.5).powi(2) + (q.rem_euclid(1.0) - 0.5).powi(2) < 0.1,
            Texture::Checks => (p.rem_euclid(1.0) < 0.5) != (q.rem_euclid(1.0) < 0.5),
        };
        let bright = 1.0 + self.shade[0] * u + self.shade[1] * v;
        self.tones[usize::from(second)].map(|channel| (channel * bright).clamp(0.0, 1.0))
    }
}

fn whole_and_part(x: f32) -> (usize, f32) {
    (x as usize, x - x.floor())
}

fn mix(a: Colour, b: Colour, part: f32) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * part)
}

/// A bell-shaped number of variance 1, from 20 bits: the sum of four uniform ones.
fn bell(bits: u32) -> f32 {
    let sum: u32 = (0..4).map(|i| (bits >> (5 * i)) & 31).sum();
    // Four times the variance of 0..=31, which is (32 * 32 - 1) / 12.
    (sum as f32 - 62.0) / 18.466_185
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 6] = [Kind::Circle, Kind::Square, Kind::Triangle, Kind::Star, Kind::Ring, Kind::Cross];

    #[test]
    fn figures_stay_in_their_circle_and_cover_a_fair_part_of_it() {
        for kind in KINDS {
            let points = (0..200 * 200).map(|i| ((i % 200) as f32 / 80.0 - 1.25, (i / 200) as f32 / 80.0 - 1.25));
            let inside: Vec<_> = points.filter(|(u, v)| kind.contains(*u, *v)).collect();
            assert!(inside.iter().all(|(u, v)| u * u + v * v <= 1.25), "{kind:?}");
            let area = inside.len() as f32 / 6400.0;
            assert!((1.0..3.0).contains(&area), "{kind:?} {area}");
        }
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let mut stream = crate::seeded::stream(1, "noise", &[]);
        let draws: Vec<f64> = (0..20_000).map(|_| f64::from(bell(stream.bits() as u32))).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
