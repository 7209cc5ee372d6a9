//! Standard output, and what became of it: data that did not arrive must not look like success.

use crate::error::{Error, FULL, Kind, Result};
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

/// The first thing that went wrong.
static FAULT: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes data for the user or a script: standard output. What fails is told by [`printed`].
pub fn print(text: &str) {
    print_bytes(format!("{text}\n").as_bytes());
}

/// The same for bytes as they are; whether anybody reads them.
pub fn print_bytes(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    is_heard(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whether something could be written to standard output; keeps why not.
pub fn is_heard(written: io::Result<()>) -> bool {
    let Err(fault) = written else { return true };
    // A reader that has seen enough is no error.
    if fault.kind() != io::ErrorKind::BrokenPipe {
        FAULT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }
    false
}

/// Whether all that was printed so far has arrived.
///
/// # Errors
/// The first write that failed, unless it was because nobody reads any more.
pub fn printed() -> Result<()> {
    // What others wrote, such as the help, may still wait for the end of its line.
    is_heard(io::stdout().lock().flush());
    let fault = FAULT.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(fault) = fault else { return Ok(()) };
    let error = Error::new(Kind::Io, "cannot write to standard output").note(fault.to_string());
    Err(match fault.kind() {
        io::ErrorKind::StorageFull => error.hint(FULL),
        _ => error,
    })
}
