//! `name = "coco"`: COCO's images and their annotations, divided as hashing papers do.
//!
//! The images of training and validation set together, those without any annotation dropped (122,218 are left of COCO
//! 2014), labelled with the 80 categories in alphabetical order; 5,000 queries and 10,000 training images are drawn.
//! The lists that HashNet published are one such draw: `name = "files"` reads them.

mod guard;
pub(super) mod instances;

use super::division::{Database, Division, Draw, Member};
use super::{OnError, Progress, Source, Splits, rows};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use instances::Instances;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// COCO from its annotation files: training and validation images together, in one seeded draw.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Coco {
    /// Folder that holds the folders of images, `train2014` and `val2014` or those of 2017.
    pub root: Location,
    /// Which of COCO's divisions into training and validation the files have.
    #[serde(default)]
    pub release: Release,
    /// Folder of `instances_train2014.json` and `instances_val2014.json`; otherwise `annotations` in `root`.
    #[serde(default)]
    pub annotations: Option<Location>,
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

/// A release of COCO: the same images, divided differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Release {
    /// 82,783 training and 40,504 validation images.
    #[default]
    #[serde(rename = "2014")]
    Of2014,
    /// 118,287 training and 5,000 validation images.
    #[serde(rename = "2017")]
    Of2017,
}

fn queries() -> usize {
    5000
}

fn training() -> usize {
    10_000
}

impl Source for Coco {
    fn check(&self) -> Result<()> {
        self.draw().check(["query", "train"])
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let division = self.divide(project)?;
        let annotations = self.parts(project).map(|(part, path)| (format!("annotations/{part}"), path));
        division.files(&self.root.resolve(project), annotations.to_vec())
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.root.resolve(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let root = self.root.resolve(project);
        let parts = self.parts(project);
        let images = parts.clone().map(|(part, _)| (format!("images of {part}"), root.join(part)));
        parts.map(|(part, path)| (format!("annotations of {part}"), path)).into_iter().chain(images).collect()
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.database.holds_train())
    }

    fn breaches(&self) -> Vec<String> {
        self.database.breaches()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        self.divide(project)?.verified(&self.root.resolve(project), self.seed, self.on_error, progress)
    }
}

impl Coco {
    fn draw(&self) -> Draw {
        Draw { query: self.query, train: self.train, database: self.database, seed: self.seed }
    }

    /// Names of the two parts, which are those of their folders of images, with their annotation files.
    fn parts(&self, project: &Path) -> [(&'static str, PathBuf); 2] {
        let parts = match self.release {
            Release::Of2014 => ["train2014", "val2014"],
            Release::Of2017 => ["train2017", "val2017"],
        };
        let folder = match &self.annotations {
            Some(folder) => folder.resolve(project),
            None => self.root.resolve(project).join("annotations"),
        };
        parts.map(|part| (part, folder.join(format!("instances_{part}.json"))))
    }

    fn divide(&self, project: &Path) -> Result<Division> {
        self.check()?;
        let parts = self.parts(project);
        // Both at once: each takes a second, and both of them are needed.
        let (one, other) = rayon::join(|| instances::read(&parts[0].1), || instances::read(&parts[1].1));
        let (one, other) = match (one, other) {
            (Ok(one), Ok(other)) => (one, other),
            (one, other) => {
                let errors = [one.err(), other.err()].into_iter().flatten().collect();
                return Err(Error::all(errors).expect("one of two readings failed"));
            }
        };
        let classes = classes(&one, &other, &parts)?;
        let (mut pool, mut faults) = (vec![], Faults::default());
        for (found, (part, path)) in [one, other].into_iter().zip(&parts) {
            members(&found, part, path, &classes, &mut pool, &mut faults);
        }
        faults.into_result()?;
        self.draw().over_all(pool, classes)
    }
}

/// The names of the categories, in alphabetical order; both files must have the same.
fn classes(one: &Instances, other: &Instances, parts: &[(&str, PathBuf); 2]) -> Result<Vec<String>> {
    if one.categories != other.categories {
        return Err(Error::data(format!("the categories of {} and {} differ", parts[0].0, parts[1].0))
            .at(Place::Path(parts[1].1.display().to_string()))
            .hint("take both files from one release"));
    }
    let mut names: Vec<String> = one.categories.values().cloned().collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::data(format!("two categories are called `{}`", pair[0]))
            .at(Place::Path(parts[0].1.display().to_string()))),
        None => Ok(names),
    }
}

/// Adds the labelled images of a part.
fn members(
    found: &Instances,
    part: &str,
    file: &Path,
    classes: &[String],
    pool: &mut Vec<Member>,
    faults: &mut Faults,
) {
    let label = |number: &u32| -> Option<u32> {
        let position = classes.binary_search(found.categories.get(number)?).ok()?;
        u32::try_from(position).ok()
    };
    let mut names = std::collections::HashSet::new();
    let mut numbers: Vec<&u64> = found.images.keys().collect();
    numbers.sort_unstable();
    for number in numbers {
        let name = &found.images[number];
        let mut fault = |words: &str| {
            let message = format!("`{name}`, the file of image {number}, {words}");
            faults.push(Error::data(message).at(Place::Path(file.display().to_string())));
        };
        let inside = match rows::relative(name) {
            Ok(inside) if !inside.is_empty() => inside,
            Ok(_) => {
                fault("has no name");
                continue;
            }
            Err((words, _)) => {
                fault(words);
                continue;
            }
        };
        if !names.insert(inside.clone()) {
            fault("is listed twice");
        }
        let Some(shown) = found.shown.get(number) else { continue };
        let mut labels: Vec<u32> = shown.iter().filter_map(label).collect();
        labels.sort_unstable();
        pool.push(Member { path: format!("{part}/{inside}"), labels });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// COCO's layout in small: `train` and `val` images of a release, the first of each without annotation.
    pub(crate) fn miniature(folder: &Path, release: &str, train: u64, val: u64) {
        std::fs::create_dir_all(folder.join("annotations")).unwrap();
        let categories = json!([{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 5, "name": "airplane"}]);
        for (part, first, count) in [("train", 0, train), ("val", train, val)] {
            let part = format!("{part}{release}");
            std::fs::create_dir_all(folder.join(&part)).unwrap();
            let numbers = first..first + count;
            let name = |number: u64| match release {
                "2014" => format!("COCO_{part}_{number:012}.png"),
                _ => format!("{number:012}.png"),
            };
            for number in numbers.clone() {
                let colour = image::Rgb([number as u8, (number >> 8) as u8, 7]);
                image::RgbImage::from_pixel(8, 8, colour).save(folder.join(&part).join(name(number))).unwrap();
            }
            let images: Vec<_> =
                numbers.clone().map(|n| json!({"id": n, "file_name": name(n), "license": 3})).collect();
            let annotation = |n: u64, category: u64| json!({"segmentation": [[1.0, 2.5]], "image_id": n, "category_id": category, "id": n * 10 + category});
            let annotations: Vec<_> = numbers
                .skip(1)
                .flat_map(|n| [annotation(n, [1, 5, 18][n as usize % 3]), annotation(n, 1), annotation(n, 1)])
                .collect();
            let text = json!({"info": {}, "images": images, "annotations": annotations, "categories": categories});
            std::fs::write(folder.join(format!("annotations/instances_{part}.json")), text.to_string()).unwrap();
        }
    }

    fn coco(release: Release) -> Coco {
        Coco {
            root: Location("coco".into()),
            release,
            annotations: None,
            query: 5,
            train: 8,
            database: Database::Rest,
            seed: 0,
            on_error: OnError::Error,
        }
    }

    #[test]
    fn both_parts_are_divided_and_the_unlabelled_dropped() {
        let folder = tempfile::tempdir().unwrap();
        miniature(&folder.path().join("coco"), "2014", 20, 10);
        miniature(&folder.path().join("coco"), "2017", 27, 3);
        for release in [Release::Of2014, Release::Of2017] {
            let coco = coco(release);
            let splits = coco.build(folder.path(), Path::new("unused"), &mut |_, _| Ok(())).unwrap();
            assert_eq!(splits.train.classes, ["airplane", "dog", "person"]);
            assert_eq!([splits.query.len(), splits.train.len(), splits.database.len()], [5, 8, 15]);
            let all = [&splits.train, &splits.query, &splits.database];
            let mut paths: Vec<&str> = all.iter().flat_map(|l| &l.items).map(|item| item.path.as_str()).collect();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), 28);
            let item = all.iter().flat_map(|l| &l.items).find(|item| item.path.contains("000000000007")).unwrap();
            assert_eq!(item.labels, [0, 2]);
            assert!(splits.notes.is_empty() && splits.breaches(Some(false)).is_empty());
            let files = coco.files(folder.path()).unwrap();
            assert_eq!((files.len(), files[0].0.starts_with("annotations/train20")), (30, true));
        }
    }

    #[test]
    fn what_is_missing_or_differs_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let shown = |coco: &Coco| coco.files(folder.path()).unwrap_err().render("error");
        assert!(shown(&coco(Release::Of2014)).ends_with("2 errors"));
        miniature(&folder.path().join("coco"), "2014", 20, 10);
        let path = folder.path().join("coco/annotations/instances_val2014.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("dog", "cat")).unwrap();
        assert!(shown(&coco(Release::Of2014)).contains("the categories of train2014 and val2014 differ"));
        std::fs::write(&path, text.replace("COCO_val2014_000000000025", "../../etc/passwd")).unwrap();
        assert!(shown(&coco(Release::Of2014)).contains("leaves its folder by `..`"));
        std::fs::write(&path, text).unwrap();
        std::fs::remove_file(folder.path().join("coco/val2014/COCO_val2014_000000000025.png")).unwrap();
        assert!(shown(&coco(Release::Of2014)).contains("image `val2014/COCO_val2014_000000000025.png` is missing"));
        let mut many = coco(Release::Of2014);
        many.train = 40;
        assert!(shown(&many).contains("the data set has too few images: 28, but 46 are needed"));
    }
}
