//! hashpipe: from image lists to a measured, searchable deep-hashing system.
//!
//! A pipeline file becomes a [`config`], that a [`plan`] of tasks; the [`cache`] gives each a key and says which results
//! are there already; the [`schedule`] runs the others, each a [`stage`]; [`report`] shows it. `doc/design.md` walks
//! through it.

// Words that every step shares.
pub mod amounts;
pub mod choices;
pub mod device;
pub mod error;
pub mod memory;
pub mod names;
pub mod outfile;
pub mod process;
pub mod seeded;
pub mod threads;

// The domain: knows nothing of pipelines.
pub mod certainty;
pub mod codefile;
pub mod dataset;
pub mod external;
pub mod fetch;
pub mod image;
pub mod kernel;
pub mod model;
pub mod npy;
pub mod per_query;
pub mod pickle;
pub mod retrieval;
pub mod weightfile;
pub mod assess;

// The steps, in the order data flows.
pub mod config;
pub mod plan;
pub mod bench;
pub mod cache;
pub mod event;
pub mod runs;
pub mod schedule;
pub mod stage;
pub mod report;
pub mod schema;
pub mod cli;

#[cfg(test)]
mod testdata;
