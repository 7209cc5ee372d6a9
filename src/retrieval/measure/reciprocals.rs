//! Sums of 1/i: what the closed forms of average precision over ties are made of.

/// Sums that are looked up; beyond, a series is exact.
const TABLE: usize = 1 << 17;

/// Sums of neighbouring reciprocals, each to the last digits: `between(a, b)` is 1/(a+1) + ... + 1/b.
///
/// Expectations hold terms like n - (a + 1) (1/(a+1) + ... + 1/(a+n)), which nearly cancel; so the sums up to each i are
/// kept with twice the digits, and their differences have a small error relative to themselves.
pub(super) struct Reciprocals {
    /// Sum of 1/1 to 1/i and what rounding it left out.
    sums: Vec<(f64, f64)>,
}

impl Reciprocals {
    /// For sums whose last term is usually at most 1/`most`.
    pub(super) fn new(most: usize) -> Self {
        let (mut sum, mut left) = (0.0f64, 0.0f64);
        let mut sums = vec![(0.0, 0.0)];
        for i in 1..=most.min(TABLE) {
            let term = 1.0 / i as f64;
            // Knuth's exact sum: `next` and `error` together are `sum + term`.
            let next = sum + term;
            let back = next - sum;
            left += (sum - (next - back)) + (term - back);
            sum = next;
            sums.push((sum, left));
        }
        Self { sums }
    }

    /// 1/(a+1) + ... + 1/b, for `a` up to `b`.
    pub(super) fn between(&self, a: usize, b: usize) -> f64 {
        /// From here on the series has all digits.
        const FAR: usize = 4096;
        if a == b {
            return 0.0;
        }
        match (self.sums.get(a), self.sums.get(b)) {
            (Some(a), Some(b)) => (b.0 - a.0) + (b.1 - a.1),
            (Some(_), None) if a < self.sums.len() - 1 => {
                let last = self.sums.len() - 1;
                self.between(a, last) + self.between(last, b)
            }
            _ if a < FAR => (a + 1..=b.min(FAR)).map(|i| 1.0 / i as f64).sum::<f64>() + self.between(b.min(FAR), b),
            _ => far(a as f64, b as f64),
        }
    }
}

/// The same for large numbers: H(n) = ln n + gamma + 1/2n - 1/12n^2 + ..., written so that nothing cancels.
fn far(a: f64, b: f64) -> f64 {
    let part = (b - a) / a;
    let square = |x: f64| x * x;
    part.ln_1p() - (b - a) / (2.0 * a * b) + (b - a) * (a + b) / (12.0 * square(a * b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_to_the_last_digits() {
        let (full, short, none) = (Reciprocals::new(20_000), Reciprocals::new(10), Reciprocals::new(0));
        for (a, b) in [(0, 1), (0, 20_000), (0, 5), (3, 3), (17, 900), (4096, 4097), (9_999, 20_000), (19_000, 19_002)]
        {
            // Smallest terms first, so that nothing is lost.
            let expected: f64 = (a + 1..=b).rev().map(|i| 1.0 / i as f64).sum();
            for sums in [&full, &short, &none] {
                let found = sums.between(a, b);
                assert!((found - expected).abs() <= 4e-15 * expected, "{a} {b}: {found} {expected}");
            }
        }
        let beyond = full.between(15_000, 30_000);
        let expected: f64 = (15_001..=30_000).rev().map(|i| 1.0 / f64::from(i)).sum();
        assert!((beyond - expected).abs() < 1e-13, "{beyond} {expected}");
    }
}
