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

    /// Looks at more bytes; if they are refused, says why and at which of them.
    fn look(&mut self, bytes: &[u8]) -> Option<(&'static str, usize)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            if let Some(length) = &mut self.string {
                // To the end of the string, or to what might hide it.
                let end = if self.escaped { Some(0) } else { memchr::memchr2(b'"', b'\\', rest) };
                let passed = end.map_or(rest.len(), |end| end + 1);
                *length += passed as u64;
                if *length > LONGEST {
                    return Some(("a string of more than 1 MiB", at + passed));
                }
                match end {
                    Some(_) if self.escaped => self.escaped = false,
                    Some(end) if rest[end] == b'\\' => self.escaped = true,
                    Some(_) => self.string = None,
                    None => {}
                }
                rest = &rest[passed..];
                continue;
            }
            let Some(next) = rest.iter().position(|byte| matches!(byte, b'"' | b'[' | b']' | b'{' | b'}')) else {
                break;
            };
            match rest[next] {
                b'"' => self.string = Some(0),
                b'[' | b'{' => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Some(("lists or objects nested more than 64 deep", at + next + 1));
                    }
                }
                _ => self.depth = self.depth.saturating_sub(1),
            }
            rest = &rest[next + 1..];
        }
        None
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some((what, at)) = self.look(&buffer[..count]) {
            return Err(Error::other(format!("{what}, at byte {}", self.passed + at as u64)));
        }
        self.passed += count as u64;
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
