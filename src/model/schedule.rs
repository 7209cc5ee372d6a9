//! How the learning rate falls from epoch to epoch.

use crate::choices;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// What a schedule says.
pub trait Schedule {
    /// What the learning rate is multiplied by in an epoch; epochs count from 1.
    fn factor(&self, epoch: usize) -> f64;

    /// Whether what it says of an epoch depends on how many there will be: then a finished training cannot be made
    /// longer. No default, so that whoever writes a schedule decides.
    fn looks_ahead(&self) -> bool;
}

choices! {
    /// What `schedule = { name = ".." }` may be.
    pub enum ScheduleSpec: Schedule {
        Step(Step) = "step",
        Constant(Constant) = "constant",
    }
}

/// `factor^(t / every)` with whole division: the rate is cut every so many epochs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Epochs between two cuts.
    #[serde(default = "fifty")]
    pub every: NonZeroUsize,
    /// What the rate is multiplied by at each cut.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub factor: f64,
    /// Where the count starts.
    #[serde(default)]
    pub first: First,
}

impl Default for Step {
    fn default() -> Self {
        Self { every: fifty(), factor: half(), first: First::default() }
    }
}

fn fifty() -> NonZeroUsize {
    const { NonZeroUsize::new(50).expect("50 is not 0") }
}

fn half() -> f64 {
    0.5
}

/// Which of the reference's two counts of epochs is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum First {
    /// As in its published logs, t = epoch - 1: cuts at 51, 101, ...
    #[default]
    Logs,
    /// As its released code does, t = epoch: cuts at 50, 100, ...
    Released,
}

impl Schedule for Step {
    fn factor(&self, epoch: usize) -> f64 {
        let t = match self.first {
            First::Logs => epoch.saturating_sub(1),
            First::Released => epoch,
        };
        self.factor.powi(i32::try_from(t / self.every).unwrap_or(i32::MAX))
    }

    fn looks_ahead(&self) -> bool {
        false
    }
}

/// One rate for all epochs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {}

impl Schedule for Constant {
    fn factor(&self, _epoch: usize) -> f64 {
        1.0
    }

    fn looks_ahead(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges of epochs and their rates, from the reference's logs and code (tests/golden/formats.json).
    fn check(schedule: &str, golden: &str) {
        let schedule: ScheduleSpec = serde_json::from_str(schedule).unwrap();
        let goldens: serde_json::Value = serde_json::from_str(include_str!("../../tests/golden/formats.json")).unwrap();
        for (epochs, rate) in goldens["lr"][golden].as_object().unwrap() {
            let (first, last) = epochs.split_once('-').unwrap_or((epochs, epochs));
            for epoch in [first, last] {
                let ours = 0.002 * schedule.builder().factor(epoch.parse().unwrap());
                assert_eq!(ours, rate.as_f64().unwrap(), "epoch {epoch}");
            }
        }
    }

    #[test]
    fn steps_are_where_the_reference_has_them() {
        check(r#"{"name": "step"}"#, "published_logs");
        check(r#"{"name": "step", "first": "released"}"#, "released_code");
    }

    #[test]
    fn constant_is_constant() {
        let schedule: ScheduleSpec = serde_json::from_str(r#"{"name": "constant"}"#).unwrap();
        assert_eq!([1, 1000].map(|epoch| schedule.builder().factor(epoch)), [1.0, 1.0]);
    }

    #[test]
    fn a_step_of_no_epochs_is_refused() {
        assert!(serde_json::from_str::<ScheduleSpec>(r#"{"name": "step", "every": 0}"#).is_err());
    }
}
