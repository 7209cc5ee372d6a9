//! How fast codes are searched, and rankings measured.

use super::{Subject, pool};
use crate::error::{Error, Result};
use crate::retrieval::{self, Backend, Codes, Comparison, Engine, Labels, Wanted};
use crate::seeded::{Stream, stream};
use std::sync::Arc;
use std::time::Instant;

/// Generated codes: uniform bits, the same on every machine.
pub struct Retrieval {
    pub bits: usize,
    /// Codes of the database, and queries to it.
    pub database: usize,
    pub queries: usize,
    pub threads: usize,
    /// What compares the codes.
    pub backend: Backend,
}

/// What a machine does at most of what retrieval needs most.
pub struct Limits {
    /// Population counts of words per second, all threads together, words in the first-level cache.
    pub popcounts_per_second: f64,
    /// Bytes per second of a walk through the database, all threads together.
    pub bytes_per_second: f64,
}

impl Retrieval {
    fn check(&self) -> Result<()> {
        for (name, value) in [("--database", self.database), ("--queries", self.queries)] {
            if value == 0 {
                return Err(Error::input(format!("`{name}` is 0")).hint("give at least 1"));
            }
        }
        Ok(())
    }

    fn codes(&self, purpose: &str, count: usize) -> Result<Codes> {
        let mut draw = stream(1, purpose, &[]);
        let width = Codes::new(self.bits)?.words_per_code();
        let last = u64::MAX >> (width * 64 - self.bits);
        let word =
            |at: usize, draw: &mut Stream| draw.bits() & if (at + 1).is_multiple_of(width) { last } else { u64::MAX };
        Ok(Codes::from_words(self.bits, (0..count * width).map(|at| word(at, &mut draw)).collect())?)
    }

    /// Search for the `top` nearest of each query; its floor only adds the distances up.
    ///
    /// # Errors
    /// Sizes that cannot be.
    pub fn search(&self, top: usize) -> Result<Subject<'static>> {
        self.check()?;
        let (queries, database) = (self.codes("queries", self.queries)?, self.codes("database", self.database)?);
        let (pool, floor_pool) = (pool(self.threads)?, pool(self.threads)?);
        let distances = (self.queries * self.database) as f64;
        let (few, engine) = (queries.clone(), Engine::new(database).on(&self.backend));
        let (engine, place) = (Arc::new(engine), self.place());
        let same = engine.clone();
        Ok(Subject {
            name: format!("search {} x {} bits, {} queries, top {top}{place}", self.database, self.bits, self.queries),
            speed_of: String::new(),
            unit: "distances",
            threads: self.threads,
            turn: Box::new(move || {
                let found = pool.install(|| engine.top_k(&queries, top))?;
                std::hint::black_box(found);
                Ok(distances)
            }),
            floor: Some(Box::new(move || {
                std::hint::black_box(floor_pool.install(|| same.popcount_pass(&few))?);
                Ok(distances)
            })),
        })
    }

    /// All metrics of a ranking, or mAP@k alone, with labels of `classes` classes, two per item on average; its floor
    /// only adds the distances up.
    ///
    /// # Errors
    /// Sizes that cannot be.
    pub fn evaluate(&self, classes: usize, wanted: Wanted) -> Result<Subject<'static>> {
        self.check()?;
        if classes == 0 {
            return Err(Error::input("`--classes` is 0").hint("give at least 1"));
        }
        let (queries, database) = (self.codes("queries", self.queries)?, self.codes("database", self.database)?);
        let labels = |purpose: &str, count: usize| {
            let mut draw = stream(2, purpose, &[]);
            let items: Vec<Vec<u32>> =
                (0..count).map(|_| (0..1 + draw.below(3)).map(|_| draw.below(classes) as u32).collect()).collect();
            Labels::from_indices(classes, items.iter().map(Vec::as_slice))
        };
        let (query_labels, labels) = (labels("queries", self.queries)?, labels("database", self.database)?);
        let (pool, floor_pool) = (pool(self.threads)?, pool(self.threads)?);
        let comparison = Comparison::new(&self.backend, (queries, query_labels), (database, labels))?;
        let comparison = Arc::new(comparison);
        let same = comparison.clone();
        let (count, distances) = (self.queries as f64, (self.queries * self.database) as f64);
        let what = if wanted.by_radius { "all metrics" } else { "mAP" };
        Ok(Subject {
            name: format!(
                "evaluate {} x {} bits, {} queries, {what}{}",
                self.database,
                self.bits,
                self.queries,
                self.place()
            ),
            speed_of: String::new(),
            unit: "distances",
            threads: self.threads,
            turn: Box::new(move || {
                let found = pool.install(|| comparison.evaluate::<Error>(&wanted, |_| Ok(())))?;
                debug_assert_eq!(found.per_query.len() as f64, count);
                std::hint::black_box(found);
                Ok(distances)
            }),
            floor: Some(Box::new(move || {
                std::hint::black_box(floor_pool.install(|| same.popcount_pass())?);
                Ok(distances)
            })),
        })
    }

    /// Behind a subject's name, where it is worked.
    fn place(&self) -> &'static str {
        if self.backend.is_gpu() { ", on a GPU" } else { "" }
    }

    /// Measures what the machine does at most; some tens of milliseconds.
    ///
    /// # Errors
    /// Sizes that cannot be.
    pub fn limits(&self) -> Result<Limits> {
        self.check()?;
        let (pool, query, database) =
            (pool(self.threads)?, self.codes("queries", 1)?, self.codes("database", self.database)?);
        let popcounts = pool.broadcast(|_| retrieval::popcount_floor()).iter().sum::<f64>() * 1e9;
        let bytes = (database.len() * database.words_per_code() * 8) as f64;
        let mut best = 0.0;
        for _ in 0..3 {
            let began = Instant::now();
            std::hint::black_box(pool.install(|| retrieval::popcount_pass(&query, &database))?);
            best = f64::max(best, bytes / began.elapsed().as_secs_f64().max(1e-9));
        }
        Ok(Limits { popcounts_per_second: popcounts, bytes_per_second: best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_codes_can_be_searched_and_measured() {
        for bits in [1, 64, 70] {
            let of = Retrieval { bits, database: 300, queries: 5, threads: 2, backend: Backend::default() };
            let mut search = of.search(3).unwrap();
            assert_eq!(((search.turn)().unwrap(), search.floor.as_mut().unwrap()().unwrap()), (1500.0, 1500.0));
            let mut evaluate = of.evaluate(7, Wanted::all(&[10])).unwrap();
            assert_eq!((evaluate.turn)().unwrap(), 1500.0);
            let limits = of.limits().unwrap();
            assert!(limits.popcounts_per_second > 0.0 && limits.bytes_per_second > 0.0);
        }
        let of = |bits, database| Retrieval { bits, database, queries: 1, threads: 1, backend: Backend::default() };
        assert!(of(0, 1).search(1).is_err());
        assert!(of(8, 0).search(1).is_err());
    }
}
