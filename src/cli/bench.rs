//! `hashpipe bench`: what this machine can do.

use super::device_argument::{DeviceArgument, slot};
use crate::bench::{Figures, Network, Retrieval, Subject, hash, images, measure, network};
use crate::cache::Store;
use crate::error::{Error, Place, Result};
use crate::image::Transform;
use crate::model::backbone::BackboneSpec;
use crate::model::{Precision, Rates, has_bf16, vectors};
use crate::report::{note, print, size, table};
use crate::retrieval::{Wanted, instructions};
use crate::schedule::{Asked, Machine, explain_gpu};
use crate::stage::Pass;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run a network: the speed of encoding, apart from images
    Forward(Net),
    /// Train a network: forward, backward and update, apart from images
    Train(Net),
    /// Decode and resize the images of a folder to training input
    Images(Images),
    /// Hash a file
    Hash(Hash),
    /// Search generated codes for the nearest of each query
    Search(Search),
    /// Rank generated codes, and measure the rankings
    Evaluate(Evaluate),
}

#[derive(Debug, Args)]
struct How {
    /// Threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Seconds that each measurement takes
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// One JSON object per measurement
    #[arg(long)]
    json: bool,
    /// The cache that predictions find the speeds in, if it is there
    #[arg(long, value_name = "DIR", env = "HASHPIPE_CACHE", default_value = "cache")]
    cache: PathBuf,
}

#[derive(Debug, Args)]
struct Net {
    /// A backbone's name, or a table as in a pipeline file: '{ name = "small", width = 64 }'
    #[arg(long, default_value = "alexnet")]
    backbone: String,
    /// Images at once; several numbers, as in `64,512`, are measured in turns
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64")]
    batch: Vec<usize>,
    /// Side of the images, in pixels
    #[arg(long, default_value_t = 224)]
    side: usize,
    /// Length of the codes
    #[arg(long, default_value_t = 64)]
    bits: usize,
    /// What products round their factors to: `f32`, `tf32` (for GPUs) or `bf16`; several are measured in turns
    #[arg(long, value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
    /// `cpu`, or the GPU `cuda` or `cuda:N`, as CUDA counts those it may see
    #[arg(long, value_name = "DEVICE", value_parser = on, default_value = "cpu")]
    device: On,
    #[command(flatten)]
    how: How,
}

/// Where a network runs: which GPU; nothing is the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct On {
    gpu: Option<usize>,
}

fn on(text: &str) -> Result<On, String> {
    slot(text).map(|slot| On { gpu: slot.0 })
}

impl On {
    fn name(self) -> String {
        self.gpu.map_or("cpu".into(), |gpu| format!("cuda:{gpu}"))
    }

    /// What the driver tells of the GPU.
    fn facts(self) -> Result<Vec<(&'static str, Value)>> {
        let Some(gpu) = self.gpu else { return Ok(vec![]) };
        let about = Machine::find(&Asked::default())?.about(gpu);
        Ok(vec![("gpu", json!(about.model)), ("driver", json!(about.driver))])
    }

    /// An error with what it says of the GPU.
    fn explained(self, error: Error) -> Error {
        let Some(gpu) = self.gpu else { return error };
        match Machine::find(&Asked::default()) {
            Ok(machine) => explain_gpu(error, &machine, gpu),
            Err(_) => error,
        }
    }
}

#[derive(Debug, Args)]
struct Images {
    /// A folder of images; at most 256 of them are used
    folder: PathBuf,
    /// Length the shorter side is resized to, in pixels
    #[arg(long, default_value_t = 256)]
    resize: u32,
    /// Side of the square that is cut out of it, in pixels
    #[arg(long, default_value_t = 224)]
    crop: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Hash {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Sizes {
    /// Length of the codes
    #[arg(long, default_value_t = 64)]
    bits: usize,
    /// Codes that are searched
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    database: usize,
    /// Codes that are looked up
    #[arg(long, value_name = "N", default_value_t = 200)]
    queries: usize,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Search {
    #[command(flatten)]
    sizes: Sizes,
    /// How many of the nearest are found
    #[arg(long, value_name = "K", default_value_t = 100)]
    top: usize,
}

#[derive(Debug, Args)]
struct Evaluate {
    #[command(flatten)]
    sizes: Sizes,
    /// Classes that items have one to three of
    #[arg(long, value_name = "N", default_value_t = 80)]
    classes: usize,
    /// The k of mAP@k
    #[arg(long, value_name = "K", default_value_t = 5000)]
    top_k: usize,
    /// Measure mAP@k alone, instead of everything
    #[arg(long)]
    map_only: bool,
}

impl Sizes {
    fn retrieval(&self) -> Result<Retrieval> {
        let (bits, database, queries) = (self.bits, self.database, self.queries);
        Ok(Retrieval { bits, database, queries, threads: self.how.threads()?, backend: self.device.backend()? })
    }
}

impl Evaluate {
    fn wanted(&self) -> Wanted {
        if self.map_only { Wanted::map_only(&[self.top_k]) } else { Wanted::all(&[self.top_k]) }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let how = match &arguments.what {
        Some(What::Forward(Net { how, .. }) | What::Train(Net { how, .. })) => how,
        Some(What::Images(Images { how, .. })) => how,
        Some(What::Hash(Hash { how, .. })) => how,
        Some(What::Search(Search { sizes, .. }) | What::Evaluate(Evaluate { sizes, .. })) => &sizes.how,
        None => &arguments.how,
    };
    if !how.seconds.is_finite() || how.seconds < 0.0 {
        return Err(Error::input(format!("`--seconds` is {}", how.seconds)).hint("give a number from 0 up"));
    }
    let file = Sample::for_all(arguments.what.is_none())?;
    let mut nets = match &arguments.what {
        Some(What::Forward(net)) => net.subjects(Pass::Forward)?,
        Some(What::Train(net)) => net.subjects(Pass::Train)?,
        _ => Nets::default(),
    };
    let mut retrieval = None;
    let mut subjects = match &arguments.what {
        Some(What::Forward(_) | What::Train(_)) => std::mem::take(&mut nets.subjects),
        Some(What::Images(of)) => vec![of.subject()?],
        Some(What::Hash(of)) => vec![hash(&of.file, how.threads()?)?],
        Some(What::Search(of)) => vec![retrieval.insert(of.sizes.retrieval()?).search(of.top)?],
        Some(What::Evaluate(of)) => {
            vec![retrieval.insert(of.sizes.retrieval()?).evaluate(of.classes, of.wanted())?]
        }
        None => everything(how, &file)?,
    };
    if subjects.len() > 1 {
        note(&format!("{} measurements of {} s each, in turns", subjects.len(), how.seconds));
    }
    let on =
        if let Some(What::Forward(net) | What::Train(net)) = &arguments.what { net.device } else { On { gpu: None } };
    let found = measure(&mut subjects, Duration::from_secs_f64(how.seconds)).map_err(|error| on.explained(error))?;
    let beside = retrieval.map(|of| beside(&of, &found)).transpose()?.unwrap_or_default();
    let beside = if nets.facts.is_empty() { vec![beside; found.len()] } else { nets.beside(on)? };
    show(&found, how.json, &beside);
    remember(&found, &how.cache)?;
    Ok(0)
}

impl How {
    fn threads(&self) -> Result<usize> {
        match self.threads {
            Some(0) => Err(Error::input("`--threads` is 0").hint("give at least 1, or leave it out")),
            Some(threads) => Ok(threads),
            None => Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        }
    }
}

/// Facts of a subject, by their names in JSON.
type Facts = Vec<(&'static str, Value)>;

/// Networks to measure, and facts of each.
#[derive(Default)]
struct Nets {
    subjects: Vec<Subject<'static>>,
    facts: Vec<(Facts, Rc<Cell<Option<Rates>>>)>,
}

impl Nets {
    /// What is told beside the figures.
    fn beside(self, on: On) -> Result<Vec<Facts>> {
        let of_gpu = on.facts()?;
        let beside = self.facts.into_iter().map(|(mut facts, rates)| {
            facts.extend(of_gpu.iter().cloned());
            if let Some(rates) = rates.get() {
                facts.push(("operations_per_second", json!(rates.operations)));
                facts.push(("bytes_per_second", json!(rates.bytes)));
            }
            facts
        });
        Ok(beside.collect())
    }
}

impl Net {
    /// A subject for every precision and batch.
    fn subjects(&self, pass: Pass) -> Result<Nets> {
        if self.batch.contains(&0) {
            return Err(Error::input("`--batch` is 0").hint("give at least 1"));
        }
        let mut nets = Nets::default();
        for &precision in &self.precision {
            if precision == Precision::Tf32 && self.device.gpu.is_none() {
                note("tf32 is imitated on a CPU");
            }
            if precision == Precision::Bf16 && self.device.gpu.is_none() && !has_bf16() {
                let vectors = vectors(precision);
                note(&format!("bf16 is emulated with {vectors}: this processor has no instructions for it"));
            }
            for &batch in &self.batch {
                let rates = Rc::new(Cell::new(None));
                nets.subjects.push(self.subject(pass, precision, batch, rates.clone())?);
                let facts = vec![
                    ("device", json!(self.device.name())),
                    ("precision", json!(precision.name())),
                    ("batch", json!(batch)),
                ];
                nets.facts.push((facts, rates));
            }
        }
        Ok(nets)
    }

    fn subject(
        &self,
        pass: Pass,
        precision: Precision,
        batch: usize,
        rates: Rc<Cell<Option<Rates>>>,
    ) -> Result<Subject<'static>> {
        let (backbone, on) = (backbone(&self.backbone)?, self.device);
        let name =
            serde_json::to_value(&backbone).ok().and_then(|table| Some(table.get("name")?.as_str()?.to_string()));
        let name = name.unwrap_or_default();
        let (bits, side, threads) = (self.bits, self.side, self.how.threads()?);
        let of = Network { backbone, name, bits, side, batch, threads, precision, gpu: on.gpu };
        let made = network(&of, pass, rates);
        // The hints of a build without CUDA speak of another option.
        made.map_err(|error| match on.gpu {
            Some(_) => on.explained(error).within(Place::Argument(format!("--device {}", on.name()))),
            None => error,
        })
    }
}

/// A backbone by its name, or by a table of TOML.
fn backbone(text: &str) -> Result<BackboneSpec> {
    #[derive(serde::Deserialize)]
    struct Table {
        backbone: BackboneSpec,
    }
    let value = if text.trim_start().starts_with('{') { text.to_string() } else { format!("{{ name = {text:?} }}") };
    let table: Result<Table, _> = toml::from_str(&format!("backbone = {value}"));
    table.map(|table| table.backbone).map_err(|e| {
        Error::input(format!("`{text}` is no backbone"))
            .at(Place::Argument("--backbone".into()))
            .note(e.message().to_string())
            .hint("`hashpipe stages train` shows them and their parameters")
    })
}

impl Images {
    fn subject(&self) -> Result<Subject<'static>> {
        let transform = Transform::imagenet(self.resize, self.crop);
        transform.check()?;
        images(&self.folder, transform, self.how.threads()?)
    }
}

/// A file of zeros to hash, when no file is named.
struct Sample(Option<tempfile::NamedTempFile>);

impl Sample {
    /// Bytes: large enough for all threads to work, small enough to stay in memory.
    const SIZE: usize = 256 << 20;

    fn for_all(all: bool) -> Result<Self> {
        if !all {
            return Ok(Self(None));
        }
        let folder = std::env::temp_dir();
        let failed = |e: std::io::Error| Error::io("write in", &folder, &e);
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        let block = vec![0u8; 1 << 20];
        for _ in 0..Self::SIZE / block.len() {
            file.write_all(&block).map_err(failed)?;
        }
        Ok(Self(Some(file)))
    }

    fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(tempfile::NamedTempFile::path)
    }
}

/// What `bench` alone measures.
fn everything<'a>(how: &How, file: &'a Sample) -> Result<Vec<Subject<'a>>> {
    let threads = how.threads()?;
    let mut subjects = vec![];
    // Emulated, bf16 is of no use.
    let precisions: &[Precision] = if has_bf16() { &[Precision::F32, Precision::Bf16] } else { &[Precision::F32] };
    for &precision in precisions {
        let (backbone, name) = (backbone("alexnet")?, "alexnet".into());
        let alexnet = Network { backbone, name, bits: 64, side: 224, batch: 64, threads, precision, gpu: None };
        for pass in [Pass::Forward, Pass::Train] {
            subjects.push(network(&alexnet, pass, Rc::default())?);
        }
    }
    if let Some(path) = file.path() {
        subjects.push(Subject { name: "hash".into(), ..hash(path, threads)? });
    }
    Ok(subjects)
}

/// Keeps speeds for whoever asks how long a training will take.
fn remember(found: &[Figures], cache: &Path) -> Result<()> {
    let speeds = found.iter().filter(|figures| !figures.speed_of.is_empty());
    let speeds: Vec<_> = speeds.map(|figures| (figures.speed_of.clone(), figures.median)).collect();
    if speeds.is_empty() || !cache.is_dir() {
        return Ok(());
    }
    Store::at(cache).note_speeds(speeds)?;
    note(&format!("kept in `{}`: runs and dry runs predict by it", cache.display()));
    Ok(())
}

/// What else the figures of retrieval say, and what the machine does at most.
fn beside(of: &Retrieval, found: &[Figures]) -> Result<Facts> {
    let median = found.first().map_or(0.0, |figures| figures.median);
    let per_query = ("microseconds_per_query", json!(of.database as f64 / median.max(1e-9) * 1e6));
    // What follows is of the processor.
    if of.backend.is_gpu() {
        return Ok(vec![per_query]);
    }
    let limits = of.limits()?;
    Ok(vec![
        per_query,
        ("popcounts_per_second", json!(limits.popcounts_per_second)),
        ("bytes_read_per_second", json!(limits.bytes_per_second)),
        ("instructions", json!(instructions())),
    ])
}

/// Shows figures; `beside` are further facts of each.
fn show(found: &[Figures], as_json: bool, beside: &[Facts]) {
    if as_json {
        for (figures, beside) in found.iter().zip(beside) {
            let Figures { name, unit, threads, median, p10, p90, turns, floor, .. } = figures;
            let mut line = json!({
                "what": name, format!("{unit}_per_second"): median, "p10": p10, "p90": p90,
                "threads": threads, "floor": floor, "turns": turns,
            });
            for (name, value) in beside {
                line[*name] = value.clone();
            }
            print(&line.to_string());
        }
        return;
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|figures| {
            let rate = |rate: f64| rate_of(rate, figures.unit);
            vec![
                figures.name.clone(),
                rate(figures.median),
                format!("{} to {}", rate(figures.p10), rate(figures.p90)),
                figures.threads.to_string(),
                figures.turns.to_string(),
                figures
                    .floor
                    .map_or(String::new(), |floor| format!("{} ({:.0}%)", rate(floor), 100.0 * figures.median / floor)),
            ]
        })
        .collect();
    print(&table(&["what", "per second", "p10 to p90", "threads", "turns", "floor"], &rows));
    // What is equal for all, or belongs to the only one.
    for (name, value) in beside.first().into_iter().flatten() {
        // The row's name says these.
        let is_told = ["precision", "batch"].contains(name) || (*name == "device" && value == "cpu");
        if is_told || value.is_null() || beside.iter().any(|facts| !facts.contains(&(*name, value.clone()))) {
            continue;
        }
        let value = value.as_f64().map_or_else(|| value.as_str().unwrap_or_default().to_string(), large);
        print(&format!("{}: {value}", name.replace('_', " ")));
    }
}

fn rate_of(rate: f64, unit: &str) -> String {
    if unit == "bytes" { size(rate as u64) } else { format!("{} {unit}", large(rate)) }
}

/// A number with as many digits as it deserves.
fn large(value: f64) -> String {
    if value >= 1e8 { format!("{:.2} billion", value / 1e9) } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_runs_where_it_is_told() {
        assert_eq!(["cuda", "cuda:3", "cpu"].map(|text| on(text).unwrap().name()), ["cuda:0", "cuda:3", "cpu"]);
    }

    #[test]
    fn a_backbone_is_a_name_or_a_table() {
        assert!(matches!(backbone("alexnet").unwrap(), BackboneSpec::AlexNet(_)));
        assert!(matches!(backbone("{ name = \"small\", width = 8 }").unwrap(), BackboneSpec::Small(_)));
        for wrong in ["alexnat", "{ name = \"small\", widht = 8 }", "{", "\"", ""] {
            assert!(backbone(wrong).unwrap_err().render("error").contains("--backbone"), "{wrong}");
        }
    }
}
