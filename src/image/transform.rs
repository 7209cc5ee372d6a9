//! What happens to an image before the network sees it.

use super::decode::{DecodeError, decode, decode_part};
use super::resize::{Window, needed, resize_window};
use super::{Pixels, orientation, scratch};
use crate::error::{Error, Result as Checked};
use crate::seeded::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resize, crop and normalise, as torchvision's `Resize`, `CenterCrop` or `RandomCrop`, `ToTensor` and `Normalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// Length the shorter side is resized to, in pixels; the other side keeps the aspect.
    #[schemars(range(min = 8, max = 4096))]
    pub resize: u32,
    /// Side of the square that is cut out, in pixels.
    #[schemars(range(min = 8, max = 4096))]
    pub crop: u32,
    /// Mean of red, green and blue, subtracted after scaling pixels to 0..1.
    #[serde(default = "imagenet_mean")]
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, divided by.
    #[serde(default = "imagenet_std")]
    pub std: [f64; 3],
    /// Turn pictures upright as their EXIF data tells. The published experiments do not.
    #[serde(default)]
    pub apply_exif: bool,
}

fn imagenet_mean() -> [f64; 3] {
    [0.485, 0.456, 0.406]
}

fn imagenet_std() -> [f64; 3] {
    [0.229, 0.224, 0.225]
}

impl Transform {
    /// ImageNet's usual normalisation with the given sizes.
    pub fn imagenet(resize: u32, crop: u32) -> Self {
        Self { resize, crop, mean: imagenet_mean(), std: imagenet_std(), apply_exif: false }
    }

    /// Checks that the sizes and the normalisation make sense together.
    ///
    /// # Errors
    /// A crop that does not fit into the resized image, sizes out of range, a zero or non-finite normalisation.
    pub fn check(&self) -> Checked<()> {
        let sizes = 8..=4096;
        if !sizes.contains(&self.resize) || !sizes.contains(&self.crop) {
            return Err(Error::input(format!("`resize` is {} and `crop` is {}", self.resize, self.crop))
                .hint("both are in pixels, from 8 to 4096"));
        }
        if self.crop > self.resize {
            let message = format!("`crop` is {} but the shorter side is resized to {}", self.crop, self.resize);
            return Err(Error::input(message).hint("`crop` can be at most `resize`; common are 224 out of 256"));
        }
        if self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(
                Error::input("`mean` or `std` cannot be used").hint("`std` must be above 0, both must be finite")
            );
        }
        Ok(())
    }

    /// The image as evaluation sees it: resized, the centre cut out. `[crop, crop, 3]`.
    pub fn eval(&self, image: &Pixels) -> Vec<u8> {
        self.cut(image, self.centre(image.width, image.height))
    }

    /// The image as training sees it: resized, cut out at random, mirrored half of the time. `[crop, crop, 3]`.
    pub fn augmented(&self, image: &Pixels, stream: &mut Stream, crop: bool, flip: bool) -> Vec<u8> {
        self.cut(image, self.draw(image.width, image.height, stream, crop, flip))
    }

    /// The same as [`eval`](Self::eval) from a file's bytes, of which only what it needs is decoded.
    pub fn read_eval(&self, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.read(bytes, &mut |width, height| self.centre(width, height))
    }

    /// The same as [`augmented`](Self::augmented) from a file's bytes, of which only what it needs is decoded.
    pub fn read_augmented(
        &self,
        bytes: &[u8],
        stream: &mut Stream,
        crop: bool,
        flip: bool,
    ) -> Result<Vec<u8>, DecodeError> {
        // Drawn once only, also when a decoder asks again.
        let mut drawn = None;
        self.read(bytes, &mut |width, height| {
            *drawn.get_or_insert_with(|| self.draw(width, height, stream, crop, flip))
        })
    }

    fn read(&self, bytes: &[u8], choose: &mut dyn FnMut(usize, usize) -> Cut) -> Result<Vec<u8>, DecodeError> {
        if self.apply_exif && orientation::of(bytes).is_some() {
            let image = self.open(bytes)?;
            return Ok(self.cut(&image, choose(image.width, image.height)));
        }
        let image = decode_part(bytes, &mut |width, height| {
            needed((width, height), self.scaled(width, height), self.window(choose(width, height)))
        })?;
        let out = self.cut(&image, choose(image.width, image.height));
        scratch::give(image.data);
        Ok(out)
    }

    /// The whole image of a file, upright if that is asked for.
    pub fn open(&self, bytes: &[u8]) -> Result<Pixels, DecodeError> {
        let image = decode(bytes)?;
        match self.apply_exif.then(|| orientation::of(bytes)).flatten() {
            Some(orientation) => orientation::apply(orientation, image),
            None => Ok(image),
        }
    }

    /// The whole image with its shorter side at `resize` pixels.
    pub fn resized(&self, image: &Pixels) -> Pixels {
        let (width, height) = self.scaled(image.width, image.height);
        Pixels::new(width, height, resize_window(image, (width, height), Window { left: 0, top: 0, width, height }))
    }

    /// Pixels `[crop, crop, 3]` to the network's numbers `[3, crop, crop]`: (value / 255 - mean) / std.
    pub fn normalise(&self, hwc: &[u8], out: &mut [f32]) {
        let plane = hwc.len() / 3;
        for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
            let table = self.normalised(channel);
            for (out, pixel) in out.iter_mut().zip(hwc.chunks_exact(3)) {
                *out = table[usize::from(pixel[channel])];
            }
        }
    }

    /// What each value of red (channel 0), green or blue becomes for the network: (value / 255 - mean) / std.
    pub fn normalised(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
        std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std)
    }

    /// Where the square that the network sees lies in the resized image: the centre, or as [`augmented`](Self::augmented)
    /// draws it. `width` and `height` are the image's, before or after resizing.
    pub fn place(&self, width: usize, height: usize, drawn: Option<(&mut Stream, bool, bool)>) -> Cut {
        match drawn {
            None => self.centre(width, height),
            Some((stream, crop, flip)) => self.draw(width, height, stream, crop, flip),
        }
    }

    /// Width and height after resizing: the shorter side exactly, the longer one cut to whole pixels, as torchvision.
    fn scaled(&self, width: usize, height: usize) -> (usize, usize) {
        let short = self.resize as usize;
        // No case for the right size already: the formula then gives the size the image has.
        match width <= height {
            true => (short, short * height / width),
            false => (short * width / height, short),
        }
    }

    /// Pixels that the resized image has more than the crop, across and down.
    fn spare(&self, width: usize, height: usize) -> (usize, usize) {
        let (width, height) = self.scaled(width, height);
        (width - self.crop as usize, height - self.crop as usize)
    }

    fn centre(&self, width: usize, height: usize) -> Cut {
        let spare = self.spare(width, height);
        Cut { left: centre(spare.0), top: centre(spare.1), mirrored: false }
    }

    fn draw(&self, width: usize, height: usize, stream: &mut Stream, crop: bool, flip: bool) -> Cut {
        let spare = self.spare(width, height);
        // All three draws are always made: whether one is used does not change the others.
        let (left, top, mirrored) = (stream.below(spare.0 + 1), stream.below(spare.1 + 1), stream.unit() < 0.5);
        let place = if crop { Cut { left, top, mirrored: false } } else { self.centre(width, height) };
        Cut { mirrored: flip && mirrored, ..place }
    }

    fn window(&self, cut: Cut) -> Window {
        let side = self.crop as usize;
        Window { left: cut.left, top: cut.top, width: side, height: side }
    }

    fn cut(&self, image: &Pixels, cut: Cut) -> Vec<u8> {
        let mut out = resize_window(image, self.scaled(image.width, image.height), self.window(cut));
        if cut.mirrored {
            mirror(&mut out, self.crop as usize);
        }
        out
    }
}

/// Where a square is cut out of the resized image, and whether it is mirrored then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub left: usize,
    pub top: usize,
    pub mirrored: bool,
}

/// Half of the spare pixels; a half pixel goes to the even side, as Python's `round` does.
fn centre(spare: usize) -> usize {
    let half = spare / 2;
    half + usize::from(spare % 2 == 1 && half % 2 == 1)
}

/// Swaps left and right of `[side, side, 3]`.
fn mirror(pixels: &mut [u8], side: usize) {
    for row in pixels.chunks_exact_mut(side * 3) {
        for x in 0..side / 2 {
            let (left, right) = row.split_at_mut((side - 1 - x) * 3);
            left[x * 3..x * 3 + 3].swap_with_slice(&mut right[..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded;

    /// Red tells the column, green the row.
    fn ramp(width: usize, height: usize) -> Pixels {
        let data = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 7]).collect();
        Pixels::new(width, height, data)
    }

    #[test]
    fn the_longer_side_is_truncated() {
        let transform = Transform::imagenet(256, 224);
        assert_eq!(transform.scaled(500, 375), (341, 256));
        assert_eq!(transform.scaled(427, 640), (256, 383));
        assert_eq!(transform.scaled(640, 594), (275, 256));
        assert_eq!(transform.scaled(300, 256), (300, 256));
        assert_eq!(transform.scaled(256, 256), (256, 256));
    }

    #[test]
    fn the_centre_is_rounded_to_even() {
        let offsets = [341, 343, 345, 339].map(|width| centre(width - 224));
        assert_eq!(offsets, [58, 60, 60, 58]);
    }

    #[test]
    fn an_image_of_the_right_size_is_only_cut() {
        let transform = Transform::imagenet(16, 8);
        let out = transform.eval(&ramp(21, 16));
        // Spare columns 13, so 6.5 goes to 6; spare rows 8.
        assert_eq!(out[..3], [6, 4, 7]);
        assert_eq!(out[(7 * 8 + 7) * 3..], [13, 11, 7]);
    }

    #[test]
    fn augmentation_cuts_and_mirrors_inside_the_image() {
        let transform = Transform::imagenet(16, 8);
        let image = ramp(24, 16);
        let (mut lefts, mut mirrored) = (std::collections::BTreeSet::new(), 0);
        for draw in 0..400 {
            let out = transform.augmented(&image, &mut seeded::stream(1, "augment", &[draw]), true, true);
            let (first, last) = (out[0], out[7 * 3]);
            assert_eq!(first.abs_diff(last), 7);
            mirrored += usize::from(first > last);
            lefts.insert(first.min(last));
        }
        assert_eq!(lefts, (0..=16).collect());
        assert!((140..260).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn augmentation_without_crop_and_flip_is_evaluation() {
        let (transform, image) = (Transform::imagenet(16, 8), ramp(24, 31));
        let out = transform.augmented(&image, &mut seeded::stream(1, "augment", &[0]), false, false);
        assert_eq!(out, transform.eval(&image));
    }

    #[test]
    fn normalising_is_the_formula_channel_by_channel() {
        let transform = Transform::imagenet(8, 8);
        let mut out = vec![0.0; 6];
        transform.normalise(&[0, 128, 255, 255, 0, 1], &mut out);
        let expected = [(0, 0), (255, 0), (128, 1), (0, 1), (255, 2), (1, 2)].map(|(value, channel)| {
            (value as f32 / 255.0 - imagenet_mean()[channel] as f32) / imagenet_std()[channel] as f32
        });
        assert_eq!(out, expected);
    }

    #[test]
    fn a_crop_larger_than_the_image_is_refused() {
        assert!(Transform::imagenet(256, 224).check().is_ok());
        let refused = Transform::imagenet(200, 224).check().unwrap_err();
        assert_eq!(refused.message(), "`crop` is 224 but the shorter side is resized to 200");
        assert!(Transform::imagenet(4, 2).check().is_err());
        assert!(Transform { std: [0.0; 3], ..Transform::imagenet(9, 8) }.check().is_err());
    }
}
