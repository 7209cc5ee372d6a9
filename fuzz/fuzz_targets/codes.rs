//! Any bytes as a file of codes: an error or codes, never a panic; what was read is written and read back.
#![no_main]

use hashpipe::codefile::{self, Format, Options};
use libfuzzer_sys::fuzz_target;
use std::io::Write as _;

fuzz_target!(|bytes: &[u8]| {
    // Parquet is read by a library of others, whose panics `codefile` catches; the fuzzer would end at the first.
    if bytes.starts_with(b"PAR1") {
        return;
    }
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok((set, _)) = codefile::read(file.path(), &Options::default()) else { return };
    if set.codes.is_empty() || set.codes.len() > 1000 {
        return;
    }
    let jsonl = Format::find("jsonl").expect("it is there");
    jsonl.write(file.path(), &set, &Options::default()).expect("any codes can be written");
    let options = Options { bits: Some(set.codes.bits()), ..Options::default() };
    let (again, _) = codefile::read(file.path(), &options).expect("what was written is read");
    assert!(again.codes == set.codes && again.ids == set.ids);
});
