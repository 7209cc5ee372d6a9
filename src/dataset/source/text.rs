//! Text files of a data set, read whole: of a size that fits, and in UTF-8.

use crate::error::{Error, Place, Result};
use std::io::Read as _;
use std::path::Path;

/// The largest text file that is taken, in bytes: NUS-WIDE's longest has 11 MB, COCO's published database 23 MB.
pub(super) const LARGEST: u64 = 1 << 30;

/// Reads a text file of at most `largest` bytes; `what` says what it should be, as in `the list`.
///
/// # Errors
/// A file that is missing, too large, or not in UTF-8; the last with the line.
pub(super) fn read(what: &str, path: &Path, largest: u64) -> Result<String> {
    let place = || Place::Path(path.display().to_string());
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::data(format!("{what} is missing")).at(place()),
        _ => Error::data(format!("{what} cannot be read")).at(place()).note(e.to_string()),
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = vec![];
    file.take(largest + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > largest {
        return Err(Error::data(format!("{what} is larger than {largest} bytes")).at(place()));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::data(format!("{what} is not UTF-8"))
            .at(Place::Path(format!("{}:{line}", path.display())))
            .hint("convert it: `iconv -f LATIN1 -t UTF-8 OLD > NEW`")
    })
}

/// The lines of a text without its byte order mark and the empty lines at its end, numbered from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.trim_end().trim_start_matches('\u{feff}').lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"ab\ncd\n\xff\xfe\n").unwrap();
        let shown = read("the list", &path, 100).unwrap_err().render("error");
        assert!(shown.contains("the list is not UTF-8") && shown.contains("a.txt:3\n"), "{shown}");
        assert_eq!(read("the list", &path, 4).unwrap_err().message(), "the list is larger than 4 bytes");
        assert_eq!(read("x", &folder.path().join("b"), 4).unwrap_err().message(), "x is missing");
        assert_eq!(lines("\u{feff}a\r\n\nb\n\n").collect::<Vec<_>>(), [(1, "a"), (2, ""), (3, "b")]);
    }
}
