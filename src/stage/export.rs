//! `[export.*]`: a trained network and its codes as files for other programs.

use super::contract::{agree, broken, readable};
use super::{Content, Ctx, Describe, Ref, Stage};
use crate::codefile::{self, CodeSet, Options};
use crate::error::{Error, Result};
use crate::model::onnx::{self, Onnx};
use crate::model::weights;
use crate::names::is_name;
use crate::npy;
use crate::retrieval;
use crate::weightfile::WeightFile;
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// A folder with `weights_K.safetensors`, `model_K.json`, and for each name in `codes`, `NAME_code_K.npy` (float32 of
/// -1 and +1, as the reference writes it) and `NAME_code_K_packed.npy` (bytes; bit j is bit j%8 of byte j/8).
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    /// The network.
    model: Ref,
    /// Codes to export, by the name their files get.
    #[serde(default)]
    codes: BTreeMap<String, Ref>,
    /// The network in further formats: `onnx`, `pth` (PyTorch), `pdparams` (PaddlePaddle), `npz` (NumPy).
    #[serde(default)]
    formats: Vec<String>,
    /// What the ONNX file does beside the network.
    #[serde(default)]
    onnx: onnx::Options,
    /// The codes in further formats: `parquet`, `faiss-flat`, `faiss-hash`, `faiss-multihash`, `jsonl`, `pgvector`, ...
    #[serde(default)]
    code_formats: Vec<String>,
}

/// The formats of weights beside safetensors: ending, and whose names the tensors get there.
const FORMATS: [(&str, &str); 3] = [("pth", "deephash"), ("pdparams", "paddle_hashnet"), ("npz", "hashpipe")];

impl Describe for Export {
    const NAME: &'static str = "export";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Write the network and codes as files for other programs";
}

impl Stage for Export {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["files"]
    }

    fn holds(&self, output: &str) -> Content {
        if output == "files" { Content::Exported } else { Content::Other }
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![("model", Content::Network), ("codes.*", Content::Codes)]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("files", "")]
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let odd = self.codes.keys().filter(|name| !is_name(name));
        let odd = odd.map(|name| {
            ("codes", Error::input(format!("`{name}` cannot name a file")).hint("use letters, digits, `-` and `_`"))
        });
        let formats = self.formats.iter().filter(|name| *name != "onnx" && ending(name).is_none()).map(|name| {
            let known = FORMATS.map(|(ending, _)| ending).join(", ");
            (
                "formats",
                Error::input(format!("there is no format `{name}` of weights"))
                    .note(format!("there are onnx, {known}")),
            )
        });
        let codes =
            self.code_formats.iter().filter_map(|name| Some(("code_formats", codefile::Format::find(name).err()?)));
        let blocked = self.onnx != onnx::Options::default() && !self.writes_onnx();
        let unused =
            blocked.then(|| ("onnx", Error::input("no ONNX file is written").hint("add \"onnx\" to `formats`")));
        odd.chain(formats).chain(codes).chain(unused).collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let folder = cx.output("files");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, &e))?;
        let (network, card) = weights::load(cx.path(&self.model)?, &Device::Cpu)?;
        let bits = card.bits;
        weights::save(&folder.join(format!("weights_{bits}.safetensors")), &network, &card)?;
        let parameters = network.parameters().iter().map(|(name, var)| json!({ "name": name, "shape": var.dims() }));
        let about = json!({
            "program": concat!("hashpipe ", env!("CARGO_PKG_VERSION")),
            "weights": format!("weights_{bits}.safetensors"),
            "bits": bits,
            "backbone": card.backbone,
            "transform": card.transform,
            "classes": card.classes,
            "input": format!("float32 [n, 3, {0}, {0}], RGB, scaled to 0..1, then normalised", card.transform.crop),
            "code": "bit j is 1 where output j is above 0",
            "parameters": parameters.collect::<Vec<_>>(),
            "files": self.formats.iter().map(|name| weights_file(name, bits)).collect::<Vec<_>>(),
            "onnx": self.writes_onnx().then_some(&self.onnx),
        });
        let path = folder.join(format!("model_{bits}.json"));
        std::fs::write(&path, format!("{about:#}\n")).map_err(|e| Error::io("write", &path, &e))?;
        for name in &self.formats {
            let path = folder.join(weights_file(name, bits));
            match ending(name) {
                Some((_, names)) => weights::export(&path, &network, names)?,
                None => onnx::write(&path, &network, &card, self.onnx)?,
            }
        }
        let total = self.codes.len() as u64;
        for (done, (name, codes)) in self.codes.iter().enumerate() {
            cx.step(done as u64, total, || format!("{name} codes"))?;
            write_codes(&folder, name, cx.path(codes)?, &self.code_formats)?;
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let (folder, bits) = (cx.output("files"), weights::card(cx.path(&self.model)?)?.bits);
        let (_, card) =
            readable("files", weights::load(&folder.join(format!("weights_{bits}.safetensors")), &Device::Cpu))?;
        agree("files", "bits", card.bits, bits)?;
        for name in self.formats.iter().filter(|name| ending(name).is_some()) {
            let file = readable("files", WeightFile::open(&folder.join(weights_file(name, bits))))?;
            let expected = readable("files", WeightFile::open(&folder.join(weights_file("safetensors", bits))))?;
            agree("files", name, file.tensors().len(), expected.tensors().len())?;
        }
        if self.writes_onnx() {
            let runtime = readable("files", Onnx::open(&folder.join(weights_file("onnx", bits))))?;
            agree("files", "bits of the ONNX file", runtime.bits(), bits)?;
        }
        for (name, codes) in &self.codes {
            let (codes, _) = retrieval::read(cx.path(codes)?)?;
            for (end, width) in [("", codes.bits()), ("_packed", codes.bits().div_ceil(8))] {
                let file = format!("{name}_code_{}{end}.npy", codes.bits());
                let array = readable("files", npy::read(&folder.join(&file)))?;
                agree("files", &file, format!("{:?}", array.shape), format!("{:?}", [codes.len(), width]))?;
            }
            for format in &self.code_formats {
                let path = folder.join(code_file(name, codes.bits(), codefile::Format::find(format)?));
                let options = Options { bits: Some(codes.bits()), ..Options::default() };
                let (found, _) = readable("files", codefile::read(&path, &options))?;
                if found.codes != codes {
                    return Err(broken("files", format!("`{}` has other codes", path.display())));
                }
            }
        }
        Ok(())
    }
}

impl Export {
    fn writes_onnx(&self) -> bool {
        self.formats.iter().any(|name| name == "onnx")
    }
}

/// Ending and names of a format of weights.
fn ending(name: &str) -> Option<(&'static str, &'static str)> {
    FORMATS.into_iter().find(|(ending, _)| *ending == name)
}

/// The name of an exported network.
pub(super) fn weights_file(format: &str, bits: usize) -> String {
    let what = if format == "onnx" { "model" } else { "weights" };
    format!("{what}_{bits}.{format}")
}

fn code_file(name: &str, bits: usize, format: &codefile::Format) -> String {
    // `_packed.npy` and `.npy` are written anyway, under these very names.
    let joint = if format.suffix.starts_with('.') { "" } else { "_" };
    format!("{name}_code_{bits}{joint}{}", format.suffix)
}

fn write_codes(folder: &Path, name: &str, file: &Path, formats: &[String]) -> Result<()> {
    let (codes, _) = retrieval::read(file)?;
    let bits = codes.bits();
    let signs = (0..codes.len()).flat_map(|i| codes.unpack(i));
    npy::write_f32(&folder.join(format!("{name}_code_{bits}.npy")), [codes.len(), bits], signs)?;
    let packed = folder.join(format!("{name}_code_{bits}_packed.npy"));
    npy::write_u8(&packed, [codes.len(), bits.div_ceil(8)], codes.packed_bytes())?;
    let set = CodeSet::new(codes);
    for format in formats {
        let format = codefile::Format::find(format)?;
        format.write(&folder.join(code_file(name, bits, format)), &set, &Options::default())?;
    }
    Ok(())
}
