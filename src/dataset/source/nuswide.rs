//! `name = "nuswide"`: NUS-WIDE from its original text files, with all 81 concepts or the 21 most frequent ones.
//!
//! `Imagelist.txt` names the 269,648 images, a line each, as `actor\0001_2124494179.jpg`; a file `Labels_actor.txt` of
//! each concept has a 0 or 1 on the same line. Images without any of the concepts are left out.

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

/// NUS-WIDE from `Imagelist.txt` and a file of labels for each concept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NusWide {
    /// Folder that holds `ImageList/Imagelist.txt`, `Groundtruth/AllLabels/Labels_*.txt` and, unless `images` says
    /// otherwise, the images in `Flickr/`. The folders in between may be left out.
    pub root: Location,
    /// Folder that the names of the list are relative to; otherwise `Flickr` in `root`.
    #[serde(default)]
    pub images: Option<Location>,
    /// How many concepts count: the most frequent ones, in alphabetical order. The field uses 21 and 81.
    #[serde(default = "concepts")]
    #[schemars(range(min = 1))]
    pub concepts: usize,
    /// Names of the concepts that count, instead of the most frequent ones.
    #[serde(default)]
    pub classes: Option<Vec<String>>,
    /// How queries and training images are drawn.
    #[serde(default)]
    pub draw: Way,
    /// Queries: of each concept, or in all.
    #[serde(default = "queries")]
    #[schemars(range(min = 1))]
    pub query: usize,
    /// Training images: of each concept, or in all.
    #[serde(default = "training")]
    #[schemars(range(min = 1))]
    pub train: usize,
    /// What is searched.
    #[serde(default = "inside")]
    pub database: Database,
    /// Which images are drawn.
    #[serde(default)]
    pub seed: u64,
    /// What happens to an image that is not there, as those that Flickr has no longer: `error`, or `skip` to draw from
    /// the others.
    #[serde(default)]
    pub missing: OnError,
    /// What happens to an image that cannot be decoded: `error`, or `skip` to leave it out of all lists.
    #[serde(default)]
    pub on_error: OnError,
}

/// How images are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// `query` and `train` are numbers for each concept: 2,100 and 10,500 of 21 concepts with 100 and 500.
    #[default]
    Concept,
    /// `query` and `train` are numbers in all, as it is done with 81 concepts: 5,000 and 10,000.
    All,
}

fn concepts() -> usize {
    21
}

fn queries() -> usize {
    100
}

fn training() -> usize {
    500
}

fn inside() -> Database {
    Database::TrainAndRest
}

impl Source for NusWide {
    fn check(&self) -> Result<()> {
        if self.concepts == 0 || self.classes.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::input("at least one concept must count"));
        }
        self.draws().check(["query", "train"])
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let layout = self.layout(project)?;
        let listed = layout.labels.iter().map(|(name, path)| (format!("labels/{name}"), path.clone()));
        let also = listed.chain([("images.txt".to_string(), layout.list.clone())]).collect();
        self.divide(project, &layout)?.0.files(&self.folder(project), also)
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.folder(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let root = self.root.resolve(project);
        vec![
            ("list of images".into(), root.join("ImageList/Imagelist.txt")),
            ("labels".into(), root.join("Groundtruth/AllLabels")),
            ("images".into(), self.folder(project)),
        ]
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.database.holds_train())
    }

    fn breaches(&self) -> Vec<String> {
        self.database.breaches()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let layout = self.layout(project)?;
        let (division, note) = self.divide(project, &layout)?;
        let splits = division.verified(&self.folder(project), self.seed, self.on_error, progress)?;
        Ok(splits.with_note(note))
    }
}

/// Where the text files lie.
struct Layout {
    list: PathBuf,
    /// Concepts and their files, sorted by concept.
    labels: Vec<(String, PathBuf)>,
}

impl NusWide {
    fn draws(&self) -> Draw {
        Draw { query: self.query, train: self.train, database: self.database, seed: self.seed }
    }

    fn folder(&self, project: &Path) -> PathBuf {
        match &self.images {
            Some(images) => images.resolve(project),
            None => self.root.resolve(project).join("Flickr"),
        }
    }

    fn layout(&self, project: &Path) -> Result<Layout> {
        let root = self.root.resolve(project);
        let mut faults = Faults::default();
        let mut first = |what: &str, below: [&str; 3], there: &dyn Fn(&Path) -> bool| {
            let found = below.iter().map(|below| root.join(below)).find(|path| there(path));
            found.unwrap_or_else(|| {
                let path = root.join(below[0]);
                let error = Error::data(format!("{what} of NUS-WIDE is missing"));
                faults.push(
                    error
                        .at(Place::Path(path.display().to_string()))
                        .hint("`hashpipe fetch nuswide --to DIR` gets the lists and labels, not the images"),
                );
                path
            })
        };
        let lists = ["ImageList/Imagelist.txt", "Imagelist.txt", "ImageList/ImageList/Imagelist.txt"];
        let list = first("the list of images", lists, &Path::is_file);
        let folders = ["Groundtruth/AllLabels", "AllLabels", "Groundtruth/Groundtruth/AllLabels"];
        let folder = first("the folder of labels", folders, &Path::is_dir);
        faults.into_result()?;
        let mut labels = vec![];
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io("list folder", &folder, &e))? {
            let path = entry.map_err(|e| Error::io("list folder", &folder, &e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(concept) = name.strip_prefix("Labels_").and_then(|name| name.strip_suffix(".txt")) {
                labels.push((concept.to_string(), path.clone()));
            }
        }
        labels.sort();
        if labels.is_empty() {
            return Err(Error::data("there is no file `Labels_*.txt`").at(Place::Path(folder.display().to_string())));
        }
        Ok(Layout { list, labels })
    }

    /// The division, and how many images were not there, in words.
    fn divide(&self, project: &Path, layout: &Layout) -> Result<(Division, Option<String>)> {
        self.check()?;
        let names = images(&layout.list)?;
        let columns: Vec<Result<Vec<u32>>> =
            layout.labels.par_iter().map(|(_, path)| column(path, names.len())).collect();
        let mut faults = Faults::default();
        let columns: Vec<Vec<u32>> = columns
            .into_iter()
            .map(|column| {
                column.unwrap_or_else(|e| {
                    faults.push(e);
                    vec![]
                })
            })
            .collect();
        faults.into_result()?;
        let chosen = self.chosen(layout, &columns)?;
        let mut labels = vec![vec![]; names.len()];
        for (label, concept) in (0u32..).zip(&chosen) {
            columns[*concept].iter().for_each(|image| labels[*image as usize].push(label));
        }
        let labelled = names.into_iter().zip(labels).filter(|(_, labels)| !labels.is_empty());
        let pool: Vec<Member> = labelled.map(|(path, labels)| Member { path, labels }).collect();
        let (pool, note) = match self.missing {
            OnError::Error => (pool, None),
            OnError::Skip => there(pool, &self.folder(project)),
        };
        let classes = chosen.into_iter().map(|concept| layout.labels[concept].0.clone()).collect();
        let division = match self.draw {
            Way::Concept => self.draws().by_label(pool, classes)?,
            Way::All => self.draws().over_all(pool, classes)?,
        };
        Ok((division, note))
    }

    /// The concepts that count, as positions, ascending and so in alphabetical order.
    fn chosen(&self, layout: &Layout, columns: &[Vec<u32>]) -> Result<Vec<usize>> {
        let count = layout.labels.len();
        let position = |name: &String| {
            layout.labels.iter().position(|(concept, _)| concept == name).ok_or_else(|| {
                let known: Vec<&str> = layout.labels.iter().map(|(concept, _)| concept.as_str()).collect();
                Error::data(format!("NUS-WIDE has no concept `{name}`"))
                    .note(format!("there are {count}: {}", known.join(", ")))
            })
        };
        let mut chosen: Vec<usize> = match &self.classes {
            Some(names) => names.iter().map(position).collect::<Result<_>>()?,
            None if self.concepts > count => {
                return Err(Error::data(format!("`concepts` is {}, but there are labels of {count}", self.concepts)));
            }
            None => {
                let mut all: Vec<usize> = (0..count).collect();
                // Of equally frequent ones, the first in the alphabet.
                all.sort_by_key(|concept| std::cmp::Reverse(columns[*concept].len()));
                all.truncate(self.concepts);
                all
            }
        };
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }
}

/// The images that are on disk.
fn there(pool: Vec<Member>, folder: &Path) -> (Vec<Member>, Option<String>) {
    let total = pool.len();
    let pool: Vec<Member> = pool.into_par_iter().filter(|member| folder.join(&member.path).is_file()).collect();
    let lost = total - pool.len();
    let note = (lost > 0).then(|| format!("{lost} of {total} labelled images are not there; the others are divided"));
    (pool, note)
}

/// Paths of the list, in its order, with slashes.
fn images(list: &Path) -> Result<Vec<String>> {
    let content = text::read("the list of images", list, text::LARGEST)?;
    let (mut paths, mut first, mut faults) = (vec![], HashMap::new(), Faults::default());
    for (number, line) in text::lines(&content) {
        let fault = |words: &str| Error::data(format!("`{}` {words}", line.trim())).at(Place::line(list, number, line));
        let path = match rows::relative(&line.trim().replace('\\', "/")) {
            Ok(path) if !path.is_empty() => path,
            Ok(_) => {
                faults.push(Error::data("empty line inside the list").at(Place::line(list, number, line)));
                continue;
            }
            Err((words, hint)) => {
                faults.push(fault(words).hint(hint));
                continue;
            }
        };
        if let Some(first) = first.insert(path.clone(), number) {
            faults.push(fault("is listed twice").note(format!("first in line {first}")));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        faults.push(Error::data("the list of images is empty").at(Place::Path(list.display().to_string())));
    }
    faults.into_result().map(|()| paths)
}

/// Numbers of the images that have a label, ascending.
fn column(path: &Path, images: usize) -> Result<Vec<u32>> {
    let content = text::read("a file of labels", path, text::LARGEST)?;
    let (mut found, mut count, mut faults) = (vec![], 0usize, Faults::default());
    for (number, line) in text::lines(&content) {
        match line.trim() {
            "1" => found.extend(u32::try_from(count)),
            "0" => {}
            other => faults
                .push(Error::data(format!("label `{other}` is neither 0 nor 1")).at(Place::line(path, number, line))),
        }
        count += 1;
    }
    if count != images {
        let error = Error::data(format!("{count} labels, but {images} images are listed"));
        faults.push(error.at(Place::Path(path.display().to_string())));
    }
    faults.into_result().map(|()| found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// NUS-WIDE's layout in small: 60 images, of which each tenth has no label; `sky` is most frequent, then `person`.
    pub(crate) fn miniature(folder: &Path) {
        for below in ["ImageList", "Groundtruth/AllLabels", "Flickr/actor", "Flickr/sun set"] {
            std::fs::create_dir_all(folder.join(below)).unwrap();
        }
        let mut list = String::new();
        for i in 0..60u8 {
            let directory = if i < 30 { "actor" } else { "sun set" };
            list += &format!("{directory}\\{i:04}_21.png\r\n");
            let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([i, 9, 200 - i]));
            picture.save(folder.join("Flickr").join(directory).join(format!("{i:04}_21.png"))).unwrap();
        }
        std::fs::write(folder.join("ImageList/Imagelist.txt"), list).unwrap();
        let has = |concept: &str, i: u8| match concept {
            "sky" => !i.is_multiple_of(10),
            "person" => i % 2 == 1,
            _ => i % 15 == 7,
        };
        for concept in ["sky", "person", "zebra"] {
            let labels: String = (0..60).map(|i| if has(concept, i) { "1\n" } else { "0\n" }).collect();
            std::fs::write(folder.join(format!("Groundtruth/AllLabels/Labels_{concept}.txt")), labels).unwrap();
        }
    }

    fn nuswide() -> NusWide {
        NusWide {
            root: Location("nus".into()),
            images: None,
            concepts: 2,
            classes: None,
            draw: Way::Concept,
            query: 3,
            train: 5,
            database: inside(),
            seed: 0,
            missing: OnError::Error,
            on_error: OnError::Error,
        }
    }

    #[test]
    fn the_most_frequent_concepts_are_divided_by_quota() {
        let folder = tempfile::tempdir().unwrap();
        miniature(&folder.path().join("nus"));
        let build = |source: &NusWide| source.build(folder.path(), Path::new("x"), &mut |_, _| Ok(()));
        let splits = build(&nuswide()).unwrap();
        assert_eq!(splits.train.classes, ["person", "sky"]);
        assert_eq!([splits.train.len(), splits.query.len(), splits.database.len()], [10, 6, 48]);
        assert_eq!(nuswide().files(folder.path()).unwrap().len(), 54 + 3 + 1);
        let all = NusWide { draw: Way::All, concepts: 3, ..nuswide() };
        let splits = build(&all).unwrap();
        assert_eq!([splits.train.len(), splits.query.len(), splits.database.len()], [5, 3, 51]);
        let named = NusWide { classes: Some(vec!["zebra".into()]), query: 1, train: 2, ..nuswide() };
        assert_eq!(build(&named).unwrap().database.len(), 3);

        std::fs::remove_file(folder.path().join("nus/Flickr/actor/0001_21.png")).unwrap();
        assert_eq!(build(&nuswide()).unwrap_err().message(), "image `actor/0001_21.png` is missing");
        let splits = build(&NusWide { missing: OnError::Skip, ..nuswide() }).unwrap();
        assert_eq!((splits.database.len(), splits.notes.len()), (47, 1), "{:?}", splits.notes);
    }

    #[test]
    fn wrong_rows_are_told_with_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("nus");
        let shown = |source: &NusWide| source.files(folder.path()).unwrap_err().render("error");
        assert!(shown(&nuswide()).ends_with("2 errors"));
        miniature(&root);
        assert!(shown(&NusWide { concepts: 4, ..nuswide() }).contains("there are labels of 3"));
        let unknown = NusWide { classes: Some(vec!["sea".into()]), ..nuswide() };
        assert!(shown(&unknown).contains("has no concept `sea`"));
        std::fs::write(root.join("Groundtruth/AllLabels/Labels_sky.txt"), "1\n2\n").unwrap();
        let text = shown(&nuswide());
        assert!(text.contains("Labels_sky.txt:2:1") && text.contains("2 labels, but 60 images are listed"), "{text}");
        let list = root.join("ImageList/Imagelist.txt");
        let lines = std::fs::read_to_string(&list).unwrap();
        std::fs::write(&list, format!("{lines}actor\\0001_21.png\n..\\x.jpg\n")).unwrap();
        let text = shown(&nuswide());
        assert!(text.contains("is listed twice") && text.contains("Imagelist.txt:62:1"), "{text}");
    }
}
