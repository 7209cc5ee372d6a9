//! What is to be measured.

use crate::retrieval::Refusal;

/// What is to be measured. Ranks beyond the database mean all of it.
///
/// Average precisions alone ([`map_only`](Self::map_only)) need only the nearest items; anything else counts the whole
/// database by distance, which takes about twice as long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The k of mAP@k; `usize::MAX` ranks all. At least one.
    pub map_at: Vec<usize>,
    /// The k of NDCG@k.
    pub ndcg_at: Vec<usize>,
    /// The N of P@N and R@N, which make up precision and recall curves.
    pub precision_at: Vec<usize>,
    /// The radius of lookups, in bits: P@H<=r and how many find something.
    pub lookup_radius: Option<usize>,
    /// Precision and recall within each radius.
    pub by_radius: bool,
    /// For each query, positions of database items that are not there for it, such as itself; empty if none are.
    pub exclude: Vec<Vec<u32>>,
}

impl Wanted {
    /// Everything, with the N that curves are usually drawn at.
    pub fn all(map_at: &[usize]) -> Self {
        let series = (0..9).flat_map(|power| [1, 2, 5].map(|first| first * 10usize.pow(power)));
        Self {
            map_at: map_at.to_vec(),
            ndcg_at: map_at.to_vec(),
            precision_at: series.collect(),
            lookup_radius: Some(2),
            by_radius: true,
            exclude: vec![],
        }
    }

    /// Average precisions, hits and relevant items only.
    pub fn map_only(map_at: &[usize]) -> Self {
        Self { map_at: map_at.to_vec(), ..Self::default() }
    }

    /// Whether distances to the whole database must be counted.
    pub(super) fn needs_all(&self) -> bool {
        !self.ndcg_at.is_empty() || !self.precision_at.is_empty() || self.lookup_radius.is_some() || self.by_radius
    }

    /// Checks it, and brings ranks to ascending order without repetitions and none beyond the `database`.
    pub(super) fn checked(&self, queries: usize, database: usize) -> Result<Self, Refusal> {
        if self.map_at.is_empty() || [&self.map_at, &self.ndcg_at, &self.precision_at].iter().any(|at| at.contains(&0))
        {
            return Err(Refusal::ZeroTopK);
        }
        if !self.exclude.is_empty() && self.exclude.len() != queries {
            return Err(Refusal::ExcludeCount { queries, lists: self.exclude.len() });
        }
        if let Some(&item) = self.exclude.iter().flatten().find(|&&item| item as usize >= database) {
            return Err(Refusal::ExcludedItem { item: item as usize, database });
        }
        let ascending = |at: &[usize]| {
            let mut at: Vec<usize> = at.iter().map(|&k| k.min(database)).collect();
            at.sort_unstable();
            at.dedup();
            at
        };
        Ok(Self {
            map_at: ascending(&self.map_at),
            ndcg_at: ascending(&self.ndcg_at),
            precision_at: ascending(&self.precision_at),
            exclude: self.exclude.iter().map(|items| distinct(items)).collect(),
            ..*self
        })
    }
}

fn distinct(items: &[u32]) -> Vec<u32> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

/// Where one query's ranking is cut: what was wanted, in a database of so many items.
#[derive(Clone)]
pub(super) struct Cuts {
    pub map: Vec<usize>,
    pub ndcg: Vec<usize>,
    pub precision: Vec<usize>,
    /// Distances within the lookup radius.
    pub lookup: Option<usize>,
}

impl Cuts {
    /// For a database of `items`; distances have `per_bit` steps in a bit.
    pub(super) fn new(wanted: &Wanted, items: usize, per_bit: usize) -> Self {
        let cut = |at: &[usize]| at.iter().map(|&k| k.min(items)).collect();
        Self {
            map: cut(&wanted.map_at),
            ndcg: cut(&wanted.ndcg_at),
            precision: cut(&wanted.precision_at),
            lookup: wanted.lookup_radius.map(|radius| radius.saturating_mul(per_bit).saturating_add(1)),
        }
    }

    /// The last rank whose relevance must be known.
    pub(super) fn last(&self) -> usize {
        self.map.last().copied().unwrap_or(0)
    }
}
