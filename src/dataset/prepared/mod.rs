//! Images decoded and resized once, for those who read them many times.
//!
//! Kept is what [`Transform`] makes of an image before it cuts: red, green and blue with the shorter side at the
//! transform's `resize`. What is cut out of that has the pixels that the file itself would give, to the byte.
//!
//! ```text
//! images/
//!   00000-3ccf01...     a part of a list, see `part`; its number, and the beginning of its name
//! ```
//!
//! Images whose longer side is so long that keeping them would cost more than decoding them are not kept; whoever reads
//! them decodes the file.

mod part;

pub use part::{Writer, is_part};

use super::Item;
use crate::error::{Error, Result};
use crate::image::{Pixels, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Separates the names of parts from all other digests; raised when the same images would give other bytes.
const CONTEXT: &str = "hashpipe 2026-11 part of prepared images v1";

/// Pixels of a prepared image for each pixel of the square of its shorter side, at most.
const LONGEST: u64 = 16;

/// How images are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Length of the shorter side, in pixels.
    pub resize: u32,
    /// Whether pictures are turned upright as their EXIF data tells.
    pub apply_exif: bool,
}

impl Scale {
    /// What a transform does first.
    pub fn of(transform: &Transform) -> Self {
        Self { resize: transform.resize, apply_exif: transform.apply_exif }
    }

    /// The name of a part: a digest of how its images are prepared, and of their content in order.
    pub fn name(self, images: &[Item]) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.resize.to_le_bytes()).update(&[self.apply_exif.into()]);
        for image in images {
            hasher.update(&(image.digest.len() as u64).to_le_bytes()).update(image.digest.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A file's image as it is kept; none if it is too long.
    ///
    /// # Errors
    /// Bytes that are no image.
    pub fn prepare(self, bytes: &[u8]) -> Result<Option<Pixels>, crate::image::DecodeError> {
        // Only its first half is used, which knows nothing of crops.
        let transform = Transform { apply_exif: self.apply_exif, ..Transform::imagenet(self.resize, self.resize) };
        let image = transform.open(bytes)?;
        let (long, short) = (image.width.max(image.height) as u64, image.width.min(image.height) as u64);
        Ok((long <= short.saturating_mul(LONGEST)).then(|| transform.resized(&image)))
    }
}

/// A folder of prepared images. Holds where each lies, and none of them.
pub struct Prepared {
    scale: Scale,
    parts: Vec<PathBuf>,
    places: HashMap<blake3::Hash, Place>,
}

/// Where an image lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    part: usize,
    entry: part::Entry,
}

impl Prepared {
    /// Opens a folder and reads what is in it.
    ///
    /// # Errors
    /// A folder that holds something else, and parts that are damaged or were prepared differently.
    pub fn open(folder: &Path) -> Result<Self> {
        let io = |e| Error::io("read", folder, &e);
        let names = std::fs::read_dir(folder).map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path()));
        let mut parts = names.collect::<Result<Vec<PathBuf>>>()?;
        parts.sort();
        let (mut scale, mut places) = (None, HashMap::new());
        for (number, path) in parts.iter().enumerate() {
            let read = part::read(path)?;
            if *scale.get_or_insert(read.scale) != read.scale {
                return Err(Error::data(format!("`{}` holds images prepared in different ways", folder.display())));
            }
            places.extend(read.entries.into_iter().map(|entry| (entry.source, Place { part: number, entry })));
        }
        let nothing = || {
            Error::data(format!("`{}` holds no prepared images", folder.display()))
                .hint("prepared images are the output `images` of a `prepare` stage")
        };
        Ok(Self { scale: scale.ok_or_else(nothing)?, parts, places })
    }

    /// How its images were prepared.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Whether an image is there.
    pub fn has(&self, image: &Item) -> bool {
        self.place(image).is_some_and(|place| place.entry.is_kept())
    }

    /// Width and height of an image; none if it is not there, or not kept.
    pub(super) fn size(&self, image: &Item) -> Option<(usize, usize)> {
        self.place(image).filter(|place| place.entry.is_kept()).map(|place| place.entry.size())
    }

    /// An image, with its shorter side at [`Scale::resize`]; none if it is not there, or not kept.
    ///
    /// # Errors
    /// A part that cannot be read, and pixels that are not what was written.
    pub(super) fn read(&self, image: &Item) -> Result<Option<Pixels>> {
        match self.place(image).filter(|place| place.entry.is_kept()) {
            Some(place) => place.entry.pixels(&self.parts[place.part]).map(Some),
            None => Ok(None),
        }
    }

    fn place(&self, image: &Item) -> Option<&Place> {
        self.places.get(&blake3::Hash::from_hex(&image.digest).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    fn png(width: u32, height: u32) -> (Item, Vec<u8>) {
        let mut bytes = std::io::Cursor::new(vec![]);
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x ^ y) as u8]));
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let bytes = bytes.into_inner();
        let digest = blake3::hash(&bytes).to_string();
        (Item { path: format!("{width}x{height}.png"), labels: vec![], digest }, bytes)
    }

    const SCALE: Scale = Scale { resize: 16, apply_exif: false };

    /// A folder with one part.
    fn prepared(images: &[(Item, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let items: Vec<Item> = images.iter().map(|(item, _)| item.clone()).collect();
        let (name, path) = (SCALE.name(&items), folder.path().join("00000"));
        let mut writer = Writer::create(&path, SCALE, &name, items.len()).unwrap();
        for (item, bytes) in images {
            writer.push(item, SCALE.prepare(bytes).unwrap().as_ref()).unwrap();
        }
        writer.finish().unwrap();
        assert!(is_part(&path, &name) && !is_part(&path, &SCALE.name(&[])));
        (folder, path)
    }

    #[test]
    fn an_image_comes_back_as_it_was_resized() {
        let images = [png(40, 30), png(16, 16), png(9, 50), png(3, 60)];
        let (folder, _) = prepared(&images);
        let opened = Prepared::open(folder.path()).unwrap();
        assert_eq!(opened.scale(), SCALE);
        let transform = Transform::imagenet(16, 8);
        for (item, bytes) in &images[..3] {
            let pixels = opened.read(item).unwrap().unwrap();
            assert_eq!(pixels, transform.resized(&transform.open(bytes).unwrap()));
            assert_eq!(transform.eval(&pixels), transform.read_eval(bytes).unwrap());
        }
        // Twenty times as long as wide.
        assert!(!opened.has(&images[3].0) && opened.read(&images[3].0).unwrap().is_none());
        assert!(opened.has(&images[0].0) && !opened.has(&png(11, 11).0));
    }

    #[test]
    fn damage_is_noticed() {
        let images = [png(40, 30), png(20, 20)];
        let (folder, path) = prepared(&images);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let outcome = Prepared::open(folder.path())
                .and_then(|opened| images.iter().map(|(item, _)| opened.read(item)).collect::<Result<Vec<_>>>());
            assert!(outcome.is_err(), "byte {at} of {}", whole.len());
        }
        for kept in [0, 50, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..kept]).unwrap();
            assert!(Prepared::open(folder.path()).is_err(), "{kept}");
        }
        std::fs::remove_file(&path).unwrap();
        let empty = Prepared::open(folder.path()).err().unwrap();
        assert!(empty.message().ends_with("holds no prepared images"));
    }
}
