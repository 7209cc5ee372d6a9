//! Dropout whose mask is drawn anew from its name when it is needed, and not stored.

use super::host::values;
use crate::seeded;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Zeroes each number with probability `p` and divides the others by `1 - p`, as PyTorch's `dropout`.
///
/// The mask depends on `seed`, `step`, `layer` and the numbers' positions in the whole batch only: a batch that is cut
/// into shares gets the same mask. `p` is in [0, 1).
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    pub p: f64,
    pub seed: u64,
    /// The step of the training, from its beginning: after a resume the masks go on where they stopped.
    pub step: u64,
    /// Tells the layers of one network apart.
    pub layer: u64,
    /// How many numbers of the batch come before these: 0, unless they are a share of it.
    pub first: usize,
}

/// Numbers that share one random stream. Part of the mask's definition.
pub(super) const CHUNK: usize = 1 << 12;

impl Dropout {
    fn apply(&self, xs: &[f32]) -> Vec<f32> {
        let mut out = xs.to_vec();
        // Streams begin at multiples of their length in the whole batch, wherever these numbers begin.
        let begun = (self.first.next_multiple_of(CHUNK) - self.first).min(out.len());
        let (head, whole) = out.split_at_mut(begun);
        self.drop_from(self.first, head);
        let first = self.first + begun;
        whole.par_chunks_mut(CHUNK).enumerate().for_each(|(i, values)| self.drop_from(first + i * CHUNK, values));
        out
    }

    /// What draws a number is dropped for, those below it, and what it is multiplied by otherwise.
    pub(super) fn rule(&self) -> (u32, f32) {
        // Half of a 64-bit draw decides: the probability is exact to 2^-32.
        ((self.p * (1u64 << 32) as f64) as u32, (1.0 / (1.0 - self.p)) as f32)
    }

    /// Drops some of the numbers from this position of the batch on; all of one stream.
    fn drop_from(&self, position: usize, mut values: &mut [f32]) {
        let (dropped_below, scale) = self.rule();
        let decide = |draw: u32, x: f32| if draw < dropped_below { 0.0 } else { x * scale };
        let (chunk, before) = (position / CHUNK, position % CHUNK);
        let mut stream = seeded::stream(self.seed, "dropout", &[self.step, self.layer, chunk as u64]);
        for _ in 0..before / 2 {
            stream.bits();
        }
        if before % 2 == 1
            && let Some(first) = values.split_off_first_mut()
        {
            *first = decide((stream.bits() >> 32) as u32, *first);
        }
        for pair in values.chunks_mut(2) {
            let bits = stream.bits();
            pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]).for_each(|(x, draw)| *x = decide(draw, *x));
        }
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(values(xs, layout)?)), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, xs: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        super::cuda::dropout::dropout(self, xs, layout)
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        upstream.contiguous()?.apply_op1_no_bwd(self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::on_threads;
    use candle_core::{DType, Device, Var};

    const OP: Dropout = Dropout { p: 0.3, seed: 1, step: 2, layer: 0, first: 0 };

    fn mask(op: Dropout, len: usize) -> Vec<f32> {
        op.apply(&vec![1.0; len])
    }

    #[test]
    fn keeps_the_mean_and_drops_the_share() {
        let mask = mask(OP, 100_001);
        let dropped = mask.iter().filter(|&&m| m == 0.0).count() as f64 / mask.len() as f64;
        let mean = mask.iter().map(|&m| f64::from(m)).sum::<f64>() / mask.len() as f64;
        assert!((dropped - 0.3).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{dropped} {mean}");
        assert!(mask.iter().all(|&m| m == 0.0 || m == (1.0 / 0.7) as f32));
    }

    #[test]
    fn masks_differ_by_seed_step_and_layer_and_repeat_otherwise() {
        let first = mask(OP, 50);
        assert_eq!(first, mask(OP, 50));
        for other in [Dropout { seed: 2, ..OP }, Dropout { step: 3, ..OP }, Dropout { layer: 1, ..OP }] {
            assert_ne!(first, mask(other, 50));
        }
    }

    #[test]
    fn the_mask_of_a_share_is_its_part_of_the_whole_one() {
        let whole = mask(OP, 3 * CHUNK + 5);
        for (from, to) in
            [(0, 1), (1, 2), (7, CHUNK), (CHUNK - 1, CHUNK + 2), (CHUNK, 3 * CHUNK), (5000, 3 * CHUNK + 5)]
        {
            assert_eq!(mask(Dropout { first: from, ..OP }, to - from), whole[from..to], "{from}..{to}");
        }
    }

    #[test]
    fn the_gradient_goes_where_the_values_went_on_any_number_of_threads() {
        on_threads(|| {
            let xs = Var::from_tensor(&Tensor::ones((3, 5000), DType::F32, &Device::Cpu).unwrap()).unwrap();
            let ys = xs.apply_op1(OP).unwrap();
            let dx = ys.sum_all().unwrap().backward().unwrap().get(&xs).unwrap().clone();
            assert_eq!(dx.to_vec2::<f32>().unwrap(), ys.to_vec2::<f32>().unwrap());
            vec![dx]
        });
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_draws_the_mask_of_the_cpu() {
        let Some(gpu @ Device::Cuda(_)) = crate::device::for_test(0) else { return };
        for (len, first, p, seed) in
            [(1, 0, 0.5, 0), (5000, 0, 0.3, u64::MAX), (9000, 4095, 0.5, 1 << 40), (4096, 4096, 0.9, 3)]
        {
            let op = Dropout { p, seed, step: 1 << 33 | 5, layer: 1, first };
            let draw = |device: &Device| {
                let xs: Vec<f32> = (0..len).map(|i| i as f32 - 2500.5).collect();
                let xs = Var::from_tensor(&Tensor::from_vec(xs, len, device).unwrap()).unwrap();
                let ys = xs.apply_op1(op).unwrap();
                let dx = (&ys * 3.0).unwrap().sum_all().unwrap().backward().unwrap().get(&xs).unwrap().clone();
                [ys, dx].map(|tensor| tensor.to_vec1::<f32>().unwrap())
            };
            assert!(draw(&gpu) == draw(&Device::Cpu), "{op:?}");
        }
    }
}
