//! Search and measurement on a GPU: what it is asked, and what becomes of its answers.
//!
//! ```text
//! counts     for each query, how many codes there are at each distance, and with how many classes shared
//!   |
//! (here)     limits, and prefix sums: at which rank the codes of each distance and stretch of the database start
//!   |
//! places     which codes are within a query's limit, in the order of ranks or of the database
//! ranks      the sums of precisions at relevant codes, added in the order in which the CPU adds them
//! ```
//!
//! Every result equals the CPU's to the bit: counts are sums of integers, ranks come from counts and never from the order
//! in which threads arrive, and what is not an integer is added in the CPU's order. So no key knows about GPUs.
//!
//! A database is copied to the GPU once, and queries are, for as long as somebody asks about them. Of a database that does
//! not fit, as much as possible stays; the rest comes part by part whenever it is needed, one part while the one before it
//! is computed on. Parts are walked in database order, and what a kernel counts goes on in the next part, so that results do
//! not depend on where the database was cut.
//!
//! **What it must cost at least**, for n codes of w words and q queries, by NVIDIA's tables for an H200 (132 processors of
//! 1.8 GHz, 8 population counts of 64 bits each in a cycle, 4.8 TB/s):
//!
//! - n q w population counts, 1.9e12 in a second: 0.53 ms for 1,000 queries to 1,000,000 codes of 64 bits. `counts` also
//!   adds 1 to a counter in shared memory for each distance, of which a processor does at most 32 in a cycle and fewer
//!   where neighbours hit the same counter: about as long again.
//! - 8 n w q / 8 bytes: a code that was read serves a group of 8 queries. 0.21 ms for the same, and less while the database
//!   stays in the second-level cache (50 MB).
//! - `places` and `ranks` walk with one warp for a query: distances again, and some 40 further instructions for 32 codes
//!   within the limit, of which a processor starts 4 in a cycle. 1.3 ms for the same where every code counts (mAP of the
//!   whole database), about the time of the distances where few do.
//! - Over the bus only answers come back: `4 k` bytes for the k nearest of a query, some hundred bytes for its sums, and
//!   6 bytes for each code within the first limit where mAP@k counts few ranks.
//! - What does not stay on the GPU comes again for each of these, 8 n w bytes and a bit for each class and code: over a bus of
//!   55 GB/s 0.15 ms for 1,000,000 codes of 64 bits. With a few hundred queries it hides behind the work on the part before.
//!
//! So far these are numbers on paper: none of this has run on a GPU yet.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cuda"))]
mod layout;
#[cfg(test)]
pub(super) mod plain;
mod search;
#[cfg(test)]
mod tests;

pub(super) use search::{histogram, together, top_k, total, whole, within};

use super::labels::Labels;
use super::scan::zeros_of;
use super::{Codes, Refusal};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Sums of precisions of a query and a cut, and items after which the first has its turn again; see `measure/ranked.rs`.
pub(super) use super::measure::LANES;
#[cfg(any(test, feature = "cuda"))]
pub(super) use super::measure::STRIP;

/// Something that databases can be put on.
pub(super) trait Card: fmt::Debug + Send + Sync {
    /// Puts a database there, or as much of it as there is room for.
    fn load(&self, source: &Source) -> Result<Box<dyn Scan>, Refusal>;
}

/// A database that lies on a card. Each call is given the same database again, for parts that did not fit.
pub(super) trait Scan: fmt::Debug + Send + Sync {
    /// Counts codes by stretch of `stretch` codes, row of a query, and distance: `[stretches, batch.rows(), levels]`.
    fn counts(&self, source: &Source, batch: &Batch, stretch: usize) -> Result<Vec<u32>, Refusal>;

    /// Finds the codes within each query's limit.
    fn places(&self, source: &Source, batch: &Batch, asked: &Places) -> Result<Found, Refusal>;

    /// Adds up the precisions at relevant codes. No code may have been removed.
    fn ranks(&self, source: &Source, batch: &Batch, asked: &Ranks) -> Result<Sums, Refusal>;

    /// Adds up the ones of every word, changed by the first word of each query: see
    /// [`popcount_pass`](super::popcount_pass).
    fn total(&self, source: &Source, batch: &Batch) -> Result<u64, Refusal>;
}

/// A database as it lies in memory.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// One after the other, all of one length; at least one.
    pub segments: Vec<&'a Codes>,
    /// A bit for each code, 1 where it was removed; as long as needed.
    pub removed: &'a [u64],
    /// Of every code, or none.
    pub labels: Option<&'a Labels>,
}

impl Source<'_> {
    /// Codes there are, those that were removed included.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|codes| codes.len()).sum()
    }

    /// Bytes that a code takes on a card, with its classes; a little more than it is.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn bytes_per_code(&self) -> usize {
        let sides = if self.is_ternary() { 2 } else { 1 };
        self.width() * 8 * sides + self.labels.map_or(0, |labels| labels.classes().div_ceil(8)) + 1
    }

    /// Words of a code.
    pub(super) fn width(&self) -> usize {
        self.segments.first().map_or(1, |codes| codes.words_per_code())
    }

    /// Whether any sign is zero.
    pub(super) fn is_ternary(&self) -> bool {
        self.segments.iter().any(|codes| codes.is_ternary())
    }

    /// The codes at some positions, segment by segment: which, of which segment.
    pub(super) fn pieces(&self, part: Range<usize>) -> impl Iterator<Item = (&Codes, Range<usize>)> {
        let mut start = 0;
        self.segments.iter().filter_map(move |&codes| {
            let here = start..start + codes.len();
            start = here.end;
            let inside =
                part.start.clamp(here.start, here.end) - here.start..part.end.clamp(here.start, here.end) - here.start;
            (!inside.is_empty()).then_some((codes, inside))
        })
    }
}

/// What of the classes that a query and a code share is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// Nothing: a query has one row of counts.
    One,
    /// Whether there are any: two rows.
    Relevant,
    /// How many: a row more than the query has classes.
    Shared,
}

/// Codes and classes of queries. A card knows them again while somebody keeps them.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Their signs: above 0, and where signs may be zero, not below 0: `[queries, 1 or 2, words of a code]`.
    pub words: Vec<u64>,
    pub classes: Vec<u32>,
    /// Where the classes of each query start, and of the last one end.
    pub first_class: Vec<u32>,
}

/// Queries that are answered together.
#[derive(Debug)]
pub(super) struct Batch {
    len: usize,
    bits: usize,
    ternary: bool,
    pub asking: Arc<Asking>,
    /// Where the rows of each query start, and of the last one end.
    pub first_row: Vec<u32>,
}

impl Batch {
    /// Some of the queries, without classes; distances are in half bits if `ternary` is set.
    pub(super) fn new(queries: &Codes, which: impl IntoIterator<Item = usize>, ternary: bool) -> Self {
        let none = |_: usize| std::iter::empty();
        Self::with_classes(queries, which, ternary, none, Rows::One)
    }

    /// The same with the classes of each.
    pub(super) fn with_classes<C: IntoIterator<Item = u32>>(
        queries: &Codes,
        which: impl IntoIterator<Item = usize>,
        ternary: bool,
        classes_of: impl Fn(usize) -> C,
        rows: Rows,
    ) -> Self {
        let (mut asking, mut len) = (Asking { first_class: vec![0], ..Asking::default() }, 0);
        for query in which {
            let above = queries.code(query);
            asking.words.extend(above);
            if ternary {
                let zeros = zeros_of(queries, query);
                asking.words.extend(above.iter().enumerate().map(|(w, above)| above | zeros.get(w).unwrap_or(&0)));
            }
            asking.classes.extend(classes_of(query));
            asking.first_class.push(asking.classes.len() as u32);
            len += 1;
        }
        let whole = Self { len, bits: queries.bits(), ternary, asking: Arc::new(asking), first_row: vec![] };
        whole.counting(rows)
    }

    /// The same queries, with other rows of counts.
    pub(super) fn counting(&self, rows: Rows) -> Self {
        let Self { len, bits, ternary, ref asking, .. } = *self;
        let own = |query: usize| match rows {
            Rows::One => 1,
            Rows::Relevant => 2,
            Rows::Shared => asking.first_class[query + 1] - asking.first_class[query] + 1,
        };
        let mut first_row = vec![0];
        first_row.extend((0..len).scan(0, |end, query| {
            *end += own(query);
            Some(*end)
        }));
        Self { len, bits, ternary, asking: asking.clone(), first_row }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether distances are in half bits.
    pub(super) fn is_ternary(&self) -> bool {
        self.ternary
    }

    /// Different distances there can be.
    pub(super) fn levels(&self) -> usize {
        self.bits * if self.ternary { 2 } else { 1 } + 1
    }

    /// Words of a query: one or two sides of its code.
    pub(super) fn length(&self) -> usize {
        self.bits.div_ceil(64) * if self.ternary { 2 } else { 1 }
    }

    /// Rows of counts of all queries.
    pub(super) fn rows(&self) -> usize {
        self.first_row[self.len] as usize
    }

    /// The rows of a query.
    pub(super) fn rows_of(&self, query: usize) -> Range<usize> {
        self.first_row[query] as usize..self.first_row[query + 1] as usize
    }

    /// The classes of a query.
    #[cfg(test)]
    pub(super) fn classes_of(&self, query: usize) -> &[u32] {
        let Asking { classes, first_class, .. } = &*self.asking;
        &classes[first_class[query] as usize..first_class[query + 1] as usize]
    }
}

/// Queries that are asked about again and again, so that a card has them only once.
#[derive(Debug, Default)]
pub(super) struct Portions(Mutex<BTreeMap<(usize, usize), Arc<Batch>>>);

impl Portions {
    /// The queries of a range, made if nobody asked about them before.
    pub(super) fn of(&self, queries: Range<usize>, make: impl FnOnce() -> Batch) -> Arc<Batch> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry((queries.start, queries.end)).or_insert_with(|| Arc::new(make())).clone()
    }
}

/// Which codes are to be found.
#[derive(Debug)]
pub(super) struct Places {
    /// The largest distance that counts, for each query.
    pub limits: Vec<u32>,
    /// Whether nearer codes come first; if not, all are in database order.
    pub by_distance: bool,
    /// Codes of a stretch.
    pub stretch: usize,
    /// The place that the first code gets, `[stretches, queries, levels]`, or `[stretches, queries]` in database order.
    pub next: Vec<u32>,
    /// Where the places of each query start, and of the last one end. What falls beyond a query's is left out.
    pub first: Vec<u64>,
    /// Whether distances and relevance are asked for.
    pub keys: bool,
}

/// Codes that were found, at the places of all queries.
#[derive(Debug)]
pub(super) struct Found {
    /// Positions in the database.
    pub at: Vec<u32>,
    /// Twice the distance, and 1 more if a class is shared; empty if nobody asked.
    pub keys: Vec<u16>,
}

/// Which precisions are to be added up. Queries are those of a batch.
#[derive(Debug)]
pub(super) struct Ranks {
    /// Ranks up to which they are, `[queries, cut_count]`.
    pub cuts: Vec<u32>,
    pub cut_count: usize,
    /// Codes that rank before the first of each distance, and by 32 bits higher the relevant ones: `[queries, levels]`.
    pub next: Vec<u64>,
    /// Distances that count, for each query: those below.
    pub reads: Vec<u32>,
    /// Positions of codes that are not there, ascending for each query.
    pub gone: Vec<u32>,
    /// Where those of each query start, and of the last one end.
    pub first_gone: Vec<u32>,
}

/// Sums of precisions: hit number h of a strip of `STRIP` codes that are there is in sum h % `LANES`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    /// `[queries, cut_count, LANES]`
    pub sums: Vec<f64>,
    /// How many were added to each.
    pub hits: Vec<u32>,
    /// For each query, the rank of its first relevant code, from 1; the largest number if there is none.
    pub first: Vec<u32>,
}

/// Binary digits of a distance.
#[cfg(feature = "cuda")]
fn digits(levels: usize) -> i32 {
    (usize::BITS - (levels - 1).leading_zeros()).max(1) as i32
}

/// Opens the GPU in a slot.
///
/// # Errors
/// If this build or this machine has none; see [`device::open`](crate::device::open).
#[cfg(feature = "cuda")]
pub(super) fn open(slot: usize) -> crate::error::Result<std::sync::Arc<dyn Card>> {
    Ok(std::sync::Arc::new(cuda::Gpu::open(slot)?))
}
