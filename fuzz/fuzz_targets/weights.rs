//! Any bytes as a file of weights: an error or numbers, never a panic, and no memory for what is not there.
#![no_main]

use hashpipe::weightfile::{Layout, WeightFile};
use libfuzzer_sys::fuzz_target;
use std::io::Write as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok(weights) = WeightFile::open(file.path()) else { return };
    let _ = Layout::guess(&weights);
    for tensor in weights.tensors().iter().take(100) {
        if let Ok(values) = weights.read_f32(tensor) {
            assert_eq!(Some(values.len()), tensor.elements());
        }
    }
});
