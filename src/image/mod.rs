//! Bytes of an image file to the numbers a network reads. Knows nothing of lists and tensors.

mod transform;

pub use transform::Transform;
