use super::*;
use crate::retrieval::codes::tests::random_codes;
use crate::retrieval::{Backend, Comparison, Labels};
use crate::seeded::{Stream, stream};
use proptest::prelude::*;

type Side = (Codes, Labels);

fn run(queries: &Side, database: &Side, wanted: &Wanted) -> Result<Evaluation, Refusal> {
    let relevance = Relevance::shared_class(&queries.1, &database.1)?;
    Comparison::over(&Backend::default(), &queries.0, &database.0, relevance).evaluate(wanted, |_| Ok(()))
}

fn labels(classes: usize, items: &[Vec<u32>]) -> Labels {
    Labels::from_indices(classes, items.iter().map(Vec::as_slice)).unwrap()
}

/// Codes with `2^varied` different values, each item with 0 to 3 of 10 classes.
fn random_side(seed: u64, count: usize, bits: usize, varied: usize) -> Side {
    let mut draw = stream(seed, "labels", &[]);
    let items: Vec<Vec<u32>> = (0..count)
        .map(|_| {
            let mut classes: Vec<u32> = (0..draw.below(4)).map(|_| draw.below(10) as u32).collect();
            classes.sort_unstable();
            classes.dedup();
            classes
        })
        .collect();
    (random_codes(seed, count, bits, varied), labels(10, &items))
}

fn reordered((codes, of): &Side, order: &[usize]) -> Side {
    let items: Vec<Vec<u32>> = order.iter().map(|&i| of.classes_of(i).collect()).collect();
    (codes.selected(order.iter().copied()), labels(of.classes(), &items))
}

/// One query by the plainest means: sort, cut, average.
struct Plain {
    /// In half bits, stable order.
    distances: Vec<usize>,
    /// Shared classes, in the same order.
    shared: Vec<usize>,
}

impl Plain {
    fn new(query: usize, queries: &Side, database: &Side, exclude: &[u32]) -> Self {
        let bits = queries.0.bits() as f32;
        let classes: Vec<u32> = queries.1.classes_of(query).collect();
        let item = |i: usize| {
            let dot: f32 = queries.0.unpack(query).zip(database.0.unpack(i)).map(|(a, b)| a * b).sum();
            ((bits - dot) as usize, database.1.classes_of(i).filter(|class| classes.contains(class)).count())
        };
        let there = |i: &usize| !exclude.contains(&(*i as u32));
        let mut items: Vec<(usize, usize)> = (0..database.0.len()).filter(there).map(item).collect();
        items.sort_by_key(|&(distance, _)| distance);
        let (distances, shared) = items.into_iter().unzip();
        Self { distances, shared }
    }

    /// `make_goldens.py`, `average_precision`; and with the divisor min(R, k).
    fn average_precision(&self, k: usize) -> (f64, f64) {
        let ranks: Vec<usize> =
            (1..).zip(self.shared.iter().take(k)).filter(|(_, s)| **s > 0).map(|(r, _)| r).collect();
        let sum: f64 = ranks.iter().enumerate().map(|(i, &rank)| (i + 1) as f64 / rank as f64).sum();
        (sum / ranks.len().max(1) as f64, sum / self.relevant().min(k).max(1) as f64)
    }

    fn relevant(&self) -> usize {
        self.shared.iter().filter(|&&shared| shared > 0).count()
    }

    fn hits(&self, k: usize) -> f64 {
        self.shared.iter().take(k).filter(|&&shared| shared > 0).count() as f64
    }

    fn ndcg(&self, k: usize) -> f64 {
        let dcg = |shared: &[usize]| {
            let gain = |(i, &s): (usize, &usize)| (2f64.powi(s as i32) - 1.0) / ((i + 2) as f64).log2();
            shared.iter().take(k).enumerate().map(gain).sum::<f64>()
        };
        let mut ideal = self.shared.clone();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        let best = dcg(&ideal);
        if best == 0.0 { 0.0 } else { dcg(&self.shared) / best }
    }

    fn within(&self, half_bits: usize) -> Ball {
        let inside = self.distances.iter().zip(&self.shared).filter(|(distance, _)| **distance <= half_bits);
        inside.fold(Ball::default(), |ball, (_, &shared)| Ball {
            items: ball.items + 1,
            relevant: ball.relevant + u32::from(shared > 0),
        })
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12
}

#[test]
fn agrees_with_numpy() {
    // tests/golden/ranking.json: 5 queries, 40 items, 6 bits, so many ties.
    #[derive(serde::Deserialize)]
    struct Golden {
        query_bits: Vec<Vec<u8>>,
        database_bits: Vec<Vec<u8>>,
        query_labels: Vec<Vec<u8>>,
        database_labels: Vec<Vec<u8>>,
        cases: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        top_k: usize,
        ap: Vec<f64>,
        expected_ap: Vec<f64>,
        expected_ap_monte_carlo: Vec<f64>,
    }
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ranking.json")).unwrap();
    let golden: Golden = serde_json::from_str(&file).unwrap();
    let side = |bits: &[Vec<u8>], rows: &[Vec<u8>]| {
        let mut codes = Codes::new(bits[0].len()).unwrap();
        for row in bits {
            codes.push(&row.iter().map(|&bit| f32::from(bit) * 2.0 - 1.0).collect::<Vec<_>>()).unwrap();
        }
        let classes = |row: &Vec<u8>| (0..).zip(row).filter(|(_, one)| **one == 1).map(|(c, _)| c).collect();
        (codes, labels(rows[0].len(), &rows.iter().map(classes).collect::<Vec<_>>()))
    };
    let queries = side(&golden.query_bits, &golden.query_labels);
    let database = side(&golden.database_bits, &golden.database_labels);
    for case in &golden.cases {
        let evaluation = run(&queries, &database, &Wanted::map_only(&[case.top_k])).unwrap();
        for (i, query) in evaluation.per_query.iter().enumerate() {
            let found = query.ap[0].by_hits;
            assert!(close(found.stable, case.ap[i]), "AP@{} of query {i}", case.top_k);
            assert!((found.expected - case.expected_ap[i]).abs() < 1e-12, "expected AP@{} of {i}", case.top_k);
            assert!((found.expected - case.expected_ap_monte_carlo[i]).abs() < 5e-3, "Monte Carlo, {i}");
        }
    }
    let [all, beyond] = [40, usize::MAX].map(|k| run(&queries, &database, &Wanted::all(&[k])).unwrap());
    assert_eq!(all, beyond);
}

#[test]
fn every_metric_agrees_with_numpy_and_scikit_learn() {
    // tests/golden/metrics.json, by make_metrics.py.
    #[derive(serde::Deserialize)]
    struct Case {
        bits: usize,
        classes: usize,
        cuts: Vec<usize>,
        ranks: Vec<usize>,
        query_codes: Vec<Vec<f32>>,
        database_codes: Vec<Vec<f32>>,
        query_labels: Vec<Vec<u32>>,
        database_labels: Vec<Vec<u32>>,
        queries: Vec<Query>,
    }
    #[derive(serde::Deserialize)]
    struct Query {
        relevant: u32,
        /// By hits and by ideal, for each cut.
        stable: Vec<(f64, f64)>,
        expected: Vec<(f64, f64)>,
        /// Over the whole database, where nothing ties.
        whole: Option<f64>,
        ndcg: Vec<f64>,
        precision: Vec<f64>,
        recall: Vec<f64>,
        lookup: (u32, u32),
        radius_precision: Vec<f64>,
        radius_recall: Vec<f64>,
    }
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&file).unwrap();
    let mut without_ties = 0;
    for (number, case) in cases.iter().enumerate() {
        let side = |rows: &[Vec<f32>], of: &[Vec<u32>]| {
            let mut codes = Codes::new(case.bits).unwrap();
            for row in rows {
                codes.push_ternary(row).unwrap();
            }
            (codes, labels(case.classes, of))
        };
        let queries = side(&case.query_codes, &case.query_labels);
        let database = side(&case.database_codes, &case.database_labels);
        let wanted = Wanted { precision_at: case.ranks.clone(), ..Wanted::all(&case.cuts) };
        let found = run(&queries, &database, &wanted).unwrap();
        for (i, (ours, theirs)) in found.per_query.iter().zip(&case.queries).enumerate() {
            let same = |what: &str, ours: &mut dyn Iterator<Item = f64>, theirs: &[f64]| {
                let ours: Vec<f64> = ours.collect();
                assert_eq!(ours.len(), theirs.len());
                assert!(ours.iter().zip(theirs).all(|(&a, &b)| close(a, b)), "{number} {i} {what} {ours:?} {theirs:?}");
            };
            let first = |pairs: &[(f64, f64)]| pairs.iter().map(|pair| pair.0).collect::<Vec<_>>();
            let second = |pairs: &[(f64, f64)]| pairs.iter().map(|pair| pair.1).collect::<Vec<_>>();
            let ap = || ours.ap.iter();
            same("AP by hits", &mut ap().map(|ap| ap.by_hits.stable), &first(&theirs.stable));
            same("AP by ideal", &mut ap().map(|ap| ap.by_ideal.stable), &second(&theirs.stable));
            same("expected AP by hits", &mut ap().map(|ap| ap.by_hits.expected), &first(&theirs.expected));
            same("expected AP by ideal", &mut ap().map(|ap| ap.by_ideal.expected), &second(&theirs.expected));
            same("NDCG", &mut ours.ndcg.iter().copied(), &theirs.ndcg);
            same("precision", &mut ours.precision.iter().copied(), &theirs.precision);
            same("recall", &mut ours.recall.iter().copied(), &theirs.recall);
            let ball = ours.lookup.unwrap();
            assert_eq!((ours.relevant, (ball.items, ball.relevant)), (theirs.relevant, theirs.lookup));
            if let Some(whole) = theirs.whole {
                without_ties += 1;
                assert!(close(ours.ap.last().unwrap().by_ideal.expected, whole), "{number} {i}");
            }
        }
        let per_bit = (found.summary.by_radius.len() - 1) / case.bits;
        for radius in 0..=case.bits {
            let mean = |of: fn(&Query) -> &[f64]| {
                case.queries.iter().map(|query| of(query)[radius]).sum::<f64>() / case.queries.len() as f64
            };
            let point = found.summary.by_radius[radius * per_bit];
            assert!(close(point.precision, mean(|query| &query.radius_precision)), "{number} within {radius}");
            assert!(close(point.recall, mean(|query| &query.radius_recall)), "{number} within {radius}");
        }
    }
    assert!(without_ties > 3);
}

#[test]
fn small_rankings_of_both_definitions() {
    // tests/golden/formats.json, ap_cases. The reference's k = -1 is a Python slice: it leaves the last rank out.
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&file).unwrap();
    for case in golden["ap_cases"].as_array().unwrap() {
        let relevant: Vec<u32> = serde_json::from_value(case["rel"].clone()).unwrap();
        let top_k = case["k"].as_u64().map_or(relevant.len() - 1, |k| k as usize);
        // One distance each: nothing ties.
        let mut codes = Codes::new(64).unwrap();
        for i in 0..relevant.len() {
            codes.push(&(0..64).map(|bit| if bit < i { 1.0 } else { -1.0 }).collect::<Vec<_>>()).unwrap();
        }
        let items: Vec<Vec<u32>> = relevant.iter().map(|&r| vec![0; r as usize]).collect();
        let queries = (random_codes(1, 1, 64, 0), labels(1, &[vec![0]]));
        let found = run(&queries, &(codes, labels(1, &items)), &Wanted::map_only(&[top_k])).unwrap();
        let ap = found.per_query[0].ap[0];
        let expected = case["ap_reference"].as_f64().unwrap();
        for value in [ap.by_hits.stable, ap.by_hits.expected, ap.by_hits.worst, ap.by_hits.best] {
            assert!(close(value, expected), "{case}: {ap:?}");
        }
        if let Some(expected) = case["ap_min_r_k"].as_f64() {
            assert!(close(ap.by_ideal.stable, expected) && close(ap.by_ideal.expected, expected), "{case}: {ap:?}");
        }
    }
}

#[test]
fn ties_have_their_worth() {
    // tests/golden/formats.json, tie_case: 8 items at distances 0 0 1 1 1 2 2 3, and what their ties are worth.
    let distances: [usize; 8] = [0, 0, 1, 1, 1, 2, 2, 3];
    let mut database = Codes::new(3).unwrap();
    for distance in distances {
        database.push(&[0, 1, 2].map(|bit| if bit < distance { 1.0 } else { -1.0 })).unwrap();
    }
    let relevant = [vec![0], vec![], vec![], vec![0], vec![0], vec![], vec![0], vec![]];
    let queries = (random_codes(1, 1, 3, 0), labels(1, &[vec![0]]));
    let found = run(&queries, &(database, labels(1, &relevant)), &Wanted::all(&[usize::MAX])).unwrap();
    let query = &found.per_query[0];
    assert!(close(query.ap[0].by_hits.stable, 0.667_857_142_857_142_9));
    assert!(close(query.ap[0].by_hits.expected, 0.657_539_682_539_682_5));
    assert_eq!((query.relevant, query.ap[0].hits, query.first_hit), (4, 4, Some(1)));
    assert_eq!(query.lookup, Some(Ball { items: 7, relevant: 4 }));
}

/// The numbers of `found` that no order of ties changes, and those in database order, against plain sorting.
fn check(queries: &Side, database: &Side, found: &Evaluation, per_bit: usize) {
    let Evaluation { wanted, per_query, summary } = found;
    let excluded = |i: usize| wanted.exclude.get(i).map_or(&[][..], Vec::as_slice);
    let plains: Vec<Plain> = (0..per_query.len()).map(|i| Plain::new(i, queries, database, excluded(i))).collect();
    for (i, (query, plain)) in per_query.iter().zip(&plains).enumerate() {
        let items = plain.distances.len();
        assert_eq!(query.relevant as usize, plain.relevant());
        for (&k, ap) in wanted.map_at.iter().zip(&query.ap) {
            let (by_hits, by_ideal) = plain.average_precision(k.min(items));
            assert!(close(ap.by_hits.stable, by_hits), "query {i} @{k}: {ap:?} {by_hits}");
            assert!(close(ap.by_ideal.stable, by_ideal), "query {i} @{k}: {ap:?} {by_ideal}");
            assert_eq!(f64::from(ap.hits), plain.hits(k));
        }
        let last = wanted.map_at.last().unwrap();
        let first = plain.shared.iter().take(*last).position(|&shared| shared > 0);
        assert_eq!(query.first_hit, first.map(|rank| rank as u32 + 1));
        if let Some(radius) = wanted.lookup_radius {
            assert_eq!(query.lookup, Some(plain.within(2 * radius)));
        }
        // Ranks that cut no ties: there nothing depends on orders.
        for (at, &n) in wanted.precision_at.iter().enumerate() {
            let n = n.min(items);
            if n == items || n > 0 && plain.distances[n - 1] != plain.distances[n] {
                assert!(close(query.precision[at], plain.hits(n) / n.max(1) as f64));
                assert!(close(query.recall[at], plain.hits(n) / plain.relevant().max(1) as f64));
            }
        }
    }
    let count = per_query.len() as f64;
    for (distance, point) in summary.by_radius.iter().enumerate() {
        let mut sums = (0.0, 0.0, 0.0);
        for plain in &plains {
            let ball = plain.within(distance * 2 / per_bit);
            sums.0 += f64::from(ball.items) / count;
            sums.1 += f64::from(ball.relevant) / f64::from(ball.items.max(1)) / count;
            sums.2 += f64::from(ball.relevant) / plain.relevant().max(1) as f64 / count;
        }
        assert!(close(point.precision, sums.1) && close(point.recall, sums.2), "{point:?} {sums:?}");
        assert!((point.items - sums.0).abs() < 1e-9 && close(point.radius, distance as f64 / per_bit as f64));
    }
}

#[test]
fn agrees_with_sorting_under_heavy_ties() {
    for (case, (bits, varied, cuts)) in
        [(8, 2, [7, 90]), (8, 0, [50, 1]), (64, 5, [1, 2]), (70, 4, [33, 34]), (256, 6, [200, 5]), (130, 3, [90, 40])]
            .into_iter()
            .enumerate()
    {
        let queries = random_side(2 * case as u64, 30, bits, varied);
        let database = random_side(2 * case as u64 + 1, 90, bits, varied);
        for wanted in [Wanted::all(&cuts), Wanted::map_only(&cuts)] {
            let mut draw = stream(case as u64, "exclude", &[]);
            let some = |draw: &mut Stream| (0..draw.below(4)).map(|_| draw.below(90) as u32).collect();
            for exclude in [vec![], (0..30).map(|_| some(&mut draw)).collect()] {
                let found = run(&queries, &database, &Wanted { exclude, ..wanted.clone() }).unwrap();
                check(&queries, &database, &found, 1);
                let alone =
                    run(&queries, &database, &Wanted { map_at: vec![cuts[0]], ..found.wanted.clone() }).unwrap();
                let at = found.wanted.map_at.iter().position(|&k| k == cuts[0].min(90)).unwrap();
                for (alone, found) in alone.per_query.iter().zip(&found.per_query) {
                    let spreads = |ap: &AveragePrecision| {
                        [ap.by_hits, ap.by_ideal].map(|s| [s.stable, s.expected, s.worst, s.best]).concat()
                    };
                    let (a, b) = (spreads(&alone.ap[0]), spreads(&found.ap[at]));
                    assert!(a.iter().zip(&b).all(|(&a, &b)| close(a, b)), "{a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn ternary_codes_rank_as_in_the_reference() {
    let mut draw = stream(5, "ternary", &[]);
    let mut side = |seed, count| {
        let mut codes = Codes::new(6).unwrap();
        for _ in 0..count {
            codes.push_ternary(&(0..6).map(|_| draw.below(3) as f32 - 1.0).collect::<Vec<_>>()).unwrap();
        }
        (codes, random_side(seed, count, 6, 6).1)
    };
    let (queries, database) = (side(1, 20), side(2, 80));
    let found = run(&queries, &database, &Wanted::all(&[5, 20, 80])).unwrap();
    assert_eq!(found.summary.by_radius.len(), 13, "half bits");
    check(&queries, &database, &found, 2);
}

#[test]
fn means_over_ties_are_those_of_every_order_of_the_database() {
    for case in 0..8 {
        let queries = random_side(100 + case, 2, 4, 2);
        let database = random_side(200 + case, 6, 4, 2);
        let wanted = Wanted { precision_at: (1..=6).collect(), ..Wanted::all(&[1, 2, 3, 4, 5, 6]) };
        let found = run(&queries, &database, &wanted).unwrap();
        let orders = permutations(6);
        for (i, query) in found.per_query.iter().enumerate() {
            let plain: Vec<Plain> =
                orders.iter().map(|order| Plain::new(i, &queries, &reordered(&database, order), &[])).collect();
            let mean = |value: &dyn Fn(&Plain) -> f64| plain.iter().map(value).sum::<f64>() / plain.len() as f64;
            for k in 1..=6 {
                let ap = query.ap[k - 1];
                let (by_hits, by_ideal): (Vec<f64>, Vec<f64>) = plain.iter().map(|p| p.average_precision(k)).unzip();
                for (spread, values) in [(ap.by_hits, by_hits), (ap.by_ideal, by_ideal)] {
                    let bounds = values.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
                    assert!(
                        close(spread.expected, values.iter().sum::<f64>() / values.len() as f64),
                        "{spread:?} @{k}"
                    );
                    assert!(
                        close(spread.worst, bounds.0) && close(spread.best, bounds.1),
                        "{spread:?} {bounds:?} @{k}"
                    );
                }
                assert!(close(query.precision[k - 1], mean(&|p| p.hits(k) / k as f64)));
                assert!(close(query.recall[k - 1], mean(&|p| p.hits(k) / p.relevant().max(1) as f64)));
                assert!(close(query.ndcg[k - 1], mean(&|p| p.ndcg(k))));
            }
        }
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let longer = |order: &Vec<usize>, place| [&order[..place], &[n - 1], &order[place..]].concat();
    permutations(n - 1).iter().flat_map(|order| (0..n).map(|place| longer(order, place)).collect::<Vec<_>>()).collect()
}

/// What does not depend on the order of the database.
fn tie_aware(found: &Evaluation) -> Vec<f64> {
    let mut numbers = vec![];
    for query in &found.per_query {
        for ap in &query.ap {
            for spread in [ap.by_hits, ap.by_ideal] {
                numbers.extend([spread.expected, spread.worst, spread.best]);
            }
        }
        numbers.extend(query.ndcg.iter().chain(&query.precision).chain(&query.recall));
        let ball = query.lookup.unwrap_or_default();
        numbers.extend([query.relevant, ball.items, ball.relevant].map(f64::from));
    }
    let summary = &found.summary;
    numbers.extend(summary.by_radius.iter().flat_map(|point| [point.items, point.precision, point.recall]));
    numbers.extend(summary.per_class.iter().flat_map(|class| class.map.iter().map(|map| map.by_hits.expected)));
    numbers.push(summary.chance);
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reordering_the_database_changes_no_tie_aware_number(
        seed in any::<u64>(), bits in 1usize..100, varied in 0usize..6, count in 1usize..150, k in 1usize..160,
    ) {
        let queries = random_side(seed, 10, bits, varied);
        let database = random_side(!seed, count, bits, varied);
        let mut order: Vec<usize> = (0..count).collect();
        stream(seed, "order", &[]).shuffle(&mut order);
        let wanted = Wanted::all(&[k, 2 * k, usize::MAX]);
        let found = run(&queries, &database, &wanted).unwrap();
        let other = run(&queries, &reordered(&database, &order), &wanted).unwrap();
        for (a, b) in tie_aware(&found).into_iter().zip(tie_aware(&other)) {
            prop_assert!((a - b).abs() < 1e-12, "{} {}", a, b);
        }
    }

    #[test]
    fn an_item_that_matches_nothing_lowers_what_it_should(
        seed in any::<u64>(), bits in 4usize..40, varied in 1usize..5, count in 1usize..80, k in 1usize..90,
    ) {
        let queries = random_side(seed, 10, bits, varied);
        let (codes, of) = random_side(!seed, count, bits, varied);
        let items = |more: &[Vec<u32>]| {
            (0..count).map(|i| of.classes_of(i).collect()).chain(more.iter().cloned()).collect::<Vec<Vec<u32>>>()
        };
        let mut more = codes.clone();
        more.append(&queries.0.selected([0])).unwrap(); // at distance 0 of the first query
        let wanted = Wanted::all(&[k, usize::MAX]);
        let before = run(&queries, &(codes, of.clone()), &wanted).unwrap();
        let after = run(&queries, &(more, labels(10, &items(&[vec![]]))), &wanted).unwrap();
        for (query, (before, after)) in before.per_query.iter().zip(&after.per_query).enumerate() {
            prop_assert_eq!(before.relevant, after.relevant);
            let (a, b) = (before.ap.last().unwrap(), after.ap.last().unwrap());
            for (a, b) in [(a.by_hits, b.by_hits), (a.by_ideal, b.by_ideal)] {
                // Over the whole database hits only move back.
                prop_assert!(b.expected <= a.expected + 1e-12 && b.worst <= a.worst + 1e-12 && b.best <= a.best + 1e-12);
            }
            prop_assert!(after.ndcg.last().unwrap() <= &(before.ndcg.last().unwrap() + 1e-12));
            prop_assert!((before.recall.last().unwrap() - after.recall.last().unwrap()).abs() < 1e-12);
            let balls = (before.lookup.unwrap(), after.lookup.unwrap());
            prop_assert_eq!(balls.0.relevant, balls.1.relevant);
            if query == 0 {
                prop_assert_eq!(balls.0.items + 1, balls.1.items);
            }
        }
        prop_assert!(after.summary.chance <= before.summary.chance);
    }
}

#[test]
fn per_class_and_lookup_means_are_those_of_their_queries() {
    let (queries, database) = (random_side(1, 40, 16, 4), random_side(2, 50, 16, 4));
    let found = run(&queries, &database, &Wanted::all(&[5, 50])).unwrap();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let has = |i: usize, class: u32| queries.1.classes_of(i).any(|c| c == class);
    let with = |class: u32| (0..40).filter(|&i| has(i, class)).collect::<Vec<_>>();
    assert_eq!(found.summary.per_class.len(), (0..10).filter(|&class| !with(class).is_empty()).count());
    for of_class in &found.summary.per_class {
        let mine = with(of_class.class);
        assert_eq!(of_class.queries as usize, mine.len());
        for (at, map) in of_class.map.iter().enumerate() {
            let values =
                |of: fn(&AveragePrecision) -> f64| mean(mine.iter().map(|&i| of(&found.per_query[i].ap[at])).collect());
            assert!(close(map.by_hits.stable, values(|ap| ap.by_hits.stable)));
            assert!(close(map.by_ideal.best, values(|ap| ap.by_ideal.best)));
        }
    }
    let lookup = found.summary.lookup.unwrap();
    let balls: Vec<Ball> = found.per_query.iter().map(|query| query.lookup.unwrap()).collect();
    let successful: Vec<&Ball> = balls.iter().filter(|ball| ball.items > 0).collect();
    let precision = |ball: &Ball| f64::from(ball.relevant) / f64::from(ball.items.max(1));
    assert!(close(lookup.success, successful.len() as f64 / 40.0));
    assert!(close(lookup.precision, mean(balls.iter().map(precision).collect())));
    assert!(close(lookup.precision_of_successful, mean(successful.into_iter().map(precision).collect())));
    let chance = found.per_query.iter().map(|query| f64::from(query.relevant)).sum::<f64>() / (40.0 * 50.0);
    assert!(close(found.summary.chance, chance));
}

#[test]
fn a_sample_that_misleads_is_noticed() {
    // Where the sample looks, in runs of 32 every 156 items, stands the first query itself: its guess is too small.
    let queries = random_side(1, 9, 64, 64);
    let near = random_side(2, 20_000, 64, 64);
    let mut codes = near.0.clone();
    codes.append(&queries.0.selected([0])).unwrap();
    let codes = codes.selected((0..20_000).map(|i| if i % 156 < 32 && i < 6000 { 20_000 } else { i }));
    let database = (codes, near.1);
    let wanted = Wanted::map_only(&[5000]);
    let found = run(&queries, &database, &wanted).unwrap();
    check(&queries, &database, &found, 1);
}

#[test]
fn threads_do_not_change_a_bit() {
    let (queries, database) = (random_side(1, 600, 40, 8), random_side(2, 500, 40, 8));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&queries, &database, &Wanted::all(&[100])).unwrap())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn progress_counts_up_and_can_stop() {
    let (queries, database) = (random_side(1, 1200, 16, 4), random_side(2, 5, 16, 4));
    let relevance = Relevance::shared_class(&queries.1, &database.1).unwrap();
    let mut seen = vec![];
    let comparison = Comparison::over(&Backend::default(), &queries.0, &database.0, relevance);
    let stopped = comparison.evaluate(&Wanted::map_only(&[3]), |done| {
        seen.push(done);
        if done < 1024 { Ok(()) } else { Err(Refusal::ZeroTopK) }
    });
    assert_eq!((stopped, seen), (Err(Refusal::ZeroTopK), vec![512, 1024]));
}

#[test]
fn sides_that_do_not_match_are_refused() {
    let side = |count, bits| random_side(1, count, bits, 2);
    let refusal = |queries: &Side, database: &Side, k| run(queries, database, &Wanted::all(&[k])).unwrap_err();
    let (good, other) = (side(3, 8), (side(3, 8).0, side(4, 8).1));
    assert_eq!(refusal(&side(3, 16), &good, 1), Refusal::DifferentBits { queries: 16, database: 8 });
    assert_eq!(refusal(&good, &other, 1), Refusal::LabelCount { side: "database", codes: 3, labels: 4 });
    assert_eq!(refusal(&other, &good, 1), Refusal::LabelCount { side: "queries", codes: 3, labels: 4 });
    assert_eq!(refusal(&good, &side(0, 8), 1), Refusal::Empty { side: "database" });
    assert_eq!(refusal(&good, &good, 0), Refusal::ZeroTopK);
    let exclude = |exclude| run(&good, &good, &Wanted { exclude, ..Wanted::all(&[1]) }).unwrap_err();
    assert_eq!(exclude(vec![vec![]]), Refusal::ExcludeCount { queries: 3, lists: 1 });
    assert_eq!(exclude(vec![vec![], vec![3], vec![]]), Refusal::ExcludedItem { item: 3, database: 3 });
    let nothing = run(&good, &good, &Wanted { exclude: vec![vec![0, 1, 2]; 3], ..Wanted::all(&[1]) }).unwrap();
    assert!(nothing.per_query.iter().all(|query| query.relevant == 0 && query.precision[0] == 0.0));
    let classes = (side(1, 8).0, Labels::from_indices(3, [&[1][..]]).unwrap());
    assert_eq!(refusal(&classes, &good, 1), Refusal::DifferentClasses { queries: 3, database: 10 });
}
