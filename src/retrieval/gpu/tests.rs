//! What cards give is what the processor gives: searches equal, evaluations to the last bit. The same checks are made with
//! plain loops in a card's place, and with a GPU where there is one.

use super::plain::Plain;
use super::{Asking, Batch, Card, Found, Places, Ranks, Scan, Source, Sums};
use crate::assess::{Asked, Sides, assess};
use crate::retrieval::{Backend, Codes, Comparison, Engine, Evaluation, Labels, Refusal, Relevance, Wanted};
use crate::seeded::stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Random codes; the first `varied` bits are random and the others equal, so that few make many ties.
pub(super) fn codes(seed: u64, count: usize, bits: usize, varied: usize, zeros: bool) -> Codes {
    let mut draw = stream(seed, "gpu codes", &[]);
    let mut codes = Codes::new(bits).unwrap();
    for _ in 0..count {
        let mut sign = |bit: usize| match draw.below(if zeros { 3 } else { 2 }) {
            _ if bit >= varied => -1.0,
            0 => -1.0,
            1 => 1.0,
            _ => 0.0,
        };
        let signs: Vec<f32> = (0..bits).map(&mut sign).collect();
        codes.push_ternary(&signs).unwrap();
    }
    codes
}

/// Each item with up to 3 of some classes.
pub(super) fn labels(seed: u64, count: usize, classes: usize) -> Labels {
    let mut draw = stream(seed, "gpu labels", &[]);
    let items: Vec<Vec<u32>> =
        (0..count).map(|_| (0..draw.below(4)).map(|_| draw.below(classes) as u32).collect()).collect();
    Labels::from_indices(classes, items.iter().map(Vec::as_slice)).unwrap()
}

/// Searches of databases that grew and shrank.
pub(super) fn searches_are_equal(backend: &Backend) {
    for (seed, bits, varied, count, queries, zeros) in [
        (1, 1, 1, 100, 9, false),
        (2, 48, 3, 77, 17, false),
        (3, 64, 64, 5000, 3, false),
        (4, 65, 65, 64, 8, false),
        (5, 70, 4, 300, 5, true),
        (6, 256, 256, 130, 2, false),
        (7, 300, 20, 90, 4, true),
        (8, 1024, 1024, 70, 9, false),
        (9, 16, 0, 40, 1, false),
        (10, 8, 8, 0, 3, false),
        (11, 8, 8, 30, 0, false),
    ] {
        let database = codes(seed, count, bits, varied, zeros && seed % 2 == 1);
        let more = codes(seed + 100, count / 3, bits, varied, zeros);
        let queries = codes(seed + 200, queries, bits, varied, zeros);
        let (mut ours, mut theirs) = (Engine::over(&database), Engine::over(&database).on(backend));
        let mut draw = stream(seed, "gone", &[]);
        for step in 0..3 {
            for k in [0, 1, 10, count, count + 1000] {
                assert_eq!(
                    theirs.top_k(&queries, k),
                    ours.top_k(&queries, k),
                    "{bits} bits, the first {k}, step {step}"
                );
            }
            for radius in [0, bits / 3, bits, usize::MAX] {
                assert_eq!(theirs.within(&queries, radius), ours.within(&queries, radius), "{bits} bits, {radius}");
            }
            assert_eq!(theirs.histogram(&queries), ours.histogram(&queries), "{bits} bits, step {step}");
            let gone: Vec<usize> = (0..count / 4).map(|_| draw.below(count)).collect();
            for engine in [&mut ours, &mut theirs] {
                for &at in &gone {
                    engine.remove(at);
                }
                match step {
                    0 => drop(engine.add(&more).unwrap()),
                    _ => drop(engine.compact()),
                }
            }
        }
        let longer = Codes::new(bits % 1024 + 1).unwrap();
        assert!(matches!(theirs.top_k(&longer, 1), Err(Refusal::DifferentBits { .. })));
        assert!(matches!(theirs.within(&longer, 1), Err(Refusal::DifferentBits { .. })));
    }
}

/// Evaluations: few ranks and all, with ties and without, items taken out, and a database that is sampled.
pub(super) fn evaluations_are_equal(backend: &Backend) {
    for (seed, bits, varied, count, queries, zeros) in [
        (1, 16, 16, 90, 20, false),
        (2, 48, 2, 1500, 9, false),
        (3, 64, 64, 9000, 4, false),
        (4, 64, 5, 8300, 3, false),
        (5, 70, 6, 400, 5, true),
        (6, 257, 257, 65, 8, false),
        (7, 1024, 1024, 40, 3, true),
    ] {
        let (database, labels_of) = (codes(seed, count, bits, varied, zeros), labels(seed, count, 10));
        let (queries, query_labels) = (codes(seed + 50, queries, bits, varied, zeros), labels(seed + 50, queries, 10));
        let relevance = Relevance::shared_class(&query_labels, &labels_of).unwrap();
        let mut draw = stream(seed, "exclude", &[]);
        let mut some = |_| (0..draw.below(4)).map(|_| draw.below(count) as u32).collect();
        let exclude: Vec<Vec<u32>> = (0..queries.len()).map(&mut some).collect();
        let many: Vec<usize> = (1..20).collect();
        let every = |wanted: Wanted| [Wanted { exclude: exclude.clone(), ..wanted.clone() }, wanted];
        let wanted = [
            Wanted::all(&[5, count / 7, usize::MAX]),
            Wanted::all(&[count / 50 + 1]),
            Wanted::map_only(&[1, count / 10]),
            Wanted::map_only(&many),
            Wanted::map_only(&[usize::MAX]),
        ];
        // All questions to one database.
        let [theirs, ours] =
            [backend, &Backend::default()].map(|backend| Comparison::over(backend, &queries, &database, relevance));
        for wanted in wanted.into_iter().flat_map(every) {
            let measured = |of: &Comparison| -> Evaluation { of.evaluate::<Refusal>(&wanted, |_| Ok(())).unwrap() };
            let (theirs, ours) = (measured(&theirs), measured(&ours));
            assert!(theirs == ours, "{bits} bits, {count} codes, {wanted:?}:\n{theirs:?}\n{ours:?}");
        }
        assert_eq!(theirs.top_k(7), ours.top_k(7), "{bits} bits");
        assert_eq!(theirs.popcount_pass(), ours.popcount_pass(), "{bits} bits");
    }
}

/// Counts how often databases are loaded, and which queries are asked about.
#[derive(Debug, Default)]
struct Counted {
    loads: AtomicUsize,
    asked: Mutex<Vec<Arc<Asking>>>,
}

impl Card for Arc<Counted> {
    fn load(&self, _: &Source) -> Result<Box<dyn Scan>, Refusal> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(self.clone()))
    }
}

impl Counted {
    fn note(&self, batch: &Batch) {
        let mut asked = self.asked.lock().unwrap();
        if !asked.iter().any(|asking| Arc::ptr_eq(asking, &batch.asking)) {
            asked.push(batch.asking.clone());
        }
    }
}

impl Scan for Arc<Counted> {
    fn counts(&self, source: &Source, batch: &Batch, stretch: usize) -> Result<Vec<u32>, Refusal> {
        self.note(batch);
        Plain.counts(source, batch, stretch)
    }

    fn places(&self, source: &Source, batch: &Batch, asked: &Places) -> Result<Found, Refusal> {
        self.note(batch);
        Plain.places(source, batch, asked)
    }

    fn ranks(&self, source: &Source, batch: &Batch, asked: &Ranks) -> Result<Sums, Refusal> {
        self.note(batch);
        Plain.ranks(source, batch, asked)
    }

    fn total(&self, source: &Source, batch: &Batch) -> Result<u64, Refusal> {
        Plain.total(source, batch)
    }
}

#[test]
fn all_figures_of_an_assessment_take_one_database_and_its_queries_once() {
    let (database, labels_of) = (codes(1, 300, 16, 16, false), labels(1, 300, 10));
    let (queries, query_labels) = (codes(2, 20, 16, 16, false), labels(2, 20, 10));
    let relevance = Relevance::shared_class(&query_labels, &labels_of).unwrap();
    let same = [(3, vec![7]), (4, vec![9])].into();
    let asked =
        Asked { top_k: &[5, 0], also: &[100], same: &same, exclude_self: true, retrieved: 4, resamples: 10, seed: 0 };
    let assessed = |backend: &Backend| {
        let sides = Sides { queries: &queries, database: &database, relevance, backend };
        let found = assess::<Refusal>(sides, asked, |_| Ok(())).unwrap();
        (found.evaluation, found.other, found.per_query)
    };
    let card = Arc::new(Counted::default());
    assert!(assessed(&Backend::with(card.clone())) == assessed(&Backend::default()));
    assert_eq!(card.loads.load(Ordering::Relaxed), 1);
    // With their classes, and without them for the nearest.
    assert_eq!(card.asked.lock().unwrap().len(), 2);
}

#[test]
fn plain_loops_search_as_the_processor_does() {
    searches_are_equal(&Backend::with(Plain));
}

#[test]
fn plain_loops_measure_as_the_processor_does() {
    evaluations_are_equal(&Backend::with(Plain));
}

#[cfg(feature = "cuda")]
mod cuda_tests {
    use super::*;
    use crate::retrieval::gpu::cuda::Gpu;

    /// Databases that lie on the GPU whole, in parts, and part by part for each question.
    fn backends() -> Vec<Backend> {
        let limits = [
            None,
            Some((usize::MAX, 64)),
            Some((usize::MAX, 1 << 12)),
            // Two parts of 64 codes come and go.
            Some((0, 0)),
            // Some stay, others come and go.
            Some((4000, 64)),
            Some((30_000, 256)),
        ];
        let open = |limits: Option<(usize, usize)>| {
            let gpu = Gpu::open(0).unwrap();
            Backend::with(match limits {
                Some((bytes, part)) => gpu.limited(bytes, part),
                None => gpu,
            })
        };
        limits.into_iter().map(open).collect()
    }

    #[test]
    fn gpus_search_as_the_processor_does() {
        if crate::device::for_test(0).is_none() {
            return;
        }
        backends().iter().for_each(searches_are_equal);
    }

    #[test]
    fn gpus_measure_as_the_processor_does() {
        if crate::device::for_test(0).is_none() {
            return;
        }
        backends().iter().for_each(evaluations_are_equal);
    }

    #[test]
    fn gpus_count_as_many_ones() {
        for backend in backends() {
            for (bits, count, queries) in [(64, 5000, 9), (130, 70, 3), (8, 1, 1)] {
                let (database, queries) = (codes(1, count, bits, bits, false), codes(2, queries, bits, bits, false));
                let total = |backend: &Backend| Engine::over(&database).on(backend).popcount_pass(&queries).unwrap();
                assert_eq!(total(&backend), total(&Backend::default()), "{bits} bits");
            }
        }
    }
}
