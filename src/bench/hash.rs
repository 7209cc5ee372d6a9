//! How fast a file is hashed.

use super::{Subject, pool};
use crate::cache::Digests;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Hashing of a file, as the cache does it; its floor is reading it. The file is in memory after the first turn, if it
/// fits there.
///
/// # Errors
/// If it cannot be read.
pub fn hash(path: &Path, threads: usize) -> Result<Subject<'_>> {
    let size = path.metadata().map_err(|e| Error::io("read", path, &e))?.len() as f64;
    let pool = pool(threads)?;
    Ok(Subject {
        name: format!("hash {}", path.display()),
        speed_of: String::new(),
        unit: "bytes",
        threads,
        // A memo of its own each time: what is known is not read.
        turn: Box::new(move || {
            pool.install(|| Digests::read_only(PathBuf::new()).trusted_for(std::time::Duration::ZERO).file(path))?;
            Ok(size)
        }),
        floor: Some(Box::new(move || {
            read(path)?;
            Ok(size)
        })),
    })
}

/// Reads a file from end to end, on one thread.
fn read(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let mut room = vec![0u8; 1 << 20];
    while file.read(&mut room).map_err(failed)? > 0 {}
    Ok(())
}
