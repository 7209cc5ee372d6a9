//! The update of momentum SGD with L2, in place.

use super::host::{values, values_mut};
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Numbers that one task takes; every number is updated for itself, so the cut changes nothing.
const CHUNK: usize = 1 << 15;

/// `v <- momentum v + (g + decay p)`, then `p <- p - lr v`: PyTorch's `SGD` without dampening and Nesterov.
pub fn momentum_step(p: &Tensor, g: &Tensor, v: &Tensor, momentum: f32, decay: f32, lr: f32) -> Result<()> {
    if p.dims() != g.dims() || p.dims() != v.dims() {
        bail!("sgd: parameter {:?}, gradient {:?}, momentum {:?}", p.dims(), g.dims(), v.dims());
    }
    v.inplace_op3(&g.contiguous()?, p, &Velocity { momentum, decay })?;
    p.inplace_op2(v, &Descent { lr })
}

/// `v <- momentum v + (g + decay p)`.
struct Velocity {
    momentum: f32,
    decay: f32,
}

impl InplaceOp3 for Velocity {
    fn name(&self) -> &'static str {
        "sgd-velocity"
    }

    fn cpu_fwd(
        &self,
        v: &mut CpuStorage,
        v_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
    ) -> Result<()> {
        let (v, g, p) = (values_mut(v, v_layout)?, values(g, g_layout)?, values(p, p_layout)?);
        (v.par_chunks_mut(CHUNK), g.par_chunks(CHUNK), p.par_chunks(CHUNK)).into_par_iter().for_each(|(v, g, p)| {
            for ((v, g), p) in v.iter_mut().zip(g).zip(p) {
                *v = self.momentum * *v + (g + self.decay * p);
            }
        });
        Ok(())
    }
}

/// `p <- p - lr v`.
struct Descent {
    lr: f32,
}

impl InplaceOp2 for Descent {
    fn name(&self) -> &'static str {
        "sgd-descent"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, p_layout: &Layout, v: &CpuStorage, v_layout: &Layout) -> Result<()> {
        let (p, v) = (values_mut(p, p_layout)?, values(v, v_layout)?);
        p.par_chunks_mut(CHUNK).zip(v.par_chunks(CHUNK)).for_each(|(p, v)| {
            for (p, v) in p.iter_mut().zip(v) {
                *p -= self.lr * v;
            }
        });
        Ok(())
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
