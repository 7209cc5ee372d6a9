//! The nearest items of one query, kept while a database passes by; found by counting, never sorted.

use super::counting::{reach, starts};
use super::popcount::{Distance, Kind};
use super::scan::Pair;
use super::{Codes, Refusal};
use std::ops::Range;

/// Codes of a sample that tells how near the nearest will be, in runs of neighbours: a run costs one page.
const SAMPLE: (usize, usize) = (128, 32);

/// Candidates for the `wanted` nearest: every item within a limit, which falls as nearer ones are found.
pub(super) struct Nearest {
    wanted: usize,
    /// Items farther than this are not wanted any more.
    limit: usize,
    /// Items within the limit.
    within: usize,
    /// Candidates at each distance.
    counts: Vec<u32>,
    /// Where the candidates stand in the database, ascending; empty if nobody asks.
    at: Vec<u32>,
    keeps_places: bool,
    /// For each candidate, in database order: twice its distance, plus 1 if it is marked.
    keys: Vec<u16>,
    /// A bit for each place of a block, 1 for candidates.
    near: Vec<u64>,
}

impl Nearest {
    /// For the `wanted` nearest within `limit`; distances are below `levels`. Where items stand is kept if
    /// `keeps_places`.
    pub(super) fn new(wanted: usize, limit: usize, levels: usize, keeps_places: bool) -> Self {
        let (limit, counts) = (limit.min(levels - 1), vec![0; levels]);
        Self { wanted, limit, within: 0, counts, at: vec![], keeps_places, keys: vec![], near: vec![] }
    }

    /// Looks at items that stand in the database from `base` on; `is_there` is asked for places in `distances`, and
    /// `marked` has a bit for each of them, or is empty.
    #[inline(always)]
    pub(super) fn take<D: Distance>(
        &mut self,
        kind: Kind,
        base: usize,
        distances: &[D],
        is_there: Option<impl Fn(usize) -> bool>,
        marked: &[u64],
    ) {
        self.near.resize(distances.len().div_ceil(64), 0);
        D::near(kind, distances, D::from_usize(self.limit), &mut self.near);
        if self.near.iter().fold(0, |any, near| any | near) == 0 {
            return;
        }
        if let Some(is_there) = is_there {
            for (w, near) in self.near.iter_mut().enumerate() {
                ones(*near).filter(|bit| !is_there(w * 64 + bit)).for_each(|bit| *near &= !(1 << bit));
            }
        }
        let known = self.keys.len();
        append_keys(distances, &self.near, marked, &mut self.keys);
        for key in &self.keys[known..] {
            self.counts[usize::from(key >> 1)] += 1;
        }
        if self.keeps_places {
            let places = self.near.iter().enumerate().flat_map(|(w, &near)| ones(near).map(move |bit| w * 64 + bit));
            self.at.extend(places.map(|place| (base + place) as u32));
        }
        self.within += self.keys.len() - known;
        self.tighten();
    }

    /// Looks at items of a whole database of which only those within the first limit are told: their places, ascending,
    /// and their keys. What is kept is what [`take`](Self::take) would keep of blocks of `block` items.
    pub(super) fn replay(&mut self, block: usize, at: &[u32], keys: &[u16]) {
        let mut start = 0;
        for here in at.chunk_by(|a, b| *a as usize / block == *b as usize / block) {
            let known = self.keys.len();
            for (&at, &key) in here.iter().zip(&keys[start..]) {
                if usize::from(key >> 1) <= self.limit {
                    self.keys.push(key);
                    self.counts[usize::from(key >> 1)] += 1;
                    if self.keeps_places {
                        self.at.push(at);
                    }
                }
            }
            start += here.len();
            self.within += self.keys.len() - known;
            self.tighten();
        }
    }

    /// The distance up to which items are wanted.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Lowers the limit while what is nearer is enough.
    fn tighten(&mut self) {
        while self.limit > 0 && self.within - self.counts[self.limit] as usize >= self.wanted {
            self.within -= self.counts[self.limit] as usize;
            self.limit -= 1;
        }
    }

    /// Adds what another part of the database gave, whose items stand behind.
    pub(super) fn append(&mut self, other: Self) {
        self.limit = self.limit.min(other.limit);
        self.at.extend(other.at);
        self.keys.extend(other.keys);
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.within = self.counts[..=self.limit].iter().map(|&count| count as usize).sum();
        self.tighten();
    }

    /// Takes an item out again, if it is a candidate; places must have been kept.
    pub(super) fn remove(&mut self, at: u32) {
        if let Ok(i) = self.at.binary_search(&at) {
            self.at.remove(i);
            let distance = usize::from(self.keys.remove(i) >> 1);
            self.counts[distance] -= 1;
            self.within -= usize::from(distance <= self.limit);
        }
    }

    /// Whether there are as many as were wanted.
    pub(super) fn is_enough(&self) -> bool {
        self.within >= self.wanted
    }

    /// Candidates at each distance that was not given up.
    pub(super) fn counts(&self) -> &[u32] {
        &self.counts[..=self.limit]
    }

    /// Twice the distance, plus the mark, of each candidate, in database order.
    pub(super) fn keys(&self) -> &[u16] {
        &self.keys
    }

    /// The first `most` candidates, nearest first, ties in database order: what `of` makes of position and distance.
    /// Places must have been kept.
    pub(super) fn in_order<T: Clone + Default>(&self, most: usize, of: impl Fn(u32, u16) -> T) -> Vec<T> {
        let counts = &self.counts()[..=reach(self.counts().iter().copied(), most)];
        let (mut next, total) = starts(counts.iter().copied());
        let mut ordered = vec![T::default(); total];
        for (&at, &key) in self.at.iter().zip(&self.keys) {
            if let Some(place) = next.get_mut(usize::from(key >> 1)) {
                ordered[*place] = of(at, key >> 1);
                *place += 1;
            }
        }
        ordered.truncate(most);
        ordered
    }
}

/// The places of the ones of a word.
fn ones(word: u64) -> impl Iterator<Item = usize> {
    let mut left = word;
    std::iter::from_fn(move || {
        let place = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (place < 64).then_some(place)
    })
}

/// Appends, for each place whose bit is set in `near`, twice its distance, plus 1 if its bit is set in `marked`.
#[inline(always)]
fn append_keys<D: Distance>(distances: &[D], near: &[u64], marked: &[u64], keys: &mut Vec<u16>) {
    /// Keys written at once, whether so many are due or not: a branch per key would be mispredicted too often.
    const AT_ONCE: usize = 8;
    let mut end = keys.len();
    keys.resize(end + near.iter().map(|near| near.count_ones() as usize).sum::<usize>() + AT_ONCE, 0);
    for (w, (part, &near)) in distances.chunks(64).zip(near).enumerate() {
        let (mut left, marked) = (near, marked.get(w).copied().unwrap_or(0));
        if let Ok(part) = <&[D; 64]>::try_from(part) {
            let mut start = end;
            while left != 0 {
                for key in &mut keys[start..start + AT_ONCE] {
                    let place = left.trailing_zeros() & 63;
                    *key = (part[place as usize].to_usize() << 1) as u16 | (marked >> place & 1) as u16;
                    left &= left.wrapping_sub(1);
                }
                start += AT_ONCE;
            }
            end += near.count_ones() as usize;
        } else {
            for place in ones(near) {
                keys[end] = (part[place].to_usize() << 1) as u16 | (marked >> place & 1) as u16;
                end += 1;
            }
        }
    }
    keys.truncate(end);
}

/// Some codes of a database, from which limits are guessed; `None` if it is so small that a guess saves nothing.
pub(super) fn sample(database: &Codes) -> Option<Codes> {
    let (runs, length) = SAMPLE;
    let step = database.len() / runs;
    (step >= 2 * length).then(|| database.selected((0..runs).flat_map(|run| run * step..run * step + length)))
}

/// Guesses for each query of a group a distance within which `wanted` of `total` items will be, from a sample of them.
///
/// It is rarely too small, which `Nearest::is_enough` tells afterwards.
pub(super) fn limits(
    queries: &Codes,
    group: Range<usize>,
    sample: Option<&Codes>,
    wanted: usize,
    total: usize,
    ternary: bool,
) -> Result<Vec<usize>, Refusal> {
    let Some(sample) = sample else { return Ok(vec![usize::MAX; group.len()]) };
    let pair = Pair::with_ternary(queries, sample, ternary)?;
    let share = wanted as f64 / total as f64 * sample.len() as f64;
    let rank = (share + 3.0 * share.sqrt() + 3.0).ceil() as usize;
    if rank >= sample.len() {
        return Ok(vec![usize::MAX; group.len()]);
    }
    let mut counts = vec![vec![0u32; pair.levels()]; group.len()];
    let mut count = |query: usize, distance: usize| counts[query - group.start][distance] += 1;
    if pair.fits_bytes() {
        pair.scan::<u8>(group.clone(), 0..sample.len(), |query, _, distances| {
            distances.iter().for_each(|distance| count(query, distance.to_usize()));
        });
    } else {
        pair.scan::<u16>(group.clone(), 0..sample.len(), |query, _, distances| {
            distances.iter().for_each(|distance| count(query, distance.to_usize()));
        });
    }
    Ok(counts.into_iter().map(|counts| reach(counts.into_iter(), rank)).collect())
}
