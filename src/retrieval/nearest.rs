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
    /// Where the candidates stand in the database, ascending.
    at: Vec<u32>,
    /// For each of `at`: twice its distance, plus 1 if it is marked.
    keys: Vec<u16>,
}

impl Nearest {
    /// For the `wanted` nearest within `limit`; distances are below `levels`.
    pub(super) fn new(wanted: usize, limit: usize, levels: usize) -> Self {
        Self { wanted, limit: limit.min(levels - 1), within: 0, counts: vec![0; levels], at: vec![], keys: vec![] }
    }

    /// Looks at items that stand in the database from `base` on; `is_there` and `is_marked` are asked for places in
    /// `distances`.
    pub(super) fn take<D: Distance>(
        &mut self,
        kind: Kind,
        base: usize,
        distances: &[D],
        is_there: Option<impl Fn(usize) -> bool>,
        is_marked: impl Fn(usize) -> bool,
    ) {
        let known = self.at.len();
        if self.limit + 1 == self.counts.len() {
            self.at.extend(base as u32..(base + distances.len()) as u32);
        } else {
            D::near(kind, distances, D::from_usize(self.limit), base as u32, &mut self.at);
        }
        if let Some(is_there) = is_there {
            let mut kept = known;
            for i in known..self.at.len() {
                self.at[kept] = self.at[i];
                kept += usize::from(is_there(self.at[i] as usize - base));
            }
            self.at.truncate(kept);
        }
        for &at in &self.at[known..] {
            let place = at as usize - base;
            let distance = distances[place].to_usize();
            self.counts[distance] += 1;
            self.keys.push((distance << 1) as u16 | u16::from(is_marked(place)));
        }
        self.within += self.at.len() - known;
        self.tighten();
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

    /// Takes an item out again, if it is a candidate.
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

    /// Twice the distance, plus the mark, of each candidate.
    pub(super) fn keys(&self) -> &[u16] {
        &self.keys
    }

    /// The first `most` candidates, nearest first, ties in database order: what `of` makes of position, distance and
    /// mark.
    pub(super) fn in_order<T: Clone + Default>(&self, most: usize, of: impl Fn(u32, u16, bool) -> T) -> Vec<T> {
        let counts = &self.counts()[..=reach(self.counts().iter().copied(), most)];
        let (mut next, total) = starts(counts.iter().copied());
        let mut ordered = vec![T::default(); total];
        for (&at, &key) in self.at.iter().zip(&self.keys) {
            if let Some(place) = next.get_mut(usize::from(key >> 1)) {
                ordered[*place] = of(at, key >> 1, key & 1 == 1);
                *place += 1;
            }
        }
        ordered.truncate(most);
        ordered
    }
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
    pair.scan::<u16>(group.clone(), 0..sample.len(), |query, _, distances| {
        distances.iter().for_each(|distance| counts[query - group.start][distance.to_usize()] += 1);
    });
    Ok(counts.into_iter().map(|counts| reach(counts.into_iter(), rank)).collect())
}
