//! What the commands about past runs share.

use crate::cache::Store;
use crate::error::Result;
use crate::runs::{Record, Runs};
use clap::Args;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Whose history.
#[derive(Debug, Clone, Args)]
pub(super) struct Cache {
    /// The cache [default: `cache` in the present folder]
    #[arg(long, value_name = "DIR", env = "HASHPIPE_CACHE")]
    cache: Option<PathBuf>,
}

impl Cache {
    /// The cache to read only.
    pub(super) fn store(&self) -> Store {
        Store::at(self.cache.as_deref().unwrap_or("cache".as_ref()))
    }

    pub(super) fn runs(&self) -> Runs {
        Runs::at(self.store().runs())
    }

    /// The run that a text means.
    pub(super) fn run(&self, text: &str) -> Result<Record> {
        let runs = self.runs();
        runs.read(&runs.find(text)?)
    }
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
