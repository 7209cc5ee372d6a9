//! What the kernels' tests share: repeatable numbers, comparisons, and gradients by two other means.

use super::bf16::Pair;
use crate::seeded;
use candle_core::{Device, Shape, Tensor, Var};

/// Numbers in [-1, 1).
pub(super) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = seeded::stream(seed, "test", &[]);
    (0..len).map(|_| stream.range(-1.0, 1.0) as f32).collect()
}

/// A tensor of numbers in [-1, 1).
pub(crate) fn tensor(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    Tensor::from_vec(uniform(seed, shape.elem_count()), shape, &Device::Cpu).unwrap()
}

/// The same numbers rounded to bf16.
pub(super) fn rounded(tensor: &Tensor) -> Var {
    let rounded: Vec<f32> = numbers(tensor).into_iter().map(|x| Pair::new(x, 0.0).numbers()[0]).collect();
    Var::from_vec(rounded, tensor.shape(), &Device::Cpu).unwrap()
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless both have one shape and differ by at most `tolerance` times the largest number, or times 1.
#[track_caller]
pub(super) fn close(ours: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(ours.dims(), expected.dims());
    let (ours, expected) = (numbers(ours), numbers(expected));
    let largest = expected.iter().fold(1f32, |max, x| max.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "number {i}: {a}, expected {b}, largest {largest}");
    }
}

/// Gradients of a sum in which every output has another weight.
pub(super) fn gradients(ys: &Tensor, vars: &[Var]) -> Vec<Tensor> {
    let total = (ys * tensor(99, ys.shape())).unwrap().sum_all().unwrap();
    let grads = total.backward().unwrap();
    vars.iter().map(|v| grads.get(v).unwrap().clone()).collect()
}

/// A sum whose gradient is told: needs nothing of candle's own.
#[cfg(feature = "cuda")]
pub(crate) struct Told(pub(crate) Tensor);

#[cfg(feature = "cuda")]
impl candle_core::CustomOp1 for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn cpu_fwd(
        &self,
        _: &candle_core::CpuStorage,
        _: &candle_core::Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, Shape)> {
        Ok((candle_core::CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        _: &candle_core::Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let zero = storage.device().alloc_zeros::<f32>(1)?;
        Ok((candle_core::CudaStorage::wrap_cuda_slice(zero, storage.device().clone()), ().into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Compares an operation's numbers with candle's, to 1e-5, and its gradients.
pub(super) fn agree(ours: &Tensor, plain: &Tensor, vars: &[Var], tolerance: f32) {
    close(ours, plain, 1e-5);
    for (ours, plain) in gradients(ours, vars).iter().zip(gradients(plain, vars)) {
        close(ours, &plain, tolerance);
    }
}

/// Compares gradients with central differences, along a random direction for each variable.
pub(super) fn check_gradients<const N: usize>(vars: &[Var; N], apply: impl Fn(&[Var; N]) -> Tensor) {
    const STEP: f64 = 1e-2;
    let total = |vars: &[Var; N]| {
        let ys = apply(vars);
        let weighted = numbers(&(&ys * tensor(99, ys.shape())).unwrap());
        weighted.iter().map(|&y| f64::from(y)).sum::<f64>()
    };
    let grads = gradients(&apply(vars), vars);
    for (i, grad) in grads.iter().enumerate() {
        let direction = tensor(50 + i as u64, grad.shape());
        let start = vars[i].as_tensor().copy().unwrap();
        let at = |step: f64| {
            vars[i].set(&(&start + (&direction * step).unwrap()).unwrap()).unwrap();
            total(vars)
        };
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        vars[i].set(&start).unwrap();
        let ours: f64 = numbers(&(grad * direction).unwrap()).iter().map(|&g| f64::from(g)).sum();
        assert!((ours - numeric).abs() <= 1e-3 * numeric.abs().max(1.0), "variable {i}: {ours}, differences {numeric}");
    }
}

/// Runs `work` on pools of 1, 2 and 3 threads and fails if any bit of a result differs.
pub(super) fn on_threads(work: impl Fn() -> Vec<Tensor> + Sync) {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let results = pool.install(&work);
        results.iter().flat_map(numbers).map(f32::to_bits).collect::<Vec<_>>()
    };
    let one = run(1);
    assert!(one == run(2), "1 and 2 threads differ");
    assert!(one == run(3), "1 and 3 threads differ");
}
