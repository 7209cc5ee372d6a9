//! How codes lie on a card: tables of words, one behind the other, which the host makes in pieces while others are on
//! their way.
//!
//! ```text
//! above        [words of a code, codes]   which signs are above 0, so that neighbouring threads read neighbouring words
//! not below    [words of a code, codes]   which are not below, if any sign of the database is zero
//! there        [codes / 64]               a bit for each code, if any of them was removed
//! labels       [classes, codes / 64]      a bit for each class and code, if there are classes
//! ```
//!
//! Nothing here needs a card, so all of it is tested everywhere.

use super::{Labels, Source};
use rayon::prelude::*;
use std::ops::Range;

/// Words that one thread puts in columns at a time: what it reads stays in a first-level cache.
const BLOCK: usize = 1 << 12;
/// Classes of a piece, at most: so many copies it takes to send it.
const CLASSES: usize = 1 << 10;

/// Some codes of a database, as they lie on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub codes: Range<usize>,
    /// Words of a code.
    pub width: usize,
    is_ternary: bool,
    /// Whether any of the codes was removed.
    has_gaps: bool,
    classes: usize,
}

/// A table of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// Both sides of the codes.
    Signs,
    There,
    Labels,
}

/// Some columns of some rows of a table, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    table: Table,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Layout {
    /// The layout of some codes, which start at a multiple of 64.
    pub(super) fn of(source: &Source, codes: Range<usize>) -> Self {
        let words = codes.start / 64..codes.end.div_ceil(64).min(source.removed.len());
        let has_gaps = source.removed.get(words).is_some_and(|words| words.iter().any(|&word| word != 0));
        let classes = source.labels.map_or(0, Labels::classes);
        Self { codes, width: source.width(), is_ternary: source.is_ternary(), has_gaps, classes }
    }

    /// Words for a bit of each code.
    pub(super) fn row(&self) -> usize {
        self.codes.len().div_ceil(64)
    }

    /// Rows of a table, and words of each.
    fn table(&self, table: Table) -> (usize, usize) {
        match table {
            Table::Signs => (self.width * if self.is_ternary { 2 } else { 1 }, self.codes.len()),
            Table::There => (usize::from(self.has_gaps), self.row()),
            Table::Labels => (self.classes, self.row()),
        }
    }

    /// Where a table begins.
    fn start(&self, table: Table) -> usize {
        let words = |table| {
            let (rows, columns) = self.table(table);
            rows * columns
        };
        match table {
            Table::Signs => 0,
            Table::There => words(Table::Signs),
            Table::Labels => words(Table::Signs) + words(Table::There),
        }
    }

    /// All words.
    pub(super) fn len(&self) -> usize {
        self.start(Table::Labels) + self.classes * self.row()
    }

    /// Which signs are above 0.
    pub(super) fn above(&self) -> Range<usize> {
        0..self.width * self.codes.len()
    }

    /// Which are not below, if any sign of the database is zero.
    pub(super) fn not_below(&self) -> Option<Range<usize>> {
        let end = self.above().end;
        self.is_ternary.then_some(end..2 * end)
    }

    /// Which codes are there, if any was removed.
    pub(super) fn there(&self) -> Option<Range<usize>> {
        self.has_gaps.then_some(self.start(Table::There)..self.start(Table::Labels))
    }

    /// Which have each class, if there are classes.
    pub(super) fn labels(&self) -> Option<Range<usize>> {
        (self.classes > 0).then_some(self.start(Table::Labels)..self.len())
    }

    /// Pieces of at most so many words, or of one column, that make up all of it.
    pub(super) fn pieces(&self, most: usize) -> impl Iterator<Item = Piece> {
        let tables = [Table::Signs, Table::There, Table::Labels].into_iter();
        tables.flat_map(move |table| {
            let (rows, columns) = self.table(table);
            // Columns of all rows of signs are made together.
            let height = if table == Table::Signs { rows } else { CLASSES.min(rows) }.max(1);
            let length = (most / height).max(1);
            (0..rows).step_by(height).flat_map(move |row| {
                let rows = row..rows.min(row + height);
                let ends = move |start: usize| start..columns.min(start + length);
                let piece = move |start| Piece { table, rows: rows.clone(), columns: ends(start) };
                (0..columns).step_by(length).map(piece)
            })
        })
    }
}

impl Piece {
    /// Its words.
    pub(super) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// The runs of words it consists of: which, and where each begins in the layout.
    pub(super) fn runs(&self, layout: &Layout) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (_, length) = layout.table(self.table);
        let start = layout.start(self.table) + self.rows.start * length + self.columns.start;
        // Whole rows follow each other.
        let is_whole = self.columns.len() == length;
        let (count, words) = if is_whole { (1, self.len()) } else { (self.rows.len(), self.columns.len()) };
        (0..count).map(move |run| (run * words..(run + 1) * words, start + run * length))
    }

    /// Writes its words, with all threads.
    pub(super) fn fill(&self, source: &Source, layout: &Layout, out: &mut [u64]) {
        assert_eq!(out.len(), self.len(), "room for the piece");
        if out.is_empty() {
            return;
        }
        let first = layout.codes.start / 64 + self.columns.start;
        let words = first..first + self.columns.len();
        match (self.table, source.labels) {
            (Table::Signs, _) => self.fill_signs(source, layout, out),
            (Table::There, _) => {
                let there = |word: usize| !source.removed.get(word).copied().unwrap_or(0);
                out.iter_mut().zip(words).for_each(|(out, word)| *out = there(word));
            }
            (Table::Labels, Some(labels)) => {
                let rows = out.par_chunks_exact_mut(self.columns.len()).zip(self.rows.clone());
                rows.for_each(|(out, class)| out.copy_from_slice(&labels.row(class)[words.clone()]));
            }
            (Table::Labels, None) => unreachable!("a layout with classes is of a source with labels"),
        }
    }

    fn fill_signs(&self, source: &Source, layout: &Layout, out: &mut [u64]) {
        let length = (BLOCK / layout.width).max(1);
        let mut blocks: Vec<Vec<&mut [u64]>> = vec![];
        for row in out.chunks_exact_mut(self.columns.len()) {
            for (at, block) in row.chunks_mut(length).enumerate() {
                match blocks.get_mut(at) {
                    Some(rows) => rows.push(block),
                    None => blocks.push(vec![block]),
                }
            }
        }
        let first = layout.codes.start + self.columns.start;
        blocks.into_par_iter().enumerate().for_each(|(at, rows)| fill_block(source, first + at * length, rows));
    }
}

/// Turns the codes from position `first` on into columns: a row for each word, and again with zeros if there are as many.
fn fill_block(source: &Source, first: usize, mut rows: Vec<&mut [u64]>) {
    let width = source.width();
    let count = rows.first().map_or(0, |row| row.len());
    let mut start = 0;
    for (codes, inside) in source.pieces(first..first + count) {
        let words = &codes.words()[inside.start * width..inside.end * width];
        let zeros = codes.zeros().get(inside.start * width..inside.end * width);
        let here = start..start + inside.len();
        for (number, row) in rows.iter_mut().enumerate() {
            let (row, word) = (&mut row[here.clone()], number % width);
            match zeros.filter(|_| number >= width) {
                _ if width == 1 && number == 0 => row.copy_from_slice(words),
                Some(zeros) => {
                    let both = words.chunks_exact(width).zip(zeros.chunks_exact(width));
                    row.iter_mut().zip(both).for_each(|(out, (code, zeros))| *out = code[word] | zeros[word]);
                }
                None => row.iter_mut().zip(words.chunks_exact(width)).for_each(|(out, code)| *out = code[word]),
            }
        }
        start = here.end;
    }
}

/// How a database is cut into parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// Which codes each part has: but for the last, a multiple of 64.
    pub parts: Vec<Range<usize>>,
    /// How many of the first parts stay on the card. The others are copied there whenever they are needed, one while the
    /// one before it is computed on.
    pub resident: usize,
}

/// Parts on their way at once: one that is computed on, and one that is copied.
pub(super) const SLOTS: usize = 2;

impl Cut {
    /// Cuts `total` codes of `each` bytes for `room` bytes of a card. Parts are of at most `largest` codes, and of at most
    /// `travelling` bytes where not all can stay; but they have `least` codes, however little room there is.
    pub(super) fn new([total, each]: [usize; 2], room: usize, [least, largest]: [usize; 2], travelling: usize) -> Self {
        /// What travels takes a quarter of the room at most, so that as much as possible can stay.
        const PARTS: usize = 4 * SLOTS;
        let fits = total.saturating_mul(each) <= room;
        let part = if fits { largest } else { largest.min(travelling.min(room / PARTS) / each.max(1)).max(least) };
        let part = (part / 64 * 64).max(64);
        let parts: Vec<Range<usize>> = (0..total).step_by(part).map(|start| start..total.min(start + part)).collect();
        let resident = if fits { parts.len() } else { (room / (part * each.max(1))).saturating_sub(SLOTS) };
        Self { resident: resident.min(parts.len()), parts }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{codes, labels};
    use super::*;
    use crate::retrieval::Codes;

    /// The words of a layout, put together from pieces of at most so many.
    fn made(source: &Source, layout: &Layout, most: usize) -> Vec<u64> {
        let mut all = vec![0; layout.len()];
        let mut written = vec![false; layout.len()];
        for piece in layout.pieces(most) {
            let mut words = vec![u64::MAX; piece.len()];
            piece.fill(source, layout, &mut words);
            for (run, start) in piece.runs(layout) {
                let to = start..start + run.len();
                assert!(!written[to.clone()].contains(&true), "each word once");
                written[to.clone()].fill(true);
                all[to].copy_from_slice(&words[run]);
            }
        }
        assert!(!written.contains(&false), "every word");
        all
    }

    #[test]
    fn pieces_of_any_size_make_up_every_table() {
        for (seed, bits, counts, zeros, classes) in
            [(1, 64, [500, 0, 140], false, 0), (2, 70, [100, 33, 300], true, 3), (3, 300, [90, 1, 0], false, 1500)]
        {
            let segments: Vec<Codes> =
                (0..).zip(counts).map(|(i, count)| codes(seed + i, count, bits, bits, zeros && i == 1)).collect();
            let total: usize = counts.iter().sum();
            let labels = labels(seed, total, classes.max(1));
            let removed: Vec<u64> = (0..total.div_ceil(64) as u64 / 2).map(|word| word % 2 * 0x5a).collect();
            let labels = (classes > 0).then_some(&labels);
            let source = Source { segments: segments.iter().collect(), removed: &removed, labels };
            for part in [0..total, 0..64, 64..128.min(total)] {
                let layout = Layout::of(&source, part.clone());
                let whole = made(&source, &layout, usize::MAX);
                for most in [1, 7, 64, 1000, 5000] {
                    assert_eq!(made(&source, &layout, most), whole, "{bits} bits, {part:?}, {most} words");
                }
                check(&source, &layout, &whole);
            }
        }
    }

    /// Every bit is where `scan.cu` looks for it.
    fn check(source: &Source, layout: &Layout, words: &[u64]) {
        let Range { start, end } = layout.codes;
        let bit = |table: &[u64], at: usize| table[at / 64] >> (at % 64) & 1 == 1;
        for at in start..end {
            let (codes, inside) = source.pieces(at..at + 1).next().unwrap();
            let place = at - start;
            for (sign, value) in codes.unpack(inside.start).enumerate() {
                let word = sign / 64 * layout.codes.len() + place;
                assert_eq!(words[layout.above()][word] >> (sign % 64) & 1 == 1, value > 0.0);
                if let Some(not_below) = layout.not_below() {
                    assert_eq!(words[not_below][word] >> (sign % 64) & 1 == 1, value >= 0.0);
                }
            }
            let is_there = source.removed.get(at / 64).is_none_or(|word| word >> (at % 64) & 1 == 0);
            assert_eq!(layout.there().is_none_or(|there| bit(&words[there], place)), is_there);
            if let (Some(table), Some(labels)) = (layout.labels(), source.labels) {
                let row = |class: usize| &words[table.clone()][class * layout.row()..][..layout.row()];
                let found: Vec<u32> = (0..labels.classes() as u32).filter(|&c| bit(row(c as usize), place)).collect();
                assert_eq!(found, labels.classes_of(at).collect::<Vec<_>>());
            }
        }
        assert_eq!(layout.not_below().is_some(), source.is_ternary());
    }

    #[test]
    fn what_does_not_fit_is_cut_and_as_much_as_possible_stays() {
        let whole = Cut::new([1000, 8], 8000, [0, 300], 100);
        assert_eq!((whole.parts, whole.resident), (vec![0..256, 256..512, 512..768, 768..1000], 4));
        // One byte too few: parts of an eighth, of which six stay and two travel.
        let cut = Cut::new([1000, 8], 7999, [0, usize::MAX], usize::MAX);
        assert_eq!((cut.parts.len(), &cut.parts[1], cut.resident), (16, &(64..128), 13));
        let travelling = Cut::new([100_000, 8], 400_000, [0, usize::MAX], 8 << 10);
        assert_eq!((travelling.parts[0].len(), travelling.resident), (1024, 400_000 / (8 << 10) - 2));
        // However little there is.
        let least = Cut::new([130, 8], 0, [0, 0], 0);
        assert_eq!((least.parts, least.resident), (vec![0..64, 64..128, 128..130], 0));
        let least = Cut::new([1000, 8], 1000, [300, usize::MAX], usize::MAX);
        assert_eq!((&least.parts[..2], least.resident), (&[0..256, 256..512][..], 0));
        assert!(Cut::new([0, 8], 0, [64, 64], 64).parts.is_empty());
    }
}
