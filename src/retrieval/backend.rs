//! What compares codes: the processor, or a GPU. Everything else asks here and knows neither CUDA nor cards.

use super::Refusal;
use super::gpu::{Card, Scan, Source};
use std::sync::{Arc, OnceLock};

/// What compares codes; the processor, unless something else was opened.
#[derive(Debug, Clone, Default)]
pub struct Backend(Option<Arc<dyn Card>>);

impl Backend {
    /// Opens the processor (`None`) or the GPU in a slot. Results are the same, to the bit.
    ///
    /// # Errors
    /// If this build cannot use GPUs, or there is none in this slot.
    pub fn open(slot: Option<usize>) -> crate::error::Result<Self> {
        slot.map_or_else(|| Ok(Self::default()), gpu)
    }

    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        self.0.is_some()
    }

    /// Puts a database on it; nothing, if it is the processor.
    pub(super) fn load(&self, source: &Source) -> Result<Option<Arc<dyn Scan>>, Refusal> {
        self.0.as_ref().map(|card| card.load(source).map(Arc::from)).transpose()
    }

    /// A card of a test's own.
    #[cfg(test)]
    pub(super) fn with(card: impl Card + 'static) -> Self {
        Self(Some(Arc::new(card)))
    }
}

#[cfg(feature = "cuda")]
fn gpu(slot: usize) -> crate::error::Result<Backend> {
    Ok(Backend(Some(super::gpu::open(slot)?)))
}

/// What `device` says of a build without CUDA.
#[cfg(not(feature = "cuda"))]
fn gpu(slot: usize) -> crate::error::Result<Backend> {
    crate::device::open(Some(slot)).map(|_| Backend::default())
}

/// A backend, and a database as it lies on it, once it was needed.
#[derive(Debug, Clone, Default)]
pub(super) struct Placed {
    backend: Backend,
    loaded: OnceLock<Arc<dyn Scan>>,
}

impl Placed {
    pub(super) fn on(backend: &Backend) -> Self {
        Self { backend: backend.clone(), loaded: OnceLock::new() }
    }

    /// The database on its card, put there if it is not yet; nothing, if the processor is to work.
    pub(super) fn scan<'a>(&self, source: impl FnOnce() -> Source<'a>) -> Result<Option<Arc<dyn Scan>>, Refusal> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(Some(loaded.clone()));
        }
        if !self.backend.is_gpu() {
            return Ok(None);
        }
        let loaded = self.backend.load(&source())?;
        Ok(loaded.map(|loaded| self.loaded.get_or_init(|| loaded).clone()))
    }

    /// To be called when the database is another.
    pub(super) fn forget(&mut self) {
        self.loaded = OnceLock::new();
    }
}
