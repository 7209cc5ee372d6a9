//! `name = "folders"`: one folder of images per class, split per class as the CIFAR-10 experiments do.
//!
//! Each class's images are permuted; the first are queries, the next train, and the rest is the database. The
//! permutation depends on the seed and the class's name only. The lists are then shuffled: one sorted by class would
//! bias every ranking with ties.

use super::division::{Database, Division, Draw, Member};
use super::{OnError, Progress, Source, Splits, rows};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that are taken for images, by the end of their name; their content decides the format.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp"];

/// A folder of class folders, or several of them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folders {
    /// Folder that holds everything.
    pub root: Location,
    /// Folders in `root` whose folders are the classes; a class may be in several, as `["train", "test"]`.
    #[serde(default = "root_itself")]
    pub folders: Vec<String>,
    /// Queries of each class.
    #[schemars(range(min = 1))]
    pub query_per_class: usize,
    /// Training images of each class.
    #[schemars(range(min = 1))]
    pub train_per_class: usize,
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

fn root_itself() -> Vec<String> {
    vec![".".into()]
}

impl Source for Folders {
    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.split(project)?;
        // All images of a class, drawn or not: which ones are drawn depends on all of them.
        let root = self.root.resolve(project);
        let mut paths: Vec<String> = class_images(&root, &self.folders)?.into_values().flatten().collect();
        paths.sort_unstable();
        Ok(paths.into_iter().map(|path| (format!("images/{path}"), root.join(path))).collect())
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.root.resolve(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let root = self.root.resolve(project);
        self.folders.iter().map(|folder| ("folder of class folders".to_string(), root.join(folder))).collect()
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(self.database.holds_train())
    }

    fn breaches(&self) -> Vec<String> {
        self.database.breaches()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        self.split(project)?.verified(&self.root.resolve(project), self.seed, self.on_error, progress)
    }
}

impl Folders {
    fn split(&self, project: &Path) -> Result<Division> {
        let (query, train) = (self.query_per_class, self.train_per_class);
        let draw = Draw { query, train, database: self.database, seed: self.seed };
        draw.check(["query_per_class", "train_per_class"])?;
        let root = self.root.resolve(project);
        let (mut division, mut faults) = (Division::default(), Faults::default());
        for (class, (name, paths)) in (0..).zip(class_images(&root, &self.folders)?) {
            match check_count(&draw, &name, paths.len()) {
                Ok(()) => {
                    let members = paths.into_iter().map(|path| Member { path, labels: vec![class] }).collect();
                    draw.within_class(&name, members, &mut division);
                }
                Err(fault) => faults.push(fault.at(Place::Path(root.display().to_string()))),
            }
        }
        faults.into_result().map(|()| division)
    }
}

fn check_count(draw: &Draw, class: &str, found: usize) -> Result<()> {
    if found == 0 {
        return Err(Error::data(format!("class `{class}` has no image"))
            .note(format!("files ending in {} are images", EXTENSIONS.join(", ")))
            .hint("delete the empty folder, or put the class's images there"));
    }
    draw.check_count(&format!("class `{class}`"), found, ["query_per_class", "train_per_class"])
}

/// The images of each class, relative to `root`, in the order of `folders` and then by name.
pub(super) fn class_images(root: &Path, folders: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let (mut classes, mut faults) = (BTreeMap::<String, Vec<String>>::new(), Faults::default());
    for folder in folders {
        let inside = rows::relative(folder)
            .map_err(|(problem, _)| Error::input(format!("`{folder}` {problem}")).hint("`folders` are in `root`"))?;
        let path = root.join(&inside);
        if !path.is_dir() {
            faults.push(
                Error::data(format!("the folder `{folder}` is missing"))
                    .at(Place::Path(path.display().to_string()))
                    .hint("`folders` are in `root`, and hold one folder per class"),
            );
            continue;
        }
        let prefix = if inside.is_empty() { inside } else { format!("{inside}/") };
        for class in entries(&path)?.into_iter().filter(|entry| entry.is_folder) {
            let images = images(&path.join(&class.name), &format!("{prefix}{}", class.name))?;
            classes.entry(class.name).or_default().extend(images);
        }
    }
    faults.into_result()?;
    if classes.is_empty() {
        return Err(Error::data("no class folders")
            .at(Place::Path(root.display().to_string()))
            .hint("put each class's images in a folder of their own, named like the class"));
    }
    Ok(classes)
}

struct Entry {
    name: String,
    is_folder: bool,
}

/// What is in a folder, sorted by name; hidden entries are left out.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let list = || -> std::io::Result<Vec<Entry>> {
        let mut entries = vec![];
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .ok_or_else(|| std::io::Error::other(format!("the name of `{}` is not UTF-8", path.display())))?;
            if !name.starts_with('.') {
                entries.push(Entry { name: name.to_string(), is_folder: path.is_dir() });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    };
    list().map_err(|e| Error::io("list folder", folder, &e))
}

/// Image files in a folder and below, as `prefix/..`.
fn images(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut found = vec![];
    for entry in entries(folder)? {
        let path = format!("{prefix}/{}", entry.name);
        if entry.is_folder {
            found.extend(images(&folder.join(&entry.name), &path)?);
        } else if is_image(&entry.name) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_image(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Two folders with three classes of ten and five images, all different, and files that are none.
    fn project() -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        for (part, count) in [("train", 10u8), ("test", 5)] {
            for (number, class) in ["bird", "cat", "dog"].iter().enumerate() {
                let path = folder.path().join("data").join(part).join(class);
                std::fs::create_dir_all(&path).unwrap();
                for i in 0..count {
                    let colour = image::Rgb([number as u8, i, count]);
                    image::RgbImage::from_pixel(8, 8, colour).save(path.join(format!("{i}.PNG"))).unwrap();
                }
                std::fs::write(path.join("notes.txt"), "no image").unwrap();
                std::fs::write(path.join(".hidden.png"), "no image").unwrap();
            }
        }
        let folders = Folders {
            on_error: OnError::Error,
            root: Location("data".into()),
            folders: vec!["train".into(), "test".into()],
            query_per_class: 2,
            train_per_class: 4,
            database: Database::Rest,
            seed: 1,
        };
        (folder, folders)
    }

    fn build(folder: &tempfile::TempDir, folders: &Folders) -> Splits {
        folders.build(folder.path(), Path::new("unused"), &mut |_, _| Ok(())).unwrap()
    }

    fn paths(list: &crate::dataset::List) -> BTreeSet<&str> {
        list.items.iter().map(|item| item.path.as_str()).collect()
    }

    #[test]
    fn every_class_is_split_alike() {
        let (folder, mut folders) = project();
        for (database, expected) in [(Database::Rest, 9), (Database::TrainAndRest, 13), (Database::Train, 4)] {
            folders.database = database;
            let splits = build(&folder, &folders);
            assert_eq!(splits.train.classes, ["bird", "cat", "dog"]);
            for (list, per_class) in [(&splits.query, 2), (&splits.train, 4), (&splits.database, expected)] {
                for class in 0..3 {
                    assert_eq!(list.items.iter().filter(|item| item.labels == [class]).count(), per_class);
                }
                assert_eq!(paths(list).len(), list.len());
            }
            let shared = paths(&splits.train).intersection(&paths(&splits.database)).count();
            assert_eq!(shared, if database == Database::Rest { 0 } else { 12 });
            assert!(paths(&splits.query).is_disjoint(&paths(&splits.database)));
            assert!(paths(&splits.query).is_disjoint(&paths(&splits.train)) && splits.notes.is_empty());
        }
    }

    #[test]
    fn a_split_repeats_and_depends_on_the_seed() {
        let (folder, mut folders) = project();
        let first = build(&folder, &folders);
        assert_eq!(first, build(&folder, &folders));
        folders.seed = 2;
        assert_ne!(paths(&first.query), paths(&build(&folder, &folders).query));
    }

    #[test]
    fn another_class_does_not_move_the_others() {
        let (folder, folders) = project();
        let queries = |splits: &Splits| -> BTreeSet<String> {
            paths(&splits.query).into_iter().filter(|path| !path.contains("ant")).map(String::from).collect()
        };
        let before = queries(&build(&folder, &folders));
        let (from, to) = (folder.path().join("data/train/cat"), folder.path().join("data/train/ant"));
        std::fs::create_dir(&to).unwrap();
        for i in 0..10 {
            std::fs::copy(from.join(format!("{i}.PNG")), to.join(format!("{i}.png"))).unwrap();
        }
        assert_eq!(before, queries(&build(&folder, &folders)));
    }

    #[test]
    fn the_files_are_all_that_a_draw_depends_on() {
        let (folder, mut folders) = project();
        let files = folders.files(folder.path()).unwrap();
        assert_eq!((files.len(), files[0].0.as_str()), (45, "images/test/bird/0.PNG"));
        assert!(files.is_sorted() && files.iter().all(|(_, path)| path.is_file()));
        folders.folders = vec!["train/".into()];
        folders.database = Database::Train;
        let drawn = folders.split(folder.path()).unwrap().paths().len();
        assert!(drawn < folders.files(folder.path()).unwrap().len());
    }

    #[test]
    fn a_single_level_is_the_root_itself() {
        let (folder, mut folders) = project();
        (folders.root, folders.folders) = (Location("data/train".into()), root_itself());
        assert!(build(&folder, &folders).query.items[0].path.split('/').count() == 2);
    }

    #[test]
    fn what_is_wrong_is_said_for_every_class() {
        let (folder, mut folders) = project();
        let shown = |folders: &Folders| folders.files(folder.path()).unwrap_err().render("error");
        folders.train_per_class = 13;
        assert!(shown(&folders).contains("class `dog` has too few images: 15, but 16 are needed"));
        assert!(shown(&folders).ends_with("3 errors"));
        std::fs::create_dir(folder.path().join("data/test/empty")).unwrap();
        folders.train_per_class = 4;
        assert!(shown(&folders).contains("class `empty` has no image"));
        folders.folders = vec!["train".into(), "nothing".into()];
        assert!(shown(&folders).contains("the folder `nothing` is missing"));
        folders.folders = vec!["train/cat".into()];
        assert!(shown(&folders).contains("no class folders"));
    }
}
