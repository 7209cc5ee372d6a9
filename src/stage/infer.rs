//! `[infer.*]`: single images through the exported files, compared with the trained network.

use super::contract::agree;
use super::{Ctx, Describe, Ref, Stage, prepared};
use crate::dataset::{Examples as _, List};
use crate::error::{Error, Kind, Result};
use crate::model::{self, HashModel, weights};
use crate::npy;
use crate::retrieval::{self, Codes};
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// One image at a time, as a service would see them: the exported weights must give the trained network's codes, and the
/// exported database codes the same nearest image. Fails if they do not.
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
}

fn database() -> String {
    "database".into()
}

fn count() -> usize {
    10
}

impl Describe for Infer {
    const NAME: &'static str = "infer";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Look single images up with the exported files, and compare with the trained network";
}

impl Stage for Infer {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["result"]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("result", "inference.jsonl")]
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (trained, card) = weights::load(cx.path(&self.model)?, &Device::Cpu)?;
        let files = cx.path(&self.exported)?.to_path_buf();
        let (exported, _) = weights::load(&files.join(format!("weights_{}.safetensors", card.bits)), &Device::Cpu)?;
        let (codes, _) = retrieval::read(cx.path(&self.codes)?)?;
        let stored = read_codes(&files.join(format!("{}_code_{}.npy", self.exported_codes, card.bits)))?;
        let queries = List::read(cx.path(&self.list)?)?;
        let images = prepared::open(cx, queries.clone(), &self.list, self.prepared.as_ref(), card.transform)?;
        let database = List::read(cx.path(&self.database)?)?;
        let total = self.images.min(queries.items.len());
        let mut lines = String::new();
        let order = (0..total as u32).map(|index| vec![index]).collect();
        for (done, (item, batch)) in (0..).zip(queries.items.iter().zip(images.batches(order, None))) {
            cx.step(done, total as u64, || item.path.clone())?;
            let pixels = batch?.pixels;
            let ours = code(&trained, pixels.clone())?;
            let theirs = code(&exported, pixels)?;
            let (near, far) = (nearest(&codes, &ours)?, nearest(&stored, &theirs)?);
            if ours != theirs || near != far {
                return Err(Error::new(Kind::Stage, format!("the exported files disagree on `{}`", item.path))
                    .note(format!("trained: nearest is number {} at distance {}", near.0, near.1))
                    .note(format!("exported: nearest is number {} at distance {}", far.0, far.1))
                    .into());
            }
            let found = database.items.get(near.0 as usize).map(|item| item.path.as_str());
            let line = json!({ "image": item.path, "nearest": found, "distance": near.1, "index": near.0 });
            lines.push_str(&format!("{line}\n"));
        }
        let path = cx.output("result");
        std::fs::write(&path, lines).map_err(|e| Error::io("write", &path, &e))?;
        cx.metric("compared", total as f64);
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let path = cx.output("result");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        let images = self.images.min(List::read(cx.path(&self.list)?)?.len());
        agree("result", "lines", text.lines().count(), images)
    }
}

/// The code of one prepared image.
fn code(network: &HashModel, pixels: Vec<f32>) -> Result<Codes> {
    let logits = model::logits(network, pixels)?;
    let mut codes = Codes::new(network.bits())?;
    codes.push(&logits)?;
    Ok(codes)
}

/// Index and distance of the nearest code, the first of equals, as the reference's argmin.
fn nearest(database: &Codes, query: &Codes) -> Result<(u32, u32)> {
    let found = retrieval::top_k(database, query.code(0), 1)?;
    found.first().map(|near| (near.index, near.distance)).ok_or_else(|| Error::data("the database has no codes"))
}

/// Codes from the reference's layout: float32 of -1 and +1.
fn read_codes(path: &Path) -> Result<Codes> {
    let array = npy::read(path)?;
    let [_, bits] = array.shape[..] else {
        return Err(Error::data(format!("`{}` is not a matrix of codes", path.display())));
    };
    let mut codes = Codes::new(bits)?;
    let values: Vec<f32> = array.to_f64().into_iter().map(|value| value as f32).collect();
    for row in values.chunks_exact(bits) {
        codes.push(row)?;
    }
    Ok(codes)
}
