//! Buffers that are kept between calls: fresh ones of some MiB cost a page fault per 4 KiB, every step.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Numbers in a cache line: where buffers begin, so that no vector lies in two.
const LINE: usize = 16;

/// A growing buffer. What it holds at first is left from earlier calls.
#[derive(Default)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `len` numbers, beginning with a cache line.
    pub(super) fn sized(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len + LINE {
            self.0 = vec![0.0; len + LINE];
        }
        let start = self.start();
        &mut self.0[start..start + len]
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE)
    }
}

/// Lends two buffers of this thread. `work` must not start parallel work: another task on this thread would ask for
/// them too.
pub(super) fn of_thread<R>(work: impl FnOnce(&mut Buffer, &mut Buffer) -> R) -> R {
    thread_local!(static BUFFERS: RefCell<(Buffer, Buffer)> = RefCell::default());
    BUFFERS.with_borrow_mut(|(first, second)| work(first, second))
}

/// Buffers that hold a whole batch, and are lent to one operation at a time.
static SPARE: Mutex<Vec<Buffer>> = Mutex::new(vec![]);

/// A buffer for a whole batch; goes back when dropped.
#[derive(Default)]
pub(super) struct Shared(Buffer);

impl Shared {
    pub(super) fn take() -> Self {
        Self(SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default())
    }

    pub(super) fn sized(&mut self, len: usize) -> &mut [f32] {
        self.0.sized(len)
    }

    /// What [`Shared::sized`] gave last, for reading.
    pub(super) fn get(&self, len: usize) -> &[f32] {
        let start = self.0.start();
        &self.0.0[start..start + len]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_long_as_asked_and_begin_with_a_line() {
        let mut buffer = Buffer::default();
        for len in [5, 100_000, 0, 7] {
            let sized = buffer.sized(len);
            assert!(sized.len() == len && sized.as_ptr().addr() % 64 == 0);
        }
        let mut shared = (Shared::take(), Shared::take());
        shared.0.sized(3).fill(1.0);
        shared.1.sized(3).fill(2.0);
        assert_eq!(shared.0.sized(3), [1.0; 3]);
    }
}
