//! `hashpipe pin`: keep a run's record for good.

use super::history::Cache;
use crate::error::Result;
use crate::report::note;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A run: `last`, `last-1`, or the beginning of its id or of the id's last part
    run: String,
    /// Let it go when its time comes
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    cache: Cache,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let runs = arguments.cache.runs();
    let id = runs.find(&arguments.run)?;
    runs.pin(&id, !arguments.remove)?;
    note(&format!("hashpipe: run {id} is {}", if arguments.remove { "no longer pinned" } else { "pinned" }));
    Ok(0)
}
