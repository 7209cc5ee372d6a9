//! What the processor's vectors could do at most: the figure that times of the network are held against.

#![expect(unsafe_code, reason = "operations of a `Simd` on registers")]

use super::bf16::Precision;
use super::simd::{Simd, Task, dispatch, pair_peak};
use std::hint::black_box;
use std::time::Instant;

/// Multiplications and additions per second, in 10^9, of all threads of the current pool together, nothing but registers
/// involved; takes some milliseconds.
pub fn gflops(precision: Precision) -> f64 {
    let began = Instant::now();
    let operations = multiply(precision);
    operations / began.elapsed().as_secs_f64() / 1e9
}

/// Does some of them, and returns how many.
///
/// Those of bf16 are the instructions made for it; where there are none, those of f32, without taking pairs apart.
pub fn multiply(precision: Precision) -> f64 {
    const ROUNDS: usize = 1_000_000;
    let done = rayon::broadcast(|_| match precision {
        Precision::F32 | Precision::Tf32 => dispatch(Multiply { rounds: ROUNDS }),
        Precision::Bf16 => pair_peak(ROUNDS).unwrap_or_else(|| dispatch(Multiply { rounds: ROUNDS })),
    });
    done.into_iter().sum::<usize>() as f64
}

struct Multiply {
    rounds: usize,
}

impl Task for Multiply {
    /// Operations done.
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self) -> usize {
        // As many as hide the latency of a multiplication, and fit the registers of every kind of vectors.
        const SUMS: usize = 12;
        // Sound: the task runs only where the instructions are.
        unsafe {
            let (x, y) = (S::splat(black_box(0.999)), S::splat(black_box(1e-3)));
            let mut sums = [S::splat(0.0); SUMS];
            for _ in 0..self.rounds {
                for sum in &mut sums {
                    *sum = S::multiply_add(*sum, x, y);
                }
            }
            black_box(sums);
        }
        2 * SUMS * S::LANES * self.rounds
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn something_is_done() {
        for precision in [super::Precision::F32, super::Precision::Bf16] {
            assert!(super::gflops(precision) > 0.0);
        }
    }
}
