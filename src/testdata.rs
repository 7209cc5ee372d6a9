//! Files that other programs wrote, for tests: `tests/golden/peers.json`, made by `tests/peers/goldens.py`.

use serde_json::Value;

fn golden(file: &str) -> Value {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The names of all files.
pub(crate) fn peers() -> Vec<String> {
    golden("peers.json")["files"].as_object().unwrap().keys().cloned().collect()
}

/// A file's bytes.
pub(crate) fn peer(name: &str) -> Vec<u8> {
    let golden = golden("peers.json");
    let encoded = golden["files"][name].as_str().unwrap_or_else(|| panic!("no `{name}` in peers.json"));
    let digits = encoded.bytes().filter(|byte| *byte != b'=').map(|byte| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    });
    let bits: Vec<u8> = digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1)).collect();
    bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

/// A text of `tests/golden/formats.json`, in hexadecimal.
pub(crate) fn hex(name: &str) -> Vec<u8> {
    let golden = golden("formats.json");
    let text = golden.pointer(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no `{name}` in formats.json"));
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}
