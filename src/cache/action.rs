//! The record of a result: what it was made from, what it is, and how it went.

use super::key::{Key, Line};
use crate::process::Usage;
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
    pub outputs: Outputs,
    /// Outputs that hold times, and so are not compared between runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub varies: Vec<String>,
    /// Figures the stage reported.
    pub metrics: BTreeMap<String, f64>,
    /// Texts the stage reported, by name: what its figures were measured under.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// What the user should know about the result.
    pub warnings: Vec<String>,
    /// Wall time of the task.
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Threads it started with.
    pub threads: usize,
    /// GPUs it ran on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<usize>,
    /// Bytes of GPU memory it used at most, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<u64>,
    pub host: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The run that made it.
    #[serde(default)]
    pub run: String,
    /// Its log, below the cache's versioned folder.
    #[serde(default)]
    pub log: String,
    /// What the machine's present uptime was called when it was made, if its outputs were not forced to the disk: after
    /// a power failure they may be there in name only, and are read in full once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Other results that the same key gave later. The first one stays the result of the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

/// Outputs by name.
pub type Outputs = BTreeMap<String, Object>;

/// Another result of the same key: its stage is not deterministic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    pub outputs: Outputs,
    pub metrics: BTreeMap<String, f64>,
    pub made: u64,
    pub run: String,
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

/// What tasks that need a result have to know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub key: Key,
    pub outputs: Outputs,
    /// Wall time of the task that made it.
    pub seconds: f64,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

impl Made {
    /// Bytes of all outputs.
    pub fn size(&self) -> u64 {
        self.outputs.values().map(|object| object.size).sum()
    }
}

impl Action {
    /// Bytes of all outputs.
    pub fn size(&self) -> u64 {
        self.outputs.values().map(|object| object.size).sum()
    }

    /// The part of it that others need.
    pub fn made(&self) -> Made {
        Made { key: self.key.clone(), outputs: self.outputs.clone(), seconds: self.seconds, made: self.made }
    }

    /// Outputs that differ from another result's, of those that should not.
    pub fn differences(&self, outputs: &Outputs) -> Vec<String> {
        let compared = self.outputs.iter().filter(|(name, _)| !self.varies.contains(name));
        let differ =
            compared.filter(|(name, object)| outputs.get(*name).is_none_or(|other| other.digest != object.digest));
        differ.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("a record is plain data");
        let checksum = blake3::hash(json.as_bytes());
        format!("{json}\n{}\n", checksum.to_hex())
    }

    /// The record, if the text is whole and is of this key.
    pub(super) fn from_text(text: &str, key: &Key) -> Option<Self> {
        Self::whole(text).filter(|action| action.key == *key)
    }

    /// The record, if the text is whole.
    pub(super) fn whole(text: &str) -> Option<Self> {
        let (json, checksum) = text.trim_end().rsplit_once('\n')?;
        if blake3::hash(json.as_bytes()).to_hex().as_str() != checksum {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}
