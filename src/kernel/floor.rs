//! What the processor's vectors could do at most: the figure that times of the network are held against.

#![expect(unsafe_code, reason = "operations of a `Simd` on registers")]

use super::simd::{Simd, Task, dispatch};
use std::hint::black_box;
use std::time::Instant;

/// Multiplications and additions per second, in 10^9, of all threads of the current pool together, nothing but registers
/// involved; takes some milliseconds.
pub fn gflops() -> f64 {
    const ROUNDS: usize = 400_000;
    let began = Instant::now();
    let operations: usize = rayon::broadcast(|_| dispatch(Multiply { rounds: ROUNDS })).into_iter().sum();
    operations as f64 / began.elapsed().as_secs_f64() / 1e9
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
        assert!(super::gflops() > 0.0);
    }
}
