//! Buffers that are kept between calls: fresh ones of some MiB cost a page fault per 4 KiB, every step.

use super::bf16::Pair;
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Numbers in a cache line: where buffers begin, so that no vector lies in two.
const LINE: usize = 16;

/// A growing buffer of numbers of 4 bytes. What it holds at first is left from earlier calls.
#[derive(Default)]
pub(super) struct Buffer<T = f32>(Vec<T>);

impl<T: Copy + Default> Buffer<T> {
    /// The first `len` numbers, beginning with a cache line.
    pub(super) fn sized(&mut self, len: usize) -> &mut [T] {
        if self.0.len() < len + LINE {
            self.0 = vec![T::default(); len + LINE];
        }
        let start = self.start();
        &mut self.0[start..start + len]
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(LINE * size_of::<T>()).min(LINE)
    }
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Own {
    pub(super) frame: Buffer,
    pub(super) maps: Buffer,
    pub(super) pairs: Buffer<Pair>,
}

/// Lends the buffers of this thread. `work` must not start parallel work: another task on this thread would ask for
/// them too.
pub(super) fn of_thread<R>(work: impl FnOnce(&mut Own) -> R) -> R {
    thread_local!(static BUFFERS: RefCell<Own> = RefCell::default());
    BUFFERS.with_borrow_mut(work)
}

/// Numbers that whole batches are kept of.
pub(super) trait Kept: Copy + Default + 'static {
    /// Buffers that are not lent.
    fn spare() -> &'static Mutex<Vec<Buffer<Self>>>;
}

impl Kept for f32 {
    fn spare() -> &'static Mutex<Vec<Buffer>> {
        static SPARE: Mutex<Vec<Buffer>> = Mutex::new(vec![]);
        &SPARE
    }
}

impl Kept for Pair {
    fn spare() -> &'static Mutex<Vec<Buffer<Pair>>> {
        static SPARE: Mutex<Vec<Buffer<Pair>>> = Mutex::new(vec![]);
        &SPARE
    }
}

/// A buffer for a whole batch, lent to one operation at a time; goes back when dropped.
pub(super) struct Shared<T: Kept = f32>(Buffer<T>);

impl<T: Kept> Shared<T> {
    pub(super) fn take() -> Self {
        Self(T::spare().lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default())
    }

    pub(super) fn sized(&mut self, len: usize) -> &mut [T] {
        self.0.sized(len)
    }

    /// What [`Shared::sized`] gave last, for reading.
    pub(super) fn get(&self, len: usize) -> &[T] {
        let start = self.0.start();
        &self.0.0[start..start + len]
    }
}

impl<T: Kept> Drop for Shared<T> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        T::spare().lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_long_as_asked_and_begin_with_a_line() {
        let mut buffer: Buffer = Buffer::default();
        for len in [5, 100_000, 0, 7] {
            let sized = buffer.sized(len);
            assert!(sized.len() == len && sized.as_ptr().addr() % 64 == 0);
        }
        let mut shared: (Shared, Shared) = (Shared::take(), Shared::take());
        shared.0.sized(3).fill(1.0);
        shared.1.sized(3).fill(2.0);
        assert_eq!(shared.0.sized(3), [1.0; 3]);
    }
}
