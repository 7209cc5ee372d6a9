//! The network: backbone and hash layer, what it learns from, and its files. Knows nothing of stages and pipelines.

pub mod backbone;
mod checkpoint;
mod crew;
#[cfg(feature = "cuda")]
mod cuda;
mod data_parallel;
mod encode;
mod exchange;
mod feed;
mod finished;
mod judges;
mod later;
mod layers;
pub mod loss;
mod net;
pub mod onnx;
pub mod optim;
mod parameters;
mod probe;
mod recipe;
mod record;
mod replica;
pub mod schedule;
mod selection;
mod signs;
mod team;
mod tensor_file;
mod train_loop;
pub mod weights;

pub use checkpoint::finished_epochs;
pub use data_parallel::DataParallel;
pub use encode::{SignSink, Sink, encode, encode_signs, logits};
pub use finished::{Made, Shorter, epochs_of};
pub use net::{HashModel, How, Mode};
pub use probe::{Limits, Probe, Rates, multiply};
pub use recipe::Recipe;
pub use record::{Record, Tick};
pub use selection::{Measure, Selected, Selection};
pub use signs::{Sign, Signs};
pub use train_loop::{Files, Trained, Watch, train, train_selecting};

pub use crate::kernel::{Precision, check_vectors, has_bf16, vectors};

use crate::error::{Error, Kind};
use crate::threads;
use candle_core::Device;

/// Does a part of a device's work. What a CPU computes is done by as many threads as the process is to have now; a GPU's
/// thread is bound to it.
fn step_on<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    if device.is_cpu() { threads::step(work) } else { work() }
}

/// A tensor operation that failed: memory, a device, or a fault of this program.
fn tensor_error(error: candle_core::Error) -> Error {
    Error::new(Kind::Stage, "a tensor operation failed").note(error.to_string())
}

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(test)]
mod testing;
