//! `hashpipe cache`: what the cache holds, room in it, and whether it is whole.

mod du;
mod gc;
mod verify;

use crate::cache::{Limits, Store, gc_after_run};
use crate::error::{Error, Place, Result};
use crate::report::{plural, size};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what takes how much room, and what could be freed
    Du(du::Arguments),
    /// Remove what nothing can use any more; with limits, also what is cheapest to make again
    Gc(gc::Arguments),
    /// Read every record and object in full, and report what is not as it was made
    Verify(verify::Arguments),
}

/// Which cache.
#[derive(Debug, Clone, Args)]
struct Folder {
    /// The cache
    #[arg(long, value_name = "DIR", env = "HASHPIPE_CACHE", default_value = "cache")]
    cache: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Du(arguments) => du::run(arguments),
        Command::Gc(arguments) => gc::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
    }
}

impl Folder {
    /// The cache, which has to be there.
    fn open(&self) -> Result<Store> {
        if !self.cache.is_dir() {
            return Err(Error::input(format!("there is no cache `{}`", self.cache.display()))
                .hint("run this in the project folder, or name the cache with `--cache DIR`"));
        }
        Ok(Store::at(&self.cache))
    }
}

/// Keeps the cache to the limits that the environment or its `config.toml` set, if any. To be called at the end of a
/// run. Gives what the user should know.
pub(super) fn tidy(folder: &Path, store: &Store) -> Option<String> {
    let freed = limits(folder).and_then(|limits| gc_after_run(store, limits));
    match freed {
        Ok(None) => None,
        Ok(Some(freed)) if freed.items.is_empty() => None,
        Ok(Some(freed)) => Some(format!(
            "hashpipe: freed {} of the cache ({})",
            size(freed.before - freed.after),
            plural(freed.items.len(), "item")
        )),
        // What was run is there all the same.
        Err(error) => Some(error.render("warning")),
    }
}

/// The limits that are set for a cache, the environment before its file.
fn limits(folder: &Path) -> Result<Limits> {
    const VARIABLE: &str = "HASHPIPE_CACHE_MAX_SIZE";
    let max_size = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            let at = |message: String| Error::input(message).at(Place::Argument(format!("{VARIABLE}={text}")));
            Some(text.parse().map_err(at)?)
        }
        _ => None,
    };
    Ok(Limits { max_size, ..Limits::default() }.over(Limits::of(folder)?))
}
