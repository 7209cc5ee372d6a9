//! Bytes of an image file to the numbers a network reads. Knows nothing of lists and tensors.

mod decode;
#[cfg(test)]
pub(crate) mod golden;
mod indexed_tiff;
mod jpeg;
mod orientation;
mod resize;
pub(crate) mod scratch;
mod transform;

pub use decode::{DecodeError, MAX_PIXELS, Pixels, decode};
pub use resize::{Window, resize_window};
pub use transform::{Cut, Transform};
