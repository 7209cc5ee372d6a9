//! Every operation on a GPU beside the same one on the CPU.
//!
//! Most numbers are small multiples of an eighth: their products and sums are exact in f32, TF32 and bf16, whatever the
//! order, so that both sides must agree to the bit, equal maxima and turning points included.

use super::elements::{column_sums, rounded, transpose};
use super::{device_of, gpu, tensor as gpu_tensor};
use crate::kernel::testing::{Told, close, numbers, tensor, uniform};
use crate::kernel::{Conv2d, Input, Linear, MaxPool2d, Precision, flatten};
use candle_core::{Device, Result, Shape, Tensor, Var};
use proptest::prelude::*;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

/// The GPU, or nothing with a word of it.
fn device() -> Option<Device> {
    crate::device::for_test(0)
}

/// Multiples of an eighth from -1 to 1.
fn eighths(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let numbers: Vec<f32> = uniform(seed, shape.elem_count()).iter().map(|x| (x * 8.0).round() / 8.0).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// What an operation gives on a device, and its gradients by all variables that have one.
fn run(device: &Device, inputs: &[Tensor], apply: &dyn Fn(&[Var]) -> Result<Tensor>) -> Vec<Option<Tensor>> {
    let vars: Vec<Var> =
        inputs.iter().map(|input| Var::from_tensor(&input.to_device(device).unwrap()).unwrap()).collect();
    let ys = apply(&vars).unwrap();
    let upstream = eighths(99, ys.shape()).to_device(device).unwrap();
    let gradients = ys.apply_op1(Told(upstream)).unwrap().backward().unwrap();
    let host = |tensor: &Tensor| tensor.to_device(&Device::Cpu).unwrap();
    let of = |var: &Var| gradients.get(var).map(host);
    std::iter::once(Some(host(&ys))).chain(vars.iter().map(of)).collect()
}

/// Fails unless a GPU gives what the CPU does, to so much of the largest number.
#[track_caller]
fn same(device: &Device, inputs: &[Tensor], tolerance: f32, apply: &dyn Fn(&[Var]) -> Result<Tensor>) {
    let (ours, expected) = (run(device, inputs, apply), run(&Device::Cpu, inputs, apply));
    for (ours, expected) in ours.iter().zip(&expected) {
        match (ours, expected) {
            (Some(ours), Some(expected)) => close(ours, expected, tolerance),
            (None, None) => {}
            _ => panic!("one of them has no gradient"),
        }
    }
}

/// Batch, channels, height, width, filters, kernel, stride, padding.
type Sizes = [usize; 8];

const SIZES: [Sizes; 8] = [
    [3, 3, 23, 23, 4, 11, 4, 2],
    [5, 4, 9, 9, 70, 5, 1, 2],
    [2, 20, 6, 6, 33, 3, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 0],
    [2, 3, 7, 5, 2, 3, 2, 0],
    [7, 2, 5, 8, 3, 4, 3, 3],
    [1, 40, 3, 4, 8, 1, 1, 0],
    [2, 3, 9, 11, 5, 2, 5, 1],
];

fn convolution([.., stride, padding]: Sizes, precision: Precision) -> Conv2d {
    Conv2d { stride, padding, relu: false, pool: None, input: Input::Maps, precision }
}

fn inputs([n, c, h, w, m, k, ..]: Sizes, op: &Conv2d, numbers: &dyn Fn(u64, Shape) -> Tensor) -> [Tensor; 3] {
    let images = if op.input == Input::Images { (n, c, h, w) } else { (n, h, w, c) };
    [numbers(1, images.into()), numbers(2, (m, c, k, k).into()), numbers(3, m.into())]
}

fn same_convolution(device: &Device, sizes: Sizes, op: Conv2d) {
    let inputs = inputs(sizes, &op, &|seed, shape| eighths(seed, shape));
    same(device, &inputs, 0.0, &|vars| op.apply(&vars[0], &vars[1], &vars[2]));
}

#[test]
fn convolutions_agree_with_the_cpu_to_the_bit() {
    let Some(device) = device() else { return };
    for sizes in SIZES {
        for precision in PRECISIONS {
            let op = convolution(sizes, precision);
            let [_, _, h, w, _, k, s, p] = sizes;
            let outputs = |side: usize| (side + 2 * p - k) / s + 1;
            same_convolution(&device, sizes, op);
            same_convolution(&device, sizes, Conv2d { relu: true, input: Input::Images, ..op });
            if outputs(h).min(outputs(w)) >= 3 {
                let pool = Some(MaxPool2d { kernel: 3, stride: 2 });
                same_convolution(&device, sizes, Conv2d { relu: true, pool, ..op });
                let pool = Some(MaxPool2d { kernel: 2, stride: 3 });
                same_convolution(&device, sizes, Conv2d { pool, ..op });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn convolutions_agree_with_the_cpu_for_any_sizes(
        (n, c, h, w) in (1usize..6, 1usize..20, 1usize..14, 1usize..14),
        (m, k, s, p) in (1usize..40, 1usize..6, 1usize..4, 0usize..4),
        (kernel, stride, relu, pooled) in (1usize..4, 1usize..4, any::<bool>(), any::<bool>()),
        (images, precision) in (any::<bool>(), 0usize..3),
    ) {
        let Some(device) = device() else { return Ok(()) };
        let sizes = [n, c, h, w, m, k, s, p];
        if h.min(w) + 2 * p < k {
            return Ok(());
        }
        let outputs = |side: usize| (side + 2 * p - k) / s + 1;
        let pool = (pooled && outputs(h).min(outputs(w)) >= kernel).then_some(MaxPool2d { kernel, stride });
        let input = if images { Input::Images } else { Input::Maps };
        same_convolution(&device, sizes, Conv2d { relu, pool, input, ..convolution(sizes, PRECISIONS[precision]) });
    }
}

/// Rounding, which exact numbers do not show: the same factors are rounded, and sums differ by their order alone. TF32 is
/// compared loosely: a GPU may round otherwise, or not at all.
#[test]
fn products_round_what_the_cpu_rounds() {
    let Some(device) = device() else { return };
    for sizes in [SIZES[1], SIZES[4], SIZES[6]] {
        for (precision, tolerance) in PRECISIONS.into_iter().zip([1e-5, 2e-3, 1e-5]) {
            let op = convolution(sizes, precision);
            let inputs = inputs(sizes, &op, &|seed, shape| tensor(seed, shape));
            same(&device, &inputs, tolerance, &|vars| op.apply(&vars[0], &vars[1], &vars[2]));
            let inputs = [tensor(1, (7, 130)), tensor(2, (50, 130)), tensor(3, 50)];
            let op = Linear { relu: false, sink: None, precision };
            same(&device, &inputs, tolerance, &|vars| vars[0].apply_op3(&vars[1], &vars[2], op.clone()));
        }
    }
}

#[test]
fn linear_layers_agree_with_the_cpu_to_the_bit() {
    let Some(device) = device() else { return };
    for (n, k, m) in [(1, 1, 1), (3, 70, 16), (17, 33, 300), (5, 530, 18), (64, 60, 257)] {
        for (relu, precision) in [false, true].into_iter().flat_map(|relu| PRECISIONS.map(|p| (relu, p))) {
            let inputs = [eighths(1, (n, k)), eighths(2, (m, k)), eighths(3, m)];
            let op = Linear { relu, sink: None, precision };
            same(&device, &inputs, 0.0, &|vars| vars[0].apply_op3(&vars[1], &vars[2], op.clone()));
        }
    }
}

#[test]
fn gradients_of_weights_go_into_the_sink() {
    let Some(device) = device() else { return };
    let inputs = [eighths(1, (4, 9)), eighths(2, (7, 9)), eighths(3, 7)];
    let gradient = |device: &Device| {
        let sink = crate::kernel::GradientSink::default();
        let op = Linear { relu: true, sink: Some(sink.clone()), precision: Precision::F32 };
        for _ in 0..2 {
            run(device, &inputs, &|vars| vars[0].apply_op3(&vars[1], &vars[2], op.clone()));
        }
        sink.get().unwrap().to_device(&Device::Cpu).unwrap()
    };
    close(&gradient(&device), &gradient(&Device::Cpu), 0.0);
}

#[test]
fn flattening_agrees_with_the_cpu() {
    let Some(device) = device() else { return };
    for shape in [(1, 1, 1, 1), (3, 2, 5, 7), (2, 40, 3, 1), (2, 1, 1, 70), (5, 6, 6, 33)] {
        same(&device, &[eighths(1, shape)], 0.0, &|vars| flatten(&vars[0]));
    }
}

#[test]
fn nan_shows_through_bias_relu_and_pooling() {
    let Some(device) = device() else { return };
    let mut values = numbers(&eighths(1, (2, 6, 6, 3)));
    values[40] = f32::NAN;
    let xs = Tensor::from_vec(values, (2, 6, 6, 3), &Device::Cpu).unwrap();
    let inputs = [xs, eighths(2, (4, 3, 1, 1)), eighths(3, 4)];
    for pool in [None, Some(MaxPool2d { kernel: 2, stride: 2 })] {
        let op = Conv2d { relu: true, pool, ..convolution([2, 3, 6, 6, 4, 1, 1, 0], Precision::F32) };
        let run = |device: &Device| {
            let [xs, weight, bias] = inputs.each_ref().map(|input| input.to_device(device).unwrap());
            numbers(&op.apply(&xs, &weight, &bias).unwrap().to_device(&Device::Cpu).unwrap())
        };
        let bits = |numbers: Vec<f32>| -> Vec<Option<u32>> {
            numbers.iter().map(|x| (!x.is_nan()).then_some(x.to_bits())).collect()
        };
        let (ours, expected) = (bits(run(&device)), bits(run(&Device::Cpu)));
        assert!(expected.contains(&None) && ours == expected);
    }
}

#[test]
fn sums_turns_and_rounding_agree_with_their_definition() {
    let Some(device) = device() else { return };
    for (rows, columns) in [(1, 1), (5, 33), (1000, 3), (70_000, 5), (300, 64)] {
        let values = eighths(1, (rows, columns));
        let on_gpu = values.to_device(&device).unwrap();
        let (cuda, host) = (device_of(&on_gpu).unwrap(), numbers(&values));
        let locked = gpu(&on_gpu);
        let view = locked.values().unwrap();
        let sums = cuda.clone_dtoh(&column_sums(&cuda, &view, columns).unwrap()).unwrap();
        let expected = (0..columns).map(|c| host[c..].iter().step_by(columns).sum::<f32>());
        assert!(sums.iter().copied().eq(expected), "{rows} x {columns}");
        let turned = gpu_tensor(transpose(&cuda, &view, 1, rows, columns).unwrap(), &cuda, (columns, rows)).unwrap();
        close(&turned.to_device(&Device::Cpu).unwrap(), &values.t().unwrap().contiguous().unwrap(), 0.0);
    }
    let mut odd = uniform(3, 1000);
    odd.extend([
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        f32::MAX,
        0.0,
        -0.0,
        1e-40,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ]);
    let on_gpu = Tensor::from_slice(&odd, odd.len(), &device).unwrap();
    let cuda = device_of(&on_gpu).unwrap();
    let bits = cuda.clone_dtoh(&rounded(&cuda, &gpu(&on_gpu).values().unwrap()).unwrap()).unwrap();
    let all = Tensor::from_slice(&odd, odd.len(), &Device::Cpu).unwrap();
    for (ours, expected) in bits.iter().zip(numbers(&crate::kernel::testing::rounded(&all))) {
        let ours = f32::from_bits(u32::from(*ours) << 16);
        assert!(ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan(), "{ours}, not {expected}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let Some(device) = device() else { return };
    let on_gpu = |seed, shape: &[usize]| eighths(seed, shape).to_device(&device).unwrap();
    let op = convolution([0, 0, 0, 0, 0, 0, 1, 0], Precision::F32);
    let apply = |x: [usize; 4], w: [usize; 4], b| op.apply(&on_gpu(1, &x), &on_gpu(2, &w), &on_gpu(3, &[b]));
    assert!(apply([1, 4, 4, 3], [2, 3, 3, 3], 2).is_ok());
    assert!(apply([1, 4, 4, 3], [2, 4, 3, 3], 2).is_err());
    assert!(apply([1, 4, 4, 3], [2, 3, 5, 5], 2).is_err());
    assert!(apply([1, 4, 4, 3], [2, 3, 3, 3], 3).is_err());
}
