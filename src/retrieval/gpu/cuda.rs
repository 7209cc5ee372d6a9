//! The card: databases in its memory, and the launches of `scan.cu`.
//!
//! A launch is sound if its kernel stays within the slices it is given. Each takes lengths from the very slices (or from
//! the part, which was made with them), and what a kernel computes an index from (rows, stretches, limits, places) is
//! checked before. The safe twin is the CPU's code, and in tests `plain`.

#![expect(unsafe_code, reason = "launches of kernels; the module's documentation says why they are sound")]

use super::{Batch, Card, Found, LANES, Places, Ranks, STRIP, Scan, Source, Sums, digits};
use crate::device::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use crate::device::cuda::{CudaDevice, LaunchConfig, Program, PushKernelArg, WrapErr};
use crate::error::{Error, Result as Opened};
use crate::retrieval::{Labels, Refusal};
use std::ops::Range;

const SCAN: Program = Program::new("scan", &[include_str!("scan.cu")]);

// As in `scan.cu`.
const GROUP: usize = 8;
const WARP: u32 = 32;
const THREADS: u32 = 256;
const _: () = assert!(LANES == 8 && STRIP == 1024, "`scan.cu` has these numbers, too");

/// Bytes of shared memory that every GPU gives a block.
const SHARED: usize = 48 << 10;
/// Codes of a part, at most.
const LARGEST_PART: usize = 1 << 28;
/// Words that are put in columns at once.
const SLAB: usize = 1 << 22;
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
        let (free, _) = self.device.cuda_stream().context().mem_get_info().map_err(refused)?;
        // The rest is for queries, counts and answers.
        Ok((free / 4 * 3, LARGEST_PART))
    }
}

impl Card for Gpu {
    fn load(&self, source: &Source) -> Done<Box<dyn Scan>> {
        let (bytes, part) = self.limits()?;
        let (total, each) = (source.len(), bytes_per_code(source));
        let fits = total.saturating_mul(each) <= bytes;
        let part = if fits { part } else { part.min(bytes / each) };
        let part = (part / 64 * 64).max(64);
        let parts: Vec<Range<usize>> = (0..total).step_by(part).map(|start| start..total.min(start + part)).collect();
        let mut database = Database { device: self.device.clone(), parts, resident: vec![] };
        if fits {
            let resident = database.parts.iter().map(|part| database.upload(source, part.clone()));
            database.resident = resident.collect::<Done<_>>()?;
        }
        Ok(Box::new(database))
    }
}

/// Bytes that a code takes on a card, with its classes; a little more than it is.
fn bytes_per_code(source: &Source) -> usize {
    let sides = if source.is_ternary() { 2 } else { 1 };
    source.width() * 8 * sides + source.labels.map_or(0, |labels| labels.classes().div_ceil(8)) + 1
}

/// A database on a card.
#[derive(Debug)]
struct Database {
    device: CudaDevice,
    parts: Vec<Range<usize>>,
    /// All parts, or none: then each is copied whenever it is needed.
    resident: Vec<Part>,
}

/// Some codes of the database, as `scan.cu` has them.
#[derive(Debug)]
struct Part {
    codes: Range<usize>,
    width: i32,
    above: CudaSlice<u64>,
    /// If any sign of the database is zero.
    not_below: Option<CudaSlice<u64>>,
    /// If any code was removed.
    there: Option<CudaSlice<u64>>,
    labels: Option<CudaSlice<u64>>,
}

/// Queries on a card.
struct Queries {
    words: CudaSlice<u64>,
    classes: CudaSlice<u32>,
    first_class: CudaSlice<u32>,
    first_row: CudaSlice<u32>,
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
        T: DeviceRepr + crate::device::cuda::cudarc::driver::ValidAsZeroBits,
    {
        self.device.alloc_zeros(count.max(1)).map_err(refused)
    }

    fn take<T: DeviceRepr + Clone>(&self, numbers: &CudaSlice<T>, count: usize) -> Done<Vec<T>> {
        let mut taken = self.device.clone_dtoh(numbers).map_err(refused)?;
        taken.truncate(count);
        Ok(taken)
    }

    fn queries(&self, batch: &Batch) -> Done<Queries> {
        Ok(Queries {
            words: self.put(&batch.words)?,
            classes: self.put(&batch.classes)?,
            first_class: self.put(&batch.first_class)?,
            first_row: self.put(&batch.first_row)?,
        })
    }

    /// Calls `each` with every part, in database order.
    fn each_part(&self, source: &Source, mut each: impl FnMut(&Part) -> Done<()>) -> Done<()> {
        if self.resident.len() == self.parts.len() {
            return self.resident.iter().try_for_each(each);
        }
        self.parts.iter().try_for_each(|part| each(&self.upload(source, part.clone())?))
    }

    fn upload(&self, source: &Source, codes: Range<usize>) -> Done<Part> {
        let words = codes.start / 64..codes.end.div_ceil(64);
        let there = source.removed.iter().any(|&word| word != 0).then(|| {
            let there = |w| !source.removed.get(w).copied().unwrap_or(0);
            self.put(&words.clone().map(there).collect::<Vec<u64>>())
        });
        let labels = source.labels.map(|labels| {
            let mut rows = Vec::with_capacity(labels.classes() * words.len());
            (0..labels.classes()).for_each(|class| rows.extend(&labels.row(class)[words.clone()]));
            self.put(&rows)
        });
        let not_below = source.is_ternary().then(|| self.columns(source, codes.clone(), true));
        Ok(Part {
            width: source.width() as i32,
            above: self.columns(source, codes.clone(), false)?,
            not_below: not_below.transpose()?,
            there: there.transpose()?,
            labels: labels.transpose()?,
            codes,
        })
    }

    /// Signs of codes, word by word: which are above 0, or which are not below.
    fn columns(&self, source: &Source, codes: Range<usize>, with_zeros: bool) -> Done<CudaSlice<u64>> {
        let width = source.width();
        let mut columns = self.zeros::<u64>(codes.len() * width)?;
        let mut start = 0;
        for (piece, inside) in source.pieces(codes.clone()) {
            for slab in inside.clone().step_by((SLAB / width).max(1)) {
                let slab = slab..inside.end.min(slab + (SLAB / width).max(1));
                let here = slab.start * width..slab.end * width;
                let mut words = std::borrow::Cow::Borrowed(&piece.words()[here.clone()]);
                if with_zeros && piece.is_ternary() {
                    let zeros = piece.zeros().get(here).unwrap_or_default();
                    words.to_mut().iter_mut().zip(zeros).for_each(|(word, zeros)| *word |= zeros);
                }
                let first = start + slab.start - inside.start;
                if width == 1 {
                    let mut room = columns.slice_mut(first..first + slab.len());
                    self.device.memcpy_htod(&*words, &mut room).map_err(refused)?;
                } else {
                    self.turn(&words, &mut columns, width, codes.len(), first)?;
                }
            }
            start += inside.len();
        }
        Ok(columns)
    }

    /// Puts codes that lie one after the other into columns of `codes` words, from place `first` on.
    fn turn(&self, words: &[u64], columns: &mut CudaSlice<u64>, width: usize, codes: usize, first: usize) -> Done<()> {
        let count = words.len() / width;
        assert!(columns.len() >= codes * width && first + count <= codes, "a slab of the part");
        let slab = self.put(words)?;
        let kernel = SCAN.function(&self.device, "columns").map_err(refused)?;
        let (count, turned, codes, first) = (count as u64, width as i32, codes as u64, first as u64);
        let mut builder = kernel.builder();
        builder.arg(&slab).arg(columns).arg(&count).arg(&turned).arg(&codes).arg(&first);
        let grid_dim = (count.div_ceil(u64::from(THREADS)) as u32, 1, 1);
        let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // Sound: `slab` has `count * width` words, and of `columns` it writes places below `codes * width`.
        unsafe { builder.launch(config) }.w().map_err(refused)?;
        Ok(())
    }

    /// Checks that queries are of this database.
    fn check(&self, source: &Source, batch: &Batch) {
        let (width, sides) = (source.width(), if batch.is_ternary() { 2 } else { 1 });
        assert_eq!(batch.length(), width * sides, "codes of one length");
        assert_eq!(batch.words.len(), batch.len() * batch.length(), "whole queries");
        assert!(batch.is_ternary() || !source.is_ternary(), "half bits where a sign may be zero");
        assert!(batch.len() <= QUERIES, "queries of one launch");
        assert_eq!(self.parts.last().map_or(0, |part| part.end), source.len(), "the database that was loaded");
        let classes = source.labels.map_or(0, Labels::classes);
        assert!(batch.classes.iter().all(|&class| (class as usize) < classes), "classes of the database");
    }
}

impl Part {
    /// What every kernel is told of the part, after its words.
    fn numbers(&self) -> [u64; 3] {
        let codes = self.codes.len();
        [codes as u64, codes.div_ceil(64) as u64, self.codes.start as u64]
    }

    /// What a query's signs "not below 0" are compared with.
    fn second_side(&self, ternary: bool) -> Option<&CudaSlice<u64>> {
        ternary.then(|| self.not_below.as_ref().unwrap_or(&self.above))
    }

    /// The stretches it has codes of.
    fn stretches(&self, stretch: usize) -> Range<usize> {
        self.codes.start / stretch..self.codes.end.div_ceil(stretch)
    }
}

impl Scan for Database {
    fn counts(&self, source: &Source, batch: &Batch, stretch: usize) -> Done<Vec<u32>> {
        self.check(source, batch);
        let (levels, rows, stretches) = (batch.levels(), batch.rows(), source.len().div_ceil(stretch));
        let total = stretches * rows * levels;
        let mut counts = self.zeros::<u32>(total)?;
        let queries = self.queries(batch)?;
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
            let [codes, row, base] = part.numbers();
            let here = part.stretches(stretch);
            let (first_stretch, stretch, chunk) = (here.start as u64, stretch as u64, chunk as u64);
            let mut builder = kernel.builder();
            builder.arg(&part.above);
            optional!(builder, part.second_side(batch.is_ternary()));
            optional!(builder, &part.there);
            optional!(builder, &part.labels);
            builder.arg(&codes).arg(&row).arg(&base).arg(&part.width).arg(&queries.words).arg(&number);
            builder.arg(&queries.classes).arg(&queries.first_class).arg(&queries.first_row);
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
            let [codes, row, base] = part.numbers();
            let here = part.stretches(asked.stretch);
            let (first_stretch, stretch) = (here.start as u64, asked.stretch as u64);
            let mut builder = kernel.builder();
            builder.arg(&part.above);
            optional!(builder, part.second_side(batch.is_ternary()));
            optional!(builder, &part.there);
            optional!(builder, &part.labels);
            builder.arg(&codes).arg(&row).arg(&base).arg(&part.width).arg(&queries.words).arg(&number);
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
                let [codes, row, base] = part.numbers();
                let mut builder = kernel.builder();
                builder.arg(&part.above);
                optional!(builder, part.second_side(batch.is_ternary()));
                optional!(builder, &part.labels);
                builder.arg(&codes).arg(&row).arg(&base).arg(&part.width).arg(&queries.words);
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
            let count = part.codes.len() * source.width();
            let chunk = (count * groups / BLOCKS).next_power_of_two().clamp(1 << 11, 1 << 16);
            let grid_dim = (count.div_ceil(chunk) as u32, groups as u32, 1);
            let (count, chunk) = (count as u64, chunk as u64);
            let mut builder = kernel.builder();
            builder
                .arg(&part.above)
                .arg(&count)
                .arg(&chunk)
                .arg(&queries.words)
                .arg(&number)
                .arg(&length)
                .arg(&mut sum);
            let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
            // Sound: `above` has `count` words, and each query `length`.
            unsafe { builder.launch(config) }.w().map_err(refused)?;
            Ok(())
        })?;
        Ok(self.take(&sum, 1)?.pop().unwrap_or(0))
    }
}
