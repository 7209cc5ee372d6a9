//! How sure a figure is: intervals of means, and whether two models differ by more than chance.
//!
//! ```text
//! numbers of one model, query by query -> bootstrap      where the mean would lie for other queries
//! the same queries under two models    -> paired         how often chance alone makes such a difference
//! ```
//!
//! Arithmetic on slices of numbers: knows nothing of codes, files and stages. What is drawn is drawn from a seed, one
//! stream per resample, so results depend neither on the number of threads nor on anything else.

mod bootstrap;
mod paired;

pub use bootstrap::{Interval, mean, mean_interval, mean_intervals};
pub use paired::{Paired, paired};

/// Resamples and sign flips where nobody asks for another number.
pub const RESAMPLES: usize = 10_000;
/// The level of intervals where nobody asks for another one.
pub const LEVEL: f64 = 0.95;
