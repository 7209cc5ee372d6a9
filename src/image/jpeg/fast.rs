//! The block transform and the colours with AVX2, to the bit as their plain twins.
#![expect(
    unsafe_code,
    reason = "vector instructions may be called once it is known that the processor has them, and \
                                 they read and write through pointers"
)]

use super::idct::{BETWEEN, CONSTANT, Quant};
use super::quick::{Decoder, Plane, Scan};
use std::arch::x86_64::*;

/// The largest sum of absolute dequantised coefficients for which nothing exceeds 16 bits: a pass
/// makes no value larger than 1.39 times that sum, and there are [`BETWEEN`] more bits between the passes.
const MOST: i32 = 5800;

fn is_there() -> bool {
    is_x86_feature_detected!("avx2")
}

/// [`Decoder::run`] with shifts that need no particular register, if the processor has them.
pub(super) fn with_bits() -> Option<impl Fn(Decoder, &Scan) -> Option<Vec<Plane>>> {
    #[target_feature(enable = "bmi1,bmi2")]
    fn run(decoder: Decoder, scan: &Scan) -> Option<Vec<Plane>> {
        decoder.run(scan)
    }
    let has_them = is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
    // SAFETY: the processor has them.
    has_them.then_some(|decoder: Decoder, scan: &Scan| unsafe { run(decoder, scan) })
}

/// Writes the samples of a block; false if the processor cannot, or the block has more than 16 bits hold.
pub(super) fn idct(coefficients: &[i16; 64], quant: &Quant, out: &mut [u8], stride: usize) -> bool {
    assert!(out.len() >= 7 * stride + 8, "a block has eight rows of eight samples");
    // SAFETY: the processor has AVX2, and the rows lie in `out`.
    is_there() && unsafe { transform(coefficients, quant, out.as_mut_ptr(), stride) }
}

/// Writes as many pixels as there are; false if the processor cannot.
pub(super) fn colours(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) -> bool {
    if !is_there() {
        return false;
    }
    let whole = luma.len() & !15;
    assert!(blue.len() >= whole && red.len() >= whole && out.len() >= whole * 3);
    for at in (0..whole).step_by(16) {
        // SAFETY: the processor has AVX2; 16 samples of each channel and 16 pixels begin at `at`.
        unsafe {
            sixteen(luma.as_ptr().add(at), blue.as_ptr().add(at), red.as_ptr().add(at), out.as_mut_ptr().add(at * 3))
        }
    }
    super::colour::plain(&luma[whole..], &blue[whole..], &red[whole..], &mut out[whole * 3..]);
    true
}

/// # Safety
/// Eight rows of eight samples begin at `out`, `stride` apart.
#[target_feature(enable = "avx2")]
unsafe fn transform(coefficients: &[i16; 64], factors: &[i16; 64], out: *mut u8, stride: usize) -> bool {
    let mut rows = [_mm_setzero_si128(); 8];
    let mut sums = _mm_setzero_si128();
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: eight numbers of each begin there.
        let (value, factor) = unsafe {
            (
                _mm_loadu_si128(coefficients.as_ptr().add(i * 8).cast()),
                _mm_loadu_si128(factors.as_ptr().add(i * 8).cast()),
            )
        };
        *row = _mm_mullo_epi16(value, factor);
        sums = _mm_add_epi32(sums, _mm_madd_epi16(_mm_abs_epi16(value), factor));
    }
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
    let sum = _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums)));
    // The least number there is has no absolute value; only the mean can be that.
    if !(0..=MOST).contains(&sum) || coefficients[0] == i16::MIN {
        return false;
    }
    let columns = transpose(pass::<{ (CONSTANT - BETWEEN) as i32 }>(rows));
    let rows = transpose(pass::<{ (CONSTANT + BETWEEN + 3) as i32 }>(columns));
    for pair in 0..4 {
        // The low ten bits with their sign, as the range that libjpeg's table covers.
        let [low, high] = [rows[pair * 2], rows[pair * 2 + 1]].map(|row| _mm_srai_epi16::<6>(_mm_slli_epi16::<6>(row)));
        let samples = _mm_xor_si128(_mm_packs_epi16(low, high), _mm_set1_epi8(-128));
        // SAFETY: the caller's promise.
        unsafe {
            _mm_storel_epi64(out.add(pair * 2 * stride).cast(), samples);
            _mm_storel_epi64(out.add((pair * 2 + 1) * stride).cast(), _mm_unpackhi_epi64(samples, samples));
        }
    }
    true
}

/// One dimension for eight lanes, rounded to `DROP` bits less.
#[target_feature(enable = "avx2")]
fn pass<const DROP: i32>(c: [__m128i; 8]) -> [__m128i; 8] {
    let (c26, c04) = (pairs(c[2], c[6]), pairs(c[0], c[4]));
    let (even2, even3) = (dot(c26, 4433, 4433 - 15137), dot(c26, 4433 + 6270, 4433));
    let (even0, even1) = (dot(c04, 1 << CONSTANT, 1 << CONSTANT), dot(c04, 1 << CONSTANT, -(1 << CONSTANT)));
    let round = _mm256_set1_epi32(1 << (DROP - 1));
    let (even0, even1) = (_mm256_add_epi32(even0, round), _mm256_add_epi32(even1, round));

    let both = pairs(_mm_add_epi16(c[7], c[3]), _mm_add_epi16(c[5], c[1]));
    let (z3, z4) = (dot(both, 9633 - 16069, 9633), dot(both, 9633, 9633 - 3196));
    let (c71, c53) = (pairs(c[7], c[1]), pairs(c[5], c[3]));
    let odd0 = _mm256_add_epi32(dot(c71, 2446 - 7373, -7373), z3);
    let odd3 = _mm256_add_epi32(dot(c71, -7373, 12299 - 7373), z4);
    let odd1 = _mm256_add_epi32(dot(c53, 16819 - 20995, -20995), z4);
    let odd2 = _mm256_add_epi32(dot(c53, -20995, 25172 - 20995), z3);

    let ends = |even, odd| {
        let (sum, difference) = (_mm256_add_epi32(even, odd), _mm256_sub_epi32(even, odd));
        let packed = _mm256_packs_epi32(_mm256_srai_epi32::<DROP>(sum), _mm256_srai_epi32::<DROP>(difference));
        let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        (_mm256_castsi256_si128(sorted), _mm256_extracti128_si256::<1>(sorted))
    };
    let (r0, r7) = ends(_mm256_add_epi32(even0, even3), odd3);
    let (r1, r6) = ends(_mm256_add_epi32(even1, even2), odd2);
    let (r2, r5) = ends(_mm256_sub_epi32(even1, even2), odd1);
    let (r3, r4) = ends(_mm256_sub_epi32(even0, even3), odd0);
    [r0, r1, r2, r3, r4, r5, r6, r7]
}

/// The lanes of both, in turn.
#[target_feature(enable = "avx2")]
fn pairs(a: __m128i, b: __m128i) -> __m256i {
    _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b))
}

/// `a` times the first plus `b` times the second of each pair.
#[target_feature(enable = "avx2")]
fn dot(pairs: __m256i, a: i32, b: i32) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi32(b << 16 | a & 0xFFFF))
}

#[target_feature(enable = "avx2")]
fn transpose(r: [__m128i; 8]) -> [__m128i; 8] {
    let (a0, a1) = (_mm_unpacklo_epi16(r[0], r[1]), _mm_unpackhi_epi16(r[0], r[1]));
    let (a2, a3) = (_mm_unpacklo_epi16(r[2], r[3]), _mm_unpackhi_epi16(r[2], r[3]));
    let (a4, a5) = (_mm_unpacklo_epi16(r[4], r[5]), _mm_unpackhi_epi16(r[4], r[5]));
    let (a6, a7) = (_mm_unpacklo_epi16(r[6], r[7]), _mm_unpackhi_epi16(r[6], r[7]));
    let (b0, b1) = (_mm_unpacklo_epi32(a0, a2), _mm_unpackhi_epi32(a0, a2));
    let (b2, b3) = (_mm_unpacklo_epi32(a1, a3), _mm_unpackhi_epi32(a1, a3));
    let (b4, b5) = (_mm_unpacklo_epi32(a4, a6), _mm_unpackhi_epi32(a4, a6));
    let (b6, b7) = (_mm_unpacklo_epi32(a5, a7), _mm_unpackhi_epi32(a5, a7));
    let halves = |low, high| (_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high));
    let ((c0, c1), (c2, c3)) = (halves(b0, b4), halves(b1, b5));
    let ((c4, c5), (c6, c7)) = (halves(b2, b6), halves(b3, b7));
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

/// # Safety
/// 16 samples begin at each of the channels, and 16 pixels at `out`.
#[target_feature(enable = "avx2")]
unsafe fn sixteen(luma: *const u8, blue: *const u8, red: *const u8, out: *mut u8) {
    // SAFETY: the caller's promise.
    let wide = |samples: *const u8| _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(samples.cast()) });
    let channels = channels(wide(luma), wide(blue), wide(red))
        .map(|words| _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words)));
    let pixels = interleave(channels);
    for (i, pixels) in pixels.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(out.add(i * 16).cast(), pixels) }
    }
}

/// The formulas of [`rgb`](super::colour::rgb) before they are limited to a sample.
///
/// Whole multiples of a channel are taken out of the factors, so that the rest has 16 bits.
#[target_feature(enable = "avx2")]
fn channels(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
    let centre = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, centre), _mm256_sub_epi16(cr, centre));
    let (cb2, cr2) = (_mm256_add_epi16(cb, cb), _mm256_add_epi16(cr, cr));
    // The upper half of twice the product, halved once more, is the product rounded to its upper half.
    let part = |doubled, factor| {
        let product = _mm256_mulhi_epi16(doubled, _mm256_set1_epi16(factor));
        _mm256_srai_epi16::<1>(_mm256_add_epi16(product, _mm256_set1_epi16(1)))
    };
    let red = _mm256_add_epi16(_mm256_add_epi16(y, cr), part(cr2, (91881 - 65536) as i16));
    let blue = _mm256_add_epi16(_mm256_add_epi16(y, cb2), part(cb2, (116_130 - 2 * 65536) as i16));
    let sum = |pairs| {
        let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi32((65536 - 46802) << 16 | -22554 & 0xFFFF));
        _mm256_srai_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 15)))
    };
    let rest = _mm256_packs_epi32(sum(_mm256_unpacklo_epi16(cb, cr)), sum(_mm256_unpackhi_epi16(cb, cr)));
    [red, _mm256_add_epi16(_mm256_sub_epi16(y, cr), rest), blue]
}

/// Three channels of 16 samples to 16 pixels.
#[target_feature(enable = "avx2")]
fn interleave(channels: [__m128i; 3]) -> [__m128i; 3] {
    const ORDER: [[[i8; 16]; 3]; 3] = order();
    let mut out = [_mm_setzero_si128(); 3];
    for (out, order) in out.iter_mut().zip(&ORDER) {
        for (channel, order) in channels.into_iter().zip(order) {
            // SAFETY: 16 bytes begin there.
            let order = unsafe { _mm_loadu_si128(order.as_ptr().cast()) };
            *out = _mm_or_si128(*out, _mm_shuffle_epi8(channel, order));
        }
    }
    out
}

/// For each 16 bytes of pixels and each channel, which sample goes where; -1 for none.
const fn order() -> [[[i8; 16]; 3]; 3] {
    let mut order = [[[-1; 16]; 3]; 3];
    let mut byte = 0;
    while byte < 48 {
        order[byte / 16][byte % 3][byte % 16] = (byte / 3) as i8;
        byte += 1;
    }
    order
}
