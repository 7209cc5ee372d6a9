//! The bootstrap interval of a mean (Efron 1979; the percentile method, Efron and Tibshirani 1993, chapter 13).
//!
//! As many values as there are, are drawn with replacement, and their mean taken; that is done many times. The interval
//! is what lies between the lower and the upper quantile of those means.

use crate::seeded;
use rayon::prelude::*;
use serde::Serialize;

/// An interval of a mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// 0.95: of many such intervals, 95 % hold the mean of the population.
    pub level: f64,
    pub resamples: usize,
}

/// The mean of some values; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The bootstrap interval of the mean of `values`, from `resamples` drawn by `seed`.
///
/// `level` is between 0 and 1. `None` for fewer than two values, which say nothing of how they vary, for values that are
/// not finite, and for no resamples.
pub fn mean_interval(values: &[f64], resamples: usize, level: f64, seed: u64) -> Option<Interval> {
    mean_intervals(&[values], resamples, level, seed).pop().flatten()
}

/// The intervals of several numbers of the same items: one drawing does for all, and each is what
/// [`mean_interval`] gives for its column. `None` also for a column that is shorter or longer than the first.
pub fn mean_intervals(columns: &[&[f64]], resamples: usize, level: f64, seed: u64) -> Vec<Option<Interval>> {
    let items = columns.first().map_or(0, |column| column.len());
    let is_good = |column: &&[f64]| column.len() == items && column.iter().all(|x| x.is_finite());
    let good: Vec<&[f64]> = columns.iter().copied().filter(is_good).collect();
    if items < 2 || resamples == 0 || !(0.0..1.0).contains(&level) {
        return vec![None; columns.len()];
    }
    // Item by item, so that what is drawn together lies together.
    let rows: Vec<f64> = (0..items).flat_map(|item| good.iter().map(move |column| column[item])).collect();
    let width = good.len();
    let resample = |number: usize| {
        let (mut draw, mut sums) = (seeded::stream(seed, "bootstrap", &[number as u64]), vec![0.0; width]);
        for _ in 0..items {
            let item = draw.below(items) * width;
            sums.iter_mut().zip(&rows[item..item + width]).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let sums: Vec<Vec<f64>> = (0..resamples).into_par_iter().map(resample).collect();
    let interval = |column: usize| {
        let mut means: Vec<f64> = sums.iter().map(|sums| sums[column] / items as f64).collect();
        means.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - level) / 2.0;
        Interval { low: quantile(&means, tail), high: quantile(&means, 1.0 - tail), level, resamples }
    };
    let mut intervals = (0..width).map(interval);
    columns.iter().map(|column| if is_good(column) { intervals.next() } else { None }).collect()
}

/// A quantile of sorted values, of which there is one at least: linear between neighbours, as NumPy's default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    match sorted.get(below + 1) {
        Some(above) => sorted[below] + part * (above - sorted[below]),
        None => sorted[sorted.len() - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // np.quantile([1, 2, 4, 8, 16], [0, .1, .25, .5, .9, 1])
        let found = [0.0, 0.1, 0.25, 0.5, 0.9, 1.0].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0, 16.0], share));
        assert!(found.iter().zip([1.0, 1.4, 2.0, 4.0, 12.8, 16.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
    }

    /// Means of all `n^n` resamples of a few values, sorted.
    fn all_resamples(values: &[f64]) -> Vec<f64> {
        let n = values.len();
        let pick = |mut code: usize| -> f64 {
            let mut sum = 0.0;
            for _ in 0..n {
                sum += values[code % n];
                code /= n;
            }
            sum / n as f64
        };
        let mut means: Vec<f64> = (0..n.pow(n as u32)).map(pick).collect();
        means.sort_unstable_by(f64::total_cmp);
        means
    }

    #[test]
    fn the_interval_is_that_of_all_resamples_there_can_be() {
        for values in [vec![0.0, 0.31, 0.87, 1.0, 0.5], vec![0.2, 0.9, 0.4], vec![0.1, 0.15, 0.7, 0.33]] {
            let all = all_resamples(&values);
            let found = mean_interval(&values, 40_000, 0.9, 1).unwrap();
            // 40,000 draws place a quantile within 0.6 % of its share, at four standard errors.
            for (bound, share) in [(found.low, 0.05), (found.high, 0.95)] {
                let (least, most) = (quantile(&all, share - 0.006), quantile(&all, share + 0.006));
                assert!((least - 1e-12..=most + 1e-12).contains(&bound), "{values:?}: {bound}, {least} to {most}");
            }
        }
    }

    #[test]
    fn the_interval_of_a_share_is_that_of_the_binomial_law() {
        // 400 queries, 100 of them 1: a resample's hits are Binomial(400, 1/4), whose 2.5 % and 97.5 % quantiles are 83
        // and 117 (scipy.stats.binom.ppf; benches/peers/measures.py).
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 4 == 0))).collect();
        let found = mean_interval(&values, 20_000, 0.95, 7).unwrap();
        assert!((found.low * 400.0 - 83.0).abs() < 1.01 && (found.high * 400.0 - 117.0).abs() < 1.01, "{found:?}");
    }

    #[test]
    fn numbers_drawn_together_have_the_intervals_they_have_alone() {
        let columns: Vec<Vec<f64>> = (2..5).map(|k| (0..30).map(|i| f64::from(i % k) / 4.0).collect()).collect();
        let broken = [f64::NAN; 30];
        let all = mean_intervals(&[&columns[0], &broken, &columns[1], &columns[2][..9], &columns[2]], 200, 0.9, 3);
        let alone = |column: usize| mean_interval(&columns[column], 200, 0.9, 3);
        assert_eq!(all, [alone(0), None, alone(1), None, alone(2)]);
    }

    #[test]
    fn seeds_decide_and_threads_do_not() {
        let values: Vec<f64> = (0..50).map(|i| f64::from(i % 7) / 7.0).collect();
        let on = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| mean_interval(&values, 500, 0.95, seed).unwrap())
        };
        assert_eq!(on(1, 3), on(3, 3));
        assert_ne!(on(1, 3), on(1, 4));
        let constant = mean_interval(&[0.5; 9], 100, 0.95, 1).unwrap();
        assert_eq!((constant.low, constant.high), (0.5, 0.5));
    }

    #[test]
    fn what_has_no_interval_gets_none() {
        for values in [&[][..], &[1.0], &[1.0, f64::NAN]] {
            assert_eq!(mean_interval(values, 100, 0.95, 1), None);
        }
        assert_eq!(mean_interval(&[1.0, 2.0], 0, 0.95, 1), None);
        assert_eq!(mean_interval(&[1.0, 2.0], 10, 1.0, 1), None);
    }
}
