//! Numbers that may still be computed when they are asked for.
//!
//! On the CPU they are there at once. A GPU is a few batches behind the host, so that it never waits for it: what it
//! computes is taken in turn, the oldest first, when newer batches are on their way.

use super::signs;
use candle_core::{Device, Result, Tensor};
use std::collections::VecDeque;

#[cfg(feature = "cuda")]
pub(super) use crate::device::pinned::Plain;

/// Numbers that may travel.
#[cfg(not(feature = "cuda"))]
pub(super) trait Plain {}
#[cfg(not(feature = "cuda"))]
impl<T> Plain for T {}

/// Batches that a GPU may be behind the host.
const BEHIND: usize = 2;

/// Numbers that were asked for and have not been taken, each with what the caller knows it by.
pub(super) struct Later<K, T: Plain> {
    waiting: VecDeque<(K, Numbers<T>)>,
    #[cfg(feature = "cuda")]
    downloads: crate::device::pinned::Downloads<T>,
}

enum Numbers<T: Plain> {
    Here(Vec<T>),
    #[cfg(feature = "cuda")]
    Coming(crate::device::pinned::Coming<T>),
}

impl<K, T: Plain> Later<K, T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            #[cfg(feature = "cuda")]
            downloads: crate::device::pinned::Downloads::default(),
        }
    }

    /// How many were asked for and not taken.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The oldest numbers, once so many newer ones were asked for that they should be there.
    ///
    /// # Errors
    /// That of a GPU's earlier work.
    pub(super) fn take(&mut self) -> Result<Option<(K, Vec<T>)>> {
        let due = match self.waiting.front() {
            Some((_, Numbers::Here(_))) => true,
            _ => self.waiting.len() > BEHIND,
        };
        if due { self.wait() } else { Ok(None) }
    }

    /// The oldest numbers, waited for; none if nothing was asked for any more.
    ///
    /// # Errors
    /// That of a GPU's earlier work.
    pub(super) fn wait(&mut self) -> Result<Option<(K, Vec<T>)>> {
        let Some((key, numbers)) = self.waiting.pop_front() else { return Ok(None) };
        #[cfg(not(feature = "cuda"))]
        let Numbers::Here(numbers) = numbers;
        #[cfg(feature = "cuda")]
        let numbers = match numbers {
            Numbers::Here(numbers) => numbers,
            Numbers::Coming(coming) => self.downloads.finish(coming)?,
        };
        Ok(Some((key, numbers)))
    }
}

impl<K> Later<K, f32> {
    /// Asks for a tensor's numbers, row-major.
    pub(super) fn numbers(&mut self, key: K, tensor: &Tensor) -> Result<()> {
        let numbers = match tensor.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let tensor = tensor.contiguous()?;
                let (storage, layout) = tensor.storage_and_layout();
                let (candle_core::Storage::Cuda(storage), Some((start, end))) =
                    (&*storage, layout.contiguous_offsets())
                else {
                    candle_core::bail!("numbers that do not lie on their GPU one after the other")
                };
                let numbers = storage.as_cuda_slice::<f32>()?.slice(start..end);
                Numbers::Coming(self.downloads.begin(&device.cuda_stream(), &numbers)?)
            }
            _ => Numbers::Here(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?),
        };
        self.waiting.push_back((key, numbers));
        Ok(())
    }
}

impl<K> Later<K, u64> {
    /// Asks for the signs of logits `[n, bits]`, as [`Signs`](super::Signs) has them.
    pub(super) fn signs(&mut self, key: K, logits: &Tensor) -> Result<()> {
        let words = match logits.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let words = super::cuda::pack(device, logits)?;
                Numbers::Coming(self.downloads.begin(&device.cuda_stream(), &words)?)
            }
            _ => Numbers::Here(signs::packed(&logits.to_device(&Device::Cpu)?)?),
        };
        self.waiting.push_back((key, words));
        Ok(())
    }
}
