//! Any bytes as a list, a table, or COCO's annotations: errors with their lines or a summary, never a panic. The first byte
//! says by which name the rest goes.
#![no_main]

use hashpipe::dataset::source::{Expected, check};
use libfuzzer_sys::fuzz_target;
use std::io::Write as _;

const ENDINGS: [&str; 5] = [".txt", ".csv", ".tsv", ".jsonl", ".json"];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let ending = ENDINGS[usize::from(*first) % ENDINGS.len()];
    let Ok(mut file) = tempfile::Builder::new().suffix(ending).tempfile() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    if let Ok(summary) = check(file.path(), &Expected::default()) {
        assert!(summary.unlabelled <= summary.images);
    }
});
