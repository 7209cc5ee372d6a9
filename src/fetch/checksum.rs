//! Checksums as their publishers give them, and those that are kept of what came.

use md5::Digest as _;

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha256,
}

/// A checksum of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: Algorithm,
    /// In lower-case hexadecimal.
    pub hex: String,
}

/// Both checksums of the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sums {
    pub(super) md5: String,
    pub(super) sha256: String,
}

impl Sums {
    /// The one that was published, in the same form.
    pub(super) fn of(&self, algorithm: Algorithm) -> &str {
        match algorithm {
            Algorithm::Md5 => &self.md5,
            Algorithm::Sha256 => &self.sha256,
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        })
    }
}

/// Makes both checksums at once.
#[derive(Default)]
pub(super) struct Summing {
    md5: md5::Md5,
    sha256: sha2::Sha256,
}

impl Summing {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha256.update(bytes);
    }

    pub(super) fn finish(self) -> Sums {
        Sums { md5: hex(&self.md5.finalize()), sha256: hex(&self.sha256.finalize()) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_have_their_known_sums() {
        let mut summing = Summing::default();
        summing.update(b"a");
        summing.update(b"bc");
        let sums = summing.finish();
        assert_eq!(sums.of(Algorithm::Md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sums.of(Algorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
