//! Any bytes as an image file: an error or pixels, never a panic; the shortened way of the pipeline refuses what the whole
//! one refuses.
#![no_main]

use hashpipe::image::{Transform, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // PNG is read by a library of others, whose panics `decode` catches; the fuzzer would end at the first.
    if bytes.starts_with(b"\x89PNG") {
        return;
    }
    let transform = Transform::imagenet(32, 24);
    let whole = decode(bytes);
    let cut = transform.read_eval(bytes);
    assert_eq!(whole.is_ok(), cut.is_ok());
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert!(transform.eval(&whole) == cut);
    }
});
