//! Images as bytes, a quarter of the size of the numbers that a network reads.

use super::Augment;
use crate::error::Result;
use crate::image::{Cut, Pixels};
use std::any::Any;
use std::sync::Arc;

/// Images as bytes, for whoever cuts and normalises them himself. What comes out is what
/// [`Examples::batches`](super::Examples::batches) gives, to the bit.
pub trait Raw: Sync {
    /// What each value of red, green and blue becomes.
    fn table(&self) -> [[f32; 256]; 3];

    /// Width and height of every prepared image, in the order of the list; none unless all of them are prepared.
    fn prepared_sizes(&self) -> Option<Vec<(usize, usize)>>;

    /// A prepared image, whole.
    ///
    /// # Errors
    /// One that is not there, or is damaged.
    fn prepared(&self, index: usize) -> Result<Pixels>;

    /// Where a prepared image of this width and height is cut.
    fn cut(&self, index: usize, size: (usize, usize), augment: Option<Augment>) -> Cut;

    /// The given batches, cut and mirrored, in order, made ahead of their use in memory of the caller's.
    fn cuts(
        &self,
        order: Vec<Vec<u32>>,
        augment: Option<Augment>,
        memory: Memory,
    ) -> Box<dyn Iterator<Item = Result<Cuts>> + '_>;
}

/// Memory for a batch.
pub trait Buffer: Any + Send {
    /// At least as many bytes as were asked for.
    ///
    /// # Errors
    /// Memory that cannot be used.
    fn bytes(&mut self) -> Result<&mut [u8]>;
}

/// Gives memory of so many bytes, on any thread.
pub type Memory = Arc<dyn Fn(usize) -> Result<Box<dyn Buffer>> + Send + Sync>;

/// A batch of cuts.
pub struct Cuts {
    /// Positions in the list, as asked for.
    pub index: Vec<u32>,
    /// Begins with `[n, side, side, 3]`, row-major: red, green and blue of each pixel.
    pub buffer: Box<dyn Buffer>,
}

impl Buffer for Vec<u8> {
    fn bytes(&mut self) -> Result<&mut [u8]> {
        Ok(self)
    }
}
