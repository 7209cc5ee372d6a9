//! From gradients to new parameters.

pub mod sgd;

use crate::choices;
use crate::error::Result;
use candle_core::{Tensor, Var};

/// Updates the parameters it was built for.
pub trait Optimizer: Send {
    /// One update by gradients in the order of the parameters it was built for; `factor` is the schedule's.
    fn step(&mut self, gradients: &[Tensor], factor: f64) -> candle_core::Result<()>;

    /// What it remembers between steps, by name: with the parameters, all a resumed training needs.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Takes back what `state` gave, names and shapes being equal.
    fn load_state(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()>;
}

/// Builds an optimiser out of its parameters in the pipeline file.
pub trait BuildOptimizer {
    /// For these named parameters.
    fn build(&self, parameters: &[(String, Var)]) -> Result<Box<dyn Optimizer>>;

    /// The learning rate before any schedule.
    fn lr(&self) -> f64;
}

choices! {
    /// What `optimizer = { name = ".." }` may be.
    pub enum OptimizerSpec: BuildOptimizer {
        Sgd(sgd::Sgd) = "sgd",
    }
}
