//! `[prepare.*]`: every image of a list decoded and resized once, for all trainings and encodings that follow.

use super::contract::{agree, readable};
use super::{Content, Ctx, Describe, Ref, Stage};
use crate::dataset::{Item, List, Listed, Prepared, Scale, Writer, is_part};
use crate::error::{Error, Result};
use crate::threads;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Images as training needs them before it cuts and mirrors: decoded, and the shorter side at `resize` pixels. Takes
/// three bytes for each pixel: about 260 KB an image at 256 pixels.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Prepare {
    /// The images.
    list: Ref,
    /// Length the shorter side is resized to, in pixels: the `resize` of the transform that will read them.
    #[serde(default = "resize")]
    #[schemars(range(min = 8, max = 4096))]
    resize: u32,
    /// Turn pictures upright as their EXIF data tells: the `apply_exif` of the transform that will read them.
    #[serde(default)]
    apply_exif: bool,
}

fn resize() -> u32 {
    256
}

/// The output, a folder.
const IMAGES: &str = "images";

/// Images that are decoded before the next are begun, for each thread: what bounds the memory.
const AT_ONCE: usize = 8;

impl Describe for Prepare {
    const NAME: &'static str = "prepare";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Decode and resize every image of a list once, for all that read it later";
}

impl Stage for Prepare {
    fn outputs(&self) -> Vec<&'static str> {
        vec![IMAGES]
    }

    fn holds(&self, output: &str) -> Content {
        if output == IMAGES { Content::Prepared } else { Content::Other }
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![("list", Content::List)]
    }

    fn follows_threads(&self) -> bool {
        true
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let fault = || Error::input(format!("`resize` is {}", self.resize)).hint("it is in pixels, from 8 to 4096");
        (!(8..=4096).contains(&self.resize)).then(|| ("resize", fault())).into_iter().collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let list = List::read(cx.path(&self.list)?)?;
        let listed = Listed { list, root: cx.images(&self.list)?.to_path_buf() };
        let folder = cx.output(IMAGES);
        fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, &e))?;
        let (mut prepared, mut reused) = (0, 0);
        for (number, range) in listed.list.shards().into_iter().enumerate() {
            let name = self.scale().name(&listed.list.items[range.clone()]);
            let kept = cx.shards().join(&name[..2]).join(&name);
            // Read in full: what is damaged there would be damaged in the output as well.
            if is_part(&kept, &name) {
                reused += range.len();
            } else {
                if kept.exists() {
                    cx.warn(format!("stored images were damaged and are made again: `{}`", kept.display()));
                }
                prepared += range.len();
                self.prepare(cx, &listed, range.clone(), &name, &kept)?;
            }
            place(&kept, &folder.join(format!("{number:05}-{}", &name[..16])))?;
            step(cx, range.end, listed.list.len())?;
        }
        cx.fact("images_prepared", prepared.to_string());
        cx.fact("images_reused", reused.to_string());
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let list = List::read(cx.path(&self.list)?)?;
        if list.is_empty() {
            return Ok(());
        }
        let prepared = readable(IMAGES, Prepared::open(&cx.output(IMAGES)))?;
        agree(IMAGES, "resize", prepared.scale().resize, self.resize)?;
        let left_out: Vec<&Item> = list.items.iter().filter(|item| !prepared.has(item)).collect();
        if let Some(first) = left_out.first() {
            cx.warn(format!(
                "{} of {} images are so long and narrow that they are not kept, and decoded each time (`{}`, ...)",
                left_out.len(),
                list.len(),
                first.path
            ));
        }
        Ok(())
    }
}

impl Prepare {
    fn scale(&self) -> Scale {
        Scale { resize: self.resize, apply_exif: self.apply_exif }
    }

    /// Makes a part, and puts it where whoever needs it again finds it.
    fn prepare(&self, cx: &mut Ctx, listed: &Listed, range: Range<usize>, name: &str, kept: &Path) -> Result<()> {
        let aside = aside(cx);
        let mut writer = Writer::create(&aside, self.scale(), name, range.len())?;
        let mut left: Vec<usize> = range.collect();
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(AT_ONCE * cx.threads()));
            let positions = std::mem::replace(&mut left, rest);
            let one = |position: &usize| {
                let image = self.scale().prepare(&listed.bytes(*position)?);
                image.map_err(|e| listed.undecodable(*position, &e))
            };
            let images: Vec<_> = threads::step(|| positions.par_iter().with_max_len(1).map(one).collect());
            for (position, image) in positions.iter().zip(images) {
                writer.push(&listed.list.items[*position], image?.as_ref())?;
                step(cx, *position, listed.list.len())?;
            }
        }
        writer.finish()?;
        let parent = kept.parent().unwrap_or(kept);
        fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
        fs::rename(&aside, kept).map_err(|e| Error::io("write", kept, &e))
    }
}

/// Where a part is written before it gets its name: on the same disk, and gone with the task.
fn aside(cx: &Ctx) -> PathBuf {
    cx.output("part.tmp")
}

fn step(cx: &mut Ctx, done: usize, total: usize) -> Result<()> {
    cx.step(done as u64, total as u64, || "images".into())
}

/// The same file under a second name, as parts are never written to again; a copy where that cannot be.
fn place(kept: &Path, output: &Path) -> Result<()> {
    let made = fs::hard_link(kept, output).or_else(|_| reflink_copy::reflink_or_copy(kept, output).map(|_| ()));
    made.map_err(|e| Error::io("write", output, &e))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Desk, Ended, made, run};
    use super::super::{Input, Job};
    use crate::dataset::{Item, Prepared};
    use crate::error::Kind;
    use serde_json::{Value, json};

    const IMAGES: u32 = 3600;

    fn desk() -> (Desk, Vec<Item>) {
        let desk = Desk::new();
        let items = desk.pictures(0..IMAGES, "all");
        desk.list("list", &items);
        (desk, items)
    }

    fn job(desk: &Desk) -> Job {
        desk.job("prepare", json!({ "list": "list", "resize": 8 }))
    }

    /// How many images were prepared, of all that are there now.
    fn prepared(ended: &Ended) -> usize {
        ended.fact("images_prepared").unwrap().parse().unwrap()
    }

    /// A task that reads what another one prepared.
    fn with_prepared(desk: &Desk, kind: &str, mut params: Value, images: &Ended) -> Job {
        params["prepared"] = "prepared".into();
        let mut job = desk.job(kind, params);
        let path = images.path("images");
        job.inputs.insert("prepared".into(), Input { path, ..made(&desk.path("list")) });
        job
    }

    #[test]
    fn only_what_is_new_is_prepared() {
        let (desk, items) = desk();
        let first = run(job(&desk)).ok();
        assert_eq!((prepared(&first), first.warnings()), (IMAGES as usize, vec![]));
        assert_eq!(prepared(&run(job(&desk)).ok()), 0);
        let longer = [items.clone(), desk.pictures(9000..9100, "new")].concat();
        desk.list("list", &longer);
        let appended = run(job(&desk)).ok();
        assert!((100..IMAGES as usize / 2).contains(&prepared(&appended)), "{}", prepared(&appended));
        let folder = Prepared::open(&appended.path("images")).unwrap();
        assert!(longer.iter().all(|item| folder.has(item)));
        assert_eq!(appended.warnings(), [""; 0]);
    }

    #[test]
    fn what_is_damaged_is_made_again() {
        let (desk, _) = desk();
        let first = run(job(&desk)).ok();
        let mut files: Vec<_> = std::fs::read_dir(first.path("images")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let whole: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        // The shelf's file is the same one under another name.
        let mut damaged = whole[0].clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&files[0], damaged).unwrap();
        std::fs::write(&files[1], "half").unwrap();
        let again = run(job(&desk)).ok();
        assert_eq!(again.warnings().len(), 2);
        assert!(again.warnings()[0].starts_with("stored images were damaged and are made again"));
        for (file, whole) in files.iter().zip(whole) {
            assert!(std::fs::read(again.path("images").join(file.file_name().unwrap())).unwrap() == whole);
        }
    }

    #[test]
    fn codes_and_networks_are_the_same_from_prepared_images() {
        let (desk, _) = desk();
        let images = run(job(&desk)).ok();
        desk.model("model", 16, 1);
        let params = json!({ "model": "model", "list": "list" });
        let direct = desk.run("encode", params.clone()).ok();
        let job = with_prepared(&desk, "encode", params, &images);
        let read = run(Job { shards: desk.path("other shards"), ..job }).ok();
        assert!(read.bytes("codes") == direct.bytes("codes") && read.warnings() == direct.warnings());

        let params = json!({
            "list": "list", "bits": 8, "epochs": 1, "batch": 64,
            "backbone": { "name": "small", "channels": [4], "width": 6 },
            "optimizer": { "name": "sgd", "lr": 0.01 }, "transform": { "resize": 8, "crop": 8 },
        });
        let direct = desk.run("train", params.clone()).ok();
        let read = run(with_prepared(&desk, "train", params.clone(), &images)).ok();
        assert!(read.bytes("model") == direct.bytes("model"));

        let mut other = params;
        other["transform"]["resize"] = 16.into();
        let refused = run(with_prepared(&desk, "train", other, &images));
        assert_eq!(refused.error().message(), "the images were prepared for another transform");
    }

    #[test]
    fn a_file_that_changed_is_told() {
        let (desk, items) = desk();
        std::fs::write(desk.path("images").join(&items[70].path), "other").unwrap();
        let ended = run(job(&desk));
        assert_eq!(ended.error().kind(), Kind::Changed);
        assert!(ended.error().message().starts_with("image `all/70.bmp` (number 71 of 3600 in the list) has changed"));
    }
}
