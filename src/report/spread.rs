//! How a figure varies from seed to seed, and whether a difference is more than that.

use crate::event::Spread;

/// Mean, standard deviation, and the mean's 95 % interval, from at least two values.
pub(super) fn spread(values: &[f64]) -> Option<Spread> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (n - 1) as f64).sqrt();
    Some(Spread { mean, deviation, interval: t_95(n - 1) * deviation / (n as f64).sqrt() })
}

/// Whether the 95 % interval of the difference of two means holds 0: Welch's t, which asks for no equal variances.
/// `None` if either side has too few values to know.
pub(super) fn is_inside(a: &[f64], b: &[f64]) -> Option<bool> {
    let (first, second) = (spread(a)?, spread(b)?);
    let part = |spread: Spread, values: &[f64]| spread.deviation.powi(2) / values.len() as f64;
    let (u, v) = (part(first, a), part(second, b));
    let difference = (first.mean - second.mean).abs();
    if u + v == 0.0 {
        return Some(difference == 0.0);
    }
    let freedom = (u + v).powi(2) / (u.powi(2) / (a.len() - 1) as f64 + v.powi(2) / (b.len() - 1) as f64);
    // Rounded down: the wider interval.
    Some(difference <= t_95((freedom as usize).max(1)) * (u + v).sqrt())
}

/// What Student's t with so many degrees of freedom stays below in size with a probability of 95 %.
///
/// Tabled where the series (Abramowitz and Stegun, 26.7.5) is not good to five digits.
fn t_95(freedom: usize) -> f64 {
    const TABLE: [f64; 9] = [12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157];
    const Z: f64 = 1.959963984540054;
    if let Some(value) = freedom.checked_sub(1).and_then(|position| TABLE.get(position)) {
        return *value;
    }
    let z = |power: i32| Z.powi(power);
    let terms = [
        (z(3) + Z) / 4.0,
        (5.0 * z(5) + 16.0 * z(3) + 3.0 * Z) / 96.0,
        (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * Z) / 384.0,
        (79.0 * z(9) + 776.0 * z(7) + 1482.0 * z(5) - 1920.0 * z(3) - 945.0 * Z) / 92_160.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom as f64) + Z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        // NIST/SEMATECH e-Handbook, 1.3.6.7.2, 0.975 (three digits); the last from the normal distribution.
        let tabled = [(1, 12.706), (4, 2.776), (9, 2.262), (10, 2.228), (15, 2.131), (30, 2.042), (100, 1.984)];
        for (freedom, value) in tabled {
            assert!((t_95(freedom) - value).abs() < 5.1e-4, "{freedom}: {}", t_95(freedom));
        }
        assert!((t_95(usize::MAX) - 1.959964).abs() < 1e-6);
    }

    #[test]
    fn the_table_and_the_series_meet() {
        let steps: Vec<f64> = (8..12).map(|freedom| t_95(freedom) - t_95(freedom + 1)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] > pair[1] && pair[1] > 0.0), "{steps:?}");
    }

    #[test]
    fn a_spread_is_that_of_a_worked_example() {
        // mean 5, squares 0+4+4 over 2 = 4, deviation 2; half width 4.302653 * 2 / sqrt(3).
        let found = spread(&[5.0, 3.0, 7.0]).unwrap();
        assert_eq!((found.mean, found.deviation), (5.0, 2.0));
        assert!((found.interval - 4.968277).abs() < 1e-5, "{found:?}");
        assert_eq!(spread(&[5.0]), None);
    }

    #[test]
    fn a_difference_counts_only_beyond_the_interval() {
        assert_eq!(is_inside(&[0.70, 0.71, 0.72], &[0.69, 0.71, 0.73]), Some(true));
        assert_eq!(is_inside(&[0.70, 0.71, 0.72], &[0.50, 0.51, 0.52]), Some(false));
        assert_eq!(is_inside(&[0.7, 0.7], &[0.7, 0.7]), Some(true));
        assert_eq!(is_inside(&[0.7, 0.7], &[0.8, 0.8]), Some(false));
        assert_eq!(is_inside(&[0.7], &[0.8, 0.9]), None);
    }
}
