//! Queries and a database with their labels, asked about as often as one likes: on a GPU both lie there once for all
//! questions.

use super::backend::Placed;
use super::gpu::{self, Portions, Scan, Source};
use super::measure::{self, Evaluation, Scanned};
use super::{Backend, Codes, Engine, Labels, Neighbour, Refusal, Relevance, Wanted, popcount_pass};
use std::borrow::Cow;
use std::sync::Arc;

/// Queries, and a database that they are compared with. Every answer is the same whatever compares them, to the bit.
#[derive(Debug)]
pub struct Comparison<'a> {
    queries: Cow<'a, Codes>,
    query_labels: Cow<'a, Labels>,
    database: Cow<'a, Codes>,
    labels: Cow<'a, Labels>,
    placed: Placed,
    portions: Portions,
}

impl Comparison<'static> {
    /// Codes and labels of its own: of queries, and of a database. A GPU takes them when it is first asked.
    ///
    /// # Errors
    /// Labels of other classes.
    pub fn new(backend: &Backend, queries: (Codes, Labels), database: (Codes, Labels)) -> Result<Self, Refusal> {
        Relevance::shared_class(&queries.1, &database.1)?;
        Ok(Self {
            queries: Cow::Owned(queries.0),
            query_labels: Cow::Owned(queries.1),
            database: Cow::Owned(database.0),
            labels: Cow::Owned(database.1),
            placed: Placed::on(backend),
            portions: Portions::default(),
        })
    }
}

impl<'a> Comparison<'a> {
    /// Codes and labels that stay where they are.
    pub fn over(backend: &Backend, queries: &'a Codes, database: &'a Codes, relevance: Relevance<'a>) -> Self {
        Self {
            queries: Cow::Borrowed(queries),
            query_labels: Cow::Borrowed(relevance.queries),
            database: Cow::Borrowed(database),
            labels: Cow::Borrowed(relevance.database),
            placed: Placed::on(backend),
            portions: Portions::default(),
        }
    }

    /// Ranks the database by each of the queries and measures what is `wanted`.
    ///
    /// The result does not depend on the number of threads: queries are independent, and their means are taken in order.
    /// `progress` is told now and then how many queries are done; its error ends the evaluation.
    ///
    /// # Errors
    /// Codes and labels that do not fit each other, an empty side, nothing wanted; those of a GPU, and of `progress`.
    pub fn evaluate<E: From<Refusal>>(
        &self,
        wanted: &Wanted,
        progress: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Evaluation, E> {
        let relevance = Relevance { queries: &self.query_labels, database: &self.labels };
        let pass = measure::Pass::new(&self.queries, &self.database, relevance, wanted)?;
        let scan = self.scan()?;
        let scanned = scan.as_deref().map(|scan| Scanned { scan, source: self.source(), portions: &self.portions });
        measure::evaluate(pass, scanned, progress)
    }

    /// Returns for each query the `k` nearest items, nearest first, ties in database order; all if there are fewer.
    ///
    /// # Errors
    /// Codes of different lengths, and those of a GPU.
    pub fn top_k(&self, k: usize) -> Result<Vec<Vec<Neighbour>>, Refusal> {
        let k = k.min(self.database.len());
        match self.scan()? {
            Some(scan) if k > 0 => gpu::top_k(&*scan, &self.source(), &self.queries, self.half_bits(), k),
            _ => Engine::over(&self.database).top_k(&self.queries, k),
        }
    }

    /// Compares every word of the database with the first word of each query and adds up the ones; see
    /// [`popcount_pass`].
    ///
    /// # Errors
    /// Codes of different lengths, and those of a GPU.
    pub fn popcount_pass(&self) -> Result<u64, Refusal> {
        match self.scan()? {
            Some(scan) => gpu::total(&*scan, &self.source(), &self.queries, self.half_bits()),
            None => popcount_pass(&self.queries, &self.database),
        }
    }

    fn half_bits(&self) -> bool {
        self.queries.is_ternary() || self.database.is_ternary()
    }

    /// The database on the GPU that is to be asked; nothing, if the processor is, or the answer is that nothing fits.
    fn scan(&self) -> Result<Option<Arc<dyn Scan>>, Refusal> {
        let fits = self.queries.bits() == self.database.bits() && self.database.len() == self.labels.len();
        if !fits || self.queries.is_empty() || self.database.is_empty() {
            return Ok(None);
        }
        self.placed.scan(|| self.source())
    }

    fn source(&self) -> Source<'_> {
        Source { segments: vec![&*self.database], removed: &[], labels: Some(&self.labels) }
    }
}
