//! JPEG, with the pixels that Pillow's libjpeg-turbo gives.
//!
//! Most files are decoded by code of our own ([`quick`]), which is faster and stops where nothing more is needed. Whatever
//! it does not know goes through libjpeg-turbo's C code ([`full`]), so that damaged files end as they do with Pillow: an
//! early end is an error, damage that leaves a picture is none.

mod colour;
#[cfg(target_arch = "x86_64")]
mod fast;
mod full;
mod header;
mod huffman;
mod idct;
mod quick;
#[cfg(test)]
mod tests;
mod upsample;

use super::Window;
use super::decode::{DecodeError, Pixels, check_size};
use header::Header;

/// Decodes the part of the picture that `part` chooses by its width and height, or more.
pub(super) fn decode(bytes: &[u8], part: &mut dyn FnMut(usize, usize) -> Window) -> Result<Pixels, DecodeError> {
    if let Some(header) = Header::read(bytes) {
        let (width, height) = (header.width, header.height);
        check_size(width as u64, height as u64)?;
        let part = part(width, height);
        if let Some(data) = quick::decode(bytes, &header, part) {
            return Ok(Pixels { width, height, part, data });
        }
    }
    whole(bytes)
}

/// Decodes a picture by libjpeg-turbo's C code.
fn whole(bytes: &[u8]) -> Result<Pixels, DecodeError> {
    let full::Decoded { width, height, channels, data } = full::decode(bytes)?;
    let data = match channels {
        1 => data.into_iter().flat_map(|grey| [grey; 3]).collect(),
        4 => data.as_chunks().0.iter().copied().flat_map(inks).collect(),
        _ => data,
    };
    Ok(Pixels::new(width, height, data))
}

/// CMYK, stored as what the inks leave over, to RGB as Pillow does it.
fn inks(stored: [u8; 4]) -> [u8; 3] {
    let [cyan, magenta, yellow, black] = stored.map(|left| 255 - i32::from(left));
    let light = 255 - black;
    [cyan, magenta, yellow].map(|ink| {
        let product = ink * light + 128;
        (light - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
}
