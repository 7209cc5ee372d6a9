//! A reader that lets JSON pass only while it is of a size and depth that annotations have.
//!
//! serde_json skips what is not asked for, but it collects a string before it can look at it, and keeps a byte for each
//! open bracket. A file of one endless string, or of a billion brackets, would so take all memory.

use std::io::{Error, Read, Result};

/// The longest string, in bytes. COCO's longest are run lengths of some kilobytes.
const LONGEST: u64 = 1 << 20;
/// The most open brackets. COCO's annotations have 6.
const DEEPEST: usize = 64;

pub(super) struct Guard<R> {
    inner: R,
    /// Bytes that have passed.
    passed: u64,
    /// Length of the present string, if it is within one.
    string: Option<u64>,
    escaped: bool,
    depth: usize,
}

impl<R: Read> Guard<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, passed: 0, string: None, escaped: false, depth: 0 }
    }

    fn look(&mut self, byte: u8) -> Option<&'static str> {
        self.passed += 1;
        match &mut self.string {
            Some(length) => {
                *length += 1;
                if *length > LONGEST {
                    return Some("a string of more than 1 MiB");
                }
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.string = None,
                    _ => {}
                }
            }
            None => match byte {
                b'"' => self.string = Some(0),
                b'[' | b'{' => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Some("lists or objects nested more than 64 deep");
                    }
                }
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            },
        }
        None
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.inner.read(buffer)?;
        for byte in &buffer[..count] {
            if let Some(what) = self.look(*byte) {
                return Err(Error::other(format!("{what}, at byte {}", self.passed)));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(text: &str) -> Result<usize> {
        Guard::new(text.as_bytes()).read_to_end(&mut vec![])
    }

    #[test]
    fn only_what_annotations_look_like_passes() {
        assert!(pass(r#"{"a": "\"[[[[", "b": [[1.5e3, null]]}"#).is_ok());
        assert!(pass(&format!("{}1{}", "[".repeat(64), "]".repeat(64))).is_ok());
        assert_eq!(
            pass(&"[".repeat(65)).unwrap_err().to_string(),
            "lists or objects nested more than 64 deep, at byte 65"
        );
        let long = format!("\"{}", "x".repeat(1 << 20));
        assert!(pass(&long).is_ok());
        assert!(pass(&(long + "x")).unwrap_err().to_string().starts_with("a string of more than 1 MiB"));
    }
}
