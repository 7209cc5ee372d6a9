//! What is said when an output is not what its stage promises.
//!
//! Contracts ask the files as they lie on disk, and not whoever wrote them: what is published is what was checked.

use crate::error::{Error, Kind, Result};

/// An output that breaks its promise.
pub(super) fn broken(output: &str, what: impl Into<String>) -> Error {
    Error::new(Kind::Contract, format!("the output `{output}` is not what it must be"))
        .note(what)
        .note("nothing was cached")
        .hint("this is a fault of hashpipe: please report it")
}

/// What was read of an output; one that makes no sense to its reader breaks its promise.
pub(super) fn readable<T>(output: &str, read: Result<T>) -> Result<T> {
    read.map_err(|error| match error.kind() {
        Kind::Io => error,
        _ => broken(output, error.message()),
    })
}

/// Whether two things that an output says, and that is said elsewhere, agree.
pub(super) fn agree<T: PartialEq + std::fmt::Display>(output: &str, what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(broken(output, format!("{what}: {found}, expected {expected}")))
}
