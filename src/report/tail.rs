//! The end of a log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes at the end of a log that are looked at.
const ENOUGH: u64 = 64 << 10;

/// The last lines of a text file, at most so many; none if it cannot be read.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut bytes = vec![];
    let read = File::open(path).and_then(|mut file| {
        let start = file.metadata()?.len().saturating_sub(ENOUGH);
        file.seek(SeekFrom::Start(start))?;
        file.take(ENOUGH).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return vec![];
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut last: Vec<String> = text.lines().rev().take(lines).map(str::to_string).collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_gives_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, (0..100_000).map(|i| format!("line {i}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), ["line 99998", "line 99999"]);
        assert_eq!(tail(&folder.path().join("none"), 2), [""; 0]);
    }
}
