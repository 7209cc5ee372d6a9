//! `hashpipe weights`: what files of weights hold, and the same weights for other programs.

use crate::error::{Error, Result};
use crate::image::Transform;
use crate::model::backbone::{BackboneSpec, alexnet::AlexNet};
use crate::model::onnx;
use crate::model::weights::{self, Card};
use crate::report::{count, note, print, table};
use crate::weightfile::{self, Format, Layout, Outgoing, Tensor, WeightFile};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what a file of weights holds, whoever wrote it; nothing in it is executed
    Inspect(Inspect),
    /// Write weights for another program; the ending of OUT tells the format
    Convert(Convert),
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file of PyTorch, PaddlePaddle, safetensors or NumPy
    file: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Read every number: least, greatest and mean of each tensor
    #[arg(long)]
    values: bool,
}

#[derive(Debug, Args)]
pub(super) struct Convert {
    /// A file of PyTorch, PaddlePaddle, safetensors or NumPy
    input: PathBuf,
    /// `.safetensors`, `.pth`, `.pdparams`, `.npz` or `.onnx`
    output: PathBuf,
    /// Whose names the tensors get: `hashpipe`, `torchvision`, `deephash` or `paddle_hashnet` [default: as they are;
    /// between PyTorch and PaddlePaddle, those of the other reproduction]
    #[arg(long, value_name = "WHOSE")]
    names: Option<String>,
    /// For ONNX: normalise in the graph, so that it takes RGB scaled to 0..1
    #[arg(long)]
    normalise: bool,
    /// For ONNX: a second output `code`, true where a logit is above 0
    #[arg(long)]
    sign: bool,
}

pub(super) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Inspect(arguments) => inspect(arguments),
        Command::Convert(arguments) => convert(arguments),
    }
}

fn inspect(arguments: &Inspect) -> Result<u8> {
    let file = WeightFile::open(&arguments.file)?;
    let layout = Layout::guess(&file);
    let rows: Vec<(&Tensor, String, Option<[f64; 3]>)> = file
        .tensors()
        .iter()
        .zip(weightfile::here(&file))
        .map(|(tensor, here)| Ok((tensor, here, arguments.values.then(|| extent(&file, tensor)).transpose()?)))
        .collect::<Result<_>>()?;
    let total: usize = file.tensors().iter().filter_map(Tensor::elements).sum();
    if arguments.json {
        let tensors: Vec<Value> =
            rows.iter().map(|(tensor, here, extent)| to_json(tensor, here, extent.as_ref())).collect();
        let about = json!({
            "file": arguments.file, "format": file.format().name, "names": layout.name,
            "transposed": layout.is_transposed(file.format()), "parameters": total, "tensors": tensors,
            "metadata": file.metadata(), "skipped": file.skipped(),
        });
        print(&about.to_string());
        return Ok(0);
    }
    let heads = ["tensor", "shape", "type", "here", "least", "greatest", "mean"];
    let heads = if arguments.values { &heads[..] } else { &heads[..4] };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(tensor, here, extent)| {
            let values = extent.iter().flatten().map(|value| format!("{value:.6}"));
            let shape = format!("{:?}", tensor.shape);
            let own = [tensor.name.clone(), shape, tensor.number.name().to_string(), here.clone()];
            own.into_iter().chain(values).collect()
        })
        .collect();
    print(&table(heads, &rows));
    let turned = if layout.is_transposed(file.format()) { ", linear weights [in, out]" } else { "" };
    print(&format!("{}; names of {}{turned}; {} numbers", file.format().name, layout.name, count(total as u64)));
    for (key, text) in file.metadata() {
        print(&format!("{key}: {text}"));
    }
    if !file.skipped().is_empty() {
        print(&format!("no tensors: {}", file.skipped().join(", ")));
    }
    Ok(0)
}

/// Least, greatest and mean number.
fn extent(file: &WeightFile, tensor: &Tensor) -> Result<[f64; 3]> {
    let values = file.read_f32(tensor)?;
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64;
    Ok([f64::from(least), f64::from(greatest), mean])
}

fn to_json(tensor: &Tensor, here: &str, extent: Option<&[f64; 3]>) -> Value {
    let mut row = json!({
        "name": tensor.name, "shape": tensor.shape, "type": tensor.number.name(), "here": here,
    });
    if let Some([least, greatest, mean]) = extent {
        row["least"] = json!(least);
        row["greatest"] = json!(greatest);
        row["mean"] = json!(mean);
    }
    row
}

fn convert(arguments: &Convert) -> Result<u8> {
    let Convert { input, output, names, normalise, sign } = arguments;
    if output.extension().is_some_and(|ending| ending == "onnx") {
        return to_onnx(arguments);
    }
    let format = weightfile::can_write(output)?;
    let file = WeightFile::open(input)?;
    if same_file(input, output) {
        return Err(Error::input("the output is the input").hint("give another file to write"));
    }
    let to = match names {
        Some(name) => Layout::find(name)?,
        None => default_names(&file, format)?,
    };
    let tensors: Vec<Outgoing> = file
        .tensors()
        .iter()
        .map(|tensor| {
            let (name, shape, turns) = weightfile::rename(&file, tensor, to, format);
            Outgoing { name, shape, turns }
        })
        .collect();
    if *normalise || *sign {
        return Err(Error::input("`--normalise` and `--sign` are for `.onnx`"));
    }
    // What the metadata say of a network is about names as hashpipe has them.
    let metadata = if to.name == "hashpipe" { file.metadata().clone() } else { Default::default() };
    let mut source = |index: usize| file.read_f32(&file.tensors()[index]);
    weightfile::write(output, format, &tensors, &metadata, &mut source)?;
    note(&format!("{}: {} tensors, names of {}", output.display(), tensors.len(), to.name));
    Ok(0)
}

/// Writes the network of a file: a hashpipe model says what it is, weights of others are taken for AlexNet's.
fn to_onnx(arguments: &Convert) -> Result<u8> {
    let Convert { input, output, normalise, sign, .. } = arguments;
    let is_ours = WeightFile::open(input)?.metadata().contains_key("hashpipe");
    let (model, card) = if is_ours {
        weights::load(input, &crate::device::open(None)?)?
    } else {
        let (backbone, transform) = (BackboneSpec::AlexNet(AlexNet::default()), Transform::imagenet(256, 224));
        let model = weights::import(input, &backbone, transform.crop as usize, &crate::device::open(None)?)?.model;
        let card = Card::new(backbone, model.bits(), transform, vec![]);
        (model, card)
    };
    onnx::write(output, &model, &card, onnx::Options { normalise: *normalise, sign: *sign })?;
    note(&format!("{}: {} bits, images of {} pixels", output.display(), model.bits(), model.side()));
    Ok(0)
}

/// Names that the readers of a format expect.
fn default_names(file: &WeightFile, format: &Format) -> Result<&'static Layout> {
    let own = Layout::guess(file);
    if own.name == "torchvision" || file.format().transposed == format.transposed {
        return Ok(own);
    }
    Layout::find(if format.transposed { "paddle_hashnet" } else { "deephash" })
}

fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
