//! Label sets as bits: two images are similar if one word of theirs has a bit in common.

use candle_core::{Device, Result, Tensor, bail};

/// The classes of a number of images; `width` words for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelSets {
    classes: usize,
    width: usize,
    words: Vec<u64>,
}

impl LabelSets {
    /// Of images that have no class yet.
    pub(super) fn empty(images: usize, classes: usize) -> Self {
        let width = classes.div_ceil(64).max(1);
        Self { classes, width, words: vec![0; images * width] }
    }

    /// The same for these words, as [`words`](Self::words) gives them.
    #[cfg(feature = "cuda")]
    pub(super) fn with_words(self, words: Vec<u64>) -> Result<Self> {
        if words.len() != self.words.len() {
            bail!("labels of {} words, expected {}", words.len(), self.words.len());
        }
        Ok(Self { words, ..self })
    }

    /// The words of all images, one image after the other.
    #[cfg(feature = "cuda")]
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Words of an image.
    #[cfg(feature = "cuda")]
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Of a batch: `[n, classes]`, where anything above 0 is a label.
    pub(super) fn from_tensor(labels: &Tensor) -> Result<Self> {
        let rows = labels.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?;
        let mut sets = Self::empty(rows.len(), labels.dim(1)?);
        for (row, set) in rows.iter().zip(sets.words.chunks_exact_mut(sets.width)) {
            for class in (0..row.len()).filter(|&class| row[class] > 0.0) {
                set[class / 64] |= 1 << (class % 64);
            }
        }
        Ok(sets)
    }

    pub(super) fn len(&self) -> usize {
        self.words.len() / self.width
    }

    pub(super) fn get(&self, image: usize) -> &[u64] {
        &self.words[image * self.width..][..self.width]
    }

    /// The sets of the images `from..to`, in order.
    pub(super) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = &[u64]> {
        self.words[from * self.width..to * self.width].chunks_exact(self.width)
    }

    /// Those of the images `from..to`, by themselves.
    pub(super) fn part(&self, from: usize, to: usize) -> Self {
        Self { words: self.words[from * self.width..to * self.width].to_vec(), ..*self }
    }

    pub(super) fn set(&mut self, image: usize, set: &[u64]) {
        self.words[image * self.width..][..self.width].copy_from_slice(set);
    }

    /// Whether both speak of as many classes.
    pub(super) fn has_classes_of(&self, other: &Self) -> bool {
        self.classes == other.classes
    }

    /// As bytes `[images, 8 * width]`, for a checkpoint.
    pub(super) fn to_tensor(&self) -> Result<Tensor> {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Tensor::from_vec(bytes, (self.len(), 8 * self.width), &Device::Cpu)
    }

    /// Takes back what `to_tensor` gave, for as many images and classes.
    pub(super) fn load(&mut self, tensor: &Tensor) -> Result<()> {
        let words: Vec<u64> = tensor
            .flatten_all()?
            .to_vec1::<u8>()?
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of 8")))
            .collect();
        if words.len() != self.words.len() {
            bail!("labels of {} words, expected {}", words.len(), self.words.len());
        }
        self.words = words;
        Ok(())
    }
}

/// Whether two images share a class.
pub(super) fn similar(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).any(|(a, b)| a & b != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_share_a_bit_where_the_rows_share_a_class() {
        let mut rows = vec![vec![0f32; 130]; 4];
        rows[0][129] = 1.0;
        rows[1][129] = 1.0;
        rows[1][3] = 1.0;
        rows[2][3] = 1.0;
        let sets = LabelSets::from_tensor(&Tensor::new(rows, &Device::Cpu).unwrap()).unwrap();
        let pairs = [(0, 1), (1, 2), (0, 2), (3, 3), (0, 0)];
        assert_eq!(pairs.map(|(a, b)| similar(sets.get(a), sets.get(b))), [true, true, false, false, true]);
        let mut loaded = LabelSets::empty(4, 130);
        loaded.load(&sets.to_tensor().unwrap()).unwrap();
        assert_eq!(loaded, sets);
        assert!(LabelSets::empty(3, 130).load(&sets.to_tensor().unwrap()).is_err());
    }
}
