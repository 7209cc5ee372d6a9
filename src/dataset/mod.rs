//! Labelled images: where they come from, how they are listed, and how they reach a network.

use crate::error::Result;

mod breach;
mod faults;
mod list;
mod loader;
mod location;
mod prepared;
mod presets;
mod raw;
mod shards;
pub mod source;

pub use breach::{queries_in_database, queries_in_training, same_images, same_names};
pub use list::{Item, List};
pub use loader::{Images, Listed, eval_pixels};
pub use location::Location;
pub use prepared::{Prepared, Scale, Writer, is_part};
pub use presets::{PRESETS, Preset, PresetName};
pub use raw::{Buffer, Cuts, Memory, Raw};

/// Labelled images ready for a network: all that training and encoding know of a data set.
pub trait Examples: Sync {
    /// How many images there are.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many classes the labels speak of.
    fn classes(&self) -> usize;

    /// The classes of one image, ascending; empty if it has none.
    fn labels(&self, index: usize) -> &[u32];

    /// Side of the square the network sees, in pixels.
    fn side(&self) -> usize;

    /// The given batches of images, in order, prepared ahead of their use.
    fn batches(&self, order: Vec<Vec<u32>>, augment: Option<Augment>) -> Box<dyn Iterator<Item = Result<Batch>> + '_>;

    /// The same images as bytes, for a GPU that cuts and normalises them; none if there are only numbers.
    fn raw(&self) -> Option<&dyn Raw> {
        None
    }
}

/// One batch, ready for the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Positions in the list, as asked for.
    pub index: Vec<u32>,
    /// `[n, 3, side, side]`, row-major, normalised.
    pub pixels: Vec<f32>,
}

/// How training images are varied. The draw for an image depends on `seed`, `epoch` and its position only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Augment {
    pub seed: u64,
    pub epoch: u64,
    /// Crop at a random place instead of the centre.
    pub crop: bool,
    /// Mirror half of the images.
    pub flip: bool,
}
