//! Matrix products on one thread: a checked wrapper around the `gemm` crate, and the only `unsafe` of the kernels.
//!
//! Parallelism is left to the callers, who cut by images or by rows: `gemm`'s own threads were measured to lose on
//! matrices of a layer's size, and their cut depends on the number of threads.

#![expect(unsafe_code, reason = "`gemm` takes raw pointers; lengths are checked here, once for all callers")]

use gemm::Parallelism;

/// A view of f32 numbers as a matrix, row-major or transposed.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Views a row-major `[rows, columns]` array.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "a {rows} x {columns} matrix");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Swaps rows and columns; copies nothing.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The rows from `start`, `count` of them.
    pub(crate) fn rows(self, start: usize, count: usize) -> Self {
        assert!(count > 0 && start + count <= self.rows, "rows {start}..{} of {}", start + count, self.rows);
        Self { values: &self.values[start * self.row_stride..], rows: count, ..self }
    }

    /// One past the highest position that the view can reach.
    fn reach(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// What becomes of the numbers in the output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Overwrite,
    Add,
}

/// `out = a b`, or `out += a b`; `out` is row-major, `[a.rows, b.columns]`.
pub(crate) fn multiply(out: &mut [f32], into: Into, a: Matrix, b: Matrix) {
    assert_eq!(a.columns, b.rows, "the inner sizes of a product");
    assert_eq!(Some(out.len()), a.rows.checked_mul(b.columns), "the size of a product");
    assert!(a.reach() <= a.values.len() && b.reach() <= b.values.len(), "a view past its numbers");
    let (read_out, keep) = if into == Into::Add { (true, 1.0) } else { (false, 0.0) };
    // Sound: the asserts show that every position `gemm` computes from sizes and strides lies within its slice, `out` is
    // borrowed mutably and so apart from `a` and `b`, and strides of slices fit `isize`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            read_out,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            keep,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;

    /// The same product by definition: the safe twin.
    fn by_definition(out: &mut [f32], into: Into, a: Matrix, b: Matrix) {
        let at = |m: &Matrix, r: usize, c: usize| m.values[r * m.row_stride + c * m.column_stride];
        for row in 0..a.rows {
            for column in 0..b.columns {
                let dot: f32 = (0..a.columns).map(|i| at(&a, row, i) * at(&b, i, column)).sum();
                let cell = &mut out[row * b.columns + column];
                *cell = if into == Into::Add { *cell + dot } else { dot };
            }
        }
    }

    #[test]
    fn products_agree_with_the_definition() {
        for (seed, (m, n, k)) in
            [(1, 1, 1), (1, 9, 4), (7, 1, 30), (5, 6, 7), (33, 65, 17), (64, 80, 129)].into_iter().enumerate()
        {
            let (a, b) = (uniform(seed as u64, m * k), uniform(100 + seed as u64, k * n));
            let plain = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let turned = (Matrix::new(&a, k, m).transposed(), Matrix::new(&b, n, k).transposed());
            for (x, y) in [plain, turned] {
                for into in [Into::Overwrite, Into::Add] {
                    let (mut fast, mut slow) = (vec![0.5; m * n], vec![0.5; m * n]);
                    multiply(&mut fast, into, x, y);
                    by_definition(&mut slow, into, x, y);
                    assert!(fast.iter().zip(&slow).all(|(f, s)| (f - s).abs() < 1e-4), "{m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_rows_gives_that_part_of_the_product() {
        let (a, b) = (uniform(1, 6 * 4), uniform(2, 4 * 5));
        let (a, b) = (Matrix::new(&a, 4, 6).transposed(), Matrix::new(&b, 4, 5));
        let (mut whole, mut part) = (vec![0.0; 30], vec![0.0; 15]);
        multiply(&mut whole, Into::Overwrite, a, b);
        multiply(&mut part, Into::Overwrite, a.rows(2, 3), b);
        assert!(whole[10..25].iter().zip(&part).all(|(w, p)| (w - p).abs() < 1e-6));
    }

    #[test]
    #[should_panic(expected = "the size of a product")]
    fn a_short_output_is_refused() {
        multiply(&mut [0.0; 3], Into::Overwrite, Matrix::new(&[0.0; 2], 2, 1), Matrix::new(&[0.0; 2], 1, 2));
    }
}
