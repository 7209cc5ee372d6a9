//! Images of a list, decoded and normalised ahead of the network that reads them.

use super::{Augment, Batch, Examples, List};
use crate::error::{Error, Kind, Result};
use crate::image::{Transform, decode};
use crate::seeded;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How many batches may wait for the network, apart from the one being made.
const AHEAD: usize = 2;

/// The images of a list on disk.
pub struct Images(Arc<OnDisk>);

struct OnDisk {
    list: List,
    root: PathBuf,
    transform: Transform,
}

impl Images {
    /// The listed images, whose paths are relative to `root`. `transform` must have passed [`Transform::check`].
    pub fn new(list: List, root: PathBuf, transform: Transform) -> Self {
        Self(Arc::new(OnDisk { list, root, transform }))
    }
}

impl Examples for Images {
    fn len(&self) -> usize {
        self.0.list.len()
    }

    fn classes(&self) -> usize {
        self.0.list.classes.len()
    }

    fn labels(&self, index: usize) -> &[u32] {
        &self.0.list.items[index].labels
    }

    fn side(&self) -> usize {
        self.0.transform.crop as usize
    }

    /// Batches are made by a thread of their own, each image of a batch in parallel. After an error nothing follows.
    fn batches(&self, order: Vec<Vec<u32>>, augment: Option<Augment>) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new(Ahead::start(Arc::clone(&self.0), order, augment))
    }
}

/// One image file as evaluation sees it: `[3, crop, crop]`, normalised.
///
/// # Errors
/// A file that is missing or no image.
pub fn eval_pixels(transform: &Transform, path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read image", path, &e))?;
    let cut = transform
        .read_eval(&bytes)
        .map_err(|e| Error::data(format!("image `{}` cannot be decoded", path.display())).note(e.to_string()))?;
    let mut pixels = vec![0.0; cut.len()];
    transform.normalise(&cut, &mut pixels);
    Ok(pixels)
}

impl OnDisk {
    fn batch(&self, index: Vec<u32>, augment: Option<Augment>, stop: &AtomicBool) -> Result<Batch> {
        let size = 3 * (self.transform.crop as usize).pow(2);
        let mut pixels = vec![0.0; index.len() * size];
        let outcomes: Vec<Result<()>> = pixels
            .par_chunks_exact_mut(size)
            .zip(&index)
            .map(|(out, index)| match stop.load(Relaxed) {
                true => Err(Error::interrupted()),
                false => self.prepare(*index as usize, augment, out),
            })
            .collect();
        // The first in the list's order, not the first in time.
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(Batch { index, pixels })
    }

    fn prepare(&self, index: usize, augment: Option<Augment>, out: &mut [f32]) -> Result<()> {
        let item = &self.list.items[index];
        let named = format!("image `{}` (number {} of {} in the list)", item.path, index + 1, self.list.len());
        let bytes = std::fs::read(self.root.join(&item.path)).map_err(|e| {
            Error::data(format!("{named} cannot be read"))
                .note(e.to_string())
                .note(format!("looked for in `{}`", self.root.display()))
        })?;
        if blake3::hash(&bytes).to_hex().as_str() != item.digest {
            return Err(Error::new(Kind::Changed, format!("{named} has changed since it was listed"))
                .hint("run again, and with `--force lists` if that does not help: the lists are then made anew"));
        }
        let image =
            decode(&bytes).map_err(|e| Error::data(format!("{named} cannot be decoded")).note(e.to_string()))?;
        let cut = match augment {
            None => self.transform.eval(&image),
            Some(Augment { seed, epoch, crop, flip }) => {
                let mut stream = seeded::stream(seed, "augment", &[epoch, index as u64]);
                self.transform.augmented(&image, &mut stream, crop, flip)
            }
        };
        self.transform.normalise(&cut, out);
        Ok(())
    }
}

/// Batches made ahead of their use; dropping it stops the work.
struct Ahead {
    batches: Option<Receiver<Result<Batch>>>,
    worker: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Ahead {
    fn start(images: Arc<OnDisk>, order: Vec<Vec<u32>>, augment: Option<Augment>) -> Self {
        let (sender, batches) = sync_channel(AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let worker = std::thread::spawn(move || make(&images, order, augment, &seen, &sender));
        Self { batches: Some(batches), worker: Some(worker), stop }
    }
}

/// Sends every batch until one fails or nobody wants them any more.
fn make(
    images: &OnDisk,
    order: Vec<Vec<u32>>,
    augment: Option<Augment>,
    stop: &AtomicBool,
    sender: &SyncSender<Result<Batch>>,
) {
    for index in order {
        let batch = images.batch(index, augment, stop);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Iterator for Ahead {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            return Some(batch);
        }
        // The worker is gone: it is done, or it panicked, which must not look like the end of the data.
        if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // A worker that waits for room in the channel wakes up when the channel is gone.
        self.batches = None;
        if let Some(worker) = self.worker.take() {
            // A panic here concerns batches that nobody asked for.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Item;
    use image::{Rgb, RgbImage};

    /// Twelve small pictures with different content, and the folder that holds them.
    fn pictures() -> (tempfile::TempDir, List) {
        let folder = tempfile::tempdir().unwrap();
        let items = (0..12u32).map(|i| {
            let path = format!("{i}.png");
            let picture =
                RgbImage::from_fn(24 + i, 20, |x, y| Rgb([(x * 9 + i) as u8, (y * 11) as u8, (i * 20) as u8]));
            picture.save(folder.path().join(&path)).unwrap();
            let digest = blake3::hash(&std::fs::read(folder.path().join(&path)).unwrap()).to_string();
            Item { path, labels: vec![i % 3], digest }
        });
        let list = List { classes: ["a", "b", "c"].map(String::from).to_vec(), items: items.collect() };
        (folder, list)
    }

    fn images(folder: &tempfile::TempDir, list: &List) -> Images {
        Images::new(list.clone(), folder.path().to_path_buf(), Transform::imagenet(16, 8))
    }

    fn augment(epoch: u64) -> Augment {
        Augment { seed: 5, epoch, crop: true, flip: true }
    }

    #[test]
    fn batches_come_in_the_order_asked_for() {
        let (folder, list) = pictures();
        let order = vec![vec![3, 1], vec![0, 11, 5], vec![], vec![7], vec![2, 2], vec![4]];
        let images = images(&folder, &list);
        let batches: Vec<Batch> = images.batches(order.clone(), None).collect::<Result<_>>().unwrap();
        assert_eq!(batches.iter().map(|batch| batch.index.clone()).collect::<Vec<_>>(), order);
        for batch in &batches {
            for (index, pixels) in batch.index.iter().zip(batch.pixels.chunks_exact(3 * 64)) {
                let path = folder.path().join(format!("{index}.png"));
                assert_eq!(pixels, eval_pixels(&Transform::imagenet(16, 8), &path).unwrap());
            }
        }
    }

    #[test]
    fn the_draw_depends_on_the_epoch_and_the_image_only() {
        let (folder, list) = pictures();
        let images = images(&folder, &list);
        let all = |order, augment| -> Vec<Vec<f32>> {
            let mut pixels = vec![vec![]; 12];
            for batch in images.batches(order, Some(augment)) {
                let batch = batch.unwrap();
                for (index, image) in batch.index.iter().zip(batch.pixels.chunks_exact(3 * 64)) {
                    pixels[*index as usize] = image.to_vec();
                }
            }
            pixels
        };
        let forwards = all(vec![(0..12).collect()], augment(1));
        assert_eq!(forwards, all((0..12).rev().map(|i| vec![i]).collect(), augment(1)));
        assert_ne!(forwards, all(vec![(0..12).collect()], augment(2)));
    }

    #[test]
    fn a_batch_does_not_depend_on_the_number_of_threads() {
        let (folder, list) = pictures();
        let images = images(&folder, &list);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| images.0.batch((0..12).collect(), Some(augment(1)), &AtomicBool::new(false)).unwrap())
        };
        assert_eq!(with(1), with(5));
    }

    #[test]
    fn a_changed_file_is_told_from_a_broken_one() {
        let (folder, mut list) = pictures();
        std::fs::write(folder.path().join("4.png"), b"other").unwrap();
        let failed = |list: &List, index| {
            let images = images(&folder, list);
            let mut batches = images.batches(vec![vec![0], vec![1, index], vec![2]], None);
            assert!(batches.next().unwrap().is_ok());
            let error = batches.next().unwrap().unwrap_err();
            assert!(batches.next().is_none());
            error
        };
        let changed = failed(&list, 4);
        assert_eq!(changed.kind(), Kind::Changed);
        assert_eq!(changed.message(), "image `4.png` (number 5 of 12 in the list) has changed since it was listed");

        list.items[4].digest = blake3::hash(b"other").to_string();
        let broken = failed(&list, 4);
        assert_eq!(broken.message(), "image `4.png` (number 5 of 12 in the list) cannot be decoded");

        std::fs::remove_file(folder.path().join("9.png")).unwrap();
        let missing = failed(&list, 9);
        assert_eq!(missing.message(), "image `9.png` (number 10 of 12 in the list) cannot be read");
        assert_eq!((broken.kind(), missing.kind()), (Kind::Data, Kind::Data));
    }

    #[test]
    fn dropping_the_iterator_stops_the_work() {
        let (folder, list) = pictures();
        let images = images(&folder, &list);
        let mut batches = images.batches(vec![(0..12).collect(); 100_000], None);
        assert!(batches.next().unwrap().is_ok());
        drop(batches);
        // Only this handle is left: the worker has ended.
        assert_eq!(Arc::strong_count(&images.0), 1);
        assert_eq!(images.batches(vec![], None).count(), 0);
    }
}
