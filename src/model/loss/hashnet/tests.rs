use super::*;
use candle_core::Var;
use serde_json::Value;

fn goldens(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn build(pairs: Pairs, sizes: Sizes) -> Box<dyn Loss> {
    HashNet { alpha: 0.1, scale_every: const { NonZeroUsize::new(1).unwrap() }, pairs }.build(sizes).unwrap()
}

/// make_goldens.py's `weight`.
fn formula(tensor: u64, len: usize, bound: f64) -> Vec<f64> {
    let mix = |i: u64| {
        let mut x = ((tensor << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let value = |i| ((mix(i) >> 40) as f64 - 8_388_608.0) / 8_388_608.0 * bound;
    (0..len as u64).map(|i| f64::from(value(i) as f32)).collect()
}

/// Loss and gradient of one batch, computed in the given type.
fn run(
    loss: &mut dyn Loss,
    logits: &[f64],
    labels: &[f64],
    index: &[u32],
    epoch: usize,
    dtype: DType,
) -> (f64, Vec<f64>) {
    let tensor = |values: &[f64]| {
        let shape = (index.len(), values.len() / index.len());
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let logits = Var::from_tensor(&tensor(logits)).unwrap();
    let value = loss.forward(&logits, &tensor(labels), index, Step { epoch }).unwrap();
    let gradient = value.backward().unwrap().get(&logits).unwrap().clone();
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    (wide(&value)[0], wide(&gradient))
}

#[track_caller]
fn close(ours: f64, golden: f64, tolerance: f64) {
    assert!((ours - golden).abs() <= tolerance, "{ours}, expected {golden}");
}

/// Both compared to 1e-6 of the largest, for f64 and f32 alike.
#[track_caller]
fn compare((loss, gradient): (f64, Vec<f64>), golden_loss: &Value, golden_gradient: &Value) {
    close(loss, golden_loss.as_f64().unwrap(), 1e-6);
    let golden = numbers(golden_gradient);
    assert_eq!(gradient.len(), golden.len());
    let largest = golden.iter().fold(0f64, |max, g| max.max(g.abs()));
    gradient.iter().zip(golden).for_each(|(ours, golden)| close(*ours, golden, 1e-6 * largest));
}

#[test]
fn three_passes_over_a_bank_agree_with_pytorch() {
    let golden = goldens(include_str!("../../../../tests/golden/hashnet_loss.json"));
    let (logits, labels) = (formula(100, 9 * 8 * 16, 2.0), numbers(&golden["labels"]));
    for dtype in [DType::F64, DType::F32] {
        let mut loss = build(Pairs::Bank, Sizes { images: 24, classes: 6, bits: 16 });
        for (i, step) in golden["trace"].as_array().unwrap().iter().enumerate() {
            let first = 8 * (i % 3);
            let index: Vec<u32> = (first as u32..first as u32 + 8).collect();
            let batch = (&logits[i * 128..(i + 1) * 128], &labels[first * 6..(first + 8) * 6]);
            close(loss.scale(i / 3 + 1), step["scale"].as_f64().unwrap(), 1e-12);
            let ours = run(loss.as_mut(), batch.0, batch.1, &index, i / 3 + 1, dtype);
            compare(ours, &step["loss"], &step["grad"]);
        }
    }
}

#[test]
fn single_steps_agree_with_the_field_study() {
    let golden = goldens(include_str!("../../../../tests/golden/formats.json"));
    for case in golden["hashnet_detached_bank"].as_array().unwrap() {
        let size = |name: &str| case["shape"][name].as_u64().unwrap() as usize;
        let (images, bits, classes) = (size("N"), size("K"), size("C"));
        let scale = case["scale"].as_f64().unwrap();
        let mut loss = build(Pairs::Bank, Sizes { images, classes, bits });
        let mut labels = LabelSets::empty(images, classes);
        for (i, row) in numbers(&case["bank_y_before"]).chunks(classes).enumerate() {
            let word = (0..classes).filter(|&c| row[c] > 0.0).fold(0, |word, c| word | 1 << c);
            labels.set(i, &[word]);
        }
        let codes: Vec<f32> = numbers(&case["bank_u_before"]).iter().map(|&u| u as f32).collect();
        let codes = Tensor::from_vec(codes, (images, bits), &Device::Cpu).unwrap();
        loss.load_state(&[("codes".into(), codes), ("labels".into(), labels.to_tensor().unwrap())]).unwrap();

        let epoch = (scale * scale).round() as usize;
        let index: Vec<u32> = numbers(&case["ind"]).iter().map(|&i| i as u32).collect();
        let ours = run(loss.as_mut(), &numbers(&case["u"]), &numbers(&case["y"]), &index, epoch, DType::F64);
        compare(ours, &case["loss"], &case["grad_u"]);
    }
}

#[test]
fn in_batch_pairs_agree_with_pytorch_and_with_finite_differences() {
    let golden = goldens(include_str!("../../../../tests/golden/hashnet_loss.json"));
    let logits = &formula(100, 8 * 16, 2.0)[..6 * 16];
    let labels = numbers(&golden["labels"])[..36].to_vec();
    let (ones, disjoint) = (vec![1.0; 36], (0..36).map(|i| f64::from(u8::from(i % 7 == 0))).collect());
    let index: Vec<u32> = (0..6).collect();
    for (labels, name) in [(labels, "in_batch"), (ones, "all_similar"), (disjoint, "only_self_similar")] {
        let mut loss = build(Pairs::Batch, Sizes { images: 6, classes: 6, bits: 16 });
        let mut at = |logits: &[f64]| run(loss.as_mut(), logits, &labels, &index, 1, DType::F64);
        let (value, gradient) = at(logits);
        close(value, golden[name].as_f64().unwrap(), 1e-6);
        for i in [0, 17, 95] {
            let mut shifted = logits.to_vec();
            shifted[i] += 0.05;
            let above = at(&shifted).0;
            shifted[i] -= 0.1;
            close(gradient[i], (above - at(&shifted).0) / 0.1, 2e-5);
        }
    }
}

#[test]
fn pairs_of_one_kind_only_give_no_nan() {
    let sizes = Sizes { images: 3, classes: 2, bits: 4 };
    for label in [0.0, 1.0] {
        let mut loss = build(Pairs::Bank, sizes);
        let (value, gradient) = run(loss.as_mut(), &[0.5; 12], &[label; 6], &[0, 1, 2], 1, DType::F32);
        assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()));
    }
}

#[test]
fn the_scale_steps_as_the_reference() {
    let golden = goldens(include_str!("../../../../tests/golden/formats.json"));
    let loss: HashNet = serde_json::from_str("{}").unwrap();
    let loss = loss.build(Sizes { images: 1, classes: 1, bits: 1 }).unwrap();
    for (epoch, scale) in golden["scale"].as_object().unwrap() {
        close(loss.scale(epoch.parse().unwrap()), scale.as_f64().unwrap(), 1e-12);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_and_a_reloaded_bank_goes_on() {
    let sizes = Sizes { images: 2500, classes: 70, bits: 20 };
    let labels: Vec<f64> = formula(7, 50 * 70, 1.0).iter().map(|x| f64::from(u8::from(*x > 0.9))).collect();
    let losses = |threads: usize, reload: bool| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut loss = build(Pairs::Bank, sizes);
            (0..4)
                .map(|step| {
                    if reload {
                        let state = loss.state().unwrap();
                        loss = build(Pairs::Bank, sizes);
                        loss.load_state(&state).unwrap();
                    }
                    let index: Vec<u32> = (0..50).map(|i| i * 50 + step).collect();
                    let logits = formula(u64::from(step), 50 * 20, 2.0);
                    let (value, gradient) = run(loss.as_mut(), &logits, &labels, &index, 2, DType::F32);
                    (value.to_bits(), gradient.iter().map(|g| g.to_bits()).collect::<Vec<_>>())
                })
                .collect::<Vec<_>>()
        })
    };
    let one = losses(1, false);
    assert!(one == losses(2, false) && one == losses(3, true));
}

#[test]
fn a_batch_that_does_not_fit_is_an_error() {
    let mut loss = build(Pairs::Bank, Sizes { images: 3, classes: 2, bits: 4 });
    let tensor = |rows: usize, columns: usize| Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let mut forward = |bits, classes, index: &[u32]| {
        loss.forward(&tensor(2, bits), &tensor(2, classes), index, Step { epoch: 1 }).is_ok()
    };
    assert!(forward(4, 2, &[0, 2]));
    assert!(!forward(4, 2, &[0, 3]) && !forward(5, 2, &[0, 1]) && !forward(4, 3, &[0, 1]) && !forward(4, 2, &[0]));
}

/// Parts against the whole, batch by batch: what they say together, and what they remember.
#[test]
fn parts_say_and_remember_what_the_whole_does() {
    use super::super::part::Bank as Place;
    let plain = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    let sizes = Sizes { images: 37, classes: 70, bits: 12 };
    let params = HashNet { scale_every: const { NonZeroUsize::new(2).unwrap() }, ..HashNet::default() };
    for (bank, of) in [(Place::Sharded, 2), (Place::Sharded, 5), (Place::Replicated, 3), (Place::Replicated, 9)] {
        let mut whole = params.build(sizes).unwrap();
        let part = |number| params.part(sizes, Division { bank, number, of }).unwrap();
        let mut parts: Vec<_> = (0..of).map(part).collect();
        for epoch in 1..=4 {
            let mut draw = crate::seeded::stream(epoch as u64, "parts", &[of as u64]);
            let count = 3 + 2 * epoch;
            let mut index: Vec<u32> = (0..count).map(|_| draw.below(37) as u32).collect();
            index[0] = index[count - 1];
            let logits: Vec<f32> = (0..count * 12).map(|_| draw.range(-2.0, 2.0) as f32).collect();
            let labels: Vec<f32> = (0..count * 70).map(|_| f32::from(u8::from(draw.unit() < 0.1))).collect();
            let labels = Tensor::from_vec(labels, (count, 70), &Device::Cpu).unwrap();
            let var = Var::from_slice(&logits, (count, 12), &Device::Cpu).unwrap();
            let value = whole.forward(&var, &labels, &index, Step { epoch }).unwrap();
            let gradient = value.backward().unwrap().get(&var).unwrap().flatten_all().unwrap().to_vec1().unwrap();

            let batch = Batch { logits, labels, index, epoch };
            let counts: Vec<Vec<u64>> = parts.iter_mut().map(|p| p.begin(&batch, &Device::Cpu).unwrap()).collect();
            let totals = [0, 1].map(|kind| counts.iter().map(|counts| counts[kind]).sum::<u64>());
            assert_eq!(totals[1], count as u64 * 37, "each pair is some part's");
            let (mut loss, mut sum) = (0.0, vec![0f32; count * 12]);
            for part in &mut parts {
                let judged = part.judge(&totals).unwrap();
                loss += judged.loss;
                sum[judged.rows.start * 12..][..judged.gradient.len()]
                    .iter_mut()
                    .zip(&judged.gradient)
                    .for_each(|(sum, g)| *sum += g);
            }
            close(loss, f64::from(value.to_scalar::<f32>().unwrap()), 1e-6);
            let largest = gradient.iter().fold(0f32, |most: f32, g: &f32| most.max(g.abs()));
            sum.iter().zip(&gradient).for_each(|(a, b)| close((*a).into(), (*b).into(), f64::from(1e-6 * largest)));
            assert!(parts[0].judge(&totals).is_err(), "a batch is judged once");
        }
        let state = whole.state().unwrap();
        let mut others: Vec<_> = (0..of).map(part).collect();
        for (number, (part, other)) in parts.iter().zip(&mut others).enumerate() {
            other.load_state(&state).unwrap();
            let images = Division { bank, number, of }.images(37);
            for ((name, all), (_, own)) in state.iter().zip(part.state().unwrap()) {
                let rows = all.narrow(0, images.start, images.len()).unwrap();
                assert_eq!(plain(&rows), plain(&own), "{name} of part {number} of {of}");
            }
            for ((name, own), (_, loaded)) in part.state().unwrap().iter().zip(other.state().unwrap()) {
                assert_eq!(plain(own), plain(&loaded), "{name}");
            }
        }
        assert!(params.part(sizes, Division { bank, number: 0, of: 38 }).is_err());
    }
}
