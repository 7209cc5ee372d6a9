//! How well a database is ranked: mean average precision over all queries.

use rayon::prelude::*;
use serde::Serialize;

use super::average_precision::{Hits, expected_average_precision};
use super::rank::Ranker;
use super::{Codes, Labels, Refusal};

/// Queries between two calls of `progress`: enough to keep many threads busy, few enough to be a fraction of a second.
const PORTION: usize = 256;

/// The numbers of one query. An item is relevant if it shares at least one class with the query.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QueryResult {
    /// AP@k as the reference has it: ties in database order, divided by the hits. 0 without a hit.
    pub ap: f64,
    /// The same divided by min(relevant, k).
    pub ap_min_rk: f64,
    /// The mean of `ap` over all orders of ties.
    pub expected_ap: f64,
    /// Relevant items in the whole database.
    pub relevant: u32,
    /// Relevant items among the first k.
    pub hits: u32,
    /// Rank of the first hit, from 1.
    pub first_hit: Option<u32>,
}

/// The numbers of all queries, and their means; queries without a hit count as 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// In the order of the queries.
    pub per_query: Vec<QueryResult>,
    /// mAP@k of the reference. Depends on the order of the database where distances tie.
    pub map: f64,
    pub map_min_rk: f64,
    /// The mean of `map` over all orders of ties. Far from `map`, the database's order is doing the work.
    pub expected_map: f64,
    /// Mean share of the database that is relevant: the expected precision of a random ranking.
    pub chance: f64,
}

/// Ranks `database` by each of `queries` and measures the first `top_k` ranks, or all with `None`.
///
/// A `top_k` beyond the database means all of it. The result does not depend on the number of threads: queries are
/// independent, and their means are taken in order. `progress` is told now and then how many queries are done; its
/// error ends the evaluation.
pub fn evaluate<E: From<Refusal>>(
    queries: &Codes,
    database: &Codes,
    query_labels: &Labels,
    database_labels: &Labels,
    top_k: Option<usize>,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    check(queries, database, query_labels, database_labels)?;
    if top_k == Some(0) {
        return Err(Refusal::ZeroTopK.into());
    }
    let top_k = top_k.unwrap_or(usize::MAX).min(database.len());
    let mut per_query = Vec::with_capacity(queries.len());
    for start in (0..queries.len()).step_by(PORTION) {
        let portion = (start..queries.len().min(start + PORTION)).into_par_iter().map_init(
            || Ranker::new(database, database_labels),
            |ranker, i| measure(ranker, queries.code(i), query_labels.classes_of(i), top_k),
        );
        per_query.par_extend(portion);
        progress(per_query.len())?;
    }
    Ok(Evaluation::of(per_query, database.len()))
}

fn check(queries: &Codes, database: &Codes, query_labels: &Labels, labels: &Labels) -> Result<(), Refusal> {
    if queries.bits() != database.bits() {
        return Err(Refusal::DifferentBits { queries: queries.bits(), database: database.bits() });
    }
    if query_labels.classes() != labels.classes() {
        return Err(Refusal::DifferentClasses { queries: query_labels.classes(), database: labels.classes() });
    }
    for (side, codes, labels) in [("queries", queries, query_labels), ("database", database, labels)] {
        if codes.is_empty() {
            return Err(Refusal::Empty { side });
        }
        if codes.len() != labels.len() {
            return Err(Refusal::LabelCount { side, codes: codes.len(), labels: labels.len() });
        }
    }
    Ok(())
}

fn measure(ranker: &mut Ranker, query: &[u64], classes: impl Iterator<Item = u32>, top_k: usize) -> QueryResult {
    let ranking = ranker.rank(query, classes, top_k);
    let hits = Hits::of(ranking.relevant_at);
    let relevant = ranking.groups.iter().map(|group| group.relevant).sum();
    QueryResult {
        ap: hits.average_precision(),
        ap_min_rk: hits.average_precision_of_ideal(relevant as usize, top_k),
        expected_ap: expected_average_precision(ranking.groups, top_k),
        relevant,
        hits: hits.count,
        first_hit: hits.first,
    }
}

impl Evaluation {
    fn of(per_query: Vec<QueryResult>, database: usize) -> Self {
        let mean = |value: fn(&QueryResult) -> f64| per_query.iter().map(value).sum::<f64>() / per_query.len() as f64;
        Self {
            map: mean(|query| query.ap),
            map_min_rk: mean(|query| query.ap_min_rk),
            expected_map: mean(|query| query.expected_ap),
            chance: mean(|query| f64::from(query.relevant)) / database as f64,
            per_query,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use crate::seeded::stream;

    fn run(
        (queries, query_labels): &(Codes, Labels),
        (database, labels): &(Codes, Labels),
        top_k: Option<usize>,
    ) -> Result<Evaluation, Refusal> {
        evaluate(queries, database, query_labels, labels, top_k, |_| Ok(()))
    }

    /// Codes with `2^varied` different values, each item with 0 to 3 of 10 classes.
    fn random_side(seed: u64, count: usize, bits: usize, varied: usize) -> (Codes, Labels) {
        let mut draw = stream(seed, "labels", &[]);
        let labels: Vec<Vec<u32>> =
            (0..count).map(|_| (0..draw.below(4)).map(|_| draw.below(10) as u32).collect()).collect();
        let labels = Labels::from_indices(10, labels.iter().map(Vec::as_slice)).unwrap();
        (random_codes(seed, count, bits, varied), labels)
    }

    /// `make_goldens.py`, `average_precision`: sort, cut, average; and the divisor min(R, k).
    fn by_sorting(query: usize, queries: &(Codes, Labels), database: &(Codes, Labels), top_k: usize) -> (f64, f64) {
        let classes: Vec<u32> = queries.1.classes_of(query).collect();
        let (bits, count) = (queries.0.bits(), database.0.len());
        let distance = |i| (0..bits).filter(|&j| queries.0.bit(query, j) != database.0.bit(i, j)).count();
        let relevant: Vec<bool> =
            (0..count).map(|i| database.1.classes_of(i).any(|class| classes.contains(&class))).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&i| distance(i));
        order.truncate(top_k);
        let ranks: Vec<usize> = (0..order.len()).filter(|&rank| relevant[order[rank]]).map(|rank| rank + 1).collect();
        let sum: f64 = ranks.iter().enumerate().map(|(i, &rank)| (i + 1) as f64 / rank as f64).sum();
        let ideal = relevant.iter().filter(|&&r| r).count().min(top_k);
        (sum / ranks.len().max(1) as f64, sum / ideal.max(1) as f64)
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
        }
        let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ranking.json")).unwrap();
        let golden: Golden = serde_json::from_str(&file).unwrap();
        let side = |bits: &[Vec<u8>], labels: &[Vec<u8>]| {
            let mut codes = Codes::new(bits[0].len()).unwrap();
            for row in bits {
                codes.push(&row.iter().map(|&bit| f32::from(bit) * 2.0 - 1.0).collect::<Vec<_>>()).unwrap();
            }
            let indices: Vec<Vec<u32>> = labels
                .iter()
                .map(|row| (0..).zip(row).filter(|(_, one)| **one == 1).map(|(c, _)| c).collect())
                .collect();
            (codes, Labels::from_indices(labels[0].len(), indices.iter().map(Vec::as_slice)).unwrap())
        };
        let queries = side(&golden.query_bits, &golden.query_labels);
        let database = side(&golden.database_bits, &golden.database_labels);
        for case in &golden.cases {
            let evaluation = run(&queries, &database, Some(case.top_k)).unwrap();
            for (i, query) in evaluation.per_query.iter().enumerate() {
                assert!((query.ap - case.ap[i]).abs() < 1e-12, "AP@{} of query {i}", case.top_k);
                assert!((query.expected_ap - case.expected_ap[i]).abs() < 1e-9, "expected AP@{} of {i}", case.top_k);
            }
        }
        assert_eq!(run(&queries, &database, None).unwrap(), run(&queries, &database, Some(40)).unwrap());
        assert_eq!(run(&queries, &database, None).unwrap(), run(&queries, &database, Some(41)).unwrap());
    }

    #[test]
    fn ties_have_their_worth() {
        // tests/golden/formats.json, tie_case: 8 items at distances 0 0 1 1 1 2 2 3, and what their ties are worth.
        let distances: [usize; 8] = [0, 0, 1, 1, 1, 2, 2, 3];
        let mut database = Codes::new(3).unwrap();
        for distance in distances {
            database.push(&[0, 1, 2].map(|bit| if bit < distance { 1.0 } else { -1.0 })).unwrap();
        }
        let relevant: [&[u32]; 8] = [&[0], &[], &[], &[0], &[0], &[], &[0], &[]];
        let database = (database, Labels::from_indices(1, relevant).unwrap());
        let queries = (random_codes(1, 1, 3, 0), Labels::from_indices(1, [&[0][..]]).unwrap());
        let query = run(&queries, &database, None).unwrap().per_query[0];
        assert!((query.ap - 0.667_857_142_857_142_9).abs() < 1e-12);
        assert!((query.expected_ap - 0.657_539_682_539_682_5).abs() < 1e-12);
        assert_eq!((query.relevant, query.hits, query.first_hit), (4, 4, Some(1)));
    }

    #[test]
    fn agrees_with_sorting_under_heavy_ties() {
        for (case, (bits, varied, top_k)) in
            [(8, 2, 7), (8, 0, 50), (64, 5, 1), (70, 4, 33), (128, 6, 200), (130, 3, 90)].into_iter().enumerate()
        {
            let queries = random_side(2 * case as u64, 30, bits, varied);
            let database = random_side(2 * case as u64 + 1, 90, bits, varied);
            let evaluation = run(&queries, &database, Some(top_k)).unwrap();
            for (i, query) in evaluation.per_query.iter().enumerate() {
                let (ap, ap_min_rk) = by_sorting(i, &queries, &database, top_k);
                assert!((query.ap - ap).abs() < 1e-12, "case {case} query {i}: {} {ap}", query.ap);
                assert!((query.ap_min_rk - ap_min_rk).abs() < 1e-12, "case {case} query {i}");
            }
            let mean = evaluation.per_query.iter().map(|query| query.ap).sum::<f64>() / 30.0;
            assert!((evaluation.map - mean).abs() < 1e-15);
        }
    }

    #[test]
    fn the_expectation_is_the_mean_over_every_order_of_the_database() {
        for case in 0..12 {
            let queries = random_side(100 + case, 2, 4, 2);
            let (codes, labels) = random_side(200 + case, 6, 4, 2);
            for top_k in [1, 3, 4, 6] {
                let mut sums = [0.0; 2];
                let orders = permutations(6);
                for order in &orders {
                    let mut shuffled = Codes::new(4).unwrap();
                    for &i in order {
                        shuffled.push(&codes.unpack(i).collect::<Vec<_>>()).unwrap();
                    }
                    let indices: Vec<Vec<u32>> = order.iter().map(|&i| labels.classes_of(i).collect()).collect();
                    let shuffled = (shuffled, Labels::from_indices(10, indices.iter().map(Vec::as_slice)).unwrap());
                    let evaluation = run(&queries, &shuffled, Some(top_k)).unwrap();
                    for (sum, query) in sums.iter_mut().zip(&evaluation.per_query) {
                        *sum += query.ap / orders.len() as f64;
                    }
                }
                let evaluation = run(&queries, &(codes.clone(), labels.clone()), Some(top_k)).unwrap();
                for (sum, query) in sums.iter().zip(&evaluation.per_query) {
                    assert!((sum - query.expected_ap).abs() < 1e-12, "case {case} @{top_k}");
                }
            }
        }
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![vec![]];
        }
        let longer = |order: &Vec<usize>, place| [&order[..place], &[n - 1], &order[place..]].concat();
        permutations(n - 1)
            .iter()
            .flat_map(|order| (0..n).map(|place| longer(order, place)).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (queries, database) = (random_side(1, 600, 40, 8), random_side(2, 500, 40, 8));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&queries, &database, Some(100)).unwrap())
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn chance_is_the_relevant_share() {
        let (queries, database) = (random_side(1, 20, 16, 4), random_side(2, 50, 16, 4));
        let evaluation = run(&queries, &database, Some(5)).unwrap();
        let relevant: u32 = evaluation.per_query.iter().map(|query| query.relevant).sum();
        assert!((evaluation.chance - f64::from(relevant) / (20.0 * 50.0)).abs() < 1e-15);
    }

    #[test]
    fn progress_counts_up_and_can_stop() {
        let (queries, database) = (random_side(1, 600, 16, 4), random_side(2, 5, 16, 4));
        let mut seen = vec![];
        let stopped: Result<_, Refusal> = evaluate(&queries.0, &database.0, &queries.1, &database.1, None, |done| {
            seen.push(done);
            if done < 512 { Ok(()) } else { Err(Refusal::ZeroTopK) }
        });
        assert_eq!((stopped, seen), (Err(Refusal::ZeroTopK), vec![256, 512]));
    }

    #[test]
    fn sides_that_do_not_match_are_refused() {
        let side = |count, bits| random_side(1, count, bits, 2);
        let refusal = |queries: &(Codes, Labels), database: &(Codes, Labels), k| run(queries, database, k).unwrap_err();
        let (good, other) = (side(3, 8), (side(3, 8).0, side(4, 8).1));
        assert_eq!(refusal(&side(3, 16), &good, None), Refusal::DifferentBits { queries: 16, database: 8 });
        assert_eq!(refusal(&good, &other, None), Refusal::LabelCount { side: "database", codes: 3, labels: 4 });
        assert_eq!(refusal(&other, &good, None), Refusal::LabelCount { side: "queries", codes: 3, labels: 4 });
        assert_eq!(refusal(&good, &side(0, 8), None), Refusal::Empty { side: "database" });
        assert_eq!(refusal(&good, &good, Some(0)), Refusal::ZeroTopK);
        let classes = (side(1, 8).0, Labels::from_indices(3, [&[1][..]]).unwrap());
        assert_eq!(refusal(&classes, &good, None), Refusal::DifferentClasses { queries: 3, database: 10 });
    }
}
