//! Average precision of one ranking, in the reference's definition and two others.
//!
//! The reference (`CalcTopMap` of HashNet and DeepHash) averages the precision at each relevant rank within the top k,
//! and divides by the number of *those*: `[+ - -]` scores 1.0 at k = 3, above `[+ - +]` with 0.833. Dividing by
//! min(R, k), where R is how many items are relevant at all, is what information retrieval means by AP@k.

use super::rank::Group;

/// What the first k ranks hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hits {
    /// How many of the ranks are relevant.
    pub count: u32,
    /// The first of them, from 1.
    pub first: Option<u32>,
    /// Sum over them of the precision at their rank.
    precision_sum: f64,
}

impl Hits {
    /// Reads a ranking, nearest first.
    pub(super) fn of(relevant_at: &[bool]) -> Self {
        let mut hits = Self { count: 0, first: None, precision_sum: 0.0 };
        for (rank, _) in (1..).zip(relevant_at).filter(|&(_, &relevant)| relevant) {
            hits.count += 1;
            hits.first = hits.first.or(Some(rank));
            hits.precision_sum += f64::from(hits.count) / f64::from(rank);
        }
        hits
    }

    /// AP@k of the reference: divided by the hits. 0 if there are none.
    pub(super) fn average_precision(&self) -> f64 {
        self.divided_by(self.count as usize)
    }

    /// AP@k divided by the hits that an ideal ranking would have: min(R, k). 0 if nothing is relevant.
    pub(super) fn average_precision_of_ideal(&self, relevant: usize, top_k: usize) -> f64 {
        self.divided_by(relevant.min(top_k))
    }

    fn divided_by(&self, count: usize) -> f64 {
        if count == 0 { 0.0 } else { self.precision_sum / count as f64 }
    }
}

/// AP@k of the reference, averaged exactly over all orders of the items at equal distance.
///
/// `groups` are the items at each distance, nearest first. Groups inside the top k always bring all their hits, so for
/// them the expected sum of precisions will do (McSherry and Najork, ECIR 2008). The group at the cut brings a random
/// number of hits, by the hypergeometric law, and the divisor depends on it; so the expectation is taken over that
/// number.
pub(super) fn expected_average_precision(groups: &[Group], top_k: usize) -> f64 {
    let (mut before, mut sum) = (Group::default(), 0.0);
    for &group in groups {
        let room = top_k - before.items as usize;
        if room == 0 {
            break;
        }
        if group.items as usize > room {
            return at_the_cut(before, sum, group, room as u32);
        }
        sum += precision_sum(before, group);
        before = Group { items: before.items + group.items, relevant: before.relevant + group.relevant };
    }
    if before.relevant == 0 { 0.0 } else { sum / f64::from(before.relevant) }
}

/// Expected sum of the precisions at the relevant ranks of a group in random order, after what is nearer.
///
/// A rank is relevant with probability r/n; then, of the ranks of the group before it, each is with (r-1)/(n-1).
fn precision_sum(before: Group, group: Group) -> f64 {
    if group.relevant == 0 {
        return 0.0;
    }
    let others = f64::from(group.relevant - 1) / f64::from((group.items - 1).max(1));
    let hits = f64::from(before.relevant + 1);
    let rank = f64::from(before.items + 1);
    let precisions = (0..group.items).map(f64::from).map(|i| (hits + i * others) / (rank + i));
    f64::from(group.relevant) / f64::from(group.items) * precisions.sum::<f64>()
}

/// The expectation when only `room` items of the last group, at least one, are inside the top k.
///
/// `sum` is the expected sum of precisions over the ranks before.
fn at_the_cut(before: Group, sum: f64, group: Group, room: u32) -> f64 {
    // With t hits among the group's ranks, `precision_sum` is t (inverse + (t - 1) slope), where only t varies.
    let rank = f64::from(before.items + 1);
    let inverse_ranks = (0..room).map(|i| 1.0 / (rank + f64::from(i)));
    let offsets = (0..room).map(|i| f64::from(i) / (rank + f64::from(i)));
    let inverse = f64::from(before.relevant + 1) * inverse_ranks.sum::<f64>() / f64::from(room);
    let slope = offsets.sum::<f64>() / f64::from(room) / f64::from((room - 1).max(1));
    let value = |t: u32| {
        let hits = before.relevant + t;
        let t = f64::from(t);
        if hits == 0 { 0.0 } else { (sum + t * (inverse + (t - 1.0) * slope)) / f64::from(hits) }
    };
    hypergeometric_mean(group, room, value)
}

/// The mean of `value(t)` where t is the number of relevant items among `drawn` of the group's, without replacement.
///
/// Weights start at 1 at the mode and follow the ratio of neighbours, so that nothing overflows however large the
/// group; those too small to change the result are left out.
fn hypergeometric_mean(group: Group, drawn: u32, value: impl Fn(u32) -> f64) -> f64 {
    const NEGLIGIBLE: f64 = 1e-24;
    let (n, r, m) = (u64::from(group.items), u64::from(group.relevant), u64::from(drawn));
    // P(t + 1) / P(t)
    let ratio = |t: u64| ((r - t) * (m - t)) as f64 / ((t + 1) * (n + t + 1 - r - m)) as f64;
    let (least, most) = ((r + m).saturating_sub(n), r.min(m));
    let mode = ((r + 1) * (m + 1) / (n + 2)).clamp(least, most);

    let (mut weights, mut sum) = (1.0, value(mode as u32));
    let mut add = |t: u64, weight: f64| {
        weights += weight;
        sum += weight * value(t as u32);
        weight > NEGLIGIBLE
    };
    let mut weight = 1.0;
    for t in mode..most {
        weight *= ratio(t);
        if !add(t + 1, weight) {
            break;
        }
    }
    weight = 1.0;
    for t in (least..mode).rev() {
        weight /= ratio(t);
        if !add(t, weight) {
            break;
        }
    }
    sum / weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    fn ranked(relevant: &[u8]) -> Vec<bool> {
        relevant.iter().map(|&r| r == 1).collect()
    }

    /// `make_goldens.py`, `exact_expected_average_precision`, with its binomials.
    fn expected_by_binomials(groups: &[Group], top_k: u32) -> f64 {
        let choose = |n: u32, k: u32| (0..k).fold(1.0, |c, i| c * f64::from(n - i) / f64::from(i + 1));
        let (mut before, mut hits, mut total) = (0, 0, 0.0);
        for &Group { items: n, relevant: r } in groups.iter().filter(|group| group.items > 0) {
            let m = n.min(top_k - before);
            let sum = |t: u32| -> f64 {
                let each = |i| {
                    let inside = if m > 1 { f64::from(i) * (f64::from(t) - 1.0) / f64::from(m - 1) } else { 0.0 };
                    f64::from(t) / f64::from(m) * (f64::from(hits + 1) + inside) / f64::from(before + 1 + i)
                };
                (0..m).map(each).sum()
            };
            if m < n {
                let term = |t: u32| {
                    let ways = choose(r, t) * choose(n - r, m - t) / choose(n, m);
                    if hits + t == 0 { 0.0 } else { ways * (total + sum(t)) / f64::from(hits + t) }
                };
                return ((m + r).saturating_sub(n)..=r.min(m)).map(term).sum();
            }
            total += sum(r);
            (before, hits) = (before + n, hits + r);
            if before == top_k {
                break;
            }
        }
        if hits == 0 { 0.0 } else { total / f64::from(hits) }
    }

    #[test]
    fn average_precision_of_small_rankings() {
        // tests/golden/formats.json, ap_cases. The reference's k = -1 is a Python slice: it leaves the last rank out.
        let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&file).unwrap();
        for case in golden["ap_cases"].as_array().unwrap() {
            let relevant: Vec<u8> = serde_json::from_value(case["rel"].clone()).unwrap();
            let top_k = case["k"].as_u64().map_or(relevant.len() - 1, |k| k as usize);
            let hits = Hits::of(&ranked(&relevant)[..top_k]);
            assert!(close(hits.average_precision(), case["ap_reference"].as_f64().unwrap()), "{case}");
            if let Some(expected) = case["ap_min_r_k"].as_f64() {
                let relevant = relevant.iter().filter(|&&r| r == 1).count();
                assert!(close(hits.average_precision_of_ideal(relevant, top_k), expected), "{case}");
            }
        }
    }

    #[test]
    fn the_two_divisors_differ_when_the_cut_hides_items() {
        let hits = Hits::of(&ranked(&[1, 0, 0]));
        assert_eq!((hits.count, hits.first), (1, Some(1)));
        assert!(close(hits.average_precision(), 1.0));
        assert!(close(hits.average_precision_of_ideal(2, 3), 0.5));
        assert!(close(hits.average_precision_of_ideal(9, 3), 1.0 / 3.0));
        let none = Hits::of(&ranked(&[0, 0]));
        assert_eq!((none.count, none.first, none.average_precision()), (0, None, 0.0));
        assert_eq!(none.average_precision_of_ideal(0, 2), 0.0);
    }

    #[test]
    fn a_perfect_ranking_scores_exactly_one() {
        assert_eq!(Hits::of(&[true; 997]).average_precision(), 1.0);
        let all = [Group { items: 997, relevant: 997 }];
        assert_eq!(expected_average_precision(&all, 997), 1.0);
        assert!(close(expected_average_precision(&all, 500), 1.0));
    }

    #[test]
    fn expectation_equals_its_definition() {
        let mut draw = crate::seeded::stream(1, "groups", &[]);
        for case in 0..2000 {
            let groups: Vec<Group> = (0..1 + draw.below(6))
                .map(|_| {
                    let items = draw.below(12);
                    Group { items: items as u32, relevant: draw.below(items + 1) as u32 }
                })
                .collect();
            let top_k = draw.below(1 + groups.iter().map(|g| g.items as usize).sum::<usize>());
            let (ours, theirs) =
                (expected_average_precision(&groups, top_k), expected_by_binomials(&groups, top_k as u32));
            assert!((ours - theirs).abs() < 1e-12, "case {case}: {groups:?} @{top_k}: {ours} {theirs}");
        }
    }

    #[test]
    fn large_groups_neither_overflow_nor_drift() {
        // Any order of one group with a third relevant: precision is close to a third at almost every rank.
        let group = [Group { items: 3_000_000, relevant: 1_000_000 }];
        let cut = expected_average_precision(&group, 1_000_000);
        assert!((cut - 1.0 / 3.0).abs() < 1e-4, "{cut}");
        // The cut just before a group's end and at it must meet.
        let whole = expected_average_precision(&group, 3_000_000);
        let almost = expected_average_precision(&group, 2_999_999);
        assert!((whole - almost).abs() < 1e-6, "{whole} {almost}");
    }

    #[test]
    fn hypergeometric_weights_have_the_right_mean() {
        for (items, relevant, drawn) in [(10, 4, 3), (10, 10, 3), (10, 0, 3), (5, 4, 4), (100_000, 40_000, 30_000)] {
            let mean = hypergeometric_mean(Group { items, relevant }, drawn, f64::from);
            let expected = f64::from(relevant) * f64::from(drawn) / f64::from(items);
            assert!((mean - expected).abs() < 1e-9 * (1.0 + expected), "{items} {relevant} {drawn}: {mean}");
        }
    }
}
