//! An image file's bytes to RGB pixels, whatever the format, as Pillow's `convert("RGB")`.
//!
//! The format is told by the content, never by the file's name. Alpha is dropped, not blended; grey and palette images
//! become RGB; of 16-bit colours the upper 8 bits are kept, and 16-bit greys above 255 become 255, as Pillow has it.
//! EXIF orientation is ignored, as Pillow and the reference ignore it, unless it is asked for.

use super::indexed_tiff::Indexed;
use super::{Window, jpeg};
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// The most pixels an image may have; above it Pillow speaks of a decompression bomb.
///
/// A header of a few bytes can claim any size: it is checked before anything of that size is allocated.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The widest pixel that a decoder may need while it works: four channels of 32-bit floats.
const WIDEST_PIXEL: u64 = 16;

/// A decoded image, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Columns of the whole image, at least 1.
    pub width: usize,
    /// Rows of the whole image, at least 1.
    pub height: usize,
    /// The part of it that `data` holds.
    pub part: Window,
    /// `[part.height, part.width, 3]`: red, green and blue, row-major.
    pub data: Vec<u8>,
}

impl Pixels {
    /// A whole image.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        Self { width, height, part: Window { left: 0, top: 0, width, height }, data }
    }
}

/// Why bytes are not an image, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(pub(super) String);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

/// Decodes a JPEG, PNG, BMP, GIF (first frame), TIFF (first page) or WebP file.
///
/// # Errors
/// Any other content, damaged or cut-off data, and images of more than [`MAX_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<Pixels, DecodeError> {
    decode_part(bytes, &mut |width, height| Window { left: 0, top: 0, width, height })
}

/// Decodes at least the part of an image that `part` chooses by its width and height.
///
/// # Errors
/// As [`decode`]; damage in other parts may go unnoticed.
pub(super) fn decode_part(bytes: &[u8], part: &mut dyn FnMut(usize, usize) -> Window) -> Result<Pixels, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError("the file is empty".into()));
    }
    let format =
        image::guess_format(bytes).map_err(|_| DecodeError("not a JPEG, PNG, BMP, GIF, TIFF or WebP image".into()))?;
    if format == ImageFormat::Jpeg {
        return jpeg::decode(bytes, part);
    }
    if format == ImageFormat::Tiff
        && let Some(indexed) = Indexed::read(bytes)
    {
        return decode_indexed(&indexed);
    }
    if format == ImageFormat::Png && has_torn_palette(bytes) {
        return Err(DecodeError("the PNG is damaged: its palette ends within a colour".into()));
    }
    // Libraries of others may fail on some damage with a panic.
    let decoded = std::panic::catch_unwind(|| decode_other(bytes, format));
    decoded.map_err(|_| DecodeError("the image is damaged".into()))?.map_err(|e| DecodeError(e.to_string()))?
}

/// Whether a PNG's palette is no whole number of colours: the library that reads it fails with a panic then.
fn has_torn_palette(png: &[u8]) -> bool {
    let mut chunks = png.get(8..).unwrap_or_default();
    while let Some(([a, b, c, d, kind @ ..], _)) = chunks.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        match kind {
            b"PLTE" => return !length.is_multiple_of(3),
            b"IDAT" => return false,
            _ => chunks = chunks.get(length.saturating_add(12)..).unwrap_or_default(),
        }
    }
    false
}

/// Decodes a TIFF of palette indices.
fn decode_indexed(indexed: &Indexed) -> Result<Pixels, DecodeError> {
    check_size(indexed.width.into(), indexed.height.into())?;
    let reader = reader(&indexed.greys, ImageFormat::Tiff);
    let packed = reader.decode().map_err(|e| DecodeError(e.to_string()))?.into_luma8();
    let data = indexed.colours(packed.as_raw()).ok_or_else(|| DecodeError("the image is cut off".into()))?;
    Ok(Pixels::new(indexed.width as usize, indexed.height as usize, data))
}

/// A reader that asks for no more memory than the largest image needs.
fn reader(bytes: &[u8], format: ImageFormat) -> ImageReader<Cursor<&[u8]>> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * WIDEST_PIXEL);
    reader.limits(limits);
    reader
}

/// Returns an error if an image of this size must not be decoded.
pub(super) fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError(format!("the image is empty: {width} x {height} pixels")));
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(DecodeError(format!("{width} x {height} pixels are more than the limit of {MAX_PIXELS}")));
    }
    Ok(())
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> image::ImageResult<Result<Pixels, DecodeError>> {
    let decoder = reader(bytes, format).into_decoder()?;
    let (width, height) = decoder.dimensions();
    if let Err(refused) = check_size(width.into(), height.into()) {
        return Ok(Err(refused));
    }
    let is_grey = matches!(decoder.original_color_type(), ExtendedColorType::L16);
    let image = DynamicImage::from_decoder(decoder)?;
    let data = match image {
        // Pillow's mode for these has no upper end, and its way to 8 bits is to cut.
        DynamicImage::ImageLuma16(grey) => spread(grey.pixels().map(|p| p.0[0].min(255) as u8)),
        DynamicImage::ImageLumaA16(grey) if is_grey => spread(grey.pixels().map(|p| p.0[0].min(255) as u8)),
        DynamicImage::ImageLumaA16(grey) => spread(grey.pixels().map(|p| (p.0[0] >> 8) as u8)),
        DynamicImage::ImageRgb16(rgb) => rgb.pixels().flat_map(|p| p.0.map(|sample| (sample >> 8) as u8)).collect(),
        DynamicImage::ImageRgba16(rgba) => {
            rgba.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(|sample| (sample >> 8) as u8)).collect()
        }
        other => other.into_rgb8().into_raw(),
    };
    Ok(Ok(Pixels::new(width as usize, height as usize, data)))
}

/// Greys as red, green and blue.
fn spread(greys: impl Iterator<Item = u8>) -> Vec<u8> {
    greys.flat_map(|grey| [grey; 3]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded;
    use image::{ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// A smooth picture, so that lossy formats stay near it.
    fn picture() -> RgbImage {
        ImageBuffer::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, (x + y) as u8]))
    }

    fn noisy_jpeg() -> Vec<u8> {
        let mut stream = seeded::stream(1, "noise", &[]);
        encode(RgbImage::from_fn(64, 48, |_, _| Rgb([(); 3].map(|()| stream.bits() as u8))), ImageFormat::Jpeg)
    }

    #[test]
    fn every_lossless_format_gives_the_same_pixels() {
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let pixels = decode(&encode(picture(), format)).unwrap();
            assert_eq!((pixels.width, pixels.height), (40, 30), "{format:?}");
            assert_eq!(pixels.data, picture().into_raw(), "{format:?}");
        }
    }

    #[test]
    fn lossy_formats_come_near() {
        for (format, most) in [(ImageFormat::Jpeg, 24), (ImageFormat::Gif, 48)] {
            let pixels = decode(&encode(picture(), format)).unwrap();
            let far = pixels.data.iter().zip(picture().as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(far <= most, "{format:?}: {far}");
        }
    }

    #[test]
    fn alpha_is_dropped_and_grey_is_spread() {
        let clear = ImageBuffer::from_pixel(9, 8, Rgba([200u8, 100, 50, 0]));
        assert_eq!(decode(&encode(clear, ImageFormat::Png)).unwrap().data[..3], [200, 100, 50]);
        let grey = ImageBuffer::from_pixel(9, 8, LumaA([77u8, 3]));
        assert_eq!(decode(&encode(grey, ImageFormat::Png)).unwrap().data[..3], [77; 3]);
        let jpeg = decode(&encode(ImageBuffer::from_pixel(9, 8, Luma([77u8])), ImageFormat::Jpeg)).unwrap();
        assert_eq!((jpeg.data.len(), &jpeg.data[..3]), (9 * 8 * 3, &[77; 3][..]));
    }

    #[test]
    fn sixteen_bits_become_eight_as_pillow_has_it() {
        for format in [ImageFormat::Png, ImageFormat::Tiff] {
            let deep = ImageBuffer::from_pixel(4, 4, Rgb([65535u16, 256 * 128 + 255, 255]));
            assert_eq!(decode(&encode(deep, format)).unwrap().data[..3], [255, 128, 0]);
            let clear = ImageBuffer::from_pixel(4, 4, Rgba([256u16, 513, 65535, 0]));
            assert_eq!(decode(&encode(clear, format)).unwrap().data[..3], [1, 2, 255]);
            let grey = ImageBuffer::from_fn(4, 4, |x, _| Luma([[7u16, 255, 256, 65535][x as usize]]));
            let cut = decode(&encode(grey, format)).unwrap().data;
            assert_eq!(cut[..12], [7, 7, 7, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
        }
        let grey = ImageBuffer::from_pixel(4, 4, LumaA([0x1234u16, 0]));
        assert_eq!(decode(&encode(grey, ImageFormat::Png)).unwrap().data[..3], [0x12; 3]);
    }

    #[test]
    fn what_follows_the_image_does_not_matter() {
        let clean = noisy_jpeg();
        let trailing = [&clean[..], &[0x55; 1000]].concat();
        assert_eq!(decode(&trailing).unwrap(), decode(&clean).unwrap());
    }

    #[test]
    fn a_file_cut_off_is_an_error_in_every_format() {
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP] {
            let bytes = encode(DynamicImage::from(picture()).into_rgba8(), format);
            for keep in [3, bytes.len() / 4, bytes.len() / 2, bytes.len() * 9 / 10] {
                assert!(decode(&bytes[..keep]).is_err(), "{format:?} cut at {keep} of {}", bytes.len());
            }
        }
        let bytes = noisy_jpeg();
        for keep in [3, 200, bytes.len() / 2, bytes.len() * 9 / 10, bytes.len() - 10] {
            assert!(decode(&bytes[..keep]).is_err(), "jpeg cut at {keep} of {}", bytes.len());
        }
    }

    #[test]
    fn what_is_no_image_is_told_in_words() {
        assert_eq!(decode(b"").unwrap_err().to_string(), "the file is empty");
        assert_eq!(decode(b"<html>").unwrap_err().to_string(), "not a JPEG, PNG, BMP, GIF, TIFF or WebP image");
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_allocated() {
        let mut jpeg = noisy_jpeg();
        let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFD, 0xE8, 0xFD, 0xE8]);
        let refused = decode(&jpeg).unwrap_err().to_string();
        assert_eq!(refused, "65000 x 65000 pixels are more than the limit of 178956970");

        let mut bmp = encode(picture(), ImageFormat::Bmp);
        bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
        bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
        assert!(decode(&bmp).is_err());
    }

    #[test]
    fn damaged_files_never_panic() {
        let formats = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP];
        let mut files = vec![noisy_jpeg()];
        files.extend(formats.map(|format| encode(DynamicImage::from(picture()).into_rgba8(), format)));
        for (number, file) in files.iter().enumerate() {
            for round in 0..200 {
                let mut stream = seeded::stream(2, "damage", &[number as u64, round]);
                let mut damaged = file.clone();
                for _ in 0..1 + stream.below(8) {
                    let at = stream.below(damaged.len());
                    damaged[at] = stream.bits() as u8;
                }
                let _ = decode(&damaged);
            }
        }
    }

    /// Found by fuzzing: 49 bytes of palette, and pixels of its last, torn colour.
    #[test]
    fn a_torn_palette_is_damage_and_no_panic() {
        let torn = include_bytes!("../../tests/golden/torn_palette.png");
        let Err(error) = decode(torn) else { panic!("it was decoded") };
        assert!(error.0.contains("palette ends within a colour"), "{error}");
    }
}
