//! Reading and writing the numbers of a tensor that lies on the CPU.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use std::ops::Deref;

/// The values of a contiguous f32 tensor on the CPU, locked against writing while this lives.
pub(crate) struct Host<'a, Guard> {
    storage: Guard,
    layout: &'a Layout,
}

/// Locks `tensor` for reading.
pub(crate) fn host(tensor: &Tensor) -> Host<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Host { storage, layout }
}

impl<Guard: Deref<Target = Storage>> Host<'_, Guard> {
    /// The values, row-major; an error for a tensor that is elsewhere, of another type, or not contiguous.
    pub(crate) fn values(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => values(storage, self.layout),
            _ => bail!("expected a tensor on the CPU"),
        }
    }
}

/// The values of a contiguous f32 tensor, row-major.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The same for writing.
pub(super) fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("expected a tensor of f32"),
    }
}
