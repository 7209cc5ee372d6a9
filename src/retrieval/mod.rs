//! Hamming retrieval: packed codes, search among them, and how good the ranking is.
//!
//! ```text
//! network outputs -> codes -> file          what encoding keeps
//!                      |
//!                  popcount                 distances, with what the processor has
//!                      |
//!                    scan                   a group of queries over a database, block by block
//!                      |
//!                   nearest                 the nearest of each query, by counting
//!                   |     |
//!              engine     measure <- labels the nearest items, or every number of the ranking
//!                   |     |
//!                   |  comparison           both, of queries and a database that stay the same
//!                   |     |
//!                  backend, gpu             the same by a GPU, where one was asked for
//! ```
//!
//! Distances are small integers, so everything is ordered by counting: nothing here sorts. Ties keep the order of the
//! database, which makes every result reproducible; what the ties are worth is told beside it, exactly.
//!
//! Arithmetic on integers and labels, which knows nothing of tensors and stages. Only `file` touches the disk; it
//! and `backend`, which opens GPUs, know the program's own error.

mod backend;
mod codes;
mod comparison;
mod counting;
mod engine;
mod file;
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "what only cards ask for"))]
mod gpu;
mod labels;
mod measure;
mod nearest;
mod popcount;
mod refusal;
mod scan;
mod search;
mod statistics;
mod words;

pub use backend::Backend;
pub use codes::{Codes, MAX_BITS, MAX_CODES};
pub use comparison::Comparison;
pub use engine::{Engine, Neighbour};
pub use file::{Header, Provenance, map, read, write};
pub use labels::{Labels, Relevance};
pub use measure::{
    AveragePrecision, Ball, ClassMap, CurvePoint, Evaluation, Lookup, MeanAveragePrecision, MeanNdcg, PairsAt,
    QueryResult, RadiusPoint, Spread, Summary, Wanted,
};
pub use popcount::{instructions, popcount_floor, popcount_pass};
pub use refusal::Refusal;
pub use search::{top_k, within};
pub use statistics::{Buckets, Correlation, Occupancy, Quantisation, Statistics};
