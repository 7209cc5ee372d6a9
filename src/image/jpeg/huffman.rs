//! Huffman codes of baseline JPEG: bits to coefficients.
//!
//! A table is looked up with the next [`LOOK`] bits. Most codes are so short that their value's own bits are among them:
//! then one look gives the run of zeros, the coefficient, and how many bits both take.

/// Bits that a table is looked up with.
const LOOK: u32 = 10;

/// An entry's low byte is how many bits to drop; 0 if the code is longer than [`LOOK`] bits.
const BITS: u32 = 0xFF;
/// Set if the entry's high half is the value; otherwise only the code is known.
const HAS_VALUE: u32 = 1 << 16;

/// Places that a coefficient may be said to have: 15 zeros may come before it where there is room for none.
pub(super) const PLACES: usize = 64 + 15;

/// Codes of one kind.
pub(super) struct Table {
    /// Value (upper 15 bits, signed), [`HAS_VALUE`], symbol (8 bits), bits to drop (8 bits).
    entries: [u32; 1 << LOOK],
    /// One past the largest code of each length, left-aligned in 16 bits; what is not below the last is no code.
    ends: [u32; 17],
    /// What to add to a code of each length for its place among the symbols.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// Codes for the difference of a block's mean to the last one's. None if they are not codes.
    pub(super) fn of_means(counts: &[u8; 16], symbols: &[u8]) -> Option<Box<Self>> {
        symbols.iter().all(|size| *size <= 15).then(|| Self::new(counts, symbols)).flatten()
    }

    /// Codes for a run of zeros and the coefficient after it. None if they are not codes.
    pub(super) fn of_details(counts: &[u8; 16], symbols: &[u8]) -> Option<Box<Self>> {
        Self::new(counts, symbols)
    }

    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Box<Self>> {
        let mut table =
            Box::new(Self { entries: [0; 1 << LOOK], ends: [0; 17], offsets: [0; 17], symbols: [0; 256] });
        table.symbols[..symbols.len()].copy_from_slice(symbols);
        let (mut code, mut place) = (0u32, 0);
        for (length, count) in (1..).zip(counts) {
            table.offsets[length as usize] = place as i32 - code as i32;
            for symbol in &symbols[place..place + usize::from(*count)] {
                if code >= 1 << length {
                    return None;
                }
                table.enter(code, length, *symbol);
                code += 1;
                place += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Fills in all looks that begin with this code.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let Some(spare) = LOOK.checked_sub(length) else { return };
        let size = u32::from(symbol & 15);
        for tail in 0..1u32 << spare {
            let entry = match spare.checked_sub(size) {
                Some(unused) => {
                    let value = extend(tail >> unused, size);
                    (value << 17) as u32 | HAS_VALUE | (length + size)
                }
                None => length,
            };
            self.entries[(code << spare | tail) as usize] = entry | u32::from(symbol) << 8;
        }
    }

    /// The symbol of a code longer than [`LOOK`] bits, and its length.
    #[cold]
    fn long(&self, next: u64) -> Option<(u8, u32)> {
        let window = (next >> 48) as u32;
        let length = (LOOK + 1..=16).find(|length| window < self.ends[*length as usize])?;
        let place = (window >> (16 - length)) as i32 + self.offsets[length as usize];
        Some((*self.symbols.get(usize::try_from(place).ok()?)?, length))
    }
}

/// The number that `size` bits stand for: a first bit of 0 means a negative one.
fn extend(bits: u32, size: u32) -> i32 {
    match size {
        0 => 0,
        _ if bits >> (size - 1) == 0 => bits as i32 - (1 << size) + 1,
        _ => bits as i32,
    }
}

/// Compressed data, free of stuffing, as a stream of bits.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte that is not in `next` yet.
    at: usize,
    /// The next bits, left-aligned; below the first `count`, either zeros or what belongs there.
    next: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, next: 0, count: 0 }
    }

    /// Makes at least 56 bits ready: a code and its value have 31 at most. Past the end there are zeros.
    #[inline(always)]
    fn refill(&mut self) {
        let word = match self.data.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => self.last_bytes(),
        };
        self.next |= word >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[cold]
    fn last_bytes(&self) -> u64 {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let mut bytes = [0; 8];
        bytes[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(bytes)
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.next <<= bits;
        self.count -= bits;
    }

    #[inline(always)]
    fn take(&mut self, size: u32) -> i32 {
        // In two steps, as a shift by 64 is none.
        let bits = (self.next >> 1 >> (63 - size)) as u32;
        self.skip(size);
        extend(bits, size)
    }

    /// Whether more was read than there is.
    pub(super) fn is_overrun(&self) -> bool {
        self.at * 8 - self.count as usize > self.data.len() * 8
    }

    /// The difference to the last block's mean.
    #[inline(always)]
    pub(super) fn mean(&mut self, table: &Table) -> Option<i32> {
        self.refill();
        let entry = table.entries[(self.next >> (64 - LOOK)) as usize];
        if entry & HAS_VALUE != 0 {
            self.skip(entry & BITS);
            return Some(entry as i32 >> 17);
        }
        let (symbol, length) = self.symbol(table, entry)?;
        self.skip(length);
        Some(self.take(u32::from(symbol & 15)))
    }

    #[inline(always)]
    fn symbol(&self, table: &Table, entry: u32) -> Option<(u8, u32)> {
        match entry & BITS {
            0 => table.long(self.next),
            length => Some(((entry >> 8) as u8, length)),
        }
    }

    /// Gives each coefficient of a block but the first to `put`, with its place in zigzag order: 1 to 63, and in damaged
    /// data, for which it returns none, up to [`PLACES`].
    #[inline(always)]
    pub(super) fn details(&mut self, table: &Table, mut put: impl FnMut(usize, i32)) -> Option<()> {
        let mut place = 1;
        while place < 64 {
            self.refill();
            let entry = table.entries[(self.next >> (64 - LOOK)) as usize];
            let value = entry as i32 >> 17;
            if value != 0 {
                place += (entry >> 12 & 15) as usize;
                self.skip(entry & BITS);
                put(place, value);
                place += 1;
                continue;
            }
            let (symbol, length) = self.symbol(table, entry)?;
            self.skip(length);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            match (run, size) {
                (15, 0) => place += 16,
                (_, 0) => return Some(()),
                _ => {
                    place += run;
                    put(place, self.take(size));
                    place += 1;
                }
            }
        }
        (place == 64).then_some(())
    }
}
