//! `[infer.*]`: single images through the exported files, compared with the trained network, and timed.

use super::contract::{agree, broken};
use super::export::weights_file;
use super::{Content, Ctx, Describe, Ref, Stage, prepared};
use crate::codefile::{self, Options};
use crate::dataset::{Examples as _, List, eval_pixels};
use crate::error::{Error, Kind, Result};
use crate::model::onnx::Onnx;
use crate::model::weights::Card;
use crate::model::{self, HashModel, weights};
use crate::process::usage;
use crate::retrieval::{self, Codes};
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// One image at a time, as a service would see them: the exported files must give the trained network's codes, and the
/// exported database codes the same nearest image. Fails if they do not. How long it took is in its `log`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Infer {
    /// The trained network.
    model: Ref,
    /// Its codes of the database.
    codes: Ref,
    /// The exported files.
    exported: Ref,
    /// The name the database codes were exported under.
    #[serde(default = "database")]
    exported_codes: String,
    /// Images to look up.
    list: Ref,
    /// Prepared images to read instead of the files, an output of a `prepare` stage.
    prepared: Option<Ref>,
    /// The list of the database.
    database: Ref,
    /// How many images to look up, from the top of the list.
    #[serde(default = "count")]
    #[schemars(range(min = 1))]
    images: usize,
    /// Run the exported ONNX file too, with a runtime that knows nothing of hashpipe.
    #[serde(default)]
    onnx: bool,
    /// How often each image is timed, after a few rounds to warm up.
    #[serde(default = "repeats")]
    #[schemars(range(min = 1, max = 1000))]
    repeats: usize,
}

/// Rounds before times count.
const WARM_UP: usize = 3;

/// How far logits of another program may be off, as a part of the greatest one: sums are added in another order.
const TOLERANCE: f32 = 1e-4;

fn repeats() -> usize {
    5
}

fn database() -> String {
    "database".into()
}

fn count() -> usize {
    10
}

impl Describe for Infer {
    const NAME: &'static str = "infer";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Look single images up with the exported files, and compare with the trained network";
}

impl Stage for Infer {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["result", "log"]
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![
            ("model", Content::Network),
            ("codes", Content::Codes),
            ("exported", Content::Exported),
            ("list", Content::List),
            ("prepared", Content::Prepared),
            ("database", Content::List),
        ]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("result", "inference.jsonl"), ("log", "inference_log.json")]
    }

    fn varies(&self) -> Vec<&'static str> {
        vec!["log"]
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (trained, card) = weights::load(cx.path(&self.model)?, &Device::Cpu)?;
        let files = cx.path(&self.exported)?.to_path_buf();
        let (exported, _) = weights::load(&files.join(weights_file("safetensors", card.bits)), &Device::Cpu)?;
        let onnx = self.onnx.then(|| OnnxFile::open(&files, &card)).transpose()?;
        let (codes, _) = retrieval::read(cx.path(&self.codes)?)?;
        let stored = files.join(format!("{}_code_{}.npy", self.exported_codes, card.bits));
        let (stored, _) = codefile::read(&stored, &Options::default())?;
        let queries = List::read(cx.path(&self.list)?)?;
        let images = prepared::open(cx, queries.clone(), &self.list, self.prepared.as_ref(), card.transform.clone())?;
        let root = self.prepared.is_none().then(|| cx.images(&self.list)).transpose()?.map(Path::to_path_buf);
        let database = List::read(cx.path(&self.database)?)?;
        let total = self.images.min(queries.items.len());
        let (mut lines, mut log) = (String::new(), Log::default());
        let order = (0..total as u32).map(|index| vec![index]).collect();
        for (done, (item, batch)) in (0..).zip(queries.items.iter().zip(images.batches(order, None))) {
            cx.step(done, total as u64, || item.path.clone())?;
            let pixels = batch?.pixels;
            let logits = model::logits(&trained, pixels.clone())?;
            let ours = code(&logits)?;
            let near = nearest(&codes, &ours)?;
            let mut others = vec![("the exported weights", code(&model::logits(&exported, pixels.clone())?)?)];
            if let Some(onnx) = &onnx {
                let theirs = onnx.logits(&pixels)?;
                log.difference = log.difference.max(difference(&logits, &theirs));
                others.push(("the exported ONNX file", settled(&logits, &theirs)?));
            }
            for (name, theirs) in others {
                let far = nearest(&stored.codes, &theirs)?;
                if ours != theirs || near != far {
                    return Err(Error::new(
                        Kind::Stage,
                        format!("{name} and the trained network disagree on `{}`", item.path),
                    )
                    .note(format!("the codes differ in {} bits", differing(&ours, &theirs)))
                    .note(format!("trained: nearest is number {} at distance {}", near.0, near.1))
                    .note(format!("exported: nearest is number {} at distance {}", far.0, far.1))
                    .into());
                }
            }
            let rounds = if done == 0 { WARM_UP + self.repeats } else { self.repeats };
            for round in 0..rounds {
                let warm = done > 0 || round >= WARM_UP;
                if let Some(root) = &root {
                    log.time("preprocess", warm, || eval_pixels(&card.transform, &root.join(&item.path)))?;
                }
                log.time("inference, trained", warm, || model::logits(&trained, pixels.clone()))?;
                log.time("inference, safetensors", warm, || model::logits(&exported, pixels.clone()))?;
                if let Some(onnx) = &onnx {
                    log.time("inference, onnx", warm, || onnx.logits(&pixels))?;
                }
                log.time("search", warm, || nearest(&codes, &ours))?;
            }
            let found = database.items.get(near.0 as usize).map(|item| item.path.as_str());
            let line = json!({ "image": item.path, "nearest": found, "distance": near.1, "index": near.0 });
            lines.push_str(&format!("{line}\n"));
        }
        let path = cx.output("result");
        std::fs::write(&path, lines).map_err(|e| Error::io("write", &path, &e))?;
        let path = cx.output("log");
        let about = log.to_json(&card, &trained, codes.len(), total, self.onnx);
        std::fs::write(&path, format!("{about:#}\n")).map_err(|e| Error::io("write", &path, &e))?;
        cx.metric("compared", total as f64);
        for (what, name) in [("inference, trained", "ms"), ("inference, onnx", "ms_onnx")] {
            if let Some(samples) = log.samples.get(what) {
                cx.fact(name, format!("{:.2} (p50 of one image)", percentile(samples, 0.5)));
            }
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let path = cx.output("result");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        let images = self.images.min(List::read(cx.path(&self.list)?)?.len());
        agree("result", "lines", text.lines().count(), images)?;
        let path = cx.output("log");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        let log: Value = serde_json::from_str(&text).map_err(|e| broken("log", e.to_string()))?;
        agree("log", "images", log["images"].as_u64().unwrap_or_default(), images as u64)
    }
}

/// The exported ONNX file, and whether it normalises itself.
struct OnnxFile {
    runtime: Onnx,
    /// What its input is before: mean and standard deviation to undo, if it normalises itself.
    undo: Option<([f64; 3], [f64; 3])>,
}

impl OnnxFile {
    fn open(files: &Path, card: &Card) -> Result<Self> {
        let path = files.join(weights_file("onnx", card.bits));
        if !path.is_file() {
            return Err(Error::data(format!("the exported files have no `{}`", weights_file("onnx", card.bits)))
                .hint("add \"onnx\" to `formats` of the `export` stage"));
        }
        let about = files.join(format!("model_{}.json", card.bits));
        let text = std::fs::read_to_string(&about).map_err(|e| Error::io("read", &about, &e))?;
        let about: Value = serde_json::from_str(&text).map_err(|e| Error::data(e.to_string()))?;
        let normalises = about["onnx"]["normalise"] == json!(true);
        let undo = normalises.then_some((card.transform.mean, card.transform.std));
        Ok(Self { runtime: Onnx::open(&path)?, undo })
    }

    /// Logits of one image as our networks take it.
    fn logits(&self, pixels: &[f32]) -> Result<Vec<f32>> {
        let mut pixels = pixels.to_vec();
        if let Some((mean, std)) = self.undo {
            let plane = pixels.len() / 3;
            for (channel, plane) in pixels.chunks_exact_mut(plane).enumerate() {
                plane.iter_mut().for_each(|x| *x = (f64::from(*x) * std[channel] + mean[channel]) as f32);
            }
        }
        self.runtime.logits(pixels)
    }
}

/// Times of steps in milliseconds, and how far logits were off.
#[derive(Default)]
struct Log {
    samples: BTreeMap<&'static str, Vec<f64>>,
    /// The first time of each step, before anything was warm.
    first: BTreeMap<&'static str, f64>,
    difference: f32,
}

impl Log {
    fn time<T>(&mut self, what: &'static str, warm: bool, step: impl FnOnce() -> Result<T>) -> Result<()> {
        let start = Instant::now();
        std::hint::black_box(step()?);
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        self.first.entry(what).or_insert(milliseconds);
        let samples = self.samples.entry(what).or_default();
        if warm {
            samples.push(milliseconds);
            samples.sort_by(f64::total_cmp);
        }
        Ok(())
    }

    fn to_json(&self, card: &Card, network: &HashModel, database: usize, images: usize, onnx: bool) -> Value {
        let times = self.samples.iter().map(|(what, samples)| {
            let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
            let about = json!({
                "first": self.first[what], "p50": percentile(samples, 0.5), "p95": percentile(samples, 0.95),
                "mean": mean, "samples": samples.len(),
            });
            (what.to_string(), about)
        });
        let parameters: usize = network.parameters().iter().map(|(_, var)| var.elem_count()).sum();
        json!({
            "environment": {
                "program": concat!("hashpipe ", env!("CARGO_PKG_VERSION")), "os": std::env::consts::OS,
                "machine": std::env::consts::ARCH, "cpu": cpu(),
                "cores": std::thread::available_parallelism().map_or(1, usize::from),
            },
            "model": { "backbone": card.backbone, "bits": card.bits, "parameters": parameters, "precision": "float32" },
            "data": { "batch": 1, "shape": [1, 3, network.side(), network.side()], "database": database },
            "images": images,
            "milliseconds": times.collect::<serde_json::Map<_, _>>(),
            "peak_memory": usage(false).map(|usage| usage.peak_memory),
            "onnx": onnx.then(|| json!({ "greatest_difference": self.difference, "tolerance": TOLERANCE.to_string().parse::<f64>().ok() })),
            "agree": true,
        })
    }
}

/// The processor's name, where Linux tells it.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The sample that this part of all sorted ones does not exceed.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

/// The greatest difference, as a part of the greatest of our logits.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    let greatest = ours.iter().fold(1.0f32, |greatest, x| greatest.max(x.abs()));
    let off = ours.iter().zip(theirs).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
    if ours.len() == theirs.len() { off / greatest } else { f32::INFINITY }
}

/// Their code, with our sign where ours is so near to 0 that either is right.
fn settled(ours: &[f32], theirs: &[f32]) -> Result<Codes> {
    let off = difference(ours, theirs);
    if off.is_nan() || off > TOLERANCE {
        return Err(Error::new(Kind::Stage, "the exported ONNX file gives other logits than the trained network")
            .note(format!("they differ by {off:.2e} of the greatest, at most {TOLERANCE:.0e} is rounding")));
    }
    let near = TOLERANCE * ours.iter().fold(1.0f32, |greatest, x| greatest.max(x.abs()));
    let logits: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| if a.abs() <= near { *a } else { *b }).collect();
    code(&logits)
}

/// The code of one image.
fn code(logits: &[f32]) -> Result<Codes> {
    let mut codes = Codes::new(logits.len())?;
    codes.push(logits)?;
    Ok(codes)
}

/// Bits that differ between two codes.
fn differing(a: &Codes, b: &Codes) -> u32 {
    a.code(0).iter().zip(b.code(0)).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// Index and distance of the nearest code, the first of equals, as the reference's argmin.
fn nearest(database: &Codes, query: &Codes) -> Result<(u32, u32)> {
    let found = retrieval::top_k(database, query.code(0), 1)?;
    found.first().map(|near| (near.index, near.distance)).ok_or_else(|| Error::data("the database has no codes"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Desk, Ended, made, run};
    use super::super::{Input, Job};
    use serde_json::{Value, json};

    /// A network, codes of a database, and both exported; then looked up, after something may have been done to them.
    fn infer(normalise: bool, meddle: impl Fn(&std::path::Path)) -> Ended {
        let desk = Desk::new();
        desk.list("database", &desk.pictures(0..30, "all"));
        desk.list("query", &desk.pictures(10..16, "all"));
        desk.model("model", 24, 1);
        let codes = desk.run("encode", json!({ "model": "model", "list": "database" })).ok();
        std::fs::copy(codes.path("codes"), desk.path("codes")).unwrap();
        let params = json!({
            "model": "model", "codes": { "database": "codes" }, "formats": ["onnx", "pth", "pdparams", "npz"],
            "onnx": { "normalise": normalise, "sign": normalise },
            "code_formats": ["parquet", "faiss-flat", "faiss-idmap", "faiss-hash", "faiss-multihash", "jsonl", "pgvector"],
        });
        let mut job = desk.job("export", params);
        job.inputs.insert("codes".into(), made(&desk.path("codes")));
        let files = run(job).ok().path("files");
        meddle(&files);
        let exported = Input { path: files, digest: String::new(), images: None, known_as: String::new() };
        let params = json!({
            "model": "model", "codes": "codes", "exported": "files", "list": "query", "database": "database",
            "onnx": true, "repeats": 2,
        });
        let job = desk.job("infer", params);
        let inputs = job.inputs.clone().into_iter().chain([("files".to_string(), exported)]).collect();
        // The outputs outlive the desk no longer than they are looked at.
        let ended = run(Job { inputs, ..job });
        let kept = ended.path("log");
        if kept.exists() {
            let log: Value = serde_json::from_slice(&ended.bytes("log")).unwrap();
            assert_eq!((&log["images"], &log["agree"]), (&json!(6), &json!(true)));
            assert_eq!(log["milliseconds"]["inference, onnx"]["samples"], 12);
            assert!(
                log["milliseconds"]["preprocess"]["p95"].as_f64() >= log["milliseconds"]["preprocess"]["p50"].as_f64()
            );
            assert!(log["onnx"]["greatest_difference"].as_f64().unwrap() < 1e-4);
            let lines = String::from_utf8(ended.bytes("result")).unwrap();
            assert!(lines.lines().all(|line| line.contains("\"distance\":0")), "{lines}");
        }
        ended
    }

    #[test]
    fn exported_files_answer_like_the_network() {
        infer(false, |_| ()).ok();
        infer(true, |_| ()).ok();
    }

    #[test]
    fn other_answers_fail() {
        let text = |ended: &Ended| ended.error().render("error");
        // The hash layer's last bias, in a file that is otherwise whole.
        let end = |file: &'static str, to: f32| {
            infer(false, move |files| {
                let path = files.join(file);
                let mut bytes = std::fs::read(&path).unwrap();
                let end = bytes.len();
                bytes[end - 4..].copy_from_slice(&to.to_le_bytes());
                std::fs::write(path, bytes).unwrap();
            })
        };
        let changed = text(&end("weights_24.safetensors", 1e6));
        assert!(changed.contains("the exported weights and the trained network disagree"), "{changed}");
        let gone = infer(false, |files| std::fs::remove_file(files.join("model_24.onnx")).unwrap());
        assert!(text(&gone).contains("no `model_24.onnx`"));
    }
}
