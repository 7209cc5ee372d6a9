use crate::dataset::{Augment, Examples};
use crate::error::Error;
use crate::model::loss::{Sizes, Step};
use crate::model::net::{HashModel, Mode};
use crate::model::tensor_file::TensorFile;
use crate::model::train_loop::tests::{bytes, files, recipe, shapes};
use crate::model::{DataParallel, Recipe, Shorter, Tick, Trained, train_selecting};
use crate::seeded;
use candle_core::{Device, Tensor};
use std::path::Path;
use tempfile::TempDir;

/// A training on so many replicas on the CPU, stopped after so many steps.
fn on(replicas: usize, recipe: &Recipe, scratch: &Path, stop: usize) -> (anyhow::Result<Trained>, Vec<f64>) {
    on_devices(&vec![Device::Cpu; replicas], recipe, scratch, stop)
}

fn on_devices(devices: &[Device], recipe: &Recipe, scratch: &Path, stop: usize) -> (anyhow::Result<Trained>, Vec<f64>) {
    let mut losses = vec![];
    let mut watch = |tick: &Tick| {
        losses.push(tick.loss);
        if losses.len() == stop { anyhow::bail!("stopped") } else { Ok(()) }
    };
    let trained = train_selecting(recipe, &shapes(), &files(scratch, None), devices, &mut watch, None);
    (trained, losses)
}

/// The same to its end, and the losses of its steps.
fn whole(devices: usize, recipe: &Recipe) -> (Trained, Vec<f64>) {
    let scratch = TempDir::new().unwrap();
    let (trained, losses) = on(devices, recipe, scratch.path(), usize::MAX);
    (trained.unwrap(), losses)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn weights(model: &HashModel) -> Vec<f32> {
    model.parameters().iter().flat_map(|(_, var)| values(var)).collect()
}

/// By how much two networks differ, in parts of the largest weight.
fn apart(one: &HashModel, other: &HashModel) -> f32 {
    let (one, other) = (weights(one), weights(other));
    let largest = one.iter().fold(0f32, |most, x| most.max(x.abs()));
    one.iter().zip(&other).fold(0f32, |most, (x, y)| most.max((x - y).abs())) / largest
}

/// What is left between trainings that add the same numbers in another order.
const ROUNDING: f32 = 1e-5;

#[test]
fn any_number_of_replicas_makes_what_one_makes() {
    // Batches of 16, 16 and 8; dropout and augmentation are on. 16 replicas have nothing to do in half of the last one.
    let (one, losses) = whole(1, &recipe());
    for devices in [2, 3, 16] {
        let (several, their_losses) = whole(devices, &recipe());
        assert_eq!(losses[0].to_bits(), their_losses[0].to_bits(), "no sum of a loss is cut");
        for (ours, theirs) in losses.iter().zip(&their_losses) {
            assert!((ours - theirs).abs() < 1e-5, "{devices} replicas: {ours} {theirs}");
        }
        let far = apart(&one.model, &several.model);
        assert!(far < ROUNDING, "{devices} replicas: {far:.1e}");
        assert!(bytes(&whole(devices, &recipe()).0) == bytes(&several), "{devices} replicas, again");
    }
    let in_pairs: Recipe = Recipe { loss: serde_json::from_str(PAIRS).unwrap(), epochs: 1, ..recipe() };
    let far = apart(&whole(1, &in_pairs).0.model, &whole(3, &in_pairs).0.model);
    assert!(far < ROUNDING, "pairs within the batch: {far:.1e}");
}

const PAIRS: &str = r#"{"name": "hashnet", "pairs": "batch"}"#;

/// A training whose bank lies elsewhere than on the first device.
fn with_bank(bank: &str) -> Recipe {
    let division = format!(r#"{{"name": "synchronous", "bank": "{bank}"}}"#);
    Recipe { data_parallel: serde_json::from_str(&division).unwrap(), ..recipe() }
}

#[test]
fn a_divided_bank_makes_what_a_whole_one_makes() {
    let (one, losses) = whole(1, &recipe());
    for bank in ["sharded", "replicated"] {
        let recipe = with_bank(bank);
        assert!(bytes(&whole(1, &recipe).0) == bytes(&one), "{bank}: on one device there is nothing to divide");
        // 16 devices have nothing to do in half of the last batch; 40 images cannot be cut into 16 equal shards.
        for devices in [2, 3, 16] {
            let (several, their_losses) = whole(devices, &recipe);
            for (ours, theirs) in losses.iter().zip(&their_losses) {
                assert!((ours - theirs).abs() < 1e-5, "{bank} on {devices}: {ours} {theirs}");
            }
            let far = apart(&one.model, &several.model);
            assert!(far < ROUNDING, "{bank} on {devices}: {far:.1e}");
        }
        let expected = bytes(&whole(2, &recipe).0);
        for stop in [4, 8] {
            let scratch = TempDir::new().unwrap();
            assert!(on(2, &recipe, scratch.path(), stop).0.is_err());
            let resumed = on(2, &recipe, scratch.path(), usize::MAX).0.unwrap();
            assert!(bytes(&resumed) == expected, "{bank}: stopped at step {stop}");
            // What is saved of a bank does not tell how it was divided.
            for (before, after) in [(3, 1), (1, 2), (2, 3)] {
                let scratch = TempDir::new().unwrap();
                assert!(on(before, &recipe, scratch.path(), stop).0.is_err());
                let (resumed, losses) = on(after, &recipe, scratch.path(), usize::MAX);
                assert_eq!(losses.len(), 9 - (stop - 1) / 3 * 3, "from the last whole epoch on");
                let far = apart(&one.model, &resumed.unwrap().model);
                assert!(far < ROUNDING, "{bank}: {before} devices, then {after}: {far:.1e}");
            }
        }
    }
    let refused = Recipe { loss: serde_json::from_str(PAIRS).unwrap(), ..with_bank("sharded") };
    let scratch = TempDir::new().unwrap();
    let error = on(2, &refused, scratch.path(), usize::MAX).0.err().unwrap().downcast::<Error>().unwrap();
    assert!(error.message().contains("keeps no bank"), "{}", error.message());
}

#[test]
fn a_training_goes_on_with_another_number_of_replicas() {
    let expected = bytes(&whole(2, &recipe()).0);
    let (one, _) = whole(1, &recipe());
    for stop in [1, 4, 6, 8] {
        let scratch = TempDir::new().unwrap();
        assert!(on(2, &recipe(), scratch.path(), stop).0.is_err());
        assert!(bytes(&on(2, &recipe(), scratch.path(), usize::MAX).0.unwrap()) == expected, "stopped at step {stop}");
        let scratch = TempDir::new().unwrap();
        assert!(on(3, &recipe(), scratch.path(), stop).0.is_err());
        let (resumed, losses) = on(1, &recipe(), scratch.path(), usize::MAX);
        assert_eq!(losses.len(), 9 - (stop - 1) / 3 * 3, "from the last whole epoch on");
        let far = apart(&one.model, &resumed.unwrap().model);
        assert!(far < ROUNDING, "stopped at step {stop}: {far:.1e}");
    }
}

#[test]
fn more_replicas_than_a_batch_has_images_are_refused() {
    let scratch = TempDir::new().unwrap();
    let error = on(17, &recipe(), scratch.path(), usize::MAX).0.err().unwrap().downcast::<Error>().unwrap();
    assert_eq!(error.kind().exit_code(), 6);
    assert!(error.message().contains("a batch of 16 cannot be cut into 17 shares"), "{}", error.message());
    assert!(on(0, &recipe(), scratch.path(), usize::MAX).0.is_err());
}

fn ranks(ranks: usize) -> Recipe {
    let division = format!(r#"{{"name": "reference", "ranks": {ranks}, "scale_lr": false}}"#);
    Recipe { data_parallel: serde_json::from_str(&division).unwrap(), ..recipe() }
}

#[test]
fn one_rank_of_the_reference_is_the_plain_training() {
    let (plain, rank) = (whole(1, &recipe()).0, whole(1, &ranks(1)).0);
    assert!(bytes(&plain) == bytes(&rank));
    // What the devices of ranks that are not there would do.
    assert!(bytes(&whole(4, &ranks(1)).0) == bytes(&plain));
}

/// Two ranks by the definition, with nothing of [`super`]: orders, draws and banks of their own, means of gradients, and
/// momentum in plain numbers.
#[test]
fn two_ranks_do_what_the_reference_does() {
    let (recipe, data) = (Recipe { epochs: 2, ..ranks(2) }, shapes());
    let model = HashModel::seeded(&recipe.backbone, recipe.bits, data.side(), recipe.seed, &Device::Cpu).unwrap();
    let sizes = Sizes { images: data.len(), classes: data.classes(), bits: recipe.bits };
    let mut banks: Vec<_> = (0..2).map(|_| recipe.loss.builder().build(sizes).unwrap()).collect();
    let mut momentum: Vec<Vec<f32>> = model.parameters().iter().map(|(_, var)| vec![0.0; var.elem_count()]).collect();
    let mut mean_losses = vec![];
    for epoch in 1..=2 {
        let mut batches: Vec<_> = (recipe.seed..recipe.seed + 2)
            .map(|seed| {
                let mut order: Vec<u32> = (0..40).collect();
                seeded::stream(seed, "shuffle", &[epoch as u64]).shuffle(&mut order);
                let augment = Augment { seed, epoch: epoch as u64, crop: true, flip: false };
                data.batches(order.chunks(16).map(<[u32]>::to_vec).collect(), Some(augment)).map(Result::unwrap)
            })
            .collect();
        let lr = 0.02 * recipe.schedule.builder().factor(epoch);
        for step in 0..3 {
            let mut mean: Vec<Vec<f32>> = momentum.iter().map(|v| vec![0.0; v.len()]).collect();
            let mut loss = 0.0;
            for (rank, bank) in banks.iter_mut().enumerate() {
                let batch = batches[rank].next().unwrap();
                let labels: Vec<f32> = (batch.index.iter())
                    .flat_map(|i| (0..6).map(|class| f32::from(data.labels(*i as usize).contains(&class))))
                    .collect();
                let labels = Tensor::from_vec(labels, (batch.index.len(), 6), &Device::Cpu).unwrap();
                let xs = model.images(batch.pixels.clone(), batch.index.len(), &Device::Cpu).unwrap();
                let from_start = (epoch - 1) * 3 + step;
                let mode = Mode::Train { seed: recipe.seed + rank as u64, step: from_start as u64, first: 0 };
                let logits = model.forward(&xs, mode).unwrap();
                let value = bank.forward(&logits, &labels, &batch.index, Step { epoch }).unwrap();
                loss += f64::from(value.to_scalar::<f32>().unwrap()) / 2.0;
                for (mean, gradient) in mean.iter_mut().zip(model.backward(&value).unwrap()) {
                    mean.iter_mut().zip(values(&gradient)).for_each(|(mean, g)| *mean += g / 2.0);
                }
            }
            mean_losses.push(loss);
            for (((name, var), v), mean) in model.parameters().iter().zip(&mut momentum).zip(mean) {
                let rate = if name.starts_with("hash.") { lr * 10.0 } else { lr } as f32;
                let mut p = values(var);
                for ((p, v), g) in p.iter_mut().zip(v).zip(mean) {
                    *v = 0.9 * *v + (g + 5e-4 * *p);
                    *p -= rate * *v;
                }
                var.set(&Tensor::from_vec(p, var.shape(), &Device::Cpu).unwrap()).unwrap();
            }
        }
    }
    for devices in [1, 2] {
        let (trained, losses) = whole(devices, &recipe);
        assert_eq!(losses.len(), mean_losses.len());
        for (ours, expected) in losses.iter().zip(&mean_losses) {
            assert!((ours - expected).abs() < 1e-5, "{devices} devices: {losses:?}, expected {mean_losses:?}");
        }
        let far = apart(&trained.model, &model);
        assert!(far < ROUNDING, "{devices} devices: {far:.1e}");
        assert_eq!(trained.records[0].images, 80, "each rank sees all images");
    }
}

#[test]
fn ranks_share_devices_and_a_stopped_training_ends_in_the_same_bytes() {
    let recipe = ranks(3);
    let (expected, _) = whole(1, &recipe);
    assert!(bytes(&whole(3, &recipe).0) == bytes(&expected), "as many devices as ranks add up in the same order");
    assert!(apart(&whole(2, &recipe).0.model, &expected.model) < ROUNDING);
    for stop in [2, 5, 9] {
        let scratch = TempDir::new().unwrap();
        assert!(on(1, &recipe, scratch.path(), stop).0.is_err());
        let (resumed, _) = on(1, &recipe, scratch.path(), usize::MAX);
        assert!(bytes(&resumed.unwrap()) == bytes(&expected), "stopped at step {stop}");
        let newest = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        let names = TensorFile::open(&newest).unwrap().names();
        for bank in ["loss.codes", "rank1.loss.codes", "rank2.loss.labels"] {
            assert!(names.iter().any(|name| name == bank), "{bank}: {names:?}");
        }
    }
    assert!(bytes(&whole(1, &ranks(2)).0) != bytes(&expected));
}

#[test]
fn ranks_that_were_finished_may_be_made_longer() {
    let made = |path: std::path::PathBuf| crate::model::Made {
        digest: blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string(),
        path,
    };
    let dir = TempDir::new().unwrap();
    let (short, _) = whole(1, &Recipe { epochs: 2, ..ranks(2) });
    let card =
        crate::model::weights::Card::new(recipe().backbone, 12, crate::image::Transform::imagenet(20, 16), vec![]);
    crate::model::weights::save(&dir.path().join("model"), &short.model, &card).unwrap();
    short.save_state(&dir.path().join("state")).unwrap();
    let shorter = Shorter { model: made(dir.path().join("model")), state: made(dir.path().join("state")) };
    let scratch = TempDir::new().unwrap();
    let files = files(scratch.path(), Some(&shorter));
    let longer = train_selecting(&ranks(2), &shapes(), &files, &[Device::Cpu], &mut |_| Ok(()), None).unwrap();
    assert_eq!(longer.extended, 2);
    assert!(bytes(&longer) == bytes(&whole(1, &ranks(2)).0));
}

#[test]
fn the_references_rate_grows_with_batch_and_ranks() {
    let division: DataParallel = serde_json::from_str(r#"{"name": "reference", "ranks": 2}"#).unwrap();
    let scaled = Recipe { batch: 32, data_parallel: division, ..ranks(1) };
    let trained = whole(1, &Recipe { epochs: 1, ..scaled }).0;
    // As `0.001 * 32 * 2 / 64`.
    assert_eq!(trained.records[0].lr, 0.02);
    let other = Recipe {
        batch: 16,
        data_parallel: serde_json::from_str(r#"{"name": "reference", "ranks": 8}"#).unwrap(),
        ..recipe()
    };
    assert_eq!(other.data_parallel.builder().rate(other.batch), 2.0);
}

#[test]
fn replicas_that_come_apart_are_noticed() {
    let recipe = recipe();
    let model = HashModel::seeded(&recipe.backbone, recipe.bits, 16, 1, &Device::Cpu).unwrap();
    let sizes = Sizes { images: 40, classes: 6, bits: recipe.bits };
    let mut team = super::Team::new(&recipe, sizes, model, &[Device::Cpu, Device::Cpu, Device::Cpu]).unwrap();
    assert!(team.check_alike().is_ok());
    let fault = |replica: &mut super::Replica, number: usize| {
        let (_, bias) = &replica.model.parameters()[1];
        if number == 2 {
            bias.set(&(bias.as_tensor() + 1e-7)?)?;
        }
        Ok(())
    };
    team.crew.each(vec![0, 1, 2], fault).unwrap();
    let error = team.check_alike().unwrap_err().downcast::<Error>().unwrap().render("error");
    assert!(error.contains("those of device 3 of 3"), "{error}");
}

#[cfg(feature = "cuda")]
mod cuda_tests {
    use super::*;
    use crate::kernel::testing::tensor;
    use crate::model::replica::Replica;
    use crate::model::team::Team;

    fn gpus() -> Option<Vec<Device>> {
        (0..2).map(crate::device::for_test).collect()
    }

    #[test]
    fn two_gpus_add_up_as_the_host_does() {
        let Some(devices) = gpus() else { return };
        let of = |seed: u64| (0..5).map(|i| tensor(10 * seed + i, (7, 3 + i as usize))).collect::<Vec<_>>();
        let expected: Vec<Vec<f32>> = of(1).iter().zip(of(2)).map(|(a, b)| values(&(a + b).unwrap())).collect();
        let recipe = recipe();
        let model = HashModel::seeded(&recipe.backbone, recipe.bits, 16, 1, &devices[0]).unwrap();
        let sizes = Sizes { images: 40, classes: 6, bits: recipe.bits };
        let mut team = Team::new(&recipe, sizes, model, &devices).unwrap();
        for round in 0..3 {
            let there = |replica: &mut Replica, host: Vec<Tensor>| {
                Ok(host.iter().map(|host| host.to_device(&replica.device).unwrap()).collect::<Vec<_>>())
            };
            let gradients = team.crew.each(vec![of(1), of(2)], there).unwrap();
            let sums = team.exchange.sum(&mut team.crew, gradients).unwrap();
            let sums = team.crew.each(sums, |_, sum| Ok(sum.iter().map(values).collect::<Vec<_>>())).unwrap();
            assert!(sums.iter().all(|sum| *sum == expected), "round {round}");
        }
    }

    #[test]
    fn two_gpus_make_what_one_makes() {
        let Some(devices) = gpus() else { return };
        let whole = |devices: &[Device], recipe: &Recipe| {
            let scratch = TempDir::new().unwrap();
            let (trained, losses) = on_devices(devices, recipe, scratch.path(), usize::MAX);
            (trained.unwrap(), losses)
        };
        let ((one, losses), (two, their_losses)) = (whole(&devices[..1], &recipe()), whole(&devices, &recipe()));
        assert!(losses.iter().zip(&their_losses).all(|(a, b)| (a - b).abs() < 1e-4), "{losses:?} {their_losses:?}");
        let far = apart(&one.model, &two.model);
        assert!(far < 1e-4, "{far:.1e}");
        let scratch = TempDir::new().unwrap();
        assert!(on_devices(&devices, &recipe(), scratch.path(), 5).0.is_err());
        let resumed = on_devices(&devices, &recipe(), scratch.path(), usize::MAX).0.unwrap();
        assert!(bytes(&resumed) == bytes(&two), "a stopped training ends in other bytes");
        let elsewhere = on_devices(&[Device::Cpu], &recipe(), scratch.path(), usize::MAX).0.unwrap();
        assert!(bytes(&elsewhere) == bytes(&two), "a finished one is only read");

        for bank in ["sharded", "replicated"] {
            let (divided, their_losses) = whole(&devices, &with_bank(bank));
            assert!(losses.iter().zip(&their_losses).all(|(a, b)| (a - b).abs() < 1e-4), "{bank}: {their_losses:?}");
            let far = apart(&one.model, &divided.model);
            assert!(far < 1e-4, "{bank}: {far:.1e}");
            let scratch = TempDir::new().unwrap();
            assert!(on_devices(&devices, &with_bank(bank), scratch.path(), 5).0.is_err());
            let resumed = on_devices(&devices, &with_bank(bank), scratch.path(), usize::MAX).0.unwrap();
            assert!(bytes(&resumed) == bytes(&divided), "{bank}: a stopped training ends in other bytes");
        }

        let ranks = Recipe { epochs: 1, ..ranks(2) };
        let far = apart(&whole(&devices, &ranks).0.model, &whole(&devices[..1], &ranks).0.model);
        assert!(far < 1e-4, "ranks: {far:.1e}");
    }
}
