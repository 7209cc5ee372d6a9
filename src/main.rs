//! The `hashpipe` command.

use std::process::ExitCode;

/// Planning makes millions of small texts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match hashpipe::cli::run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            hashpipe::report::note(&error.render("error"));
            ExitCode::from(error.kind().exit_code())
        }
    }
}
