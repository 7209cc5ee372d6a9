//! JPEG, decoded so that a cut-off or damaged picture is an error and not a half-grey image.
//!
//! The `image` crate reads JPEG through the same decoder in its lenient mode, which fills what is missing with grey and
//! says nothing. Here the headers are read leniently (stray bytes between them harm nobody) and the pixels strictly.

use super::decode::{DecodeError, Pixels, check_size};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Decodes baseline and progressive JPEG: grey, YCbCr, RGB, CMYK and YCCK. Bytes after the image are ignored.
pub(super) fn decode(bytes: &[u8]) -> Result<Pixels, DecodeError> {
    // The decoder's own limit is 16,384 a side; ours is on the product.
    let lenient = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), lenient);
    decoder.decode_headers().map_err(in_words)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| DecodeError("no JPEG frame header".into()))?;
    check_size(width as u64, height as u64)?;

    if !ends(bytes) {
        return Err(cut_off());
    }
    decoder.set_options(lenient.set_strict_mode(true));
    let data = decoder.decode().map_err(in_words)?;
    if data.len() != width * height * 3 {
        // Two-channel files have no meaning as colours and come back as they are.
        return Err(DecodeError("the JPEG's channels are not grey, YCbCr, RGB or CMYK".into()));
    }
    Ok(Pixels { width, height, data })
}

/// Whether the image's end marker is there; the decoder misses cuts in the last row of blocks.
fn ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    if bytes.ends_with(&[0xFF, END]) {
        return true;
    }
    // Something follows the image, or it is cut off: go from marker to marker. In the compressed data between them
    // `FF 00` is a byte and `FF D0` to `FF D7` are restarts; `FF FF` is filling, anywhere.
    let mut at = 2;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xFF)) {
        at += found + 1;
        match bytes.get(at) {
            Some(&END) => return true,
            Some(0xFF) => continue,
            None | Some(0 | 0xD0..=0xD7) => {}
            // A segment: its length, which counts its own two bytes, follows the marker.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
        at += 1;
    }
    false
}

fn cut_off() -> DecodeError {
    DecodeError("the file is cut off: the JPEG data ends too early".into())
}

/// The decoder's words, without its shouting.
fn in_words(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => cut_off(),
        DecodeErrors::FormatStatic(text) => DecodeError(format!("damaged JPEG: {}", text.to_lowercase())),
        other => DecodeError(format!("damaged JPEG: {}", other.to_string().trim_matches('"'))),
    }
}
