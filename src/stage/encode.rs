//! `[encode.*]`: every image of a list becomes a binary code.

use super::contract::{agree, readable};
use super::shelf::{Part, Shelf};
use super::{Ctx, Describe, Ref, Resources, Stage};
use crate::dataset::{Images, List};
use crate::error::{Error, Result};
use crate::model;
use crate::model::weights::{self, Card};
use crate::retrieval::{self, Codes, Header, Provenance};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;

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

fn batch() -> usize {
    64
}

impl Describe for Encode {
    const NAME: &'static str = "encode";
    /// Raised also when stored parts of codes are no longer what would be made.
    const VERSION: u32 = 2;
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
        let card = weights::card(cx.path(&self.model)?)?;
        let list = List::read(cx.path(&self.list)?)?;
        let (shards, model) = (cx.shards().to_path_buf(), cx.digest(&self.model)?.to_string());
        let shelf = Shelf::new(&shards, cx.output("part.tmp"), Self::VERSION, &model, &card)?;

        let mut parts: Vec<Slot> = vec![];
        for range in list.shards() {
            let name = shelf.name(&list.items[range.clone()]);
            let (part, warning) = shelf.take(&name, range.len());
            warning.into_iter().for_each(|text| cx.warn(text));
            parts.push(Slot { range, name, part });
        }
        let reused: usize = parts.iter().filter(|slot| slot.part.is_some()).map(|slot| slot.range.len()).sum();
        let mut count = Count { reused, encoded: 0, total: list.len() };
        count.step(cx)?;
        if count.reused < count.total {
            self.make(cx, &card, &list, &shelf, &mut parts, &mut count)?;
        }
        cx.fact("images_encoded", count.encoded.to_string());
        cx.fact("images_reused", count.reused.to_string());

        let mut whole = Part::empty(card.bits)?;
        for part in parts.into_iter().filter_map(|slot| slot.part) {
            whole.codes.append(&part.codes).map_err(Error::from)?;
            whole.zeros += part.zeros;
        }
        let provenance = Provenance {
            model: Some(model),
            list: Some(cx.digest(&self.list)?.to_string()),
            transform: Some(card.transform_digest()?),
        };
        retrieval::write(&cx.output("codes"), &whole.codes, &Header { zeros: whole.zeros, provenance })?;
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let (codes, header) = readable("codes", retrieval::read(&cx.output("codes")))?;
        let list = List::read(cx.path(&self.list)?)?;
        agree("codes", "codes", codes.len(), list.len())?;
        agree("codes", "bits", codes.bits(), weights::card(cx.path(&self.model)?)?.bits)?;
        for (what, found, expected) in [
            ("digest of the list", header.provenance.list, cx.digest(&self.list)?),
            ("digest of the model", header.provenance.model, cx.digest(&self.model)?),
        ] {
            agree("codes", what, found.as_deref().unwrap_or("none"), expected)?;
        }
        describe(cx, &codes, header.zeros);
        Ok(())
    }
}

/// A part of the list, and its codes as soon as they are there.
struct Slot {
    range: Range<usize>,
    name: String,
    part: Option<Part>,
}

/// Images that are done.
struct Count {
    reused: usize,
    encoded: usize,
    total: usize,
}

impl Count {
    fn step(&self, cx: &mut Ctx) -> Result<()> {
        let Self { reused, encoded, total } = *self;
        cx.step((reused + encoded) as u64, total as u64, || match reused {
            0 => "images".into(),
            _ => format!("images, {reused} of them reused"),
        })
    }
}

impl Encode {
    /// Encodes the parts that are not there, and keeps each as soon as it is whole.
    fn make(
        &self,
        cx: &mut Ctx,
        card: &Card,
        list: &List,
        shelf: &Shelf,
        parts: &mut [Slot],
        count: &mut Count,
    ) -> anyhow::Result<()> {
        let device = cx.device()?;
        let (network, _) = weights::load(cx.path(&self.model)?, &device)?;
        // Parts outlive a task that fails, and are believed for this digest.
        cx.check_unchanged(&self.model)?;
        let images = Images::new(list.clone(), cx.images(&self.list)?.to_path_buf(), card.transform.clone());
        let mut missing: Vec<&mut Slot> = parts.iter_mut().filter(|slot| slot.part.is_none()).collect();
        let batches = missing.iter().map(|slot| batches(slot.range.clone(), self.batch)).collect::<Result<Vec<_>>>()?;
        let mut missing = missing.iter_mut();
        let (mut slot, mut part) = (missing.next(), Part::empty(card.bits)?);
        model::encode(&network, &images, batches.concat(), &device, &mut |index, logits| {
            for (position, outputs) in index.iter().zip(logits.chunks_exact(card.bits)) {
                let zeros = part.codes.push(outputs).map_err(|refusal| {
                    let image = format!("image {} of `{}`", position + 1, self.list.0);
                    anyhow::Error::from(Error::from(refusal)).context(image)
                })?;
                part.zeros += zeros as u64;
            }
            count.encoded += index.len();
            if let Some(whole) = slot.as_mut().filter(|slot| slot.range.len() == part.codes.len()) {
                shelf.put(&whole.name, &part)?;
                whole.part = Some(std::mem::replace(&mut part, Part::empty(card.bits)?));
                slot = missing.next();
            }
            Ok(count.step(cx)?)
        })
    }
}

/// A part in batches, none of which reaches into another part.
fn batches(range: Range<usize>, batch: usize) -> Result<Vec<Vec<u32>>> {
    let position =
        |i: usize| u32::try_from(i).map_err(|_| Error::data("the list has more images than can be numbered"));
    let order = range.map(position).collect::<Result<Vec<u32>>>()?;
    Ok(order.chunks(batch.max(1)).map(<[u32]>::to_vec).collect())
}

/// Tells what the codes are like, and warns of those that tell hardly anything apart.
fn describe(cx: &mut Ctx, codes: &Codes, zeros: u64) {
    /// With fewer images, chance alone makes bits constant; with fewer distinct codes than one for so many images,
    /// something has gone wrong in the training.
    const MANY: usize = 100;
    let (count, distinct, ones) = (codes.len(), codes.distinct(), codes.ones());
    cx.fact("distinct_codes", distinct.to_string());
    let shares = || ones.iter().map(|&ones| ones as f64 / count.max(1) as f64);
    let (least, most) = (shares().fold(1.0, f64::min), shares().fold(0.0, f64::max));
    cx.fact("bit_balance", format!("each bit is 1 in {:.1} % to {:.1} % of the codes", least * 100.0, most * 100.0));
    if zeros > 0 {
        cx.warn(format!("{zeros} outputs were exactly 0: their bits are 0, where the reference's sign(0) is neither"));
    }
    if count < MANY {
        return;
    }
    if distinct * MANY < count {
        let text = "the network tells hardly anything apart";
        cx.warn(format!("only {distinct} distinct codes among {count} images: {text}"));
    }
    let constant: Vec<usize> = (0..codes.bits()).filter(|&j| ones[j] == 0 || ones[j] == count).collect();
    if !constant.is_empty() {
        let shown: Vec<String> = constant.iter().take(8).map(ToString::to_string).collect();
        let more = if constant.len() > shown.len() { ", ..." } else { "" };
        let (bits, shown) = (codes.bits(), shown.join(", "));
        cx.warn(format!(
            "{} of {bits} bits are the same in all {count} codes and tell nothing apart (bits {shown}{more}, from 0)",
            constant.len()
        ));
    }
}
