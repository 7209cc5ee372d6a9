//! Convolution as a matrix product: an image unfolded into columns, and back.

use super::add_to;
use candle_core::{Result, bail};

/// Sizes of one convolution: input, square window, and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) channels: usize,
    height: usize,
    width: usize,
    pub(super) kernel: usize,
    stride: usize,
    padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl Geometry {
    /// Of an image `[channels, height, width]` under windows of side `kernel`.
    pub(super) fn new(image: [usize; 3], kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        let [channels, height, width] = image;
        if channels == 0 || kernel == 0 || stride == 0 || height.min(width) + 2 * padding < kernel {
            bail!("a window of {kernel}x{kernel}, stride {stride}, padding {padding} does not fit {image:?}");
        }
        let outputs = |side: usize| (side + 2 * padding - kernel) / stride + 1;
        Ok(Self {
            channels,
            height,
            width,
            kernel,
            stride,
            padding,
            out_height: outputs(height),
            out_width: outputs(width),
        })
    }

    /// Numbers of one input image.
    pub(super) fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Numbers under one window: rows of the unfolded image.
    pub(super) fn window_len(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Places of the window: columns of the unfolded image.
    pub(super) fn places(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Visits every line of outputs under every place in the window: one stretch of columns, one of the image.
    fn lines(&self, mut visit: impl FnMut(Line)) {
        let k = self.kernel;
        for row in 0..self.window_len() {
            let (channel, ky, kx) = (row / (k * k), row / k % k, row % k);
            let (left, right) = self.inside(kx, self.width, self.out_width);
            let (top, bottom) = self.inside(ky, self.height, self.out_height);
            for oy in 0..self.out_height {
                let at = (row * self.out_height + oy) * self.out_width;
                if oy < top || oy >= bottom || left == right {
                    visit(Line { at, from: 0, to: 0, pixel: 0 });
                    continue;
                }
                let (y, x) = (oy * self.stride + ky - self.padding, left * self.stride + kx - self.padding);
                visit(Line { at, from: left, to: right, pixel: (channel * self.height + y) * self.width + x });
            }
        }
    }

    /// The outputs along one axis whose window has a pixel at `offset`: from the first to one past the last.
    fn inside(&self, offset: usize, side: usize, outputs: usize) -> (usize, usize) {
        let from = self.padding.saturating_sub(offset).div_ceil(self.stride).min(outputs);
        let to = (side + self.padding).saturating_sub(offset).div_ceil(self.stride).min(outputs);
        (from, to.max(from))
    }
}

/// One line of outputs, seen through one place of the window.
struct Line {
    /// Where the line starts in the columns.
    at: usize,
    /// The outputs of the line that look at a pixel, not at padding.
    from: usize,
    to: usize,
    /// The pixel that the first of them looks at; the next ones are a stride further each.
    pixel: usize,
}

/// Writes the numbers under each window as a column: `image` `[c, h, w]` to `columns` `[c * k * k, places]`.
pub(super) fn unfold(geometry: &Geometry, image: &[f32], columns: &mut [f32]) {
    geometry.lines(|Line { at, from, to, pixel }| {
        let line = &mut columns[at..at + geometry.out_width];
        line[..from].fill(0.0);
        line[to..].fill(0.0);
        if geometry.stride == 1 {
            line[from..to].copy_from_slice(&image[pixel..pixel + to - from]);
        } else {
            for (value, &x) in line[from..to].iter_mut().zip(image[pixel..].iter().step_by(geometry.stride)) {
                *value = x;
            }
        }
    });
}

/// The transpose of [`unfold`]: adds every number of `columns` to the pixel it came from.
pub(super) fn fold(geometry: &Geometry, columns: &[f32], image: &mut [f32]) {
    image.fill(0.0);
    geometry.lines(|Line { at, from, to, pixel }| {
        let line = &columns[at + from..at + to];
        if geometry.stride == 1 {
            add_to(&mut image[pixel..pixel + line.len()], line);
        } else {
            for (x, &value) in image[pixel..].iter_mut().step_by(geometry.stride).zip(line) {
                *x += value;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;

    /// Every geometry that a few small sizes allow, even those whose windows lie in the padding alone.
    fn geometries() -> impl Iterator<Item = Geometry> {
        let sides = [(1, 1), (4, 7), (6, 5)];
        sides.into_iter().flat_map(|(height, width)| {
            (1..=5).flat_map(move |kernel| {
                (1..=4).flat_map(move |stride| {
                    (0..=3).filter_map(move |padding| Geometry::new([2, height, width], kernel, stride, padding).ok())
                })
            })
        })
    }

    #[test]
    fn unfolding_puts_the_pixels_under_each_window_in_its_column() {
        for g in geometries() {
            let image = uniform(3, g.image_len());
            let mut columns = vec![f32::NAN; g.window_len() * g.places()];
            unfold(&g, &image, &mut columns);
            for (position, &value) in columns.iter().enumerate() {
                let (row, place) = (position / g.places(), position % g.places());
                let (channel, ky, kx) = (row / (g.kernel * g.kernel), row / g.kernel % g.kernel, row % g.kernel);
                let y = (place / g.out_width * g.stride + ky).checked_sub(g.padding).filter(|&y| y < g.height);
                let x = (place % g.out_width * g.stride + kx).checked_sub(g.padding).filter(|&x| x < g.width);
                let pixel = y.zip(x).map_or(0.0, |(y, x)| image[(channel * g.height + y) * g.width + x]);
                assert_eq!(value, pixel, "{g:?}");
            }
        }
    }

    #[test]
    fn folding_is_the_transpose_of_unfolding() {
        for g in geometries() {
            let (image, weights) = (uniform(4, g.image_len()), uniform(5, g.window_len() * g.places()));
            let (mut columns, mut folded) = (weights.clone(), image.clone());
            unfold(&g, &image, &mut columns);
            fold(&g, &weights, &mut folded);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((dot(&columns, &weights) - dot(&image, &folded)).abs() < 1e-4, "{g:?}");
        }
    }
}
