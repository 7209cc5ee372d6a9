//! `hashpipe bench`: what this machine can do.

use super::device_argument::DeviceArgument;
use crate::bench::{Figures, Network, Retrieval, Subject, hash, images, measure, network};
use crate::cache::Store;
use crate::error::{Error, Place, Result};
use crate::image::Transform;
use crate::model::backbone::BackboneSpec;
use crate::model::{Precision, has_bf16, vectors};
use crate::report::{note, print, size, table};
use crate::retrieval::{Wanted, instructions};
use crate::stage::Pass;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
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
    /// Images at once
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Side of the images, in pixels
    #[arg(long, default_value_t = 224)]
    side: usize,
    /// Length of the codes
    #[arg(long, default_value_t = 64)]
    bits: usize,
    /// What products round their factors to: `f32` or `bf16`
    #[arg(long, default_value = "f32")]
    precision: Precision,
    #[command(flatten)]
    how: How,
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
    let mut retrieval = None;
    let mut subjects = match &arguments.what {
        Some(What::Forward(net)) => vec![net.subject(Pass::Forward)?],
        Some(What::Train(net)) => vec![net.subject(Pass::Train)?],
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
    let found = measure(&mut subjects, Duration::from_secs_f64(how.seconds))?;
    show(&found, how.json, &retrieval.map(|of| beside(&of, &found)).transpose()?.unwrap_or_default());
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

impl Net {
    fn subject(&self, pass: Pass) -> Result<Subject<'static>> {
        if self.batch == 0 {
            return Err(Error::input("`--batch` is 0").hint("give at least 1"));
        }
        let backbone = backbone(&self.backbone)?;
        let (bits, side, batch, threads) = (self.bits, self.side, self.batch, self.how.threads()?);
        let name =
            serde_json::to_value(&backbone).ok().and_then(|table| Some(table.get("name")?.as_str()?.to_string()));
        let precision = self.precision;
        if precision == Precision::Tf32 {
            note("tf32 is imitated on a CPU");
        }
        if precision == Precision::Bf16 && !has_bf16() {
            note(&format!("bf16 is emulated with {}: this processor has no instructions for it", vectors(precision)));
        }
        network(&Network { backbone, name: name.unwrap_or_default(), bits, side, batch, threads, precision }, pass)
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
        let alexnet = Network { backbone, name, bits: 64, side: 224, batch: 64, threads, precision };
        subjects.extend([network(&alexnet, Pass::Forward)?, network(&alexnet, Pass::Train)?]);
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
fn beside(of: &Retrieval, found: &[Figures]) -> Result<Vec<(&'static str, serde_json::Value)>> {
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

/// Shows figures; `beside` are facts of the only subject.
fn show(found: &[Figures], as_json: bool, beside: &[(&'static str, serde_json::Value)]) {
    if as_json {
        for figures in found {
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
    for (name, value) in beside {
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
    fn a_backbone_is_a_name_or_a_table() {
        assert!(matches!(backbone("alexnet").unwrap(), BackboneSpec::AlexNet(_)));
        assert!(matches!(backbone("{ name = \"small\", width = 8 }").unwrap(), BackboneSpec::Small(_)));
        for wrong in ["alexnat", "{ name = \"small\", widht = 8 }", "{", "\"", ""] {
            assert!(backbone(wrong).unwrap_err().render("error").contains("--backbone"), "{wrong}");
        }
    }
}
