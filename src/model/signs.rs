//! Codes from logits: bit j is 1 where output j of the network is above 0.

use crate::kernel::host;
use candle_core::{Result, Tensor};

/// Words behind the bits of an image: how many outputs are 0, and the position of the first NaN plus 1.
const BEHIND: usize = 2;

/// The signs of some images' outputs.
pub struct Signs {
    width: usize,
    /// For each image its bits, 64 in a word, the first one lowest; then [`BEHIND`] words.
    words: Vec<u64>,
}

/// The signs of one image's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign<'a> {
    /// The bits, 64 in a word, the first one lowest; behind the last one zeros. 0 has the bit of negative numbers.
    pub words: &'a [u64],
    /// How many outputs are exactly 0.
    pub zeros: usize,
    /// The first output that has no sign.
    pub not_a_number: Option<usize>,
}

impl Signs {
    /// Of codes of so many bits, out of the words of [`packed`]; there may be anything behind the last image.
    pub(super) fn new(bits: usize, images: usize, mut words: Vec<u64>) -> Self {
        let width = bits.div_ceil(64);
        words.truncate(images * (width + BEHIND));
        Self { width, words }
    }

    /// Image by image.
    pub fn iter(&self) -> impl Iterator<Item = Sign<'_>> {
        self.words.chunks_exact(self.width + BEHIND).map(|words| {
            let (words, behind) = words.split_at(self.width);
            let not_a_number = behind[1].checked_sub(1).map(|bit| bit as usize);
            Sign { words, zeros: behind[0] as usize, not_a_number }
        })
    }
}

/// The words of [`Signs`] for logits `[n, bits]` on the CPU.
pub(super) fn packed(logits: &Tensor) -> Result<Vec<u64>> {
    let (_, bits) = logits.dims2()?;
    let logits = logits.contiguous()?;
    let mut words = vec![];
    for row in host(&logits).values()?.chunks_exact(bits.max(1)) {
        let pack = |part: &[f32]| part.iter().enumerate().fold(0, |word, (j, &x)| word | u64::from(x > 0.0) << j);
        words.extend(row.chunks(64).map(pack));
        words.push(row.iter().filter(|&&x| x == 0.0).count() as u64);
        words.push(row.iter().position(|x| x.is_nan()).map_or(0, |bit| bit as u64 + 1));
    }
    Ok(words)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::Device;

    /// Logits with numbers of all kinds.
    pub(crate) fn logits(images: usize, bits: usize, device: &Device) -> Tensor {
        let mut draw = crate::seeded::stream(1, "signs", &[]);
        let kinds = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, -f32::INFINITY, f32::INFINITY];
        let numbers: Vec<f32> = (0..images * bits)
            .map(|i| match draw.below(40) {
                0 if (i / bits).is_multiple_of(3) => f32::NAN,
                kind if kind < kinds.len() => kinds[kind],
                _ => draw.range(-1.0, 1.0) as f32,
            })
            .collect();
        Tensor::from_vec(numbers, (images, bits), device).unwrap()
    }

    #[test]
    fn bits_zeros_and_numbers_without_a_sign_are_those_of_the_outputs() {
        for bits in [1, 12, 64, 65, 130] {
            let logits = logits(9, bits, &Device::Cpu);
            let signs = Signs::new(bits, 9, packed(&logits).unwrap());
            let rows = logits.to_vec2::<f32>().unwrap();
            assert_eq!(signs.iter().count(), rows.len());
            for (sign, row) in signs.iter().zip(&rows) {
                let bit = |j: usize| sign.words[j / 64] >> (j % 64) & 1 == 1;
                assert!((0..bits).all(|j| bit(j) == (row[j] > 0.0)) && (bits..sign.words.len() * 64).all(|j| !bit(j)));
                assert_eq!(sign.zeros, row.iter().filter(|&&x| x == 0.0).count());
                assert_eq!(sign.not_a_number, row.iter().position(|x| x.is_nan()));
            }
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_packs_the_words_of_the_cpu() {
        let Some(gpu @ Device::Cuda(_)) = crate::device::for_test(0) else { return };
        for bits in [1, 12, 32, 33, 64, 65, 130] {
            let mut later = crate::model::later::Later::new();
            for images in [1, 9, 4, 2] {
                later.signs(images, &logits(images, bits, &gpu)).unwrap();
            }
            while let Some((images, words)) = later.wait().unwrap() {
                assert!(words == packed(&logits(images, bits, &Device::Cpu)).unwrap(), "{images} of {bits} bits");
            }
        }
    }
}
