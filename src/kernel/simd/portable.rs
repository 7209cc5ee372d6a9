//! Arrays, for any processor: the twin that the other kinds are compared with.

#![expect(unsafe_code, reason = "the trait's pointers are read and written")]

use super::Simd;

#[derive(Clone, Copy)]
pub(super) struct Portable;

/// As many as SSE has, which the compiler may use.
const LANES: usize = 4;

impl Simd for Portable {
    type Vector = [f32; LANES];
    const LANES: usize = LANES;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; LANES] {
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate().filter(|(i, _)| *i < count) {
            *lane = unsafe { *from.add(i) };
        }
        lanes
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: [f32; LANES]) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(values) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, values: [f32; LANES], count: usize) {
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, count) }
    }

    /// Rounds twice: without an instruction for it, rounding once would be a call into the C library.
    #[inline(always)]
    unsafe fn multiply_add(a: [f32; LANES], b: [f32; LANES], sum: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| sum[i] + a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn relu(values: [f32; LANES]) -> [f32; LANES] {
        values.map(|x| if x < 0.0 { 0.0 } else { x })
    }

    #[inline(always)]
    unsafe fn halves(pairs: [f32; LANES]) -> [[f32; LANES]; 2] {
        [
            pairs.map(|pair| f32::from_bits(pair.to_bits() << 16)),
            pairs.map(|pair| f32::from_bits(pair.to_bits() & 0xffff_0000)),
        ]
    }
}
