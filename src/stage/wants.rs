//! What a task asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a task occupies while it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wants {
    /// Threads.
    pub cpus: Option<usize>,
    /// GPUs.
    pub gpus: Option<usize>,
    /// Memory.
    pub memory: Option<String>,
    /// Memory of a GPU.
    pub gpu_memory: Option<String>,
    /// Time.
    pub timeout: Option<String>,
}
