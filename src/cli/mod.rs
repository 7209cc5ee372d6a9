//! The command line: one file per command.

mod bench;
mod codes;
mod codes_arguments;
mod codes_stats;
mod compare;
mod device_argument;
mod diff;
mod dry_run;
mod cache;
mod evaluate;
mod exec;
mod explain;
mod verify;
mod exit;
mod fetch;
mod graph;
mod history;
mod leaderboard;
mod lists;
mod log;
mod pin;
mod query;
mod run;
mod runs;
mod schema;
mod search;
mod shell;
mod stages;
mod status;
mod telling;
mod trace;
mod weights;

use crate::cache::Store;
use crate::config::{Config, Request};
use crate::error::{Error, Place, Result};
use crate::names::known_or_nearest;
use crate::plan::Plan;
use crate::report::{is_heard, printed};
use clap::{Args, Parser, Subcommand};
use std::num::NonZeroU16;
use std::path::PathBuf;

/// Deep-hashing retrieval systems from one pipeline file, with nothing computed twice.
#[derive(Debug, Parser)]
#[command(version, after_help = exit::text(), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a pipeline up to date: run what is not in the cache
    Run(run::Arguments),
    /// Show what is in the cache, of one pipeline or of all
    Status(status::Arguments),
    /// Show why a stage runs, or where its result came from
    Explain(explain::Arguments),
    /// Run a stage again, apart from the cache, and compare what it gives
    Verify(verify::Arguments),
    /// List past runs: when, how they ended, what they saved
    Runs(runs::Arguments),
    /// Show what a stage wrote while it ran, in this run or in the one that made its result
    Log(log::Arguments),
    /// Show how two runs differ: settings, parameters, metrics
    Diff(diff::Arguments),
    /// Write a run as a trace for Perfetto or chrome://tracing
    Trace(trace::Arguments),
    /// Keep the record of a run for good
    Pin(pin::Arguments),
    /// Show every evaluation in the cache side by side, a table per protocol
    Leaderboard(leaderboard::Arguments),
    /// Compare two evaluations query by query: difference, interval, p-value
    Compare(compare::Arguments),
    /// Measure the codes of any program: how well queries find their like, and what the codes are like
    Evaluate(evaluate::Arguments),
    /// Find the codes nearest to given ones, in the codes of any program
    Search(search::Arguments),
    /// Find the database images nearest to the given ones
    Query(query::Arguments),
    /// Show what the cache holds, free room, or check every byte
    #[command(subcommand)]
    Cache(cache::Command),
    /// Read weights of other programs, and write weights for them
    #[command(subcommand)]
    Weights(weights::Command),
    /// Write codes for other programs, and read theirs
    #[command(subcommand)]
    Codes(codes::Command),
    /// Get data sets from where their makers put them
    Fetch(fetch::Arguments),
    /// Check lists of images before anything runs
    #[command(subcommand)]
    Lists(lists::Command),
    /// Measure what this machine can do
    Bench(bench::Arguments),
    /// Show the kinds of stages, their parameters and defaults
    Stages(stages::Arguments),
    /// Show which stage needs which
    Graph(graph::Arguments),
    /// Print the JSON schema of pipeline files, of events or of records of runs
    Schema(schema::Arguments),
    /// Print a script that lets a shell complete hashpipe's commands
    Completions(shell::Completions),
    /// Print the manual, or write a page per command to a folder
    Man(shell::Man),
    /// Run one task described in a file (what `run` starts for every task)
    #[command(hide = true)]
    Exec(exec::Arguments),
}

/// Which pipeline, and what is laid over it.
#[derive(Debug, Clone, Args)]
struct Pipeline {
    /// The pipeline file
    file: PathBuf,
    #[command(flatten)]
    over: Over,
}

#[derive(Debug, Clone, Args)]
struct Over {
    /// Lay the values of `[profile.NAME]` over the file's
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Lay one value over everything else, as in `--set train.hashnet.epochs=3`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Where things are kept.
#[derive(Debug, Clone, Args)]
struct Folders {
    /// The cache [default: `cache` in the project folder]
    #[arg(long, value_name = "DIR", env = "HASHPIPE_CACHE")]
    cache: Option<PathBuf>,
    /// Reports and exports [default: `output` in the project folder]
    #[arg(long, value_name = "DIR", env = "HASHPIPE_OUTPUT")]
    output: Option<PathBuf>,
}

impl Pipeline {
    fn plan(&self) -> Result<Plan> {
        plan(&self.file, &self.over)
    }
}

fn plan(file: &std::path::Path, over: &Over) -> Result<Plan> {
    let request = Request { file: file.to_path_buf(), profile: over.profile.clone(), sets: over.sets.clone() };
    let config = Config::load(&request)?;
    let plan = Plan::new(&config);
    // A command plans once and then ends: giving back a million small pieces would take as long as reading them did.
    std::mem::forget(config);
    plan
}

impl Folders {
    fn cache(&self, plan: &Plan) -> PathBuf {
        self.cache_in(&plan.project)
    }

    /// The cache of a project.
    fn cache_in(&self, project: &std::path::Path) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| project.join("cache"))
    }

    /// The pipeline's folder in `output/`.
    fn output(&self, plan: &Plan) -> PathBuf {
        self.output.clone().unwrap_or_else(|| plan.project.join("output")).join(&plan.pipeline)
    }

    /// The cache to read only.
    fn reader(&self, plan: &Plan) -> Store {
        Store::at(&self.cache(plan))
    }
}

/// Reads the command line and does what it says; gives the exit code.
pub fn run() -> Result<u8> {
    crate::process::outlive_file_limits();
    check_environment()?;
    let code = match Cli::try_parse() {
        Ok(cli) => perform(cli.command)?,
        Err(fault) if fault.use_stderr() => fault.exit(),
        // The help, or the version.
        Err(asked) => {
            is_heard(asked.print());
            0
        }
    };
    printed()?;
    Ok(code)
}

fn perform(command: Command) -> Result<u8> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Pin(arguments) => pin::run(&arguments),
        Command::Leaderboard(arguments) => leaderboard::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Query(arguments) => query::run(&arguments),
        Command::Cache(command) => cache::run(&command),
        Command::Weights(command) => weights::run(&command),
        Command::Codes(command) => codes::run(&command),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Lists(command) => lists::run(&command),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Stages(arguments) => stages::run(&arguments),
        Command::Graph(arguments) => graph::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments),
        Command::Man(arguments) => shell::man(&arguments),
        Command::Exec(arguments) => exec::run(&arguments),
    }
}

/// What stands for `--jobs`.
const JOBS: &str = "HASHPIPE_JOBS";
/// What stands for `--gpus`.
const GPUS: &str = "HASHPIPE_GPUS";
/// Names the vectors to compute with, for tests and comparisons.
const SIMD: &str = "HASHPIPE_SIMD";

/// What is wrong with the value of a variable that stands for an option: clap would blame the option, which nobody gave.
fn is_set<T: std::str::FromStr>(name: &str, expected: &str) -> Option<Error> {
    let value = std::env::var_os(name)?;
    let value = value.to_string_lossy();
    let fault = || {
        Error::input(format!("`{name}` is `{value}`"))
            .at(Place::Argument(format!("{name}={value}")))
            .hint(format!("{expected}, or leave it out"))
    };
    value.parse::<T>().is_err().then(fault)
}

/// A misspelt `HASHPIPE_` variable must not be ignored in silence.
fn check_environment() -> Result<()> {
    const KNOWN: [&str; 7] =
        ["HASHPIPE_CACHE", "HASHPIPE_CACHE_MAX_SIZE", "HASHPIPE_OUTPUT", JOBS, GPUS, SIMD, crate::schedule::FAKE_GPUS];
    let unknown = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| {
        name.strip_prefix("HASHPIPE_").is_some_and(|rest| !rest.contains("__")) && !KNOWN.contains(&name.as_str())
    });
    let errors = unknown.map(|name| {
        let hint = known_or_nearest(&name, &KNOWN, "variables");
        Error::input(format!("unknown environment variable `{name}`"))
            .at(Place::Argument(name))
            .hint(hint)
            .hint("a key of the pipeline is written with two underscores, as in HASHPIPE_TRAIN__HASHNET__EPOCHS=3")
    });
    let vectors = crate::model::check_vectors().err().map(|fault| {
        Error::input(fault).at(Place::Argument(SIMD.into())).hint("leave it out to compute with the fastest")
    });
    let jobs = is_set::<NonZeroU16>(JOBS, "expected a number of threads, 1 or more");
    let gpus = is_set::<crate::schedule::Gpus>(GPUS, "expected how many GPUs, or their numbers as in `0,2`");
    let errors = errors.chain(vectors).chain(jobs).chain(gpus);
    Error::all(errors.collect()).map_or(Ok(()), Err)
}
