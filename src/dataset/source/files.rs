//! `name = "files"`: three list files of the field, as HashNet and its followers publish them.

use super::rows::{self, Rows};
use super::{OnError, Progress, Source, Splits, listed, star};
use crate::dataset::{Location, PresetName};
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Lists on disk: one image a line, its path, then a 0 or 1 for every class.
///
/// The lists of HashNet, DeepHash-pytorch and paddle_hashnet are of this form. A list in several files, as HashNet's
/// databases are, is named with a star: `test/database*.txt`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// List of the training images.
    pub train: Location,
    /// List of the queries.
    pub query: Location,
    /// List of the images that are searched.
    pub database: Location,
    /// Folder the paths in the lists are relative to.
    pub root: Location,
    /// What all paths in the lists begin with and `root` does not have, as `/home/me/dataset/coco/` or `./data/coco/`.
    #[serde(default)]
    pub strip: Option<String>,
    /// Which data set of the field it is: says how many classes there are, and for some what they are called.
    #[serde(default)]
    pub preset: Option<PresetName>,
    /// Names of the classes, in the order of the labels; otherwise those of `preset`, or `class_0`, `class_1`, ...
    #[serde(default)]
    pub classes: Option<Vec<String>>,
    /// Whether the protocol has the training images in the database too; if this is not said, either is right.
    #[serde(default)]
    pub train_in_database: Option<bool>,
    /// What happens to an image that cannot be decoded: `error`, or `skip` to leave it out of all lists.
    #[serde(default)]
    pub on_error: OnError,
}

impl Source for Files {
    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let (lists, _) = self.parse(project)?;
        listed::files(&lists, &self.root.resolve(project))
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.root.resolve(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let lists =
            self.lists().map(|(name, location)| (format!("{name} list"), star::shown(&location.resolve(project))));
        lists.into_iter().chain([("images".to_string(), self.root.resolve(project))]).collect()
    }

    fn train_in_database(&self) -> Option<bool> {
        self.train_in_database
    }

    fn breaches(&self) -> Vec<String> {
        let others = [("database", &self.database), ("train", &self.train)];
        let same = others.into_iter().filter(|(_, list)| **list == self.query);
        same.map(|(name, _)| format!("`query` and `{name}` are the same list")).collect()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let (lists, classes) = self.parse(project)?;
        listed::splits(&lists, classes, &self.root.resolve(project), self.on_error, progress)
    }
}

impl Files {
    fn lists(&self) -> [(&'static str, &Location); 3] {
        [("train", &self.train), ("query", &self.query), ("database", &self.database)]
    }

    /// The files of the three lists, and the names of the classes.
    fn parse(&self, project: &Path) -> Result<(Vec<Rows>, Vec<String>)> {
        if let Some(repeated) = self.classes.as_deref().and_then(listed::first_repeated) {
            return Err(Error::input(format!("`classes` names `{repeated}` twice")));
        }
        let texts = listed::texts(self.lists(), &self.root, project)?;
        let known = self.classes.clone().or_else(|| self.preset.map(|name| name.preset().class_names()));
        let form = rows::Form { classes: known.as_ref().map(Vec::len), strip: self.strip.as_deref() };
        let (rows, count) = rows::parse(texts, form)?;
        let names = known.unwrap_or_else(|| (0..count).map(|class| format!("class_{class}")).collect());
        Ok((rows, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    /// A project with lists and images; the query is in the database too, under another name.
    fn project() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pictures")).unwrap();
        for (number, name) in ["a.png", "b c.png", "d.png"].iter().enumerate() {
            let picture = RgbImage::from_pixel(9, 9, image::Rgb([number as u8 * 50; 3]));
            picture.save(folder.path().join("pictures").join(name)).unwrap();
        }
        std::fs::copy(folder.path().join("pictures/d.png"), folder.path().join("pictures/copy.png")).unwrap();
        let lists = [
            ("train", "a.png 1 0\n"),
            ("query", "d.png 0 1\n"),
            ("database", "a.png 1 0\nb c.png 0 0\ncopy.png 0 1\n"),
        ];
        for (name, text) in lists {
            std::fs::write(folder.path().join(name).with_extension("txt"), text).unwrap();
        }
        let at = |path: &str| Location(path.to_string());
        let (train, query, database) = (at("train.txt"), at("query.txt"), at("database.txt"));
        (folder, {
            let root = at("pictures");
            Files {
                train,
                query,
                database,
                root,
                strip: None,
                preset: None,
                classes: None,
                train_in_database: None,
                on_error: OnError::Error,
            }
        })
    }

    fn build(folder: &tempfile::TempDir, files: &Files) -> Result<Splits> {
        files.build(folder.path(), Path::new("unused"), &mut |_, _| Ok(()))
    }

    #[test]
    fn lists_become_splits() {
        let (folder, files) = project();
        let splits = build(&folder, &files).unwrap();
        assert_eq!(splits.database.classes, ["class_0", "class_1"]);
        let rows: Vec<_> = splits.database.items.iter().map(|item| (item.path.as_str(), item.labels.len())).collect();
        assert_eq!(rows, [("a.png", 1), ("b c.png", 0), ("copy.png", 1)]);
        assert_eq!(splits.query.items[0].digest, splits.database.items[2].digest);
        assert_eq!((splits.notes.len(), splits.breaches(None).len()), (2, 1), "{:?}", splits.notes);
    }

    #[test]
    fn the_files_are_named_by_their_place_in_the_project_only() {
        let (folder, files) = project();
        let names = |project: &Path| -> Vec<String> {
            files.files(project).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let expected = ["images/a.png", "images/b c.png", "images/copy.png", "images/d.png"];
        let lists = ["lists/database", "lists/query", "lists/train"];
        assert_eq!(names(folder.path()), [&expected[..], &lists[..]].concat());
        let moved = tempfile::tempdir().unwrap();
        std::fs::rename(folder.path(), moved.path().join("elsewhere")).unwrap();
        assert_eq!(names(&moved.path().join("elsewhere")).len(), 7);
    }

    #[test]
    fn everything_missing_is_said_at_once() {
        let (folder, mut files) = project();
        files.train = Location("nothing.txt".into());
        files.root = Location("nowhere".into());
        let shown = files.files(folder.path()).unwrap_err().render("error");
        assert!(shown.contains("the train list `nothing.txt` is missing"), "{shown}");
        assert!(shown.contains("the folder of images `nowhere` is missing") && shown.ends_with("2 errors"), "{shown}");
        assert_eq!(files.needs(folder.path()).len(), 4);
    }

    #[test]
    fn a_missing_and_a_broken_image_are_shown_in_their_list() {
        let (folder, files) = project();
        std::fs::remove_file(folder.path().join("pictures/d.png")).unwrap();
        std::fs::write(folder.path().join("pictures/b c.png"), "x").unwrap();
        let shown = build(&folder, &files).unwrap_err().render("error");
        assert!(shown.contains("image `d.png` is missing") && shown.contains("query.txt:1:1\n"), "{shown}");
        assert!(
            shown.contains("image `b c.png` cannot be read") && shown.contains("2 | b c.png 0 0\n  | ^^^^^^^\n"),
            "{shown}"
        );
        let early = files.files(folder.path()).unwrap_err();
        assert_eq!(early.message(), "image `d.png` is missing");
    }

    #[test]
    fn lists_in_several_files_with_foreign_prefixes_are_one() {
        let (folder, mut files) = project();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("train.txt", "/home/x/data/a.png 1 0\n");
        write("query.txt", "/home/x/data/d.png 0 1\n");
        std::fs::remove_file(folder.path().join("database.txt")).unwrap();
        write("database0.txt", "/home/x/data/a.png 1 0\n");
        write("database1.txt", "/home/x/data/b c.png 0 0\n/home/x/data/copy.png 0 1\n");
        write("database10.txt", "/home/x/data/d.png 0 1\n");
        files.database = Location("database*.txt".into());
        files.strip = Some("/home/x/data/".into());
        let splits = build(&folder, &files).unwrap();
        let paths: Vec<&str> = splits.database.items.iter().map(|item| item.path.as_str()).collect();
        assert_eq!(paths, ["a.png", "b c.png", "copy.png", "d.png"]);
        assert_eq!(files.files(folder.path()).unwrap().len(), 4 + 5);
        write("database10.txt", "/home/y/d.png 0 1\n/home/x/data/a.png 1 0\n");
        let shown = build(&folder, &files).unwrap_err().render("error");
        assert!(shown.contains("`/home/y/d.png` does not begin with `/home/x/data/`"), "{shown}");
        assert!(shown.contains("is listed twice") && shown.contains("first in line 1 of `"), "{shown}");
        files.preset = Some(PresetName::Coco);
        assert!(build(&folder, &files).unwrap_err().render("error").contains("2 labels, but there are 80 classes"));
        files.database = Location("nothing*.txt".into());
        assert!(build(&folder, &files).unwrap_err().render("error").contains("no file is called `nothing*.txt`"));
    }

    #[test]
    fn classes_may_have_names() {
        let (folder, mut files) = project();
        files.classes = Some(vec!["cat".into(), "dog".into()]);
        assert_eq!(build(&folder, &files).unwrap().train.classes, ["cat", "dog"]);
        files.classes = Some(vec!["cat".into(), "cat".into()]);
        assert_eq!(build(&folder, &files).unwrap_err().message(), "`classes` names `cat` twice");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test says what it skips")]
    fn published_lists_are_read_as_they_are() {
        let Some(folder) = crate::image::golden::coco_lite() else {
            eprintln!("skipped: no COCO lists in ../shared/data/coco_lite/lists");
            return;
        };
        let [train, query, database, root] =
            ["lists/train.txt", "lists/test.txt", "lists/database.txt", "images"].map(|path| Location(path.into()));
        let files = Files {
            train,
            query,
            database,
            root,
            strip: None,
            preset: None,
            classes: None,
            train_in_database: None,
            on_error: OnError::Error,
        };
        assert_eq!(files.files(&folder).unwrap().len(), 13 + 3);
        let splits = files.build(&folder, Path::new("unused"), &mut |_, _| Ok(())).unwrap();
        assert_eq!((splits.train.len(), splits.query.len(), splits.database.len()), (9, 4, 13));
        assert_eq!((splits.train.classes.len(), &splits.train.items[0].labels[..3]), (80, &[12, 22, 23][..]));
        let [absent] = &splits.notes[..] else { panic!("{:?}", splits.notes) };
        assert!(
            absent.starts_with("classes without training images: ") && absent.contains("; without queries: "),
            "{absent}"
        );
        let breaches = splits.breaches(None);
        assert!(breaches[0].starts_with("4 of 4 queries are in the database, by content"), "{breaches:?}");
        assert_eq!((breaches.len(), splits.breaches(Some(true)).len()), (1, 1));
    }
}
