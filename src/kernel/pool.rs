//! Max pooling of any window and stride, without padding, of maps `[height, width, channels]`.
//!
//! It is part of a convolution's operation (`conv/`), which pools each image while it is in the cache. candle has no
//! gradient where window and stride differ.

use super::simd::{Simd, Task, dispatch};
use candle_core::{Result, bail};

/// Window and stride, as PyTorch's `max_pool2d`; of equal maxima the first takes the gradient.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d {
    pub kernel: usize,
    pub stride: usize,
}

/// Channels that are looked at together: the compiler makes vectors of them.
const LANES: usize = 16;

/// Sizes of one map, before and after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pooling {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl MaxPool2d {
    /// Side after pooling of a side of `side`, or `None` if the window does not fit.
    pub fn outputs(&self, side: usize) -> Option<usize> {
        Some(side.checked_sub(self.kernel)?.checked_div(self.stride)? + 1)
    }

    /// Of maps of this size.
    pub(super) fn of(&self, height: usize, width: usize, channels: usize) -> Result<Pooling> {
        // A place in the window has to fit a byte.
        let fits = (1..=16).contains(&self.kernel) && channels > 0;
        match (self.outputs(height), self.outputs(width)) {
            (Some(out_height), Some(out_width)) if fits => {
                let &Self { kernel, stride } = self;
                Ok(Pooling { kernel, stride, height, width, channels, out_height, out_width })
            }
            _ => bail!("max_pool2d: a window of {self:?} does not fit {height} x {width} maps of {channels} channels"),
        }
    }
}

impl Pooling {
    /// Visits every output's pixel and its window's first pixel, as numbers of pixels.
    fn windows(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Self { stride, width, out_height, out_width, .. } = *self;
        (0..out_height).flat_map(move |y| (0..out_width).map(move |x| (y * out_width + x, (y * width + x) * stride)))
    }

    /// The pixels of the window at a corner, row by row.
    #[inline(always)]
    fn window(&self, corner: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { kernel, width, .. } = *self;
        (0..kernel).flat_map(move |y| (corner + y * width)..(corner + y * width + kernel))
    }

    /// Maxima of one map; with `winners`, where in its window each was found.
    pub(super) fn forward(&self, xs: &[f32], ys: &mut [f32], winners: Option<&mut [u8]>) {
        dispatch(Forward { pooling: self, xs, ys, winners });
    }

    #[inline(always)]
    fn pool<const NOTED: bool>(&self, xs: &[f32], ys: &mut [f32], winners: &mut [u8]) {
        let channels = self.channels;
        for (place, corner) in self.windows() {
            for channel in (0..channels).step_by(LANES) {
                let lanes = LANES.min(channels - channel);
                let (mut most, mut winner) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
                for (i, pixel) in self.window(corner).enumerate() {
                    let at = pixel * channels + channel;
                    if lanes == LANES {
                        let numbers: &[f32; LANES] = xs[at..].first_chunk().expect("the window is in the map");
                        take_larger::<NOTED>(&mut most, &mut winner, numbers, i as u32);
                    } else {
                        let mut numbers = [f32::NEG_INFINITY; LANES];
                        numbers[..lanes].copy_from_slice(&xs[at..at + lanes]);
                        take_larger::<NOTED>(&mut most, &mut winner, &numbers, i as u32);
                    }
                }
                let at = place * channels + channel;
                ys[at..at + lanes].copy_from_slice(&most[..lanes]);
                if NOTED {
                    let winner = winner.map(|i| i as u8);
                    winners[at..at + lanes].copy_from_slice(&winner[..lanes]);
                }
            }
        }
    }

    /// Gives each output's gradient to the winner of its window; with `relu`, only if the output is above 0.
    pub(super) fn backward(&self, ys: &[f32], upstream: &[f32], winners: &[u8], relu: bool, dx: &mut [f32]) {
        dispatch(Backward { pooling: self, ys, upstream, winners, relu, dx });
    }

    #[inline(always)]
    fn scatter(&self, ys: &[f32], upstream: &[f32], winners: &[u8], relu: bool, dx: &mut [f32]) {
        let Self { width, channels, height, .. } = *self;
        dx[..height * width * channels].fill(0.0);
        for (place, corner) in self.windows() {
            for channel in (0..channels).step_by(LANES) {
                let lanes = LANES.min(channels - channel);
                let at = place * channels + channel;
                let (mut up, mut winner) = ([0f32; LANES], [u32::MAX; LANES]);
                for i in 0..lanes {
                    up[i] = if !relu || ys[at + i] > 0.0 { upstream[at + i] } else { 0.0 };
                    winner[i] = u32::from(winners[at + i]);
                }
                for (i, pixel) in self.window(corner).enumerate() {
                    let at = pixel * channels + channel;
                    let to = &mut dx[at..at + lanes];
                    if let Some(to) = to.first_chunk_mut::<LANES>() {
                        add_if_won(to, &up, &winner, i as u32);
                    } else {
                        let mut numbers = [0.0; LANES];
                        numbers[..lanes].copy_from_slice(to);
                        add_if_won(&mut numbers, &up, &winner, i as u32);
                        to.copy_from_slice(&numbers[..lanes]);
                    }
                }
            }
        }
    }
}

struct Forward<'a> {
    pooling: &'a Pooling,
    xs: &'a [f32],
    ys: &'a mut [f32],
    winners: Option<&'a mut [u8]>,
}

impl Task for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.winners {
            Some(winners) => self.pooling.pool::<true>(self.xs, self.ys, winners),
            None => self.pooling.pool::<false>(self.xs, self.ys, &mut []),
        }
    }
}

struct Backward<'a> {
    pooling: &'a Pooling,
    ys: &'a [f32],
    upstream: &'a [f32],
    winners: &'a [u8],
    relu: bool,
    dx: &'a mut [f32],
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { pooling, ys, upstream, winners, relu, dx } = self;
        pooling.scatter(ys, upstream, winners, relu, dx);
    }
}

/// The larger numbers so far, and where they were found; NaN is larger than any, as in PyTorch.
#[inline(always)]
fn take_larger<const NOTED: bool>(most: &mut [f32; LANES], winner: &mut [u32; LANES], xs: &[f32; LANES], place: u32) {
    // With masks, which become vectors: of conditions the compiler made a jump for each number.
    let larger: [u32; LANES] =
        std::array::from_fn(|i| 0u32.wrapping_sub(u32::from((xs[i] > most[i]) | xs[i].is_nan())));
    *most = std::array::from_fn(|i| f32::from_bits(choose(larger[i], xs[i].to_bits(), most[i].to_bits())));
    if NOTED {
        *winner = std::array::from_fn(|i| choose(larger[i], place, winner[i]));
    }
}

/// `a` where the mask's bits are set, `b` elsewhere.
#[inline(always)]
fn choose(mask: u32, a: u32, b: u32) -> u32 {
    a & mask | b & !mask
}

#[inline(always)]
fn add_if_won(to: &mut [f32; LANES], up: &[f32; LANES], winner: &[u32; LANES], place: u32) {
    for i in 0..LANES {
        to[i] += if winner[i] == place { up[i] } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::uniform;
    use proptest::prelude::*;

    /// By definition: the first largest number of each window.
    fn by_definition(pooling: &Pooling, xs: &[f32]) -> (Vec<f32>, Vec<usize>) {
        let Pooling { kernel, width, channels, .. } = *pooling;
        let windows = pooling.windows().flat_map(|(_, corner)| (0..channels).map(move |channel| (corner, channel)));
        let largest = |(corner, channel): (usize, usize)| {
            let places = (0..kernel * kernel).map(|i| (corner + i / kernel * width + i % kernel) * channels + channel);
            let first = places.reduce(|best, at| if xs[at] > xs[best] { at } else { best }).unwrap();
            (xs[first], first)
        };
        windows.map(largest).unzip()
    }

    proptest! {
        #[test]
        fn the_first_largest_number_is_taken_and_gets_the_gradient(
            (height, width, channels) in (1usize..12, 1usize..12, 1usize..40),
            (kernel, stride) in (1usize..5, 1usize..4),
            relu in any::<bool>(),
        ) {
            let Ok(pooling) = (MaxPool2d { kernel, stride }).of(height, width, channels) else { return Ok(()) };
            // Few different numbers, so that there are equal ones.
            let xs: Vec<f32> = uniform(1, height * width * channels).iter().map(|x| (x * 3.0).round()).collect();
            let (expected, firsts) = by_definition(&pooling, &xs);
            let (mut ys, mut again) = (vec![0.0; expected.len()], vec![0.0; expected.len()]);
            let mut winners = vec![0; ys.len()];
            pooling.forward(&xs, &mut ys, Some(&mut winners));
            pooling.forward(&xs, &mut again, None);
            prop_assert!(ys == expected && again == expected);

            let up = uniform(2, ys.len());
            let (mut dx, mut expected) = (vec![9.0; xs.len()], vec![0.0; xs.len()]);
            pooling.backward(&ys, &up, &winners, relu, &mut dx);
            for (i, &first) in firsts.iter().enumerate() {
                expected[first] += if relu && ys[i] <= 0.0 { 0.0 } else { up[i] };
            }
            prop_assert_eq!(dx, expected);
        }
    }

    #[test]
    fn nan_shows_through() {
        let pooling = MaxPool2d { kernel: 2, stride: 2 }.of(2, 2, 1).unwrap();
        let mut ys = [0.0];
        pooling.forward(&[1.0, f32::NAN, 3.0, 2.0], &mut ys, None);
        assert!(ys[0].is_nan());
    }

    #[test]
    fn a_window_that_does_not_fit_is_an_error() {
        let pool = |kernel, stride| MaxPool2d { kernel, stride }.of(4, 4, 1);
        assert!(pool(5, 1).is_err() && pool(0, 1).is_err() && pool(2, 0).is_err() && pool(4, 9).is_ok());
    }
}
