//! The `hashpipe` command.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: hashpipe::memory::Memory = hashpipe::memory::Memory::new();

fn main() -> ExitCode {
    match hashpipe::cli::run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            hashpipe::report::note(&error.render("error"));
            ExitCode::from(error.kind().exit_code())
        }
    }
}
