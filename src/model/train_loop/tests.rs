use super::*;
use crate::image::Transform;
use crate::kernel::Precision;
use crate::model::DataParallel;
use crate::model::testing::Shapes;
use crate::model::weights::{Card, save};
use tempfile::TempDir;

pub(crate) fn files<'a>(scratch: &'a Path, shorter: Option<&'a Shorter>) -> Files<'a> {
    Files { pretrained: None, given: &[], scratch, shorter }
}

/// Three epochs of three steps, the last one partial; dropout and augmentation on.
pub(crate) fn recipe() -> Recipe {
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
        precision: Precision::F32,
        data_parallel: DataParallel::default(),
    }
}

pub(crate) fn shapes() -> Shapes {
    Shapes::new(40, 16, 3)
}

fn run(recipe: &Recipe, scratch: &Path, watch: &mut Watch) -> anyhow::Result<Trained> {
    train(recipe, &shapes(), &files(scratch, None), &Device::Cpu, watch)
}

/// The bytes of the trained network's file, and its records without the times.
pub(crate) fn bytes(trained: &Trained) -> (Vec<u8>, Vec<(usize, u64, u64)>) {
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

/// What a kill can leave in the folder of checkpoints, whenever it comes: each is made out of what the folder held
/// after every epoch.
#[test]
fn a_training_killed_while_it_saves_ends_in_the_same_bytes() {
    let (whole, kept) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut seen = vec![];
    let expected = run(&recipe(), whole.path(), &mut |_| {
        for entry in std::fs::read_dir(whole.path()).into_iter().flatten().map(Result::unwrap) {
            let copy = kept.path().join(entry.file_name());
            if !copy.exists() {
                std::fs::copy(entry.path(), &copy).unwrap();
                seen.push(copy);
            }
        }
        Ok(())
    });
    let expected = bytes(&expected.unwrap());
    let [first, second] = &seen[..] else { panic!("two checkpoints before the last epoch, not {seen:?}") };
    let bytes_of = |path: &PathBuf| std::fs::read(path).unwrap();
    let mut draw = seeded::stream(1, "kills", &[]);
    for case in 0..40 {
        let scratch = TempDir::new().unwrap();
        let put = |path: &PathBuf, bytes: &[u8]| {
            std::fs::write(scratch.path().join(path.file_name().unwrap()), bytes).unwrap();
        };
        let aside = PathBuf::from("writing.tmp");
        let half = bytes_of(second)[..draw.below(bytes_of(second).len())].to_vec();
        match case % 5 {
            // Killed while the first was written, while the second was, between its writing and its renaming.
            0 => put(&aside, &half),
            1 => [put(first, &bytes_of(first)), put(&aside, &half)].into_iter().collect(),
            2 => [put(first, &bytes_of(first)), put(&aside, &bytes_of(second))].into_iter().collect(),
            // Renamed, but its content not on disk when the power went; and alone.
            3 => [put(first, &bytes_of(first)), put(second, &half)].into_iter().collect(),
            _ => put(second, &bytes_of(second)),
        }
        let mut began = None;
        let resumed = run(&recipe(), scratch.path(), &mut |tick| {
            began.get_or_insert(tick.epoch);
            Ok(())
        });
        assert_eq!(began, Some([1, 2, 2, 2, 3][case % 5]));
        assert!(bytes(&resumed.unwrap()) == expected, "case {case}");
    }
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
    let trained = train(&recipe, &data, &files(scratch.path(), None), &Device::Cpu, &mut |_| Ok(())).unwrap();
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
    let bf16 = Recipe { precision: Precision::Bf16, ..recipe() };
    let rounded = trained(&bf16, 1);
    assert!(rounded == trained(&bf16, 3) && rounded != one);
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
    for wrong in [Recipe { epochs: 0, ..recipe() }, Recipe { batch: 0, ..recipe() }, Recipe { bits: 0, ..recipe() }] {
        assert!(run(&wrong, scratch.path(), &mut |_| Ok(())).is_err());
    }
    let nothing = Shapes::new(0, 16, 1);
    let nothing = train(&recipe(), &nothing, &files(scratch.path(), None), &Device::Cpu, &mut |_| Ok(()));
    assert!(nothing.is_err());
}
