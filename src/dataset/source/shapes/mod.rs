//! `name = "shapes"`: pictures of coloured shapes, made from a seed, to try the whole system without a download.
//!
//! A class is a kind, a colour and a surface together ("patterned red star"): none is enough alone, and grey shapes
//! stand in the background. A picture shows one to four labelled shapes, turned, squashed, partly hidden,
//! under uneven light, with noise and JPEG's losses. About three in ten database images are relevant to a query.

mod canvas;
mod scene;

use super::{Progress, Source, Splits};
use crate::dataset::Item;
use crate::error::{Error, Result};
use crate::seeded;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use scene::Scene;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Pictures between two calls of `progress`.
const CHUNK: usize = 256;

/// Generated pictures of coloured shapes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shapes {
    /// Training pictures.
    #[schemars(range(min = 1))]
    pub train: usize,
    /// Queries.
    #[schemars(range(min = 1))]
    pub query: usize,
    /// Pictures that are searched, with the training pictures if they are among them.
    #[schemars(range(min = 1))]
    pub database: usize,
    /// Shorter side in pixels, give or take a fifth.
    #[serde(default = "side")]
    #[schemars(range(min = 24, max = 512))]
    pub size: u32,
    /// Which pictures are made.
    #[serde(default)]
    pub seed: u64,
    /// Whether the database begins with the training pictures; otherwise the three lists share none.
    #[serde(default)]
    pub train_in_database: bool,
}

fn side() -> u32 {
    64
}

impl Source for Shapes {
    fn check(&self) -> Result<()> {
        if self.train == 0 || self.query == 0 || self.database == 0 {
            return Err(Error::input("`train`, `query` and `database` must each be at least 1"));
        }
        if !(24..=512).contains(&self.size) {
            return Err(Error::input(format!("`size` is {}", self.size)).hint("it is in pixels, from 24 to 512"));
        }
        if self.train_in_database && self.database < self.train {
            let message = format!("a `database` of {} cannot hold {} training pictures", self.database, self.train);
            return Err(Error::input(message).hint("raise `database`, or set `train_in_database = false`"));
        }
        Ok(())
    }

    fn files(&self, _project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.check().map(|()| vec![])
    }

    fn root(&self, _project: &Path) -> Option<PathBuf> {
        None
    }

    fn needs(&self, _project: &Path) -> Vec<(String, PathBuf)> {
        vec![]
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.train_in_database)
    }

    fn build(&self, _project: &Path, images: &Path, progress: Progress) -> Result<Splits> {
        self.check()?;
        let shared = if self.train_in_database { self.train } else { 0 };
        let own = self.database - shared;
        let (total, mut done) = ((self.train + self.query + own) as u64, 0);
        let mut make = |part, count| {
            self.make(part, count, images, &mut |more| {
                done += more;
                progress(done, total)
            })
        };
        let (train, query, own) = (make("train", self.train)?, make("query", self.query)?, make("database", own)?);
        let database = train[..shared].iter().cloned().chain(own).collect();
        Ok(Splits::new(scene::classes(), train, query, database))
    }
}

impl Shapes {
    /// Writes pictures `0..count` of a part; each depends on the seed, the part's name and its number only.
    fn make(
        &self,
        part: &str,
        count: usize,
        images: &Path,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Item>> {
        let folder = images.join(part);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, &e))?;
        let mut items = Vec::with_capacity(count);
        progress(0)?;
        for first in (0..count).step_by(CHUNK) {
            let chunk = first..count.min(first + CHUNK);
            let more = chunk.len();
            let made: Vec<Result<Item>> =
                chunk.into_par_iter().map(|number| self.write(part, number, images)).collect();
            items.extend(made.into_iter().collect::<Result<Vec<_>>>()?);
            progress(more as u64)?;
        }
        Ok(items)
    }

    fn write(&self, part: &str, number: usize, images: &Path) -> Result<Item> {
        let (bytes, labels) = self.picture(part, number);
        let path = format!("{part}/{number:06}.jpg");
        let target = images.join(&path);
        std::fs::write(&target, &bytes).map_err(|e| Error::io("write image", &target, &e))?;
        Ok(Item { path, labels, digest: blake3::hash(&bytes).to_string() })
    }

    /// One picture as a JPEG file, and its classes.
    fn picture(&self, part: &str, number: usize) -> (Vec<u8>, Vec<u32>) {
        let mut stream = seeded::stream(self.seed, &format!("shapes of {part}"), &[number as u64]);
        let scene = Scene::draw(&mut stream, self.size);
        let pixels = scene.render(&mut stream);
        let quality = 45 + stream.below(51) as u8;
        let mut bytes = vec![];
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode(&pixels, scene.width as u32, scene.height as u32, ExtendedColorType::Rgb8)
            .expect("a vector takes every byte, and both sides are far below JPEG's 65,535");
        (bytes, scene.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode;
    use std::collections::BTreeSet;

    fn shapes(train: usize, query: usize, database: usize) -> Shapes {
        Shapes { train, query, database, size: 64, seed: 1, train_in_database: false }
    }

    fn build(shapes: &Shapes) -> (tempfile::TempDir, Splits) {
        let folder = tempfile::tempdir().unwrap();
        let splits = shapes.build(Path::new("unused"), folder.path(), &mut |_, _| Ok(())).unwrap();
        (folder, splits)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| build(&shapes(40, 10, 20)).1)
        };
        assert_eq!(with(1), with(7));
        let (_, other) = build(&Shapes { seed: 2, ..shapes(40, 10, 20) });
        assert_ne!(other.train.items[0].digest, with(1).train.items[0].digest);
    }

    #[test]
    fn a_picture_does_not_depend_on_how_many_there_are() {
        let (few, many) = (build(&shapes(4, 3, 5)).1, build(&shapes(30, 20, 10)).1);
        assert_eq!(few.train.items[..], many.train.items[..4]);
        assert_eq!(few.query.items[..], many.query.items[..3]);
        assert_eq!(few.database.items[..], many.database.items[..5]);
    }

    #[test]
    fn the_lists_share_no_picture_unless_asked() {
        let (_, splits) = build(&shapes(60, 30, 90));
        let all = splits.train.items.iter().chain(&splits.query.items).chain(&splits.database.items);
        assert_eq!(all.map(|item| &item.digest).collect::<BTreeSet<_>>().len(), 180);
        let few = |note: &String| note.starts_with("classes without training images: ");
        assert!(splits.notes.iter().all(few), "{:?}", splits.notes);

        let (folder, joined) = build(&Shapes { train_in_database: true, ..shapes(60, 30, 90) });
        assert_eq!(joined.database.items[..60], splits.train.items[..]);
        assert_eq!(joined.database.items[60..], splits.database.items[..30]);
        assert_eq!(std::fs::read_dir(folder.path().join("database")).unwrap().count(), 30);
    }

    #[test]
    fn the_files_are_pictures_and_the_lists_know_them() {
        let (folder, splits) = build(&shapes(20, 5, 5));
        for item in &splits.train.items {
            let bytes = std::fs::read(folder.path().join(&item.path)).unwrap();
            assert_eq!(item.digest, blake3::hash(&bytes).to_string());
            let image = decode(&bytes).unwrap();
            let short = image.width.min(image.height);
            assert!((51..=77).contains(&short) && image.width.max(image.height) <= short * 4 / 3 + 1);
            assert!((1..=4).contains(&item.labels.len()) && item.labels.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn about_three_in_ten_database_images_are_relevant() {
        let labels = |part: &str, count| -> Vec<Vec<u32>> {
            (0..count).map(|number| shapes(1, 1, 1).picture(part, number).1).collect()
        };
        let (query, database) = (labels("query", 200), labels("database", 1000));
        let share = |a: &[u32], b: &[u32]| a.iter().any(|label| b.contains(label));
        let relevant = query.iter().map(|q| database.iter().filter(|d| share(q, d)).count()).sum::<usize>();
        let chance = relevant as f64 / (200.0 * 1000.0);
        assert!((0.27..0.36).contains(&chance), "{chance}");
        let classes: BTreeSet<u32> = database.into_iter().flatten().collect();
        assert_eq!(classes.len(), scene::classes().len());
    }

    #[test]
    fn counts_and_sizes_are_checked() {
        assert!(shapes(1, 1, 1).files(Path::new("x")).is_ok());
        assert!(shapes(1, 0, 1).files(Path::new("x")).is_err());
        assert!(Shapes { size: 8, ..shapes(1, 1, 1) }.files(Path::new("x")).is_err());
        assert!(Shapes { train_in_database: true, ..shapes(3, 1, 2) }.files(Path::new("x")).is_err());
    }

    #[test]
    fn progress_counts_every_picture_and_can_stop() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = (0, 0);
        let mut progress = |done, total| -> Result<()> {
            last = (done, total);
            Ok(())
        };
        shapes(3, 2, 4).build(Path::new("x"), folder.path(), &mut progress).unwrap();
        assert_eq!(last, (9, 9));
        let stopped = shapes(3, 2, 4).build(Path::new("x"), folder.path(), &mut |_, _| Err(Error::interrupted()));
        assert_eq!(stopped.unwrap_err().message(), "interrupted");
    }

    /// Forty-eight pictures beside each other, as the network sees them below as they are; for the eye.
    #[test]
    #[ignore = "writes a contact sheet to HASHPIPE_SHEET and prints a time"]
    #[expect(clippy::print_stderr, reason = "what it measures is read by a person")]
    fn contact_sheet() {
        let path = std::env::var("HASHPIPE_SHEET").unwrap_or_else(|_| "shapes.png".into());
        let shapes = shapes(1, 1, 1);
        let transform = crate::image::Transform::imagenet(48, 48);
        let mut sheet = image::RgbImage::new(12 * 100, 8 * 100);
        let start = std::time::Instant::now();
        for number in 0..1000 {
            shapes.picture("timing", number);
        }
        eprintln!("one picture in {:?}", start.elapsed() / 1000);
        for number in 0..48 {
            let (bytes, labels) = shapes.picture("train", number);
            let image = decode(&bytes).unwrap();
            let small = image::RgbImage::from_raw(48, 48, transform.eval(&image)).unwrap();
            let names: Vec<_> = labels.iter().map(|label| scene::classes()[*label as usize].clone()).collect();
            eprintln!("{number}: {}, {} bytes", names.join(", "), bytes.len());
            let (x, y) = ((number as i64 % 12) * 100, (number as i64 / 12) * 200);
            let picture = image::RgbImage::from_raw(image.width as u32, image.height as u32, image.data).unwrap();
            image::imageops::replace(&mut sheet, &picture, x, y);
            image::imageops::replace(&mut sheet, &small, x, y + 110);
        }
        sheet.save(path).unwrap();
    }
}
