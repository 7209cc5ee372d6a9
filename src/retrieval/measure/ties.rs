//! Average precision when items tie: its mean over all orders of the ties, and its bounds, in closed form.
//!
//! A ranking by Hamming distance orders only groups of items. Three things are told of AP@k for a group order in which
//! every order of equally distant items is equally likely: the expectation, the least and the greatest value. Two
//! definitions of AP@k are in use; both sum the precision at each relevant rank within the first k:
//!
//! - *By hits*, the reference's (`CalcTopMap` of HashNet and DeepHash): divided by the number of those ranks. `[+ - -]`
//!   scores 1.0 at k = 3, above `[+ - +]` with 0.833.
//! - *By ideal*: divided by min(R, k), the hits of an ideal ranking, where R items are relevant at all. What information
//!   retrieval means by AP@k.
//!
//! Within a group of n items, r relevant, that follows t items with h hits, a rank is relevant with probability r / n, and
//! then each rank of the group before it with (r - 1) / (n - 1) (McSherry and Najork, ECIR 2008); so the expected sum of
//! precisions over its first m ranks is r / n * sum over i < m of (h + 1 + i (r - 1) / (n - 1)) / (t + 1 + i), which is two
//! sums of reciprocals. That settles the second definition, and the first for groups that lie inside the first k. The
//! group at the cut brings a random number of hits, and the first definition's divisor depends on it: there the
//! expectation is taken over that number, which is hypergeometric.

use super::reciprocals::Reciprocals;
use serde::Serialize;

/// The items at one distance from a query, as far as order is not known among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Group {
    pub items: u32,
    /// Those of `items` that are relevant.
    pub relevant: u32,
}

/// AP@k where items tie.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Tied {
    /// The mean over all orders of ties.
    pub expected: f64,
    /// The least over all orders of ties.
    pub worst: f64,
    /// The greatest over all orders of ties.
    pub best: f64,
}

/// AP@k by both definitions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Both {
    pub by_hits: Tied,
    pub by_ideal: Tied,
}

/// AP@k for each of `cuts`, ascending and at least 1; `relevant` items are relevant in all.
///
/// `groups` are the items at each distance, nearest first, at least as many as the last cut reaches.
pub(super) fn average_precisions(
    groups: &[Group],
    cuts: &[usize],
    relevant: usize,
    reciprocals: &Reciprocals,
) -> Vec<Both> {
    let mut walk = Walk { reciprocals, items: 0, hits: 0, sums: Tied::default() };
    let mut groups = groups.iter().filter(|group| group.items > 0).peekable();
    let at = |&cut: &usize| {
        while let Some(group) = groups.next_if(|group| walk.items + group.items as usize <= cut) {
            walk.pass(group);
        }
        match groups.peek() {
            Some(group) if walk.items < cut => walk.cut(group, cut - walk.items, relevant.min(cut)),
            _ => walk.whole(relevant.min(cut)),
        }
    };
    cuts.iter().map(at).collect()
}

/// What lies before a group: items, hits, and sums of precisions at the hits.
struct Walk<'a> {
    reciprocals: &'a Reciprocals,
    items: usize,
    hits: usize,
    sums: Tied,
}

impl Walk<'_> {
    /// Adds a whole group.
    fn pass(&mut self, group: &Group) {
        let (n, r) = (group.items as usize, group.relevant as usize);
        self.sums.expected += self.expected(group, n);
        self.sums.best += self.precisions(self.items, r);
        self.sums.worst += self.precisions(self.items + n - r, r);
        self.items += n;
        self.hits += r;
    }

    /// AP if the cut is here.
    fn whole(&self, ideal: usize) -> Both {
        let divided = |by: usize| {
            let share = |sum: f64| if by == 0 { 0.0 } else { sum / by as f64 };
            Tied { expected: share(self.sums.expected), worst: share(self.sums.worst), best: share(self.sums.best) }
        };
        Both { by_hits: divided(self.hits), by_ideal: divided(ideal) }
    }

    /// AP if the cut is after `room` items of a larger group, at least one.
    fn cut(&self, group: &Group, room: usize, ideal: usize) -> Both {
        let (n, r) = (group.items as usize, group.relevant as usize);
        let (least, most) = ((room + r).saturating_sub(n), r.min(room));
        let end = self.items + room;
        let share = |sum: f64| if ideal == 0 { 0.0 } else { sum / ideal as f64 };
        let by_ideal = Tied {
            expected: share(self.sums.expected + self.expected(group, room)),
            worst: share(self.sums.worst + self.precisions(end - least, least)),
            best: share(self.sums.best + self.precisions(self.items, most)),
        };

        // With t hits inside the cut, first or last among its ranks.
        let mean = |sum: f64, t: usize| if self.hits + t == 0 { 0.0 } else { sum / (self.hits + t) as f64 };
        let first = |t: usize| mean(self.sums.best + self.precisions(self.items, t), t);
        let last = |t: usize| mean(self.sums.worst + self.precisions(end - t, t), t);
        let by_hits = Tied {
            expected: self.expected_by_hits(group, room),
            // As a function of t, both first fall and then rise: each new hit of `first` has a higher precision than the
            // one before, and `last` is a convex sum divided by the hits. So the greatest is at an end, the least may be
            // between. (Without any hit the value is 0, which is the least.)
            worst: if self.hits + least == 0 { 0.0 } else { last(turning_point(least, most, last)) },
            best: first(least).max(first(most)),
        };
        Both { by_hits, by_ideal }
    }

    /// Sum of the precisions at `count` hits in a row, after the first `from` ranks: (h + 1) / (from + 1) and so on.
    fn precisions(&self, from: usize, count: usize) -> f64 {
        let above = from as f64 - self.hits as f64;
        if count == 0 { 0.0 } else { count as f64 - above * self.reciprocals.between(from, from + count) }
    }

    /// Expected sum of the precisions at the hits among the first `room` items of a group in random order.
    fn expected(&self, group: &Group, room: usize) -> f64 {
        if group.relevant == 0 {
            return 0.0;
        }
        let (n, r) = (f64::from(group.items), f64::from(group.relevant));
        let others = (r - 1.0) / (n - 1.0).max(1.0);
        let (inverse, offsets) = self.ranks(room);
        r / n * ((self.hits + 1) as f64 * inverse + others * offsets)
    }

    /// Sums over the next `room` ranks of 1 / rank, and of (place in the group, from 0) / rank.
    fn ranks(&self, room: usize) -> (f64, f64) {
        let inverse = self.reciprocals.between(self.items, self.items + room);
        (inverse, room as f64 - (self.items + 1) as f64 * inverse)
    }

    /// The expectation by hits when only `room` items of a group are inside the cut.
    fn expected_by_hits(&self, group: &Group, room: usize) -> f64 {
        // With t hits among the group's ranks, the sum of precisions is t (inverse + (t - 1) slope), where only t varies.
        let (inverse, offsets) = self.ranks(room);
        let inverse = (self.hits + 1) as f64 * inverse / room as f64;
        let slope = offsets / room as f64 / (room - 1).max(1) as f64;
        let value = |t: usize| {
            let hits = self.hits + t;
            let t = t as f64;
            if hits == 0 { 0.0 } else { (self.sums.expected + t * (inverse + (t - 1.0) * slope)) / hits as f64 }
        };
        hypergeometric_mean(group, room, value)
    }
}

/// Where a function over `least..=most` that falls and then rises has its least value.
fn turning_point(mut least: usize, mut most: usize, value: impl Fn(usize) -> f64) -> usize {
    while least < most {
        let middle = least + (most - least) / 2;
        if value(middle + 1) < value(middle) { least = middle + 1 } else { most = middle }
    }
    least
}

/// The mean of `value(t)` where t is the number of relevant items among `drawn` of the group's, without replacement.
///
/// Weights start at 1 at the mode and follow the ratio of neighbours, so that nothing overflows however large the
/// group; those too small to change the result are left out.
fn hypergeometric_mean(group: &Group, drawn: usize, value: impl Fn(usize) -> f64) -> f64 {
    const NEGLIGIBLE: f64 = 1e-18;
    let (n, r, m) = (u64::from(group.items), u64::from(group.relevant), drawn as u64);
    // P(t + 1) / P(t)
    let ratio = |t: u64| ((r - t) as f64 * (m - t) as f64) / ((t + 1) as f64 * (n + t + 1 - r - m) as f64);
    let (least, most) = ((r + m).saturating_sub(n), r.min(m));
    let mode = ((u128::from(r + 1) * u128::from(m + 1) / u128::from(n + 2)) as u64).clamp(least, most);

    let (mut weights, mut sum) = (1.0, value(mode as usize));
    let mut add = |t: u64, weight: f64| {
        weights += weight;
        sum += weight * value(t as usize);
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
    use crate::seeded::{Stream, stream};

    fn at(groups: &[Group], cut: usize) -> Both {
        let relevant = groups.iter().map(|group| group.relevant as usize).sum();
        average_precisions(groups, &[cut], relevant, &Reciprocals::new(100))[0]
    }

    fn random_groups(draw: &mut Stream, most: usize, size: usize) -> Vec<Group> {
        let mut group = |_| {
            let items = draw.below(size);
            Group { items: items as u32, relevant: draw.below(items + 1) as u32 }
        };
        (0..most).map(&mut group).collect()
    }

    /// AP by hits and by ideal of every order of the ties.
    fn every_order(groups: &[Group], cut: usize) -> Vec<(f64, f64)> {
        let total: usize = groups.iter().map(|group| group.relevant as usize).sum();
        let mut orders = vec![vec![]];
        for group in groups {
            let (n, r) = (group.items, group.relevant);
            // All ways to place r hits on n ranks; each is equally likely.
            let ways: Vec<u32> = (0..1u32 << n).filter(|ways| ways.count_ones() == r).collect();
            let longer = |order: &Vec<bool>, ways: u32| {
                order.iter().copied().chain((0..n).map(|i| ways >> i & 1 == 1)).collect::<Vec<bool>>()
            };
            orders = orders
                .iter()
                .flat_map(|order| ways.iter().map(|&ways| longer(order, ways)).collect::<Vec<_>>())
                .collect();
        }
        let value = |order: &Vec<bool>| {
            let (mut hits, mut sum) = (0.0, 0.0);
            for (i, _) in order.iter().take(cut).enumerate().filter(|(_, hit)| **hit) {
                hits += 1.0;
                sum += hits / (i + 1) as f64;
            }
            (sum / f64::max(hits, 1.0), sum / total.min(cut).max(1) as f64)
        };
        orders.iter().map(value).collect()
    }

    #[test]
    fn expectation_and_bounds_are_those_of_every_order() {
        let mut draw = stream(1, "groups", &[]);
        for case in 0..150 {
            let groups = random_groups(&mut draw, 1 + case % 4, [11, 7, 5, 4][case % 4]);
            let items = groups.iter().map(|group| group.items as usize).sum();
            for cut in 1..=items {
                let orders = every_order(&groups, cut);
                let found = at(&groups, cut);
                let check = |tied: Tied, values: Vec<f64>, what: &str| {
                    let (mean, least, most) =
                        values.iter().fold((0.0, f64::MAX, f64::MIN), |(sum, least, most), &x| {
                            (sum + x / values.len() as f64, f64::min(least, x), f64::max(most, x))
                        });
                    for (ours, theirs) in [(tied.expected, mean), (tied.worst, least), (tied.best, most)] {
                        assert!(
                            (ours - theirs).abs() < 1e-12,
                            "{what}: {groups:?} @{cut}: {tied:?} {mean} {least} {most}"
                        );
                    }
                };
                check(found.by_hits, orders.iter().map(|order| order.0).collect(), "by hits");
                check(found.by_ideal, orders.iter().map(|order| order.1).collect(), "by ideal");
            }
        }
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
    fn several_cuts_and_larger_groups() {
        let mut draw = stream(2, "groups", &[]);
        for case in 0..100 {
            let groups = random_groups(&mut draw, 1 + case % 6, 40);
            let items = groups.iter().map(|group| group.items as usize).sum::<usize>();
            let relevant = groups.iter().map(|group| group.relevant as usize).sum();
            let cuts: Vec<usize> = (1..=items).collect();
            let sums = Reciprocals::new(30);
            let all = average_precisions(&groups, &cuts, relevant, &sums);
            for (&cut, found) in cuts.iter().zip(all) {
                // To rounding: sums are cut where the cuts are.
                let alone = average_precisions(&groups, &[cut], relevant, &sums)[0];
                for (among, alone) in [(found.by_hits, alone.by_hits), (found.by_ideal, alone.by_ideal)] {
                    assert!((among.expected - alone.expected).abs() < 1e-14, "case {case} @{cut}");
                    assert_eq!((among.worst, among.best), (alone.worst, alone.best), "case {case} @{cut}");
                }
                let expected = expected_by_binomials(&groups, cut as u32);
                assert!((found.by_hits.expected - expected).abs() < 1e-12, "case {case} @{cut}");
                for tied in [found.by_hits, found.by_ideal] {
                    assert!(
                        tied.worst <= tied.expected + 1e-12 && tied.expected <= tied.best + 1e-12,
                        "{groups:?} @{cut}"
                    );
                    assert!((-1e-12..=1.0 + 1e-12).contains(&tied.expected));
                }
            }
        }
    }

    #[test]
    fn the_least_value_by_hits_may_lie_between_the_ends() {
        // Every number of hits inside the cut is tried, instead of searching for the turning point.
        let mut draw = stream(3, "groups", &[]);
        let mut between = 0;
        for _ in 0..1000 {
            let before = Group { items: 1 + draw.below(30) as u32, relevant: 0 };
            let before = Group { relevant: draw.below(before.items as usize + 1) as u32, ..before };
            let items = 2 + draw.below(60) as u32;
            let group = Group { items, relevant: draw.below(items as usize + 1) as u32 };
            let room = 1 + draw.below(items as usize - 1);
            let (n, r) = (items as usize, group.relevant as usize);
            let (least, most) = ((room + r).saturating_sub(n), r.min(room));
            let (t0, h0) = (f64::from(before.items), f64::from(before.relevant));
            let sum: f64 = (1..=before.relevant).map(|j| f64::from(j) / (t0 - h0 + f64::from(j))).sum();
            let value = |t: usize| {
                let start = t0 + (room - t) as f64;
                let sum = sum + (1..=t).map(|j| (h0 + j as f64) / (start + j as f64)).sum::<f64>();
                if h0 as usize + t == 0 { 0.0 } else { sum / (h0 + t as f64) }
            };
            let expected = (least..=most).map(value).fold(f64::MAX, f64::min);
            between += usize::from(expected < value(least).min(value(most)) - 1e-9);
            let found = at(&[before, group], before.items as usize + room).by_hits.worst;
            assert!((found - expected).abs() < 1e-12, "{before:?} {group:?} {room}: {found} {expected}");
        }
        assert!(between > 0, "the search for a turning point is needed");
    }

    #[test]
    fn a_perfect_ranking_scores_one() {
        let all = [Group { items: 997, relevant: 997 }];
        for cut in [1, 500, 997] {
            let found = at(&all, cut);
            for value in [found.by_hits.expected, found.by_hits.worst, found.by_ideal.best] {
                assert!((value - 1.0).abs() < 1e-14, "{found:?}");
            }
        }
    }

    #[test]
    fn large_groups_neither_overflow_nor_drift() {
        // Any order of one group with a third relevant: precision is close to a third at almost every rank.
        let group = [Group { items: 3_000_000, relevant: 1_000_000 }];
        let cut = at(&group, 1_000_000).by_hits.expected;
        assert!((cut - 1.0 / 3.0).abs() < 1e-4, "{cut}");
        // The cut just before a group's end and at it must meet.
        let whole = at(&group, 3_000_000).by_hits.expected;
        let almost = at(&group, 2_999_999).by_hits.expected;
        assert!((whole - almost).abs() < 1e-6, "{whole} {almost}");
        let largest = [Group { items: u32::MAX, relevant: u32::MAX / 2 }];
        assert!((at(&largest, 1 << 31).by_hits.expected - 0.5).abs() < 1e-3);
    }

    #[test]
    fn hypergeometric_weights_have_the_right_mean() {
        for (items, relevant, drawn) in [(10, 4, 3), (10, 10, 3), (10, 0, 3), (5, 4, 4), (100_000, 40_000, 30_000)] {
            let mean = hypergeometric_mean(&Group { items, relevant }, drawn, |t| t as f64);
            let expected = f64::from(relevant) * drawn as f64 / f64::from(items);
            assert!((mean - expected).abs() < 1e-9 * (1.0 + expected), "{items} {relevant} {drawn}: {mean}");
        }
    }
}
