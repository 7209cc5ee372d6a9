//! Buffers that each thread keeps between calls: fresh ones of some MiB cost a page fault per 4 KiB, every step.

use std::cell::RefCell;

/// Two buffers of one thread. What they hold at first is left from earlier calls.
#[derive(Default)]
pub(super) struct Scratch {
    columns: Vec<f32>,
    gradient: Vec<f32>,
}

impl Scratch {
    /// A buffer for unfolded images, and one for gradients, of the given lengths.
    pub(super) fn sized(&mut self, columns: usize, gradient: usize) -> (&mut [f32], &mut [f32]) {
        (at_least(&mut self.columns, columns), at_least(&mut self.gradient, gradient))
    }
}

fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Lends this thread's buffers. `work` must not start parallel work: another task on this thread would ask for them too.
pub(super) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    SCRATCH.with_borrow_mut(work)
}
