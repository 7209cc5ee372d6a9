//! `hashpipe completions` and `hashpipe man`: the command line, told to shells and to `man`.

use super::Cli;
use crate::error::{Error, Result};
use crate::outfile;
use crate::report::print_bytes;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
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
    print_bytes(&script);
    Ok(0)
}

pub(super) fn man(arguments: &Man) -> Result<u8> {
    match &arguments.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))?;
            let mut command = Cli::command().disable_help_subcommand(true);
            command.build();
            pages(command, folder)?;
        }
        None => {
            print_bytes(&page(&clap_mangen::Man::new(Cli::command().disable_help_subcommand(true))));
        }
    }
    Ok(0)
}

/// Writes the page of a command and those of its subcommands.
fn pages(command: clap::Command, folder: &Path) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(inner.clone(), folder)?;
    }
    let manual = clap_mangen::Man::new(command);
    outfile::write(&folder.join(manual.get_filename()), &page(&manual))
}

fn page(manual: &clap_mangen::Man) -> Vec<u8> {
    let mut page = vec![];
    manual.render(&mut page).expect("memory can be written");
    page
}
