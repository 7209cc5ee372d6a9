//! What a training says of itself, step by step and epoch by epoch.

use serde::{Deserialize, Serialize};

/// How far a training is; sent after every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    pub epoch: usize,
    pub epochs: usize,
    /// Steps done of this epoch.
    pub step: usize,
    pub steps: usize,
    /// Of this step's batch.
    pub loss: f64,
    pub lr: f64,
    pub scale: f64,
    /// Since the epoch began.
    pub images_per_second: f64,
}

/// What is remembered of an epoch. All but the last two are the same in every run of one recipe; those are 0 for epochs
/// that a shorter training left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub epoch: usize,
    /// Mean over the images.
    pub loss: f64,
    pub lr: f64,
    pub scale: f64,
    pub images: usize,
    /// What the network of this epoch was measured at, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<f64>,
    pub seconds: f64,
    pub images_per_second: f64,
}

impl Record {
    /// What is the same in every run.
    pub(super) fn without_times(&self) -> Self {
        Self { seconds: 0.0, images_per_second: 0.0, ..*self }
    }
}
