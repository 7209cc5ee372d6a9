//! `name = "voc"`: PASCAL VOC 2012 from its annotations in XML.
//!
//! The images of `ImageSets/Main/trainval.txt` (11,540), each with the classes of its objects. Objects marked as
//! difficult do not count unless asked for, as in VOC's own lists.

mod annotation;

use super::division::{Database, Division, Draw, Member};
use super::{OnError, Progress, Source, Splits, rows, text};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// PASCAL VOC: `JPEGImages`, `Annotations` and `ImageSets` of one year.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Voc {
    /// Folder that holds `JPEGImages/`, `Annotations/` and `ImageSets/Main/`, or `VOCdevkit/VOC2012/` with them.
    pub root: Location,
    /// Which images: the list of this name in `ImageSets/Main/`.
    #[serde(default = "trainval")]
    pub set: String,
    /// Whether objects count that are marked as difficult.
    #[serde(default)]
    pub difficult: bool,
    /// Names of the classes; otherwise VOC's twenty.
    #[serde(default)]
    pub classes: Option<Vec<String>>,
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

fn trainval() -> String {
    "trainval".into()
}

fn queries() -> usize {
    1000
}

fn training() -> usize {
    4000
}

/// VOC's classes, in alphabetical order.
pub(in crate::dataset) const CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

impl Source for Voc {
    fn check(&self) -> Result<()> {
        if !crate::names::is_name(&self.set) {
            return Err(Error::input(format!("`set` is `{}`", self.set)).hint("give a name as `trainval`"));
        }
        if self.classes.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::input("`classes` is empty"));
        }
        self.draw().check(["query", "train"])
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let folder = self.folder(project);
        let names = self.names(&folder)?;
        let annotations = names.iter().map(|name| {
            let below = format!("Annotations/{name}.xml");
            (below.clone(), folder.join(below))
        });
        let also = annotations.chain([("ImageSets/set.txt".to_string(), self.list(&folder))]).collect();
        self.divide(&folder, &names)?.files(&folder, also)
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.folder(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let folder = self.folder(project);
        vec![
            ("list of images".into(), self.list(&folder)),
            ("annotations".into(), folder.join("Annotations")),
            ("images".into(), folder.join("JPEGImages")),
        ]
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.database.holds_train())
    }

    fn breaches(&self) -> Vec<String> {
        self.database.breaches()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let folder = self.folder(project);
        let names = self.names(&folder)?;
        self.divide(&folder, &names)?.verified(&folder, self.seed, self.on_error, progress)
    }
}

impl Voc {
    fn draw(&self) -> Draw {
        Draw { query: self.query, train: self.train, database: self.database, seed: self.seed }
    }

    fn folder(&self, project: &Path) -> PathBuf {
        let root = self.root.resolve(project);
        let below = root.join("VOCdevkit/VOC2012");
        if below.is_dir() && !root.join("Annotations").is_dir() { below } else { root }
    }

    fn list(&self, folder: &Path) -> PathBuf {
        folder.join("ImageSets/Main").join(format!("{}.txt", self.set))
    }

    /// Names of the images, in the order of their list.
    fn names(&self, folder: &Path) -> Result<Vec<String>> {
        self.check()?;
        let list = self.list(folder);
        let content = text::read("the list of images", &list, text::LARGEST)
            .map_err(|e| e.hint("`hashpipe fetch voc2012 --to DIR` gets it"))?;
        let (mut names, mut seen, mut faults) = (vec![], HashMap::new(), Faults::default());
        for (number, line) in text::lines(&content) {
            // Lists of one class have a second word.
            let name = line.split_whitespace().next().unwrap_or_default();
            let fault = |words: &str| Error::data(format!("`{name}` {words}")).at(Place::line(&list, number, line));
            match rows::relative(name) {
                Ok(inside) if inside == name && !name.is_empty() => {}
                Ok(_) => faults.push(fault("is no name of an image")),
                Err((words, _)) => faults.push(fault(words)),
            }
            match seen.insert(name.to_string(), number) {
                None => names.push(name.to_string()),
                Some(first) => faults.push(fault("is listed twice").note(format!("first in line {first}"))),
            }
        }
        if names.is_empty() {
            faults.push(Error::data("the list of images is empty").at(Place::Path(list.display().to_string())));
        }
        faults.into_result().map(|()| names)
    }

    fn divide(&self, folder: &Path, names: &[String]) -> Result<Division> {
        let mut classes = self.classes.clone().unwrap_or_else(|| CLASSES.map(String::from).to_vec());
        classes.sort_unstable();
        classes.dedup();
        let read = |name: &String| self.member(folder, name, &classes);
        let members: Vec<Result<Option<Member>>> = names.par_iter().map(read).collect();
        let (mut pool, mut faults) = (vec![], Faults::default());
        for member in members {
            match member {
                Ok(member) => pool.extend(member),
                Err(fault) => faults.push(fault),
            }
        }
        faults.into_result()?;
        self.draw().over_all(pool, classes)
    }

    /// An image with its classes; `None` if no object of it counts.
    fn member(&self, folder: &Path, name: &str, classes: &[String]) -> Result<Option<Member>> {
        let path = folder.join(format!("Annotations/{name}.xml"));
        let mut labels = vec![];
        for object in annotation::read(&path)? {
            let Ok(label) = classes.binary_search(&object.name) else {
                return Err(Error::data(format!("unknown class `{}`", object.name))
                    .at(Place::Path(path.display().to_string()))
                    .hint(crate::names::known_or_nearest(
                        &object.name,
                        &classes.iter().map(String::as_str).collect::<Vec<_>>(),
                        "classes",
                    )));
            };
            if self.difficult || !object.difficult {
                labels.extend(u32::try_from(label));
            }
        }
        labels.sort_unstable();
        labels.dedup();
        let path = format!("JPEGImages/{name}.jpg");
        Ok((!labels.is_empty()).then_some(Member { path, labels }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// VOC's layout in small: 30 images of the list, and one that is in no list; the first shows difficult objects only.
    pub(crate) fn miniature(folder: &Path) {
        let root = folder.join("VOCdevkit/VOC2012");
        for below in ["Annotations", "JPEGImages", "ImageSets/Main"] {
            std::fs::create_dir_all(root.join(below)).unwrap();
        }
        let mut list = String::new();
        for i in 0..31u8 {
            let name = format!("2008_{i:06}");
            let object = |class: &str, difficult: u8| {
                format!("<object><name>{class}</name><difficult>{difficult}</difficult></object>")
            };
            let objects = match i {
                0 => object("sofa", 1),
                _ => object(CLASSES[i as usize % 20], 0) + &object("person", 0) + &object("person", 1),
            };
            let text = format!("<annotation>\n<filename>{name}.jpg</filename>\n{objects}\n</annotation>\n");
            std::fs::write(root.join(format!("Annotations/{name}.xml")), text).unwrap();
            let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([i, 1, 2]));
            let path = root.join(format!("JPEGImages/{name}.jpg"));
            picture.save_with_format(path, image::ImageFormat::Png).unwrap();
            if i < 30 {
                list += &format!("{name}\n");
            }
        }
        std::fs::write(root.join("ImageSets/Main/trainval.txt"), list).unwrap();
    }

    fn voc() -> Voc {
        Voc {
            root: Location("voc".into()),
            set: trainval(),
            difficult: false,
            classes: None,
            query: 4,
            train: 6,
            database: Database::Rest,
            seed: 0,
            on_error: OnError::Error,
        }
    }

    #[test]
    fn objects_become_labels() {
        let folder = tempfile::tempdir().unwrap();
        miniature(&folder.path().join("voc"));
        let build = |source: &Voc| source.build(folder.path(), Path::new("x"), &mut |_, _| Ok(())).unwrap();
        let splits = build(&voc());
        assert_eq!([splits.train.len(), splits.query.len(), splits.database.len()], [6, 4, 19]);
        let small = splits.notes.iter().all(|note| note.starts_with("classes without"));
        assert!(splits.train.classes.len() == 20 && small, "{:?}", splits.notes);
        let all = [&splits.train, &splits.query, &splits.database];
        let item = all.iter().flat_map(|list| &list.items).find(|item| item.path.ends_with("000003.jpg")).unwrap();
        assert_eq!(item.labels, [3, 14]);
        assert_eq!(build(&Voc { difficult: true, ..voc() }).database.len(), 20);
        assert_eq!(voc().files(folder.path()).unwrap().len(), 29 + 30 + 1);
    }

    #[test]
    fn every_wrong_annotation_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let shown = |source: &Voc| source.files(folder.path()).unwrap_err().render("error");
        assert!(shown(&voc()).contains("hashpipe fetch voc2012"));
        miniature(&folder.path().join("voc"));
        assert!(shown(&Voc { set: "../x".into(), ..voc() }).contains("`set` is `../x`"));
        let annotations = folder.path().join("voc/VOCdevkit/VOC2012/Annotations");
        std::fs::write(annotations.join("2008_000003.xml"), "<annotation>\n<object>").unwrap();
        std::fs::write(
            annotations.join("2008_000004.xml"),
            "<annotation><object><name>pearson</name></object></annotation>",
        )
        .unwrap();
        std::fs::remove_file(annotations.join("2008_000005.xml")).unwrap();
        let text = shown(&voc());
        for expected in ["2008_000003.xml:2:1", "did you mean `person`?", "the annotation is missing", "3 errors"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
