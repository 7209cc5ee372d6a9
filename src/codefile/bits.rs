//! Numbers of any width in a row of bytes, from each byte's low end up: Faiss's `BitstringWriter` and `BitstringReader`.

#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Bits written.
    at: usize,
}

impl Writer {
    pub(super) fn push(&mut self, value: u64, width: usize) {
        for bit in 0..width {
            if self.at.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= ((value >> bit & 1) as u8) << (self.at % 8);
            self.at += 1;
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next number, of at most 64 bits; `None` behind the end.
    pub(super) fn next(&mut self, width: usize) -> Option<u64> {
        if width > 64 || self.at + width > self.bytes.len() * 8 {
            return None;
        }
        let value = (0..width).fold(0, |value, bit| {
            let at = self.at + bit;
            value | u64::from(self.bytes[at / 8] >> (at % 8) & 1) << bit
        });
        self.at += width;
        Some(value)
    }
}
