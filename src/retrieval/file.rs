//! The codes file: packed codes that know where they came from.
//!
//! | bytes             | what                                                                                        |
//! |-------------------|---------------------------------------------------------------------------------------------|
//! | 0 to 7            | `HASHCODE`                                                                                  |
//! | 8 to 11           | version, u32: 1                                                                             |
//! | 12 to 15          | length of the header in bytes, u32                                                          |
//! | 16 to 16 + length | the header, JSON in UTF-8                                                                   |
//! | up to `start`     | zeros; `start` is the next multiple of 64                                                   |
//! | from `start` on   | `count` codes of `ceil(bits / 64)` words, u64 each; the file ends with the last             |
//!
//! Numbers are little-endian. Bit `j` of a code is bit `j % 64` of its word `j / 64`; bits beyond its end are 0. In
//! NumPy: `np.unpackbits(np.fromfile(path, np.uint8, offset=start).reshape(count, -1), axis=1, bitorder="little")`.
//!
//! The header holds `bits`, `count`, `bit_order` (`"little"`), `zeros` (outputs that were exactly 0 when the codes were
//! taken), `provenance` (BLAKE3 of the `model`, `list` and `transform` behind the codes, in hex, or null) and, last,
//! `blake3`: the digest of the whole file while those 64 digits are all `0`.
//!
//! Nothing in a file is believed before it is checked, and no more memory is taken than the file has bytes on disk.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::words::{Mapped, Words};
use super::{Codes, Refusal};
use crate::error::{Error, Kind, Place, Result};
use crate::outfile;

const MAGIC: &[u8; 8] = b"HASHCODE";
const VERSION: u32 = 1;
const BIT_ORDER: &str = "little";
/// Codes start at a multiple of this, so that a mapped file has them aligned for any vector unit.
const ALIGNMENT: usize = 64;
/// Magic, version, and header length.
const PREFIX: usize = 16;
/// Stands for the digest while the digest is computed.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a codes file says about its codes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Outputs that were exactly 0, over all codes.
    pub zeros: u64,
    pub provenance: Provenance,
}

/// BLAKE3 digests, in hex, of what the codes were made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub model: Option<String>,
    pub list: Option<String>,
    pub transform: Option<String>,
}

/// The header as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    bits: usize,
    count: usize,
    bit_order: String,
    zeros: u64,
    provenance: Provenance,
    blake3: String,
}

/// Writes a codes file; equal codes and headers give equal bytes.
///
/// Fails if the codes are ternary.
pub fn write(path: &Path, codes: &Codes, header: &Header) -> Result<()> {
    if codes.is_ternary() {
        return Err(Refusal::TernaryFile.into());
    }
    outfile::write(path, &to_bytes(codes, header))
}

/// Reads a codes file.
///
/// Fails if it is none, is damaged, or was written by a newer hashpipe.
pub fn read(path: &Path) -> Result<(Codes, Header)> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    from_bytes(bytes).map_err(|e| e.at(Place::Path(path.display().to_string())))
}

/// Maps a codes file instead of reading it: for databases that are larger than memory, and to start at once.
///
/// The header and the file's size are checked, and the bits beyond the codes' ends, but not the digest, for which the
/// whole file would have to be read ([`read`] does). While the codes live, the file must not be cut short or written to.
pub fn map(path: &Path) -> Result<(Codes, Header)> {
    if cfg!(target_endian = "big") {
        return read(path);
    }
    let failed = |e: std::io::Error| Error::io("read", path, &e);
    let at = |e: Error| e.at(Place::Path(path.display().to_string()));
    let file = fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    // As much as the header may take, as its length says.
    let mut start = vec![];
    Read::take(&file, PREFIX as u64).read_to_end(&mut start).map_err(failed)?;
    if let Some(length) = start.get(12..PREFIX) {
        let length = length.iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
        Read::take(&file, length).read_to_end(&mut start).map_err(failed)?;
    }
    let (header, length) = read_header(&start).map_err(at)?;
    let (start, count) = check_size(&header, length, size).map_err(at)?;
    let words = match Mapped::new(&file, start, count).map_err(failed)? {
        Some(mapped) => Words::Mapped(Arc::new(mapped)),
        None => return Err(at(damaged("the codes file has another size than its header says"))),
    };
    let codes = Codes::of(header.bits, words).map_err(|refusal| at(refusal.into()))?;
    Ok((codes, Header { zeros: header.zeros, provenance: header.provenance }))
}

/// Checks that a file of `size` bytes holds what its header says; gives where its words start, and how many there are.
fn check_size(header: &Json, header_length: usize, size: u64) -> Result<(usize, usize)> {
    let (start, width) = (start_of_codes(header_length), Codes::new(header.bits)?.words_per_code());
    let count = header.count.checked_mul(width);
    let end = count.and_then(|count| count.checked_mul(8)).and_then(|bytes| bytes.checked_add(start));
    match count {
        Some(count) if end.map(|end| end as u64) == Some(size) => Ok((start, count)),
        _ => Err(damaged("the codes file has another size than its header says")
            .note(format!("{} codes of {} bits do not make a file of {size} bytes", header.count, header.bits))),
    }
}

fn to_bytes(codes: &Codes, header: &Header) -> Vec<u8> {
    let json = Json {
        bits: codes.bits(),
        count: codes.len(),
        bit_order: BIT_ORDER.into(),
        zeros: header.zeros,
        provenance: header.provenance.clone(),
        blake3: NO_DIGEST.into(),
    };
    let json = serde_json::to_vec(&json).expect("numbers and strings are always JSON");
    let mut bytes = Vec::with_capacity(start_of_codes(json.len()) + codes.words().len() * 8);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(&json);
    bytes.resize(start_of_codes(json.len()), 0);
    bytes.extend(codes.words().iter().flat_map(|word| word.to_le_bytes()));
    let digest = blake3::hash(&bytes).to_hex();
    bytes[digest_place(json.len())].copy_from_slice(digest.as_bytes());
    bytes
}

fn from_bytes(mut bytes: Vec<u8>) -> Result<(Codes, Header)> {
    let (header, length) = read_header(&bytes)?;
    let (start, _) = check_size(&header, length, bytes.len() as u64)?;
    check_digest(&mut bytes, digest_place(length), &header.blake3)?;
    let words = bytes[start..].chunks_exact(8).map(|word| word.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b)));
    let codes = Codes::from_words(header.bits, words.collect())?;
    Ok((codes, Header { zeros: header.zeros, provenance: header.provenance }))
}

/// The header, and its length in bytes.
fn read_header(bytes: &[u8]) -> Result<(Json, usize)> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>().filter(|(prefix, _)| prefix.starts_with(MAGIC))
    else {
        return Err(Error::data("not a codes file").note("a codes file starts with `HASHCODE`"));
    };
    let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let (version, length) = (number(8), number(12) as usize);
    if version != VERSION {
        return Err(Error::data(format!("codes file of version {version}"))
            .note(format!("this hashpipe reads version {VERSION}"))
            .hint("encode the images again"));
    }
    let Some(json) = rest.get(..length) else {
        return Err(damaged("the codes file ends inside its header"));
    };
    let header: Json = serde_json::from_slice(json)
        .map_err(|e| damaged("the codes file's header makes no sense").note(e.to_string()))?;
    if header.bit_order != BIT_ORDER {
        return Err(Error::data(format!("codes with bit order `{}`", header.bit_order))
            .note(format!("this hashpipe reads bit order `{BIT_ORDER}`")));
    }
    Ok((header, length))
}

/// Checks the digest of a whole file, which stands at `place`, and leaves zeros there.
fn check_digest(bytes: &mut [u8], place: Range<usize>, digest: &str) -> Result<()> {
    if bytes[place.clone()] == *digest.as_bytes() {
        bytes[place].copy_from_slice(NO_DIGEST.as_bytes());
        if blake3::hash(bytes).to_hex().as_str() == digest {
            return Ok(());
        }
    }
    Err(damaged("the codes file has another content than its digest says"))
}

/// The header is a JSON object whose last value is the digest, so it ends with the digest, `"` and `}`.
///
/// Any header with all of its keys, even with empty values, is longer than a digest.
fn digest_place(header_length: usize) -> Range<usize> {
    let end = PREFIX + header_length - 2;
    end - NO_DIGEST.len()..end
}

fn start_of_codes(header_length: usize) -> usize {
    (PREFIX + header_length).next_multiple_of(ALIGNMENT)
}

fn damaged(message: &str) -> Error {
    Error::data(message).hint("the file is damaged or was cut short: copy it again, or encode the images again")
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::ZeroTopK => Kind::Input,
            Refusal::Gpu(_) => Kind::Stage,
            _ => Kind::Data,
        };
        let error = Self::new(kind, refusal.to_string());
        match refusal {
            Refusal::NotANumber { .. } => error.hint("the training has diverged: lower its learning rate"),
            Refusal::DifferentBits { .. } | Refusal::QueryWords { .. } => {
                error.hint("encode queries and database with the same model")
            }
            Refusal::DifferentClasses { .. } => error.hint("take both lists from the same data set"),
            Refusal::LabelCount { .. } => error.hint("give the list that the codes were made from"),
            Refusal::Gpu(words) => {
                error.note(words).hint("the CPU gives the same results: leave out `--device`, or say `gpus = 0`")
            }
            Refusal::TernaryFile => error.hint("encode with outputs that are not exactly 0"),
            Refusal::ZeroTopK => error.hint("set `top_k` to 1 or more, or leave it out to rank the whole database"),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::codes::tests::random_codes;
    use super::*;
    use crate::seeded::stream;

    fn header() -> Header {
        let digest = blake3::hash(b"model").to_hex().to_string();
        Header { zeros: 3, provenance: Provenance { model: Some(digest), list: None, transform: None } }
    }

    fn message(bytes: Vec<u8>) -> String {
        from_bytes(bytes).expect_err("a damaged file").message().to_string()
    }

    /// A file with another header, and the digest that belongs to it.
    fn forged(bits: usize, count: usize, bit_order: &str, words: &[u64]) -> Vec<u8> {
        let json = format!(
            r#"{{"bits":{bits},"count":{count},"bit_order":"{bit_order}","zeros":0,"provenance":{{}},"blake3":"{NO_DIGEST}"}}"#
        );
        let mut bytes = [&MAGIC[..], &1u32.to_le_bytes(), &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let digest = blake3::hash(&bytes).to_hex();
        let place = 16 + json.len() - 66;
        bytes[place..place + 64].copy_from_slice(digest.as_bytes());
        bytes
    }

    #[test]
    fn a_file_keeps_codes_and_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codes");
        for (count, bits) in [(0, 1), (1, 64), (5, 48), (3, 65), (2, 1024)] {
            let codes = random_codes(1, count, bits, bits);
            write(&path, &codes, &header()).unwrap();
            assert_eq!(read(&path).unwrap(), (codes.clone(), header()));
            let (mut mapped, found) = map(&path).unwrap();
            assert_eq!((&mapped, found), (&codes, header()));
            let near = |database| Engine::over(database).top_k(&codes, 3).unwrap();
            assert_eq!(near(&mapped), near(&codes));
            mapped.push(&vec![1.0; bits]).unwrap();
            assert_eq!((mapped.len(), read(&path).unwrap().0.len()), (count + 1, count));
        }
        let mut ternary = Codes::new(2).unwrap();
        ternary.push_ternary(&[0.0, 1.0]).unwrap();
        assert!(write(&path, &ternary, &header()).is_err());
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codes");
        let bytes = to_bytes(&random_codes(1, 5, 48, 48), &header());
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(map(&path).is_err(), "cut at {length}");
        }
        fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
        assert!(map(&path).is_err());
        fs::write(&path, forged(6, 2, "little", &[1, 64])).unwrap();
        assert_eq!(map(&path).unwrap_err().message(), "code 1 has bits set beyond its end");
        assert!(map(&folder.path().join("none")).is_err());
    }

    #[test]
    fn the_layout_is_as_documented() {
        let bytes = to_bytes(&Codes::from_words(70, vec![1, 2, 3, 4]).unwrap(), &Header::default());
        assert_eq!(bytes[..16], *b"HASHCODE\x01\0\0\0\xb9\0\0\0");
        let json = std::str::from_utf8(&bytes[16..16 + 0xb9]).unwrap();
        let (json, digest) = json.split_once(r#""blake3":"#).unwrap();
        let expected = r#"{"bits":70,"count":2,"bit_order":"little","zeros":0,"provenance":{"model":null,"list":null,"transform":null},"#;
        assert_eq!((json, digest.len()), (expected, 67));
        assert_eq!(bytes[16 + 0xb9..256], [0; 55]);
        assert_eq!(bytes[256..], [1u64, 2, 3, 4].map(u64::to_le_bytes).concat());
    }

    #[test]
    fn every_truncation_and_extension_is_an_error() {
        let bytes = to_bytes(&random_codes(1, 5, 48, 48), &header());
        for length in 0..bytes.len() {
            message(bytes[..length].to_vec());
        }
        message([&bytes[..], &[0]].concat());
        message([&bytes[..], &[0; 8]].concat());
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let bytes = to_bytes(&random_codes(1, 3, 65, 65), &header());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            message(damaged);
        }
    }

    #[test]
    fn random_damage_never_panics() {
        let bytes = to_bytes(&random_codes(1, 3, 65, 65), &header());
        let mut draw = stream(1, "damage", &[]);
        for _ in 0..5_000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + draw.below(8) {
                let place = draw.below(damaged.len());
                damaged[place] = draw.bits() as u8;
            }
            assert!(damaged == bytes || from_bytes(damaged).is_err());
        }
    }

    #[test]
    fn each_lie_has_its_message() {
        assert!(from_bytes(forged(6, 2, "little", &[1, 2])).is_ok(), "a true forgery passes");
        assert_eq!(message(b"\x93NUMPY and more text".to_vec()), "not a codes file");
        let mut newer = forged(6, 2, "little", &[1, 2]);
        newer[8] = 2;
        assert_eq!(message(newer), "codes file of version 2");
        for (count, words) in [(3, &[1, 2][..]), (1, &[1, 2]), (usize::MAX, &[1, 2]), (1 << 61, &[])] {
            assert_eq!(
                message(forged(6, count, "little", words)),
                "the codes file has another size than its header says"
            );
        }
        assert_eq!(message(forged(6, 2, "little", &[1, 64])), "code 1 has bits set beyond its end");
        assert_eq!(message(forged(0, 0, "little", &[])), "codes of 0 bits, where 1 to 1024 are possible");
        assert_eq!(message(forged(6, 1, "big", &[1])), "codes with bit order `big`");
    }

    #[test]
    fn the_shortest_header_has_room_for_a_digest() {
        let json = r#"{"bits":1,"count":0,"bit_order":"little","zeros":0,"provenance":{},"blake3":""}"#;
        let mut bytes = [&MAGIC[..], &1u32.to_le_bytes(), &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
        bytes.resize(128, 0);
        assert_eq!(message(bytes), "the codes file has another content than its digest says");
    }

    #[test]
    fn a_header_beyond_the_file_is_an_error() {
        let mut bytes = forged(6, 1, "little", &[1]);
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(message(bytes), "the codes file ends inside its header");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("no/such/codes")).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Io, "cannot read `no/such/codes`"));
    }
}
