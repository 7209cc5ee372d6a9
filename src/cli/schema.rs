//! `hashpipe schema`: JSON schemas of what people write and of what programs read.

use crate::error::Result;
use crate::report::print;
use crate::schema;
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Of what
    #[arg(value_enum, default_value_t = What::Pipeline)]
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Pipeline files, for editors
    Pipeline,
    /// Files that pipelines extend: nothing is required
    Part,
    /// A line of `run --json`, `run --events` and of a run's `events.jsonl`
    Events,
    /// A run's `run.json`
    Run,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let schema = match arguments.what {
        What::Pipeline => schema::pipeline(schema::Whole::Yes),
        What::Part => schema::pipeline(schema::Whole::No),
        What::Events => schema::events(),
        What::Run => schema::run(),
    };
    print(&format!("{schema:#}"));
    Ok(0)
}
