//! Coefficients to samples: libjpeg's slow integer transform, to the bit.
//!
//! The plain version is the definition, with libjpeg's 64-bit sums; the fast one has 16 bits and is used where they do.
//! Loeffler, Ligtenberg and Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP 1989.

use std::array::from_fn;

/// Fractional bits of the constants, and of what is between the two passes.
pub(super) const CONSTANT: u32 = 13;
pub(super) const BETWEEN: u32 = 2;

/// Factors of the coefficients as they lie in a block, at most 255 each.
pub(super) type Quant = [i16; 64];

/// A block with nothing but its mean.
pub(super) fn flat(mean: i16, quant: &Quant, out: &mut [u8], stride: usize) {
    let scaled = (i32::from(mean) * i32::from(quant[0])) << BETWEEN;
    let value = limited(((scaled + (1 << (BETWEEN + 2))) >> (BETWEEN + 3)).into());
    for row in out.chunks_mut(stride).take(8) {
        row[..8].fill(value);
    }
}

/// Writes the samples of a block to the upper left 8 by 8 of `out`.
pub(super) fn block(coefficients: &[i16; 64], quant: &Quant, out: &mut [u8], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if super::fast::idct(coefficients, quant, out, stride) {
        return;
    }
    plain(coefficients, quant, out, stride);
}

/// Samples as libjpeg computes them, for any coefficients.
pub(super) fn plain(coefficients: &[i16; 64], quant: &Quant, out: &mut [u8], stride: usize) {
    let mut between = [0i32; 64];
    for column in 0..8 {
        let dequantised = from_fn(|row| i64::from(coefficients[row * 8 + column]) * i64::from(quant[row * 8 + column]));
        for (row, value) in pass(dequantised, CONSTANT - BETWEEN).into_iter().enumerate() {
            between[row * 8 + column] = value as i32;
        }
    }
    for (row, out) in between.as_chunks::<8>().0.iter().zip(out.chunks_mut(stride)) {
        let values = pass(row.map(i64::from), CONSTANT + BETWEEN + 3);
        out[..8].copy_from_slice(&values.map(limited));
    }
}

/// A transformed value to a sample, around 128; far out of range, libjpeg's table comes round again.
fn limited(value: i64) -> u8 {
    let wrapped = ((value + 512) & 1023) - 512;
    (wrapped + 128).clamp(0, 255) as u8
}

/// One dimension; the result is rounded to `drop` bits less.
fn pass(c: [i64; 8], drop: u32) -> [i64; 8] {
    let z1 = (c[2] + c[6]) * 4433;
    let (even2, even3) = (z1 - c[6] * 15137, z1 + c[2] * 6270);
    let (even0, even1) = ((c[0] + c[4]) << CONSTANT, (c[0] - c[4]) << CONSTANT);
    let even = [even0 + even3, even1 + even2, even1 - even2, even0 - even3];

    let z5 = (c[7] + c[3] + c[5] + c[1]) * 9633;
    let (z1, z2) = ((c[7] + c[1]) * -7373, (c[5] + c[3]) * -20995);
    let (z3, z4) = ((c[7] + c[3]) * -16069 + z5, (c[5] + c[1]) * -3196 + z5);
    let odd = [c[1] * 12299 + z1 + z4, c[3] * 25172 + z2 + z3, c[5] * 16819 + z2 + z4, c[7] * 2446 + z1 + z3];
    let rounded = |sum: i64| (sum + (1 << (drop - 1))) >> drop;
    from_fn(|i| rounded(if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] }))
}
