//! `[train.*]`: a hashing network learns from a list.

use super::contract::{agree, readable};
use super::select::Select;
use super::{
    Content, Ctx, Describe, Extends, Input, Network, Pass, Ref, Resources, Stage, Work, network_name, prepared,
    tell_precision,
};
use crate::dataset::List;
use crate::error::{Error, Result};
use crate::image::Transform;
use crate::model::backbone::{BackboneSpec, alexnet::AlexNet};
use crate::model::loss::{LossSpec, Sizes, hashnet::HashNet, part::Division};
use crate::model::optim::{OptimizerSpec, sgd::Sgd};
use crate::model::schedule::{ScheduleSpec, Step};
use crate::model::{
    self, DataParallel, Files, Made, Precision, Recipe, Record, Selection, Shorter, Tick, Trained, weights,
};
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// A network that turns images into codes, learned from labelled images.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Train {
    /// The list to learn from.
    list: Ref,
    /// Prepared images to read instead of the files, an output of a `prepare` stage.
    prepared: Option<Ref>,
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
    /// Weights to start from: safetensors, PyTorch's, PaddlePaddle's or NumPy's file, with the names of torchvision,
    /// DeepHash-pytorch or paddle_hashnet.
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
    /// What products of the network below the hash layer round their factors to.
    #[serde(default)]
    #[schemars(extend("before" = "f32"))]
    precision: Precision,
    /// How the training is divided among several devices; `gpus` in `[resources]` says how many there are.
    #[serde(default)]
    #[schemars(extend("before" = { "name": "synchronous", "bank": "first" }))]
    data_parallel: DataParallel,
    /// Which epoch is kept; without it, the last one.
    #[serde(default)]
    #[schemars(extend("before" = null))]
    select: Option<Select>,
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
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Train a hashing network";
}

impl Stage for Train {
    fn outputs(&self) -> Vec<&'static str> {
        let state = self.extends().map(|_| "state");
        ["model", "log"].into_iter().chain(state).collect()
    }

    fn holds(&self, output: &str) -> Content {
        if output == "model" { Content::Network } else { Content::Other }
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![
            ("list", Content::List),
            ("prepared", Content::Prepared),
            ("select.query", Content::List),
            ("select.database", Content::List),
        ]
    }

    fn extends(&self) -> Option<Extends> {
        // The weights of the best epoch are not those that a longer training goes on from.
        let extends = Extends { param: "epochs", outputs: &["model", "log", "state"] };
        (self.select.is_none() && self.recipe().can_be_extended()).then_some(extends)
    }

    fn work(&self) -> Option<Work> {
        let network = Network::Known(network_name(&self.backbone, self.transform.crop as usize));
        Some(Work {
            pass: Pass::Train,
            network,
            list: self.list.clone(),
            rounds: (self.epochs * self.data_parallel.builder().ranks().unwrap_or(1)) as f64,
            precision: self.precision,
        })
    }

    fn varies(&self) -> Vec<&'static str> {
        vec!["log"]
    }

    fn resumable(&self, scratch: &Path) -> Option<String> {
        Some(format!("epoch {} of {}", model::finished_epochs(scratch)?, self.epochs))
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("log", "epochs.jsonl")]
    }

    fn resources(&self) -> Resources {
        Resources { gpu: true }
    }

    fn follows_threads(&self) -> bool {
        true
    }

    fn most_gpus(&self) -> usize {
        usize::MAX
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        // Building them is cheap and asks every question that a training would ask later.
        let sizes = Sizes { images: 1, classes: 1, bits: self.bits };
        let checks = [
            ("transform", self.transform.check()),
            ("backbone", self.backbone.builder().check(self.transform.crop as usize)),
            ("loss", self.loss.builder().build(sizes).map(|_| ())),
            ("optimizer", self.optimizer.builder().build(&[]).map(|_| ())),
            ("data_parallel", self.check_bank()),
        ];
        checks.into_iter().filter_map(|(key, checked)| Some((key, checked.err()?))).collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let list = List::read(cx.path(&self.list)?)?;
        let classes = list.classes.clone();
        let judge =
            self.select.as_ref().map(|select| select.open(cx, &list, &self.transform, self.bits)).transpose()?;
        let images = prepared::open(cx, list, &self.list, self.prepared.as_ref(), self.transform.clone())?;
        let pretrained = self.pretrained.as_ref().map(|file| cx.path(file)).transpose()?.map(ToOwned::to_owned);
        let (given, shorter) = (self.given(cx)?, shorter(cx));
        let recipe = self.recipe();
        let (devices, scratch) = (cx.devices(recipe.devices(cx.gpus().len())?)?, cx.scratch().to_path_buf());
        let files =
            Files { pretrained: pretrained.as_deref(), given: &given, scratch: &scratch, shorter: shorter.as_ref() };
        let device = cx.device()?;
        tell_precision(cx, self.precision, &device);
        let shared = RefCell::new(&mut *cx);
        let mut measure = |network: &model::HashModel| match &judge {
            Some(judge) => judge.measure(&shared, network),
            None => Ok(0.0),
        };
        let every = self.select.as_ref().map(Select::every);
        let mut selection = every.map(|every| Selection { every, measure: &mut measure });
        let watch = &mut |tick: &Tick| Ok(step(&mut shared.borrow_mut(), tick)?);
        let trained = model::train_selecting(&recipe, &images, &files, &devices, watch, selection.as_mut());
        let mut trained = trained.map_err(|error| on_cards(error, cx.gpus()))?;
        tell(cx, &trained);
        if devices.len() < cx.gpus().len() {
            cx.warn(format!("of {} GPUs {} were used: there are no more ranks", cx.gpus().len(), devices.len()));
        }
        if let (Some(judge), Some(selected)) = (&judge, trained.selected) {
            cx.fact("selected", judge.told(selected, self.epochs));
        }
        recall_times(cx, &mut trained.records);

        let card = weights::Card::new(self.backbone.clone(), self.bits, self.transform.clone(), classes);
        weights::save(&cx.output("model"), &trained.model, &card)?;
        write_log(&cx.output("log"), &trained.records)?;
        if self.extends().is_some() {
            trained.save_state(&cx.output("state"))?;
        }
        if let Some(last) = trained.records.last() {
            cx.metric("loss", last.loss);
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        // Reading a network refuses weights that are not finite, and those that do not fit its card.
        let (_, card) = readable("model", weights::load(&cx.output("model"), &Device::Cpu))?;
        agree("model", "bits", card.bits, self.bits)?;
        let classes = List::read(cx.path(&self.list)?)?.classes;
        agree("model", "classes", card.classes.join(", "), classes.join(", "))?;
        agree("log", "epochs", read_log(&cx.output("log")).len(), self.epochs)?;
        if self.extends().is_some() {
            agree("state", "epochs", readable("state", model::epochs_of(&cx.output("state")))?, self.epochs)?;
        }
        Ok(())
    }
}

impl Train {
    /// Whether the loss can do what is wanted of its bank.
    fn check_bank(&self) -> Result<()> {
        let bank = self.data_parallel.builder().bank();
        if bank.is_first() {
            return Ok(());
        }
        let sizes = Sizes { images: 2, classes: 1, bits: self.bits };
        self.loss.builder().part(sizes, Division { bank, number: 0, of: 2 }).map(|_| ())
    }

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
            precision: self.precision,
            data_parallel: self.data_parallel.clone(),
        }
    }

    /// Digests of all that decides the training beside the recipe, for the name of what is saved of it.
    fn given(&self, cx: &Ctx) -> anyhow::Result<Vec<String>> {
        let pretrained = self.pretrained.as_ref().map_or(Ok("none"), |file| cx.digest(file))?;
        let transform = serde_json::to_string(&self.transform)?;
        let mut given = vec![
            format!("version {}", Self::VERSION),
            cx.digest(&self.list)?.to_string(),
            pretrained.into(),
            transform,
        ];
        if let Some(select) = &self.select {
            given.push(select.given(cx)?);
        }
        Ok(given)
    }
}

/// The same training with fewer epochs, if there is one.
fn shorter(cx: &Ctx) -> Option<Shorter> {
    let made = |input: &Input| Made { path: input.path.clone(), digest: input.digest.clone() };
    Some(Shorter { model: made(cx.extends_from("model")?), state: made(cx.extends_from("state")?) })
}

/// Tells what else there is to know of a training.
fn tell(cx: &mut Ctx, trained: &Trained) {
    if !trained.unused.is_empty() {
        cx.warn(format!("the pretrained file has more than the backbone takes: {}", trained.unused.join(", ")));
    }
    if let Some(error) = &trained.refused {
        cx.warn(format!("a shorter training could not be gone on with, this one began anew: {}", error.message()));
    }
    if trained.extended > 0 {
        cx.fact("extended", format!("{} of {} epochs were there", trained.extended, trained.records.len()));
    }
}

/// An error of a training on several GPUs, with their numbers on this machine.
fn on_cards(error: anyhow::Error, gpus: &[usize]) -> anyhow::Error {
    if gpus.len() < 2 {
        return error;
    }
    let numbers: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let told =
        |error: Error| error.note(format!("the task's GPUs are, in order, those numbered {}", numbers.join(", ")));
    error.downcast::<Error>().map_or_else(|error| error, |error| told(error).into())
}

fn write_log(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let io = |e| Error::io("write", path, &e);
    let mut log = BufWriter::new(std::fs::File::create(path).map_err(io)?);
    for record in records {
        writeln!(log, "{}", serde_json::to_string(record)?).map_err(io)?;
    }
    Ok(log.flush().map_err(io)?)
}

/// The lines of a log that make sense.
fn read_log(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How long its epochs took is not in a training's state; its log tells.
fn recall_times(cx: &Ctx, records: &mut [Record]) {
    let earlier = cx.extends_from("log").map(|log| read_log(&log.path)).unwrap_or_default();
    for (record, before) in records.iter_mut().zip(earlier).filter(|(record, _)| record.seconds == 0.0) {
        (record.seconds, record.images_per_second) = (before.seconds, before.images_per_second);
    }
}

/// Tells a step of the training, and whether to stop.
fn step(cx: &mut Ctx, tick: &Tick) -> Result<()> {
    let done = (tick.epoch - 1) * tick.steps + tick.step;
    cx.step(done as u64, (tick.epochs * tick.steps) as u64, || {
        let Tick { epoch, epochs, loss, lr, images_per_second, .. } = tick;
        format!("epoch {epoch}/{epochs}  loss {loss:.4}  lr {lr:.2e}  {images_per_second:.0} images/s")
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Desk, Ended, made, run, run_until};
    use super::super::{Job, Message, find};
    use serde_json::{Value, json};

    fn desk() -> Desk {
        let desk = Desk::new();
        desk.list("list", &desk.pictures(0..40, "all"));
        desk
    }

    fn params(epochs: usize) -> Value {
        json!({
            "list": "list", "bits": 8, "epochs": epochs, "batch": 16,
            "backbone": { "name": "small", "channels": [4], "width": 6 },
            "optimizer": { "name": "sgd", "lr": 0.01 }, "transform": { "resize": 8, "crop": 8 },
        })
    }

    fn train(desk: &Desk, epochs: usize) -> Ended {
        run(desk.job("train", params(epochs))).ok()
    }

    /// A longer training that is offered all outputs of a shorter one.
    fn longer(desk: &Desk, shorter: &Ended, epochs: usize) -> Job {
        let outputs = ["model", "log", "state"].map(|name| (name.to_string(), made(&shorter.path(name))));
        Job { extends_from: outputs.into(), ..desk.job("train", params(epochs)) }
    }

    fn log(ended: &Ended) -> Vec<Value> {
        String::from_utf8(ended.bytes("log")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_longer_training_starts_where_a_shorter_one_ended() {
        let desk = desk();
        let (short, whole) = (train(&desk, 2), train(&desk, 5));
        let extended = run(longer(&desk, &short, 5)).ok();
        assert_eq!(extended.fact("extended"), Some("2 of 5 epochs were there"));
        assert_eq!(extended.warnings(), [""; 0]);
        for output in ["model", "state"] {
            assert!(extended.bytes(output) == whole.bytes(output), "{output}");
        }
        let (ours, theirs) = (log(&extended), log(&whole));
        let losses = |log: &[Value]| log.iter().map(|line| line["loss"].clone()).collect::<Vec<_>>();
        assert_eq!(losses(&ours), losses(&theirs));
        assert_eq!(ours[..2], log(&short)[..], "with the times of the epochs that were there");
        assert!(ours.iter().all(|line| line["seconds"].as_f64() > Some(0.0)));

        let mut damaged = longer(&desk, &short, 5);
        damaged.extends_from.get_mut("state").unwrap().digest = "0".repeat(64);
        let anew = run(damaged).ok();
        assert!(anew.warnings()[0].contains("could not be gone on with, this one began anew"), "{:?}", anew.warnings());
        assert!(anew.fact("extended").is_none() && anew.bytes("model") == whole.bytes("model"));
    }

    #[test]
    fn an_epoch_may_be_chosen_by_other_images() {
        let desk = desk();
        desk.list("validation", &desk.pictures(40..60, "validation"));
        let with = |select: Value| {
            let mut params = params(4);
            params["select"] = select;
            run(desk.job("train", params))
        };
        let chosen = with(json!({ "query": "validation", "database": "list", "every": 2, "top_k": 5 })).ok();
        assert_eq!(chosen.warnings(), [""; 0]);
        let told = chosen.fact("selected").unwrap();
        assert!(told.contains(" of 4: mAP@5 ") && told.ends_with(" on `validation`, on a validation list"), "{told}");
        let measured: Vec<bool> = log(&chosen).iter().map(|line| line["selection"].is_f64()).collect();
        assert_eq!(measured, [false, true, false, true]);
        assert!(!chosen.path("state").exists(), "it cannot be made longer");
        // Every epoch measured on the same codes: the first of the best is kept, which is that of so many epochs.
        let best = |log: &[Value]| {
            let value = |line: &Value| line["selection"].as_f64().unwrap_or(-1.0);
            log.iter().fold((0, -1.0), |best, line| {
                if value(line) > best.1 { (line["epoch"].as_u64().unwrap() as usize, value(line)) } else { best }
            })
        };
        let epoch = best(&log(&chosen)).0;
        assert!(told.starts_with(&format!("epoch {epoch} of 4")), "{told}");
        assert!(chosen.bytes("model") == train(&desk, epoch).bytes("model"));

        let on_test = with(json!({ "query": "validation", "database": "list", "on": "test" })).ok();
        assert!(on_test.warnings()[0].contains("figures are best-on-test"), "{:?}", on_test.warnings());
        assert!(on_test.fact("selected").unwrap().ends_with("best on test"));
        let learnt = with(json!({ "query": "list", "database": "list" })).ok();
        assert!(learnt.warnings()[0].contains("40 of 40 queries are training images"), "{:?}", learnt.warnings());
        desk.list("nothing", &[]);
        let nothing = with(json!({ "query": "nothing", "database": "list" }));
        assert_eq!(nothing.error().message(), "`nothing` is empty");
    }

    #[test]
    fn how_far_a_stopped_training_came_is_seen() {
        let desk = desk();
        let job = desk.job("train", params(50));
        let stage = find("train").unwrap().parse(&job.params).unwrap().stage;
        assert_eq!(stage.resumable(&job.scratch), None);
        let in_second = |said: &Message| matches!(said, Message::Progress { done, .. } if *done > 3);
        let stopped = run_until(job.clone(), in_second);
        assert!(stopped.result.is_err());
        let told = stage.resumable(&job.scratch).unwrap();
        let epoch: usize = told.strip_prefix("epoch ").unwrap().strip_suffix(" of 50").unwrap().parse().unwrap();
        assert!((1..50).contains(&epoch), "{told}");
        // What the runner throws away when a task dies: its outputs, but not its checkpoints.
        std::fs::remove_dir_all(&job.outputs).unwrap();
        std::fs::create_dir_all(&job.outputs).unwrap();
        let resumed = run(job.clone()).ok();
        let whole = train(&desk, 50);
        for output in ["model", "state"] {
            assert!(resumed.bytes(output) == whole.bytes(output), "{output}");
        }
        // Killed while outputs were written: everything is there already, and written once more.
        std::fs::write(resumed.path("state"), "half").unwrap();
        std::fs::remove_file(resumed.path("model")).unwrap();
        let again = run(job).ok();
        assert!(again.bytes("model") == whole.bytes("model") && again.bytes("state") == whole.bytes("state"));
    }

    #[test]
    fn what_is_no_trained_network_is_not_published() {
        let desk = desk();
        let ended = train(&desk, 2);
        let model = ended.bytes("model");
        let mut infinite = model.clone();
        let end = infinite.len();
        infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        desk.model("other", 9, 1);
        let other = std::fs::read(desk.path("other")).unwrap();
        for (bytes, words) in [
            (&infinite, "holds NaN or infinite numbers"),
            (&other, "bits: 9, expected 8"),
            (&model[..end - 1].to_vec(), "is not a whole safetensors file"),
        ] {
            std::fs::write(ended.path("model"), bytes).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
        }
        std::fs::write(ended.path("model"), &model).unwrap();
        for (output, bytes, words) in [
            ("state", train(&desk, 1).bytes("state"), "epochs: 1, expected 2"),
            ("log", vec![], "epochs: 0, expected 2"),
        ] {
            let whole = ended.bytes(output);
            std::fs::write(ended.path(output), bytes).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
            std::fs::write(ended.path(output), whole).unwrap();
        }
    }
}
