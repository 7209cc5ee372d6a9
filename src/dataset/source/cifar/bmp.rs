//! A picture of 32 x 32 pixels as a file.
//!
//! The digests of a list are those of its files. A PNG's bytes depend on the version of its compressor, so another
//! hashpipe would give other lists; a BMP's bytes are its pixels.

/// Width and height in pixels.
pub(super) const SIDE: usize = 32;
/// Bytes of a picture in a batch: a plane of red, one of green, one of blue, each row-major.
pub(super) const PLANES: usize = 3 * SIDE * SIDE;

const HEADER: usize = 54;

/// A BMP file of 24 bits a pixel without compression.
pub(super) fn encode(planes: &[u8; PLANES]) -> Vec<u8> {
    let size = (HEADER + PLANES) as u32;
    let mut bytes = Vec::with_capacity(HEADER + PLANES);
    bytes.extend(b"BM");
    // Of the file, nothing twice, and where the pixels begin.
    bytes.extend([size, 0, HEADER as u32].iter().flat_map(|word| word.to_le_bytes()));
    // Of the second header, then width and height; a positive height means that the last row comes first.
    bytes.extend([40, SIDE as u32, SIDE as u32].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([1u16, 24].iter().flat_map(|word| word.to_le_bytes()));
    // No compression, size of the pixels, 72 dots an inch twice, no palette twice.
    bytes.extend([0, PLANES as u32, 2835, 2835, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    // A row has 96 bytes, which is a multiple of 4 as it must be.
    for row in (0..SIDE).rev() {
        for column in 0..SIDE {
            let at = row * SIDE + column;
            bytes.extend([2, 1, 0].map(|plane| planes[plane * SIDE * SIDE + at]));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_finds_the_pixels() {
        let mut planes = [0; PLANES];
        planes.iter_mut().enumerate().for_each(|(i, value)| *value = (i * 7 % 251) as u8);
        let bytes = encode(&planes);
        assert_eq!(bytes.len(), 3126);
        let pixels = crate::image::decode(&bytes).unwrap();
        assert_eq!((pixels.width, pixels.height), (SIDE, SIDE));
        for at in 0..SIDE * SIDE {
            let expected = [planes[at], planes[SIDE * SIDE + at], planes[2 * SIDE * SIDE + at]];
            assert_eq!(pixels.data[3 * at..3 * at + 3], expected);
        }
        // These bytes are in digests that users keep.
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], "d188984ca31b655f");
    }
}
