//! The program's memory: large blocks in huge pages, and kept for reuse.
//!
//! A network asks for the same large blocks in every step. The system's allocator gives them back to the kernel each time
//! and faults them in again, 4 KiB by 4 KiB: a fifth of a training's time, measured. Here, a block of [`LARGE`] or more is
//! a mapping of its own that begins at a huge page; when freed it is kept, while at most [`KEPT`] are, and goes to the
//! next who asks for as much. All other blocks are mimalloc's: planning makes millions of small texts, and glibc takes a
//! third longer over them.

#![expect(unsafe_code, reason = "an allocator hands out raw memory; each use says why it is sound")]

use mimalloc::MiMalloc;
use nix::libc;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// The smallest block that is looked after here, in bytes.
const LARGE: usize = 1 << 20;

/// A huge page, in bytes: what blocks begin at, and what their sizes are rounded up to.
const PAGE: usize = 2 << 20;

/// Bytes that are kept of freed blocks.
const KEPT: usize = 2 << 30;

/// Freed blocks that are kept at most.
const SLOTS: usize = 256;

/// The allocator; `main.rs` makes it the program's.
pub struct Memory {
    freed: UnsafeCell<Freed>,
    /// Taken while somebody looks at `freed`. A mutex of the standard library may allocate, and so may not be used here.
    busy: AtomicBool,
}

// Sound: `freed` is reached through `Memory::with_freed` only, by one thread at a time.
unsafe impl Sync for Memory {}

/// Blocks that were freed and not given back to the kernel.
struct Freed {
    /// Address and size; the first `count` are in use, the latest last.
    blocks: [(usize, usize); SLOTS],
    count: usize,
    bytes: usize,
}

impl Freed {
    const fn new() -> Self {
        Self { blocks: [(0, 0); SLOTS], count: 0, bytes: 0 }
    }

    /// Takes out the latest block of this size.
    fn take(&mut self, size: usize) -> Option<usize> {
        let at = (0..self.count).rev().find(|&at| self.blocks[at].1 == size)?;
        let address = self.blocks[at].0;
        self.remove(at);
        Some(address)
    }

    fn remove(&mut self, at: usize) {
        self.bytes -= self.blocks[at].1;
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }

    /// Whether there is room for a block.
    fn fits(&self, size: usize) -> bool {
        self.count < SLOTS && self.bytes + size <= KEPT
    }

    fn put(&mut self, address: usize, size: usize) {
        self.blocks[self.count] = (address, size);
        self.count += 1;
        self.bytes += size;
    }

    /// Takes out the block that was freed first.
    fn oldest(&mut self) -> Option<(usize, usize)> {
        let oldest = *self.blocks[..self.count].first()?;
        self.remove(0);
        Some(oldest)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    pub const fn new() -> Self {
        Self { freed: UnsafeCell::new(Freed::new()), busy: AtomicBool::new(false) }
    }

    /// Looks at the freed blocks alone; what is done meanwhile takes well under a microsecond, and allocates nothing.
    fn with_freed<R>(&self, look: impl FnOnce(&mut Freed) -> R) -> R {
        while self.busy.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        // Sound: whoever set `busy` is the only one here until it is cleared.
        let result = look(unsafe { &mut *self.freed.get() });
        self.busy.store(false, Ordering::Release);
        result
    }

    /// A block of a multiple of [`PAGE`], and whether it is known to be zero; null if the kernel has none.
    fn block(&self, size: usize) -> (*mut u8, bool) {
        match self.with_freed(|freed| freed.take(size)) {
            Some(address) => (std::ptr::with_exposed_provenance_mut(address), false),
            None => (map(size), true),
        }
    }

    /// Keeps a block, in the place of older ones if need be.
    fn keep(&self, block: *mut u8, size: usize) {
        let address = block.expose_provenance();
        loop {
            let displaced = self.with_freed(|freed| {
                if freed.fits(size) {
                    freed.put(address, size);
                    return None;
                }
                Some(freed.oldest())
            });
            match displaced {
                None => return,
                Some(Some((oldest, bytes))) => unmap(std::ptr::with_exposed_provenance_mut(oldest), bytes),
                // Larger than all that may be kept.
                Some(None) => return unmap(block, size),
            }
        }
    }
}

/// Whether a block is looked after here, and its size rounded up.
fn large(layout: Layout) -> Option<usize> {
    (layout.size() >= LARGE && layout.align() <= PAGE).then(|| layout.size().checked_next_multiple_of(PAGE)).flatten()
}

/// Fresh zeros of a multiple of [`PAGE`], beginning at one; null if the kernel has none.
fn map(size: usize) -> *mut u8 {
    let Some(with_spare) = size.checked_add(PAGE) else { return null_mut() };
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // Sound: a new mapping touches no memory of anybody's; the two parts that are unmapped are of it and not yet used.
    unsafe {
        let start = libc::mmap(null_mut(), with_spare, access, kind, -1, 0);
        if start == libc::MAP_FAILED {
            return null_mut();
        }
        let before = start.addr().next_multiple_of(PAGE) - start.addr();
        let block = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        if before < PAGE {
            libc::munmap(block.byte_add(size), PAGE - before);
        }
        // A kernel without huge pages says no, and gives small ones.
        #[cfg(target_os = "linux")]
        libc::madvise(block, size, libc::MADV_HUGEPAGE);
        block.cast()
    }
}

fn unmap(block: *mut u8, size: usize) {
    // Sound: `map` made a mapping of this size here, and its last owner freed it.
    unsafe { libc::munmap(block.cast(), size) };
}

// Sound: a block is a mapping of at least the layout's size that begins at a multiple of its alignment, and is out of
// `freed` while anybody owns it; which allocator a block is of follows from its layout alone.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            Some(size) => self.block(size).0,
            // Sound: the caller keeps the contract of `alloc`.
            None => unsafe { MiMalloc.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(size) = large(layout) else {
            // Sound: the caller keeps the contract of `alloc_zeroed`.
            return unsafe { MiMalloc.alloc_zeroed(layout) };
        };
        let (block, is_zero) = self.block(size);
        if !block.is_null() && !is_zero {
            // Sound: the block is as large as the layout, and nobody else's.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match large(layout) {
            Some(size) => self.keep(block, size),
            // Sound: the caller keeps the contract of `dealloc`; the system's allocator gave the block.
            None => unsafe { MiMalloc.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Sound: the caller promises that the new size is above 0 and fits the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (large(layout), large(new)) {
            // Sound: the system's allocator gave the block, and will hold the new one.
            (None, None) => unsafe { MiMalloc.realloc(block, layout, size) },
            (Some(now), Some(then)) if now == then => block,
            // Sound: both blocks hold what is copied, and are apart; the old one is the caller's to give up.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    /// Bytes and blocks that are kept.
    fn kept(memory: &Memory) -> (usize, usize) {
        memory.with_freed(|freed| (freed.bytes, freed.count))
    }

    #[test]
    fn a_large_block_is_used_again_and_small_ones_are_the_systems() {
        let memory = Memory::new();
        // Sound: blocks are written within their sizes, and freed once with their own layouts.
        unsafe {
            let block = memory.alloc(layout(3 << 20));
            assert_eq!(block.addr() % PAGE, 0);
            block.write_bytes(7, 3 << 20);
            memory.dealloc(block, layout(3 << 20));
            assert_eq!(kept(&memory), (4 << 20, 1));
            let again = memory.alloc_zeroed(layout(7 << 19));
            assert_eq!((again, *again, *again.add((7 << 19) - 1)), (block, 0, 0));
            let small = memory.alloc(layout(1000));
            memory.dealloc(small, layout(1000));
            assert_eq!(kept(&memory), (0, 0));
            memory.dealloc(again, layout(7 << 19));
        }
    }

    #[test]
    fn a_block_that_grows_and_shrinks_keeps_its_bytes() {
        let memory = Memory::new();
        let sizes = [1000, 5000, 2 << 20, 3 << 20, 4 << 20, 9 << 20, 1 << 20, 70, 1 << 21];
        // Sound: as above; a block moves only through `realloc`.
        unsafe {
            let mut block = memory.alloc(layout(sizes[0]));
            (0..70).for_each(|i| block.add(i).write(i as u8));
            for pair in sizes.windows(2) {
                block = memory.realloc(block, layout(pair[0]), pair[1]);
                block.add(pair[1] - 1).write(if pair[1] == 70 { 69 } else { 1 });
                assert!((0..70).all(|i| *block.add(i) == i as u8), "{pair:?}");
            }
            memory.dealloc(block, layout(sizes[sizes.len() - 1]));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let memory = Memory::new();
        // Sound: as above. Nothing is written, so that the kernel need not back any of it.
        unsafe {
            let many: Vec<*mut u8> = (0..SLOTS + 10).map(|_| memory.alloc(layout(LARGE))).collect();
            many.into_iter().for_each(|block| memory.dealloc(block, layout(LARGE)));
            assert_eq!(kept(&memory).1, SLOTS);
            let large: Vec<*mut u8> = (0..5).map(|_| memory.alloc(layout(KEPT / 2))).collect();
            large.into_iter().for_each(|block| memory.dealloc(block, layout(KEPT / 2)));
            assert_eq!(kept(&memory), (KEPT, 2));
            let over = memory.alloc(layout(KEPT + 1));
            memory.dealloc(over, layout(KEPT + 1));
            assert_eq!(kept(&memory), (0, 0));
        }
    }

    #[test]
    fn threads_do_not_get_one_block_twice() {
        let memory = Memory::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let memory = &memory;
                scope.spawn(move || {
                    for _ in 0..200 {
                        // Sound: as above.
                        unsafe {
                            let block = memory.alloc(layout(LARGE));
                            block.write_bytes(thread, 4096);
                            std::thread::yield_now();
                            assert!((0..4096).all(|i| *block.add(i) == thread));
                            memory.dealloc(block, layout(LARGE));
                        }
                    }
                });
            }
        });
    }
}
