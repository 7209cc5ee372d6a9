//! How a camera was held, as EXIF tells it, and the picture turned upright.

use super::Pixels;
use super::decode::DecodeError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use std::io::Cursor;

/// What has to be done to the picture; none if it is upright, or the file does not say.
pub(super) fn of(bytes: &[u8]) -> Option<Orientation> {
    let found = match image::guess_format(bytes).ok()? {
        ImageFormat::Jpeg => in_jpeg(bytes),
        format => ImageReader::with_format(Cursor::new(bytes), format).into_decoder().ok()?.orientation().ok(),
    };
    found.filter(|orientation| *orientation != Orientation::NoTransforms)
}

/// The picture turned.
pub(super) fn apply(orientation: Orientation, image: Pixels) -> Result<Pixels, DecodeError> {
    let (width, height) = (image.width as u32, image.height as u32);
    let image =
        RgbImage::from_raw(width, height, image.data).ok_or_else(|| DecodeError("a part of an image".into()))?;
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Pixels::new(width, height, image.into_rgb8().into_raw()))
}

/// Goes from segment to segment, up to the picture's data.
fn in_jpeg(bytes: &[u8]) -> Option<Orientation> {
    const EXIF: u8 = 0xE1;
    const START_OF_SCAN: u8 = 0xDA;
    let mut rest = bytes.get(2..)?;
    loop {
        let (&[0xFF, marker, high, low], _) = rest.split_first_chunk::<4>()? else { return None };
        let segment = rest.get(4..2 + usize::from(u16::from_be_bytes([high, low])))?;
        match (marker, segment.strip_prefix(b"Exif\0\0")) {
            (START_OF_SCAN, _) => return None,
            (EXIF, Some(chunk)) => return Orientation::from_exif_chunk(chunk),
            _ => rest = &rest[4 + segment.len()..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Transform, decode};
    use super::*;
    use image::{Rgb, codecs::jpeg::JpegEncoder};

    /// A picture, red on its left and blue on its right, with a tag for how it was held.
    fn held(orientation: u8) -> Vec<u8> {
        let picture = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
        let mut jpeg = vec![];
        JpegEncoder::new_with_quality(&mut jpeg, 95).encode_image(&picture).unwrap();
        let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0];
        let exif = [&b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01"[..], &entry, &[0; 4]].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn a_picture_is_turned_only_when_asked() {
        let plain = Transform::imagenet(16, 16);
        let upright = Transform { apply_exif: true, ..plain.clone() };
        let is_red = |pixels: &[u8], at: usize| pixels[at * 3] > 128;
        for (orientation, turned) in [(1, (32, 16)), (3, (32, 16)), (6, (16, 32)), (8, (16, 32))] {
            let bytes = held(orientation);
            let (left, right) = (decode(&bytes).unwrap(), upright.open(&bytes).unwrap());
            assert!(is_red(&left.data, 0) && !is_red(&left.data, 31), "{orientation}");
            assert_eq!((right.width, right.height), turned, "{orientation}");
            assert_eq!(plain.read_eval(&bytes).unwrap(), plain.eval(&left));
            assert_eq!(upright.read_eval(&bytes).unwrap(), upright.eval(&right));
            // Held upside down, red comes to the right; turned by a quarter, to the top or to the bottom.
            let first = right.data[0] > 128;
            assert_eq!(first, orientation == 1 || orientation == 6, "{orientation}");
        }
        assert!(of(b"").is_none() && of(&held(1)).is_none() && of(&held(9)).is_none());
    }
}
