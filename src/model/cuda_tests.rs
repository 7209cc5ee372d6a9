//! Whole networks and trainings on a GPU, beside the CPU's.

use super::backbone::BackboneSpec;
use super::backbone::small::Small;
use super::train_loop::tests::{bytes, files, recipe, shapes};
use super::{HashModel, Mode, Precision, Recipe, Selection, Trained, Watch, train, train_selecting};
use crate::kernel::testing::{Told, numbers, tensor};
use candle_core::{Device, Tensor};
use std::path::Path;
use tempfile::TempDir;

fn device() -> Option<Device> {
    crate::device::for_test(0)
}

/// By how much two lots of numbers differ at most, in parts of the largest.
fn apart(ours: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
    ours.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// Logits of a batch, and the gradients of all parameters.
fn pass(device: &Device, precision: Precision) -> Vec<Vec<f32>> {
    let spec = BackboneSpec::Small(Small { channels: vec![5, 7], width: 9, dropout: 0.0 });
    let model = HashModel::seeded(&spec, 6, 19, 3, device).unwrap().in_precision(precision);
    for (i, (_, var)) in model.parameters().iter().enumerate() {
        let shaken = (var.to_device(&Device::Cpu).unwrap() + (tensor(10 + i as u64, var.shape()) * 0.1)).unwrap();
        var.set(&shaken.to_device(device).unwrap()).unwrap();
    }
    let xs = model.images(numbers(&tensor(1, (5, 3, 19, 19))), 5, device).unwrap();
    let logits = model.forward(&xs, Mode::Train { seed: 0, step: 0, first: 0 }).unwrap();
    let upstream = tensor(2, logits.shape()).to_device(device).unwrap();
    let gradients = model.backward(&logits.apply_op1(Told(upstream)).unwrap()).unwrap();
    let host = |tensor: &Tensor| numbers(&tensor.to_device(&Device::Cpu).unwrap());
    std::iter::once(&logits).chain(&gradients).map(host).collect()
}

#[test]
fn a_network_and_its_gradients_are_the_cpus() {
    let Some(device) = device() else { return };
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Tf32, 2e-2), (Precision::Bf16, 2e-2)] {
        let (ours, expected) = (pass(&device, precision), pass(&Device::Cpu, precision));
        let far: Vec<f32> = ours.iter().zip(&expected).map(|(ours, expected)| apart(ours, expected)).collect();
        assert!(far.iter().all(|far| *far < tolerance), "{}: {far:?}", precision.name());
        assert!(ours == pass(&device, precision), "{}: the same again is not the same", precision.name());
    }
}

fn run(recipe: &Recipe, scratch: &Path, device: &Device, watch: &mut Watch) -> anyhow::Result<Trained> {
    train(recipe, &shapes(), &files(scratch, None), device, watch)
}

#[test]
fn a_training_ends_in_the_same_bytes_however_often_it_is_stopped() {
    let Some(device) = device() else { return };
    for precision in [Precision::F32, Precision::Bf16] {
        let recipe = Recipe { precision, ..recipe() };
        let whole = TempDir::new().unwrap();
        let expected = bytes(&run(&recipe, whole.path(), &device, &mut |_| Ok(())).unwrap());
        let scratch = TempDir::new().unwrap();
        for stop in [4, 2, 3] {
            let mut steps = 0;
            let stopped = run(&recipe, scratch.path(), &device, &mut |_| {
                steps += 1;
                if steps == stop { anyhow::bail!("stopped") } else { Ok(()) }
            });
            assert_eq!(stopped.err().unwrap().to_string(), "stopped");
        }
        let resumed = run(&recipe, scratch.path(), &device, &mut |_| Ok(())).unwrap();
        assert!(bytes(&resumed) == expected, "{}", precision.name());
    }
}

#[test]
fn a_training_learns_what_the_cpu_learns_and_either_goes_on_with_the_others_checkpoint() {
    let Some(device) = device() else { return };
    let losses = |trained: &Trained| trained.records.iter().map(|record| record.loss).collect::<Vec<_>>();
    let on = |device: &Device| {
        let scratch = TempDir::new().unwrap();
        losses(&run(&recipe(), scratch.path(), device, &mut |_| Ok(())).unwrap())
    };
    let (ours, expected) = (on(&device), on(&Device::Cpu));
    let same =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs());
    assert!(same(&ours, &expected), "{ours:?}, not {expected:?}");
    let scratch = TempDir::new().unwrap();
    let stopped = |device: &Device, at: usize| {
        let mut steps = 0;
        run(&recipe(), scratch.path(), device, &mut |_| {
            steps += 1;
            if steps == at { anyhow::bail!("stopped") } else { Ok(()) }
        })
        .is_err()
    };
    assert!(stopped(&device, 4) && stopped(&Device::Cpu, 4));
    let mixed = losses(&run(&recipe(), scratch.path(), &device, &mut |_| Ok(())).unwrap());
    assert!(same(&mixed, &expected), "{mixed:?}, not {expected:?}");
}

#[test]
fn the_best_epoch_is_kept_on_a_gpu_too() {
    let Some(device) = device() else { return };
    let scratch = TempDir::new().unwrap();
    let mut epoch = 0;
    let mut measure = |_: &HashModel| {
        epoch += 1;
        Ok(if epoch == 2 { 1.0 } else { 0.0 })
    };
    let mut selection = Selection { every: 1, measure: &mut measure };
    let files_of = files(scratch.path(), None);
    let chosen = train_selecting(
        &recipe(),
        &shapes(),
        &files_of,
        std::slice::from_ref(&device),
        &mut |_| Ok(()),
        Some(&mut selection),
    )
    .unwrap();
    let other = TempDir::new().unwrap();
    let two = run(&Recipe { epochs: 2, ..recipe() }, other.path(), &device, &mut |_| Ok(())).unwrap();
    assert!(bytes(&chosen).0 == bytes(&two).0);
}

#[test]
fn logits_do_not_depend_on_how_many_images_there_are() {
    let Some(device) = device() else { return };
    let spec = BackboneSpec::Small(Small { channels: vec![4], width: 9, dropout: 0.0 });
    let model = HashModel::seeded(&spec, 6, 16, 3, &device).unwrap();
    let pixels = numbers(&tensor(1, (130, 3, 16, 16)));
    let logits = |range: std::ops::Range<usize>| {
        let part = pixels[range.start * 768..range.end * 768].to_vec();
        let xs = model.images(part, range.len(), &device).unwrap();
        numbers(&model.forward(&xs, Mode::Eval).unwrap().to_device(&Device::Cpu).unwrap())
    };
    let whole = logits(0..130);
    for range in [0..1, 0..64, 3..70, 129..130] {
        assert!(logits(range.clone()) == whole[range.start * 6..range.end * 6], "{range:?}");
    }
}
