//! What codes are like, without asking what is relevant: do their bits say different things, are they used, and how
//! many items fall together.
//!
//! A bit that is 1 in a share p of the codes carries H(p) = -p log2 p - (1 - p) log2 (1 - p) bits at most. How many
//! independent bits a set of correlated ones is worth is told by the *participation ratio* of the eigenvalues of their
//! correlation matrix C: (sum of eigenvalues)^2 / (sum of their squares) = tr(C)^2 / tr(C^2), which needs no
//! eigenvalues. It is m for m uncorrelated bits and 1 for m copies of one. Bits that never change have no correlation
//! and are left out of C.
//!
//! Zeros of ternary codes count as 0 here, like -1, but for buckets. Correlations come from counts of codes in which two bits are both 1, so they are exact up to one division.

use super::Codes;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What some codes are like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// How many codes there are.
    pub count: usize,
    /// Length of a code.
    pub bits: usize,
    /// For each bit, the share of codes in which it is 1.
    pub balance: Vec<f64>,
    /// For each bit, its entropy in bits, from 0 to 1.
    pub entropy: Vec<f64>,
    pub mean_entropy: f64,
    /// Bits, from 0, that are the same in all codes.
    pub dead: Vec<usize>,
    pub correlation: Correlation,
    /// Participation ratio of the eigenvalues of the correlation matrix of all bits that change; 0 if none does.
    pub effective_bits: f64,
    pub buckets: Buckets,
}

/// Correlation (Pearson's, which for bits is phi) over all pairs of bits that change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Correlation {
    /// Mean of its size; 0 without pairs.
    pub mean_absolute: f64,
    /// The one that is largest in size, with its sign; 0 without pairs.
    pub largest: f64,
    /// The two bits of the largest, from 0.
    pub pair: Option<[usize; 2]>,
}

/// How items fall into buckets of equal codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Buckets {
    /// Different codes: buckets that hold something.
    pub occupied: usize,
    /// Items that have their code alone.
    pub alone: usize,
    /// Items in the fullest bucket.
    pub largest: usize,
    /// Pairs of items with equal codes.
    pub colliding_pairs: u64,
    /// Their share of all pairs: how probable it is that two items cannot be told apart.
    pub collision_probability: f64,
    /// Entropy in bits of the bucket of an item drawn at random; log2 of the number of items if all are alone.
    pub entropy: f64,
    /// By size: buckets of 1 item, of 2 to 3, of 4 to 7, and so on, with the items in them.
    pub occupancy: Vec<Occupancy>,
}

/// Buckets of about one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Fewest and most items of such a bucket.
    pub from: usize,
    pub to: usize,
    pub buckets: usize,
    pub items: usize,
}

impl Statistics {
    pub fn of(codes: &Codes) -> Self {
        let (count, bits) = (codes.len(), codes.bits());
        let columns = columns(codes);
        let ones: Vec<u64> = columns.iter().map(|column| both(column, column)).collect();
        let balance: Vec<f64> = ones.iter().map(|ones| *ones as f64 / count.max(1) as f64).collect();
        let entropy: Vec<f64> = balance.iter().map(|p| term(*p) + term(1.0 - p)).collect();
        let changing: Vec<usize> = (0..bits).filter(|j| ones[*j] > 0 && ones[*j] < count as u64).collect();
        let (correlation, effective_bits) = correlate(&columns, &ones, &changing, count);
        Self {
            count,
            bits,
            mean_entropy: entropy.iter().sum::<f64>() / bits as f64,
            balance,
            entropy,
            dead: (0..bits).filter(|j| !changing.contains(j)).collect(),
            correlation,
            effective_bits,
            buckets: Buckets::of(codes),
        }
    }
}

/// `-p log2 p`, which goes to 0 with p.
fn term(p: f64) -> f64 {
    if p > 0.0 { -p * p.log2() } else { 0.0 }
}

/// For each bit, one bit per code.
fn columns(codes: &Codes) -> Vec<Vec<u64>> {
    let mut columns = vec![vec![0u64; codes.len().div_ceil(64)]; codes.bits()];
    for i in 0..codes.len() {
        for (position, word) in codes.code(i).iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                columns[position * 64 + word.trailing_zeros() as usize][i / 64] |= 1 << (i % 64);
                word &= word - 1;
            }
        }
    }
    columns
}

/// In how many codes two bits are both 1.
fn both(a: &[u64], b: &[u64]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from((a & b).count_ones())).sum()
}

/// Correlations of the bits that change, and the participation ratio.
fn correlate(columns: &[Vec<u64>], ones: &[u64], changing: &[usize], count: usize) -> (Correlation, f64) {
    // Counts are below 2^32, so products of two fit 64 bits.
    let spread = |j: usize| ((ones[j] * (count as u64 - ones[j])) as f64).sqrt();
    let row = |(position, &i): (usize, &usize)| {
        let mut sums = (0.0, 0.0, 0.0, None);
        for &j in &changing[position + 1..] {
            let together = i128::from(both(&columns[i], &columns[j])) * count as i128;
            let r = (together - i128::from(ones[i]) * i128::from(ones[j])) as f64 / (spread(i) * spread(j));
            sums.0 += r.abs();
            sums.1 += r * r;
            if r.abs() > f64::abs(sums.2) {
                (sums.2, sums.3) = (r, Some([i, j]));
            }
        }
        sums
    };
    let rows: Vec<_> = changing.par_iter().enumerate().map(row).collect();
    let pairs = changing.len() * changing.len().saturating_sub(1) / 2;
    let squares: f64 = rows.iter().map(|row| row.1).sum();
    let mut largest = (0.0, None);
    for row in &rows {
        if row.2.abs() > f64::abs(largest.0) {
            largest = (row.2, row.3);
        }
    }
    let mean_absolute = rows.iter().map(|row| row.0).sum::<f64>() / pairs.max(1) as f64;
    // The diagonal is 1: tr(C) = m, tr(C^2) = m + 2 (sum over pairs of r^2).
    let m = changing.len() as f64;
    let effective = if changing.is_empty() { 0.0 } else { m * m / (m + 2.0 * squares) };
    (Correlation { mean_absolute, largest: largest.0, pair: largest.1 }, effective)
}

impl Buckets {
    fn of(codes: &Codes) -> Self {
        // Ternary codes are equal if their zeros are, too.
        let width = codes.words_per_code();
        let zeros = |i: usize| codes.zeros().get(i * width..(i + 1) * width);
        let mut sizes: HashMap<(&[u64], Option<&[u64]>), usize> = HashMap::new();
        (0..codes.len()).for_each(|i| *sizes.entry((codes.code(i), zeros(i))).or_default() += 1);
        // How many buckets there are of each size: sums over it do not depend on the order of a hash map.
        let mut by_size: BTreeMap<usize, usize> = BTreeMap::new();
        sizes.values().for_each(|size| *by_size.entry(*size).or_default() += 1);
        let pairs_of = |items: u64| items * items.saturating_sub(1) / 2;
        let colliding_pairs = by_size.iter().map(|(size, buckets)| pairs_of(*size as u64) * *buckets as u64).sum();
        let share = |size: usize| size as f64 / codes.len() as f64;
        let mut occupancy: BTreeMap<u32, Occupancy> = BTreeMap::new();
        for (&size, &buckets) in &by_size {
            let from = 1usize << size.ilog2();
            let of_size = occupancy.entry(size.ilog2());
            let entry = of_size.or_insert(Occupancy { from, to: 2 * from - 1, buckets: 0, items: 0 });
            entry.buckets += buckets;
            entry.items += size * buckets;
        }
        Self {
            occupied: sizes.len(),
            alone: by_size.get(&1).copied().unwrap_or(0),
            largest: by_size.last_key_value().map_or(0, |(size, _)| *size),
            colliding_pairs,
            collision_probability: colliding_pairs as f64 / pairs_of(codes.len() as u64).max(1) as f64,
            entropy: by_size.iter().map(|(size, buckets)| *buckets as f64 * term(share(*size))).sum(),
            occupancy: occupancy.into_values().collect(),
        }
    }
}

/// How far network outputs are from the codes they become.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantisation {
    /// Mean of (|x| - 1)^2: the squared distance of an output to its sign.
    pub mean_squared: f64,
    /// Mean of | |x| - 1 |.
    pub mean_absolute: f64,
    /// Mean cosine between an item's outputs and their signs, which does not depend on the outputs' scale: 1 if all of
    /// an item's outputs are of one size. An item whose outputs are all 0 counts as 0.
    pub cosine: f64,
}

impl Quantisation {
    /// Of outputs, row by row, `bits` of each item.
    pub fn of(outputs: &[f64], bits: usize) -> Self {
        let mean = |value: fn(f64) -> f64| outputs.iter().map(|x| value(*x)).sum::<f64>() / outputs.len().max(1) as f64;
        let cosine = |row: &[f64]| {
            let (sum, squares) = row.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x.abs(), squares + x * x));
            if squares > 0.0 { sum / (squares * row.len() as f64).sqrt() } else { 0.0 }
        };
        let rows = outputs.chunks_exact(bits.max(1));
        let count = rows.len().max(1) as f64;
        Self {
            mean_squared: mean(|x| (x.abs() - 1.0).powi(2)),
            mean_absolute: mean(|x| (x.abs() - 1.0).abs()),
            cosine: rows.map(cosine).sum::<f64>() / count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(rows: &[Vec<u8>]) -> Codes {
        let mut codes = Codes::new(rows[0].len()).unwrap();
        for row in rows {
            codes.push(&row.iter().map(|bit| f32::from(*bit) * 2.0 - 1.0).collect::<Vec<_>>()).unwrap();
        }
        codes
    }

    #[test]
    fn statistics_are_those_of_numpy() {
        // tests/golden/measures.json, made by benches/peers/measures.py: np.corrcoef, np.linalg.eigvalsh, np.unique.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/measures.json");
        let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let close = |a: f64, b: &serde_json::Value| (a - b.as_f64().unwrap()).abs() < 1e-9;
        for case in golden["codes"].as_array().unwrap() {
            let rows: Vec<Vec<u8>> = serde_json::from_value(case["bits"].clone()).unwrap();
            let found = Statistics::of(&codes(&rows));
            for j in 0..found.bits {
                assert!(close(found.balance[j], &case["balance"][j]) && close(found.entropy[j], &case["entropy"][j]));
            }
            assert_eq!(serde_json::json!(found.dead), case["dead"]);
            assert!(close(found.correlation.mean_absolute, &case["mean_absolute_correlation"]), "{found:?}");
            assert!(close(found.correlation.largest.abs(), &case["largest_correlation"]), "{found:?}");
            assert!(close(found.effective_bits, &case["effective_bits"]), "{found:?} {}", case["effective_bits"]);
            let buckets = &found.buckets;
            assert!(close(buckets.collision_probability, &case["collision_probability"]));
            assert!(close(buckets.entropy, &case["bucket_entropy"]));
            let counts = serde_json::json!([buckets.occupied, buckets.alone, buckets.largest, buckets.colliding_pairs]);
            assert_eq!(counts, case["buckets"]);
            assert_eq!(buckets.occupancy.iter().map(|o| o.items).sum::<usize>(), found.count);
        }
        for case in golden["quantisation"].as_array().unwrap() {
            let outputs: Vec<f64> = serde_json::from_value(case["outputs"].clone()).unwrap();
            let found = Quantisation::of(&outputs, case["bits"].as_u64().unwrap() as usize);
            assert!(close(found.mean_squared, &case["mean_squared"]) && close(found.cosine, &case["cosine"]));
            assert!(close(found.mean_absolute, &case["mean_absolute"]));
        }
    }

    #[test]
    fn copies_of_a_bit_are_worth_one_and_independent_ones_all() {
        // All 16 values of four bits, once each.
        let all: Vec<Vec<u8>> = (0..16u8).map(|i| (0..4).map(|j| i >> j & 1).collect()).collect();
        let found = Statistics::of(&codes(&all));
        assert_eq!((found.effective_bits, found.correlation.mean_absolute, found.mean_entropy), (4.0, 0.0, 1.0));
        assert_eq!((found.buckets.alone, found.buckets.colliding_pairs, found.buckets.entropy), (16, 0, 4.0));
        // One bit, thrice, once turned round; and one that never changes.
        let copies: Vec<Vec<u8>> = (0..6u8).map(|i| vec![i % 2, i % 2, 1 - i % 2, 0]).collect();
        let found = Statistics::of(&codes(&copies));
        assert_eq!((found.effective_bits, found.correlation.mean_absolute), (1.0, 1.0));
        assert_eq!((found.dead, found.buckets.colliding_pairs), (vec![3], 6));
        assert_eq!(found.buckets.occupancy, [Occupancy { from: 2, to: 3, buckets: 2, items: 6 }]);
    }

    #[test]
    fn no_codes_and_one_code_have_statistics_too() {
        for count in [0, 1] {
            let found = Statistics::of(&super::super::codes::tests::random_codes(1, count, 70, 70));
            assert_eq!((found.effective_bits, found.dead.len(), found.buckets.alone), (0.0, 70, count));
            assert_eq!((found.correlation.pair, found.buckets.collision_probability), (None, 0.0));
            assert!(found.balance.iter().chain(&found.entropy).all(|x| x.is_finite()));
        }
        assert_eq!(Quantisation::of(&[], 8), Quantisation { mean_squared: 0.0, mean_absolute: 0.0, cosine: 0.0 });
    }
}
