//! The update of momentum SGD with L2, in place.

use super::host::{host, values_mut};
use super::simd::{Simd, Task, dispatch};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Numbers that one task takes; every number is updated for itself, so the cut changes nothing.
const CHUNK: usize = 1 << 15;

/// `v <- momentum v + (g + decay p)`, then `p <- p - lr v`: PyTorch's `SGD` without dampening and Nesterov.
pub fn momentum_step(p: &Tensor, g: &Tensor, v: &Tensor, momentum: f32, decay: f32, lr: f32) -> Result<()> {
    if p.dims() != g.dims() || p.dims() != v.dims() {
        bail!("sgd: parameter {:?}, gradient {:?}, momentum {:?}", p.dims(), g.dims(), v.dims());
    }
    let g = g.contiguous()?;
    v.inplace_op1(&Velocity { p, g: host(&g).values()?, rates: Rates { momentum, decay, lr } })
}

/// The numbers of the formula.
#[derive(Clone, Copy)]
struct Rates {
    momentum: f32,
    decay: f32,
    lr: f32,
}

/// Changes the velocity, and within that the parameter: both in one pass over them.
struct Velocity<'a> {
    p: &'a Tensor,
    g: &'a [f32],
    rates: Rates,
}

impl InplaceOp1 for Velocity<'_> {
    fn name(&self) -> &'static str {
        "sgd-velocity"
    }

    fn cpu_fwd(&self, v: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let v = Mutex::new(values_mut(v, layout)?);
        self.p.inplace_op1(&Descent { v, g: self.g, rates: self.rates })
    }
}

/// The whole update; the lock is for nobody, but lets the operation change the velocity.
struct Descent<'a> {
    v: Mutex<&'a mut [f32]>,
    g: &'a [f32],
    rates: Rates,
}

impl InplaceOp1 for Descent<'_> {
    fn name(&self) -> &'static str {
        "sgd-descent"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let p = values_mut(p, layout)?;
        let mut v = self.v.lock().unwrap_or_else(PoisonError::into_inner);
        (p.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK), self.g.par_chunks(CHUNK))
            .into_par_iter()
            .for_each(|(p, v, g)| dispatch(Update { p, v, g, rates: self.rates }));
        Ok(())
    }
}

struct Update<'a> {
    p: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    rates: Rates,
}

impl Task for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Rates { momentum, decay, lr } = self.rates;
        for ((p, v), g) in self.p.iter_mut().zip(self.v).zip(self.g) {
            *v = momentum * *v + (g + decay * *p);
            *p -= lr * *v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::{close, on_threads, tensor};

    #[test]
    fn two_steps_agree_with_the_formula() {
        on_threads(|| {
            let (p, v) = (tensor(1, (70, 1000)).copy().unwrap(), tensor(2, (70, 1000)).copy().unwrap());
            let (mut expected_p, mut expected_v) = (p.copy().unwrap(), v.copy().unwrap());
            for step in 0..2 {
                let g = tensor(3 + step, (70, 1000));
                momentum_step(&p, &g, &v, 0.9, 5e-4, 0.1).unwrap();
                expected_v = ((expected_v * 0.9).unwrap() + (&g + (&expected_p * 5e-4).unwrap()).unwrap()).unwrap();
                expected_p = (&expected_p - (&expected_v * 0.1).unwrap()).unwrap();
            }
            close(&p, &expected_p, 1e-6);
            close(&v, &expected_v, 1e-6);
            vec![p, v]
        });
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        assert!(momentum_step(&tensor(1, 3), &tensor(2, 4), &tensor(3, 3), 0.9, 0.0, 0.1).is_err());
    }
}
