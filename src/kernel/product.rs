//! Sums of products over strided numbers: the one loop that convolutions and linear layers, forward and backward, are
//! made of.
//!
//! A tile of rows and columns is summed up in registers: each number of `a` is copied to all lanes of a vector and
//! multiplied with vectors of `b`. Every sum is built up term after term, whatever tile it falls into: its bits depend
//! neither on the columns beside it nor on the number of rows or threads.

#![expect(unsafe_code, reason = "numbers are read without a check each; `sums` checks the reach of all of them first")]

use super::bf16::Pair;
use super::simd::{Kind, Simd};

/// Where the terms of the sums lie:
/// `a[row * a_row + segment * a_segment + i * a_step] * b[segment * b_segment + i * b_step + column]`,
/// for every `i` below `len` of every segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) segments: usize,
    pub(super) len: usize,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    pub(super) a_segment: usize,
    pub(super) b_step: usize,
    pub(super) b_segment: usize,
}

/// What the sums start from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// A number per column.
    Bias(&'a [f32]),
    /// What is in the output.
    Output,
}

/// The sums' places: `values[row * stride + column]`.
#[derive(Debug)]
pub(super) struct Output<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// How the numbers of a product are read, and what a term is.
///
/// Everything is `unsafe` for the reasons that [`Simd`] is.
pub(super) trait Arithmetic<S: Simd> {
    type Number;
    /// Rows of a tile of two vectors each that fits the registers.
    const ROWS: usize;

    /// Copies one number to all lanes.
    unsafe fn splat(from: *const Self::Number) -> S::Vector;
    /// Reads a number per lane.
    unsafe fn load(from: *const Self::Number) -> S::Vector;
    /// Reads the first `count` numbers; the others are 0.
    unsafe fn load_part(from: *const Self::Number, count: usize) -> S::Vector;
    /// `sum` and the product of two numbers.
    unsafe fn multiply_add(a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector;
}

/// Numbers of f32.
pub(super) struct Plain;

impl<S: Simd> Arithmetic<S> for Plain {
    type Number = f32;
    const ROWS: usize = S::ROWS;

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> S::Vector {
        unsafe { S::splat(*from) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> S::Vector {
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> S::Vector {
        unsafe { S::load_part(from, count) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        unsafe { S::multiply_add(a, b, sum) }
    }
}

/// Pairs of bf16 numbers, taken apart and multiplied as f32, where there are no instructions for them. The products are
/// exact; the second one is added first, as `vdpbf16ps` does.
pub(super) struct Apart;

impl<S: Simd> Arithmetic<S> for Apart {
    type Number = Pair;
    /// Both halves of two vectors lie in registers, and both of a number.
    const ROWS: usize = if S::ROWS > 12 {
        12
    } else if S::ROWS > 6 {
        S::ROWS - 2
    } else {
        5
    };

    #[inline(always)]
    unsafe fn splat(from: *const Pair) -> S::Vector {
        unsafe { S::splat(*from.cast::<f32>()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const Pair) -> S::Vector {
        unsafe { S::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Pair, count: usize) -> S::Vector {
        unsafe { S::load_part(from.cast(), count) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        unsafe {
            let ([a_first, a_second], [b_first, b_second]) = (S::halves(a), S::halves(b));
            S::multiply_add(a_first, b_first, S::multiply_add(a_second, b_second, sum))
        }
    }
}

/// One past the furthest of places that are so many strides, of these lengths, from the first.
fn reach(strides: &[(usize, usize)]) -> usize {
    let far = |far: usize, &(count, stride): &(usize, usize)| far.saturating_add((count - 1).saturating_mul(stride));
    strides.iter().fold(1, far)
}

/// Computes all sums with the vectors of this process; with `relu`, those below 0 become 0.
pub(super) fn sums(terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
    Kind::of_process().sums(terms, a, b, start, relu, out);
}

/// The same of pairs of bf16 numbers: a term is two products. `terms.a_step` is 1.
pub(super) fn pair_sums(terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
    Kind::of_process().pair_sums(terms, a, b, start, relu, out);
}

/// Refuses terms, and sums of so many numbers, that reach past their slices. There is at least one row and column.
#[inline(always)]
pub(super) fn check_reach(terms: &Terms, a: usize, b: usize, out: &Output) {
    let Terms { segments, len, a_row, a_step, a_segment, b_step, b_segment } = *terms;
    let Output { values, stride, rows, columns } = out;
    assert!(segments > 0 && len > 0, "sums of nothing");
    assert!(reach(&[(*rows, a_row), (segments, a_segment), (len, a_step)]) <= a, "terms past the first numbers");
    assert!(reach(&[(*columns, 1), (segments, b_segment), (len, b_step)]) <= b, "terms past the second numbers");
    assert!(reach(&[(*rows, *stride), (*columns, 1)]) <= values.len(), "sums past the output");
}

/// The same with one kind of vectors and numbers, which compiles it for its instructions.
#[inline(always)]
pub(super) fn sums_with<S: Simd, A: Arithmetic<S>>(
    terms: &Terms,
    a: &[A::Number],
    b: &[A::Number],
    start: Start,
    relu: bool,
    out: Output,
) {
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    check_reach(terms, a.len(), b.len(), &out);
    let Output { values, stride, rows, columns } = out;
    let bias = match start {
        Start::Bias(bias) => {
            assert!(bias.len() >= columns, "a bias per column");
            bias.as_ptr()
        }
        Start::Zero | Start::Output => std::ptr::null(),
    };
    let from_output = matches!(start, Start::Output);

    let tiles = rows.div_ceil(A::ROWS);
    let (least, larger) = (rows / tiles, rows % tiles);
    let mut column = 0;
    while column < columns {
        let wide = column + 2 * S::LANES <= columns;
        let width = if wide { 2 * S::LANES } else { S::LANES.min(columns - column) };
        let mut row = 0;
        for tile in 0..tiles {
            let height = least + usize::from(tile < larger);
            // Sound: the asserts show that all places of these rows and columns lie within their slices, and the
            // function that this is inlined into is reached only where the instructions are there.
            unsafe {
                let bias = if bias.is_null() { bias } else { bias.add(column) };
                let places = Places {
                    a: a.as_ptr().add(row * terms.a_row),
                    b: b.as_ptr().add(column),
                    out: values.as_mut_ptr().add(row * stride + column),
                    stride,
                    width,
                    bias,
                    from_output,
                    relu,
                };
                any_tile::<S, A>(height, wide, terms, &places);
            }
            row += height;
        }
        column += width;
    }
}

/// Where one tile's numbers lie.
struct Places<N> {
    a: *const N,
    b: *const N,
    out: *mut f32,
    stride: usize,
    width: usize,
    /// Null without one.
    bias: *const f32,
    from_output: bool,
    relu: bool,
}

/// The tile of this height, two vectors wide or one that may be partial.
#[inline(always)]
unsafe fn any_tile<S: Simd, A: Arithmetic<S>>(height: usize, wide: bool, terms: &Terms, places: &Places<A::Number>) {
    macro_rules! heights {
        ($($height:literal)+) => {
            match (height, wide) {
                $(($height, true) if $height <= A::ROWS => unsafe { tile::<S, A, $height, 2>(terms, places) },
                ($height, false) if $height <= A::ROWS => unsafe { tile::<S, A, $height, 1>(terms, places) },)+
                _ => unreachable!("a tile of {height} rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

/// `P` rows of `V` vectors; only a tile of one vector may be narrower than it.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "rows and vectors are places in memory as well as of the sums")]
unsafe fn tile<S: Simd, A: Arithmetic<S>, const P: usize, const V: usize>(terms: &Terms, places: &Places<A::Number>) {
    let Places { a, b, out, stride, width, bias, from_output, relu } = *places;
    let partial = V == 1 && width < S::LANES;
    // Sound: `sums` checked the reach of all these places.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; P];
        for p in 0..P {
            for v in 0..V {
                let from = if from_output { out.add(p * stride + v * S::LANES).cast_const() } else { bias };
                if from_output {
                    sums[p][v] = if partial { S::load_part(from, width) } else { S::load(from) };
                } else if !bias.is_null() {
                    let from = bias.add(v * S::LANES);
                    sums[p][v] = if partial { S::load_part(from, width) } else { S::load(from) };
                }
            }
        }
        for segment in 0..terms.segments {
            let (mut a, mut b) = (a.add(segment * terms.a_segment), b.add(segment * terms.b_segment));
            for _ in 0..terms.len {
                let mut vectors = [S::splat(0.0); V];
                for v in 0..V {
                    vectors[v] = if partial { A::load_part(b, width) } else { A::load(b.add(v * S::LANES)) };
                }
                for p in 0..P {
                    let x = A::splat(a.add(p * terms.a_row));
                    for v in 0..V {
                        sums[p][v] = A::multiply_add(x, vectors[v], sums[p][v]);
                    }
                }
                // Past the end after the last term.
                (a, b) = (a.wrapping_add(terms.a_step), b.wrapping_add(terms.b_step));
            }
        }
        for p in 0..P {
            for v in 0..V {
                let (to, sum) = (out.add(p * stride + v * S::LANES), sums[p][v]);
                let sum = if relu { S::relu(sum) } else { sum };
                if partial { S::store_part(to, sum, width) } else { S::store(to, sum) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;
    use proptest::prelude::*;

    struct Case<'a> {
        terms: Terms,
        a: &'a [f32],
        b: &'a [f32],
        start: Start<'a>,
        relu: bool,
        out: Output<'a>,
    }

    impl Case<'_> {
        fn run(self, kind: Kind) {
            kind.sums(&self.terms, self.a, self.b, self.start, self.relu, self.out);
        }
    }

    /// The same by definition: the safe twin.
    fn by_definition(case: Case) {
        let Case { terms: t, a, b, start, relu, out } = case;
        for row in 0..out.rows {
            for column in 0..out.columns {
                let cell = &mut out.values[row * out.stride + column];
                let mut sum = match start {
                    Start::Zero => 0.0,
                    Start::Bias(bias) => f64::from(bias[column]),
                    Start::Output => f64::from(*cell),
                };
                for segment in 0..t.segments {
                    for i in 0..t.len {
                        let x = a[row * t.a_row + segment * t.a_segment + i * t.a_step];
                        sum += f64::from(x) * f64::from(b[segment * t.b_segment + i * t.b_step + column]);
                    }
                }
                *cell = if relu { sum.max(0.0) } else { sum } as f32;
            }
        }
    }

    proptest! {
        #[test]
        fn every_kind_of_vectors_agrees_with_the_definition(
            (rows, columns) in (1usize..32, 1usize..80),
            (segments, len) in (1usize..4, 1usize..20),
            (a_row, a_step, a_segment) in (0usize..40, 0usize..5, 0usize..50),
            (b_spare, out_spare) in (0usize..3, 0usize..3),
            (start, relu) in (0usize..3, any::<bool>()),
        ) {
            let (b_step, stride) = (columns + b_spare, columns + out_spare);
            let terms = Terms { segments, len, a_row, a_step, a_segment, b_step, b_segment: len * b_step };
            let a = uniform(1, reach(&[(rows, a_row), (segments, a_segment), (len, a_step)]));
            let b = uniform(2, reach(&[(columns, 1), (segments, len * b_step), (len, b_step)]));
            let (bias, before) = (uniform(3, columns), uniform(4, reach(&[(rows, stride), (columns, 1)])));
            let start = [Start::Zero, Start::Bias(&bias), Start::Output][start];
            let (a, b) = (&a[..], &b[..]);
            macro_rules! case {
                ($values:expr) => {
                    Case { terms, a, b, start, relu, out: Output { values: $values, stride, rows, columns } }
                };
            }
            let mut expected = before.clone();
            by_definition(case!(&mut expected));
            for kind in Kind::available() {
                let mut ours = before.clone();
                case!(&mut ours).run(kind);
                let apart = ours.iter().zip(&expected).fold(0f32, |max, (x, y)| max.max((x - y).abs()));
                prop_assert!(apart < 1e-5, "{:?}: {}", kind, apart);
            }
        }
    }

    proptest! {
        #[test]
        fn sums_of_pairs_agree_with_the_definition_on_the_same_numbers(
            (rows, columns) in (1usize..40, 1usize..80),
            (segments, len) in (1usize..4, 1usize..40),
            (row_spare, a_segment) in (0usize..3, 0usize..50),
            (b_spare, out_spare) in (0usize..3, 0usize..3),
            (start, relu) in (0usize..3, any::<bool>()),
        ) {
            let (b_step, stride, a_row) = (columns + b_spare, columns + out_spare, len + row_spare);
            let terms = Terms { segments, len, a_row, a_step: 1, a_segment, b_step, b_segment: len * b_step };
            let pairs = |seed, len| -> Vec<Pair> {
                uniform(seed, 2 * len).chunks_exact(2).map(|pair| Pair::new(pair[0], pair[1])).collect()
            };
            let a = pairs(1, reach(&[(rows, a_row), (segments, a_segment), (len, 1)]));
            let b = pairs(2, reach(&[(columns, 1), (segments, len * b_step), (len, b_step)]));
            let (bias, before) = (uniform(3, columns), uniform(4, reach(&[(rows, stride), (columns, 1)])));
            let start = [Start::Zero, Start::Bias(&bias), Start::Output][start];
            macro_rules! out {
                ($values:expr) => {
                    Output { values: $values, stride, rows, columns }
                };
            }
            // One half after the other, as numbers of f32.
            let half = |pairs: &[Pair], half: usize| pairs.iter().map(|pair| pair.numbers()[half]).collect::<Vec<_>>();
            let mut expected = before.clone();
            let (first, second) = ([half(&a, 0), half(&b, 0)], [half(&a, 1), half(&b, 1)]);
            for ([x, y], start, relu) in [(&first, start, false), (&second, Start::Output, relu)] {
                by_definition(Case { terms, a: x, b: y, start, relu, out: out!(&mut expected) });
            }
            let kinds = Kind::available();
            let all: Vec<Vec<f32>> = kinds
                .iter()
                .map(|kind| {
                    let mut ours = before.clone();
                    kind.pair_sums(&terms, &a, &b, start, relu, out!(&mut ours));
                    ours
                })
                .collect();
            for (kind, ours) in kinds.iter().zip(&all) {
                let apart = ours.iter().zip(&expected).fold(0f32, |max, (x, y)| max.max((x - y).abs()));
                prop_assert!(apart < 2e-5, "{:?}: {}", kind, apart);
            }
        }
    }

    #[test]
    fn a_sum_does_not_depend_on_what_is_beside_it() {
        let (a, b) = (uniform(1, 40 * 100), uniform(2, 100 * 70));
        for kind in Kind::available() {
            let run = |rows, columns| {
                let terms =
                    Terms { segments: 1, len: 100, a_row: 100, a_step: 1, a_segment: 0, b_step: 70, b_segment: 0 };
                let mut values = vec![0.0; 40 * 70];
                let out = Output { values: &mut values, stride: 70, rows, columns };
                Case { terms, a: &a, b: &b, start: Start::Zero, relu: false, out }.run(kind);
                values
            };
            let whole = run(40, 70);
            for (rows, columns) in [(1, 1), (3, 70), (14, 33), (15, 16), (29, 47)] {
                let part = run(rows, columns);
                for row in 0..rows {
                    assert!(part[row * 70..row * 70 + columns] == whole[row * 70..row * 70 + columns], "{kind:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "sums past the output")]
    fn a_short_output_is_refused() {
        let terms = Terms { segments: 1, len: 1, a_row: 1, a_step: 1, a_segment: 0, b_step: 1, b_segment: 0 };
        let out = Output { values: &mut [0.0; 3], stride: 2, rows: 2, columns: 2 };
        Case { terms, a: &[0.0; 2], b: &[0.0; 2], start: Start::Zero, relu: false, out }.run(Kind::Portable);
    }
}
