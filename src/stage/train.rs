//! `[train.*]`: a hashing network learns from a list.

use super::{Ctx, Describe, Ref, Resources, Stage};
use crate::dataset::{Images, List};
use crate::error::Error;
use crate::image::Transform;
use crate::model::backbone::{BackboneSpec, alexnet::AlexNet};
use crate::model::loss::{LossSpec, Sizes, hashnet::HashNet};
use crate::model::optim::{OptimizerSpec, sgd::Sgd};
use crate::model::schedule::{ScheduleSpec, Step};
use crate::model::{self, Recipe, Tick, weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Write as _;

/// A network that turns images into codes, learned from labelled images.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Train {
    /// The list to learn from.
    list: Ref,
    /// Length of the codes.
    #[schemars(range(min = 1, max = 1024))]
    bits: usize,
    /// Times every image is seen.
    #[schemars(range(min = 1, max = 100_000))]
    epochs: usize,
    /// Images per step; the last step of an epoch takes what is left.
    #[serde(default = "batch")]
    #[schemars(range(min = 1, max = 65_536))]
    batch: usize,
    /// What first weights, order, augmentation and dropout are drawn from.
    #[serde(default)]
    seed: u64,
    /// The network below the hash layer.
    #[serde(default = "backbone")]
    backbone: BackboneSpec,
    /// Weights to start from: safetensors with torchvision's names.
    pretrained: Option<Ref>,
    /// What is made small.
    #[serde(default = "loss")]
    loss: LossSpec,
    /// How it is made small.
    #[serde(default = "optimizer")]
    optimizer: OptimizerSpec,
    /// How the learning rate falls.
    #[serde(default = "schedule")]
    schedule: ScheduleSpec,
    /// What is done to an image before the network sees it.
    #[serde(default = "transform")]
    transform: Transform,
    /// How training images are varied.
    #[serde(default)]
    augment: Augmentation,
}

/// How training images are varied.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Augmentation {
    /// Crop at a random place instead of the centre.
    #[serde(default = "yes")]
    crop: bool,
    /// Mirror half of the images.
    #[serde(default = "yes")]
    flip: bool,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { crop: true, flip: true }
    }
}

fn yes() -> bool {
    true
}

fn batch() -> usize {
    64
}

fn backbone() -> BackboneSpec {
    BackboneSpec::AlexNet(AlexNet::default())
}

fn loss() -> LossSpec {
    LossSpec::HashNet(HashNet::default())
}

/// The reference's rate for batches of 64.
fn optimizer() -> OptimizerSpec {
    OptimizerSpec::Sgd(Sgd { lr: 0.001, momentum: 0.9, weight_decay: 5e-4, hash_lr: 10.0 })
}

fn schedule() -> ScheduleSpec {
    ScheduleSpec::Step(Step::default())
}

fn transform() -> Transform {
    Transform::imagenet(256, 224)
}

impl Describe for Train {
    const NAME: &'static str = "train";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Train a hashing network";
}

impl Stage for Train {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["model", "log"]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("log", "epochs.jsonl")]
    }

    fn resources(&self) -> Resources {
        Resources { gpu: true }
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        // Building them is cheap and asks every question that a training would ask later.
        let sizes = Sizes { images: 1, classes: 1, bits: self.bits };
        let checks = [
            ("transform", self.transform.check()),
            ("backbone", self.backbone.builder().check(self.transform.crop as usize)),
            ("loss", self.loss.builder().build(sizes).map(|_| ())),
            ("optimizer", self.optimizer.builder().build(&[]).map(|_| ())),
        ];
        checks.into_iter().filter_map(|(key, checked)| Some((key, checked.err()?))).collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let list = List::read(cx.path(&self.list)?)?;
        let classes = list.classes.clone();
        let images = Images::new(list, cx.images(&self.list)?.to_path_buf(), self.transform.clone());
        let pretrained = self.pretrained.as_ref().map(|file| cx.path(file)).transpose()?.map(ToOwned::to_owned);
        let device = cx.device()?;
        let scratch = cx.scratch().to_path_buf();
        let trained = model::train(&self.recipe(), &images, pretrained.as_deref(), &device, &scratch, &mut |tick| {
            Ok(step(cx, tick)?)
        })?;
        if !trained.unused.is_empty() {
            cx.warn(format!("the pretrained file has more than the backbone takes: {}", trained.unused.join(", ")));
        }
        let card = weights::Card::new(self.backbone.clone(), self.bits, self.transform.clone(), classes);
        weights::save(&cx.output("model"), &trained.model, &card)?;
        let path = cx.output("log");
        let mut log = std::fs::File::create(&path).map_err(|e| Error::io("write", &path, &e))?;
        for record in &trained.records {
            writeln!(log, "{}", serde_json::to_string(record)?).map_err(|e| Error::io("write", &path, &e))?;
        }
        if let Some(last) = trained.records.last() {
            cx.metric("loss", last.loss);
        }
        Ok(())
    }
}

impl Train {
    fn recipe(&self) -> Recipe {
        Recipe {
            bits: self.bits,
            epochs: self.epochs,
            batch: self.batch,
            seed: self.seed,
            backbone: self.backbone.clone(),
            loss: self.loss.clone(),
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            crop: self.augment.crop,
            flip: self.augment.flip,
        }
    }
}

/// Tells a step of the training, and whether to stop.
fn step(cx: &mut Ctx, tick: &Tick) -> crate::error::Result<()> {
    let done = (tick.epoch - 1) * tick.steps + tick.step;
    cx.step(done as u64, (tick.epochs * tick.steps) as u64, || {
        let Tick { epoch, epochs, loss, lr, images_per_second, .. } = tick;
        format!("epoch {epoch}/{epochs}  loss {loss:.4}  lr {lr:.2e}  {images_per_second:.0} images/s")
    })
}
