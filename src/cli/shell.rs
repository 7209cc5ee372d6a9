//! `hashpipe completions` and `hashpipe man`: the command line, told to shells and to `man`.

use super::Cli;
use crate::error::{Error, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const PROGRAM: &str = "hashpipe";

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell; its script goes to standard output
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Folder for a page per command [default: one page to standard output]
    folder: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions) -> Result<u8> {
    let mut script = vec![];
    clap_complete::generate(arguments.shell, &mut Cli::command(), PROGRAM, &mut script);
    show(&script);
    Ok(0)
}

pub(super) fn man(arguments: &Man) -> Result<u8> {
    match &arguments.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))?;
            clap_mangen::generate_to(Cli::command(), folder).map_err(|e| Error::io("write pages to", folder, &e))?;
        }
        None => {
            let mut page = vec![];
            clap_mangen::Man::new(Cli::command().disable_help_subcommand(true))
                .render(&mut page)
                .map_err(|e| Error::io("write the manual to", Path::new("standard output"), &e))?;
            show(&page);
        }
    }
    Ok(0)
}

/// A reader that has seen enough is no error.
fn show(text: &[u8]) {
    let _ = std::io::stdout().lock().write_all(text);
}
