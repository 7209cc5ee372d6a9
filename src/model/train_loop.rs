//! The training: epochs of shuffled batches, a checkpoint after each, and the same bytes in the end however often it
//! was stopped.

use super::checkpoint::{self, Progress, Saved, named};
use super::feed::{Feeds, Given};
use super::finished::{self, Shorter};
use super::later::Later;
use super::loss::Sizes;
use super::net::HashModel;
use super::parameters::Init;
use super::recipe::Recipe;
use super::record::{Record, Tick};
use super::selection::{self, Best, Selected, Selection};
use super::team::{Now, Team, seed_of};
use super::tensor_file::TensorFile;
use super::weights::load_pretrained;
use crate::dataset::{Augment, Examples};
use crate::error::{Error, Kind, Result};
use crate::kernel::not_finite;
use crate::seeded;
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What a training reads and writes beside its images.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Weights to start from.
    pub pretrained: Option<&'a Path>,
    /// Digests of the list and of whatever else decides the result beside the recipe.
    pub given: &'a [String],
    /// Folder of checkpoints, of this training alone.
    pub scratch: &'a Path,
    /// Goes on from here if there is no checkpoint.
    pub shorter: Option<&'a Shorter>,
}

/// A finished training.
pub struct Trained {
    pub model: HashModel,
    pub records: Vec<Record>,
    /// Tensors of the pretrained file that the backbone has no place for; empty after a resume.
    pub unused: Vec<String>,
    /// How many epochs a shorter training had done.
    pub extended: usize,
    /// Why the shorter training that was offered could not be used.
    pub refused: Option<Error>,
    /// The epoch whose weights these are, if it was chosen; otherwise they are the last one's.
    pub selected: Option<Selected>,
    name: String,
    memory: Vec<(String, Tensor)>,
}

impl Trained {
    /// Writes what a longer training needs beside the model.
    pub fn save_state(&self, path: &Path) -> anyhow::Result<()> {
        let records = self.records.iter().map(Record::without_times);
        finished::write(path, &Progress::new(self.name.clone(), records.collect()), &self.memory)
    }
}

/// Is told of every step; an error stops the training, to be resumed from the last finished epoch.
pub type Watch<'a> = dyn FnMut(&Tick) -> anyhow::Result<()> + 'a;

/// Trains a network on one device, or goes on from the newest checkpoint or from a shorter training, whichever there is.
pub fn train(
    recipe: &Recipe,
    examples: &dyn Examples,
    files: &Files,
    device: &Device,
    watch: &mut Watch,
) -> anyhow::Result<Trained> {
    train_selecting(recipe, examples, files, std::slice::from_ref(device), watch, None)
}

/// The same on several devices, and with the weights of the epoch that a measure finds best, if there is one.
///
/// A training that was stopped may go on with another number of devices.
///
/// What decides the measure must be among the `given` digests. A training with a measure cannot be made longer: its
/// weights are not where it stopped.
pub fn train_selecting(
    recipe: &Recipe,
    examples: &dyn Examples,
    files: &Files,
    devices: &[Device],
    watch: &mut Watch,
    mut selection: Option<&mut Selection>,
) -> anyhow::Result<Trained> {
    recipe.check(examples)?;
    let name = recipe.name(examples, files.given)?;
    let data = Data { recipe, examples, devices, name: &name, scratch: files.scratch };
    let mut training = Training::start(data, files)?;
    while training.records.len() < recipe.epochs {
        training.epoch(watch)?;
        if let Some(selection) = &mut selection {
            training.measure(selection)?;
        }
        training.save()?;
    }
    let memory = training.team.state()?;
    let selected = Selected::of(&training.records);
    if selected.is_some() {
        selection::restore(training.team.model(), &training.best)?;
    }
    let Training { team, records, unused, extended, refused, .. } = training;
    let model = team.into_model();
    Ok(Trained { model, records, unused, extended, refused, selected, name, memory })
}

/// What a training is given.
#[derive(Clone, Copy)]
struct Data<'a> {
    recipe: &'a Recipe,
    examples: &'a dyn Examples,
    devices: &'a [Device],
    name: &'a str,
    scratch: &'a Path,
}

impl Data<'_> {
    fn steps(&self) -> usize {
        self.examples.len().div_ceil(self.recipe.batch)
    }

    /// Those of the devices that are used.
    fn used(&self) -> Result<&[Device]> {
        Ok(&self.devices[..self.recipe.devices(self.devices.len())?])
    }

    /// Where the weights are first; the others get copies.
    fn device(&self) -> Result<&Device> {
        self.devices.first().ok_or_else(|| Error::resources("a training needs a device"))
    }
}

/// A training between two steps.
struct Training<'a> {
    data: Data<'a>,
    team: Team,
    feeds: Arc<Feeds<'a>>,
    /// Whether an epoch was done here, so that it is known what the work takes of a GPU's memory.
    was_seen: bool,
    /// One per finished epoch.
    records: Vec<Record>,
    checkpoint: Option<PathBuf>,
    /// Weights of the best epoch that was measured; none before that.
    best: Best,
    unused: Vec<String>,
    extended: usize,
    refused: Option<Error>,
}

/// What holds for all steps of one epoch.
struct Epoch {
    number: usize,
    factor: f64,
    lr: f64,
    scale: f64,
    began: Instant,
}

/// A step that was taken, and whose losses, one per rank, were not read yet.
#[derive(Clone, Copy)]
struct Taken {
    /// From 0, of its epoch.
    step: usize,
    images: usize,
}

/// Losses in the order of steps, and of the ranks in each.
type Unread = Later<Taken, f32>;

/// What was read of an epoch's steps.
#[derive(Default)]
struct Tally {
    images: usize,
    /// Of the losses of all images.
    total: f64,
}

impl<'a> Training<'a> {
    /// From a checkpoint, or else from a shorter training, or else from nothing.
    fn start(data: Data<'a>, files: &Files) -> anyhow::Result<Self> {
        if let Some(saved) = checkpoint::newest(data.scratch, data.name, data.recipe.epochs)? {
            return Self::resume(data, saved);
        }
        let Some(shorter) = files.shorter else { return Self::from_nothing(data, files.pretrained) };
        let extended = finished::read(shorter, data.name, data.recipe.epochs).map_err(Into::into).and_then(|saved| {
            let training = Self::resume(data, saved)?;
            Ok(Self { extended: training.records.len(), ..training })
        });
        extended.or_else(|error: anyhow::Error| {
            let refused = error.downcast().unwrap_or_else(|error| Error::data(error.to_string()));
            Ok(Self { refused: Some(refused), ..Self::from_nothing(data, files.pretrained)? })
        })
    }

    fn from_nothing(data: Data<'a>, pretrained: Option<&Path>) -> anyhow::Result<Self> {
        let Data { recipe, examples, .. } = data;
        let model = HashModel::seeded(&recipe.backbone, recipe.bits, examples.side(), recipe.seed, data.device()?)?;
        let unused = pretrained.map_or(Ok(vec![]), |path| load_pretrained(&model, path))?;
        Ok(Self { unused, ..Self::with_model(data, model)? })
    }

    fn resume(data: Data<'a>, saved: Saved) -> anyhow::Result<Self> {
        let Data { recipe, examples, .. } = data;
        let mut source = |name: &str, _: &[usize], _: Init| saved.weight(name);
        let model = HashModel::build(&recipe.backbone, recipe.bits, examples.side(), data.device()?, &mut source)?;
        let mut training = Self::with_model(data, model)?;
        training.team.load_state(|prefix| state_of(&saved.state, prefix))?;
        let best = selection::read(&saved.state)?;
        Ok(Self { records: saved.progress.records, checkpoint: saved.checkpoint, best, ..training })
    }

    fn with_model(data: Data<'a>, model: HashModel) -> anyhow::Result<Self> {
        let Data { recipe, examples, .. } = data;
        let sizes = Sizes { images: examples.len(), classes: examples.classes(), bits: recipe.bits };
        let team = Team::new(recipe, sizes, model, data.devices)?;
        // Last, so that images take no room that weights and momentum need.
        let feeds = Arc::new(Feeds::open(examples, data.used()?, false)?);
        let (records, checkpoint, best, unused, refused) = (vec![], None, vec![], vec![], None);
        Ok(Self { data, team, feeds, was_seen: false, records, checkpoint, best, unused, extended: 0, refused })
    }

    /// One pass over the images, in an order and with an augmentation that the seed and the epoch decide.
    fn epoch(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        if self.was_seen && self.feeds.wait_for_the_work() {
            self.feeds = Arc::new(Feeds::open(self.data.examples, self.data.used()?, true)?);
        }
        let epoch = self.begin();
        let (mut unread, mut tally) = (Unread::new(), Tally::default());
        let feeds = Arc::clone(&self.feeds);
        let mut batches = self.batches(&feeds, epoch.number)?;
        for step in 0..self.data.steps() {
            let next = batches.iter_mut().map(|batches| batches.next().unwrap_or_else(|| Err(too_few(step))));
            self.step(&epoch, step, next.collect::<Result<_>>()?, &mut unread)?;
            while unread.len() > self.unread_steps() * self.team.ranks() {
                self.read(&epoch, &mut unread, &mut tally, watch)?;
            }
        }
        while unread.len() > 0 {
            self.read(&epoch, &mut unread, &mut tally, watch)?;
        }
        self.check_finite(&epoch)?;
        self.team.check_alike()?;
        let (&Epoch { number, lr, scale, .. }, images) = (&epoch, tally.images);
        let (seconds, images_per_second) = (epoch.began.elapsed().as_secs_f64(), epoch.rate(images));
        let (loss, selection) = (tally.total / images.max(1) as f64, None);
        self.was_seen = true;
        self.records.push(Record { epoch: number, loss, lr, scale, images, selection, seconds, images_per_second });
        Ok(())
    }

    fn begin(&self) -> Epoch {
        let recipe = self.data.recipe;
        let number = self.records.len() + 1;
        let factor = recipe.schedule.builder().factor(number) * recipe.data_parallel.builder().rate(recipe.batch);
        let lr = recipe.optimizer.builder().lr() * factor;
        Epoch { number, factor, lr, scale: self.team.scale(number), began: Instant::now() }
    }

    /// How many steps may be taken before the loss of the first of them is read: a GPU must find its next step waiting.
    fn unread_steps(&self) -> usize {
        const AHEAD: usize = 3;
        if self.data.devices.iter().all(Device::is_cpu) { 0 } else { AHEAD }
    }

    /// Forward, loss, backward and update, of a batch for each rank.
    fn step(&mut self, epoch: &Epoch, step: usize, batches: Vec<Given>, unread: &mut Unread) -> anyhow::Result<()> {
        let from_start = ((epoch.number - 1) * self.data.steps() + step) as u64;
        let now = Now { step: from_start, epoch: epoch.number, factor: epoch.factor };
        let images = batches.iter().map(|batch| batch.index.len()).sum();
        for loss in self.team.step(self.data.examples, batches, now)? {
            unread.numbers(Taken { step, images }, &loss)?;
        }
        Ok(())
    }

    /// Reads the loss of the oldest unread step, which is the mean of its ranks', and tells it.
    fn read(&self, epoch: &Epoch, unread: &mut Unread, tally: &mut Tally, watch: &mut Watch) -> anyhow::Result<()> {
        let mut oldest = Taken { step: 0, images: 0 };
        let mut loss = 0.0;
        for _ in 0..self.team.ranks() {
            let Some((taken, value)) = unread.wait()? else { anyhow::bail!("a step without a loss") };
            oldest = taken;
            loss += value.first().map_or(f64::NAN, |&value| f64::from(value));
        }
        let Taken { step, images } = oldest;
        loss /= self.team.ranks() as f64;
        if !loss.is_finite() {
            let place = format!("step {} of {}", step + 1, self.data.steps());
            return Err(self.diverged(&format!("the loss became {loss}"), epoch, &place).into());
        }
        tally.images += images;
        tally.total += loss * images as f64;
        watch(&Tick {
            epoch: epoch.number,
            epochs: self.data.recipe.epochs,
            step: step + 1,
            steps: self.data.steps(),
            loss,
            lr: epoch.lr,
            scale: epoch.scale,
            images_per_second: epoch.rate(tally.images),
        })
    }

    /// Measures the network after its last epoch if that is due, and keeps its weights if it is the best so far.
    fn measure(&mut self, selection: &mut Selection) -> anyhow::Result<()> {
        let best = Selected::of(&self.records).map(|best| best.value);
        let Some(last) = self.records.last_mut().filter(|last| selection.is_due(last.epoch, self.data.recipe.epochs))
        else {
            return Ok(());
        };
        let value = (selection.measure)(self.team.model())?;
        last.selection = Some(value);
        if best.is_none_or(|best| value > best) {
            self.best = selection::copy(self.team.model())?;
        }
        Ok(())
    }

    /// For each rank all images, shuffled and varied by its seed, in batches.
    fn batches<'f>(&self, feeds: &'f Feeds, epoch: usize) -> anyhow::Result<Vec<Batches<'f>>> {
        let Data { recipe: &Recipe { seed, crop, flip, batch, .. }, examples, .. } = self.data;
        let of_rank = |rank| {
            let seed = seed_of(seed, rank);
            let mut order: Vec<u32> = (0..u32::try_from(examples.len())?).collect();
            seeded::stream(seed, "shuffle", &[epoch as u64]).shuffle(&mut order);
            let order = order.chunks(batch).map(<[u32]>::to_vec).collect();
            let augment = (crop || flip).then_some(Augment { seed, epoch: epoch as u64, crop, flip });
            Ok(feeds.batches(order, augment, self.team.devices_of(rank)))
        };
        (0..self.team.ranks()).map(of_rank).collect()
    }

    /// The last update of an epoch can spoil weights that no loss has seen yet: they must not reach a checkpoint.
    fn check_finite(&self, epoch: &Epoch) -> anyhow::Result<()> {
        let parameters = self.team.model().parameters();
        let wrong = not_finite(&parameters.iter().map(|(_, var)| var.as_tensor()).collect::<Vec<_>>())?;
        match parameters.iter().zip(wrong).find(|(_, wrong)| *wrong) {
            None => Ok(()),
            Some(((name, _), _)) => {
                Err(self.diverged(&format!("`{name}` became NaN or infinite"), epoch, "the last step").into())
            }
        }
    }

    fn diverged(&self, what: &str, epoch: &Epoch, place: &str) -> Error {
        let Epoch { number, lr, .. } = *epoch;
        let last = match &self.checkpoint {
            Some(path) => format!("the last good checkpoint is of epoch {}: `{}`", self.records.len(), path.display()),
            None => "there is no checkpoint yet".to_string(),
        };
        Error::new(Kind::Stage, format!("the training diverged: {what}"))
            .note(format!("in epoch {number}, {place}, at a learning rate of {lr}"))
            .note(last)
            .hint(format!(
                "lower the optimizer's `lr`, for example to {}",
                self.data.recipe.optimizer.builder().lr() / 10.0
            ))
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let parameters = self.team.model().parameters();
        let weights = parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()));
        let (weights, best) = (named("model.", weights.collect()), named("best.", self.best.clone()));
        let tensors = [weights, best, self.team.state()?].concat();
        let progress = Progress::new(self.data.name.to_string(), self.records.clone());
        self.checkpoint = Some(checkpoint::save(self.data.scratch, &progress, &tensors)?);
        Ok(())
    }
}

impl Epoch {
    /// Images per second, of so many since it began.
    fn rate(&self, images: usize) -> f64 {
        images as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }
}

type Batches<'a> = Box<dyn Iterator<Item = Result<Given>> + 'a>;

/// A reader of images that ended before it gave all of them.
fn too_few(batches: usize) -> Error {
    Error::data(format!("the images of an epoch ended after {batches} batches"))
        .hint("this is a fault of hashpipe: please report it")
}

/// The tensors of one part of a checkpoint, without the part's prefix.
fn state_of(file: &TensorFile, prefix: &str) -> Result<Vec<(String, Tensor)>> {
    let of_part = |name: String| Some((name.strip_prefix(prefix)?.to_string(), name));
    file.names().into_iter().filter_map(of_part).map(|(short, name)| Ok((short, file.read_tensor(&name)?))).collect()
}

#[cfg(test)]
pub(super) mod tests;
