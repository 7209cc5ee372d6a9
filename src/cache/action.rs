//! The record of a result: what it was made from, what it is, and how it went.

use super::key::{Key, Line};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A finished task. On disk: one line of JSON, and one with that line's blake3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    pub key: Key,
    /// Every part of the key, for explanations.
    pub lines: Vec<Line>,
    /// Kind of stage.
    pub kind: String,
    pub outputs: BTreeMap<String, Object>,
    /// Figures the stage reported.
    pub metrics: BTreeMap<String, f64>,
    /// What the user should know about the result.
    pub warnings: Vec<String>,
    /// Wall time of the task.
    pub seconds: f64,
    pub threads: usize,
    /// GPU slot it ran on.
    pub gpu: Option<usize>,
    pub host: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

/// Bytes in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// blake3 of the file, or of a folder's names and contents.
    pub digest: String,
    /// Bytes, of all files together.
    pub size: u64,
    pub folder: bool,
}

impl Action {
    /// Bytes of all outputs.
    pub fn size(&self) -> u64 {
        self.outputs.values().map(|object| object.size).sum()
    }

    pub(super) fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("a record is plain data");
        let checksum = blake3::hash(json.as_bytes());
        format!("{json}\n{}\n", checksum.to_hex())
    }

    /// The record, if the text is whole and is of this key.
    pub(super) fn from_text(text: &str, key: &Key) -> Option<Self> {
        let (json, checksum) = text.trim_end().rsplit_once('\n')?;
        if blake3::hash(json.as_bytes()).to_hex().as_str() != checksum {
            return None;
        }
        serde_json::from_str(json).ok().filter(|action: &Self| action.key == *key)
    }
}
