//! Hamming retrieval: packed codes, search among them, and how good the ranking is.
//!
//! ```text
//! network outputs -> codes -> file          what encoding keeps
//!                      |
//!                   hamming                 distances of one query to the whole database
//!                   |     |
//!              search     rank <- labels    the nearest items, or the relevance of every rank
//!                           |
//!                   average_precision       numbers of one query
//!                           |
//!                       evaluation          all queries, and their means
//! ```
//!
//! Distances are small integers, so everything is ordered by counting: nothing here sorts. Ties keep the order of the
//! database, which makes every result reproducible; what the ties are worth is reported beside it, as an expectation.
//!
//! Arithmetic on integers and labels, which knows nothing of tensors and stages. Only `file` touches the disk and
//! knows the program's own error.

mod average_precision;
mod codes;
mod counting;
mod evaluation;
mod file;
mod hamming;
mod labels;
mod rank;
mod refusal;
mod search;
mod statistics;

pub use codes::{Codes, MAX_BITS, MAX_CODES};
pub use evaluation::{Evaluation, QueryResult, evaluate};
pub use file::{Header, Provenance, read, write};
pub use hamming::distances;
pub use labels::Labels;
pub use refusal::Refusal;
pub use search::{Neighbour, top_k, within};
pub use statistics::{Buckets, Correlation, Occupancy, Quantisation, Statistics};
