//! What the model's tests share: coloured shapes on noise as a small multi-label data set, made in memory.

use crate::dataset::{Augment, Batch, Examples};
use crate::error::Result;
use crate::seeded::{Stream, stream};

/// Colours of the classes: discs, squares and crosses, each in two.
const COLOURS: [[f32; 3]; 6] =
    [[1.5, -1.0, 0.3], [-1.0, 1.0, 0.8], [0.2, 0.2, -1.2], [1.2, 1.2, -0.8], [-1.0, -1.0, 1.3], [1.2, 0.0, 1.4]];

/// Images of one or two shapes at random places; an image's labels say which.
pub(super) struct Shapes {
    side: usize,
    labels: Vec<Vec<u32>>,
    pixels: Vec<Vec<f32>>,
}

impl Shapes {
    pub(super) fn new(count: usize, side: usize, seed: u64) -> Self {
        let (labels, pixels) = (0..count).map(|i| draw(side, &mut stream(seed, "shapes", &[i as u64]))).unzip();
        Self { side, labels, pixels }
    }
}

fn draw(side: usize, stream: &mut Stream) -> (Vec<u32>, Vec<f32>) {
    let mut pixels: Vec<f32> = (0..3 * side * side).map(|_| stream.range(-0.5, 0.5) as f32).collect();
    let mut labels: Vec<u32> = (0..1 + stream.below(2)).map(|_| stream.below(COLOURS.len()) as u32).collect();
    for &class in &labels {
        let radius = stream.range(0.12, 0.2) * side as f64;
        let mut place = || stream.range(radius, side as f64 - radius);
        let (cx, cy) = (place(), place());
        for (i, colour) in COLOURS[class as usize].into_iter().enumerate() {
            for y in 0..side {
                for x in 0..side {
                    let (dx, dy) = ((x as f64 - cx).abs() / radius, (y as f64 - cy).abs() / radius);
                    let inside = match class % 3 {
                        0 => dx * dx + dy * dy < 1.0,
                        1 => dx.max(dy) < 0.9,
                        _ => dx.min(dy) < 0.3 && dx.max(dy) < 1.2,
                    };
                    if inside {
                        pixels[(i * side + y) * side + x] = colour;
                    }
                }
            }
        }
    }
    labels.sort_unstable();
    labels.dedup();
    (labels, pixels)
}

impl Examples for Shapes {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> usize {
        COLOURS.len()
    }

    fn labels(&self, index: usize) -> &[u32] {
        &self.labels[index]
    }

    fn side(&self) -> usize {
        self.side
    }

    /// The only augmentation is brightness, enough to tell whether seed and epoch are handed on.
    fn batches(&self, order: Vec<Vec<u32>>, augment: Option<Augment>) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new(order.into_iter().map(move |index| {
            let mut pixels = vec![];
            for &image in &index {
                let shift = augment.map_or(0.0, |a| stream(a.seed, "brightness", &[a.epoch, u64::from(image)]).unit());
                pixels.extend(self.pixels[image as usize].iter().map(|v| v + shift as f32 * 0.1));
            }
            Ok(Batch { index, pixels })
        }))
    }
}
