//! Binary and ternary codes, packed into 64-bit words.

use super::Refusal;
use super::words::Words;
use std::collections::HashSet;

/// The longest code, in bits.
pub const MAX_BITS: usize = 1024;

/// The most codes there can be, so that 32 bits name any of them.
pub const MAX_CODES: usize = u32::MAX as usize;

/// Codes of one length.
///
/// Bit `j` of a code is bit `j % 64` of its word `j / 64`, which in little-endian bytes is bit `j % 8` of byte `j / 8`:
/// NumPy's `packbits(.., bitorder="little")`. It is 1 where the network's output is above 0. Bits of the last word
/// beyond the code's end are always 0, so distances need no mask.
///
/// Codes of the reference may be ternary: its `sign(0)` is 0. [`push_ternary`](Self::push_ternary) keeps such signs. The
/// distance of two codes x and y of b bits is then the reference's (b - x.y) / 2: a zero, on either side or both, is half
/// a bit away from everything. Rankings, means over ties and all metrics work on it; a radius is still in bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    bits: usize,
    words: Words,
    /// Which signs are zero, laid out like `words`; empty while none is. Where it is 1, the word's bit is 0.
    zeros: Vec<u64>,
}

impl Codes {
    /// No codes yet; `bits` from 1 to [`MAX_BITS`].
    pub fn new(bits: usize) -> Result<Self, Refusal> {
        if !(1..=MAX_BITS).contains(&bits) {
            return Err(Refusal::Bits(bits));
        }
        Ok(Self { bits, words: Words::Owned(vec![]), zeros: vec![] })
    }

    /// Appends the signs of one image's outputs (`bits` of them); returns how many were exactly zero.
    ///
    /// Zero counts as negative. The reference keeps it as a third sign; such codes are not binary, so here the caller
    /// is told and can say it.
    pub fn push(&mut self, outputs: &[f32]) -> Result<usize, Refusal> {
        if outputs.len() != self.bits {
            return Err(Refusal::OutputCount { expected: self.bits, found: outputs.len() });
        }
        if let Some(bit) = outputs.iter().position(|x| x.is_nan()) {
            return Err(Refusal::NotANumber { code: self.len(), bit });
        }
        if self.len() == MAX_CODES {
            return Err(Refusal::TooManyCodes);
        }
        self.words.to_mut().extend(packed(outputs, |x| x > 0.0));
        if self.is_ternary() {
            self.zeros.resize(self.words.len(), 0);
        }
        Ok(outputs.iter().filter(|&&x| x == 0.0).count())
    }

    /// Appends a code that is packed already: `not_a_number` is the first output that had no sign.
    pub fn push_words(&mut self, words: &[u64], not_a_number: Option<usize>) -> Result<(), Refusal> {
        if let Some(bit) = not_a_number {
            return Err(Refusal::NotANumber { code: self.len(), bit });
        }
        if words.len() != self.words_per_code() {
            return Err(Refusal::PartialCode { bits: self.bits, bytes: 8 * words.len() });
        }
        self.append(&Self::from_words(self.bits, words.to_vec())?)
    }

    /// Appends the signs of one image's outputs as [`push`](Self::push) does, but keeps zeros as the reference's third
    /// sign; returns how many there were.
    pub fn push_ternary(&mut self, outputs: &[f32]) -> Result<usize, Refusal> {
        let zeros = self.push(outputs)?;
        if zeros > 0 {
            self.zeros.resize(self.words.len() - self.words_per_code(), 0);
            self.zeros.extend(packed(outputs, |x| x == 0.0));
        }
        Ok(zeros)
    }

    /// Whether any sign is zero.
    pub fn is_ternary(&self) -> bool {
        !self.zeros.is_empty()
    }

    /// Appends codes of the same length.
    pub fn append(&mut self, other: &Self) -> Result<(), Refusal> {
        if other.bits != self.bits {
            return Err(Refusal::DifferentBits { queries: other.bits, database: self.bits });
        }
        if self.len() + other.len() > MAX_CODES {
            return Err(Refusal::TooManyCodes);
        }
        self.words.to_mut().extend_from_slice(&other.words);
        if self.is_ternary() || other.is_ternary() {
            self.zeros.resize(self.words.len() - other.words.len(), 0);
            self.zeros.extend_from_slice(&other.zeros);
            self.zeros.resize(self.words.len(), 0);
        }
        Ok(())
    }

    /// The codes at these positions, in this order; positions are below [`len`](Self::len).
    pub fn selected(&self, positions: impl IntoIterator<Item = usize>) -> Self {
        let width = self.words_per_code();
        let (mut words, mut zeros) = (vec![], vec![]);
        for i in positions {
            words.extend_from_slice(self.code(i));
            if self.is_ternary() {
                zeros.extend_from_slice(&self.zeros[i * width..(i + 1) * width]);
            }
        }
        if zeros.iter().all(|&word| word == 0) {
            zeros.clear();
        }
        Self { bits: self.bits, words: Words::Owned(words), zeros }
    }

    /// For each bit, how many codes have it set.
    pub fn ones(&self) -> Vec<usize> {
        let mut ones = vec![0; self.bits];
        for code in self.words.chunks_exact(self.words_per_code()) {
            for (j, count) in ones.iter_mut().enumerate() {
                *count += (code[j / 64] >> (j % 64) & 1) as usize;
            }
        }
        ones
    }

    /// How many different codes there are.
    pub fn distinct(&self) -> usize {
        let width = self.words_per_code();
        let zeros = |i: usize| self.zeros.get(i * width..(i + 1) * width);
        (0..self.len()).map(|i| (self.code(i), zeros(i))).collect::<HashSet<_>>().len()
    }

    /// How many codes there are.
    pub fn len(&self) -> usize {
        self.words.len() / self.words_per_code()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Length of a code, in bits.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Length of a code, in words.
    pub fn words_per_code(&self) -> usize {
        self.bits.div_ceil(64)
    }

    /// The words of code `i`, which must be below [`len`](Self::len).
    pub fn code(&self, i: usize) -> &[u64] {
        let width = self.words_per_code();
        &self.words[i * width..(i + 1) * width]
    }

    /// Bit `j` of code `i`.
    pub fn bit(&self, i: usize, j: usize) -> bool {
        debug_assert!(j < self.bits, "bit {j} of a code of {} bits", self.bits);
        self.code(i)[j / 64] >> (j % 64) & 1 == 1
    }

    /// Code `i` as -1, 0 and +1, `bits` of them.
    pub fn unpack(&self, i: usize) -> impl Iterator<Item = f32> {
        let zeros = self.zeros.get(i * self.words_per_code()..).unwrap_or_default();
        let is_zero = |j: usize| zeros.get(j / 64).is_some_and(|word| word >> (j % 64) & 1 == 1);
        (0..self.bits).map(move |j| {
            if self.bit(i, j) {
                1.0
            } else if is_zero(j) {
                0.0
            } else {
                -1.0
            }
        })
    }

    /// All words, code after code.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Which signs are zero, laid out like [`words`](Self::words); empty if none is.
    pub(super) fn zeros(&self) -> &[u64] {
        &self.zeros
    }

    /// Binary codes from their words, code after code; bits beyond a code's end must be 0.
    pub fn from_words(bits: usize, words: Vec<u64>) -> Result<Self, Refusal> {
        Self::of(bits, Words::Owned(words))
    }

    /// The same from words wherever they lie; all of them are read.
    pub(super) fn of(bits: usize, words: Words) -> Result<Self, Refusal> {
        let codes = Self { words, ..Self::new(bits)? };
        let width = codes.words_per_code();
        if !codes.words.len().is_multiple_of(width) {
            return Err(Refusal::PartialCode { bits, bytes: codes.words.len() * 8 });
        }
        if codes.len() > MAX_CODES {
            return Err(Refusal::TooManyCodes);
        }
        let used = u64::MAX >> (width * 64 - bits);
        if used == u64::MAX {
            return Ok(codes);
        }
        match codes.words.chunks_exact(width).position(|code| code[width - 1] & !used != 0) {
            Some(code) => Err(Refusal::Padding { code }),
            None => Ok(codes),
        }
    }

    /// Codes from `N x ceil(bits / 8)` bytes, as [`packed_bytes`](Self::packed_bytes) writes them.
    pub fn from_packed_bytes(bits: usize, bytes: &[u8]) -> Result<Self, Refusal> {
        let row = Self::new(bits)?.bits.div_ceil(8);
        if !bytes.len().is_multiple_of(row) {
            return Err(Refusal::PartialCode { bits, bytes: bytes.len() });
        }
        let word = |part: &[u8]| part.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Self::from_words(bits, bytes.chunks_exact(row).flat_map(|code| code.chunks(8).map(word)).collect())
    }

    /// The codes as `N x ceil(bits / 8)` bytes, code after code; zeros of ternary codes as 0, like -1.
    pub fn packed_bytes(&self) -> Vec<u8> {
        let row = self.bits.div_ceil(8);
        let bytes = |code: &[u64]| code.iter().flat_map(|word| word.to_le_bytes()).take(row).collect::<Vec<_>>();
        self.words.chunks_exact(self.words_per_code()).flat_map(bytes).collect()
    }
}

/// The words of one code: 1 where `is_one`.
fn packed(outputs: &[f32], is_one: impl Fn(f32) -> bool) -> impl Iterator<Item = u64> {
    let pack = move |part: &[f32]| part.iter().enumerate().fold(0, |word, (j, &x)| word | u64::from(is_one(x)) << j);
    outputs.chunks(64).map(pack)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::seeded::stream;
    use proptest::prelude::*;

    /// `count` random codes; the first `varied` bits are random and the rest zero, so few of them make many ties.
    pub(crate) fn random_codes(seed: u64, count: usize, bits: usize, varied: usize) -> Codes {
        let mut draw = stream(seed, "codes", &[]);
        let mut codes = Codes::new(bits).unwrap();
        for _ in 0..count {
            let signs: Vec<f32> =
                (0..bits).map(|j| if j < varied && draw.below(2) == 1 { 1.0 } else { -1.0 }).collect();
            codes.push(&signs).unwrap();
        }
        codes
    }

    #[test]
    fn only_what_is_above_zero_is_one() {
        let mut codes = Codes::new(6).unwrap();
        let zeros = codes.push(&[0.5, -0.5, 0.0, -0.0, f32::INFINITY, f32::MIN_POSITIVE]).unwrap();
        assert_eq!((zeros, codes.code(0)), (2, &[0b110001][..]));
        assert_eq!(codes.unpack(0).collect::<Vec<_>>(), [1.0, -1.0, -1.0, -1.0, 1.0, 1.0]);
    }

    #[test]
    fn bit_j_is_bit_j_mod_8_of_byte_j_div_8() {
        let mut codes = Codes::new(70).unwrap();
        let mut outputs = [-1.0; 70];
        outputs[9] = 1.0;
        outputs[69] = 1.0;
        codes.push(&outputs).unwrap();
        assert_eq!(codes.packed_bytes(), [0, 2, 0, 0, 0, 0, 0, 0, 1 << 5]);
    }

    #[test]
    fn what_cannot_be_a_code_is_refused() {
        assert_eq!(Codes::new(0), Err(Refusal::Bits(0)));
        assert_eq!(Codes::new(1025), Err(Refusal::Bits(1025)));
        let mut codes = Codes::new(2).unwrap();
        assert_eq!(codes.push(&[1.0]), Err(Refusal::OutputCount { expected: 2, found: 1 }));
        assert_eq!(codes.push(&[1.0, f32::NAN]), Err(Refusal::NotANumber { code: 0, bit: 1 }));
        assert!(codes.is_empty(), "a refused row leaves nothing behind");
    }

    #[test]
    fn codes_are_appended_and_counted() {
        let (first, second) = (random_codes(1, 5, 70, 3), random_codes(2, 4, 70, 70));
        let mut all = Codes::new(70).unwrap();
        all.append(&first).unwrap();
        all.append(&second).unwrap();
        assert_eq!((all.len(), all.code(4), all.code(5)), (9, first.code(4), second.code(0)));
        assert!(all.append(&Codes::new(64).unwrap()).is_err());
        let expected: Vec<usize> = (0..70).map(|j| (0..9).filter(|&i| all.bit(i, j)).count()).collect();
        assert_eq!(all.ones(), expected);
        let mut same = Codes::new(70).unwrap();
        (0..3).for_each(|_| same.append(&second).unwrap());
        assert_eq!((same.len(), same.distinct()), (12, second.distinct()));
        assert_eq!((Codes::new(3).unwrap().ones(), Codes::new(3).unwrap().distinct()), (vec![0; 3], 0));
    }

    #[test]
    fn ternary_codes_keep_their_zeros() {
        let rows = [[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 0.0, -1.0]];
        let mut codes = Codes::new(3).unwrap();
        let zeros: Vec<usize> = rows.iter().map(|row| codes.push_ternary(row).unwrap()).collect();
        assert_eq!((zeros, codes.is_ternary(), codes.distinct()), (vec![1, 0, 2], true, 3));
        codes.push(&[0.0, 1.0, 0.0]).unwrap(); // as binary
        let back = |codes: &Codes, i| codes.unpack(i).collect::<Vec<_>>();
        assert_eq!((0..3).map(|i| back(&codes, i)).collect::<Vec<_>>(), rows);
        assert_eq!(back(&codes, 3), [-1.0, 1.0, -1.0]);
        let mut all = codes.selected([1, 3]);
        assert!(!all.is_ternary());
        all.append(&codes).unwrap();
        assert_eq!((back(&all, 2), back(&all, 4), back(&all, 5)), (back(&codes, 0), back(&codes, 2), back(&codes, 3)));
    }

    #[test]
    fn padding_must_be_zero() {
        assert_eq!(Codes::from_packed_bytes(5, &[0b11111, 0b100000]), Err(Refusal::Padding { code: 1 }));
        assert_eq!(Codes::from_words(64, vec![u64::MAX]).unwrap().len(), 1);
        assert_eq!(Codes::from_packed_bytes(9, &[1, 1, 1]), Err(Refusal::PartialCode { bits: 9, bytes: 3 }));
        assert_eq!(Codes::from_words(65, vec![1]), Err(Refusal::PartialCode { bits: 65, bytes: 8 }));
    }

    #[test]
    fn packed_codes_are_pushed_as_outputs_are() {
        let (mut packed, mut pushed) = (Codes::new(65).unwrap(), Codes::new(65).unwrap());
        pushed.push(&[1.0; 65]).unwrap();
        packed.push_words(&[u64::MAX, 1], None).unwrap();
        assert_eq!(packed, pushed);
        assert_eq!(packed.push_words(&[0, 0], Some(3)), Err(Refusal::NotANumber { code: 1, bit: 3 }));
        assert_eq!(packed.push_words(&[0], None), Err(Refusal::PartialCode { bits: 65, bytes: 8 }));
        assert_eq!(packed.push_words(&[0, 2], None), Err(Refusal::Padding { code: 0 }));
        assert_eq!(packed, pushed);
    }

    proptest! {
        #[test]
        fn packing_then_unpacking_is_identity(
            (bits, rows) in (1usize..200).prop_flat_map(|bits| {
                (Just(bits), prop::collection::vec(prop::collection::vec(any::<bool>(), bits), 0..8))
            })
        ) {
            let mut codes = Codes::new(bits).unwrap();
            let signs = |row: &[bool]| row.iter().map(|&one| if one { 1.0 } else { -1.0 }).collect::<Vec<f32>>();
            for row in &rows {
                codes.push(&signs(row)).unwrap();
            }
            prop_assert_eq!(codes.len(), rows.len());
            for (i, row) in rows.iter().enumerate() {
                prop_assert_eq!(codes.unpack(i).collect::<Vec<_>>(), signs(row));
                prop_assert!((0..bits).all(|j| codes.bit(i, j) == row[j]));
            }
            prop_assert_eq!(codes.packed_bytes().len(), rows.len() * bits.div_ceil(8));
            prop_assert_eq!(&Codes::from_packed_bytes(bits, &codes.packed_bytes()).unwrap(), &codes);
            prop_assert_eq!(&Codes::from_words(bits, codes.words().to_vec()).unwrap(), &codes);
        }
    }
}
