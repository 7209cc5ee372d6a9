//! Numbers of bf16: the upper half of an f32, 8 bits of which are the number's digits; and of TF32, which has 11.
//!
//! Only factors of products are such numbers. Weights, sums, activations between layers and gradients are f32, and are
//! rounded where a product takes them, to the nearest, and to the even one of two that are equally near. Products are
//! exact in f32; sums are f32. Which instructions add them up, and so the order and what becomes of numbers below
//! 1.2e-38, depends on the processor.

use super::simd::{Simd, Task, dispatch};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a network's factors are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits: not rounded.
    #[default]
    F32,
    /// 19 bits, summed up in 32: NVIDIA's tensor cores from Ampere on take these. A CPU only imitates them, which takes
    /// longer than f32. Weights stay f32, and so does the layer of hash functions.
    Tf32,
    /// 16 bits, summed up in 32: faster on GPUs, and where the processor has AMX or AVX-512-BF16, emulated elsewhere.
    /// Weights stay f32, and so does the layer of hash functions.
    Bf16,
}

impl Precision {
    /// Whether it is what holds where nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As a pipeline file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::Tf32, Self::Bf16];
        known
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| "it is `f32`, `tf32` or `bf16`".into())
    }
}

/// Numbers as a product of this precision takes them, where its factors lie as f32: rounded for TF32, to the nearest,
/// away from 0 from two that are equally near, as the GPU's own instruction for it does.
pub(super) fn factors(numbers: &[f32], precision: Precision) -> Cow<'_, [f32]> {
    if precision != Precision::Tf32 {
        return numbers.into();
    }
    numbers.par_iter().map(|&x| tf32(x)).collect::<Vec<f32>>().into()
}

/// A number with the lowest 13 bits rounded away; NaN stays NaN.
fn tf32(x: f32) -> f32 {
    if x.is_nan() { x } else { f32::from_bits((x.to_bits() + 0x1000) & !0x1fff) }
}

/// Two neighbouring terms' factors, the first in the lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub(super) struct Pair(u32);

impl Pair {
    /// Rounds both.
    #[inline(always)]
    pub(super) fn new(first: f32, second: f32) -> Self {
        Self(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
    }

    /// What they were rounded to.
    #[cfg(test)]
    pub(super) fn numbers(self) -> [f32; 2] {
        [f32::from_bits(self.0 << 16), f32::from_bits(self.0 & 0xffff_0000)]
    }
}

/// The bits of a number rounded to bf16, in the upper half; the lower half is left over.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    // To add 0x7fff rounds what is above the middle up, and 1 more the middle itself if that makes it even.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // The same would make some NaN an infinity.
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x0040_0000 } else { nearest }
}

/// Pairs of neighbours; the last one's neighbour is 0 if their number is odd.
pub(super) fn of_neighbours(numbers: &[f32], out: &mut [Pair]) {
    assert_eq!(out.len(), numbers.len().div_ceil(2), "a pair of two numbers");
    dispatch(Neighbours { numbers, out });
}

/// Pairs of two rows, column by column; a missing second row is 0.
pub(super) fn of_rows(first: &[f32], second: Option<&[f32]>, out: &mut [Pair]) {
    assert!(first.len() == out.len() && second.is_none_or(|row| row.len() == out.len()), "a pair of each column");
    dispatch(Rows { first, second, out });
}

/// The same turned: `[rows, columns]` to pairs `[columns, rows]`.
pub(super) fn of_rows_turned(first: &[f32], second: Option<&[f32]>, columns: usize, out: &mut [Pair]) {
    assert!(first.len() == out.len() && second.is_none_or(|row| row.len() == out.len()), "a pair of each number");
    dispatch(Turned { first, second, columns, out });
}

struct Neighbours<'a> {
    numbers: &'a [f32],
    out: &'a mut [Pair],
}

impl Task for Neighbours<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        for (out, &[first, second]) in self.out.iter_mut().zip(pairs) {
            *out = Pair::new(first, second);
        }
        if let (&[last], Some(out)) = (rest, self.out.last_mut()) {
            *out = Pair::new(last, 0.0);
        }
    }
}

struct Rows<'a> {
    first: &'a [f32],
    second: Option<&'a [f32]>,
    out: &'a mut [Pair],
}

impl Task for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.second {
            Some(second) => {
                for ((out, &first), &second) in self.out.iter_mut().zip(self.first).zip(second) {
                    *out = Pair::new(first, second);
                }
            }
            None => self.out.iter_mut().zip(self.first).for_each(|(out, &first)| *out = Pair::new(first, 0.0)),
        }
    }
}

struct Turned<'a> {
    first: &'a [f32],
    second: Option<&'a [f32]>,
    columns: usize,
    out: &'a mut [Pair],
}

impl Task for Turned<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        /// Rows and columns of a square that is turned at once: a cache line of each.
        const SIDE: usize = 16;
        let Self { first, second, columns, out } = self;
        let rows = first.len() / columns;
        for top in (0..rows).step_by(SIDE) {
            let height = SIDE.min(rows - top);
            for left in (0..columns).step_by(SIDE) {
                let width = SIDE.min(columns - left);
                let mut square = [[Pair::default(); SIDE]; SIDE];
                for (y, line) in square[..height].iter_mut().enumerate() {
                    let at = (top + y) * columns + left;
                    match second {
                        Some(second) => {
                            let rows = first[at..at + width].iter().zip(&second[at..at + width]);
                            line.iter_mut().zip(rows).for_each(|(pair, (&a, &b))| *pair = Pair::new(a, b));
                        }
                        None => {
                            let row = &first[at..at + width];
                            line.iter_mut().zip(row).for_each(|(pair, &a)| *pair = Pair::new(a, 0.0));
                        }
                    }
                }
                for x in 0..width {
                    let line = &mut out[(left + x) * rows + top..][..height];
                    line.iter_mut().zip(&square).for_each(|(to, from)| *to = from[x]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;
    use proptest::prelude::*;

    fn bf16(x: f32) -> f32 {
        Pair::new(x, 0.0).numbers()[0]
    }

    proptest! {
        #[test]
        fn the_nearest_number_is_taken_and_the_even_one_of_two(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let [rounded, zero] = Pair::new(x, 0.0).numbers();
            prop_assert!(zero == 0.0 && Pair::new(0.0, x).numbers()[1].to_bits() == rounded.to_bits());
            if x.is_nan() {
                prop_assert!(rounded.is_nan());
            } else if rounded.is_finite() {
                // The numbers on both sides of it, without the lower half of the bits.
                let below = f32::from_bits(bits & 0xffff_0000);
                let above = f32::from_bits((bits & 0xffff_0000) + 0x1_0000);
                let far = |y: f32| (f64::from(y) - f64::from(x)).abs();
                let even = if bits & 0x1_0000 == 0 { below } else { above };
                let nearest = match far(below).total_cmp(&far(above)) {
                    std::cmp::Ordering::Less => below,
                    std::cmp::Ordering::Greater => above,
                    std::cmp::Ordering::Equal => even,
                };
                prop_assert_eq!(rounded, nearest);
            } else {
                prop_assert!(x.abs() >= f32::from_bits(0x7f7f_8000));
            }
        }

        #[test]
        fn tf32_is_the_nearest_number_of_eleven_bits(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let y = factors(&[x], Precision::Tf32)[0];
            prop_assert_eq!(factors(&[x], Precision::F32)[0].to_bits(), bits);
            if x.is_nan() {
                prop_assert!(y.is_nan());
            } else if y.is_finite() {
                let below = f32::from_bits(bits & !0x1fff);
                let above = f32::from_bits((bits & !0x1fff) + 0x2000);
                let far = |y: f32| (f64::from(y) - f64::from(x)).abs();
                prop_assert_eq!(y, if far(above) <= far(below) { above } else { below });
            } else {
                prop_assert!(x.abs() >= f32::from_bits(0x7f7f_f000));
            }
        }

        #[test]
        fn pairs_are_made_in_every_order(rows in 1usize..40, columns in 1usize..40, both in any::<bool>()) {
            let (first, second) = (uniform(1, rows * columns), uniform(2, rows * columns));
            let second = both.then_some(&second[..]);
            let pair = |i: usize| Pair::new(first[i], second.map_or(0.0, |second| second[i]));
            let mut out = vec![Pair::default(); rows * columns];
            of_rows(&first, second, &mut out);
            prop_assert!((0..out.len()).all(|i| out[i] == pair(i)));
            of_rows_turned(&first, second, columns, &mut out);
            prop_assert!((0..out.len()).all(|i| out[i % columns * rows + i / columns] == pair(i)));
            let mut out = vec![Pair::default(); first.len().div_ceil(2)];
            of_neighbours(&first, &mut out);
            let number = |i: usize| first.get(i).map_or(0.0, |&x| bf16(x));
            prop_assert!(out.iter().enumerate().all(|(i, pair)| pair.numbers() == [number(2 * i), number(2 * i + 1)]));
        }
    }
}
