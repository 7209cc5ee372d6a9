//! The update of momentum SGD with L2, in place.

use super::host::{host, values_mut};
use super::simd::{Simd, Task, dispatch};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Numbers that one task takes; every number is updated for itself, so the cut changes nothing.
const CHUNK: usize = 1 << 15;

/// A parameter, its gradient and its velocity, all of one shape and on one device, and its learning rate.
pub struct Update<'a> {
    pub p: &'a Tensor,
    pub g: &'a Tensor,
    pub v: &'a Tensor,
    pub lr: f32,
}

/// The numbers of the formula that all parameters share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub momentum: f32,
    pub decay: f32,
}

/// `v <- momentum v + (g + decay p)`, then `p <- p - lr v`: PyTorch's `SGD` without dampening and Nesterov.
///
/// The same bits on the CPU and on a GPU, where all parameters are updated by one launch.
#[derive(Default)]
pub struct Momentum {
    #[cfg(feature = "cuda")]
    uploads: crate::device::pinned::Uploads,
}

impl Momentum {
    /// One update of parameters, no two of which are the same.
    ///
    /// # Errors
    /// Shapes that differ; tensors that are not f32, or not where the first parameter is.
    pub fn step(&mut self, updates: &[Update], rates: Rates) -> Result<()> {
        let Some(first) = updates.first() else { return Ok(()) };
        for Update { p, g, v, .. } in updates {
            if p.dims() != g.dims() || p.dims() != v.dims() {
                bail!("sgd: parameter {:?}, gradient {:?}, momentum {:?}", p.dims(), g.dims(), v.dims());
            }
        }
        match first.p.device() {
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(device) => {
                super::cuda::sgd::momentum_steps(device, updates, rates, &mut self.uploads)
            }
            _ => updates.iter().try_for_each(|update| momentum_step(update, rates)),
        }
    }
}

fn momentum_step(&Update { p, g, v, lr }: &Update, rates: Rates) -> Result<()> {
    let g = g.contiguous()?;
    v.inplace_op1(&Velocity { p, g: host(&g).values()?, rates, lr })
}

/// Which of these tensors of f32 hold a number that is infinite or NaN.
pub fn not_finite(tensors: &[&Tensor]) -> Result<Vec<bool>> {
    match tensors.first().map(|tensor| tensor.device()) {
        #[cfg(feature = "cuda")]
        Some(candle_core::Device::Cuda(device)) => super::cuda::sgd::not_finite(device, tensors),
        _ => tensors.iter().map(|tensor| Ok(!is_finite(host(&tensor.contiguous()?).values()?))).collect(),
    }
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// Changes the velocity, and within that the parameter: both in one pass over them.
struct Velocity<'a> {
    p: &'a Tensor,
    g: &'a [f32],
    rates: Rates,
    lr: f32,
}

impl InplaceOp1 for Velocity<'_> {
    fn name(&self) -> &'static str {
        "sgd-velocity"
    }

    fn cpu_fwd(&self, v: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let v = Mutex::new(values_mut(v, layout)?);
        self.p.inplace_op1(&Descent { v, g: self.g, rates: self.rates, lr: self.lr })
    }
}

/// The whole update; the lock is for nobody, but lets the operation change the velocity.
struct Descent<'a> {
    v: Mutex<&'a mut [f32]>,
    g: &'a [f32],
    rates: Rates,
    lr: f32,
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
            .for_each(|(p, v, g)| dispatch(Chunk { p, v, g, rates: self.rates, lr: self.lr }));
        Ok(())
    }
}

struct Chunk<'a> {
    p: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    rates: Rates,
    lr: f32,
}

impl Task for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (Rates { momentum, decay }, lr) = (self.rates, self.lr);
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
    use candle_core::Device;

    const RATES: Rates = Rates { momentum: 0.9, decay: 5e-4 };

    #[test]
    fn two_steps_agree_with_the_formula() {
        on_threads(|| {
            let (p, v) = (tensor(1, (70, 1000)).copy().unwrap(), tensor(2, (70, 1000)).copy().unwrap());
            let (mut expected_p, mut expected_v) = (p.copy().unwrap(), v.copy().unwrap());
            for step in 0..2 {
                let g = tensor(3 + step, (70, 1000));
                Momentum::default().step(&[Update { p: &p, g: &g, v: &v, lr: 0.1 }], RATES).unwrap();
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
        let (p, g, v) = (tensor(1, 3), tensor(2, 4), tensor(3, 3));
        assert!(Momentum::default().step(&[Update { p: &p, g: &g, v: &v, lr: 0.1 }], RATES).is_err());
    }

    #[test]
    fn what_is_not_finite_is_found() {
        let with = |value: f32| Tensor::new(&[[1.0, value], [f32::MAX, 0.0]], &Device::Cpu).unwrap();
        let tensors = [with(1.0), with(f32::NAN), with(f32::NEG_INFINITY), with(1e-45).t().unwrap()];
        assert_eq!(not_finite(&tensors.iter().collect::<Vec<_>>()).unwrap(), [false, true, true, false]);
        assert!(not_finite(&[]).unwrap().is_empty());
    }

    #[cfg(feature = "cuda")]
    mod cuda_tests {
        use super::*;

        #[test]
        fn an_update_on_a_gpu_gives_the_bits_of_the_cpu() {
            let Some(gpu) = crate::device::for_test(0) else { return };
            if gpu.is_cpu() {
                return;
            }
            let shapes = [(1, 1), (64, 363), (4096, 3), (1, 4096), (1, 4097)];
            let of = |seed: u64, device: &Device| -> Vec<Tensor> {
                let tensors = shapes.iter().enumerate().map(|(i, &shape)| tensor(seed + 10 * i as u64, shape));
                tensors.map(|tensor| tensor.copy().unwrap().to_device(device).unwrap()).collect()
            };
            let updated = |device: &Device| {
                let (p, v, mut momentum) = (of(1, device), of(2, device), Momentum::default());
                for step in 0..6 {
                    let g = of(3 + step, device);
                    let updates: Vec<Update> = (0..p.len())
                        .map(|i| Update { p: &p[i], g: &g[i], v: &v[i], lr: 0.1 / (i + 1) as f32 })
                        .collect();
                    momentum.step(&updates, RATES).unwrap();
                }
                let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                p.iter().chain(&v).flat_map(numbers).map(f32::to_bits).collect::<Vec<u32>>()
            };
            assert!(updated(&gpu) == updated(&Device::Cpu));
            let with = |value: f32, len: usize| {
                let numbers: Vec<f32> = (0..len).map(|i| if i + 1 == len { value } else { i as f32 }).collect();
                Tensor::new(numbers, &gpu).unwrap()
            };
            let tensors = [with(1.0, 1), with(f32::NAN, 5000), with(f32::INFINITY, 4096), with(2.0, 4097)];
            let found = not_finite(&tensors.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(found, [false, true, true, false]);
        }
    }
}
