//! Baseline JPEG as most files are, decoded only as far as a part of the picture needs it.
//!
//! All pixels are those of libjpeg-turbo: its slow integer transform, its smooth upsampling, its colours. Whatever is
//! unusual or looks damaged is given up without a word, and the full decoder sees to it.

use super::header::{Component, END, Header};
use super::huffman::{Bits, PLACES};
use super::{colour, idct, upsample};
use crate::image::Window;

/// Where the coefficients lie in a block, in the order in which they come.
const NATURAL: [u8; PLACES] = natural();

const fn natural() -> [u8; PLACES] {
    let mut order = [63; PLACES];
    let (mut place, mut diagonal) = (0, 0);
    while diagonal < 15 {
        let mut step = 0;
        while step <= diagonal {
            // Even diagonals go up, odd ones down.
            let (row, column) = if diagonal % 2 == 0 { (diagonal - step, step) } else { (step, diagonal - step) };
            if row < 8 && column < 8 {
                order[place] = (row * 8 + column) as u8;
                place += 1;
            }
            step += 1;
        }
        diagonal += 1;
    }
    order
}

/// A channel, decoded in the part that is needed.
pub(super) struct Plane {
    pub(super) data: Vec<u8>,
    pub(super) stride: usize,
    /// Samples that belong to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Whether the picture has twice as many.
    pub(super) is_half_across: bool,
    pub(super) is_half_down: bool,
}

/// Decodes the part of the picture, `[height, width, 3]`; none if this is for the full decoder.
pub(super) fn decode(bytes: &[u8], header: &Header, part: Window) -> Option<Vec<u8>> {
    let scan = Scan::read(bytes.get(header.scan..)?, header.restart > 0)?;
    let planes = Decoder::new(header, part)?.run(&scan)?;
    let mut out = vec![0; part.width * part.height * 3];
    match &planes[..] {
        [grey] => colour::grey(grey, part, &mut out),
        planes => {
            let mut rows = [vec![], vec![], vec![]];
            for (y, out) in (part.top..).zip(out.chunks_exact_mut(part.width * 3)) {
                let [luma, blue, red] = &mut rows;
                let row = |plane: usize, buffer| {
                    &upsample::row(&planes[plane], y, buffer)[part.left..part.left + part.width]
                };
                colour::row(row(0, luma), row(1, blue), row(2, red), out);
            }
        }
    }
    Some(out)
}

/// The compressed data between restart markers, without the zeros stuffed behind each `FF`.
struct Scan {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Scan {
    /// Reads up to the end of the picture; none if another marker comes first.
    fn read(bytes: &[u8], restarts: bool) -> Option<Self> {
        let (mut data, mut ends) = (Vec::with_capacity(bytes.len()), vec![]);
        let mut rest = bytes;
        loop {
            let plain = rest.iter().position(|byte| *byte == 0xFF)?;
            let marker = *rest.get(plain + 1)?;
            match marker {
                0 => data.extend_from_slice(&rest[..=plain]),
                END => {
                    data.extend_from_slice(&rest[..plain]);
                    ends.push(data.len());
                    return Some(Self { data, ends });
                }
                _ if restarts && usize::from(marker) == 0xD0 + ends.len() % 8 => {
                    data.extend_from_slice(&rest[..plain]);
                    ends.push(data.len());
                }
                _ => return None,
            }
            rest = &rest[plain + 2..];
        }
    }

    /// The data between two restarts.
    fn segments(&self) -> impl Iterator<Item = Bits<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| Bits::new(&self.data[start..*end]))
    }
}

/// What is known of a channel while its blocks are read.
struct Channel<'a> {
    component: &'a Component,
    plane: Plane,
    quant: Box<idct::Quant>,
    /// The mean of the last block.
    last: i32,
}

struct Decoder<'a> {
    header: &'a Header,
    channels: Vec<Channel<'a>>,
    /// MCUs in the picture, across and down.
    across: usize,
    down: usize,
    /// MCUs that are needed, as half-open ranges.
    columns: (usize, usize),
    rows: (usize, usize),
}

impl<'a> Decoder<'a> {
    fn new(header: &'a Header, part: Window) -> Option<Self> {
        /// Pixels that the smooth filter looks beyond its own.
        const MARGIN: usize = 2;
        let (most_across, most_down) = header.most();
        let (width, height) = (most_across * 8, most_down * 8);
        let (across, down) = (header.width.div_ceil(width), header.height.div_ceil(height));
        let range = |start: usize, length: usize, step: usize, most: usize| {
            (start.saturating_sub(MARGIN) / step, (start + length + MARGIN).div_ceil(step).min(most))
        };
        let channel = |component: &'a Component| {
            let (stride, size) = (across * component.across * 8, header.size_of(component));
            let plane = Plane {
                data: vec![0; stride * down * component.down * 8],
                stride,
                width: size.0,
                height: size.1,
                is_half_across: component.across != most_across,
                is_half_down: component.down != most_down,
            };
            let zigzag = header.quants.get(component.quant)?.as_ref()?;
            let mut factors = [0; 64];
            for (place, factor) in NATURAL.iter().zip(zigzag) {
                factors[usize::from(*place)] = *factor as i16;
            }
            Some(Channel { component, plane, quant: Box::new(idct::Quant { factors, zigzag: *zigzag }), last: 0 })
        };
        let channels = header.components.iter().map(channel).collect::<Option<_>>()?;
        let columns = range(part.left, part.width, width, across);
        Some(Self { header, channels, across, down, columns, rows: range(part.top, part.height, height, down) })
    }

    /// Reads the blocks, up to the last row that is needed.
    fn run(mut self, scan: &Scan) -> Option<Vec<Plane>> {
        let mut segments = scan.segments();
        let mut bits = segments.next()?;
        let (restart, mut left) = (self.header.restart, self.header.restart);
        let expected = if restart == 0 { 1 } else { (self.across * self.down).div_ceil(restart) };
        if scan.ends.len() != expected {
            return None;
        }
        for row in 0..self.rows.1 {
            for column in 0..self.across {
                if restart > 0 && left == 0 {
                    bits = segments.next()?;
                    left = restart;
                    self.channels.iter_mut().for_each(|channel| channel.last = 0);
                }
                left = left.wrapping_sub(1);
                let is_needed = row >= self.rows.0 && (self.columns.0..self.columns.1).contains(&column);
                self.mcu(&mut bits, column, row, is_needed)?;
            }
        }
        Some(self.channels.into_iter().map(|channel| channel.plane).collect())
    }

    /// The blocks of all channels at one place.
    fn mcu(&mut self, bits: &mut Bits, column: usize, row: usize, is_needed: bool) -> Option<()> {
        for channel in &mut self.channels {
            let Component { across, down, .. } = *channel.component;
            for block in 0..across * down {
                let (x, y) = (column * across + block % across, row * down + block / across);
                match is_needed {
                    true => channel.block(self.header, bits, x * 8, y * 8)?,
                    false => channel.pass_over(self.header, bits)?,
                }
            }
        }
        (!bits.is_overrun()).then_some(())
    }
}

impl Channel<'_> {
    fn block(&mut self, header: &Header, bits: &mut Bits, x: usize, y: usize) -> Option<()> {
        let (dc, ac) = (header.dc[self.component.dc].as_ref()?, header.ac[self.component.ac].as_ref()?);
        let mut coefficients = [0i16; 64];
        self.last = self.last.checked_add(bits.mean(dc)?)?;
        coefficients[0] = self.last as i16;
        let zigzag = &self.quant.zigzag;
        let (mut size, mut last) = ((i32::from(coefficients[0]) * i32::from(zigzag[0])).unsigned_abs(), 0);
        bits.details(ac, |place, value| {
            coefficients[usize::from(NATURAL[place])] = value as i16;
            size += value.unsigned_abs() * u32::from(zigzag[place & 63]);
            last = place;
        })?;
        let start = y * self.plane.stride + x;
        let out = &mut self.plane.data[start..];
        match last {
            0 => idct::flat(coefficients[0], &self.quant, out, self.plane.stride),
            _ => idct::block(&coefficients, &self.quant, size, out, self.plane.stride),
        }
        Some(())
    }

    /// Reads a block that nobody looks at.
    fn pass_over(&mut self, header: &Header, bits: &mut Bits) -> Option<()> {
        let (dc, ac) = (header.dc[self.component.dc].as_ref()?, header.ac[self.component.ac].as_ref()?);
        self.last = self.last.checked_add(bits.mean(dc)?)?;
        bits.details(ac, |_, _| {})
    }
}
