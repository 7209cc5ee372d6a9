//! Pillow's 8-bit bilinear resize, bit for bit, computing only the window that is cut out afterwards.
//!
//! Pillow's `BILINEAR` is a triangle filter whose support grows with the reduction (it is antialiased), in two passes:
//! rows first, rounded to 8 bits, then columns. Weights are 22-bit fixed point. Each output pixel is independent of the
//! others, so leaving out what the crop discards changes nothing. Source: `libImaging/Resample.c` of Pillow 13.

#[cfg(target_arch = "x86_64")]
mod fast;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::Pixels;

/// Fractional bits of a weight: 32 bits less 8 for the sample and 2 for the sum's head-room.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

/// A rectangle in an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// Returns the window `[height, width, 3]` of the image resized to `scaled` (width, height).
///
/// The window must lie inside the resized image, neither may be empty, and the image must hold [`needed`].
pub fn resize_window(image: &Pixels, scaled: (usize, usize), window: Window) -> Vec<u8> {
    if scaled == (image.width, image.height) {
        return cut(image, window);
    }
    let axes = Axes::new(image, scaled, window);
    #[cfg(target_arch = "x86_64")]
    if let Some(out) = fast::resize(&axes) {
        return out;
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(out) = neon::resize(&axes) {
        return out;
    }
    plain(&axes)
}

/// The part of an image of this size that a window of the resized image is made of.
pub(super) fn needed(size: (usize, usize), scaled: (usize, usize), window: Window) -> Window {
    if scaled == size {
        return window;
    }
    // The first and the last pixel of the window are made of the first and the last of its source.
    let ends = |from: usize, to: usize, first: usize, count: usize| {
        let (first, last) = (Taps::new(from, to, first, 1), Taps::new(from, to, first + count - 1, 1));
        let start = first.spans[0].start;
        (start, last.spans[0].start + last.spans[0].count - start)
    };
    let (left, width) = ends(size.0, scaled.0, window.left, window.width);
    let (top, height) = ends(size.1, scaled.1, window.top, window.height);
    Window { left, top, width, height }
}

/// The window of an image as it is.
fn cut(image: &Pixels, window: Window) -> Vec<u8> {
    let (left, top) = (window.left - image.part.left, window.top - image.part.top);
    let mut out = Vec::with_capacity(window.height * window.width * 3);
    for row in image.data.chunks_exact(image.part.width * 3).skip(top).take(window.height) {
        out.extend_from_slice(&row[left * 3..][..window.width * 3]);
    }
    out
}

/// One resize: its source, and its weights in both directions.
struct Axes<'a> {
    columns: Taps,
    rows: Taps,
    /// From the first row that has a weight to the last.
    source: &'a [u8],
    /// Bytes from one row of it to the next.
    stride: usize,
}

impl<'a> Axes<'a> {
    fn new(image: &'a Pixels, scaled: (usize, usize), window: Window) -> Self {
        debug_assert!(window.left + window.width <= scaled.0 && window.top + window.height <= scaled.1);
        let mut columns = Taps::new(image.width, scaled.0, window.left, window.width);
        let mut rows = Taps::new(image.height, scaled.1, window.top, window.height);
        let first = rows.spans.first().map_or(0, |span| span.start);
        let end = rows.spans.last().map_or(0, |span| span.start + span.count);
        columns.spans.iter_mut().for_each(|span| span.start -= image.part.left);
        rows.spans.iter_mut().for_each(|span| span.start -= first);
        let (stride, top) = (image.part.width * 3, image.part.top);
        Self { columns, rows, source: &image.data[(first - top) * stride..(end - top) * stride], stride }
    }
}

/// The resize as Pillow's source has it.
fn plain(axes: &Axes) -> Vec<u8> {
    let stride = axes.columns.spans.len() * 3;
    let mut middle = vec![0; axes.source.len() / axes.stride * stride];
    for (row, out) in axes.source.chunks_exact(axes.stride).zip(middle.chunks_exact_mut(stride)) {
        axes.columns.across(row, out);
    }
    let mut out = vec![0; axes.rows.spans.len() * stride];
    let mut sums = vec![0; stride];
    for (y, out) in out.chunks_exact_mut(stride).enumerate() {
        axes.rows.down(y, &middle, &mut sums, out);
    }
    out
}

/// The source pixels one output pixel is made of: `count` of them from `start`, weights from `weight` on.
struct Span {
    start: usize,
    count: usize,
    weight: usize,
}

/// The weights along one axis.
struct Taps {
    spans: Vec<Span>,
    weights: Vec<i32>,
}

impl Taps {
    /// The weights of output pixels `first..first + count` where `from` pixels become `to`.
    fn new(from: usize, to: usize, first: usize, count: usize) -> Self {
        let mut taps = Self { spans: Vec::with_capacity(count), weights: vec![] };
        let scale = from as f64 / to as f64;
        // Enlarging interpolates between two neighbours; reducing averages over `scale` pixels on each side.
        let support = scale.max(1.0);
        let per_pixel = 1.0 / support;
        for x in first..first + count {
            let centre = (x as f64 + 0.5) * scale;
            // The casts truncate towards zero, as C's do.
            let start = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).min(from as i64) as usize;
            let triangle = |p: usize| (1.0 - ((p as f64 - centre + 0.5) * per_pixel).abs()).max(0.0);
            let total: f64 = (start..end).map(triangle).sum();
            taps.spans.push(Span { start, count: end - start, weight: taps.weights.len() });
            taps.weights.extend((start..end).map(|p| fixed(if total == 0.0 { 0.0 } else { triangle(p) / total })));
        }
        taps
    }

    /// One row `[from, 3]` to one row of the window `[count, 3]`.
    fn across(&self, row: &[u8], out: &mut [u8]) {
        for (span, out) in self.spans.iter().zip(out.chunks_exact_mut(3)) {
            let weights = &self.weights[span.weight..][..span.count];
            let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
            for (pixel, weight) in row[span.start * 3..].chunks_exact(3).zip(weights) {
                red += i32::from(pixel[0]) * weight;
                green += i32::from(pixel[1]) * weight;
                blue += i32::from(pixel[2]) * weight;
            }
            out.copy_from_slice(&[clip(red), clip(green), clip(blue)]);
        }
    }

    /// Output row `y` from the rows of `middle`.
    fn down(&self, y: usize, middle: &[u8], sums: &mut [i32], out: &mut [u8]) {
        let span = &self.spans[y];
        let stride = out.len();
        sums.fill(HALF);
        let rows = middle[span.start * stride..].chunks_exact(stride);
        for (row, weight) in rows.zip(&self.weights[span.weight..][..span.count]) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = clip(*sum);
        }
    }
}

fn fixed(weight: f64) -> i32 {
    (0.5 + weight * f64::from(1 << PRECISION)) as i32
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded;
    use proptest::prelude::*;

    fn noise(width: usize, height: usize) -> Pixels {
        let mut stream = seeded::stream(3, "noise", &[width as u64, height as u64]);
        Pixels::new(width, height, (0..width * height * 3).map(|_| stream.bits() as u8).collect())
    }

    fn whole(scaled: (usize, usize)) -> Window {
        Window { left: 0, top: 0, width: scaled.0, height: scaled.1 }
    }

    /// The same filter in one dimension from its definition, in floating point and without rounding in between.
    fn slow(image: &Pixels, scaled: (usize, usize)) -> Vec<f64> {
        let weights = |from: usize, to: usize, at: usize| -> Vec<f64> {
            let scale = from as f64 / to as f64;
            let centre = (at as f64 + 0.5) * scale - 0.5;
            let raw: Vec<f64> =
                (0..from).map(|p| (1.0 - (p as f64 - centre).abs() / scale.max(1.0)).max(0.0)).collect();
            let total: f64 = raw.iter().sum();
            raw.iter().map(|w| w / total).collect()
        };
        let mut out = vec![];
        for y in 0..scaled.1 {
            let down = weights(image.height, scaled.1, y);
            for x in 0..scaled.0 {
                let across = weights(image.width, scaled.0, x);
                for channel in 0..3 {
                    let pixel = |p: usize, q: usize| f64::from(image.data[(q * image.width + p) * 3 + channel]);
                    let row = |q: usize| -> f64 { across.iter().enumerate().map(|(p, w)| w * pixel(p, q)).sum() };
                    out.push(down.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(q, w)| w * row(q)).sum());
                }
            }
        }
        out
    }

    #[test]
    fn it_agrees_with_the_filter_in_floating_point() {
        for (from, to) in
            [((50, 37), (20, 15)), ((13, 20), (31, 40)), ((40, 9), (17, 9)), ((7, 7), (7, 3)), ((1, 5), (4, 2))]
        {
            let image = noise(from.0, from.1);
            let exact = slow(&image, to);
            for (got, want) in resize_window(&image, to, whole(to)).iter().zip(exact) {
                // Half a grey level for each of the two roundings.
                assert!((f64::from(*got) - want).abs() <= 1.0 + 1e-3, "{from:?} to {to:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() {
        let (image, scaled) = (noise(61, 47), (33, 25));
        let all = resize_window(&image, scaled, whole(scaled));
        let window = Window { left: 9, top: 4, width: 11, height: 17 };
        let part = resize_window(&image, scaled, window);
        for (y, row) in part.chunks_exact(11 * 3).enumerate() {
            let from = ((y + 4) * 33 + 9) * 3;
            assert_eq!(row, &all[from..from + 11 * 3]);
        }
    }

    #[test]
    fn an_equal_size_copies() {
        let image = noise(12, 9);
        assert_eq!(resize_window(&image, (12, 9), whole((12, 9))), image.data);
    }

    #[test]
    fn flat_colour_stays_flat() {
        let image = Pixels::new(31, 57, [10, 128, 255].repeat(31 * 57));
        assert_eq!(resize_window(&image, (8, 14), whole((8, 14))), [10, 128, 255].repeat(8 * 14));
    }

    proptest! {
        #[test]
        fn the_fast_version_is_its_plain_twin(
            from in (1usize..90, 1usize..90), to in (1usize..60, 1usize..60), corner in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            let image = noise(from.0, from.1);
            let place = |length: usize, share: f64| (length as f64 * share) as usize;
            let (left, top) = (place(to.0, corner.0), place(to.1, corner.1));
            let window = Window { left, top, width: to.0 - left, height: to.1 - top };
            let axes = Axes::new(&image, to, window);
            let plain = plain(&axes);
            #[cfg(target_arch = "x86_64")]
            prop_assert!(fast::resize(&axes).is_none_or(|fast| fast == plain));
            #[cfg(target_arch = "aarch64")]
            prop_assert!(neon::resize(&axes).is_none_or(|fast| fast == plain));
            // A part of the image that holds what is needed is enough.
            let part = needed(from, to, window);
            let data = cut(&image, part);
            let part = Pixels { part, data, ..Pixels::new(from.0, from.1, vec![]) };
            prop_assert_eq!(resize_window(&part, to, window), plain);
        }
    }
}
