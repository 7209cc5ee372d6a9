//! hashpipe: from image lists to a measured, searchable deep-hashing system.

// Words that every step shares.
pub mod choices;
pub mod device;
pub mod error;
pub mod seeded;
pub mod suggest;

// The domain: knows nothing of pipelines.
pub mod dataset;
pub mod image;
pub mod kernel;
pub mod model;
pub mod npy;
pub mod retrieval;
