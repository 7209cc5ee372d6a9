//! Baseline JPEG as most files are, decoded only as far as a part of the picture needs it.
//!
//! All pixels are those of libjpeg-turbo: its slow integer transform, its smooth upsampling, its colours. Whatever is
//! unusual or looks damaged is given up without a word, and the full decoder sees to it.

use super::header::{Component, END, Header};
use super::huffman::{Bits, PLACES, Table};
use super::{colour, idct, upsample};
use crate::image::{Window, scratch};
use std::ops::Range;

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
    /// Where it begins, in samples.
    pub(super) left: usize,
    pub(super) top: usize,
    /// Samples that the picture has.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Whether the picture has twice as many pixels.
    pub(super) is_half_across: bool,
    pub(super) is_half_down: bool,
}

/// Decodes the part of the picture, `[height, width, 3]`; none if this is for the full decoder.
pub(super) fn decode(bytes: &[u8], header: &Header, part: Window) -> Option<Vec<u8>> {
    let scan = Scan::read(bytes.get(header.scan..)?, header.restart > 0)?;
    let planes = run(Decoder::new(header, part)?, &scan)?;
    scratch::give(scan.data);
    let mut out = scratch::take(part.width * part.height * 3);
    let mut rows = [vec![], vec![], vec![]];
    for (y, out) in (part.top..).zip(out.chunks_exact_mut(part.width * 3)) {
        let row = |plane: usize, buffer| upsample::row(&planes[plane], y, part.left, part.width, buffer);
        let [luma, blue, red] = &mut rows;
        match planes.len() {
            1 => colour::grey(row(0, luma), out),
            _ => colour::row(row(0, luma), row(1, blue), row(2, red), out),
        }
    }
    planes.into_iter().for_each(|plane| scratch::give(plane.data));
    Some(out)
}

/// Reads the blocks with the instructions that the processor has.
fn run(decoder: Decoder, scan: &Scan) -> Option<Vec<Plane>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(run) = super::fast::with_bits() {
        return run(decoder, scan);
    }
    decoder.run(scan)
}

/// The compressed data between restart markers, without the zeros stuffed behind each `FF`.
pub(super) struct Scan {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Scan {
    /// Reads up to the end of the picture; none if another marker comes first.
    fn read(bytes: &[u8], restarts: bool) -> Option<Self> {
        let (mut data, mut ends) = (scratch::take(0), vec![]);
        let mut rest = bytes;
        loop {
            let plain = memchr::memchr(0xFF, rest)?;
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
    dc: &'a Table,
    ac: &'a Table,
    quant: idct::Quant,
    plane: Plane,
    /// The mean of the last block.
    last: i32,
}

/// A block of coefficients, and whether there are any but the mean.
#[derive(Clone)]
struct Block {
    coefficients: [i16; 64],
    is_flat: bool,
}

pub(super) struct Decoder<'a> {
    header: &'a Header,
    channels: Vec<Channel<'a>>,
    /// The blocks of one MCU.
    blocks: Vec<Block>,
    /// MCUs in the picture, across and down.
    across: usize,
    down: usize,
    /// MCUs that are needed.
    columns: Range<usize>,
    rows: Range<usize>,
}

impl<'a> Decoder<'a> {
    fn new(header: &'a Header, part: Window) -> Option<Self> {
        /// Pixels that the smooth filter looks beyond its own.
        const MARGIN: usize = 2;
        let (most_across, most_down) = header.most();
        let (width, height) = (most_across * 8, most_down * 8);
        let (across, down) = (header.width.div_ceil(width), header.height.div_ceil(height));
        let range = |start: usize, length: usize, step: usize, most: usize| {
            start.saturating_sub(MARGIN) / step..(start + length + MARGIN).div_ceil(step).min(most)
        };
        let (columns, rows) = (range(part.left, part.width, width, across), range(part.top, part.height, height, down));
        let channels = header.components.iter().map(|component| Channel::new(header, component, &columns, &rows));
        let channels = channels.collect::<Option<Vec<_>>>()?;
        let most = header.components.iter().map(|c| c.across * c.down).sum();
        let blocks = vec![Block { coefficients: [0; 64], is_flat: true }; most];
        Some(Self { header, channels, blocks, across, down, columns, rows })
    }

    /// Reads the blocks, up to the last row that is needed.
    #[inline(always)]
    pub(super) fn run(mut self, scan: &Scan) -> Option<Vec<Plane>> {
        let mut segments = scan.segments();
        let mut bits = segments.next()?;
        let (restart, mut left) = (self.header.restart, self.header.restart);
        let expected = if restart == 0 { 1 } else { (self.across * self.down).div_ceil(restart) };
        if scan.ends.len() != expected {
            return None;
        }
        for row in 0..self.rows.end {
            for column in 0..self.across {
                if restart > 0 && left == 0 {
                    bits = segments.next()?;
                    left = restart;
                    self.channels.iter_mut().for_each(|channel| channel.last = 0);
                }
                left = left.wrapping_sub(1);
                match self.rows.contains(&row) && self.columns.contains(&column) {
                    true => self.take(&mut bits, column, row)?,
                    false => self.pass_over(&mut bits)?,
                }
                if bits.is_overrun() {
                    return None;
                }
            }
        }
        Some(self.channels.into_iter().map(|channel| channel.plane).collect())
    }

    /// Decodes the blocks of all channels at one place.
    #[inline(always)]
    fn take(&mut self, bits: &mut Bits, column: usize, row: usize) -> Option<()> {
        // All are read before the first is transformed: what was just written in small pieces cannot be read in large
        // ones without waiting for it.
        let mut blocks = self.blocks.iter_mut();
        for channel in &mut self.channels {
            for block in blocks.by_ref().take(channel.component.across * channel.component.down) {
                channel.read(bits, block)?;
            }
        }
        let mut blocks = self.blocks.iter();
        let (column, row) = (column - self.columns.start, row - self.rows.start);
        for channel in &mut self.channels {
            let Component { across, down, .. } = *channel.component;
            for (i, block) in blocks.by_ref().take(across * down).enumerate() {
                channel.write(block, (column * across + i % across) * 8, (row * down + i / across) * 8);
            }
        }
        Some(())
    }

    /// Reads the blocks of all channels at a place that nobody looks at.
    #[inline(always)]
    fn pass_over(&mut self, bits: &mut Bits) -> Option<()> {
        for channel in &mut self.channels {
            for _ in 0..channel.component.across * channel.component.down {
                channel.last = channel.last.checked_add(bits.mean(channel.dc)?)?;
                bits.details(channel.ac, |_, _| {})?;
            }
        }
        Some(())
    }
}

impl<'a> Channel<'a> {
    /// A channel of which these MCUs are needed.
    fn new(header: &'a Header, component: &'a Component, columns: &Range<usize>, rows: &Range<usize>) -> Option<Self> {
        let (most, size) = (header.most(), header.size_of(component));
        let (across, down) = (component.across * 8, component.down * 8);
        let plane = Plane {
            data: scratch::take(columns.len() * across * rows.len() * down),
            stride: columns.len() * across,
            left: columns.start * across,
            top: rows.start * down,
            width: size.0,
            height: size.1,
            is_half_across: component.across != most.0,
            is_half_down: component.down != most.1,
        };
        let zigzag = header.quants.get(component.quant)?.as_ref()?;
        let mut quant = [0; 64];
        for (place, factor) in NATURAL.iter().zip(zigzag) {
            quant[usize::from(*place)] = i16::from(*factor);
        }
        let (dc, ac) = (header.dc.get(component.dc)?.as_ref()?, header.ac.get(component.ac)?.as_ref()?);
        Some(Self { component, dc, ac, quant, plane, last: 0 })
    }

    #[inline(always)]
    fn read(&mut self, bits: &mut Bits, block: &mut Block) -> Option<()> {
        self.last = self.last.checked_add(bits.mean(self.dc)?)?;
        block.coefficients.fill(0);
        // As libjpeg, which keeps 16 bits of it.
        block.coefficients[0] = self.last as i16;
        let coefficients = &mut block.coefficients;
        block.is_flat = bits.details(self.ac, |place, value| {
            coefficients[usize::from(NATURAL[place % NATURAL.len()]) % 64] = value as i16;
        })?;
        Some(())
    }

    /// Samples of a block to a place of the plane.
    fn write(&mut self, block: &Block, x: usize, y: usize) {
        let stride = self.plane.stride;
        let out = &mut self.plane.data[y * stride + x..];
        match block.is_flat {
            true => idct::flat(block.coefficients[0], &self.quant, out, stride),
            false => idct::block(&block.coefficients, &self.quant, out, stride),
        }
    }
}
