//! `[encode.*]`: every image of a list becomes a binary code.

use super::{Ctx, Describe, Ref, Resources, Stage};
use crate::dataset::{Examples as _, Images, List};
use crate::model::{self, weights};
use crate::retrieval::{self, Codes, Header, Provenance};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Codes of all images of a list: bit j is 1 where output j of the network is above 0.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Encode {
    /// The network.
    model: Ref,
    /// The images.
    list: Ref,
    /// Images the network sees at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1, max = 65_536))]
    batch: usize,
}

/// With fewer distinct codes than one for so many images, something has gone wrong in the training.
const COLLAPSED: usize = 100;

fn batch() -> usize {
    64
}

impl Describe for Encode {
    const NAME: &'static str = "encode";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Turn every image of a list into a binary code";
}

impl Stage for Encode {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["codes"]
    }

    fn resources(&self) -> Resources {
        Resources { gpu: true }
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let device = cx.device()?;
        let (network, card) = weights::load(cx.path(&self.model)?, &device)?;
        let list = List::read(cx.path(&self.list)?)?;
        let images = Images::new(list, cx.images(&self.list)?.to_path_buf(), card.transform.clone());
        let (total, mut zeros) = (images.len() as u64, 0);
        let mut codes = Codes::new(card.bits)?;
        let order: Vec<u32> = (0..total as u32).collect();
        let batches = order.chunks(self.batch.max(1)).map(<[u32]>::to_vec).collect();
        model::encode(&network, &images, batches, &device, &mut |index, logits| {
            for (position, outputs) in index.iter().zip(logits.chunks_exact(card.bits)) {
                zeros += codes.push(outputs).map_err(|refusal| {
                    anyhow::Error::from(crate::error::Error::from(refusal)).context(format!(
                        "image {} of `{}`",
                        position + 1,
                        self.list.0
                    ))
                })? as u64;
            }
            Ok(cx.step(codes.len() as u64, total, || "images".into())?)
        })?;
        if zeros > 0 {
            cx.warn(format!(
                "{zeros} outputs were exactly 0: their bits are 0, where the reference's sign(0) is neither"
            ));
        }
        let distinct = (0..codes.len()).map(|i| codes.code(i)).collect::<HashSet<_>>().len();
        if distinct * COLLAPSED < codes.len() {
            cx.warn(format!(
                "only {distinct} distinct codes among {total} images: the network tells hardly anything apart"
            ));
        }
        let transform = blake3::hash(serde_json::to_string(&card.transform)?.as_bytes()).to_hex().to_string();
        let provenance = Provenance {
            model: Some(cx.digest(&self.model)?.to_string()),
            list: Some(cx.digest(&self.list)?.to_string()),
            transform: Some(transform),
        };
        retrieval::write(&cx.output("codes"), &codes, &Header { zeros, provenance })?;
        Ok(())
    }
}
