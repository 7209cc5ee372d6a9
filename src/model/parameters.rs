//! The named numbers that a network learns, and where their first values come from.

use super::tensor_error;
use crate::error::Result;
use crate::seeded;
use candle_core::{Device, Tensor, Var};

/// How a parameter starts when no file gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform with variance 2 / `fan_in` (He et al. 2015, eq. 10): the scale of signals survives layers with ReLU.
    He {
        fan_in: usize,
    },
    /// Normal around 0.
    Normal {
        std: f64,
    },
    Zero,
}

/// Gives the first values of a parameter, row-major, by its name and shape.
pub(super) type Source<'a> = dyn FnMut(&str, &[usize], Init) -> Result<Vec<f32>> + 'a;

/// The parameters of a network under construction, in the order they are added.
pub struct Parameters<'a> {
    named: Vec<(String, Var)>,
    source: &'a mut Source<'a>,
    device: &'a Device,
}

impl<'a> Parameters<'a> {
    pub fn new(device: &'a Device, source: &'a mut Source<'a>) -> Self {
        Self { named: vec![], source, device }
    }

    /// A new parameter with values from the source.
    pub fn add(&mut self, name: String, shape: &[usize], init: Init) -> Result<Var> {
        let values = (self.source)(&name, shape, init)?;
        let tensor = Tensor::from_vec(values, shape, self.device).map_err(tensor_error)?;
        let var = Var::from_tensor(&tensor).map_err(tensor_error)?;
        self.named.push((name, var.clone()));
        Ok(var)
    }

    pub fn into_named(self) -> Vec<(String, Var)> {
        self.named
    }
}

/// First values that depend on the seed and the parameter's name: a layer more or less changes no other.
pub(super) fn draw(seed: u64, name: &str, shape: &[usize], init: Init) -> Vec<f32> {
    let len = shape.iter().product();
    let mut stream = seeded::stream(seed, &format!("init {name}"), &[]);
    match init {
        Init::He { fan_in } => {
            let bound = (6.0 / fan_in as f64).sqrt();
            (0..len).map(|_| stream.range(-bound, bound) as f32).collect()
        }
        Init::Normal { std } => (0..len).map(|_| (stream.normal() * std) as f32).collect(),
        Init::Zero => vec![0.0; len],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_have_their_variance_and_their_own_stream() {
        let variance = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
        let he = draw(1, "a.weight", &[100, 50], Init::He { fan_in: 50 });
        assert!((variance(&he) * 25.0 - 1.0).abs() < 0.05);
        let normal = draw(1, "a.weight", &[100, 50], Init::Normal { std: 0.01 });
        assert!((variance(&normal) / 1e-4 - 1.0).abs() < 0.05);
        assert_eq!(he, draw(1, "a.weight", &[100, 50], Init::He { fan_in: 50 }));
        assert_ne!(he, draw(1, "b.weight", &[100, 50], Init::He { fan_in: 50 }));
        assert_ne!(he, draw(2, "a.weight", &[100, 50], Init::He { fan_in: 50 }));
    }
}
