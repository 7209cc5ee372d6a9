//! `name = "cifar"`: CIFAR-10 and CIFAR-100 from their published batches, with the field's three splits.
//!
//! The training and the test batches together, in that order; each class's pictures are permuted, the first are
//! queries, the next train. A batch holds pixels and no files, but a list names files: each listed picture is written
//! once, as `train/00042.bmp` or `test/00042.bmp`, into the stage's own output, and the list carries the digest of that
//! file. The number is the picture's place in the published order.

mod batch;
mod bmp;
mod pickled;

use super::division::{Database, Division, Draw, Member};
use super::{Digests, Progress, Source, Splits, text};
use crate::dataset::Location;
use crate::dataset::presets::CIFAR10;
use crate::error::{Error, Place, Result};
use batch::{Batch, Layout};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Pictures between two calls of `progress`.
const CHUNK: usize = 1024;

/// CIFAR-10 or CIFAR-100 from the batches of its home page, binary or pickled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cifar {
    /// Folder of the batches, or the one that holds `cifar-10-batches-bin` or the like.
    pub root: Location,
    /// Which of the two, and for CIFAR-100 which of its labels.
    #[serde(default)]
    pub version: Version,
    /// How it is divided, by the names the field has for it.
    #[serde(default)]
    pub split: Split,
    /// Queries of each class; otherwise those of the split.
    #[serde(default)]
    pub query_per_class: Option<usize>,
    /// Training pictures of each class; otherwise those of the split.
    #[serde(default)]
    pub train_per_class: Option<usize>,
    /// Which pictures are drawn.
    #[serde(default)]
    pub seed: u64,
}

/// A CIFAR and its labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// CIFAR-10.
    #[default]
    #[serde(rename = "10")]
    Ten,
    /// CIFAR-100 with its 100 fine classes.
    #[serde(rename = "100")]
    Hundred,
    /// CIFAR-100 with its 20 coarse classes.
    #[serde(rename = "100-coarse")]
    Coarse,
}

/// The splits of DeepHash-pytorch, which the field goes by; the numbers are those of 10 classes with 6,000 pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Split {
    /// 100 queries and 500 training pictures of each class; the rest is searched: 1,000, 5,000 and 54,000.
    #[default]
    #[serde(rename = "cifar10")]
    Apart,
    /// The same, and the training pictures are searched too: 1,000, 5,000 and 59,000.
    #[serde(rename = "cifar10-1")]
    Inside,
    /// 1,000 queries of each class, all others are for training and searched: 10,000, 50,000 and 50,000.
    #[serde(rename = "cifar10-2")]
    All,
}

/// Files of one version.
struct Files {
    /// Folders that the archive of the binary version makes, and that of the pickled one.
    folders: [&'static str; 2],
    train: &'static [&'static str],
    test: &'static str,
    /// Names of the classes: a file with a line each; in the pickled version, a file and a key in it.
    names: &'static str,
    pickled_names: [&'static str; 2],
}

impl Source for Cifar {
    fn check(&self) -> Result<()> {
        self.draw().check(["query_per_class", "train_per_class"])
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.check()?;
        let found = self.find(project)?;
        let named = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (format!("batches/{name}"), path)
        };
        let mut files: Vec<_> = found.batches.into_iter().chain(found.names).map(named).collect();
        files.sort();
        Ok(files)
    }

    fn root(&self, _project: &Path) -> Option<PathBuf> {
        None
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        match self.find(project) {
            Ok(found) => found.batches.into_iter().map(|path| ("batch".to_string(), path)).collect(),
            Err(_) => vec![("folder of batches".into(), self.root.resolve(project))],
        }
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.draw().database.holds_train())
    }

    fn build(&self, project: &Path, images: &Path, progress: Progress) -> Result<Splits> {
        self.check()?;
        let found = self.find(project)?;
        let classes = self.classes(&found)?;
        let batches: Vec<Batch> =
            found.batches.par_iter().map(|path| self.read(path, found.pickled)).collect::<Result<_>>()?;
        let (train, test) = batches.split_at(batches.len() - 1);
        let mut pictures = HashMap::new();
        let mut members = vec![vec![]; classes.len()];
        for (part, batches) in [("train", train), ("test", test)] {
            let all = batches.iter().flat_map(|batch| (0..batch.labels.len()).map(move |picture| (batch, picture)));
            for (number, (batch, picture)) in all.enumerate() {
                let (path, label) = (format!("{part}/{number:05}.bmp"), batch.labels[picture]);
                members[label as usize].push(Member { path: path.clone(), labels: vec![label] });
                pictures.insert(path, (batch, picture));
            }
        }
        let division = self.divide(classes, members, &found.folder)?;
        let digests = write(&division, &pictures, images, progress)?;
        Ok(division.splits(&digests, self.seed))
    }
}

/// What lies on disk.
struct Found {
    folder: PathBuf,
    pickled: bool,
    /// The training batches in order, then the test batch.
    batches: Vec<PathBuf>,
    names: Option<PathBuf>,
}

impl Cifar {
    fn draw(&self) -> Draw {
        let (query, train, database) = match self.split {
            Split::Apart => (100, 500, Database::Rest),
            Split::Inside => (100, 500, Database::TrainAndRest),
            Split::All => (1000, 5000, Database::Train),
        };
        // A class has 6,000 pictures in CIFAR-10, 600 or 3,000 in CIFAR-100: the splits are given for the former.
        let share = match self.version {
            Version::Ten => 1,
            Version::Hundred => 10,
            Version::Coarse => 2,
        };
        let of = |given: Option<usize>, published: usize| given.unwrap_or(published / share);
        let (query, train) = (of(self.query_per_class, query), of(self.train_per_class, train));
        Draw { query, train, database, seed: self.seed }
    }

    fn layout(&self) -> Layout {
        match self.version {
            Version::Ten => Layout { labels: 1, class: 0, key: "labels", classes: 10 },
            Version::Hundred => Layout { labels: 2, class: 1, key: "fine_labels", classes: 100 },
            Version::Coarse => Layout { labels: 2, class: 0, key: "coarse_labels", classes: 20 },
        }
    }

    fn published(&self) -> Files {
        match self.version {
            Version::Ten => Files {
                folders: ["cifar-10-batches-bin", "cifar-10-batches-py"],
                train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
                test: "test_batch",
                names: "batches.meta.txt",
                pickled_names: ["batches.meta", "label_names"],
            },
            Version::Hundred | Version::Coarse => Files {
                folders: ["cifar-100-binary", "cifar-100-python"],
                train: &["train"],
                test: "test",
                names: if self.version == Version::Coarse { "coarse_label_names.txt" } else { "fine_label_names.txt" },
                pickled_names: [
                    "meta",
                    if self.version == Version::Coarse { "coarse_label_names" } else { "fine_label_names" },
                ],
            },
        }
    }

    /// The binary version if it is there, else the pickled one: both hold the same pictures in the same order.
    fn find(&self, project: &Path) -> Result<Found> {
        let (root, files) = (self.root.resolve(project), self.published());
        let folders = |below: &str| [root.join(below), root.clone()];
        for (pickled, below) in [false, true].into_iter().zip(files.folders) {
            for folder in folders(below) {
                let end = if pickled { "" } else { ".bin" };
                let batches: Vec<PathBuf> =
                    files.train.iter().chain([&files.test]).map(|name| folder.join(format!("{name}{end}"))).collect();
                let there = batches.iter().filter(|path| path.is_file()).count();
                if there == 0 {
                    continue;
                }
                if let Some(missing) = batches.iter().find(|path| !path.is_file()) {
                    let message = format!("{} of {} batches are missing", batches.len() - there, batches.len());
                    return Err(Error::data(message)
                        .at(Place::Path(missing.display().to_string()))
                        .hint("unpack the archive once more, or fetch it again"));
                }
                let names = if pickled { files.pickled_names[0] } else { files.names };
                let names = Some(folder.join(names)).filter(|path| path.is_file());
                return Ok(Found { folder, pickled, batches, names });
            }
        }
        let number = if self.version == Version::Ten { 10 } else { 100 };
        Err(Error::data("there are no batches of CIFAR")
            .at(Place::Path(root.display().to_string()))
            .note(format!("looked there, and in `{}` and `{}`", files.folders[0], files.folders[1]))
            .hint(format!("`hashpipe fetch cifar{number} --to {}` gets them", self.root.0)))
    }

    fn read(&self, path: &Path, pickled: bool) -> Result<Batch> {
        match pickled {
            true => pickled::read(path, self.layout()),
            false => batch::binary(path, self.layout()),
        }
    }

    /// Names of the classes: from their file, those everybody knows, or numbers.
    fn classes(&self, found: &Found) -> Result<Vec<String>> {
        let count = self.layout().classes;
        let Some(path) = &found.names else {
            return Ok(match self.version {
                Version::Ten => CIFAR10.map(String::from).to_vec(),
                _ => (0..count).map(|class| format!("class_{class}")).collect(),
            });
        };
        let names: Vec<String> = if found.pickled {
            pickled::names(path, self.published().pickled_names[1])?
        } else {
            let content = text::read("the list of class names", path, 1 << 16)?;
            text::lines(&content).map(|(_, line)| line.trim().to_string()).filter(|name| !name.is_empty()).collect()
        };
        let distinct: std::collections::HashSet<&String> = names.iter().collect();
        if names.len() != count || distinct.len() != count {
            return Err(Error::data(format!("{} different class names, but {count} are expected", distinct.len()))
                .at(Place::Path(path.display().to_string())));
        }
        Ok(names)
    }

    fn divide(&self, classes: Vec<String>, members: Vec<Vec<Member>>, folder: &Path) -> Result<Division> {
        let (draw, mut division) = (self.draw(), Division::default());
        let mut faults = crate::dataset::faults::Faults::default();
        for (name, members) in classes.iter().zip(members) {
            let what = format!("class `{name}`");
            match draw.check_count(&what, members.len(), ["query_per_class", "train_per_class"]) {
                Ok(()) => draw.from_class(name, members, &mut division),
                Err(fault) => faults.push(fault.at(Place::Path(folder.display().to_string()))),
            }
        }
        faults.into_result().map(|()| division)
    }
}

/// Writes the listed pictures.
fn write<'a>(
    division: &'a Division,
    pictures: &HashMap<String, (&Batch, usize)>,
    images: &Path,
    progress: Progress,
) -> Result<Digests<'a>> {
    let paths = division.paths();
    for part in ["train", "test"] {
        let folder = images.join(part);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, &e))?;
    }
    let one = |path: &&'a str| -> Result<(&'a str, String)> {
        let planes = pictures.get(*path).and_then(|(batch, picture)| batch.planes(*picture));
        let bytes = bmp::encode(planes.expect("a list names pictures of the batches"));
        let target = images.join(path);
        std::fs::write(&target, &bytes).map_err(|e| Error::io("write image", &target, &e))?;
        Ok((*path, blake3::hash(&bytes).to_string()))
    };
    let (total, mut digests) = (paths.len() as u64, Digests::new());
    progress(0, total)?;
    for chunk in paths.chunks(CHUNK) {
        digests.extend(chunk.par_iter().map(one).collect::<Result<Vec<_>>>()?);
        progress(digests.len() as u64, total)?;
    }
    Ok(digests)
}

#[cfg(test)]
pub(super) mod tests {
    use super::bmp::PLANES;
    use super::*;

    /// Records in the layout of the binary version: `per_class` pictures of each class in the training batches together,
    /// and half as many in the test batch.
    pub(crate) fn miniature(folder: &Path, version: Version, per_class: usize) {
        let cifar = cifar(version);
        let (files, layout) = (cifar.published(), cifar.layout());
        let folder = folder.join(files.folders[0]);
        std::fs::create_dir_all(&folder).unwrap();
        let mut number = 0u32;
        let mut batch = |name: &str, pictures: usize| {
            let mut bytes = vec![];
            for _ in 0..pictures {
                let class = (number as usize % layout.classes) as u8;
                bytes.extend((0..layout.labels).map(|at| if at == layout.class { class } else { 1 }));
                bytes.extend((0..PLANES).map(|i| (i as u32 * 3 + number * 7) as u8 ^ (number >> 5) as u8));
                number += 1;
            }
            std::fs::write(folder.join(format!("{name}.bin")), bytes).unwrap();
        };
        let pictures = layout.classes * per_class;
        for name in files.train {
            batch(name, pictures / files.train.len());
        }
        batch(files.test, pictures / 2);
        let names: String = (0..layout.classes).map(|class| format!("name {class}\n")).collect();
        std::fs::write(folder.join(files.names), names + "\n").unwrap();
    }

    pub(super) fn layout(version: Version) -> Layout {
        cifar(version).layout()
    }

    fn cifar(version: Version) -> Cifar {
        let root = Location("data".into());
        Cifar { root, version, split: Split::Apart, query_per_class: Some(2), train_per_class: Some(3), seed: 1 }
    }

    fn build(project: &Path, cifar: &Cifar) -> Result<(tempfile::TempDir, Splits)> {
        let images = tempfile::tempdir().unwrap();
        let splits = cifar.build(project, images.path(), &mut |_, _| Ok(()))?;
        Ok((images, splits))
    }

    #[test]
    fn the_three_splits_divide_every_class_alike() {
        let project = tempfile::tempdir().unwrap();
        miniature(&project.path().join("data"), Version::Ten, 10);
        for (split, database) in [(Split::Apart, 100), (Split::Inside, 130), (Split::All, 30)] {
            let cifar = Cifar { split, ..cifar(Version::Ten) };
            let (images, splits) = build(project.path(), &cifar).unwrap();
            assert_eq!([splits.query.len(), splits.train.len(), splits.database.len()], [20, 30, database]);
            for class in 0..10 {
                assert_eq!(splits.query.items.iter().filter(|item| item.labels == [class]).count(), 2);
                assert_eq!(splits.train.items.iter().filter(|item| item.labels == [class]).count(), 3);
            }
            for item in &splits.database.items {
                let bytes = std::fs::read(images.path().join(&item.path)).unwrap();
                assert_eq!(blake3::hash(&bytes).to_string(), item.digest);
            }
            assert!(splits.breaches(cifar.train_in_database()).is_empty(), "{:?}", splits.breaches(None));
            assert_eq!(splits, build(project.path(), &cifar).unwrap().1);
            assert_eq!((cifar.files(project.path()).unwrap().len(), splits.train.classes[3].as_str()), (7, "name 3"));
        }
        let published = Cifar { query_per_class: None, train_per_class: None, ..cifar(Version::Ten) };
        assert_eq!((published.draw().query, published.draw().train), (100, 500));
        let hundred = Cifar { version: Version::Hundred, split: Split::All, ..published };
        assert_eq!((hundred.draw().query, hundred.draw().train), (100, 500));
    }

    #[test]
    fn both_labels_of_cifar_100_are_read() {
        let project = tempfile::tempdir().unwrap();
        for (version, classes) in [(Version::Hundred, 100), (Version::Coarse, 20)] {
            miniature(&project.path().join("data"), version, 10);
            let (_, splits) = build(project.path(), &cifar(version)).unwrap();
            assert_eq!((splits.train.classes.len(), splits.query.len()), (classes, 2 * classes));
        }
    }

    #[test]
    fn the_pickled_version_gives_the_same_lists() {
        let (project, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (version, key) in [(Version::Ten, "labels"), (Version::Hundred, "fine_labels")] {
            miniature(&project.path().join("data"), version, 10);
            let (cifar, layout) = (cifar(version), layout(version));
            let [binary, pickled] = cifar.published().folders.map(|folder| format!("data/{folder}"));
            std::fs::create_dir_all(other.path().join(&pickled)).unwrap();
            for entry in std::fs::read_dir(project.path().join(binary)).unwrap() {
                let path = entry.unwrap().path();
                let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".bin") else { continue };
                let found = batch::binary(&path, layout).unwrap();
                let labels: Vec<u8> = found.labels.iter().map(|label| *label as u8).collect();
                let bytes = pickled::tests::pickle(&labels, &found.pixels, key);
                std::fs::write(other.path().join(&pickled).join(name), bytes).unwrap();
            }
            let (one, two) = (build(project.path(), &cifar).unwrap().1, build(other.path(), &cifar).unwrap().1);
            // There is no file of names; what is drawn of a class depends on its name.
            assert_eq!(two.train.len(), one.train.len());
            let all = |splits: &Splits| -> std::collections::BTreeSet<String> {
                let lists = [&splits.train, &splits.query, &splits.database];
                let items = lists.into_iter().flat_map(|list| &list.items);
                items.map(|item| format!("{} {} {:?}", item.path, item.digest, item.labels)).collect()
            };
            assert_eq!(all(&one), all(&two));
        }
    }

    #[test]
    fn batches_that_are_no_batches_are_refused() {
        let project = tempfile::tempdir().unwrap();
        let shown = |cifar: &Cifar| build(project.path(), cifar).map(|_| ()).unwrap_err().render("error");
        assert!(shown(&cifar(Version::Ten)).contains("there are no batches of CIFAR"));
        miniature(&project.path().join("data"), Version::Ten, 10);
        let path = project.path().join("data/cifar-10-batches-bin/data_batch_2.bin");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(shown(&cifar(Version::Ten)).contains("which is no multiple of 3073"));
        let mut wrong = bytes.clone();
        (wrong[0], wrong[3073]) = (10, 255);
        std::fs::write(&path, wrong).unwrap();
        let text = shown(&cifar(Version::Ten));
        assert!(text.contains("picture 0 has class 10") && text.contains("picture 1 has class 255"), "{text}");
        std::fs::remove_file(&path).unwrap();
        assert!(shown(&cifar(Version::Ten)).contains("1 of 6 batches are missing"));
        std::fs::write(&path, bytes).unwrap();
        let many = Cifar { train_per_class: Some(100), ..cifar(Version::Ten) };
        assert!(shown(&many).contains("class `name 0` has too few images: 15, but 103 are needed"));
    }
}
