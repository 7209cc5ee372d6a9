//! Against candle's convolution, finite differences and itself on other threads.

use super::*;
use crate::kernel::bf16::factors;
use crate::kernel::testing::{check_gradients, close, gradients, numbers, on_threads, rounded, tensor};
use candle_core::{Device, Var};
use proptest::prelude::*;

/// Batch, channels, height, width, filters, kernel, stride, padding: AlexNet's kinds, and odd ones.
const SHAPES: [[usize; 8]; 7] = [
    [3, 3, 23, 23, 4, 11, 4, 2],
    [5, 4, 9, 9, 70, 5, 1, 2],
    [17, 20, 6, 6, 33, 3, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 0],
    [2, 3, 7, 5, 2, 3, 2, 0],
    [33, 2, 5, 8, 3, 4, 3, 3],
    [2, 32, 30, 17, 64, 3, 1, 1],
];

const POOL: MaxPool2d = MaxPool2d { kernel: 3, stride: 2 };

/// Maps, weights and bias.
fn variables([n, c, h, w, m, k, ..]: [usize; 8]) -> [Var; 3] {
    let xs = tensor(1, (n, h, w, c));
    [xs, tensor(2, (m, c, k, k)), tensor(3, m)].map(|t| Var::from_tensor(&t).unwrap())
}

fn op([.., stride, padding]: [usize; 8], relu: bool, pool: bool) -> Conv2d {
    Conv2d { stride, padding, relu, pool: pool.then_some(POOL), input: Input::Maps, precision: Precision::F32 }
}

fn of_bf16(op: Conv2d) -> Conv2d {
    Conv2d { precision: Precision::Bf16, ..op }
}

fn apply(op: Conv2d, [xs, weight, bias]: &[Var; 3]) -> Tensor {
    op.apply(xs, weight, bias).unwrap()
}

/// The maximum of the window's shifted copies, which candle can differentiate where no two are equal.
fn pool_by_slices(xs: &Tensor) -> Tensor {
    let (_, _, h, w) = xs.dims4().unwrap();
    let pick = |offset: usize, side: usize| {
        let places: Vec<u32> = (0..(side - 3) / 2 + 1).map(|o| (o * 2 + offset) as u32).collect();
        Tensor::new(places, &Device::Cpu).unwrap()
    };
    let shifted = |place: usize| {
        let rows = xs.index_select(&pick(place / 3, h), 2).unwrap();
        rows.index_select(&pick(place % 3, w), 3).unwrap()
    };
    (1..9).map(shifted).fold(shifted(0), |max, next| max.maximum(&next).unwrap())
}

/// candle's convolution; its ReLU as a product, for its own has the derivative 1 at 0.
fn plain(shape: [usize; 8], relu: bool, pool: bool, [xs, weight, bias]: &[Var; 3]) -> Tensor {
    let [.., m, _, stride, padding] = shape;
    let xs = xs.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let ys = xs.conv2d(weight, padding, stride, 1, 1).unwrap();
    let ys = ys.broadcast_add(&bias.reshape((1, m, 1, 1)).unwrap()).unwrap();
    let above = ys.gt(0f32).unwrap().to_dtype(ys.dtype()).unwrap().detach();
    let ys = if relu { (ys * above).unwrap() } else { ys };
    let ys = if pool { pool_by_slices(&ys) } else { ys };
    ys.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

/// Whether a sum is so near to 0 that rounding decides its sign, and with it all gradients that pass its ReLU.
fn has_a_turning_point(shape: [usize; 8], vars: &[Var; 3]) -> bool {
    let sums = numbers(&plain(shape, false, false, vars));
    let largest = sums.iter().fold(0.0f32, |largest, sum| largest.max(sum.abs()));
    sums.iter().any(|sum| sum.abs() < 1e-6 * largest)
}

#[track_caller]
fn agree(shape: [usize; 8], relu: bool, pool: bool) {
    let vars = variables(shape);
    let (ours, plain) = (apply(op(shape, relu, pool), &vars), plain(shape, relu, pool, &vars));
    close(&ours, &plain, 1e-5);
    if relu && has_a_turning_point(shape, &vars) {
        return agree(shape, false, pool);
    }
    // Among equal maxima, all 0, candle takes others; after ReLU their gradients are 0.
    for (ours, plain) in gradients(&ours, &vars).iter().zip(gradients(&plain, &vars)) {
        close(ours, &plain, 1e-4);
    }
}

#[test]
fn agrees_with_candle_forward_and_backward() {
    for shape in SHAPES {
        for relu in [false, true] {
            agree(shape, relu, false);
            let [_, _, h, w, _, k, s, p] = shape;
            let outputs = |side: usize| (side + 2 * p - k) / s + 1;
            if outputs(h) >= 3 && outputs(w) >= 3 {
                agree(shape, relu, true);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_candle_for_any_sizes(
        (n, c, h, w) in (1usize..6, 1usize..40, 1usize..20, 1usize..20),
        (m, k, s, p) in (1usize..70, 1usize..6, 1usize..4, 0usize..4),
        relu in any::<bool>(),
    ) {
        // candle's gradient fails for some strides where the sides differ, and where windows see almost only padding:
        // there, differences are the witness.
        let w = if s == 1 { w } else { h };
        let shape = [n, c, h, w, m, k, s, p];
        if h.min(w) + 2 * p >= k && (h.min(w) + 2 * p - k) / s * s + k >= 2 * p {
            agree(shape, relu, false);
        } else if h.min(w) + 2 * p >= k {
            let vars = variables(shape);
            close(&apply(op(shape, relu, false), &vars), &plain(shape, relu, false, &vars), 1e-5);
            check_gradients(&vars, |vars| apply(op(shape, false, false), vars));
        }
    }
}

#[test]
fn bf16_is_f32_on_rounded_numbers() {
    for shape in SHAPES {
        let [_, _, h, w, _, k, s, p] = shape;
        let outputs = |side: usize| (side + 2 * p - k) / s + 1;
        let pools: &[bool] = if outputs(h).min(outputs(w)) >= 3 { &[false, true] } else { &[false] };
        for &pool in pools {
            let vars = variables(shape);
            let factors = [rounded(&vars[0]), rounded(&vars[1]), vars[2].clone()];
            let op = op(shape, true, pool);
            let (ours, plain) = (apply(of_bf16(op), &vars), apply(op, &factors));
            close(&ours, &plain, 1e-5);
            // Small whole numbers are added up exactly where windows of the pooling overlap.
            let weights = ((tensor(99, ours.shape()) * 8.0).unwrap().round().unwrap() / 8.0).unwrap();
            let [ours, plain] = [(&ours, &vars), (&plain, &factors)].map(|(ys, vars)| {
                let grads = (ys * &weights).unwrap().sum_all().unwrap().backward().unwrap();
                vars.each_ref().map(|var| grads.get(var).unwrap().clone())
            });
            for (ours, plain) in ours.iter().zip(&plain) {
                close(ours, plain, 1e-5);
            }
        }
    }
}

#[test]
fn tf32_rounds_the_factors_alone() {
    for shape in SHAPES {
        let vars = variables(shape);
        let of_tf32 = Conv2d { precision: Precision::Tf32, ..op(shape, false, false) };
        let to_tf32 = |var: &Var| {
            let numbers = factors(&crate::kernel::testing::numbers(var), Precision::Tf32).into_owned();
            Var::from_vec(numbers, var.shape(), &Device::Cpu).unwrap()
        };
        let rounded = [to_tf32(&vars[0]), to_tf32(&vars[1]), vars[2].clone()];
        let (ours, plain) = (apply(of_tf32, &vars), apply(op(shape, false, false), &rounded));
        close(&ours, &plain, 0.0);
        assert!(gradients(&ours, &vars).len() == 3);
    }
}

#[test]
fn images_give_what_maps_give_and_get_no_gradient() {
    for shape in SHAPES {
        let vars = variables(shape);
        let images = Var::from_tensor(&vars[0].permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()).unwrap();
        let of_maps = apply(op(shape, true, false), &vars);
        let of_images = Conv2d { input: Input::Images, ..op(shape, true, false) };
        let of_images = of_images.apply(&images, &vars[1], &vars[2]).unwrap();
        close(&of_images, &of_maps, 0.0);
        let bf16 = of_bf16(op(shape, true, false));
        let images_of_bf16 = Conv2d { input: Input::Images, ..bf16 }.apply(&images, &vars[1], &vars[2]).unwrap();
        close(&images_of_bf16, &apply(bf16, &vars), 0.0);
        let grads = of_images.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&images).is_none());
        let of_maps = of_maps.sum_all().unwrap().backward().unwrap();
        close(grads.get(&vars[1]).unwrap(), of_maps.get(&vars[1]).unwrap(), 0.0);
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let shape = [3, 2, 6, 6, 3, 3, 2, 1];
    check_gradients(&variables(shape), |vars| apply(op(shape, false, false), vars));
    let shape = [2, 5, 7, 7, 17, 3, 1, 1];
    check_gradients(&variables(shape), |vars| apply(op(shape, false, false), vars));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let precisions = |shape| [(shape, op(shape, true, false)), (shape, of_bf16(op(shape, true, false)))];
    for (shape, op) in SHAPES.into_iter().flat_map(precisions) {
        on_threads(|| {
            let vars = variables(shape);
            let ys = apply(op, &vars);
            let mut all = gradients(&ys, &vars);
            all.push(ys);
            all
        });
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let op = op([0, 0, 0, 0, 0, 0, 1, 0], false, false);
    let apply = |x: [usize; 4], w: [usize; 4]| op.apply(&tensor(1, &x[..]), &tensor(2, &w[..]), &tensor(3, 2));
    assert!(apply([1, 4, 4, 3], [2, 3, 3, 3]).is_ok());
    assert!(apply([1, 4, 4, 3], [2, 4, 3, 3]).is_err());
    assert!(apply([1, 4, 4, 3], [2, 3, 5, 5]).is_err());
    assert!(apply([1, 4, 4, 3], [5, 3, 3, 3]).is_err());
    assert!(apply([0, 4, 4, 3], [2, 3, 3, 3]).is_err());
    let pooled = Conv2d { pool: Some(POOL), ..op };
    assert!(pooled.apply(&tensor(1, (1, 4, 4, 3)), &tensor(2, (2, 3, 3, 3)), &tensor(3, 2)).is_err());
}
