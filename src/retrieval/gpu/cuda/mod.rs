//! The card: databases in its memory, and the launches of `scan.cu`.
//!
//! A launch is sound if its kernel stays within the slices it is given. Each takes lengths from the very slices (or from
//! the part, which was made with them), and what a kernel computes an index from (rows, stretches, limits, places) is
//! checked before. The safe twin is the CPU's code, and in tests `plain`.

#![expect(unsafe_code, reason = "launches of kernels; the module's documentation says why they are sound")]

mod ferry;

use super::layout::Cut;
use super::{Asking, Batch, Card, Found, LANES, Places, Ranks, STRIP, Scan, Source, Sums, digits};
use crate::device::cuda::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use crate::device::cuda::{CudaDevice, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::device::pinned::Turn;
use crate::error::{Error, Result as Opened};
use crate::retrieval::{Labels, Refusal};
use ferry::{Ferry, Part};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

const SCAN: Program = Program::new("scan", &[include_str!("../scan.cu")]);

// As in `scan.cu`.
const GROUP: usize = 8;
const WARP: u32 = 32;
const THREADS: u32 = 256;
const _: () = assert!(LANES == 8 && STRIP == 1024, "`scan.cu` has these numbers, too");

/// Bytes of shared memory that every GPU gives a block.
const SHARED: usize = 48 << 10;
/// Codes of a part, at most, and at least, though there may be no room for so many: fewer would take too long.
const LARGEST_PART: usize = 1 << 28;
const LEAST_PART: usize = 1 << 16;
/// Bytes of a part that does not stay, at most: enough to keep bus and card busy.
const TRAVELLING: usize = 1 << 30;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 1 << 12;
/// Cuts whose sums a warp keeps.
const CUTS: usize = 16;
/// Queries of a launch: so many blocks a grid may be high.
const QUERIES: usize = u16::MAX as usize;

type Done<T> = Result<T, Refusal>;

/// The words of the driver, for a person.
fn refused(error: impl std::fmt::Display) -> Refusal {
    Refusal::Gpu(error.to_string().lines().next().unwrap_or_default().to_string())
}

/// A GPU that databases can be put on.
#[derive(Debug)]
pub(super) struct Gpu {
    device: CudaDevice,
    /// Bytes for a database, and codes of a part; for tests.
    limits: Option<(usize, usize)>,
}

impl Gpu {
    /// The GPU in a slot.
    ///
    /// # Errors
    /// Those of [`device::open`](crate::device::open).
    pub(super) fn open(slot: usize) -> Opened<Self> {
        let device = crate::device::open(Some(slot))?;
        let device = device.as_cuda_device().map_err(|e| Error::resources(e.to_string()))?.clone();
        Ok(Self { device, limits: None })
    }

    /// The same with so many bytes for a database, in parts of at most so many codes.
    #[cfg(test)]
    pub(super) fn limited(self, bytes: usize, part: usize) -> Self {
        Self { limits: Some((bytes, part)), ..self }
    }

    /// Bytes for a database, and codes of a part, at most.
    fn limits(&self) -> Done<(usize, usize)> {
        if let Some(limits) = self.limits {
            return Ok(limits);
        }
        let left = crate::device::cuda::room(&self.device).map_err(refused)?.left();
        // The rest is for queries, counts and answers.
        Ok((usize::try_from(left / 4 * 3).unwrap_or(usize::MAX), LARGEST_PART))
    }
}

impl Card for Gpu {
    fn load(&self, source: &Source) -> Done<Box<dyn Scan>> {
        let (bytes, part) = self.limits()?;
        let codes = [source.len(), source.bytes_per_code()];
        let Cut { parts, resident } = Cut::new(codes, bytes, [LEAST_PART.min(part), part], TRAVELLING);
        let mut ferry = Ferry::new(&self.device)?;
        let kept = parts[..resident].iter().map(|part| ferry.keep(source, part.clone())).collect::<Done<Vec<_>>>()?;
        Ok(Box::new(Database {
            device: self.device.clone(),
            len: source.len(),
            kept,
            travelling: parts[resident..].to_vec(),
            ferries: Mutex::new(vec![ferry]),
            asking: Mutex::default(),
        }))
    }
}

/// A database on a card.
#[derive(Debug)]
struct Database {
    device: CudaDevice,
    /// Codes.
    len: usize,
    /// The first parts, or all.
    kept: Vec<Part>,
    /// The others, which are brought whenever they are needed.
    travelling: Vec<Range<usize>>,
    /// What brings them, while nobody uses it: one, unless several threads ask at once.
    ferries: Mutex<Vec<Ferry>>,
    /// Queries that somebody still has, and where they lie.
    asking: Mutex<Vec<(Weak<Asking>, Arc<Queries>)>>,
}

/// Queries on a card.
#[derive(Debug)]
struct Queries {
    words: CudaSlice<u64>,
    classes: CudaSlice<u32>,
    first_class: CudaSlice<u32>,
}

static NULL: u64 = 0;

/// Adds a slice, or a null pointer.
macro_rules! optional {
    ($builder:ident, $slice:expr) => {
        match $slice {
            Some(slice) => $builder.arg(slice),
            None => $builder.arg(&NULL),
        }
    };
}

impl Database {
    /// Copies to the card; at least one number, which no kernel reads.
    fn put<T: DeviceRepr + Default + Clone + 'static>(&self, numbers: &[T]) -> Done<CudaSlice<T>> {
        let nothing = [T::default()];
        self.device.clone_htod(if numbers.is_empty() { &nothing[..] } else { numbers }).map_err(refused)
    }

    fn zeros<T>(&self, count: usize) -> Done<CudaSlice<T>>
    where
        T: DeviceRepr + ValidAsZeroBits,
    {
        self.device.alloc_zeros(count.max(1)).map_err(refused)
    }

    fn take<T: DeviceRepr + Clone>(&self, numbers: &CudaSlice<T>, count: usize) -> Done<Vec<T>> {
        let mut taken = self.device.clone_dtoh(numbers).map_err(refused)?;
        taken.truncate(count);
        Ok(taken)
    }

    /// The queries on the card. They are put there once, and stay as long as whoever asks keeps them.
    fn queries(&self, batch: &Batch) -> Done<Arc<Queries>> {
        let mut asking = locked(&self.asking);
        asking.retain(|(queries, _)| queries.strong_count() > 0);
        let this = Arc::downgrade(&batch.asking);
        if let Some((_, there)) = asking.iter().find(|(queries, _)| queries.ptr_eq(&this)) {
            return Ok(there.clone());
        }
        let Asking { words, classes, first_class } = &*batch.asking;
        let (words, classes, first_class) = (self.put(words)?, self.put(classes)?, self.put(first_class)?);
        let there = Arc::new(Queries { words, classes, first_class });
        asking.push((this, there.clone()));
        Ok(there)
    }

    /// Calls `each` with every part, in database order; it asks for the work on it and does not wait.
    fn each_part(&self, source: &Source, mut each: impl FnMut(&Part) -> Done<()>) -> Done<()> {
        self.kept.iter().try_for_each(&mut each)?;
        if self.travelling.is_empty() {
            return Ok(());
        }
        // Not locked meanwhile: a thread that makes a part may take up other work, which may ask about this database.
        let free = locked(&self.ferries).pop();
        let mut ferry = free.map_or_else(|| Ferry::new(&self.device), Ok)?;
        for part in &self.travelling {
            each(ferry.bring(source, part.clone())?)?;
            ferry.done()?;
        }
        locked(&self.ferries).push(ferry);
        Ok(())
    }

    /// Checks that queries are of this database.
    fn check(&self, source: &Source, batch: &Batch) {
        let (width, sides) = (source.width(), if batch.is_ternary() { 2 } else { 1 });
        assert_eq!(batch.length(), width * sides, "codes of one length");
        assert_eq!(batch.asking.words.len(), batch.len() * batch.length(), "whole queries");
        assert!(batch.is_ternary() || !source.is_ternary(), "half bits where a sign may be zero");
        assert!(batch.len() <= QUERIES, "queries of one launch");
        assert_eq!(self.len, source.len(), "the database that was loaded");
        let classes = source.labels.map_or(0, Labels::classes);
        assert!(batch.asking.classes.iter().all(|&class| (class as usize) < classes), "classes of the database");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Memory that cannot be given back now is when the process ends.
        let _turn = Turn::of(&self.device);
        self.kept.clear();
        self.ferries.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        self.asking.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scan for Database {
    fn counts(&self, source: &Source, batch: &Batch, stretch: usize) -> Done<Vec<u32>> {
        self.check(source, batch);
        let (levels, rows, stretches) = (batch.levels(), batch.rows(), source.len().div_ceil(stretch));
        let total = stretches * rows * levels;
        let mut counts = self.zeros::<u32>(total)?;
        let (queries, first_row) = (self.queries(batch)?, self.put(&batch.first_row)?);
        let kernel = SCAN.function(&self.device, "count").map_err(refused)?;

        // As many queries together as have their counters in shared memory.
        let words = GROUP * batch.length() * 8;
        let counters = |group: usize| {
            let ends = (0..batch.len()).step_by(group).map(|first| (first, batch.len().min(first + group)));
            let most =
                ends.map(|(first, end)| batch.rows_of(end - 1).end - batch.rows_of(first).start).max().unwrap_or(0);
            words + most * levels * 4
        };
        let fitting = [8, 4, 2, 1].into_iter().find(|&group| counters(group) <= SHARED);
        let (group, shared) = fitting.map_or((GROUP, words), |group| (group, counters(group)));
        let groups = batch.len().div_ceil(group);
        let chunk = (source.len() * groups / BLOCKS).next_power_of_two().clamp(1 << 11, 1 << 16).min(stretch);

        let (in_shared, group, levels) = (u32::from(fitting.is_some()), group as u32, levels as u32);
        let number = batch.len() as u32;
        self.each_part(source, |part| {
            let ([codes, row, base], width) = (part.numbers(), part.width());
            let (above, second) = (part.above(), part.second_side(batch.is_ternary()));
            let (there, labels) = (part.there(), part.labels());
            let here = part.stretches(stretch);
            let (first_stretch, stretch, chunk) = (here.start as u64, stretch as u64, chunk as u64);
            let mut builder = kernel.builder();
            builder.arg(&above);
            optional!(builder, &second);
            optional!(builder, &there);
            optional!(builder, &labels);
            builder.arg(&codes).arg(&row).arg(&base).arg(&width).arg(&queries.words).arg(&number);
            builder.arg(&queries.classes).arg(&queries.first_class).arg(&first_row);
            builder.arg(&levels).arg(&group).arg(&in_shared).arg(&stretch).arg(&chunk).arg(&first_stretch);
            builder.arg(&mut counts);
            let grid_dim = (here.len() as u32 * stretch.div_ceil(chunk) as u32, groups as u32, 1);
            let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: shared as u32 };
            // Sound: distances are below `levels`, grades below a query's rows, and the part's stretches below `stretches`,
            // so every counter is in `counts`; those of a group are in `shared` if `in_shared` is set.
            unsafe { builder.launch(config) }.w().map_err(refused)?;
            Ok(())
        })?;
        self.take(&counts, total)
    }

    fn places(&self, source: &Source, batch: &Batch, asked: &Places) -> Done<Found> {
        self.check(source, batch);
        let (levels, stretches) = (batch.levels(), source.len().div_ceil(asked.stretch));
        let slots = if asked.by_distance { levels } else { 1 };
        assert_eq!(asked.next.len(), stretches * batch.len() * slots, "a place for each stretch and query");
        assert_eq!((asked.limits.len(), asked.first.len()), (batch.len(), batch.len() + 1), "limits and places of all");
        assert!(asked.first.is_sorted() && asked.limits.iter().all(|&limit| (limit as usize) < levels), "limits");
        assert!(!asked.keys || source.labels.is_some(), "classes to be relevant by");
        let total = asked.first[batch.len()] as usize;
        let mut at = self.zeros::<u32>(total)?;
        let mut keys = asked.keys.then(|| self.zeros::<u16>(total)).transpose()?;
        let mut next = self.put(&asked.next)?;
        let (limits, first) = (self.put(&asked.limits)?, self.put(&asked.first)?);
        let queries = self.queries(batch)?;
        let kernel = SCAN.function(&self.device, "place").map_err(refused)?;
        let shared = batch.length() * 8 + slots * 4;
        let (digits, levels, number) =
            (if asked.by_distance { digits(levels) } else { 0 }, levels as u32, batch.len() as u32);
        self.each_part(source, |part| {
            let ([codes, row, base], width) = (part.numbers(), part.width());
            let (above, second) = (part.above(), part.second_side(batch.is_ternary()));
            let (there, labels) = (part.there(), part.labels());
            let here = part.stretches(asked.stretch);
            let (first_stretch, stretch) = (here.start as u64, asked.stretch as u64);
            let mut builder = kernel.builder();
            builder.arg(&above);
            optional!(builder, &second);
            optional!(builder, &there);
            optional!(builder, &labels);
            builder.arg(&codes).arg(&row).arg(&base).arg(&width).arg(&queries.words).arg(&number);
            builder.arg(&queries.classes).arg(&queries.first_class).arg(&levels).arg(&digits);
            builder.arg(&stretch).arg(&first_stretch).arg(&limits).arg(&mut next).arg(&first).arg(&mut at);
            optional!(builder, &mut keys);
            let grid_dim = (here.len() as u32, batch.len() as u32, 1);
            let config = LaunchConfig { grid_dim, block_dim: (WARP, 1, 1), shared_mem_bytes: shared as u32 };
            // Sound: limits are below `levels`, stretches below those of `next`, and a place that is not below the end of
            // the query's is not written; the last end is the length of `at` and `keys`.
            unsafe { builder.launch(config) }.w().map_err(refused)?;
            Ok(())
        })?;
        let keys = keys.map_or(Ok(vec![]), |keys| self.take(&keys, total))?;
        Ok(Found { at: self.take(&at, total)?, keys })
    }

    fn ranks(&self, source: &Source, batch: &Batch, asked: &Ranks) -> Done<Sums> {
        self.check(source, batch);
        assert!(source.removed.iter().all(|&word| word == 0), "all codes are there");
        let (number, levels) = (batch.len(), batch.levels());
        assert_eq!(asked.next.len(), number * levels, "codes before each distance");
        assert_eq!((asked.reads.len(), asked.cuts.len()), (number, number * asked.cut_count), "reads and cuts of all");
        assert!(asked.reads.iter().all(|&read| read as usize <= levels), "distances that there are");
        assert_eq!((asked.first_gone.len(), asked.first_gone[number] as usize), (number + 1, asked.gone.len()), "gone");
        assert!(asked.first_gone.is_sorted(), "gone, query by query");
        assert!(asked.gone.iter().all(|&gone| (gone as usize) < source.len()), "codes that are gone");
        let slots = asked.cut_count * LANES;
        let mut all = Sums { sums: vec![0.0; number * slots], hits: vec![0; number * slots], first: vec![] };
        let queries = self.queries(batch)?;
        let (reads, gone, first_gone) = (self.put(&asked.reads)?, self.put(&asked.gone)?, self.put(&asked.first_gone)?);
        let kernel = SCAN.function(&self.device, "rank").map_err(refused)?;
        // A warp keeps the sums of some cuts; where there are more, it walks again.
        for from in (0..asked.cut_count.max(1)).step_by(CUTS) {
            let here = from..asked.cut_count.min(from + CUTS);
            let cuts: Vec<u32> =
                (0..number).flat_map(|query| &asked.cuts[query * asked.cut_count..][here.clone()]).copied().collect();
            let cuts = self.put(&cuts)?;
            let slots = here.len() * LANES;
            let (mut sums, mut hits) = (self.zeros::<f64>(number * slots)?, self.zeros::<u32>(number * slots)?);
            let (mut next, mut first) = (self.put(&asked.next)?, self.put(&vec![u32::MAX; number])?);
            let mut in_strip = self.zeros::<u32>(number)?;
            let warp = WARP as usize;
            let shared = 8 * (batch.length() + levels + warp + slots) + 4 * (warp + slots + here.len());
            let (digits, levels, cut_count) = (digits(levels), levels as u32, here.len() as u32);
            self.each_part(source, |part| {
                let ([codes, row, base], width) = (part.numbers(), part.width());
                let (above, second, labels) = (part.above(), part.second_side(batch.is_ternary()), part.labels());
                let mut builder = kernel.builder();
                builder.arg(&above);
                optional!(builder, &second);
                optional!(builder, &labels);
                builder.arg(&codes).arg(&row).arg(&base).arg(&width).arg(&queries.words);
                builder.arg(&queries.classes).arg(&queries.first_class).arg(&levels).arg(&digits).arg(&reads);
                builder.arg(&gone).arg(&first_gone).arg(&cuts).arg(&cut_count).arg(&mut next);
                builder.arg(&mut sums).arg(&mut hits).arg(&mut first).arg(&mut in_strip);
                let config = LaunchConfig {
                    grid_dim: (number as u32, 1, 1),
                    block_dim: (WARP, 1, 1),
                    shared_mem_bytes: shared as u32,
                };
                // Sound: everything has a row for each query, distances are below `levels`, and codes that are gone are
                // of the database, so that places of those that are left are of the part.
                unsafe { builder.launch(config) }.w().map_err(refused)?;
                Ok(())
            })?;
            let (sums, hits) = (self.take(&sums, number * slots)?, self.take(&hits, number * slots)?);
            for query in 0..number {
                let to = (query * asked.cut_count + from) * LANES;
                all.sums[to..to + slots].copy_from_slice(&sums[query * slots..][..slots]);
                all.hits[to..to + slots].copy_from_slice(&hits[query * slots..][..slots]);
            }
            all.first = self.take(&first, number)?;
        }
        Ok(all)
    }

    fn total(&self, source: &Source, batch: &Batch) -> Done<u64> {
        self.check(source, batch);
        let queries = self.queries(batch)?;
        let kernel = SCAN.function(&self.device, "total").map_err(refused)?;
        let mut sum = self.zeros::<u64>(1)?;
        let groups = batch.len().div_ceil(GROUP);
        let (number, length) = (batch.len() as u32, batch.length() as i32);
        self.each_part(source, |part| {
            let above = part.above();
            let count = above.len();
            let chunk = (count * groups / BLOCKS).next_power_of_two().clamp(1 << 11, 1 << 16);
            let grid_dim = (count.div_ceil(chunk) as u32, groups as u32, 1);
            let (count, chunk) = (count as u64, chunk as u64);
            let mut builder = kernel.builder();
            builder.arg(&above).arg(&count).arg(&chunk).arg(&queries.words).arg(&number).arg(&length).arg(&mut sum);
            let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
            // Sound: `above` has `count` words, and each query `length`.
            unsafe { builder.launch(config) }.w().map_err(refused)?;
            Ok(())
        })?;
        Ok(self.take(&sum, 1)?.pop().unwrap_or(0))
    }
}
