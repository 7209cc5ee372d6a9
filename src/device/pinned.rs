//! Numbers on their way between the host and a GPU while both go on working.
//!
//! The driver copies without waiting only from and to memory that it has locked in place. Getting such memory is slow, so
//! each piece is used again once its copy is done.

#![expect(unsafe_code, reason = "the driver gives locked memory unset; it is filled before anybody sees it")]

use super::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, sys,
};
use super::cuda::{CudaDevice, WrapErr};
use candle_core::Result;
use std::sync::Arc;

/// Pieces that uploads take turns in: as many steps as the host may be ahead of the GPU, and one.
const TURNS: usize = 4;

/// Numbers that may travel.
pub(crate) trait Plain: DeviceRepr + ValidAsZeroBits + Copy + Default + Send {}
impl<T: DeviceRepr + ValidAsZeroBits + Copy + Default + Send> Plain for T {}

/// So many zeros of locked memory. `flags` are of `cuMemHostAlloc`.
pub(crate) fn pinned<T: Plain>(context: &Arc<CudaContext>, count: usize, flags: u32) -> Result<PinnedHostSlice<T>> {
    // Sound: whatever is in it is a number, and is overwritten.
    let mut memory = unsafe { context.alloc_pinned_with_flags::<T>(count.max(1), flags) }.w()?;
    memory.as_mut_slice().w()?.fill(T::default());
    Ok(memory)
}

/// Sends small things, such as a batch's labels, without waiting for the GPU.
#[derive(Default)]
pub(crate) struct Uploads {
    turns: Vec<PinnedHostSlice<u64>>,
    next: usize,
}

impl Uploads {
    /// Words on the GPU, at least as many as were given: what is behind them says nothing.
    pub(crate) fn send(&mut self, device: &CudaDevice, words: &[u64]) -> Result<CudaSlice<u64>> {
        let stream = device.cuda_stream();
        let needed = words.len().next_power_of_two();
        let new = || pinned(stream.context(), needed, sys::CU_MEMHOSTALLOC_WRITECOMBINED);
        if self.turns.len() < TURNS {
            self.turns.push(new()?);
            self.next = self.turns.len() - 1;
        } else {
            self.next = (self.next + 1) % TURNS;
            if self.turns[self.next].len() < needed {
                self.turns[self.next] = new()?;
            }
        }
        let memory = &mut self.turns[self.next];
        // Waits for the copy that it was used for four turns ago.
        memory.as_mut_slice().w()?[..words.len()].copy_from_slice(words);
        stream.clone_htod(memory).w()
    }
}

/// Fetches results without making the GPU wait for the host.
pub(crate) struct Downloads<T: Plain> {
    free: Vec<PinnedHostSlice<T>>,
}

/// Numbers that the GPU will have written when it has done what it was asked for before.
pub(crate) struct Coming<T: Plain> {
    memory: PinnedHostSlice<T>,
    count: usize,
}

impl<T: Plain> Default for Downloads<T> {
    fn default() -> Self {
        Self { free: vec![] }
    }
}

impl<T: Plain> Downloads<T> {
    /// Asks for numbers that earlier work on the stream computes.
    pub(crate) fn begin(&mut self, stream: &Arc<CudaStream>, numbers: &impl DevicePtr<T>) -> Result<Coming<T>> {
        let count = numbers.len();
        // A copy is as long as the memory that it goes to, and is known by an event, which belongs to one GPU.
        let ours = |memory: &PinnedHostSlice<T>| memory.len() == count && memory.context() == stream.context();
        let fits = self.free.iter().position(ours);
        let mut memory = match fits {
            Some(which) => self.free.swap_remove(which),
            None => pinned(stream.context(), count, 0)?,
        };
        stream.memcpy_dtoh(numbers, &mut memory).w()?;
        Ok(Coming { memory, count })
    }

    /// Waits for numbers and for nothing that was asked for after them.
    pub(crate) fn finish(&mut self, coming: Coming<T>) -> Result<Vec<T>> {
        let numbers = coming.memory.as_slice().w()?[..coming.count].to_vec();
        self.free.push(coming.memory);
        Ok(numbers)
    }
}

#[cfg(test)]
mod cuda_tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn words_arrive_whatever_was_sent_before_and_come_back() {
        let Ok(Device::Cuda(gpu)) = crate::device::open(Some(0)) else { return eprintln!("skipped: no GPU") };
        let (mut uploads, mut downloads) = (Uploads::default(), Downloads::default());
        let words = |turn: u64| (0..1 + turn * 37 % 100).map(|i| i * i + turn).collect::<Vec<u64>>();
        let stream = gpu.cuda_stream();
        // Pieces of the first round are used again in the second.
        for round in 0..2 {
            let sent: Vec<_> = (0..20).map(|turn| uploads.send(&gpu, &words(turn + round)).unwrap()).collect();
            let coming: Vec<_> = sent.iter().map(|words| downloads.begin(&stream, words).unwrap()).collect();
            for (turn, coming) in coming.into_iter().enumerate() {
                let expected = words(turn as u64 + round);
                assert_eq!(downloads.finish(coming).unwrap()[..expected.len()], expected);
            }
        }
    }
}
