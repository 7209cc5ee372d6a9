//! `[encode.*]`: every image of a list becomes a binary code.

use super::contract::{agree, readable};
use super::shelf::{Part, Parts, Shelf};
use super::{Content, Ctx, Describe, Network, Pass, Ref, Resources, Stage, Work, prepared, tell_precision};
use crate::dataset::List;
use crate::error::Result;
use crate::model::{self, Precision, weights};
use crate::retrieval::{self, Codes, Header, Provenance};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Codes of all images of a list: bit j is 1 where output j of the network is above 0.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Encode {
    /// The network.
    model: Ref,
    /// The images.
    list: Ref,
    /// Prepared images to read instead of the files, an output of a `prepare` stage.
    prepared: Option<Ref>,
    /// Images the network sees at once.
    #[serde(default = "batch")]
    #[schemars(range(min = 1, max = 65_536))]
    batch: usize,
    /// What products of the network below the hash layer round their factors to; few bits of the codes differ.
    #[serde(default)]
    #[schemars(extend("before" = "f32"))]
    precision: Precision,
}

fn batch() -> usize {
    64
}

impl Describe for Encode {
    const NAME: &'static str = "encode";
    /// Raised also when stored parts of codes are no longer what would be made.
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Turn every image of a list into a binary code";
}

impl Stage for Encode {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["codes"]
    }

    fn holds(&self, output: &str) -> Content {
        if output == "codes" { Content::Codes } else { Content::Other }
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![("model", Content::Network), ("list", Content::List), ("prepared", Content::Prepared)]
    }

    fn resources(&self) -> Resources {
        Resources { gpu: true }
    }

    fn follows_threads(&self) -> bool {
        true
    }

    fn work(&self) -> Option<Work> {
        let network = Network::Of(self.model.clone());
        Some(Work { pass: Pass::Forward, network, list: self.list.clone(), rounds: 1.0, precision: self.precision })
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let card = weights::card(cx.path(&self.model)?)?;
        let list = List::read(cx.path(&self.list)?)?;
        let (shards, model) = (cx.shards().to_path_buf(), cx.digest(&self.model)?.to_string());
        let shelf =
            Shelf::new(&shards, cx.output("part.tmp"), Self::VERSION, &model, &card)?.of_precision(self.precision);
        let mut parts = Parts::gather(&list, &shelf, &mut |warning| cx.warn(warning))?;
        step(cx, &parts)?;
        if parts.encoded + parts.reused < list.len() {
            self.encode(cx, &list, &mut parts)?;
        }
        cx.fact("images_encoded", parts.encoded.to_string());
        cx.fact("images_reused", parts.reused.to_string());

        let Part { codes, zeros } = parts.into_whole()?;
        let provenance = Provenance {
            model: Some(model),
            list: Some(cx.digest(&self.list)?.to_string()),
            transform: Some(card.transform_digest()?),
        };
        retrieval::write(&cx.output("codes"), &codes, &Header { zeros, provenance })?;
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

impl Encode {
    /// Encodes the images of the parts that are not there.
    fn encode(&self, cx: &mut Ctx, list: &List, parts: &mut Parts) -> anyhow::Result<()> {
        let device = cx.device()?;
        tell_precision(cx, self.precision, &device);
        let (network, card) = weights::load(cx.path(&self.model)?, &device)?;
        let network = network.in_precision(self.precision);
        // Parts outlive a task that fails, and are believed for this digest.
        cx.check_unchanged(&self.model)?;
        let images = prepared::open(cx, list.clone(), &self.list, self.prepared.as_ref(), card.transform)?;
        model::encode_signs(&network, &images, parts.batches(self.batch)?, &device, &mut |index, signs| {
            for (position, sign) in index.iter().zip(signs.iter()) {
                parts.push(sign).map_err(|e| e.note(format!("image {} of `{}`", position + 1, self.list.0)))?;
            }
            Ok(step(cx, parts)?)
        })
    }
}

/// Tells how many images have codes.
fn step(cx: &mut Ctx, parts: &Parts) -> Result<()> {
    let (encoded, reused, total) = (parts.encoded, parts.reused, parts.images());
    cx.step((encoded + reused) as u64, total as u64, || match reused {
        0 => "images".into(),
        _ => format!("images, {reused} of them reused"),
    })
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Desk, Ended, run, run_until};
    use super::super::{Job, Message};
    use crate::dataset::{Item, List};
    use crate::error::Kind;
    use serde_json::json;
    use std::path::PathBuf;

    const IMAGES: u32 = 3600;

    /// A list of several parts, and a network.
    fn desk() -> (Desk, Vec<Item>) {
        let desk = Desk::new();
        let items = desk.pictures(0..IMAGES, "all");
        desk.list("list", &items);
        desk.model("model", 16, 1);
        assert!(List::read(&desk.path("list")).unwrap().shards().len() >= 3);
        (desk, items)
    }

    fn job(desk: &Desk) -> Job {
        desk.job("encode", json!({ "model": "model", "list": "list" }))
    }

    fn encode(desk: &Desk) -> Ended {
        run(job(desk)).ok()
    }

    /// The codes made with nothing to reuse.
    fn afresh(desk: &Desk) -> Vec<u8> {
        run(Job { shards: desk.path("no shards").join(job(desk).outputs.file_name().unwrap()), ..job(desk) })
            .ok()
            .bytes("codes")
    }

    /// How many images were encoded, of all that have codes now.
    fn encoded(ended: &Ended) -> usize {
        let count = |fact: &str| ended.fact(fact).unwrap().parse::<usize>().unwrap();
        let (encoded, reused) = (count("images_encoded"), count("images_reused"));
        assert_eq!(encoded + reused, crate::retrieval::read(&ended.path("codes")).unwrap().0.len());
        encoded
    }

    fn shards(desk: &Desk) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(desk.path("shards")).unwrap().map(|entry| entry.unwrap().path());
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
    }

    #[test]
    fn only_what_is_new_is_encoded() {
        let (desk, items) = desk();
        let first = encode(&desk);
        assert_eq!(encoded(&first), IMAGES as usize);
        assert!(first.bytes("codes") == afresh(&desk));
        let again = encode(&desk);
        assert!(encoded(&again) == 0 && again.bytes("codes") == first.bytes("codes"));
        let batch = run(desk.job("encode", json!({ "model": "model", "list": "list", "batch": 7 }))).ok();
        assert!(encoded(&batch) == 0 && batch.bytes("codes") == first.bytes("codes"));

        let mut edited = items.clone();
        edited.remove(1800);
        desk.list("list", &edited);
        let fewer = encode(&desk);
        assert!((1..=IMAGES as usize / 2).contains(&encoded(&fewer)), "{} encoded", encoded(&fewer));
        assert!(fewer.bytes("codes") == afresh(&desk));

        edited = items.clone();
        edited.splice(100..100, desk.pictures(IMAGES..IMAGES + 1, "new"));
        desk.list("list", &edited);
        let more = encode(&desk);
        assert!((1..=IMAGES as usize / 2).contains(&encoded(&more)), "{} encoded", encoded(&more));
        assert!(more.bytes("codes") == afresh(&desk));

        let mut other = items.clone();
        other.iter_mut().for_each(|item| item.labels = vec![0, 1]);
        other.extend(items[..900].iter().cloned());
        desk.list("list", &other);
        let longer = encode(&desk);
        assert!(encoded(&longer) < IMAGES as usize, "{} encoded", encoded(&longer));
        assert!(longer.bytes("codes") == afresh(&desk));
    }

    #[test]
    fn labels_names_and_places_of_images_encode_nothing_and_the_model_all() {
        let (desk, mut items) = desk();
        let before = encode(&desk);
        let codes = |ended: &Ended| crate::retrieval::read(&ended.path("codes")).unwrap().0;
        std::fs::rename(desk.path("images/all"), desk.path("images/moved")).unwrap();
        for item in &mut items {
            item.labels = vec![];
            item.path = item.path.replace("all/", "moved/");
        }
        desk.list("list", &items);
        let after = encode(&desk);
        assert!(encoded(&after) == 0 && codes(&after) == codes(&before));

        let bf16 = || run(desk.job("encode", json!({ "model": "model", "list": "list", "precision": "bf16" }))).ok();
        assert_eq!((encoded(&bf16()), encoded(&bf16())), (IMAGES as usize, 0));
        assert_eq!(encoded(&encode(&desk)), 0, "those of f32 are still there");

        desk.model("model", 16, 2);
        assert_eq!(encoded(&encode(&desk)), IMAGES as usize);
        desk.model("model", 24, 1);
        assert_eq!(encoded(&encode(&desk)), IMAGES as usize);
        desk.model("model", 16, 1);
        assert_eq!(encoded(&encode(&desk)), 0, "and back again");
    }

    #[test]
    fn damaged_parts_are_made_again() {
        let (desk, _) = desk();
        let expected = encode(&desk).bytes("codes");
        let parts = shards(&desk);
        let (first, second) = (std::fs::read(&parts[0]).unwrap(), std::fs::read(&parts[1]).unwrap());
        let mut flipped = first.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (what, bytes) in
            [("torn", &first[..first.len() / 2]), ("empty", &[]), ("flipped", &flipped), ("another part", &second)]
        {
            std::fs::write(&parts[0], bytes).unwrap();
            let ended = encode(&desk);
            assert!(ended.bytes("codes") == expected, "{what}");
            assert!((1..IMAGES as usize).contains(&encoded(&ended)), "{what}");
            assert!(ended.warnings()[0].starts_with("stored codes were damaged and are made again"), "{what}");
            assert_eq!(encoded(&encode(&desk)), 0, "{what}");
        }
        std::fs::remove_file(&parts[0]).unwrap();
        let ended = encode(&desk);
        assert!(ended.bytes("codes") == expected);
        assert!(!ended.warnings().iter().any(|text| text.contains("damaged")), "what is gone is no damage");
    }

    #[test]
    fn a_stopped_encoding_goes_on_after_its_last_part() {
        let (desk, _) = desk();
        let shards = List::read(&desk.path("list")).unwrap().shards();
        for (done, kept) in [(0, 0), (1, 0), (shards[0].end, 0), (shards[0].end + 1, 1), (shards[1].end + 1, 2)] {
            let enough = move |said: &Message| matches!(said, Message::Progress { done: n, .. } if *n >= done as u64);
            let stopped = run_until(Job { shards: desk.path(&format!("stopped at {done}")), ..job(&desk) }, enough);
            assert_eq!(stopped.error().kind(), Kind::Interrupted);
            let resumed = run(Job { outputs: job(&desk).outputs, ..stopped.job }).ok();
            assert!(resumed.bytes("codes") == afresh(&desk), "stopped at {done}");
            // The batch in which it was stopped may have ended the next part.
            let there: Vec<usize> = shards[..kept + 1].iter().map(|shard| IMAGES as usize - shard.end).collect();
            let least = if kept == 0 { IMAGES as usize } else { there[kept - 1] };
            assert!([least, there[kept]].contains(&encoded(&resumed)), "stopped at {done}: {}", encoded(&resumed));
        }
    }

    #[test]
    fn parts_are_not_kept_under_the_digest_of_a_model_that_changed() {
        let desk = Desk::new();
        desk.list("list", &desk.pictures(0..10, "all"));
        desk.model("model", 16, 1);
        let job = job(&desk);
        desk.model("model", 16, 2);
        let ended = run(job);
        assert_eq!(ended.error().kind(), Kind::Changed);
        assert!(!desk.path("shards").exists());
    }

    #[test]
    fn codes_that_are_not_those_of_the_list_are_not_published() {
        let desk = Desk::new();
        let items = desk.pictures(0..10, "all");
        desk.list("list", &items);
        desk.list("nine", &items[..9]);
        desk.list("reversed", &items.iter().rev().cloned().collect::<Vec<_>>());
        desk.model("model", 16, 1);
        desk.model("longer", 17, 1);
        desk.model("other", 16, 2);
        let ended = encode(&desk);
        let of = |model: &str, list: &str| run(desk.job("encode", json!({ "model": model, "list": list }))).ok();
        for (model, list, words) in [
            ("model", "nine", "codes: 9, expected 10"),
            ("longer", "list", "bits: 17, expected 16"),
            ("model", "reversed", "digest of the list: "),
            ("other", "list", "digest of the model: "),
        ] {
            std::fs::write(ended.path("codes"), of(model, list).bytes("codes")).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
        }
        std::fs::write(ended.path("codes"), b"\x93NUMPY and more").unwrap();
        assert!(ended.breach().contains("not a codes file"));
    }

    #[test]
    fn codes_that_tell_nothing_apart_are_told() {
        let desk = Desk::new();
        let same: Vec<Item> = desk.pictures(vec![1; 120], "all");
        desk.list("list", &same);
        desk.model("model", 16, 1);
        let ended = encode(&desk);
        assert_eq!(
            ended.warnings(),
            [
                "only 1 distinct codes among 120 images: the network tells hardly anything apart",
                "16 of 16 bits are the same in all 120 codes and tell nothing apart (bits 0, 1, 2, 3, 4, 5, 6, 7, ..., \
                 from 0)",
            ]
        );
        assert_eq!(ended.fact("bit_balance"), Some("each bit is 1 in 0.0 % to 100.0 % of the codes"));
        desk.list("list", &same[..99]);
        assert_eq!(encode(&desk).warnings(), [""; 0], "a few images may well have one code");
    }
}
