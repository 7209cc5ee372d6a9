//! Distances of queries to a database, block by block: a block stays in the first-level cache while each query of a
//! group passes over it, so that a group costs one walk through memory. Pages of a mapped database are read in order.

use super::popcount::{Distance, Kind};
use super::{Codes, Refusal};
use std::ops::Range;

/// Words of a block: half of a first-level cache, so that the distances fit beside it.
const BLOCK_WORDS: usize = 2048;

/// Queries and the database they are compared with.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    queries: &'a Codes,
    database: &'a Codes,
    ternary: bool,
    kind: Kind,
}

impl<'a> Pair<'a> {
    pub(super) fn new(queries: &'a Codes, database: &'a Codes) -> Result<Self, Refusal> {
        Self::with_ternary(queries, database, queries.is_ternary() || database.is_ternary())
    }

    /// The same, with distances in half bits if `ternary` is set, whether there are zeros here or not.
    pub(super) fn with_ternary(queries: &'a Codes, database: &'a Codes, ternary: bool) -> Result<Self, Refusal> {
        if queries.bits() != database.bits() {
            return Err(Refusal::DifferentBits { queries: queries.bits(), database: database.bits() });
        }
        Ok(Self { queries, database, ternary, kind: Kind::of_process() })
    }

    #[cfg(test)]
    pub(super) fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Different distances there can be: 0 up to the number of bits, or of half bits.
    pub(super) fn levels(&self) -> usize {
        self.queries.bits() * self.per_bit() + 1
    }

    /// Steps of a distance in a bit: 2 where codes may be ternary.
    pub(super) fn per_bit(&self) -> usize {
        if self.ternary { 2 } else { 1 }
    }

    /// Whether distances fit a byte on their way.
    pub(super) fn fits_bytes(&self) -> bool {
        !self.ternary && self.queries.bits() <= u8::MOST
    }

    /// Words of a code as it is compared.
    fn width(&self) -> usize {
        self.queries.words_per_code() * if self.ternary { 4 } else { 1 }
    }

    /// Codes of a block.
    pub(super) fn block(&self) -> usize {
        (BLOCK_WORDS / self.width() / 64 * 64).max(64)
    }

    /// Gives `each` the distances of every one of `queries` to every code of `part`: the query's number, the codes'
    /// positions, and the distances. For a query, blocks come in order; they start at multiples of 64 from `part`'s
    /// start.
    pub(super) fn scan<D: Distance>(
        &self,
        queries: Range<usize>,
        part: Range<usize>,
        mut each: impl FnMut(usize, Range<usize>, &[D]),
    ) {
        let (width, block) = (self.width(), self.block());
        let widened: Vec<u64> = if self.ternary { self.widened_queries(queries.clone()) } else { vec![] };
        let (mut distances, mut room) = (vec![D::default(); block.min(part.len())], vec![]);
        for start in part.clone().step_by(block) {
            let here = start..part.end.min(start + block);
            let codes = if self.ternary {
                self.widen_database(here.clone(), &mut room);
                &room[..]
            } else {
                &self.database.words()[here.start * width..here.end * width]
            };
            let distances = &mut distances[..here.len()];
            for query in queries.clone() {
                let code = match self.ternary {
                    true => &widened[(query - queries.start) * width..][..width],
                    false => self.queries.code(query),
                };
                D::distances(self.kind, codes, code, distances);
                if self.ternary {
                    distances.iter_mut().for_each(|distance| *distance = D::from_usize(distance.to_usize() / 2));
                }
                each(query, here.clone(), distances);
            }
        }
    }

    /// The distance of one query to one code.
    pub(super) fn distance(&self, query: usize, code: usize) -> usize {
        let mut found = 0;
        self.scan::<u16>(query..query + 1, code..code + 1, |_, _, distances| found = distances[0].to_usize());
        found
    }

    // Ternary signs become four binary ones per sign, so that a population count gives four times the distance
    // (b - x.y) / 2: with p = "above 0" and n = "not below 0", a query's p p n n stand against a code's p n p n. Equal
    // signs that are not zero differ in none, opposite ones in four, and a zero on either side or both in two.
    fn widened_queries(&self, queries: Range<usize>) -> Vec<u64> {
        let mut wide = vec![];
        let width = self.queries.words_per_code();
        for query in queries {
            let (above, zeros) = (self.queries.code(query), zeros_of(self.queries, query));
            let not_below = |j: usize| above[j] | zeros.get(j).copied().unwrap_or(0);
            wide.extend(above.iter().chain(above));
            wide.extend((0..width).map(not_below).chain((0..width).map(not_below)));
        }
        wide
    }

    fn widen_database(&self, codes: Range<usize>, wide: &mut Vec<u64>) {
        wide.clear();
        let width = self.database.words_per_code();
        for code in codes {
            let (above, zeros) = (self.database.code(code), zeros_of(self.database, code));
            for _ in 0..2 {
                wide.extend(above);
                wide.extend((0..width).map(|j| above[j] | zeros.get(j).copied().unwrap_or(0)));
            }
        }
    }
}

/// Which signs of a code are zero; empty if no code has any.
pub(super) fn zeros_of(codes: &Codes, i: usize) -> &[u64] {
    let width = codes.words_per_code();
    codes.zeros().get(i * width..(i + 1) * width).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use crate::seeded::stream;

    fn scanned<D: Distance>(pair: &Pair, queries: usize, codes: usize) -> Vec<Vec<usize>> {
        let mut all = vec![vec![]; queries];
        pair.scan::<D>(0..queries, 0..codes, |query, here, distances| {
            assert_eq!((here.start, here.start % 64), (all[query].len(), 0));
            all[query].extend(distances.iter().map(|distance| distance.to_usize()));
        });
        all
    }

    #[test]
    fn blocks_make_up_the_database() {
        for (bits, count) in [(1, 4100), (64, 5000), (65, 3000), (255, 1300), (256, 1300), (1024, 200), (8, 0)] {
            let (queries, database) = (random_codes(1, 3, bits, bits), random_codes(2, count, bits, bits));
            let differing = |q: usize, i: usize| (0..bits).filter(|&j| queries.bit(q, j) != database.bit(i, j)).count();
            let expected: Vec<Vec<usize>> = (0..3).map(|q| (0..count).map(|i| differing(q, i)).collect()).collect();
            for kind in Kind::available() {
                let pair = Pair::new(&queries, &database).unwrap().with_kind(kind);
                assert_eq!(scanned::<u16>(&pair, 3, count), expected, "{} {bits}", kind.name());
                if pair.fits_bytes() {
                    assert_eq!(scanned::<u8>(&pair, 3, count), expected, "{} {bits}", kind.name());
                }
            }
        }
    }

    #[test]
    fn ternary_distances_are_the_references() {
        let mut draw = stream(1, "ternary", &[]);
        for bits in [1, 6, 64, 70, 300] {
            let mut side = |count| {
                let mut codes = Codes::new(bits).unwrap();
                for _ in 0..count {
                    let row: Vec<f32> = (0..bits).map(|_| draw.below(3) as f32 - 1.0).collect();
                    codes.push_ternary(&row).unwrap();
                }
                codes
            };
            let (queries, database, binary) = (side(4), side(150), random_codes(1, 70, bits, bits));
            for (queries, database) in [(&queries, &database), (&queries, &binary), (&binary, &database)] {
                let pair = Pair::new(queries, database).unwrap();
                for (q, distances) in scanned::<u16>(&pair, queries.len(), database.len()).iter().enumerate() {
                    for (i, &distance) in distances.iter().enumerate() {
                        let dot: f32 = queries.unpack(q).zip(database.unpack(i)).map(|(a, b)| a * b).sum();
                        assert_eq!(distance as f32 * 0.5, 0.5 * (bits as f32 - dot));
                        assert!(distance < pair.levels());
                    }
                }
                assert_eq!(pair.distance(1, 2), scanned::<u16>(&pair, 2, 3)[1][2]);
            }
        }
    }
}
