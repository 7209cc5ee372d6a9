//! What is remembered of files: the digest a file had while it looked so and so. In memory, and as bytes.
//!
//! A million entries take some 110 MB, so paths are kept as digests.

use hashbrown::HashTable;
use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells that a file is still the same, without reading it. Times are in nanoseconds since 1970.
///
/// Whoever changes a file can set its mtime back, but not its ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
}

impl Stamp {
    pub(in crate::cache) fn of(metadata: &Metadata) -> Self {
        // Wrapping keeps times apart that are less than five centuries apart.
        let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Device, inode, size, mtime, ctime, all little-endian.
    pub(in crate::cache) fn to_bytes(self) -> [u8; 40] {
        let Self { device, inode, size, mtime, ctime } = self;
        let mut bytes = [0; 40];
        let numbers = [device, inode, size, mtime as u64, ctime as u64];
        bytes.chunks_exact_mut(8).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    /// Whether any later change must show in the times. File systems count in steps of up to two seconds, so a file
    /// that was changed just now could be changed again and look the same.
    ///
    /// An mtime that lies ahead says nothing: archives and cameras write what they like. A ctime that does is no clock.
    pub(super) fn is_settled(&self, now: i64) -> bool {
        const STEP: i64 = 2_000_000_000;
        let long_ago = |time: i64| time < now.saturating_sub(STEP);
        long_ago(self.ctime) && (long_ago(self.mtime) || self.mtime > now)
    }
}

/// 16 bytes of the BLAKE3 of an absolute path.
///
/// A path is part of what is trusted: some file systems number their files anew at each mount, and there two files of
/// equal size and time would pass for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathId([u8; 16]);

impl PathId {
    /// Of a path as it was given, relative to the absolute `base`. `room` is only there to be used again.
    pub(super) fn of(base: &Path, path: &Path, room: &mut Vec<u8>) -> Self {
        room.clear();
        if path.is_relative() {
            room.extend_from_slice(base.as_os_str().as_encoded_bytes());
            room.push(b'/');
        }
        room.extend_from_slice(path.as_os_str().as_encoded_bytes());
        Self(part(blake3::hash(room).as_bytes(), 0))
    }

    /// Uniform already.
    fn bits(&self) -> u64 {
        u64::from_le_bytes(part(&self.0, 0))
    }
}

/// What is remembered of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathId,
    pub(super) stamp: Stamp,
    pub(super) digest: [u8; 32],
    /// When it was last read from end to end, in seconds since 1970.
    pub(super) checked: u32,
    /// When it was last asked for.
    pub(super) seen: u32,
}

/// Bytes of an entry on disk, all numbers little-endian:
///
/// ```text
///   0  TAG                                 64  digest
///   8  path                                96  checked, seen: u32
///  24  device, inode, size: u64           104  8 bytes of the BLAKE3 of bytes 0 to 103
///  48  mtime, ctime: i64
/// ```
pub(super) const RECORD: usize = 112;

/// Starts every record. Another number for another layout.
const TAG: [u8; 8] = *b"hpmemo1\n";
const CHECKED: usize = 104;

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; RECORD] {
        let Stamp { device, inode, size, mtime, ctime } = self.stamp;
        let mut record = [0; RECORD];
        let mut rest = &mut record[..];
        let mut put = |bytes: &[u8]| {
            let (place, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            rest = after;
        };
        put(&TAG);
        put(&self.path.0);
        [device, inode, size, mtime as u64, ctime as u64].iter().for_each(|number| put(&number.to_le_bytes()));
        put(&self.digest);
        [self.checked, self.seen].iter().for_each(|number| put(&number.to_le_bytes()));
        let checksum: [u8; 8] = part(blake3::hash(&record[..CHECKED]).as_bytes(), 0);
        record[CHECKED..].copy_from_slice(&checksum);
        record
    }

    /// The entry, if the record is whole.
    fn from_bytes(record: &[u8; RECORD]) -> Option<Self> {
        let checksum: [u8; 8] = part(blake3::hash(&record[..CHECKED]).as_bytes(), 0);
        if !record.starts_with(&TAG) || record[CHECKED..] != checksum {
            return None;
        }
        let long = |at| u64::from_le_bytes(part(record, at));
        let short = |at| u32::from_le_bytes(part(record, at));
        let (mtime, ctime) = (long(48) as i64, long(56) as i64);
        Some(Self {
            path: PathId(part(record, 8)),
            stamp: Stamp { device: long(24), inode: long(32), size: long(40), mtime, ctime },
            digest: part(record, 64),
            checked: short(96),
            seen: short(100),
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

/// Entries by path.
#[derive(Debug, Default)]
pub(super) struct Memo {
    entries: Vec<Entry>,
    /// Positions in `entries`. A map of entries would need twice the room, as maps stand half empty after they grow.
    places: HashTable<u32>,
}

impl Memo {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn get(&self, path: &PathId) -> Option<&Entry> {
        let place = self.places.find(path.bits(), |place| self.entries[*place as usize].path == *path)?;
        Some(&self.entries[*place as usize])
    }

    /// Remembers an entry in place of what was known of its path.
    pub(super) fn put(&mut self, entry: Entry) {
        let (entries, bits) = (&mut self.entries, entry.path.bits());
        match self.places.find(bits, |place| entries[*place as usize].path == entry.path) {
            Some(place) => entries[*place as usize] = entry,
            None => {
                // Beyond four thousand million files the memo forgets, which costs time only.
                let Ok(place) = u32::try_from(entries.len()) else { return };
                entries.push(entry);
                self.places.insert_unique(bits, place, |place| entries[*place as usize].path.bits());
            }
        }
    }

    /// Makes room for so many more entries.
    pub(super) fn reserve(&mut self, more: usize) {
        let entries = &mut self.entries;
        entries.reserve(more);
        self.places.reserve(more, |place| entries[*place as usize].path.bits());
    }

    /// Takes in every whole record of a file, later ones over earlier ones, and passes over everything else.
    pub(super) fn take_in(&mut self, mut file: impl Read) {
        const BLOCK: usize = 1 << 20;
        let mut block = vec![0; BLOCK];
        let mut filled = 0;
        loop {
            match file.read(&mut block[filled..]) {
                // What cannot be read is not known.
                Ok(0) => return,
                Ok(read) => filled += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            let used = self.take_in_block(&block[..filled]);
            block.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    /// Gives how many bytes are done with; fewer than a record are left.
    fn take_in_block(&mut self, block: &[u8]) -> usize {
        let mut at = 0;
        while let Some(record) = block[at..].first_chunk::<RECORD>() {
            match Entry::from_bytes(record) {
                Some(entry) => {
                    self.put(entry);
                    at += RECORD;
                }
                // Torn or foreign: the next record is where the next tag is.
                None => at += 1 + next_tag(&block[at + 1..]),
            }
        }
        at
    }
}

/// Where the next tag starts, or the last bytes that could be the start of one.
fn next_tag(bytes: &[u8]) -> usize {
    bytes.windows(TAG.len()).position(|window| window == TAG).unwrap_or((bytes.len() + 1).saturating_sub(TAG.len()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry that is like no other.
    pub(in crate::cache::digest) fn entry(number: u32) -> Entry {
        let path = PathId::of(Path::new("/"), Path::new(&format!("file {number}")), &mut vec![]);
        let n = u64::from(number);
        let stamp = Stamp { device: n, inode: n << 40, size: !n, mtime: -(n as i64), ctime: i64::MAX - n as i64 };
        Entry { path, stamp, digest: [number as u8; 32], checked: number, seen: !number }
    }

    fn bytes(numbers: std::ops::Range<u32>) -> Vec<u8> {
        numbers.flat_map(|number| entry(number).to_bytes()).collect()
    }

    fn known(bytes: &[u8]) -> Vec<Entry> {
        let mut memo = Memo::default();
        memo.take_in(bytes);
        memo.entries().copied().collect()
    }

    #[test]
    fn entries_come_back_and_later_ones_count() {
        let mut memo = Memo::default();
        memo.reserve(100);
        memo.take_in(&bytes(0..20_000)[..]);
        let newer = Entry { digest: [255; 32], ..entry(7) };
        memo.take_in(&newer.to_bytes()[..]);
        assert_eq!(memo.entries.len(), 20_000);
        assert_eq!(memo.get(&entry(7).path), Some(&newer));
        assert_eq!(memo.get(&entry(19_999).path), Some(&entry(19_999)));
        assert_eq!(memo.get(&entry(20_000).path), None);
    }

    #[test]
    fn a_path_is_known_however_it_is_given() {
        let id = |base: &str, path: &str| PathId::of(Path::new(base), Path::new(path), &mut vec![1]);
        assert_eq!(id("/a/b", "c/d"), id("/x", "/a/b/c/d"));
        assert_ne!(id("/a/b", "c/d"), id("/a/b", "c/e"));
    }

    #[test]
    fn a_changed_bit_is_noticed_wherever_it_is() {
        let whole = entry(1).to_bytes();
        for bit in 0..RECORD * 8 {
            let mut torn = whole;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::from_bytes(&torn), None, "bit {bit}");
        }
    }

    #[test]
    fn the_newest_seconds_are_not_settled() {
        const SECOND: i64 = 1_000_000_000;
        let now = 1_000 * SECOND;
        let settled = |mtime: i64, ctime: i64| {
            Stamp { mtime: mtime * SECOND, ctime: ctime * SECOND, ..entry(0).stamp }.is_settled(now)
        };
        assert!(settled(1, 997) && settled(997, 997) && settled(5_000, 997));
        assert!(!settled(1, 998) && !settled(999, 990) && !settled(1, 5_000) && !settled(5_000, 5_000));
    }

    proptest! {
        #[test]
        fn whole_records_are_found_among_anything(
            parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300), 0..CHECKED), 1..20),
        ) {
            let (mut file, mut expected) = (vec![], vec![]);
            for (number, (whole, garbage, cut)) in parts.iter().enumerate() {
                let record = entry(number as u32).to_bytes();
                if *whole {
                    file.extend_from_slice(&record);
                    expected.push(entry(number as u32));
                } else {
                    file.extend_from_slice(&record[..*cut]);
                }
                file.extend_from_slice(garbage);
            }
            prop_assert_eq!(known(&file), expected);
        }
    }

    #[test]
    fn records_across_blocks_are_found() {
        let mut file = vec![b'h'; (1 << 20) - 50];
        file.extend(bytes(0..20_000));
        file.extend_from_slice(&TAG);
        assert_eq!(known(&file).len(), 20_000);
        assert!(known(b"").is_empty() && known(&TAG).is_empty() && known(&[b'h'; 3 << 20]).is_empty());
    }
}
