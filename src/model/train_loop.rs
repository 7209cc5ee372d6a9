//! The training: epochs of shuffled batches, a checkpoint after each, and the same bytes in the end however often it
//! was stopped.

use super::backbone::BackboneSpec;
use super::checkpoint::{self, Progress};
use super::loss::{Loss, LossSpec, Sizes, Step};
use super::net::{HashModel, Mode};
use super::optim::{Optimizer, OptimizerSpec};
use super::parameters::Init;
use super::schedule::ScheduleSpec;
use super::tensor_file::TensorFile;
use super::weights::load_pretrained;
use crate::dataset::{Augment, Batch, Examples};
use crate::error::{Error, Kind, Result};
use crate::kernel::host;
use crate::seeded;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything about a training but its data and first weights.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// Length of the codes.
    pub bits: usize,
    pub epochs: usize,
    /// Images per step; the last step of an epoch takes what is left.
    pub batch: usize,
    pub seed: u64,
    pub backbone: BackboneSpec,
    pub loss: LossSpec,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    /// Crop at random places.
    pub crop: bool,
    /// Mirror half of the images.
    pub flip: bool,
}

/// How far a training is; sent after every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    pub epoch: usize,
    pub epochs: usize,
    /// Steps done of this epoch.
    pub step: usize,
    pub steps: usize,
    /// Of this step's batch.
    pub loss: f64,
    pub lr: f64,
    pub scale: f64,
    /// Since the epoch began.
    pub images_per_second: f64,
}

/// What is remembered of an epoch. All but the last two are the same in every run of one recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub epoch: usize,
    /// Mean over the images.
    pub loss: f64,
    pub lr: f64,
    pub scale: f64,
    pub images: usize,
    pub seconds: f64,
    pub images_per_second: f64,
}

/// A finished training.
pub struct Trained {
    pub model: HashModel,
    pub records: Vec<Record>,
    /// Tensors of the pretrained file that the backbone has no place for; empty after a resume.
    pub unused: Vec<String>,
}

/// Is told of every step; an error stops the training, to be resumed from the last finished epoch.
pub type Watch<'a> = dyn FnMut(&Tick) -> anyhow::Result<()> + 'a;

/// Trains a network, or goes on from the newest checkpoint in `scratch`, which must belong to this training alone.
pub fn train(
    recipe: &Recipe,
    examples: &dyn Examples,
    pretrained: Option<&Path>,
    device: &Device,
    scratch: &Path,
    watch: &mut Watch,
) -> anyhow::Result<Trained> {
    check(recipe, examples)?;
    let mut training = Training::start(Data { recipe, examples, device, scratch }, pretrained)?;
    while training.records.len() < recipe.epochs {
        training.epoch(watch)?;
        training.save()?;
    }
    Ok(Trained { model: training.model, records: training.records, unused: training.unused })
}

fn check(recipe: &Recipe, examples: &dyn Examples) -> Result<()> {
    for (key, value) in [("epochs", recipe.epochs), ("batch", recipe.batch)] {
        if value == 0 {
            return Err(Error::input(format!("`{key}` must be at least 1")));
        }
    }
    if examples.is_empty() || examples.classes() == 0 {
        let (images, classes) = (examples.len(), examples.classes());
        return Err(Error::data(format!("cannot train on {images} images of {classes} classes")));
    }
    Ok(())
}

/// What a training is given.
#[derive(Clone, Copy)]
struct Data<'a> {
    recipe: &'a Recipe,
    examples: &'a dyn Examples,
    device: &'a Device,
    scratch: &'a Path,
}

impl Data<'_> {
    /// A name for checkpoints: a training whose recipe or sizes differ is another one.
    fn name(&self) -> Result<String> {
        let examples = self.examples;
        let parts = (self.recipe, examples.len(), examples.classes(), examples.side());
        let text = serde_json::to_vec(&parts)
            .map_err(|e| Error::new(Kind::Stage, "cannot write down the recipe").note(e.to_string()))?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }

    fn steps(&self) -> usize {
        self.examples.len().div_ceil(self.recipe.batch)
    }
}

/// A training between two steps.
struct Training<'a> {
    data: Data<'a>,
    model: HashModel,
    loss: Box<dyn Loss>,
    optimizer: Box<dyn Optimizer>,
    /// One per finished epoch.
    records: Vec<Record>,
    checkpoint: Option<PathBuf>,
    unused: Vec<String>,
}

/// What holds for all steps of one epoch.
struct Epoch {
    number: usize,
    factor: f64,
    lr: f64,
    scale: f64,
}

impl<'a> Training<'a> {
    fn start(data: Data<'a>, pretrained: Option<&Path>) -> Result<Self> {
        match checkpoint::newest(data.scratch, &data.name()?)? {
            Some((path, progress, file)) => Self::resume(data, path, progress, &file),
            None => {
                let Data { recipe, examples, device, .. } = data;
                let model = HashModel::seeded(&recipe.backbone, recipe.bits, examples.side(), recipe.seed, device)?;
                let unused = pretrained.map_or(Ok(vec![]), |path| load_pretrained(&model, path))?;
                Ok(Self { unused, ..Self::with_model(data, model)? })
            }
        }
    }

    fn resume(data: Data<'a>, path: PathBuf, progress: Progress, file: &TensorFile) -> Result<Self> {
        let Data { recipe, examples, device, .. } = data;
        let mut source = |name: &str, _: &[usize], _: Init| file.read_f32(&format!("model.{name}"));
        let model = HashModel::build(&recipe.backbone, recipe.bits, examples.side(), device, &mut source)?;
        let mut training = Self::with_model(data, model)?;
        training.optimizer.load_state(&state_of(file, "optimizer.")?).map_err(super::tensor_error)?;
        training.loss.load_state(&state_of(file, "loss.")?).map_err(super::tensor_error)?;
        Ok(Self { records: progress.records, checkpoint: Some(path), ..training })
    }

    fn with_model(data: Data<'a>, model: HashModel) -> Result<Self> {
        let Data { recipe, examples, .. } = data;
        let sizes = Sizes { images: examples.len(), classes: examples.classes(), bits: recipe.bits };
        let loss = recipe.loss.builder().build(sizes)?;
        let optimizer = recipe.optimizer.builder().build(model.parameters())?;
        Ok(Self { data, model, loss, optimizer, records: vec![], checkpoint: None, unused: vec![] })
    }

    /// One pass over the images, in an order and with an augmentation that the seed and the epoch decide.
    fn epoch(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        let Data { recipe, examples, .. } = self.data;
        let number = self.records.len() + 1;
        let factor = recipe.schedule.builder().factor(number);
        let lr = recipe.optimizer.builder().lr() * factor;
        let epoch = Epoch { number, factor, lr, scale: self.loss.scale(number) };

        let began = Instant::now();
        let (mut images, mut total) = (0, 0.0);
        let rate = |images: usize| images as f64 / began.elapsed().as_secs_f64().max(1e-9);
        for (step, batch) in examples.batches(self.order(number)?, self.augment(number)).enumerate() {
            let batch = batch?;
            let count = batch.index.len();
            let loss = self.step(&epoch, step, batch)?;
            images += count;
            total += loss * count as f64;
            let (epochs, steps, scale) = (recipe.epochs, self.data.steps(), epoch.scale);
            watch(&Tick {
                epoch: number,
                epochs,
                step: step + 1,
                steps,
                loss,
                lr,
                scale,
                images_per_second: rate(images),
            })?;
        }
        self.check_finite(&epoch)?;
        let (seconds, images_per_second) = (began.elapsed().as_secs_f64(), rate(images));
        let loss = total / images.max(1) as f64;
        self.records.push(Record { epoch: number, loss, lr, scale: epoch.scale, images, seconds, images_per_second });
        Ok(())
    }

    /// All images, shuffled, in batches.
    fn order(&self, epoch: usize) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut order: Vec<u32> = (0..u32::try_from(self.data.examples.len())?).collect();
        seeded::stream(self.data.recipe.seed, "shuffle", &[epoch as u64]).shuffle(&mut order);
        Ok(order.chunks(self.data.recipe.batch).map(<[u32]>::to_vec).collect())
    }

    fn augment(&self, epoch: usize) -> Option<Augment> {
        let &Recipe { seed, crop, flip, .. } = self.data.recipe;
        (crop || flip).then_some(Augment { seed, epoch: epoch as u64, crop, flip })
    }

    /// Forward, backward, update; returns the batch's loss.
    fn step(&mut self, epoch: &Epoch, step: usize, batch: Batch) -> anyhow::Result<f64> {
        let Data { recipe, device, .. } = self.data;
        let from_start = ((epoch.number - 1) * self.data.steps() + step) as u64;
        let labels = self.labels(&batch.index)?;
        let xs = self.model.images(batch.pixels, batch.index.len(), device)?;
        let logits = self.model.forward(&xs, Mode::Train { seed: recipe.seed, step: from_start })?;
        let loss = self.loss.forward(&logits, &labels, &batch.index, Step { epoch: epoch.number })?;
        let value = f64::from(loss.to_device(&Device::Cpu)?.to_scalar::<f32>()?);
        if !value.is_finite() {
            let place = format!("step {} of {}", step + 1, self.data.steps());
            return Err(self.diverged(&format!("the loss became {value}"), epoch, &place).into());
        }
        self.optimizer.step(&loss.backward()?, epoch.factor)?;
        Ok(value)
    }

    /// Multi-hot labels, `[n, classes]`.
    fn labels(&self, index: &[u32]) -> anyhow::Result<Tensor> {
        let classes = self.data.examples.classes();
        let mut rows = vec![0f32; index.len() * classes];
        for (row, &image) in rows.chunks_exact_mut(classes).zip(index) {
            for &class in self.data.examples.labels(image as usize) {
                let Some(cell) = row.get_mut(class as usize) else {
                    anyhow::bail!("image {image} has class {class} of {classes}")
                };
                *cell = 1.0;
            }
        }
        Ok(Tensor::from_vec(rows, (index.len(), classes), self.data.device)?)
    }

    /// The last update of an epoch can spoil weights that no loss has seen yet: they must not reach a checkpoint.
    fn check_finite(&self, epoch: &Epoch) -> anyhow::Result<()> {
        for (name, var) in self.model.parameters() {
            let on_host = var.to_device(&Device::Cpu)?;
            if !host(&on_host).values()?.iter().all(|v| v.is_finite()) {
                return Err(self.diverged(&format!("`{name}` became NaN or infinite"), epoch, "the last step").into());
            }
        }
        Ok(())
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
        let parameters = self.model.parameters().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()));
        let parts =
            [("model", parameters.collect()), ("optimizer", self.optimizer.state()), ("loss", self.loss.state()?)];
        let tensors: Vec<(String, Tensor)> = parts
            .into_iter()
            .flat_map(|(part, named)| named.into_iter().map(move |(name, t)| (format!("{part}.{name}"), t)))
            .collect();
        let progress = Progress::new(self.data.name()?, self.records.clone());
        self.checkpoint = Some(checkpoint::save(self.data.scratch, &progress, &tensors)?);
        Ok(())
    }
}

/// The tensors of one part of a checkpoint, without the part's prefix.
fn state_of(file: &TensorFile, prefix: &str) -> Result<Vec<(String, Tensor)>> {
    let of_part = |name: String| Some((name.strip_prefix(prefix)?.to_string(), name));
    file.names().into_iter().filter_map(of_part).map(|(short, name)| Ok((short, file.read_tensor(&name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Transform;
    use crate::model::testing::Shapes;
    use crate::model::weights::{Card, save};
    use tempfile::TempDir;

    /// Three epochs of three steps, the last one partial; dropout and augmentation on.
    fn recipe() -> Recipe {
        Recipe {
            bits: 12,
            epochs: 3,
            batch: 16,
            seed: 7,
            backbone: serde_json::from_str(r#"{"name": "small", "channels": [8, 12], "width": 24, "dropout": 0.3}"#)
                .unwrap(),
            loss: serde_json::from_str(r#"{"name": "hashnet", "scale_every": 1}"#).unwrap(),
            optimizer: serde_json::from_str(r#"{"name": "sgd", "lr": 0.02}"#).unwrap(),
            schedule: serde_json::from_str(r#"{"name": "step", "every": 2}"#).unwrap(),
            crop: true,
            flip: false,
        }
    }

    fn shapes() -> Shapes {
        Shapes::new(40, 16, 3)
    }

    fn run(recipe: &Recipe, scratch: &Path, watch: &mut Watch) -> anyhow::Result<Trained> {
        train(recipe, &shapes(), None, &Device::Cpu, scratch, watch)
    }

    /// The bytes of the trained network's file, and its records without the times.
    fn bytes(trained: &Trained) -> (Vec<u8>, Vec<(usize, u64, u64)>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let card = Card::new(recipe().backbone, 12, Transform::imagenet(20, 16), vec![]);
        save(file.path(), &trained.model, &card).unwrap();
        let records = trained.records.iter().map(|r| (r.epoch, r.loss.to_bits(), r.lr.to_bits())).collect();
        (std::fs::read(file.path()).unwrap(), records)
    }

    #[test]
    fn a_training_stopped_anywhere_ends_in_the_same_bytes() {
        let whole = TempDir::new().unwrap();
        let expected = bytes(&run(&recipe(), whole.path(), &mut |_| Ok(())).unwrap());
        for stop in 1..=9 {
            let scratch = TempDir::new().unwrap();
            let mut steps = 0;
            let stopped = run(&recipe(), scratch.path(), &mut |_| {
                steps += 1;
                if steps == stop { anyhow::bail!("stopped") } else { Ok(()) }
            });
            assert_eq!(stopped.err().unwrap().to_string(), "stopped");
            let mut resumed_at = None;
            let resumed = run(&recipe(), scratch.path(), &mut |tick| {
                resumed_at.get_or_insert((tick.epoch, tick.step));
                Ok(())
            });
            assert!(bytes(&resumed.unwrap()) == expected, "stopped at step {stop}");
            assert_eq!(resumed_at, Some((1 + (stop - 1) / 3, 1)));
        }
        // A finished one is only read.
        let again = run(&recipe(), whole.path(), &mut |_| anyhow::bail!("a step was taken")).unwrap();
        assert!(bytes(&again) == expected);
    }

    #[test]
    fn shapes_are_learnt() {
        let scratch = TempDir::new().unwrap();
        let recipe = Recipe {
            epochs: 20,
            backbone: serde_json::from_str(r#"{"name": "small", "channels": [8, 12], "width": 24}"#).unwrap(),
            loss: serde_json::from_str(r#"{"name": "hashnet", "alpha": 0.3}"#).unwrap(),
            optimizer: serde_json::from_str(r#"{"name": "sgd", "lr": 0.02, "hash_lr": 1}"#).unwrap(),
            schedule: serde_json::from_str(r#"{"name": "constant"}"#).unwrap(),
            ..recipe()
        };
        let data = Shapes::new(200, 16, 3);
        let trained = train(&recipe, &data, None, &Device::Cpu, scratch.path(), &mut |_| Ok(())).unwrap();
        let losses: Vec<f64> = trained.records.iter().map(|record| record.loss).collect();
        // Codes that say nothing cost 2 ln 2 = 1.386.
        assert!(losses.last().is_some_and(|&last| last < 1.2), "{losses:?}");
    }

    #[test]
    fn a_damaged_checkpoint_costs_an_epoch_and_changes_nothing() {
        let scratch = TempDir::new().unwrap();
        let expected = bytes(&run(&recipe(), scratch.path(), &mut |_| Ok(())).unwrap());
        let newest = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        std::fs::write(&newest, "garbage").unwrap();
        let mut first = None;
        let resumed = run(&recipe(), scratch.path(), &mut |tick| {
            first.get_or_insert(tick.epoch);
            Ok(())
        });
        assert_eq!(first, Some(3));
        assert!(bytes(&resumed.unwrap()) == expected);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_and_the_seed_does() {
        let trained = |recipe: &Recipe, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let scratch = TempDir::new().unwrap();
            pool.install(|| bytes(&run(recipe, scratch.path(), &mut |_| Ok(())).unwrap()))
        };
        let one = trained(&recipe(), 1);
        assert!(one == trained(&recipe(), 3));
        assert!(one != trained(&Recipe { seed: 8, ..recipe() }, 1));
    }

    #[test]
    fn checkpoints_of_another_recipe_are_not_used() {
        let (scratch, fresh) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        run(&recipe(), scratch.path(), &mut |_| Ok(())).unwrap();
        let other = Recipe { epochs: 1, flip: true, ..recipe() };
        let resumed = run(&other, scratch.path(), &mut |_| Ok(())).unwrap();
        assert!(bytes(&resumed) == bytes(&run(&other, fresh.path(), &mut |_| Ok(())).unwrap()));
    }

    #[test]
    fn a_divergence_names_its_place_and_leaves_the_last_good_checkpoint() {
        let scratch = TempDir::new().unwrap();
        let optimizer = serde_json::from_str(r#"{"name": "sgd", "lr": 1e20}"#).unwrap();
        let error = run(&Recipe { optimizer, ..recipe() }, scratch.path(), &mut |_| Ok(())).err().unwrap();
        let text = error.downcast::<Error>().unwrap().render("error");
        for part in ["diverged", "in epoch 1, ", "at a learning rate of 1", "no checkpoint yet", "hint: lower"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(std::fs::read_dir(scratch.path()).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn recipes_that_train_nothing_are_refused() {
        let scratch = TempDir::new().unwrap();
        for wrong in [Recipe { epochs: 0, ..recipe() }, Recipe { batch: 0, ..recipe() }, Recipe { bits: 0, ..recipe() }]
        {
            assert!(run(&wrong, scratch.path(), &mut |_| Ok(())).is_err());
        }
        let nothing = train(&recipe(), &Shapes::new(0, 16, 1), None, &Device::Cpu, scratch.path(), &mut |_| Ok(()));
        assert!(nothing.is_err());
    }
}
