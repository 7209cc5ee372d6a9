//! Two models on the same queries: the paired randomisation test (Fisher 1935; for retrieval, Smucker, Allan and
//! Carterette, CIKM 2007).
//!
//! Were the models alike, a query's two numbers could as well stand the other way round: the sign of each difference is
//! a coin's. The p-value is how often coins make a mean difference as large as the one that was found, or larger, in
//! either direction. With few differing queries all ways are counted; otherwise as many are drawn as asked for, and the
//! found one is counted among them, `(r + 1) / (n + 1)`, so that the p-value is never 0 and never too small.

use super::bootstrap::{Interval, mean, mean_interval};
use crate::seeded;
use rayon::prelude::*;
use serde::Serialize;

/// With at most so many queries that differ, all `2^n` signs are tried.
const EXACT: usize = 20;
/// Sums that differ by less, as a share of the sum of all sizes, are the same up to the order of addition.
const ROUNDING: f64 = 1e-12;

/// What is to be said of two models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paired {
    pub queries: usize,
    /// Mean of the first.
    pub a: f64,
    /// Mean of the second.
    pub b: f64,
    /// Mean of first minus second.
    pub difference: f64,
    /// Bootstrap interval of the difference, over queries; `null` for a single query.
    pub interval: Option<Interval>,
    /// Queries on which the first is better, the second is, and neither.
    pub wins: usize,
    pub losses: usize,
    pub ties: usize,
    /// Two-sided.
    pub p_value: f64,
    /// Whether all signs were tried.
    pub exact: bool,
    /// How many signs were tried.
    pub permutations: u64,
}

/// Compares two models by their numbers on the same queries, in the same order.
///
/// `None` if there are no queries, or not equally many, or numbers that are not finite.
pub fn paired(a: &[f64], b: &[f64], permutations: usize, level: f64, seed: u64) -> Option<Paired> {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    if a.len() != b.len() || a.is_empty() || !differences.iter().all(|d| d.is_finite()) {
        return None;
    }
    let count = |wanted: fn(f64) -> bool| differences.iter().filter(|d| wanted(**d)).count();
    let test = test(&differences, permutations, seed);
    Some(Paired {
        queries: a.len(),
        a: mean(a),
        b: mean(b),
        difference: mean(&differences),
        interval: mean_interval(&differences, permutations, level, seed),
        wins: count(|d| d > 0.0),
        losses: count(|d| d < 0.0),
        ties: count(|d| d == 0.0),
        p_value: test.p_value,
        exact: test.exact,
        permutations: test.permutations,
    })
}

struct Test {
    p_value: f64,
    exact: bool,
    permutations: u64,
}

fn test(differences: &[f64], permutations: usize, seed: u64) -> Test {
    // A difference of 0 is the same with either sign.
    let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).filter(|d| *d > 0.0).collect();
    let found = differences.iter().sum::<f64>().abs();
    let threshold = found - ROUNDING * sizes.iter().sum::<f64>();
    if sizes.len() <= EXACT || permutations == 0 {
        // The last sign is left out: all signs turned round give the same size.
        let Some((last, others)) = sizes.split_last().filter(|_| sizes.len() <= EXACT) else {
            let p_value = 1.0;
            return Test { p_value, exact: sizes.is_empty(), permutations: u64::from(sizes.is_empty()) };
        };
        let as_large = as_large(others, *last, threshold);
        let all = 1u64 << others.len();
        return Test { p_value: as_large as f64 / all as f64, exact: true, permutations: 2 * all };
    }
    let is_as_large = |number: &usize| {
        let mut draw = seeded::stream(seed, "sign flips", &[*number as u64]);
        let mut sum = 0.0;
        for part in sizes.chunks(64) {
            let mut signs = draw.bits();
            for size in part {
                // The coin becomes the sign bit: a branch would be mispredicted half of the time.
                sum += f64::from_bits(size.to_bits() | signs << 63);
                signs >>= 1;
            }
        }
        sum.abs() >= threshold
    };
    let as_large = (0..permutations).into_par_iter().filter(is_as_large).count();
    let p_value = (as_large + 1) as f64 / (permutations + 1) as f64;
    Test { p_value, exact: false, permutations: permutations as u64 }
}

/// In how many of the `2^n` ways to sign `sizes`, their sum and `sum` make at least `threshold` in size.
fn as_large(sizes: &[f64], sum: f64, threshold: f64) -> u64 {
    match sizes.split_first() {
        None => u64::from(sum.abs() >= threshold),
        Some((size, rest)) => as_large(rest, sum + size, threshold) + as_large(rest, sum - size, threshold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p_of(differences: &[f64], permutations: usize) -> Paired {
        paired(differences, &vec![0.0; differences.len()], permutations, 0.95, 1).unwrap()
    }

    #[test]
    fn small_cases_are_what_a_hand_counts() {
        // All of one sign: only all plus and all minus are as large.
        for n in 1..=10u32 {
            let found = p_of(&vec![0.1; n as usize], 100);
            assert!((found.p_value - 2.0 / 2f64.powi(n as i32)).abs() < 1e-15, "{n}: {found:?}");
            assert!(found.exact && found.permutations == 1 << n);
        }
        // Equal sizes: heads minus tails of n coins. 8 of 10 heads: 2 (C(10,8) + C(10,9) + C(10,10)) / 2^10.
        let eight = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0].map(|d| d * 0.3);
        assert!((p_of(&eight, 100).p_value - 112.0 / 1024.0).abs() < 1e-15);
        let none = p_of(&[0.0, 0.0], 100);
        assert_eq!((none.p_value, none.exact, none.ties), (1.0, true, 2));
        // Queries on which both are alike change nothing.
        let padded = [&eight[..], &[0.0; 30]].concat();
        assert_eq!(p_of(&padded, 100).p_value, p_of(&eight, 100).p_value);
    }

    #[test]
    fn p_values_are_those_of_scipy() {
        // tests/golden/measures.json, made by benches/peers/measures.py: scipy.stats.permutation_test over all signs.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/measures.json");
        let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = golden["sign_flip"].as_array().unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let side = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
            let found = paired(&side("a"), &side("b"), 1000, 0.95, 1).unwrap();
            let expected = case["p_value"].as_f64().unwrap();
            assert!(found.exact && (found.p_value - expected).abs() < 1e-12, "{}: {expected}", found.p_value);
        }
    }

    #[test]
    fn drawn_signs_agree_with_all_of_them() {
        let mut draw = seeded::stream(5, "differences", &[]);
        for case in 0..4 {
            let few: Vec<f64> = (0..EXACT).map(|_| draw.normal() + 0.15 * f64::from(case)).collect();
            let exact = p_of(&few, 0).p_value;
            // Twice EXACT numbers, of which all but EXACT are too small to matter, are drawn.
            let many = [&few[..], &[1e-9; EXACT]].concat();
            let found = p_of(&many, 20_000);
            let error = 4.0 * (exact * (1.0 - exact) / 20_000.0).sqrt() + 1e-4;
            assert!(!found.exact && (found.p_value - exact).abs() < error, "{} {exact}", found.p_value);
        }
    }

    #[test]
    fn a_drawn_p_value_is_never_zero_and_its_seed_decides() {
        let large = p_of(&[0.1; 60], 999);
        assert_eq!((large.p_value, large.exact, large.permutations), (0.001, false, 999));
        let differences: Vec<f64> = (0..100).map(|i| f64::from(i % 9) - 3.7).collect();
        let on = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| paired(&differences, &[0.0; 100], 2000, 0.95, seed).unwrap())
        };
        assert_eq!(on(1, 3), on(3, 3));
        assert_ne!(on(1, 3).p_value, on(1, 4).p_value);
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        assert_eq!(paired(&[1.0], &[1.0, 2.0], 10, 0.95, 1), None);
        assert_eq!(paired(&[], &[], 10, 0.95, 1), None);
        assert_eq!(paired(&[f64::NAN], &[1.0], 10, 0.95, 1), None);
        let one = paired(&[0.5], &[0.25], 10, 0.95, 1).unwrap();
        assert_eq!((one.difference, one.interval, one.p_value, one.wins), (0.25, None, 1.0, 1));
    }
}
