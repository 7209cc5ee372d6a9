//! Sizes of a convolution, and images put into a frame of zeros, so that no window has to ask where the border is.

use candle_core::{Result, bail};

/// Sizes of one convolution: input, square window, and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl Geometry {
    /// Of an image of `[height, width, channels]` under windows of side `kernel`.
    pub(super) fn new(image: [usize; 3], kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        let [height, width, channels] = image;
        if channels == 0 || kernel == 0 || stride == 0 || height.min(width) + 2 * padding < kernel {
            bail!("a window of {kernel}x{kernel}, stride {stride}, padding {padding} does not fit {image:?}");
        }
        let outputs = |side: usize| (side + 2 * padding - kernel) / stride + 1;
        let (out_height, out_width) = (outputs(height), outputs(width));
        Ok(Self { channels, height, width, kernel, stride, padding, out_height, out_width })
    }

    /// Numbers of one input image.
    pub(super) fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Numbers under one window.
    pub(super) fn window_len(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Places of the window.
    pub(super) fn places(&self) -> usize {
        self.out_height * self.out_width
    }

    /// The frame that the windows of an image move in.
    pub(super) fn frame(&self, form: Form) -> Frame {
        let side = |outputs: usize| (outputs - 1) * self.stride + self.kernel;
        Frame {
            source: [self.height, self.width],
            channels: self.channels,
            form,
            spread: 1,
            inset: self.padding as isize,
            height: side(self.out_height),
            width: side(self.out_width),
            cell: self.channels,
            row_len: side(self.out_width) * self.channels,
        }
    }

    /// The convolution of the outputs' gradient, of so many channels, that gives the input's; its weights are turned by
    /// half a circle. The frame is that of the gradient, spread by the stride.
    pub(super) fn backward(&self, filters: usize) -> (Self, Frame) {
        let geometry = Self {
            channels: filters,
            height: self.out_height,
            width: self.out_width,
            stride: 1,
            padding: 0,
            out_height: self.height,
            out_width: self.width,
            ..*self
        };
        let frame = Frame {
            source: [self.out_height, self.out_width],
            channels: filters,
            form: Form::Pixels,
            spread: self.stride,
            inset: self.kernel as isize - 1 - self.padding as isize,
            height: self.height + self.kernel - 1,
            width: self.width + self.kernel - 1,
            cell: filters,
            row_len: (self.width + self.kernel - 1) * filters,
        };
        (geometry, frame)
    }
}

/// The order of an image's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `[channels, height, width]`.
    Planes,
    /// `[height, width, channels]`.
    Pixels,
}

/// An image of pixels with zeros around it, and between them where `spread` is above 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    source: [usize; 2],
    channels: usize,
    form: Form,
    spread: usize,
    /// Row and column of the first pixel; what lies outside of the frame is cut off.
    inset: isize,
    height: usize,
    pub(super) width: usize,
    /// Numbers from one pixel to the next; those beyond the channels are 0.
    pub(super) cell: usize,
    row_len: usize,
}

impl Frame {
    pub(super) fn len(&self) -> usize {
        self.height * self.row_len
    }

    /// Numbers from one row to the next; those beyond the pixels are 0.
    pub(super) fn row_len(&self) -> usize {
        self.row_len
    }

    /// The same with zeros added, if need be, so that rows and windows of this stride begin at even numbers.
    pub(super) fn even(self, stride: usize) -> Self {
        let cell = if (stride * self.channels).is_multiple_of(2) { self.channels } else { self.channels + 1 };
        Self { cell, row_len: (self.width * cell).next_multiple_of(2), ..self }
    }

    /// Where a row or column of the image goes, if it is in the frame.
    fn place(&self, source: usize, side: usize) -> Option<usize> {
        usize::try_from((source * self.spread) as isize + self.inset).ok().filter(|&at| at < side)
    }

    /// The columns of the image that are in the frame, and where the first one goes.
    fn columns(&self) -> (usize, usize, usize) {
        let mut inside = (0..self.source[1]).filter_map(|x| Some((x, self.place(x, self.width)?)));
        let Some((first, at)) = inside.next() else { return (0, 0, 0) };
        (first, inside.next_back().map_or(first, |(last, _)| last) + 1, at)
    }

    /// Fills a frame with an image.
    pub(super) fn fill(&self, image: &[f32], frame: &mut [f32]) {
        let ([height, width], channels, cell) = (self.source, self.channels, self.cell);
        frame.fill(0.0);
        let (first, end, at) = self.columns();
        for y in 0..height {
            let Some(row) = self.place(y, self.height) else { continue };
            let line = &mut frame[row * self.row_len + at * cell..(row + 1) * self.row_len];
            match self.form {
                Form::Pixels if self.spread == 1 && cell == channels => {
                    let pixels = &image[(y * width + first) * channels..(y * width + end) * channels];
                    line[..pixels.len()].copy_from_slice(pixels);
                }
                Form::Pixels => {
                    let pixels = image[(y * width + first) * channels..(y * width + end) * channels].chunks(channels);
                    let places = line.chunks_mut(cell).step_by(self.spread);
                    places.zip(pixels).for_each(|(place, pixel)| place[..channels].copy_from_slice(pixel));
                }
                Form::Planes => {
                    for channel in 0..channels {
                        let plane = &image[(channel * height + y) * width..][first..end];
                        let places = line[channel..].iter_mut().step_by(cell * self.spread);
                        places.zip(plane).for_each(|(place, &value)| *place = value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_of_the_frame_see_the_image_and_zeros_around_it(
            (height, width, channels) in (1usize..9, 1usize..9, 1usize..4),
            (kernel, stride, padding) in (1usize..6, 1usize..5, 0usize..4),
        ) {
            let Ok(g) = Geometry::new([height, width, channels], kernel, stride, padding) else { return Ok(()) };
            let image = uniform(3, g.image_len());
            for form in [Form::Planes, Form::Pixels] {
                let frame = g.frame(form);
                let mut framed = vec![f32::NAN; frame.len()];
                frame.fill(&image, &mut framed);
                let at = |y: usize, x: usize, channel: usize| match form {
                    Form::Planes => image[(channel * height + y) * width + x],
                    Form::Pixels => image[(y * width + x) * channels + channel],
                };
                for place in 0..g.places() {
                    for i in 0..g.window_len() {
                        let (ky, kx, channel) = (i / channels / kernel, i / channels % kernel, i % channels);
                        let (row, column) = (place / g.out_width * stride + ky, place % g.out_width * stride + kx);
                        let y = row.checked_sub(padding).filter(|&y| y < height);
                        let x = column.checked_sub(padding).filter(|&x| x < width);
                        let expected = y.zip(x).map_or(0.0, |(y, x)| at(y, x, channel));
                        prop_assert_eq!(framed[(row * frame.width + column) * channels + channel], expected);
                    }
                }
            }
        }

        #[test]
        fn a_gradients_frame_has_it_spread_by_the_stride(
            (height, width, filters) in (1usize..9, 1usize..9, 1usize..4),
            (kernel, stride, padding) in (1usize..6, 1usize..5, 0usize..4),
        ) {
            let Ok(g) = Geometry::new([height, width, 1], kernel, stride, padding) else { return Ok(()) };
            let (_, frame) = g.backward(filters);
            let gradient = uniform(4, g.places() * filters);
            let mut framed = vec![f32::NAN; frame.len()];
            frame.fill(&gradient, &mut framed);
            let mut expected = vec![0.0; frame.len()];
            for place in 0..g.places() {
                // The window at `place` begins at this row and column of the image, which may be before it.
                let (y, x) = (place / g.out_width * stride, place % g.out_width * stride);
                let (row, column) = (y + kernel - 1, x + kernel - 1);
                let row = row.checked_sub(padding).filter(|&row| row < frame.height);
                let column = column.checked_sub(padding).filter(|&column| column < frame.width);
                if let Some((row, column)) = row.zip(column) {
                    let at = (row * frame.width + column) * filters;
                    expected[at..at + filters].copy_from_slice(&gradient[place * filters..][..filters]);
                }
            }
            prop_assert_eq!(framed, expected);
        }
    }
}
