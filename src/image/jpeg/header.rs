//! The markers before a JPEG's picture data, as far as the quick decoder knows them.
//!
//! What it does not know is no error: the caller then leaves the whole file to the full decoder.

use super::huffman::Table;

/// Marker codes, after `FF`.
const START: u8 = 0xD8;
pub(super) const END: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;

/// One colour channel, as the frame header describes it.
#[derive(Debug, Clone)]
pub(super) struct Component {
    id: u8,
    /// Samples per block of the coarsest grid: horizontally and vertically, 1 to 4.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Which quantisation table.
    pub(super) quant: usize,
    /// Which tables of codes, for the mean of a block and for the rest.
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A file with one baseline scan of all its channels: grey, or YCbCr.
#[derive(Default)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// Quantisation tables in zigzag order.
    pub(super) quants: [Option<[u8; 64]>; 4],
    pub(super) dc: [Option<Box<Table>>; 4],
    pub(super) ac: [Option<Box<Table>>; 4],
    /// MCUs between two restart markers; 0 for none.
    pub(super) restart: usize,
    /// Where the picture data begins.
    pub(super) scan: usize,
    jfif: bool,
    /// The colour transform that an Adobe marker names.
    adobe: Option<u8>,
}

impl Header {
    /// Reads the markers; none if there is anything that the quick decoder does not know.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut at = 2;
        if bytes.get(..2)? != [0xFF, START] {
            return None;
        }
        loop {
            let (&[0xFF, marker], rest) = bytes.get(at..)?.split_first_chunk::<2>()? else { return None };
            if marker == 0xFF {
                // Filling.
                at += 1;
                continue;
            }
            let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
            let segment = rest.get(2..length)?;
            at += 2 + length;
            match marker {
                START_OF_SCAN => {
                    header.scan = at;
                    return header.scan(segment).filter(|()| header.is_known()).map(|()| header);
                }
                0xC0 | 0xC1 => header.frame(segment)?,
                0xC4 => header.codes(segment)?,
                0xDB => header.quants(segment)?,
                0xDD => header.restart = usize::from(u16::from_be_bytes(segment.try_into().ok()?)),
                0xE0 => header.jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
                0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => header.adobe = Some(segment[11]),
                0xE1..=0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let (&[precision, h1, h0, w1, w0, count], rest) = segment.split_first_chunk::<6>()?;
        (self.width, self.height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        let is_first = self.components.is_empty();
        if precision != 8 || !is_first || self.width == 0 || self.height == 0 || rest.len() != usize::from(count) * 3 {
            return None;
        }
        for &[id, sampling, quant] in rest.as_chunks::<3>().0 {
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let component = Component { id, across, down, quant: quant.into(), dc: 0, ac: 0 };
            self.components.push(component);
        }
        Some(())
    }

    fn codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(..total).filter(|_| total <= 256)?;
            segment = &rest[total..];
            let (class, number) = (place >> 4, usize::from(place & 15));
            let (tables, table) = match class {
                0 => (&mut self.dc, Table::of_means(counts, symbols)?),
                1 => (&mut self.ac, Table::of_details(counts, symbols)?),
                _ => return None,
            };
            *tables.get_mut(number)? = Some(table);
        }
        Some(())
    }

    fn quants(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = segment.split_first() {
            // A high half that is not 0: 16-bit factors, which the quick arithmetic has no room for.
            let (factors, rest) = rest.split_first_chunk::<64>()?;
            *self.quants.get_mut(usize::from(place))? = Some(*factors);
            segment = rest;
        }
        Some(())
    }

    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, rest) = segment.split_first()?;
        let (selectors, spectrum) = rest.split_at_checked(usize::from(count) * 2)?;
        if usize::from(count) != self.components.len() || spectrum != [0, 63, 0] {
            return None;
        }
        for (component, &[id, tables]) in self.components.iter_mut().zip(selectors.as_chunks::<2>().0) {
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            if id != component.id {
                return None;
            }
        }
        Some(())
    }

    /// Whether the channels, their tables and their sampling are what the quick decoder knows.
    fn is_known(&mut self) -> bool {
        let has_tables = |c: &Component| {
            let found = (self.quants.get(c.quant), self.dc.get(c.dc), self.ac.get(c.ac));
            matches!(found, (Some(Some(_)), Some(Some(_)), Some(Some(_))))
        };
        /// Blocks that the standard allows together.
        const BLOCKS: usize = 10;
        let is_sampled = |c: &Component| (1..=4).contains(&c.across) && (1..=4).contains(&c.down);
        if !self.components.iter().all(|c| has_tables(c) && is_sampled(c)) {
            return false;
        }
        match &mut self.components[..] {
            [grey] => {
                // Alone in a scan, a channel's blocks come in rows, whatever the sampling says.
                (grey.across, grey.down) = (1, 1);
                true
            }
            [_, _, _] => {
                let blocks: usize = self.components.iter().map(|c| c.across * c.down).sum();
                blocks <= BLOCKS && self.is_ycbcr() && self.components.iter().all(|c| self.is_sampled_simply(c))
            }
            _ => false,
        }
    }

    /// As libjpeg guesses it.
    fn is_ycbcr(&self) -> bool {
        match (self.jfif, self.adobe) {
            (true, _) => true,
            (false, Some(transform)) => transform == 1,
            (false, None) => self.components.iter().map(|c| c.id).ne(*b"RGB"),
        }
    }

    /// Whether the channel has all samples, or half of them in a direction, and enough for the smooth filter.
    fn is_sampled_simply(&self, component: &Component) -> bool {
        let (across, down) = self.most();
        let all_or_half = |most: usize, own: usize| own == most || own * 2 == most;
        let halved = across != component.across;
        all_or_half(across, component.across)
            && all_or_half(down, component.down)
            && (!halved || self.size_of(component).0 > 2)
    }

    /// The finest sampling of all channels.
    pub(super) fn most(&self) -> (usize, usize) {
        let most = |of: fn(&Component) -> usize| self.components.iter().map(of).max().unwrap_or(1);
        (most(|c| c.across), most(|c| c.down))
    }

    /// Width and height of a channel in its own samples.
    pub(super) fn size_of(&self, component: &Component) -> (usize, usize) {
        let (across, down) = self.most();
        ((self.width * component.across).div_ceil(across), (self.height * component.down).div_ceil(down))
    }
}
