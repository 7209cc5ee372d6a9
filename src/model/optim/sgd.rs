//! Stochastic gradient descent with momentum and L2, as PyTorch's `SGD` with two groups of parameters.

use super::{BuildOptimizer, Optimizer};
use crate::error::{Error, Result};
use crate::kernel::{Momentum, Rates, Update};
use crate::model::net::is_of_hash_layer;
use crate::model::tensor_error;
use candle_core::{Tensor, Var, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `v <- momentum v + (g + weight_decay p)`, `p <- p - lr v`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Learning rate of the backbone.
    #[schemars(range(min = 0))]
    pub lr: f64,
    /// Share of the last update that is kept.
    #[serde(default = "momentum")]
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// Strength of L2, on weights and biases alike.
    #[serde(default = "weight_decay")]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// How many times faster the hash layer learns, being the one that starts from nothing.
    #[serde(default = "hash_lr")]
    #[schemars(range(min = 0))]
    pub hash_lr: f64,
}

fn momentum() -> f64 {
    0.9
}

fn weight_decay() -> f64 {
    5e-4
}

fn hash_lr() -> f64 {
    10.0
}

/// One parameter, its learning rate before the schedule, and its momentum.
struct Slot {
    name: String,
    parameter: Var,
    lr: f64,
    velocity: Tensor,
}

struct Descent {
    slots: Vec<Slot>,
    rates: Rates,
    update: Momentum,
}

impl Sgd {
    fn check(&self) -> Result<()> {
        let wrong =
            |key: &str, rule: &str, value: f64| Err(Error::input(format!("`{key}` must be {rule}, not {value}")));
        for (key, value) in [("lr", self.lr), ("weight_decay", self.weight_decay), ("hash_lr", self.hash_lr)] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(key, "a number of at least 0", value);
            }
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return wrong("momentum", "at least 0 and below 1", self.momentum);
        }
        Ok(())
    }
}

impl BuildOptimizer for Sgd {
    fn build(&self, parameters: &[(String, Var)]) -> Result<Box<dyn Optimizer>> {
        self.check()?;
        let slot = |(name, parameter): &(String, Var)| {
            let lr = self.lr * if is_of_hash_layer(name) { self.hash_lr } else { 1.0 };
            let velocity = parameter.zeros_like().map_err(tensor_error)?;
            Ok(Slot { name: name.clone(), parameter: parameter.clone(), lr, velocity })
        };
        let slots = parameters.iter().map(slot).collect::<Result<_>>()?;
        let rates = Rates { momentum: self.momentum as f32, decay: self.weight_decay as f32 };
        Ok(Box::new(Descent { slots, rates, update: Momentum::default() }))
    }

    fn lr(&self) -> f64 {
        self.lr
    }
}

impl Optimizer for Descent {
    fn step(&mut self, gradients: &[Tensor], factor: f64) -> candle_core::Result<()> {
        if gradients.len() != self.slots.len() {
            bail!("{} gradients for {} parameters", gradients.len(), self.slots.len());
        }
        let mut updates = vec![];
        for (Slot { parameter, lr, velocity, .. }, g) in self.slots.iter().zip(gradients) {
            updates.push(Update { p: parameter, g, v: velocity, lr: (lr * factor) as f32 });
        }
        self.update.step(&updates, self.rates)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|slot| (slot.name.clone(), slot.velocity.clone())).collect()
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> candle_core::Result<()> {
        for slot in &mut self.slots {
            let Some((_, velocity)) = state.iter().find(|(name, _)| *name == slot.name) else {
                bail!("no momentum for {}", slot.name)
            };
            if velocity.dims() != slot.parameter.dims() {
                bail!("momentum of {} has shape {:?}", slot.name, velocity.dims());
            }
            slot.velocity = velocity.to_device(slot.parameter.device())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn parameters() -> Vec<(String, Var)> {
        let var = || Var::ones(3, DType::F32, &Device::Cpu).unwrap();
        vec![("features.0.weight".into(), var()), ("hash.weight".into(), var())]
    }

    /// Gradients of `2 a + 2 b`.
    fn gradients(parameters: &[(String, Var)]) -> Vec<Tensor> {
        parameters.iter().map(|(_, var)| (var.ones_like().unwrap() * 2.0).unwrap()).collect()
    }

    fn first(parameters: &[(String, Var)]) -> [f32; 2] {
        [0, 1].map(|i| parameters[i].1.to_vec1::<f32>().unwrap()[0])
    }

    const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.5, weight_decay: 0.25, hash_lr: 10.0 };

    #[test]
    fn the_hash_layer_learns_faster_and_the_schedule_counts() {
        let parameters = parameters();
        let mut sgd = SGD.build(&parameters).unwrap();
        // v = 2 + 0.25 = 2.25; p = 1 - 0.1 * 2.25, and ten times that.
        sgd.step(&gradients(&parameters), 1.0).unwrap();
        let [a, b] = first(&parameters);
        assert!((a - 0.775).abs() < 1e-6 && (b + 1.25).abs() < 1e-6, "{a} {b}");
        // v = 0.5 * 2.25 + 2 + 0.25 * 0.775 = 3.31875; p = 0.775 - 0.05 * 3.31875.
        sgd.step(&gradients(&parameters), 0.5).unwrap();
        assert!((first(&parameters)[0] - 0.6090625).abs() < 1e-6);
    }

    #[test]
    fn a_loaded_state_goes_on_as_the_saved_one() {
        let run = |reload: bool| {
            let parameters = parameters();
            let mut sgd = SGD.build(&parameters).unwrap();
            sgd.step(&gradients(&parameters), 1.0).unwrap();
            if reload {
                let state = sgd.state();
                sgd = SGD.build(&parameters).unwrap();
                sgd.load_state(&state).unwrap();
            }
            sgd.step(&gradients(&parameters), 1.0).unwrap();
            first(&parameters)
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn a_state_that_does_not_fit_is_an_error() {
        let parameters = parameters();
        let mut sgd = SGD.build(&parameters).unwrap();
        assert!(sgd.load_state(&[]).is_err());
        let state = sgd.state().into_iter().map(|(name, t)| (name, t.reshape((1, 3)).unwrap())).collect::<Vec<_>>();
        assert!(sgd.load_state(&state).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for wrong in [
            Sgd { lr: f64::NAN, ..SGD },
            Sgd { lr: -1.0, ..SGD },
            Sgd { momentum: 1.0, ..SGD },
            Sgd { weight_decay: f64::INFINITY, ..SGD },
            Sgd { hash_lr: -1.0, ..SGD },
        ] {
            assert!(wrong.build(&parameters()).is_err(), "{wrong:?}");
        }
    }
}
