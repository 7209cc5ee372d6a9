//! `hashpipe trace`: a run as a picture, for <https://ui.perfetto.dev>.

use super::history::Cache;
use crate::error::{Error, Result};
use crate::outfile;
use crate::report::{note, print};
use crate::runs::trace;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A run: `last`, `last-1`, or the beginning of its id or of the id's last part
    #[arg(default_value = "last")]
    run: String,
    /// The file to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    cache: Cache,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let record = arguments.cache.run(&arguments.run)?;
    let text = trace(&record, &arguments.cache.runs().events(&record.id)).to_string();
    match &arguments.output {
        None => print(&text),
        Some(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))?;
            }
            outfile::write(path, text.as_bytes())?;
            note(&format!("hashpipe: wrote {}; open it at https://ui.perfetto.dev", path.display()));
        }
    }
    Ok(0)
}
