//! AMX: products of tiles of 16 by 16 pairs of bf16 numbers.
//!
//! The instructions are written out, as the compiler's own are not stable. A sum is built up tile after tile along its
//! terms: each tile first adds up its own products, all first numbers and all second ones apart, and then adds both to
//! the sum. So its bits differ from those of `vdpbf16ps`, but do not depend on what is beside it. Numbers too small to be
//! normal are 0.
//!
//! It was run in an emulator of the processor, never on one that has it.

#![expect(
    unsafe_code,
    reason = "instructions that read and write memory; `pair_sums` checks the reach of all of it first"
)]

use crate::kernel::bf16::Pair;
use crate::kernel::product::{Output, Start, Terms, check_reach};
use nix::libc;
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Rows of a tile, and pairs or sums in a row of it.
const SIDE: usize = 16;

/// Rows and columns of sums that are made at once: two tiles by two.
const BLOCK: usize = 2 * SIDE;

/// Whether the processor has tiles, and the kernel lets this process use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let (tiles, bf16) = (1 << 24, 1 << 22);
        // State of tiles, and of their shapes, that the operating system saves.
        let saved = 0b11 << 17;
        is_x86_feature_detected!("xsave")
            && __cpuid_count(7, 0).edx & (tiles | bf16) == tiles | bf16
            // Sound: there is `xsave`.
            && unsafe { state() } & saved == saved
            && permitted()
    })
}

#[target_feature(enable = "xsave")]
fn state() -> u64 {
    // Sound: register 0 is there whenever the instruction is.
    unsafe { _xgetbv(0) }
}

/// Asks the kernel for room for the tiles of this process' threads.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // Sound: the call takes two numbers, and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Sums of products of pairs.
pub(super) fn pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    assert!(is_available());
    assert_eq!(terms.a_step, 1, "a row of a tile is one run of pairs");
    check_reach(terms, a.len(), b.len(), &out);
    let Output { values, stride, rows, columns } = out;
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= columns, "a bias per column");
    }
    let mut sums = Sums([[0.0; BLOCK]; BLOCK]);
    for column in (0..columns).step_by(BLOCK) {
        for row in (0..rows).step_by(BLOCK) {
            let (height, width) = (BLOCK.min(rows - row), BLOCK.min(columns - column));
            let shape = Shape::new(height, width, terms.len);
            for (line, y) in shape.lines() {
                let place = (row + y) * stride + column;
                for (first, x) in shape.runs() {
                    let to = &mut sums.0[line][first..first + shape.columns];
                    match start {
                        Start::Zero => to.fill(0.0),
                        Start::Bias(bias) => to.copy_from_slice(&bias[column + x..][..shape.columns]),
                        Start::Output => to.copy_from_slice(&values[place + x..][..shape.columns]),
                    }
                }
            }
            // Sound: `check_reach` found all rows, columns and terms in their slices, a shape has no more of them than
            // the block, and the processor has the instructions.
            unsafe { shape.sum(terms, a.as_ptr().add(row * terms.a_row), b.as_ptr().add(column), &mut sums) };
            for (line, y) in shape.lines() {
                let place = (row + y) * stride + column;
                for (first, x) in shape.runs() {
                    let from = &mut sums.0[line][first..first + shape.columns];
                    if relu {
                        crate::kernel::relu(from);
                    }
                    values[place + x..][..shape.columns].copy_from_slice(from);
                }
            }
        }
    }
}

/// Multiplications and additions of tiles in registers; returns how many.
pub(super) fn peak(rounds: usize) -> usize {
    assert!(is_available());
    let configuration = Shape::new(BLOCK, BLOCK, SIDE).configuration();
    // Sound: the processor has the instructions, and no memory but the configuration is touched.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags));
        for _ in 0..rounds {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tdpbf16ps tmm1, tmm4, tmm5",
                "tdpbf16ps tmm2, tmm4, tmm5",
                "tdpbf16ps tmm3, tmm4, tmm5",
                options(nostack, nomem, preserves_flags)
            );
        }
        asm!("tilerelease", options(nostack, nomem, preserves_flags));
    }
    rounds * 4 * 2 * SIDE * SIDE * 2 * SIDE
}

/// The sums of a block, as the tiles hold them: tiles begin at lines and columns 0 and 16.
#[repr(align(64))]
struct Sums([[f32; BLOCK]; BLOCK]);

/// How the instructions are told the tiles' shapes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, of 8 tiles.
    row_bytes: [u16; 8],
    unused: [u16; 8],
    rows: [u8; 8],
    rest: [u8; 8],
}

/// How a block is cut into tiles: all of one shape, so where a side is longer than a tile and shorter than two, the
/// second tile begins within the first, and what both have is computed twice.
struct Shape {
    rows: usize,
    columns: usize,
    /// Where the second tile begins in the block, if there is one.
    second_row: Option<usize>,
    second_column: Option<usize>,
    /// Terms beyond the last whole tile of them.
    rest: usize,
}

impl Shape {
    fn new(height: usize, width: usize, terms: usize) -> Self {
        let cut = |side: usize| match side {
            ..=SIDE => (side, None),
            _ => (side.div_ceil(2), Some(side / 2)),
        };
        let ((rows, second_row), (columns, second_column)) = (cut(height), cut(width));
        Self { rows, columns, second_row, second_column, rest: terms % SIDE }
    }

    /// Lines of [`Sums`], and which row of the block each is.
    fn lines(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, second) = (self.rows, self.second_row);
        let seconds = second.into_iter().flat_map(move |second| (0..rows).map(move |i| (SIDE + i, second + i)));
        (0..rows).map(|i| (i, i)).chain(seconds)
    }

    /// Where the tiles begin in a line of [`Sums`] and in a row of the block.
    fn runs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        [(0, 0)].into_iter().chain(self.second_column.map(|second| (SIDE, second)))
    }

    fn configuration(&self) -> Configuration {
        let bytes = |count: usize| (4 * count) as u16;
        // A tile without rows or columns is no tile; those of a missing rest are not used.
        let rest = self.rest.max(1);
        let (rows, columns) = (self.rows as u8, bytes(self.columns));
        Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [columns, columns, columns, columns, bytes(SIDE), columns, bytes(rest), columns],
            unused: [0; 8],
            rows: [rows, rows, rows, rows, rows, SIDE as u8, rows, rest as u8],
            rest: [0; 8],
        }
    }

    /// Adds the products of all terms to the sums of a block.
    ///
    /// Tiles 0 to 3 are sums, 4 and 5 whole tiles of factors, 6 and 7 those of the rest.
    ///
    /// # Safety
    /// `a` and `b` are good for all terms of the block's rows and columns; the processor has tiles.
    unsafe fn sum(&self, terms: &Terms, a: *const Pair, b: *const Pair, sums: &mut Sums) {
        let configuration = self.configuration();
        let line = size_of::<[f32; BLOCK]>();
        let at = sums.0.as_mut_ptr().cast::<f32>();
        let (a_stride, b_stride) = (4 * terms.a_row, 4 * terms.b_step);
        let second_a = self.second_row.map(|row| row * terms.a_row);
        let second_b = self.second_column;
        macro_rules! load {
            ($tile:literal, $from:expr, $stride:expr) => {
                asm!(concat!("tileloadd ", $tile, ", [{from} + {stride}*1]"), from = in(reg) $from, stride = in(reg) $stride, options(nostack, readonly, preserves_flags))
            };
        }
        macro_rules! multiply {
            ($sum:literal, $a:literal, $b:literal) => {
                asm!(concat!("tdpbf16ps ", $sum, ", ", $a, ", ", $b), options(nostack, nomem, preserves_flags))
            };
        }
        macro_rules! factors {
            ($a_tile:literal, $b_tile:literal, $a:expr, $b:expr) => {{
                let (a, b): (*const Pair, *const Pair) = ($a, $b);
                load!($a_tile, a, a_stride);
                load!($b_tile, b, b_stride);
                multiply!("tmm0", $a_tile, $b_tile);
                if let Some(second) = second_b {
                    load!($b_tile, b.add(second), b_stride);
                    multiply!("tmm1", $a_tile, $b_tile);
                }
                if let Some(second) = second_a {
                    load!($a_tile, a.add(second), a_stride);
                    if second_b.is_some() {
                        multiply!("tmm3", $a_tile, $b_tile);
                        load!($b_tile, b, b_stride);
                    }
                    multiply!("tmm2", $a_tile, $b_tile);
                }
            }};
        }
        // Sound: as the function's contract says; sums of a second tile lie at lines and columns from 16 on.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags));
            load!("tmm0", at, line);
            load!("tmm1", at.add(SIDE), line);
            load!("tmm2", at.add(SIDE * BLOCK), line);
            load!("tmm3", at.add(SIDE * BLOCK + SIDE), line);
            for segment in 0..terms.segments {
                let (a, b) = (a.add(segment * terms.a_segment), b.add(segment * terms.b_segment));
                let whole = terms.len - self.rest;
                for term in (0..whole).step_by(SIDE) {
                    factors!("tmm4", "tmm5", a.add(term), b.add(term * terms.b_step));
                }
                if self.rest > 0 {
                    factors!("tmm6", "tmm7", a.add(whole), b.add(whole * terms.b_step));
                }
            }
            macro_rules! store {
                ($tile:literal, $to:expr) => {
                    asm!(concat!("tilestored [{to} + {line}*1], ", $tile), to = in(reg) $to, line = in(reg) line, options(nostack, preserves_flags))
                };
            }
            store!("tmm0", at);
            store!("tmm1", at.add(SIDE));
            store!("tmm2", at.add(SIDE * BLOCK));
            store!("tmm3", at.add(SIDE * BLOCK + SIDE));
            asm!("tilerelease", options(nostack, nomem, preserves_flags));
        }
    }
}
