//! Vectors of f32 for whatever the processor has: AVX-512, AVX2 with FMA, NEON, or plain arrays.
//!
//! Kernels are written once, generic over [`Simd`]; [`dispatch`] compiles them for each kind of vectors and picks one at
//! run time. The plain loops inside a [`Task`] are compiled for those instructions too. `HASHPIPE_SIMD` forces a kind,
//! for tests and comparisons.
//!
//! Two kinds add instructions for products of bf16 numbers (AMX's tiles, and AVX-512's `vdpbf16ps`) and are AVX-512 for
//! all else; the other kinds take such numbers apart and multiply them as f32.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::bf16::{Pair, Precision};
use super::product::{Apart, Output, Plain, Start, Terms, sums_with};
use std::sync::OnceLock;

/// One kind of vectors, and how large a tile of sums its registers hold.
///
/// Everything is `unsafe` for one reason: it may only be run on a processor that has the instructions. Pointers must be
/// good for as many numbers as the function says.
#[expect(unsafe_code, reason = "the instructions must be there, and pointers are read and written")]
pub(super) trait Simd: Copy + Send + Sync + 'static {
    type Vector: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Rows of a tile of two vectors each that fits the registers, beside what feeds it.
    const ROWS: usize;

    unsafe fn splat(value: f32) -> Self::Vector;
    /// Reads `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// Reads the first `count` numbers, at most `LANES`; the others are 0.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Vector;
    /// Writes `LANES` numbers.
    unsafe fn store(to: *mut f32, values: Self::Vector);
    /// Writes the first `count` numbers, at most `LANES`.
    unsafe fn store_part(to: *mut f32, values: Self::Vector, count: usize);
    /// `sum + a b`.
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector;
    /// `max(x, 0)`; NaN stays NaN.
    unsafe fn relu(values: Self::Vector) -> Self::Vector;
    /// The first and the second bf16 number of the [`Pair`] in each lane, as f32.
    unsafe fn halves(pairs: Self::Vector) -> [Self::Vector; 2];
}

/// Work that is compiled for each kind of vectors; `run` must be `#[inline(always)]`.
pub(super) trait Task {
    type Output;
    fn run<S: Simd>(self) -> Self::Output;
}

/// The kinds of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// AVX-512, and tiles for bf16.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// AVX-512, and an instruction for pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Kind {
    /// Those that this processor can run, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let mut kinds = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            #[cfg(target_os = "linux")]
            kinds.extend((avx512::has_bf16() && amx::is_available()).then_some(Self::Amx));
            kinds.extend(avx512::has_bf16().then_some(Self::Avx512Bf16));
            kinds.extend(avx512::is_available().then_some(Self::Avx512));
            kinds.extend(avx2::is_available().then_some(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        kinds.extend(neon::is_available().then_some(Self::Neon));
        kinds.push(Self::Portable);
        kinds
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Whether it multiplies bf16 numbers by instructions made for it.
    fn has_bf16(self) -> bool {
        ["amx", "avx512bf16"].contains(&self.name())
    }

    /// The kind of this name, or the fastest without one.
    fn chosen(wanted: Option<&str>) -> Result<Self, String> {
        let kinds = Self::available();
        let Some(wanted) = wanted else { return Ok(kinds[0]) };
        kinds.iter().copied().find(|kind| kind.name() == wanted).ok_or_else(|| {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            format!("this processor has {}, not `{wanted}`", names.join(", "))
        })
    }

    /// The kind that `HASHPIPE_SIMD` names, else the fastest.
    fn of_environment() -> Result<Self, String> {
        let wanted = std::env::var_os("HASHPIPE_SIMD").map(|wanted| wanted.to_string_lossy().into_owned());
        Self::chosen(wanted.as_deref().filter(|wanted| !wanted.is_empty()))
    }

    /// The kind of this process; the fastest where [`check_vectors`] would find a fault.
    pub(super) fn of_process() -> Self {
        static KIND: OnceLock<Kind> = OnceLock::new();
        *KIND.get_or_init(|| Self::of_environment().unwrap_or_else(|_| Self::available()[0]))
    }

    /// Rows of a tile of sums.
    pub(super) fn rows(self) -> usize {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => avx512::Avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => avx512::Avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::ROWS,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::ROWS,
            Self::Portable => portable::Portable::ROWS,
        }
    }

    /// Columns of a tile: numbers of two vectors.
    pub(super) fn columns(self) -> usize {
        2 * match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => avx512::Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => avx512::Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::LANES,
            Self::Portable => portable::Portable::LANES,
        }
    }

    /// Sums of products (`product.rs`), compiled once for each kind: as a task it would be once for each of its users.
    pub(super) fn sums(self, terms: &Terms, a: &[f32], b: &[f32], start: Start, relu: bool, out: Output) {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => avx512::sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => avx512::sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::sums(terms, a, b, start, relu, out),
            Self::Portable => sums_with::<portable::Portable, Plain>(terms, a, b, start, relu, out),
        }
    }

    /// The same of pairs of bf16 numbers: a term is two products. `terms.a_step` is 1.
    pub(super) fn pair_sums(self, terms: &Terms, a: &[Pair], b: &[Pair], start: Start, relu: bool, out: Output) {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => amx::pair_sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => avx512::native_pair_sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::pair_sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::pair_sums(terms, a, b, start, relu, out),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::pair_sums(terms, a, b, start, relu, out),
            Self::Portable => sums_with::<portable::Portable, Apart>(terms, a, b, start, relu, out),
        }
    }

    /// Runs a task with these vectors.
    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => avx512::run(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => avx512::run(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::run(task),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::run(task),
            Self::Portable => task.run::<portable::Portable>(),
        }
    }
}

/// Runs a task with the vectors of this process.
pub(super) fn dispatch<T: Task>(task: T) -> T::Output {
    Kind::of_process().run(task)
}

/// Name of the vectors that this process computes with.
pub fn vectors(precision: Precision) -> &'static str {
    let kind = Kind::of_process();
    if precision != Precision::Bf16 && kind.has_bf16() { "avx512" } else { kind.name() }
}

/// Products of bf16 numbers in registers, by the instructions made for them; returns how many multiplications and
/// additions that were, or nothing where there are no such instructions.
pub(super) fn pair_peak(rounds: usize) -> Option<usize> {
    match Kind::of_process() {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kind::Amx => Some(amx::peak(rounds / 16)),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16 => Some(avx512::pair_peak(rounds)),
        _ => {
            let _ = rounds;
            None
        }
    }
}

/// Whether products of bf16 numbers are made by instructions for them, and not by those for f32: slower, but the same.
pub fn has_bf16() -> bool {
    Kind::of_process().has_bf16()
}

/// Whether `HASHPIPE_SIMD`, if it is set, names vectors that this processor has.
///
/// # Errors
/// Names those that it has.
pub fn check_vectors() -> Result<(), String> {
    Kind::of_environment().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lanes;

    impl Task for Lanes {
        type Output = Vec<Vec<f32>>;

        #[inline(always)]
        #[expect(unsafe_code, reason = "the arrays hold as many numbers as are read and written")]
        fn run<S: Simd>(self) -> Self::Output {
            let (from, nan) =
                ([-1.5f32, 2.0, 0.0, 7.0, -3.0, 4.0, 5.0, 6.0, 8.0, 9.0, 1., 2., 3., 4., 5., 6.], f32::NAN);
            let mut results = vec![];
            for count in 0..=S::LANES {
                let mut to = vec![nan; 16];
                // Sound: `run` is reached only with instructions that are there; no kind has more than 16 lanes.
                unsafe {
                    let part = S::load_part(from.as_ptr(), count);
                    S::store_part(to.as_mut_ptr(), S::multiply_add(S::splat(2.0), part, S::relu(part)), count);
                    assert!(to[count..].iter().all(|x| x.is_nan()));
                    S::store(to.as_mut_ptr(), part);
                    assert!(to[..count] == from[..count] && to[count..S::LANES].iter().all(|&x| x == 0.0));
                    S::store(to.as_mut_ptr(), S::multiply_add(S::splat(2.0), part, S::relu(S::load(from.as_ptr()))));
                }
                let expected = (0..count).map(|i| 2.0 * from[i] + from[i].max(0.0));
                assert!(to.iter().zip(expected).all(|(&ours, expected)| ours == expected));
                results.push(to);
            }
            let mut to = [0.0; 16];
            // Sound: as above.
            unsafe { S::store(to.as_mut_ptr(), S::relu(S::splat(nan))) };
            assert!(to[0].is_nan());
            results
        }
    }

    #[test]
    fn vectors_do_what_they_say() {
        for kind in Kind::available() {
            assert!(!kind.run(Lanes).is_empty(), "{}", kind.name());
        }
    }

    struct Halves;

    impl Task for Halves {
        type Output = ();

        #[inline(always)]
        #[expect(unsafe_code, reason = "the arrays hold as many numbers as are read and written")]
        fn run<S: Simd>(self) {
            let pairs: Vec<Pair> = (0..16u8).map(|i| Pair::new(f32::from(i), -2.0 * f32::from(i))).collect();
            let (mut first, mut second) = ([0f32; 16], [0f32; 16]);
            // Sound: as above.
            unsafe {
                let halves = S::halves(S::load(pairs.as_ptr().cast()));
                S::store(first.as_mut_ptr(), halves[0]);
                S::store(second.as_mut_ptr(), halves[1]);
            }
            assert!((0..S::LANES).all(|i| first[i] == i as f32 && second[i] == -2.0 * i as f32));
        }
    }

    #[test]
    fn pairs_are_taken_apart() {
        for kind in Kind::available() {
            kind.run(Halves);
        }
    }

    #[test]
    fn vectors_that_are_not_there_are_refused() {
        assert_eq!(Kind::chosen(None), Ok(Kind::available()[0]));
        assert_eq!(Kind::chosen(Some("portable")), Ok(Kind::Portable));
        let refused = Kind::chosen(Some("sse9")).unwrap_err();
        assert!(refused.contains("portable") && refused.ends_with("not `sse9`"), "{refused}");
    }
}
