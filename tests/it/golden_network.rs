//! AlexNet against PyTorch in double precision: logits, and three steps of training (tests/golden/make_goldens.py).
//!
//! Both need COCO's pictures; without them the tests say so and pass.

use candle_core::{DType, Device, Tensor};
use hashpipe::image::{Pixels, Transform};
use hashpipe::model::backbone::BackboneSpec;
use hashpipe::model::backbone::alexnet::AlexNet;
use hashpipe::model::loss::{LossSpec, Sizes, Step};
use hashpipe::model::optim::OptimizerSpec;
use hashpipe::model::{HashModel, Mode};
use serde_json::Value;

const SIDE: usize = 224;

/// Largest relative error that is taken for rounding: we compute in single precision.
const TOLERANCE: f64 = 1e-4;

/// The same for logits of pictures that our own decoder read, whose pixels differ from libjpeg's by up to 3 grey levels.
const TOLERANCE_OF_DECODING: f64 = 2e-3;

/// The same for gradients that pass ReLUs and pools. A few of the million numbers in front of them lie so near a
/// decision that rounding takes the other side: a change of the input by 3e-7 was seen to move these norms by 1.5e-3,
/// and other such changes to bring them within 1e-6 of PyTorch's.
const TOLERANCE_BEHIND_DECISIONS: f64 = 3e-3;

/// The network's input for a picture of COCO, `[3, 224, 224]`, or `None` if the pictures are not at hand.
///
/// Decoded by libjpeg, as Pillow does, so that the pixels are those the golden numbers were made from; everything after
/// that is ours. `decode` picks the decoder.
fn pixels(name: &str, decode: fn(&[u8]) -> Pixels) -> Option<Vec<f32>> {
    let bytes = std::fs::read(crate::coco_lite()?.join("images").join(name)).unwrap();
    let transform = Transform::imagenet(256, 224);
    let cut = transform.eval(&decode(&bytes));
    let mut pixels = vec![0.0; cut.len()];
    transform.normalise(&cut, &mut pixels);
    Some(pixels)
}

fn libjpeg(bytes: &[u8]) -> Pixels {
    let mut image = mozjpeg::Decompress::new_mem(bytes).unwrap().rgb().unwrap();
    let (width, height) = (image.width(), image.height());
    let data: Vec<[u8; 3]> = image.read_scanlines().unwrap();
    Pixels::new(width, height, data.concat())
}

fn ours(bytes: &[u8]) -> Pixels {
    hashpipe::image::decode(bytes).unwrap()
}

/// All pictures of a golden file as one tensor.
#[expect(clippy::print_stdout, reason = "a test that is skipped must say so")]
fn images(names: &Value, decode: fn(&[u8]) -> Pixels) -> Option<Tensor> {
    let names = strings(names);
    let pixels = names.iter().map(|name| pixels(name, decode)).collect::<Option<Vec<_>>>();
    let Some(pixels) = pixels else {
        println!("skipped: COCO's pictures are not here");
        return None;
    };
    Some(Tensor::from_vec(pixels.concat(), (names.len(), 3, SIDE, SIDE), &Device::Cpu).unwrap())
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Labels of the named images out of COCO's training list.
fn labels(names: &Value) -> Option<Tensor> {
    let text = std::fs::read_to_string(crate::coco_lite()?.join("lists/train.txt")).unwrap();
    let row = |name: &String| -> Vec<f32> {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.split_whitespace().skip(1).map(|label| label.parse().unwrap()).collect()
    };
    let rows: Vec<Vec<f32>> = strings(names).iter().map(row).collect();
    Some(Tensor::new(rows, &Device::Cpu).unwrap())
}

/// make_goldens.py's `weight`: element `i` of tensor `t` is SplitMix64 of `t * 2^32 + i`, its top 24 bits.
fn formula(tensor: u64, len: usize, bound: f64) -> Vec<f32> {
    let mix = |i: u64| {
        let mut x = ((tensor << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    (0..len as u64).map(|i| (((mix(i) >> 40) as f64 - 8_388_608.0) / 8_388_608.0 * bound) as f32).collect()
}

/// AlexNet with the golden file's weights, and no dropout.
fn alexnet(bits: usize, device: &Device) -> HashModel {
    let spec = BackboneSpec::AlexNet(AlexNet { dropout: 0.0 });
    let model = HashModel::seeded(&spec, bits, SIDE, 1, device).unwrap();
    for (tensor, (name, var)) in model.parameters().iter().enumerate() {
        let fan_in: usize = var.dims()[1..].iter().product();
        let bound = match name.as_str() {
            "hash.weight" => 0.02,
            name if name.ends_with(".bias") => 0.05,
            _ => (6.0 / fan_in as f64).sqrt(),
        };
        let values = formula(tensor as u64, var.elem_count(), bound);
        var.set(&Tensor::from_vec(values, var.shape(), device).unwrap()).unwrap();
    }
    model
}

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn close(what: &str, ours: f64, golden: &Value, tolerance: f64) {
    let golden = golden.as_f64().unwrap();
    assert!((ours - golden).abs() <= tolerance * golden.abs(), "{what}: {ours}, expected {golden}");
}

fn norm(tensor: &Tensor) -> f64 {
    tensor
        .to_device(&Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .to_scalar::<f64>()
        .unwrap()
        .sqrt()
}

/// The weights of both sides come from one formula.
#[test]
fn the_formula_gives_the_golden_weights() {
    let first = &golden(include_str!("../golden/forward.json"))["first_weights"];
    let ours = formula(0, 4, (6.0f64 / 363.0).sqrt());
    ours.iter()
        .zip(first.as_array().unwrap())
        .for_each(|(ours, golden)| close("weight", f64::from(*ours), golden, TOLERANCE));
}

#[test]
fn alexnet_gives_pytorchs_logits() {
    let golden = golden(include_str!("../golden/forward.json"));
    // Our own decoder is off by a grey level here and there; what that does to the logits is bounded too.
    for (decode, tolerance) in [(libjpeg as fn(&[u8]) -> Pixels, TOLERANCE), (ours, TOLERANCE_OF_DECODING)] {
        let Some(xs) = images(&golden["images"], decode) else { return };
        logits_are_close(&golden, &xs, tolerance);
    }
}

/// Compares the logits of both bit lengths, the error relative to the largest logit.
fn logits_are_close(golden: &Value, xs: &Tensor, tolerance: f64) {
    for bits in [16, 64] {
        let expected: Vec<Vec<f64>> = serde_json::from_value(golden["outputs"][bits.to_string()].clone()).unwrap();
        let largest = expected.iter().flatten().fold(0f64, |max, x| max.max(x.abs()));
        let ours: Vec<Vec<f32>> = alexnet(bits, &Device::Cpu).forward(xs, Mode::Eval).unwrap().to_vec2().unwrap();
        let pairs = ours.iter().flatten().zip(expected.iter().flatten());
        let worst = pairs.fold(0f64, |max, (ours, golden)| max.max((f64::from(*ours) - golden).abs()));
        assert!(worst <= tolerance * largest, "{bits} bits: {worst} of {largest}");
    }
}

#[test]
fn three_steps_of_training_give_pytorchs_losses_gradients_and_weights() {
    three_steps_give_pytorchs_numbers(&Device::Cpu);
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "on an emulated GPU, AlexNet takes minutes"]
#[expect(clippy::print_stderr, reason = "a test that is skipped must say so")]
fn three_steps_of_training_on_cuda_give_pytorchs_losses_gradients_and_weights() {
    match hashpipe::device::open(Some(0)) {
        Ok(device) => three_steps_give_pytorchs_numbers(&device),
        Err(error) => eprintln!("skipped: no GPU: {}", error.message()),
    }
}

fn three_steps_give_pytorchs_numbers(device: &Device) {
    let golden = golden(include_str!("../golden/train_steps.json"));
    let Some((xs, labels)) = images(&golden["images"], libjpeg).zip(labels(&golden["images"])) else { return };
    let (images, classes) = labels.dims2().unwrap();
    let (xs, model) = (xs.to_device(device).unwrap(), alexnet(16, device));
    // The scale is sqrt(1), sqrt(2), sqrt(3): one step of it per "epoch".
    let loss: LossSpec = serde_json::from_str(r#"{"name": "hashnet", "scale_every": 1}"#).unwrap();
    let mut loss = loss.builder().build(Sizes { images, classes, bits: 16 }).unwrap();
    let sgd: OptimizerSpec = serde_json::from_str(r#"{"name": "sgd", "lr": 1e-3}"#).unwrap();
    let mut sgd = sgd.builder().build(model.parameters()).unwrap();
    let index: Vec<u32> = (0..images as u32).collect();

    for (step, expected) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let logits = model.forward(&xs, Mode::Train { seed: 1, step: step as u64, first: 0 }).unwrap();
        let value = loss.forward(&logits, &labels, &index, Step { epoch: step + 1 }).unwrap();
        close("loss", f64::from(value.to_scalar::<f32>().unwrap()), &expected["loss"], TOLERANCE);
        let gradients = model.backward(&value).unwrap();
        for ((name, _), gradient) in model.parameters().iter().zip(&gradients) {
            let gradient = norm(gradient);
            let tolerance = if name.starts_with("features") { TOLERANCE_BEHIND_DECISIONS } else { TOLERANCE };
            close(&format!("step {step}, gradient of {name}"), gradient, &expected["grad_norm"][name], tolerance);
        }
        sgd.step(&gradients, 1.0).unwrap();
    }
    for (name, var) in model.parameters() {
        close(&format!("weights of {name}"), norm(var), &golden["weight_norm_after"][name], TOLERANCE);
    }
}
