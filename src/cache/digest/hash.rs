//! BLAKE3 of one file's bytes: a large file is read and hashed by all threads at once.
//!
//! BLAKE3 is a tree over chunks of 1 KiB, so any aligned piece whose size is a power of two is a subtree and can be
//! hashed on its own. A file is cut the way the tree is ([`left_subtree_len`]), down to pieces that fit in a core's
//! cache, each read into a buffer of its thread. The digest is that of [`blake3::hash`], whatever the cut.
//!
//! Not by a memory map, which would save the copy: a file that is truncated while it is mapped kills the process.

use super::Watch;
use crate::error::{Error, Kind, Result};
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{Hash, Hasher};
use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What a file was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) hash: Hash,
    /// How many bytes were read.
    pub(super) size: u64,
}

/// How a file is cut. Both are powers of two, and at least 1 KiB.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Bytes that one thread reads and hashes at once.
    piece: u64,
    /// Bytes that all threads share out between them. Windows come one after the other, so that a disk is read from
    /// front to back.
    window: u64,
}

/// What a core keeps in its second-level cache beside everything else.
const PIECE: usize = 256 << 10;

impl Cut {
    /// So many pieces for each thread that it hardly matters when one waits for another at a window's end.
    fn usual() -> Self {
        const EACH: u64 = 128;
        let piece = PIECE as u64;
        Self { piece, window: (piece * EACH * rayon::current_num_threads() as u64).next_power_of_two() }
    }
}

/// Hashes a file that had `size` bytes when it was looked at; 0 if that is not known, as of a pipe.
///
/// # Errors
/// If it cannot be read, if a large one became shorter meanwhile, or if the watch says stop.
pub(super) fn hash(path: &Path, size: u64, watch: &Watch) -> Result<Content> {
    watch.check()?;
    let file = File::open(path).map_err(|e| super::unreadable(path, &e))?;
    if size <= PIECE as u64 {
        return stream(file, path, watch);
    }
    let hash = Pieces { file: &file, path, watch, cut: Cut::usual() }.root(size)?;
    Ok(Content { hash, size })
}

/// Hashes what comes, up to its end.
fn stream(mut file: File, path: &Path, watch: &Watch) -> Result<Content> {
    with_buffer(PIECE, |buffer| {
        let (mut hasher, mut size) = (Hasher::new(), 0);
        loop {
            watch.check()?;
            match file.read(buffer) {
                Ok(0) => return Ok(Content { hash: hasher.finalize(), size }),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    size += read as u64;
                    watch.advance(read as u64);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", path, &e)),
            }
        }
    })
}

/// A file that is hashed in pieces.
struct Pieces<'a> {
    file: &'a File,
    path: &'a Path,
    watch: &'a Watch,
    cut: Cut,
}

impl Pieces<'_> {
    /// Digest of the first `size` bytes, which must be more than a chunk.
    fn root(&self, size: u64) -> Result<Hash> {
        let (left, right) = self.halves(0, size)?;
        Ok(merge_subtrees_root(&left, &right, Mode::Hash))
    }

    fn halves(&self, start: u64, size: u64) -> Result<(ChainingValue, ChainingValue)> {
        let left = left_subtree_len(size);
        if size > self.cut.window {
            return Ok((self.subtree(start, left)?, self.subtree(start + left, size - left)?));
        }
        let (left, right) = rayon::join(|| self.subtree(start, left), || self.subtree(start + left, size - left));
        Ok((left?, right?))
    }

    fn subtree(&self, start: u64, size: u64) -> Result<ChainingValue> {
        if size <= self.cut.piece {
            return self.piece(start, size);
        }
        let (left, right) = self.halves(start, size)?;
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    fn piece(&self, start: u64, size: u64) -> Result<ChainingValue> {
        self.watch.check()?;
        with_buffer(self.cut.piece as usize, |buffer| {
            let bytes = &mut buffer[..size as usize];
            self.file.read_exact_at(bytes, start).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => shrunk(self.path),
                _ => Error::io("read", self.path, &e),
            })?;
            self.watch.advance(size);
            Ok(Hasher::new().set_input_offset(start).update(bytes).finalize_non_root())
        })
    }
}

fn shrunk(path: &Path) -> Error {
    Error::new(Kind::Changed, format!("`{}` became shorter while it was read", path.display()))
        .hint("run again once the file is no longer written to")
}

/// Lends this thread's buffer. `work` must not hand work to other threads: while it waited for them, this thread could
/// be given work that wants the same buffer.
fn with_buffer<T>(size: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(vec![]) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        work(&mut buffer[..size])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The digest of the first `size` bytes by a cut of our own choice.
    fn cut(file: &tempfile::NamedTempFile, size: usize, piece: u64, window: u64) -> Hash {
        let (watch, cut) = (Watch::default(), Cut { piece, window });
        let pieces = Pieces { file: file.as_file(), path: file.path(), watch: &watch, cut };
        let hash = pieces.root(size as u64).unwrap();
        assert_eq!(watch.progress().0, size as u64);
        hash
    }

    #[test]
    fn every_length_near_a_border_of_the_tree_gives_the_plain_digest() {
        let bytes = bytes((128 << 10) + 2);
        let file = file(&bytes);
        let chunks = (1..=20).map(|n| n << 10);
        let powers = (5..=7).map(|n| 1 << (n + 10));
        for border in chunks.chain(powers) {
            for size in (border - 2..=border + 2).filter(|size| *size > 1024) {
                let expected = blake3::hash(&bytes[..size]);
                for (piece, window) in
                    [(1 << 10, 1 << 10), (1 << 10, 1 << 30), (4 << 10, 16 << 10), (32 << 10, 8 << 10)]
                {
                    if size as u64 > piece {
                        assert_eq!(cut(&file, size, piece, window), expected, "{size} bytes by {piece} and {window}");
                    }
                }
            }
        }
    }

    #[test]
    fn files_near_the_usual_cut_give_the_plain_digest() {
        let bytes = bytes(5 * PIECE + 1);
        let borders = [0, 1024, PIECE, 2 * PIECE, 3 * PIECE, 4 * PIECE, 5 * PIECE];
        for size in borders.iter().flat_map(|border| [border.saturating_sub(1), *border, border + 1]) {
            let file = file(&bytes[..size]);
            let expected = Content { hash: blake3::hash(&bytes[..size]), size: size as u64 };
            assert_eq!(hash(file.path(), size as u64, &Watch::default()).unwrap(), expected, "{size} bytes");
            // A size that is not known, or is no longer true, changes nothing.
            assert_eq!(hash(file.path(), 0, &Watch::default()).unwrap(), expected, "{size} bytes, unannounced");
        }
    }

    proptest! {
        #[test]
        fn any_content_by_any_cut_gives_the_plain_digest(
            bytes in proptest::collection::vec(any::<u8>(), 1025..100_000), piece in 0..8u32, window in 0..8u32,
        ) {
            let piece = (1024 << piece).min(left_subtree_len(bytes.len() as u64));
            prop_assert_eq!(cut(&file(&bytes), bytes.len(), piece, 1024 << window), blake3::hash(&bytes));
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_not_a_digest() {
        let file = file(&bytes(3 * PIECE));
        let error = hash(file.path(), 4 * PIECE as u64, &Watch::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Changed);
    }

    #[test]
    fn stopping_is_noticed_between_pieces() {
        let file = file(&bytes(8 * PIECE));
        let watch = Watch::default();
        let pieces = Pieces { file: file.as_file(), path: file.path(), watch: &watch, cut: Cut::usual() };
        pieces.piece(0, PIECE as u64).unwrap();
        watch.stop();
        assert_eq!(pieces.root(8 * PIECE as u64).unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(watch.progress().0, PIECE as u64);
        for size in [0, 8 * PIECE as u64] {
            assert_eq!(hash(file.path(), size, &watch).unwrap_err().kind(), Kind::Interrupted);
        }
    }
}
