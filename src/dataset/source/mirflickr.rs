//! `name = "mirflickr"`: MIRFlickr-25K from its annotation files.
//!
//! Each file of `mirflickr25k_annotations_v080` but the README is a class: the numbers of the images that show it, a
//! line each. `baby.txt` holds the images where a baby may be seen, `baby_r1.txt` those where it matters; the field
//! takes both as classes, 38 together, in the order of the files' names.

use super::division::{Database, Division, Draw, Member};
use super::{OnError, Progress, Source, Splits, text};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// MIRFlickr-25K: images `im1.jpg` to `im25000.jpg`, and a file of image numbers for each class.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirFlickr {
    /// Folder of the images; or the one that holds them in `mirflickr/`, and the annotations in
    /// `mirflickr25k_annotations_v080/`.
    pub root: Location,
    /// Folder of the annotation files; otherwise `mirflickr25k_annotations_v080` in `root`.
    #[serde(default)]
    pub annotations: Option<Location>,
    /// Which annotations count.
    #[serde(default)]
    pub labels: Labels,
    /// How many images there are.
    #[serde(default = "images")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub images: u32,
    /// What happens to images without any label; the published lists keep them.
    #[serde(default)]
    pub unlabelled: Unlabelled,
    /// Queries that are drawn.
    #[serde(default = "queries")]
    #[schemars(range(min = 1))]
    pub query: usize,
    /// Training images that are drawn.
    #[serde(default = "training")]
    #[schemars(range(min = 1))]
    pub train: usize,
    /// What is searched.
    #[serde(default)]
    pub database: Database,
    /// Which images are drawn.
    #[serde(default)]
    pub seed: u64,
    /// What happens to an image that cannot be decoded: `error`, or `skip` to leave it out of all lists.
    #[serde(default)]
    pub on_error: OnError,
}

/// A part of the annotations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// All 38 files.
    #[default]
    All,
    /// The 24 files of what may be seen.
    Potential,
    /// The 14 files of what matters, `*_r1.txt`.
    Relevant,
}

/// What becomes of images that have no label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unlabelled {
    /// They are drawn like others; nothing is relevant to them.
    #[default]
    Keep,
    /// They are in no list.
    Drop,
}

fn images() -> u32 {
    25_000
}

fn queries() -> usize {
    1000
}

fn training() -> usize {
    4000
}

impl Source for MirFlickr {
    fn check(&self) -> Result<()> {
        self.draw().check(["query", "train"])
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let classes = self.classes(project)?;
        let also = classes.iter().map(|(name, path)| (format!("annotations/{name}"), path.clone())).collect();
        self.divide(classes)?.files(&self.folder(project), also)
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.folder(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        vec![("annotations".into(), self.annotations(project)), ("images".into(), self.folder(project))]
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.database.holds_train())
    }

    fn breaches(&self) -> Vec<String> {
        self.database.breaches()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let division = self.divide(self.classes(project)?)?;
        division.verified(&self.folder(project), self.seed, self.on_error, progress)
    }
}

impl MirFlickr {
    fn draw(&self) -> Draw {
        Draw { query: self.query, train: self.train, database: self.database, seed: self.seed }
    }

    /// Folder of the images: the archive makes one of its own.
    fn folder(&self, project: &Path) -> PathBuf {
        let root = self.root.resolve(project);
        let own = root.join("mirflickr");
        if own.is_dir() || !root.join("im1.jpg").is_file() { own } else { root }
    }

    fn annotations(&self, project: &Path) -> PathBuf {
        match &self.annotations {
            Some(folder) => folder.resolve(project),
            None => self.root.resolve(project).join("mirflickr25k_annotations_v080"),
        }
    }

    /// Classes that count, with their files, by name.
    fn classes(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.check()?;
        let folder = self.annotations(project);
        if !folder.is_dir() {
            return Err(Error::data("the folder of annotations of MIRFlickr is missing")
                .at(Place::Path(folder.display().to_string()))
                .hint("`hashpipe fetch mirflickr --to DIR` gets it"));
        }
        let mut classes = vec![];
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io("list folder", &folder, &e))? {
            let path = entry.map_err(|e| Error::io("list folder", &folder, &e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(class) = name.strip_suffix(".txt").filter(|class| !class.eq_ignore_ascii_case("readme")) else {
                continue;
            };
            let wanted = match self.labels {
                Labels::All => true,
                Labels::Potential => !class.ends_with("_r1"),
                Labels::Relevant => class.ends_with("_r1"),
            };
            if wanted && !class.starts_with('.') {
                classes.push((class.to_string(), path.clone()));
            }
        }
        classes.sort();
        match classes.is_empty() {
            true => Err(Error::data("there is no annotation file").at(Place::Path(folder.display().to_string()))),
            false => Ok(classes),
        }
    }

    fn divide(&self, classes: Vec<(String, PathBuf)>) -> Result<Division> {
        let mut labels = vec![vec![]; self.images as usize];
        let mut faults = Faults::default();
        for (label, (_, path)) in (0u32..).zip(&classes) {
            match numbers(path, self.images) {
                Ok(numbers) => numbers.into_iter().for_each(|number| labels[number as usize - 1].push(label)),
                Err(fault) => faults.push(fault),
            }
        }
        faults.into_result()?;
        let members =
            (1..).zip(labels).map(|(number, labels): (u32, _)| Member { path: format!("im{number}.jpg"), labels });
        let pool = members.filter(|member| self.unlabelled == Unlabelled::Keep || !member.labels.is_empty()).collect();
        self.draw().over_all(pool, classes.into_iter().map(|(name, _)| name).collect())
    }
}

/// The image numbers of an annotation file.
fn numbers(path: &Path, images: u32) -> Result<Vec<u32>> {
    let content = text::read("an annotation file", path, text::LARGEST)?;
    let (mut found, mut seen, mut faults) = (vec![], std::collections::HashMap::new(), Faults::default());
    for (number, line) in text::lines(&content) {
        let word = line.trim();
        let fault = |words: String| Error::data(words).at(Place::line(path, number, line));
        match word.parse::<u32>() {
            Ok(image) if (1..=images).contains(&image) => match seen.insert(image, number) {
                None => found.push(image),
                Some(first) => {
                    faults.push(fault(format!("image {image} is listed twice")).note(format!("first in line {first}")));
                }
            },
            Ok(image) => faults.push(fault(format!("there is no image {image}: they are 1 to {images}"))),
            Err(_) => faults.push(fault(format!("`{word}` is no number of an image"))),
        }
    }
    faults.into_result().map(|()| found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// MIRFlickr's layout in small: 40 images, three classes, a README that is none; images above 35 have no label.
    pub(crate) fn miniature(folder: &Path) {
        let annotations = folder.join("mirflickr25k_annotations_v080");
        std::fs::create_dir_all(&annotations).unwrap();
        std::fs::create_dir_all(folder.join("mirflickr")).unwrap();
        for number in 1..=40u8 {
            let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([number, 3, 1]));
            // Equal colours after JPEG's losses would be equal images.
            let path = folder.join(format!("mirflickr/im{number}.jpg"));
            picture.save_with_format(path, image::ImageFormat::Png).unwrap();
        }
        let list = |step: usize| (1..=35).step_by(step).map(|number| format!("{number}\r\n")).collect::<String>();
        for (name, text) in [("sky", list(1)), ("baby", list(3)), ("baby_r1", list(9))] {
            std::fs::write(annotations.join(format!("{name}.txt")), text).unwrap();
        }
        std::fs::write(annotations.join("README.txt"), "no numbers").unwrap();
    }

    fn mirflickr() -> MirFlickr {
        MirFlickr {
            root: Location("mir".into()),
            annotations: None,
            labels: Labels::All,
            images: 40,
            unlabelled: Unlabelled::Keep,
            query: 4,
            train: 6,
            database: Database::Rest,
            seed: 0,
            on_error: OnError::Error,
        }
    }

    #[test]
    fn files_of_numbers_become_labels() {
        let folder = tempfile::tempdir().unwrap();
        miniature(&folder.path().join("mir"));
        let build = |source: &MirFlickr| source.build(folder.path(), Path::new("x"), &mut |_, _| Ok(())).unwrap();
        let splits = build(&mirflickr());
        assert_eq!(splits.train.classes, ["baby", "baby_r1", "sky"]);
        assert_eq!([splits.train.len(), splits.query.len(), splits.database.len()], [6, 4, 30]);
        let all = [&splits.train, &splits.query, &splits.database];
        let labels = |path: &str| {
            all.iter().flat_map(|list| &list.items).find(|item| item.path == path).map(|item| item.labels.clone())
        };
        assert_eq!(
            [labels("im10.jpg").unwrap(), labels("im2.jpg").unwrap(), labels("im40.jpg").unwrap()],
            [vec![0, 1, 2], vec![2], vec![]]
        );
        assert!(!splits.notes.is_empty());
        let fewer = MirFlickr { labels: Labels::Potential, unlabelled: Unlabelled::Drop, ..mirflickr() };
        let splits = build(&fewer);
        assert_eq!((splits.database.len(), splits.database.classes.len(), splits.notes.len()), (25, 2, 0));
        assert_eq!(mirflickr().files(folder.path()).unwrap().len(), 43);
    }

    #[test]
    fn wrong_numbers_are_told_with_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let shown = || mirflickr().files(folder.path()).unwrap_err().render("error");
        assert!(shown().contains("the folder of annotations of MIRFlickr is missing"));
        miniature(&folder.path().join("mir"));
        let path = folder.path().join("mir/mirflickr25k_annotations_v080/sky.txt");
        std::fs::write(path, "1\n0\n41\nx\n1\n99999999999999\n").unwrap();
        let text = shown();
        for expected in ["there is no image 41: they are 1 to 40", "sky.txt:4:1", "image 1 is listed twice", "5 errors"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
