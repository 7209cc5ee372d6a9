//! Numbers on their way between the host and a GPU while both go on working.
//!
//! The driver copies without waiting only from and to memory that it has locked in place. Getting such memory is slow, so
//! each piece is used again once its copy is done.

#![expect(unsafe_code, reason = "the driver gives locked memory unset; contexts are C pointers")]

use super::cuda::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, PinnedHostSlice,
    ValidAsZeroBits, result, sys,
};
use super::cuda::{CudaDevice, WrapErr};
use candle_core::Result;
use std::ops::Range;
use std::sync::Arc;

/// Pieces that uploads take turns in: as many steps as the host may be ahead of the GPU, and one.
const TURNS: usize = 4;

/// Numbers that may travel.
pub(crate) trait Plain: DeviceRepr + ValidAsZeroBits + Copy + Default + Send {}
impl<T: DeviceRepr + ValidAsZeroBits + Copy + Default + Send> Plain for T {}

/// Locked memory, and the last copy from it or to it.
pub(crate) struct Locked<T: Plain> {
    memory: PinnedHostSlice<T>,
    /// cudarc's own events are not recorded where it does not track them, as on our devices.
    copied: Option<CudaEvent>,
}

/// For memory that the host only writes.
pub(crate) const WRITTEN: u32 = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
/// For memory that the host reads.
pub(crate) const READ: u32 = 0;

impl<T: Plain> Locked<T> {
    /// So many zeros, or one. `kind` is [`WRITTEN`] or [`READ`].
    pub(crate) fn new(context: &Arc<CudaContext>, count: usize, kind: u32) -> Result<Self> {
        // Sound: whatever is in it is a number, and is overwritten.
        let mut memory = unsafe { context.alloc_pinned_with_flags::<T>(count.max(1), kind) }.w()?;
        memory.as_mut_slice().w()?.fill(T::default());
        Ok(Self { memory, copied: None })
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// The numbers, once the last copy is done.
    pub(crate) fn numbers(&mut self) -> Result<&mut [T]> {
        if let Some(copied) = self.copied.take() {
            copied.synchronize().w()?;
        }
        self.memory.as_mut_slice().w()
    }

    /// Copies all of it to the beginning of `to`.
    pub(crate) fn send(&mut self, stream: &Arc<CudaStream>, to: &mut impl DevicePtrMut<T>) -> Result<()> {
        stream.memcpy_htod(&self.memory, to).w()?;
        self.note(stream)
    }

    /// Copies `from`, which has as many numbers.
    pub(crate) fn fetch(&mut self, stream: &Arc<CudaStream>, from: &impl DevicePtr<T>) -> Result<()> {
        if from.len() != self.len() {
            candle_core::bail!("a copy of {} numbers to {}", from.len(), self.len());
        }
        stream.memcpy_dtoh(from, &mut self.memory).w()?;
        self.note(stream)
    }

    /// Copies runs of it to where each is to begin in `to`.
    pub(crate) fn send_runs(
        &mut self,
        stream: &Arc<CudaStream>,
        to: &mut CudaSlice<T>,
        runs: impl IntoIterator<Item = (Range<usize>, usize)>,
    ) -> Result<()> {
        let memory = self.memory.as_slice().w()?;
        let mut send = |(run, start): (Range<usize>, usize)| {
            let end = start.checked_add(run.len());
            let there = end.and_then(|end| to.try_slice_mut(start..end));
            let (Some(from), Some(mut there)) = (memory.get(run.clone()), there) else {
                candle_core::bail!("a copy of numbers {run:?} to place {start}")
            };
            stream.memcpy_htod(from, &mut there).w()
        };
        let sent = runs.into_iter().try_for_each(&mut send);
        // Also of those before one that failed.
        let noted = self.note(stream);
        sent.and(noted)
    }

    fn note(&mut self, stream: &CudaStream) -> Result<()> {
        self.copied = Some(stream.record_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)).w()?);
        Ok(())
    }
}

impl<T: Plain> Drop for Locked<T> {
    fn drop(&mut self) {
        if let Some(copied) = self.copied.take() {
            // An error of the GPU is told by whoever asks it for something.
            let _ = copied.synchronize();
        }
    }
}

/// Pieces of locked memory that take turns.
pub(crate) struct Turns<T: Plain> {
    pieces: Vec<Locked<T>>,
    /// The one whose turn it was last.
    last: usize,
}

impl<T: Plain> Default for Turns<T> {
    fn default() -> Self {
        Self { pieces: vec![], last: 0 }
    }
}

impl<T: Plain> Turns<T> {
    /// Memory for at least so many numbers, of `most` pieces the one that was used the longest ago.
    pub(crate) fn next(&mut self, context: &Arc<CudaContext>, most: usize, needed: usize) -> Result<&mut Locked<T>> {
        let new = || Locked::new(context, needed, WRITTEN);
        if self.pieces.len() < most.max(1) {
            self.pieces.push(new()?);
            self.last = self.pieces.len() - 1;
        } else {
            self.last = (self.last + 1) % self.pieces.len();
            if self.pieces[self.last].len() < needed {
                self.pieces[self.last] = new()?;
            }
        }
        Ok(&mut self.pieces[self.last])
    }
}

/// Sends small things, such as a batch's labels, without waiting for the GPU.
#[derive(Default)]
pub(crate) struct Uploads {
    turns: Turns<u64>,
}

impl Uploads {
    /// Words on the GPU, at least as many as were given: what is behind them says nothing.
    pub(crate) fn send(&mut self, device: &CudaDevice, words: &[u64]) -> Result<CudaSlice<u64>> {
        let stream = device.cuda_stream();
        let memory = self.turns.next(stream.context(), TURNS, words.len().next_power_of_two())?;
        // Waits for the copy that it was used for four turns ago.
        memory.numbers()?[..words.len()].copy_from_slice(words);
        // Sound: the copy fills all of it.
        let mut there = unsafe { device.alloc::<u64>(memory.len()) }?;
        memory.send(&stream, &mut there)?;
        Ok(there)
    }
}

/// Fetches results without making the GPU wait for the host.
pub(crate) struct Downloads<T: Plain> {
    free: Vec<Locked<T>>,
}

/// Numbers that the GPU will have written when it has done what it was asked for before.
pub(crate) struct Coming<T: Plain>(Locked<T>);

impl<T: Plain> Default for Downloads<T> {
    fn default() -> Self {
        Self { free: vec![] }
    }
}

impl<T: Plain> Downloads<T> {
    /// Asks for numbers, at least one, that earlier work on the stream computes.
    pub(crate) fn begin(&mut self, stream: &Arc<CudaStream>, numbers: &impl DevicePtr<T>) -> Result<Coming<T>> {
        let count = numbers.len();
        // A copy is as long as the memory that it goes to, and is known by an event, which belongs to one GPU.
        let ours = |free: &Locked<T>| free.len() == count && free.memory.context() == stream.context();
        let mut locked = match self.free.iter().position(ours) {
            Some(which) => self.free.swap_remove(which),
            None => Locked::new(stream.context(), count, READ)?,
        };
        locked.fetch(stream, numbers)?;
        Ok(Coming(locked))
    }

    /// Waits for numbers and for nothing that was asked for after them.
    pub(crate) fn finish(&mut self, coming: Coming<T>) -> Result<Vec<T>> {
        let Coming(mut locked) = coming;
        let numbers = locked.numbers()?.to_vec();
        self.free.push(locked);
        Ok(numbers)
    }
}

/// Makes a GPU the one that this thread works on, until this is dropped. A thread that sees to several needs it: much of
/// CUDA, as giving memory back, takes the GPU of the thread and not that of its arguments.
pub(crate) struct Turn(Option<sys::CUcontext>);

impl Turn {
    pub(crate) fn of(device: &CudaDevice) -> Result<Self> {
        let before = result::ctx::get_current().w()?;
        device.cuda_stream().context().bind_to_thread().w()?;
        Ok(Self(before))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // Sound: contexts of devices live as long as the process.
            let _ = unsafe { result::ctx::set_current(before) };
        }
    }
}

#[cfg(test)]
mod cuda_tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn words_arrive_whatever_was_sent_before_and_come_back() {
        let Some(Device::Cuda(gpu)) = crate::device::for_test(0) else { return };
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
