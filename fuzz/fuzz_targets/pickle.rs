//! Any bytes as a pickle: an error or data, never a panic.
#![no_main]

use hashpipe::pickle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(pickle) = pickle::parse(bytes) else { return };
    // Two levels of whatever it holds; values may hold themselves.
    let mut left = vec![(pickle.root(), 0)];
    let mut seen = 0;
    while let Some((value, depth)) = left.pop() {
        let _ = (value.integer(), value.text(), value.bytes(), value.tensor(), value.kind());
        if let Some(Ok(array)) = value.array() {
            assert_eq!(array.data.len(), array.shape.iter().product::<usize>() * array.number.size());
        }
        seen += 1;
        if depth < 2 && seen < 10_000 {
            left.extend(value.elements().into_iter().flatten().take(100).map(|value| (value, depth + 1)));
            left.extend(value.entries().into_iter().flatten().take(100).flat_map(|(k, v)| [(k, depth + 1), (v, depth + 1)]));
        }
    }
});
