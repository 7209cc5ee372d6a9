use super::*;
use crate::seeded::stream;
use crate::testdata::{hex, peer};
use std::io::Write as _;

fn on_disk(bytes: &[u8], suffix: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open(bytes: &[u8], suffix: &str) -> Result<(CodeSet, &'static Format)> {
    read(on_disk(bytes, suffix).path(), &Options::default())
}

/// The golden codes: seven of 24 bits, `tests/peers/goldens.py`.
fn golden() -> Codes {
    Codes::from_packed_bytes(24, &peer("codes_packed")).unwrap()
}

/// Files of other programs, and what they are.
const FILES: [(&str, &str, &str); 8] = [
    ("codes_npy", ".npy", "npy"),
    ("codes_npy_packed", ".npy", "npy-packed"),
    ("parquet", ".parquet", "parquet"),
    ("parquet_snappy", ".parquet", "parquet"),
    ("faiss_flat", ".faiss", "faiss-flat"),
    ("faiss_idmap", ".faiss", "faiss-idmap"),
    ("faiss_hash", ".faiss", "faiss-hash"),
    ("faiss_multihash", ".faiss", "faiss-multihash"),
];

#[test]
fn files_of_other_programs_give_the_same_codes() {
    for (name, suffix, format) in FILES {
        let (set, found) = open(&peer(name), suffix).unwrap_or_else(|e| panic!("{name}: {}", e.render("error")));
        assert_eq!((found.name, &set.codes), (format, &golden()), "{name}");
        let ids = (name == "faiss_idmap").then(|| (100..107).collect::<Vec<i64>>());
        assert_eq!(set.ids, ids, "{name}");
    }
}

#[test]
fn faiss_files_are_written_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |format: &str, set: &CodeSet, options: &Options| {
        let path = folder.path().join(format);
        Format::find(format).unwrap().write(&path, set, options).unwrap();
        std::fs::read(path).unwrap()
    };
    let set = CodeSet { ids: Some((100..107).collect()), ..CodeSet::new(golden()) };
    let plain = CodeSet::new(golden());
    assert_eq!(bytes("faiss-flat", &plain, &Options::default()), peer("faiss_flat"));
    assert_eq!(bytes("faiss-idmap", &set, &Options::default()), peer("faiss_idmap"));
    // The order of buckets is free in Faiss's hash tables, so these are compared by what is read out of them.
    let options = Options { hash_bits: Some(5), tables: Some(3), ..Options::default() };
    let multi = bytes("faiss-multihash", &plain, &options);
    assert_eq!(multi.len(), peer("faiss_multihash").len());
    let options = Options { hash_bits: Some(4), ..Options::default() };
    assert_eq!(bytes("faiss-hash", &plain, &options).len(), peer("faiss_hash").len());

    // The field study's bytes.
    let codes = Codes::from_packed_bytes(16, &hex("/faiss/codes_hex")).unwrap();
    let set = CodeSet { ids: Some((10..15).collect()), ..CodeSet::new(codes) };
    let plain = CodeSet { ids: None, ..set.clone() };
    assert_eq!(bytes("faiss-flat", &plain, &Options::default()), hex("/faiss/IBxF"));
    assert_eq!(bytes("faiss-idmap", &set, &Options::default()), hex("/faiss/IBMp_ids10-14"));
    let (read, _) = open(&hex("/faiss/IBHh_b4"), ".faiss").unwrap();
    assert_eq!(read, plain);
}

#[test]
fn codes_that_a_format_cannot_hold_leave_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut codes = Codes::new(12).unwrap();
    codes.push(&[1.0; 12]).unwrap();
    for format in FORMATS {
        let path = folder.path().join(format.name);
        let whole = CodeSet::new(golden());
        format.write(&path, &whole, &Options::default()).unwrap();
        let before = std::fs::read(&path).unwrap();
        let written = format.write(&path, &CodeSet::new(codes.clone()), &Options::default());
        assert_eq!(written.is_err(), format.name.starts_with("faiss"), "{}", format.name);
        assert_eq!(std::fs::read(&path).unwrap() == before, written.is_err(), "{}", format.name);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), FORMATS.len(), "nothing is left beside them");
}

#[test]
fn bit_j_is_bit_j_mod_8_of_byte_j_div_8_unless_turned() {
    let mut codes = Codes::new(16).unwrap();
    let mut outputs = [-1.0; 16];
    (outputs[0], outputs[9]) = (1.0, 1.0);
    codes.push(&outputs).unwrap();
    let set = CodeSet::new(codes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let lines = |format: &str, order: BitOrder| {
        let options = Options { order, ..Options::default() };
        Format::find(format).unwrap().write(&path, &set, &options).unwrap();
        assert_eq!(read(&path, &options).unwrap().0, set, "{format}");
        std::fs::read(&path).unwrap()
    };
    assert_eq!(lines("jsonl", BitOrder::Little), b"{\"id\":0,\"code\":\"0102\"}\n");
    assert_eq!(lines("jsonl", BitOrder::Big), b"{\"id\":0,\"code\":\"8040\"}\n");
    assert!(lines("npy-packed", BitOrder::Big).ends_with(&[0x80, 0x40]));
    assert!(lines("faiss-flat", BitOrder::Little).ends_with(&[1, 2]));
    assert_eq!(lines("pgvector", BitOrder::Little), b"0\t1000000001000000\n");
}

#[test]
fn every_format_keeps_codes_and_most_keep_ids() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = stream(1, "codes", &[]);
    for (count, bits) in [(0, 64), (1, 8), (300, 64), (40, 128), (9, 48), (64, 16)] {
        let bytes: Vec<u8> = (0..count * bits / 8).map(|_| draw.bits() as u8).collect();
        let plain = CodeSet::new(Codes::from_packed_bytes(bits, &bytes).unwrap());
        let named = CodeSet { ids: Some((0..count as i64).map(|i| i * 7 - 3).collect()), ..plain.clone() };
        for format in FORMATS {
            let path = folder.path().join(format!("a{}", format.suffix));
            // What has no line for a code cannot tell its length.
            let empty = count == 0 && ["jsonl", "pgvector", "parquet"].contains(&format.name);
            format.write(&path, &plain, &Options::default()).unwrap();
            if !empty {
                assert_eq!(read(&path, &Options::default()).unwrap().0, plain, "{}, {count} of {bits}", format.name);
            }
            if ["parquet", "faiss-idmap", "faiss-hash", "jsonl", "pgvector"].contains(&format.name) && count > 1 {
                format.write(&path, &named, &Options::default()).unwrap();
                assert_eq!(read(&path, &Options::default()).unwrap().0, named, "{}, {count} of {bits}", format.name);
            }
        }
    }
    let named = CodeSet { ids: Some(vec![5]), ..CodeSet::new(Codes::from_packed_bytes(8, &[1]).unwrap()) };
    let multihash = Format::find("faiss-multihash").unwrap();
    assert!(multihash.write(&folder.path().join("x"), &named, &Options::default()).is_err());
    assert!(!folder.path().join("x").exists());
}

#[test]
fn the_reference_s_codes_may_have_zeros() {
    let (set, format) = open(&hex("/npy_v1_f4_2x2"), ".npy").unwrap();
    assert_eq!((format.name, set.zeros, set.codes.len(), set.codes.bits()), ("npy", 1, 2, 2));
    assert_eq!((set.codes.code(0), set.codes.code(1)), (&[0b01][..], &[0b10][..]));
}

#[test]
fn damage_is_an_error_or_other_codes_but_never_a_panic() {
    let mut draw = stream(4, "damage", &[]);
    let texts = [&b"{\"id\":1,\"code\":\"5f82\"}\n{\"id\":2,\"code\":\"0082\"}\n"[..], b"1\t0101\n2\t1111\n"];
    let files = FILES.iter().map(|(name, suffix, _)| (peer(name), *suffix));
    for (whole, suffix) in files.chain([(texts[0].to_vec(), ".jsonl"), (texts[1].to_vec(), ".copy")]) {
        for length in 0..whole.len().min(200) {
            let _ = open(&whole[..length], suffix);
        }
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..1 + draw.below(3) {
                let at = draw.below(bytes.len());
                bytes[at] = if draw.below(2) == 0 { draw.bits() as u8 } else { [0, 0xff, 0x7f][draw.below(3)] };
            }
            let _ = open(&bytes, suffix);
        }
    }
    // Counts that lie take no memory.
    let mut lying = peer("faiss_flat");
    lying[12..20].copy_from_slice(&i64::MAX.to_le_bytes());
    lying[25..33].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(open(&lying, ".faiss").unwrap_err().render("error").contains("cut short"));
    let text = open(b"{\"id\":1,\"code\":\"5f8\"}\n", ".jsonl").unwrap_err().render("error");
    assert!(text.contains("not hexadecimal") && text.contains(":1:"), "{text}");
}
