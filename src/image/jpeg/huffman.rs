//! Huffman codes of baseline JPEG: bits to coefficients.
//!
//! A table is looked up with the next [`LOOK`] bits, which almost always hold a whole code. The value's own bits are then
//! taken without a question asked: what the processor cannot guess costs more than what it computes.

/// Bits that a table is looked up with.
const LOOK: u32 = 10;

/// The most bits that a code and its value have together in the quick entries, so that [`AT_ONCE`] of them are there
/// after a refill.
const QUICK: u32 = 18;
const AT_ONCE: usize = 3;

/// More places than a coefficient can be said to have: 15 zeros may come before it where there is room for none. A power
/// of two, so that keeping within it costs nothing.
pub(super) const PLACES: usize = 128;

/// What the next bits begin with.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Entry {
    /// Bits of the code and its value, where there is a value and they are at most [`QUICK`]; otherwise 0.
    both: u8,
    /// Bits of the code; 0 if it is longer than [`LOOK`].
    code: u8,
    /// Zeros before the coefficient, and bits of its value.
    run: u8,
    size: u8,
}

/// Codes of one kind.
pub(super) struct Table {
    entries: [Entry; 1 << LOOK],
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
        let mut table = Box::new(Self {
            entries: [Entry::default(); 1 << LOOK],
            ends: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        });
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
        let (run, size) = (symbol >> 4, symbol & 15);
        let both = length as u8 + size;
        let is_quick = size > 0 && u32::from(both) <= QUICK;
        let entry = Entry { both: if is_quick { both } else { 0 }, code: length as u8, run, size };
        self.entries[(code << spare) as usize..][..1 << spare].fill(entry);
    }

    #[inline(always)]
    fn look(&self, next: u64) -> Entry {
        self.entries[(next >> (64 - LOOK)) as usize]
    }

    /// The entry of a code longer than [`LOOK`] bits.
    #[cold]
    fn long(&self, next: u64) -> Option<Entry> {
        let window = (next >> 48) as u32;
        let length = (LOOK + 1..=16).find(|length| window < self.ends[*length as usize])?;
        let place = (window >> (16 - length)) as i32 + self.offsets[length as usize];
        let symbol = *self.symbols.get(usize::try_from(place).ok()?)?;
        Some(Entry { both: 0, code: length as u8, run: symbol >> 4, size: symbol & 15 })
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

    /// The value of a code, and past both.
    #[inline(always)]
    fn take(&mut self, entry: Entry) -> i32 {
        let (code, size) = (u32::from(entry.code), u32::from(entry.size));
        let value = value(self.next << code, size);
        self.skip(code + size);
        value
    }

    /// Whether more was read than there is.
    pub(super) fn is_overrun(&self) -> bool {
        self.at * 8 - self.count as usize > self.data.len() * 8
    }

    #[inline(always)]
    fn entry(&self, table: &Table) -> Option<Entry> {
        let entry = table.look(self.next);
        if entry.code == 0 { table.long(self.next) } else { Some(entry) }
    }

    /// The difference to the last block's mean.
    #[inline(always)]
    pub(super) fn mean(&mut self, table: &Table) -> Option<i32> {
        self.refill();
        let entry = self.entry(table)?;
        Some(self.take(entry))
    }

    /// Gives each coefficient of a block but the first to `put`, with its place in zigzag order: 1 to 63, and in damaged
    /// data, for which it returns none, up to 78. Returns whether there were none at all.
    #[inline(always)]
    pub(super) fn details(&mut self, table: &Table, mut put: impl FnMut(usize, i32)) -> Option<bool> {
        let mut place = 1;
        while place < 64 {
            self.refill();
            let mut entry = table.look(self.next);
            for _ in 0..AT_ONCE {
                if entry.both == 0 {
                    break;
                }
                place += usize::from(entry.run);
                put(place, value(self.next << entry.code, entry.size.into()));
                place += 1;
                self.skip(entry.both.into());
                if place >= 64 {
                    return (place == 64).then_some(false);
                }
                entry = table.look(self.next);
            }
            if entry.both != 0 {
                continue;
            }
            self.refill();
            let entry = self.entry(table)?;
            match (entry.run, entry.size) {
                (15, 0) => {
                    place += 16;
                    self.skip(entry.code.into());
                }
                (_, 0) => {
                    self.skip(entry.code.into());
                    return Some(place == 1);
                }
                (run, _) => {
                    place += usize::from(run);
                    put(place, self.take(entry));
                    place += 1;
                }
            }
        }
        (place == 64).then_some(false)
    }
}

/// The number that the first `size` bits stand for: a first bit of 0 means a negative one.
#[inline(always)]
fn value(bits: u64, size: u32) -> i32 {
    // In two steps, as a shift by 64 is none.
    let magnitude = (bits >> 1 >> (63 - size)) as i32;
    let is_negative = (!bits >> 63) as i32;
    magnitude - (is_negative << size) + is_negative
}
