//! Images of a list, decoded and normalised ahead of the network that reads them.

use super::{Augment, Batch, Cuts, Examples, List, Memory, Prepared, Raw, Scale};
use crate::error::{Error, Kind, Result};
use crate::image::{Cut, DecodeError, Pixels, Transform, scratch};
use crate::seeded::{self, Stream};
use crate::threads::{self, Threads};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How many batches may wait for the network, apart from the one being made.
const AHEAD: usize = 2;

/// A list, and the folder its images are in.
pub struct Listed {
    pub list: List,
    pub root: PathBuf,
}

impl Listed {
    /// The bytes of an image file, which are those that were listed.
    ///
    /// # Errors
    /// A missing file, and one that has changed.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        let item = &self.list.items[index];
        let bytes = std::fs::read(self.root.join(&item.path)).map_err(|e| {
            Error::data(format!("{} cannot be read", self.named(index)))
                .note(e.to_string())
                .note(format!("looked for in `{}`", self.root.display()))
        })?;
        if blake3::hash(&bytes).to_hex().as_str() != item.digest {
            let message = format!("{} has changed since it was listed", self.named(index));
            return Err(Error::new(Kind::Changed, message)
                .hint("run again, and with `--force lists` if that does not help: the lists are then made anew"));
        }
        Ok(bytes)
    }

    /// What is said of an image that cannot be decoded.
    pub fn undecodable(&self, index: usize, reason: &DecodeError) -> Error {
        Error::data(format!("{} cannot be decoded", self.named(index))).note(reason.to_string())
    }

    fn named(&self, index: usize) -> String {
        let path = &self.list.items[index].path;
        format!("image `{path}` (number {} of {} in the list)", index + 1, self.list.len())
    }
}

/// The images of a list, from their files, or as far as they are there, from prepared ones.
pub struct Images(Arc<OnDisk>);

struct OnDisk {
    listed: Listed,
    prepared: Option<Prepared>,
    transform: Transform,
    /// Threads of their own, so that neither waits for the other's work to end: whoever decodes, and the network.
    threads: Threads,
}

impl Images {
    /// The listed images, whose paths are relative to `root`. `transform` must have passed [`Transform::check`].
    pub fn new(list: List, root: PathBuf, transform: Transform) -> Self {
        let listed = Listed { list, root };
        Self(Arc::new(OnDisk { listed, prepared: None, transform, threads: Threads::new("images") }))
    }

    /// The same, with pixels from `prepared` where it has them: the same pixels.
    ///
    /// # Errors
    /// Images that were prepared in another way than `transform` begins.
    pub fn with_prepared(list: List, root: PathBuf, transform: Transform, prepared: Prepared) -> Result<Self> {
        let (found, needed) = (prepared.scale(), Scale::of(&transform));
        if found != needed {
            let words = |scale: Scale| format!("`resize` {}, `apply_exif` {}", scale.resize, scale.apply_exif);
            return Err(Error::input("the images were prepared for another transform")
                .note(format!("prepared: {}", words(found)))
                .note(format!("needed: {}", words(needed)))
                .hint("give the `prepare` stage the transform's values"));
        }
        let listed = Listed { list, root };
        Ok(Self(Arc::new(OnDisk { listed, prepared: Some(prepared), transform, threads: Threads::new("images") })))
    }

    /// How many images have to be decoded although there are prepared ones.
    pub fn unprepared(&self) -> usize {
        let missing = |prepared: &Prepared| self.0.listed.list.items.iter().filter(|item| !prepared.has(item)).count();
        self.0.prepared.as_ref().map_or(0, missing)
    }
}

impl Examples for Images {
    fn len(&self) -> usize {
        self.0.listed.list.len()
    }

    fn classes(&self) -> usize {
        self.0.listed.list.classes.len()
    }

    fn labels(&self, index: usize) -> &[u32] {
        &self.0.listed.list.items[index].labels
    }

    fn side(&self) -> usize {
        self.0.transform.crop as usize
    }

    /// Batches are made by a thread of their own, each image of a batch in parallel. After an error nothing follows.
    fn batches(&self, order: Vec<Vec<u32>>, augment: Option<Augment>) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        let make = move |images: &OnDisk, index: Vec<u32>, stop: &AtomicBool| images.batch(index, augment, stop);
        Box::new(Ahead::start(Arc::clone(&self.0), order, make))
    }

    fn raw(&self) -> Option<&dyn Raw> {
        Some(self)
    }
}

impl Raw for Images {
    fn table(&self) -> [[f32; 256]; 3] {
        [0, 1, 2].map(|channel| self.0.transform.normalised(channel))
    }

    fn prepared_sizes(&self) -> Option<Vec<(usize, usize)>> {
        let prepared = self.0.prepared.as_ref()?;
        self.0.listed.list.items.iter().map(|item| prepared.size(item)).collect()
    }

    fn prepared(&self, index: usize) -> Result<Pixels> {
        let item = &self.0.listed.list.items[index];
        let read = self.0.prepared.as_ref().map_or(Ok(None), |prepared| prepared.read(item))?;
        read.ok_or_else(|| Error::data(format!("{} is not among the prepared ones", self.0.listed.named(index))))
    }

    fn cut(&self, index: usize, (width, height): (usize, usize), augment: Option<Augment>) -> Cut {
        let mut drawn = augment.map(|how| (how, how.stream(index)));
        let drawn = drawn.as_mut().map(|(how, stream)| (stream, how.crop, how.flip));
        self.0.transform.place(width, height, drawn)
    }

    fn cuts(
        &self,
        order: Vec<Vec<u32>>,
        augment: Option<Augment>,
        memory: Memory,
    ) -> Box<dyn Iterator<Item = Result<Cuts>> + '_> {
        let make =
            move |images: &OnDisk, index: Vec<u32>, stop: &AtomicBool| images.cuts(index, augment, &memory, stop);
        Box::new(Ahead::start(Arc::clone(&self.0), order, make))
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

impl Augment {
    /// What the augmentation of an image is drawn from.
    fn stream(&self, index: usize) -> Stream {
        seeded::stream(self.seed, "augment", &[self.epoch, index as u64])
    }
}

impl OnDisk {
    fn batch(&self, index: Vec<u32>, augment: Option<Augment>, stop: &AtomicBool) -> Result<Batch> {
        let mut pixels = vec![0.0; index.len() * self.numbers()];
        self.each(&index, augment, stop, &mut pixels, |cut, out| self.transform.normalise(cut, out))?;
        Ok(Batch { index, pixels })
    }

    fn cuts(&self, index: Vec<u32>, augment: Option<Augment>, memory: &Memory, stop: &AtomicBool) -> Result<Cuts> {
        let size = index.len() * self.numbers();
        let mut buffer = memory(size)?;
        let Some(bytes) = buffer.bytes()?.get_mut(..size) else {
            return Err(Error::data(format!("memory for a batch is smaller than its {size} bytes")));
        };
        self.each(&index, augment, stop, bytes, |cut, out| out.copy_from_slice(cut))?;
        Ok(Cuts { index, buffer })
    }

    /// Numbers of an image.
    fn numbers(&self) -> usize {
        3 * (self.transform.crop as usize).pow(2)
    }

    /// Cuts each image, and puts it where it belongs.
    fn each<T: Send>(
        &self,
        index: &[u32],
        augment: Option<Augment>,
        stop: &AtomicBool,
        out: &mut [T],
        put: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<()> {
        let outcomes: Vec<Result<()>> = out
            .par_chunks_exact_mut(self.numbers())
            .zip(index)
            // One at a time: a few large images in a row must not be one thread's alone.
            .with_max_len(1)
            .map(|(out, index)| match stop.load(Relaxed) {
                true => Err(Error::interrupted()),
                false => self.cut(*index as usize, augment).map(|cut| put(&cut, out)),
            })
            .collect();
        // The first in the list's order, not the first in time.
        outcomes.into_iter().collect()
    }

    /// `[crop, crop, 3]`.
    fn cut(&self, index: usize, augment: Option<Augment>) -> Result<Vec<u8>> {
        let item = &self.listed.list.items[index];
        let mut drawn = augment.map(|how| (how, how.stream(index)));
        let prepared = self.prepared.as_ref().map_or(Ok(None), |prepared| prepared.read(item))?;
        match prepared {
            Some(image) => {
                let cut = match &mut drawn {
                    None => self.transform.eval(&image),
                    Some((how, stream)) => self.transform.augmented(&image, stream, how.crop, how.flip),
                };
                scratch::give(image.data);
                Ok(cut)
            }
            None => {
                let bytes = self.listed.bytes(index)?;
                let cut = match &mut drawn {
                    None => self.transform.read_eval(&bytes),
                    Some((how, stream)) => self.transform.read_augmented(&bytes, stream, how.crop, how.flip),
                };
                cut.map_err(|e| self.listed.undecodable(index, &e))
            }
        }
    }
}

/// Batches made ahead of their use; dropping it stops the work.
struct Ahead<T> {
    batches: Option<Receiver<Result<T>>>,
    worker: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl<T: Send + 'static> Ahead<T> {
    fn start(
        images: Arc<OnDisk>,
        order: Vec<Vec<u32>>,
        batch: impl Fn(&OnDisk, Vec<u32>, &AtomicBool) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        let (sender, batches) = sync_channel(AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        // As many as the caller's pool has, until the process is told otherwise.
        let threads = rayon::current_num_threads();
        let work = move || make(&images, threads, order, &|index| batch(&images, index, &seen), &sender);
        let worker = std::thread::spawn(work);
        Self { batches: Some(batches), worker: Some(worker), stop }
    }
}

/// Sends every batch until one fails or nobody wants them any more.
fn make<T: Send>(
    images: &OnDisk,
    threads: usize,
    order: Vec<Vec<u32>>,
    batch: &(dyn Fn(Vec<u32>) -> Result<T> + Sync),
    sender: &SyncSender<Result<T>>,
) {
    for index in order {
        let threads = threads::wanted().unwrap_or(threads);
        let batch = images.threads.run(threads, || batch(index));
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = Result<T>;

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

impl<T> Drop for Ahead<T> {
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
    fn cuts_and_what_is_cut_out_of_prepared_images_are_the_pixels_of_batches() {
        let (folder, list) = pictures();
        let transform = Transform::imagenet(16, 8);
        let prepared = tempfile::tempdir().unwrap();
        let scale = Scale::of(&transform);
        let mut writer =
            crate::dataset::Writer::create(&prepared.path().join("0"), scale, &scale.name(&list.items), list.len())
                .unwrap();
        for item in &list.items {
            let bytes = std::fs::read(folder.path().join(&item.path)).unwrap();
            writer.push(item, scale.prepare(&bytes).unwrap().as_ref()).unwrap();
        }
        writer.finish().unwrap();
        let from_files = images(&folder, &list);
        assert!(from_files.raw().unwrap().prepared_sizes().is_none());
        let opened = Prepared::open(prepared.path()).unwrap();
        let images = Images::with_prepared(list, folder.path().to_path_buf(), transform, opened).unwrap();
        let order = vec![(0..7).collect(), vec![11, 3]];
        let raw = images.raw().unwrap();
        let (sizes, table) = (raw.prepared_sizes().unwrap(), raw.table());
        let memory: Memory = Arc::new(|size| Ok(Box::new(vec![9; size + 5])));
        for augment in [None, Some(augment(1)), Some(Augment { crop: false, ..augment(2) })] {
            let batches = from_files.batches(order.clone(), augment).map(Result::unwrap);
            for (batch, cuts) in batches.zip(raw.cuts(order.clone(), augment, memory.clone())) {
                let mut cuts = cuts.unwrap();
                assert_eq!(cuts.index, batch.index);
                let bytes = cuts.buffer.bytes().unwrap();
                for (i, pixels) in batch.pixels.chunks_exact(3 * 64).enumerate() {
                    let index = batch.index[i] as usize;
                    let (whole, cut) = (raw.prepared(index).unwrap(), raw.cut(index, sizes[index], augment));
                    assert_eq!(sizes[index], (whole.width, whole.height));
                    for (at, &value) in pixels.iter().enumerate() {
                        let (channel, y, x) = (at / 64, at % 64 / 8, at % 8);
                        let byte = bytes[((i * 8 + y) * 8 + x) * 3 + channel];
                        assert_eq!(table[channel][usize::from(byte)], value);
                        let x = if cut.mirrored { 7 - x } else { x };
                        let byte = whole.data[((cut.top + y) * whole.width + cut.left + x) * 3 + channel];
                        assert_eq!(table[channel][usize::from(byte)], value);
                    }
                }
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
