//! Codes and labels as any program writes them: NumPy arrays and list files, beside hashpipe's own.
//!
//! ```text
//! codes file of hashpipe                   -> codes
//! .npy of -1, 0, +1; of bits; packed       -> codes
//! .npy of network outputs, if it is said   -> codes, and how far the outputs are from them
//! list of hashpipe; list file of the field -> labels, paths, digests
//! .npy of class numbers or of 0 and 1      -> labels
//! ```
//!
//! What could be meant in two ways is refused, and the message says how to say which.

mod codes;
mod labels;

pub use codes::{BitOrder, Layout, ReadCodes, Reading, read_codes};
pub use labels::{ReadLabels, read_labels, same_items};
