//! `[export.*]`: a trained network and its codes as files for other programs.

use super::contract::{agree, readable};
use super::{Ctx, Describe, Ref, Stage};
use crate::error::{Error, Result};
use crate::model::weights;
use crate::names::is_name;
use crate::npy;
use crate::retrieval;
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
}

impl Describe for Export {
    const NAME: &'static str = "export";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Write the network and codes as files for other programs";
}

impl Stage for Export {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["files"]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("files", "")]
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let odd = self.codes.keys().filter(|name| !is_name(name));
        odd.map(|name| {
            ("codes", Error::input(format!("`{name}` cannot name a file")).hint("use letters, digits, `-` and `_`"))
        })
        .collect()
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
        });
        let path = folder.join(format!("model_{bits}.json"));
        std::fs::write(&path, format!("{about:#}\n")).map_err(|e| Error::io("write", &path, &e))?;
        let total = self.codes.len() as u64;
        for (done, (name, codes)) in self.codes.iter().enumerate() {
            cx.step(done as u64, total, || format!("{name} codes"))?;
            write_codes(&folder, name, cx.path(codes)?)?;
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let (folder, bits) = (cx.output("files"), weights::card(cx.path(&self.model)?)?.bits);
        let (_, card) =
            readable("files", weights::load(&folder.join(format!("weights_{bits}.safetensors")), &Device::Cpu))?;
        agree("files", "bits", card.bits, bits)?;
        for (name, codes) in &self.codes {
            let (codes, _) = retrieval::read(cx.path(codes)?)?;
            for (end, width) in [("", codes.bits()), ("_packed", codes.bits().div_ceil(8))] {
                let file = format!("{name}_code_{}{end}.npy", codes.bits());
                let array = readable("files", npy::read(&folder.join(&file)))?;
                agree("files", &file, format!("{:?}", array.shape), format!("{:?}", [codes.len(), width]))?;
            }
        }
        Ok(())
    }
}

fn write_codes(folder: &Path, name: &str, file: &Path) -> Result<()> {
    let (codes, _) = retrieval::read(file)?;
    let bits = codes.bits();
    let signs = (0..codes.len()).flat_map(|i| codes.unpack(i));
    npy::write_f32(&folder.join(format!("{name}_code_{bits}.npy")), [codes.len(), bits], signs)?;
    let packed = folder.join(format!("{name}_code_{bits}_packed.npy"));
    npy::write_u8(&packed, [codes.len(), bits.div_ceil(8)], codes.packed_bytes())
}
