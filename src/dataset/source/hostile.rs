//! Annotation files that somebody has tampered with: every source either lists images or says what is wrong.
//!
//! Each source is given a small data set; then one of its files is changed in a way drawn by lot, again and again. The
//! lots are seeded, so a failure comes again. A panic, a file outside the folder of images, or a label out of range
//! fails the test; how long or how much memory it takes is bounded by the limits that the parsers' own tests look at.

use super::{SourceSpec, Splits, cifar, coco, imagenet, mirflickr, nuswide, voc};
use crate::error::Result;
use crate::seeded::{Stream, stream};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Pieces that parsers have stumbled over.
const PIECES: [&[u8]; 26] = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"18446744073709551616",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b"../../x",
    b"/etc/passwd",
    b"<!DOCTYPE a [<!ENTITY b \"c\">]>",
    b"&b;",
    b"<object>",
    b"</annotation>",
    b"<![CDATA[",
];

/// Changes some bytes: flips, cuts, doubles, moves, or puts a piece in.
fn mutate(bytes: &mut Vec<u8>, lot: &mut Stream) {
    for _ in 0..=lot.below(4) {
        let (at, other) = (lot.below(bytes.len() + 1), lot.below(bytes.len() + 1));
        let (first, last) = (at.min(other), at.max(other).min(at.min(other) + 64));
        match lot.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << lot.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(first..last)),
            3 => {
                let part = bytes[first..last].to_vec();
                bytes.splice(at..at, part);
            }
            4 => {
                let many = PIECES[lot.below(PIECES.len())].repeat(1 + lot.below(200));
                bytes.splice(at..at, many);
            }
            _ => {
                bytes.splice(at..at, PIECES[lot.below(PIECES.len())].iter().copied());
            }
        }
    }
}

struct Case {
    spec: Value,
    /// Makes the data set in a folder.
    make: fn(&Path),
    /// Files to change, below the folder.
    files: &'static [&'static str],
    rounds: usize,
}

fn table(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    for (number, picture) in ["a.png", "b.png", "c.png"].iter().enumerate() {
        let colour = image::Rgb([number as u8; 3]);
        image::RgbImage::from_pixel(4, 4, colour).save(folder.join(picture)).unwrap();
    }
    std::fs::write(folder.join(name), text).unwrap();
}

const PUBLISHED: &str = "a.png 1 0\nb.png 0 1\nc.png 1 1\n";

fn cases() -> Vec<Case> {
    let lists =
        |name: &str, file: &str| json!({"name": name, "root": "d", "train": file, "query": file, "database": file});
    let with = |mut spec: Value, more: Value| {
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    vec![
        Case {
            spec: json!({"name": "coco", "root": "d", "query": 3, "train": 5}),
            make: |folder| coco::tests::miniature(folder, "2014", 9, 5),
            files: &["annotations/instances_train2014.json", "annotations/instances_val2014.json"],
            rounds: 300,
        },
        Case {
            spec: json!({"name": "voc", "root": "d", "query": 3, "train": 5}),
            make: voc::tests::miniature,
            files: &["VOCdevkit/VOC2012/Annotations/2008_000003.xml", "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt"],
            rounds: 300,
        },
        Case {
            spec: json!({"name": "nuswide", "root": "d", "concepts": 2, "query": 2, "train": 3}),
            make: nuswide::tests::miniature,
            files: &["ImageList/Imagelist.txt", "Groundtruth/AllLabels/Labels_sky.txt"],
            rounds: 200,
        },
        Case {
            spec: json!({"name": "mirflickr", "root": "d", "images": 40, "query": 3, "train": 5}),
            make: mirflickr::tests::miniature,
            files: &["mirflickr25k_annotations_v080/sky.txt"],
            rounds: 200,
        },
        Case {
            spec: json!({"name": "cifar", "root": "d", "query_per_class": 1, "train_per_class": 1, "split": "cifar10-2"}),
            make: |folder| cifar::tests::miniature(folder, cifar::Version::Ten, 5),
            files: &["cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/batches.meta.txt"],
            rounds: 40,
        },
        Case {
            spec: json!({"name": "imagenet", "root": "d", "train_per_class": 2}),
            make: |folder| imagenet::tests::miniature(folder, &["n1", "n2"]),
            files: &["train/n1/n1_0.JPEG"],
            rounds: 20,
        },
        Case {
            spec: lists("files", "d/l.txt"),
            make: |folder| table(folder, "l.txt", PUBLISHED),
            files: &["l.txt"],
            rounds: 300,
        },
        Case {
            spec: with(lists("table", "d/l.csv"), json!({"split": "split"})),
            make: |folder| {
                let text = "path,labels,split\na.png,\"x;y\",train\nb.png,x,query;database\n\"c.png\",,database\n";
                table(folder, "l.csv", text);
            },
            files: &["l.csv"],
            rounds: 300,
        },
        Case {
            spec: with(lists("table", "d/l.jsonl"), json!({"multi_hot": true, "classes": ["x", "y"]})),
            make: |folder| {
                let row =
                    |name: &str| format!("{{\"path\": \"{name}\", \"labels\": [1, 0], \"more\": {{\"a\": [1.5]}}}}\n");
                table(folder, "l.jsonl", &["a.png", "b.png", "c.png"].map(row).concat());
            },
            files: &["l.jsonl"],
            rounds: 300,
        },
    ]
}

fn build(spec: &SourceSpec, project: &Path) -> Result<(tempfile::TempDir, Splits)> {
    let images = tempfile::tempdir().unwrap();
    spec.builder().files(project)?;
    let splits = spec.builder().build(project, images.path(), &mut |_, _| Ok(()))?;
    Ok((images, splits))
}

#[test]
fn whatever_is_in_a_file_it_is_listed_or_refused() {
    for case in cases() {
        let project = tempfile::tempdir().unwrap();
        let folder = project.path().join("d");
        (case.make)(&folder);
        let spec: SourceSpec = serde_json::from_value(case.spec.clone()).unwrap();
        build(&spec, project.path()).unwrap_or_else(|e| panic!("{}: {}", case.spec, e.render("error")));
        let originals: Vec<(PathBuf, Vec<u8>)> =
            case.files.iter().map(|file| (folder.join(file), std::fs::read(folder.join(file)).unwrap())).collect();
        let mut refused = 0;
        for round in 0..case.rounds {
            let mut lot = stream(7, "hostile", &[round as u64]);
            let (path, original) = &originals[lot.below(originals.len())];
            let mut bytes = original.clone();
            mutate(&mut bytes, &mut lot);
            std::fs::write(path, &bytes).unwrap();
            match build(&spec, project.path()) {
                Ok((images, splits)) => check(&splits, spec.builder().root(project.path()), images.path()),
                Err(error) => {
                    refused += 1;
                    let text = error.render("error");
                    assert!(text.len() < 40_000, "{}, round {round}: {} bytes of error", case.spec, text.len());
                }
            }
            std::fs::write(path, original).unwrap();
        }
        assert!(refused > 0, "{}: no change was noticed", case.spec);
        build(&spec, project.path()).unwrap();
    }
}

fn check(splits: &Splits, root: Option<PathBuf>, images: &Path) {
    let root = root.unwrap_or_else(|| images.to_path_buf()).canonicalize().unwrap();
    for list in [&splits.train, &splits.query, &splits.database] {
        for item in &list.items {
            assert!(root.join(&item.path).canonicalize().unwrap().starts_with(&root), "{}", item.path);
            assert!(item.labels.iter().all(|label| (*label as usize) < list.classes.len()));
            assert!(item.labels.is_sorted_by(|a, b| a < b), "{:?}", item.labels);
        }
    }
}
