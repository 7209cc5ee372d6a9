//! AlexNet's forward pass and training step, in images per second.
//!
//! ```text
//! network [--batch 64] [--threads 2] [--seconds 10] [--precision f32] [--cpu] [--json] [--layers] [--plain]
//! ```
//!
//! Both take turns with a loop of nothing but multiplications, whose speed is the floor: what the machine could do in that
//! very second. `--layers` times each layer by itself, `--plain` the network out of candle's own operations. `--cpu` counts the processor's seconds instead of the clock's: for a
//! busy machine, on one thread.

#![expect(clippy::print_stdout, reason = "what it measures is read from there")]

mod plain;

use candle_core::{Device, Tensor, Var};
use hashpipe::kernel::{self, Conv2d, GradientSink, Input, Linear, MaxPool2d, Precision, floor};
use hashpipe::model::backbone::{BackboneSpec, alexnet::AlexNet};
use hashpipe::model::optim::{Optimizer, OptimizerSpec};
use hashpipe::model::{HashModel, Mode};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::cell::RefCell;
use std::time::Instant;

#[global_allocator]
static MEMORY: hashpipe::memory::Memory = hashpipe::memory::Memory::new();

/// Multiplications and additions per image, forward: 2 x 710.4 million.
const FORWARD: f64 = 1.4208e9;
/// The same for a training step: three times, but for the gradient of the images.
const TRAINING: f64 = 3.0 * FORWARD - 140.6e6;

struct Options {
    batch: usize,
    threads: usize,
    seconds: f64,
    json: bool,
    layers: bool,
    plain: bool,
    cpu: bool,
    precision: Precision,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<f64>().ok()
    };
    let text = |name: &str| arguments.get(arguments.iter().position(|argument| argument == name)? + 1);
    let is_given = |name: &str| arguments.iter().any(|argument| argument == name);
    let options = Options {
        batch: value("--batch").unwrap_or(64.0) as usize,
        threads: value("--threads").unwrap_or(2.0) as usize,
        seconds: value("--seconds").unwrap_or(10.0),
        json: is_given("--json"),
        layers: is_given("--layers"),
        plain: is_given("--plain"),
        cpu: is_given("--cpu"),
        precision: text("--precision").map_or(Ok(Precision::F32), |name| name.parse()).expect("`--precision`"),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().expect("threads can be started");
    let done = pool.install(|| if options.layers { layers(&options) } else { network(&options) });
    done.expect("the operations fit each other");
}

/// Numbers that are neither equal nor large.
fn tensor(shape: &[usize]) -> candle_core::Result<Tensor> {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Seconds that some work takes.
fn seconds(options: &Options, work: impl FnOnce() -> candle_core::Result<()>) -> candle_core::Result<f64> {
    let (began, used) = (Instant::now(), processor());
    work()?;
    Ok(if options.cpu { processor() - used } else { began.elapsed().as_secs_f64() })
}

/// Seconds that all threads of this process have worked.
fn processor() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
    [usage.user_time(), usage.system_time()].iter().map(|time| time.num_microseconds() as f64 * 1e-6).sum()
}

/// What vectors and products of numbers in registers reach, in 10^9 per second.
fn floor(options: &Options) -> f64 {
    let mut operations = 0.0;
    let work = || {
        operations = floor::multiply(options.precision);
        Ok(())
    };
    let took = seconds(options, work).expect("the processor multiplies");
    operations / took / 1e9
}

/// The number below which so many hundredths lie.
fn percentile(values: &[f64], hundredths: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * hundredths / 100]
}

fn network(options: &Options) -> candle_core::Result<()> {
    let xs = tensor(&[options.batch, 3, 224, 224])?;
    if options.plain {
        let network = RefCell::new(plain::Plain::new()?);
        let forward = || network.borrow().forward(&xs, false).map(drop);
        return turns(options, &forward, &mut |_| network.borrow_mut().step(&xs));
    }
    let spec = BackboneSpec::AlexNet(AlexNet::default());
    let model = HashModel::seeded(&spec, 64, 224, 1, &Device::Cpu)
        .expect("alexnet takes 224 pixels")
        .in_precision(options.precision);
    let sgd: OptimizerSpec = serde_json::from_str(r#"{"name": "sgd", "lr": 1e-6}"#).expect("sgd takes a rate");
    let mut sgd = sgd.builder().build(model.parameters()).expect("its numbers are in range");
    let forward = || model.forward(&xs, Mode::Eval).map(drop);
    turns(options, &forward, &mut |round| step(&model, sgd.as_mut(), &xs, round))
}

/// Times a forward pass and a training step in turns with the floor, and tells of them.
fn turns(
    options: &Options,
    pass: &dyn Fn() -> candle_core::Result<()>,
    step: &mut dyn FnMut(u64) -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    let (mut forward, mut training, mut floors) = (vec![], vec![], vec![]);
    let began = Instant::now();
    for round in 0.. {
        let floor = floor(options);
        let pass = seconds(options, pass)?;
        let step = seconds(options, || step(round))?;
        // The first round pays for memory that is used again.
        if round > 0 {
            floors.push(floor);
            forward.push(options.batch as f64 / pass);
            training.push(options.batch as f64 / step);
        }
        if began.elapsed().as_secs_f64() > options.seconds && round > 2 {
            break;
        }
    }
    for (name, rates, operations) in [("forward", &forward, FORWARD), ("train", &training, TRAINING)] {
        tell(options, name, rates, percentile(&floors, 50) * 1e9 / operations);
    }
    Ok(())
}

fn step(model: &HashModel, sgd: &mut dyn Optimizer, xs: &Tensor, step: u64) -> candle_core::Result<()> {
    let logits = model.forward(xs, Mode::Train { seed: 1, step, first: 0 })?;
    sgd.step(&model.backward(&logits.sqr()?.mean_all()?)?, 1.0)
}

fn tell(options: &Options, name: &str, rates: &[f64], floor: f64) {
    let [p10, median, p90] = [10, 50, 90].map(|hundredths| percentile(rates, hundredths));
    let precision = options.precision.name();
    let (threads, batch, vectors, rounds) =
        (options.threads, options.batch, kernel::vectors(options.precision), rates.len());
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "what": name, "images_per_second": median, "p10": p10, "p90": p90, "threads": threads,
                "batch": batch, "precision": precision, "vectors": vectors, "rounds": rounds, "floor": floor })
        );
    } else {
        println!(
            "{name}: {median:.1} images/s ({p10:.1} to {p90:.1}), {:.0}% of the floor {floor:.0}; {precision}, {vectors}, batch {batch}, {threads} threads, {rounds} rounds",
            median / floor * 100.0
        );
    }
}

/// Gives the outputs of a layer, of its input, weights and bias.
type Operation = Box<dyn Fn(&[Tensor; 3]) -> candle_core::Result<Tensor>>;

/// A layer to time: its operation on an input, and multiplications and additions per image.
struct Layer {
    name: String,
    vars: [Var; 3],
    operation: Operation,
    operations: f64,
    first: bool,
}

fn all_layers(batch: usize, precision: Precision) -> candle_core::Result<Vec<Layer>> {
    let mut layers = vec![];
    let pool = MaxPool2d { kernel: 3, stride: 2 };
    for (i, (side, channels, filters, kernel, stride, padding, pooled)) in [
        (224, 3, 64, 11, 4, 2, true),
        (27, 64, 192, 5, 1, 2, true),
        (13, 192, 384, 3, 1, 1, false),
        (13, 384, 256, 3, 1, 1, false),
        (13, 256, 256, 3, 1, 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let (input, shape) = if i == 0 {
            (Input::Images, [batch, channels, side, side])
        } else {
            (Input::Maps, [batch, side, side, channels])
        };
        let op = Conv2d { stride, padding, relu: true, pool: pooled.then_some(pool), input, precision };
        let outputs = (side + 2 * padding - kernel) / stride + 1;
        layers.push(Layer {
            name: format!("conv{}", i + 1),
            vars: variables(&shape, &[filters, channels, kernel, kernel])?,
            operation: Box::new(move |[xs, weight, bias]| op.apply(xs, weight, bias)),
            operations: 2.0 * (outputs * outputs * filters * channels * kernel * kernel) as f64,
            first: i == 0,
        });
    }
    for (name, inputs, outputs) in [("fc6", 9216, 4096), ("fc7", 4096, 4096)] {
        let op = Linear { relu: true, sink: Some(GradientSink::default()), precision };
        layers.push(Layer {
            name: name.into(),
            vars: variables(&[batch, inputs], &[outputs, inputs])?,
            operation: Box::new(move |[xs, weight, bias]| xs.apply_op3(weight, bias, op.clone())),
            operations: 2.0 * (inputs * outputs) as f64,
            first: false,
        });
    }
    Ok(layers)
}

fn variables(xs: &[usize], weight: &[usize]) -> candle_core::Result<[Var; 3]> {
    let weights = (tensor(weight)? * 0.01)?;
    Ok([Var::from_tensor(&tensor(xs)?)?, Var::from_tensor(&weights)?, Var::from_tensor(&tensor(&weight[..1])?)?])
}

fn layers(options: &Options) -> candle_core::Result<()> {
    let layers = all_layers(options.batch, options.precision)?;
    let began = Instant::now();
    let mut times = vec![vec![]; layers.len()];
    let mut floors = vec![];
    while began.elapsed().as_secs_f64() < options.seconds || times[0].len() < 4 {
        floors.push(floor(options));
        for (layer, times) in layers.iter().zip(&mut times) {
            let inputs = layer.vars.each_ref().map(Var::as_detached_tensor);
            let forward = seconds(options, || (layer.operation)(&inputs).map(drop))?;
            let tracked = layer.vars.each_ref().map(|var| var.as_tensor().clone());
            let ys = (layer.operation)(&tracked)?.sum_all()?;
            let backward = seconds(options, || ys.backward().map(drop))?;
            times.push((forward, backward));
        }
    }
    let floor = percentile(&floors, 50);
    println!("floor {floor:.0} GF/s; least and median times; batch {}, {} threads", options.batch, options.threads);
    for (layer, times) in layers.iter().zip(&times) {
        let operations = layer.operations * options.batch as f64;
        let shown = |what: &str, times: Vec<f64>, operations: f64| {
            let (least, median) = (percentile(&times, 0), percentile(&times, 50));
            let speed = operations / least / 1e9;
            println!(
                "{} {what}: {:.1} ms (median {:.1}), {speed:.0} GF/s, {:.0}% of the floor",
                layer.name,
                least * 1e3,
                median * 1e3,
                speed / floor * 100.0
            );
        };
        shown("forward", times.iter().map(|time| time.0).collect(), operations);
        let both = if layer.first { operations } else { 2.0 * operations };
        shown("backward", times.iter().map(|time| time.1).collect(), both);
    }
    Ok(())
}
