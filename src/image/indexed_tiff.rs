//! TIFF files of palette indices, which the decoder does not know: their indices are read as if they were greys.
//!
//! A copy of the file is told to hold greys of 8 bits, as many columns as its rows have bytes: that changes nothing in
//! where the samples lie or how they are compressed. Of a palette's 16-bit colours the upper 8 bits are kept, as Pillow
//! keeps them.

use std::ops::Range;

/// A file of palette indices.
pub(super) struct Indexed {
    /// The file as one of greys; each is a byte of packed indices.
    pub(super) greys: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    bits: u32,
    palette: Vec<[u8; 3]>,
}

/// Tags of a TIFF's directory.
mod tag {
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS: u16 = 258;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const SAMPLES: u16 = 277;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLOR_MAP: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
}

/// Values of `PHOTOMETRIC`.
const BLACK_IS_ZERO: u32 = 1;
const PALETTE: u32 = 3;

impl Indexed {
    /// Reads the directory of the first page; nothing if it is no palette image of one sample, or is damaged.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let directory = Directory::read(bytes)?;
        let number = |tag| directory.number(tag);
        if number(tag::PHOTOMETRIC)? != PALETTE || number(tag::SAMPLES).unwrap_or(1) != 1 {
            return None;
        }
        let (width, height, bits) = (number(tag::WIDTH)?, number(tag::HEIGHT)?, number(tag::BITS).unwrap_or(1));
        let palette = directory.palette(bits)?;
        let mut greys = bytes.to_vec();
        directory.set(&mut greys, tag::PHOTOMETRIC, BLACK_IS_ZERO)?;
        if bits != 8 {
            // Differences between samples that share a byte are none between bytes.
            if number(tag::PREDICTOR).is_some_and(|predictor| predictor != 1) {
                return None;
            }
            directory.set(&mut greys, tag::BITS, 8)?;
            directory.set(&mut greys, tag::WIDTH, width.div_ceil(8 / bits))?;
            if let Some(tile) = number(tag::TILE_WIDTH) {
                directory.set(&mut greys, tag::TILE_WIDTH, tile.div_ceil(8 / bits))?;
            }
        }
        Some(Self { greys, width, height, bits, palette })
    }

    /// Colours, from the bytes of packed indices, row by row; nothing if those are too few.
    pub(super) fn colours(&self, packed: &[u8]) -> Option<Vec<u8>> {
        let (width, height) = (self.width as usize, self.height as usize);
        let each = (8 / self.bits) as usize;
        let stride = width.div_ceil(each);
        let mut colours = Vec::with_capacity(width * height * 3);
        for row in packed.get(..stride * height)?.chunks_exact(stride) {
            for x in 0..width {
                let shift = 8 - self.bits as usize * (x % each + 1);
                let index = (row[x / each] >> shift) as usize & (self.palette.len() - 1);
                colours.extend_from_slice(&self.palette[index]);
            }
        }
        Some(colours)
    }
}

/// The first directory of a classic TIFF.
struct Directory<'a> {
    bytes: &'a [u8],
    is_little: bool,
    /// Where its entries lie.
    entries: Range<usize>,
}

impl<'a> Directory<'a> {
    const ENTRY: usize = 12;

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let is_little = match bytes.get(..4)? {
            b"II\x2a\0" => true,
            b"MM\0\x2a" => false,
            _ => return None,
        };
        let mut directory = Self { bytes, is_little, entries: 0..0 };
        let at = directory.long(4)? as usize;
        let count = directory.short(at)? as usize;
        let start = at.checked_add(2)?;
        directory.entries = start..start.checked_add(count * Self::ENTRY)?;
        bytes.get(directory.entries.clone())?;
        Some(directory)
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// Where the entry of a tag lies.
    fn entry(&self, tag: u16) -> Option<usize> {
        self.entries.clone().step_by(Self::ENTRY).find(|at| self.short(*at) == Some(tag))
    }

    /// An entry of one short or long number: where that lies, and whether it is a long.
    fn place(&self, tag: u16) -> Option<(usize, bool)> {
        let at = self.entry(tag)?;
        match (self.short(at + 2)?, self.long(at + 4)?) {
            (3, 1) => Some((at + 8, false)),
            (4, 1) => Some((at + 8, true)),
            _ => None,
        }
    }

    fn number(&self, tag: u16) -> Option<u32> {
        let (at, is_long) = self.place(tag)?;
        if is_long { self.long(at) } else { self.short(at).map(u32::from) }
    }

    /// Changes a number in a copy of the file.
    fn set(&self, copy: &mut [u8], tag: u16, number: u32) -> Option<()> {
        let (at, is_long) = self.place(tag)?;
        if is_long {
            let bytes = if self.is_little { number.to_le_bytes() } else { number.to_be_bytes() };
            copy.get_mut(at..at + 4)?.copy_from_slice(&bytes);
        } else {
            let number = u16::try_from(number).ok()?;
            let bytes = if self.is_little { number.to_le_bytes() } else { number.to_be_bytes() };
            copy.get_mut(at..at + 2)?.copy_from_slice(&bytes);
        }
        Some(())
    }

    /// Red, green and blue of every index.
    fn palette(&self, bits: u32) -> Option<Vec<[u8; 3]>> {
        const SHORT: u16 = 3;
        if !matches!(bits, 1 | 2 | 4 | 8) {
            return None;
        }
        let (at, count) = (self.entry(tag::COLOR_MAP)?, 1usize << bits);
        if self.short(at + 2)? != SHORT || self.long(at + 4)? as usize != 3 * count {
            return None;
        }
        let start = self.long(at + 8)? as usize;
        let sample = |channel: usize, index: usize| {
            let at = start.checked_add(2 * (channel * count + index))?;
            Some((self.short(at)? >> 8) as u8)
        };
        (0..count).map(|index| Some([sample(0, index)?, sample(1, index)?, sample(2, index)?])).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::image::decode::decode;

    /// A TIFF of one strip, not compressed.
    fn tiff(is_little: bool, bits: u16, width: u16, rows: &[&[u8]], palette: &[[u16; 3]]) -> Vec<u8> {
        let short = |n: u16| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let long = |n: u32| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let data = rows.concat();
        let mut map = vec![];
        for channel in 0..3 {
            palette.iter().for_each(|colour| map.extend(short(colour[channel])));
        }
        let map_at = 8 + data.len() as u32 + data.len() as u32 % 2;
        let directory = map_at + map.len() as u32;
        let mut file = if is_little { b"II\x2a\0".to_vec() } else { b"MM\0\x2a".to_vec() };
        file.extend(long(directory));
        file.extend(&data);
        file.resize(map_at as usize, 0);
        file.extend(map);
        let one = |tag: u16, value: u16| (tag, 3u16, 1u32, [short(value), [0; 2]].concat());
        let entries = [
            one(256, width),
            one(257, rows.len() as u16),
            one(258, bits),
            one(259, 1),
            one(262, 3),
            (273, 4, 1, long(8).to_vec()),
            one(277, 1),
            one(278, rows.len() as u16),
            (279, 4, 1, long(data.len() as u32).to_vec()),
            (320, 3, 3 * palette.len() as u32, long(map_at).to_vec()),
        ];
        file.extend(short(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            file.extend(short(tag));
            file.extend(short(kind));
            file.extend(long(count));
            file.extend(value);
        }
        file.extend([0; 4]);
        file
    }

    #[test]
    fn palettes_of_every_depth_give_their_colours() {
        let palette =
            |count: u16| -> Vec<[u16; 3]> { (0..count).map(|i| [i * 257, 65535 - i * 257, i << 8 | 255]).collect() };
        let colour = |i: u8| [i, 255 - i, i];
        let expected = |indices: &[u8]| indices.iter().flat_map(|i| colour(*i)).collect::<Vec<u8>>();
        for is_little in [true, false] {
            let rows: [&[u8]; 2] = [&[0, 7, 255], &[128, 1, 2]];
            let whole = decode(&tiff(is_little, 8, 3, &rows, &palette(256))).unwrap();
            assert_eq!((whole.width, whole.height, whole.data), (3, 2, expected(&[0, 7, 255, 128, 1, 2])));
            // Three columns in two bytes: the last half byte is no pixel.
            let rows: [&[u8]; 2] = [&[0x0f, 0x5a], &[0x31, 0x20]];
            let half = decode(&tiff(is_little, 4, 3, &rows, &palette(16))).unwrap();
            assert_eq!((half.width, half.height, half.data), (3, 2, expected(&[0, 15, 5, 3, 1, 2])));
            let single = decode(&tiff(is_little, 1, 9, &[&[0b1010_0001, 0b1000_0000]], &palette(2))).unwrap();
            assert_eq!(single.data, expected(&[1, 0, 1, 0, 0, 0, 0, 1, 1]));
            let pair = decode(&tiff(is_little, 2, 5, &[&[0b0001_1011, 0b0100_0000]], &palette(4))).unwrap();
            assert_eq!(pair.data, expected(&[0, 1, 2, 3, 1]));
        }
    }

    #[test]
    fn what_is_damaged_or_cut_off_is_refused() {
        let rows: [&[u8]; 2] = [&[0, 7, 255], &[128, 1, 2]];
        let palette: Vec<[u16; 3]> = (0..256).map(|i| [i; 3]).collect();
        let file = tiff(true, 8, 3, &rows, &palette);
        assert!(decode(&file).is_ok());
        for keep in 0..file.len() - 4 {
            assert!(decode(&file[..keep]).is_err(), "{keep} of {}", file.len());
        }
        assert!(decode(&tiff(true, 8, 3, &rows, &palette[..255])).is_err(), "a short palette");
        for at in 0..file.len() {
            for value in [0, 1, 255] {
                let mut damaged = file.clone();
                damaged[at] = value;
                let _ = decode(&damaged);
            }
        }
    }
}
