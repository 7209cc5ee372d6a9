//! Buffers that are used again for the next image.
//!
//! An image needs several of a size that allocators give back to the system at once; getting their pages anew cost an
//! eighth of all the time.

use std::cell::RefCell;

/// Buffers that a thread keeps, and the bytes that one may have.
const KEPT: usize = 8;
const LARGEST: usize = 8 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(vec![]) };
}

/// Returns a buffer of this length; what is in it is left from before.
pub(crate) fn take(length: usize) -> Vec<u8> {
    let mut buffer = SPARE.with_borrow_mut(|spare| {
        // The smallest that is large enough, or the largest.
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= length;
        let best = (0..spare.len()).min_by_key(|i| match fits(&spare[*i]) {
            true => (false, spare[*i].capacity()),
            false => (true, usize::MAX - spare[*i].capacity()),
        });
        best.map(|best| spare.swap_remove(best)).unwrap_or_default()
    });
    buffer.resize(length, 0);
    buffer
}

/// Keeps a buffer for the next one who asks.
pub(crate) fn give(buffer: Vec<u8>) {
    if buffer.capacity() <= LARGEST {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}
