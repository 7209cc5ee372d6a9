//! An assessment as JSON.

use super::Assessment;
use crate::retrieval::Evaluation;
use serde_json::{Value, json};

/// The name of a figure: what was asked for, so that a smaller database does not make another one of it.
pub fn metric_name(top_k: usize) -> String {
    if top_k == 0 { "mAP@all".to_string() } else { format!("mAP@{top_k}") }
}

/// The figures of one evaluation at one place of the ranks that count.
pub fn figures(evaluation: &Evaluation, at: usize) -> Value {
    let map = &evaluation.summary.map[at];
    json!({
        "value": map.by_hits.stable,
        "value_min_rk": map.by_ideal.stable,
        "value_expected_over_ties": map.by_hits.expected,
        "value_worst_over_ties": map.by_hits.worst,
        "value_best_over_ties": map.by_hits.best,
        "value_min_rk_expected_over_ties": map.by_ideal.expected,
        "chance": evaluation.summary.chance,
    })
}

impl Assessment {
    /// The main figure.
    pub fn value(&self) -> f64 {
        self.evaluation.summary.map[self.main].by_hits.stable
    }

    /// The main figure with the queries in the database if it is without them, and the other way round.
    pub fn other_value(&self) -> Option<f64> {
        Some(self.other.as_ref()?.summary.map[self.main].by_hits.stable)
    }

    /// Everything but the results per query. `excluded` says whether queries were taken out of their own rankings.
    pub fn to_json(&self, excluded: bool) -> Value {
        let mut told = figures(&self.evaluation, self.main);
        let other = if excluded { "with_self" } else { "without_self" };
        let distances = &self.evaluation.summary.distances;
        for (name, value) in [
            ("intervals", json!(self.intervals)),
            (other, self.other.as_ref().map_or(Value::Null, |other| figures(other, self.main))),
            ("metrics", json!(self.evaluation.summary)),
            (
                "distances",
                json!({
                    "distance": distances.iter().map(|at| at.distance).collect::<Vec<_>>(),
                    "relevant": distances.iter().map(|at| at.relevant).collect::<Vec<_>>(),
                    "other": distances.iter().map(|at| at.other).collect::<Vec<_>>(),
                }),
            ),
            ("codes", json!({ "query": self.query_codes, "database": self.database_codes })),
        ] {
            told[name] = value;
        }
        told
    }

    /// What is to be said if the order of the database makes the figure.
    pub fn tie_warning(&self, metric: &str) -> Option<String> {
        /// A difference that is told in tables.
        const NOTICED: f64 = 1e-3;
        let map = &self.evaluation.summary.map[self.main].by_hits;
        let moved = map.stable - map.expected;
        (moved.abs() > NOTICED).then(|| {
            format!(
                "{metric} is {:.4} with ties in database order, but {:.4} on average over all orders of ties ({:.4} to \
                 {:.4}): the order of the database makes {moved:+.4} of it",
                map.stable, map.expected, map.worst, map.best
            )
        })
    }
}
