//! `name = "imagenet"`: class folders that are already divided, a training and a validation part, as ImageNet's are.
//!
//! The protocol of ImageNet-100: the validation images of the classes are the queries, all their training images are
//! searched, and some of those of each class train. HashNet's published lists are one such draw of 100 classes with 130
//! training images each.

use super::division::{Division, Member};
use super::folders::class_images;
use super::{OnError, Progress, Source, Splits};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use crate::seeded;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Class folders in a training part and a validation part.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageNet {
    /// Folder that holds both parts.
    pub root: Location,
    /// Folder in `root` of the class folders that are searched.
    #[serde(default = "train_part")]
    pub train: String,
    /// Folder in `root` of the class folders with the queries.
    #[serde(default = "val_part")]
    pub val: String,
    /// Names of the class folders that count, as `n01440764`; otherwise all.
    #[serde(default)]
    pub classes: Option<Vec<String>>,
    /// Training images of each class, which are searched too.
    #[serde(default = "training")]
    #[schemars(range(min = 1))]
    pub train_per_class: usize,
    /// Queries of each class; otherwise all of the validation part.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub query_per_class: Option<usize>,
    /// Which images are drawn.
    #[serde(default)]
    pub seed: u64,
    /// What happens to an image that cannot be decoded: `error`, or `skip` to leave it out of all lists.
    #[serde(default)]
    pub on_error: OnError,
}

fn train_part() -> String {
    "train".into()
}

fn val_part() -> String {
    "val".into()
}

fn training() -> usize {
    130
}

impl Source for ImageNet {
    fn check(&self) -> Result<()> {
        if self.train_per_class == 0 || self.query_per_class == Some(0) {
            return Err(Error::input("`train_per_class` and `query_per_class` must be at least 1"));
        }
        if self.train == self.val {
            return Err(Error::input("`train` and `val` are the same folder"));
        }
        let mut seen = std::collections::HashSet::new();
        match self.classes.iter().flatten().find(|name| !seen.insert(*name)) {
            Some(name) => Err(Error::input(format!("`classes` names `{name}` twice"))),
            None => Ok(()),
        }
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        // Which images are drawn depends on all of a class.
        let root = self.root.resolve(project);
        let [train, val] = self.parts(&root)?;
        let mut paths: Vec<String> = train.into_values().chain(val.into_values()).flatten().collect();
        paths.sort_unstable();
        Ok(paths.into_iter().map(|path| (format!("images/{path}"), root.join(path))).collect())
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.root.resolve(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let root = self.root.resolve(project);
        [&self.train, &self.val].map(|part| ("folder of class folders".to_string(), root.join(part))).to_vec()
    }

    fn train_in_database(&self) -> Option<bool> {
        Some(true)
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let root = self.root.resolve(project);
        self.divide(self.parts(&root)?, &root)?.verified(&root, self.seed, self.on_error, progress)
    }
}

impl ImageNet {
    /// The images of each class that counts, in the training and in the validation part.
    fn parts(&self, root: &Path) -> Result<[BTreeMap<String, Vec<String>>; 2]> {
        self.check()?;
        let mut train = class_images(root, std::slice::from_ref(&self.train))?;
        let mut val = class_images(root, std::slice::from_ref(&self.val))?;
        let mut faults = Faults::default();
        let mut lacks = |class: &str, part: &str| {
            let place = Place::Path(root.join(part).display().to_string());
            faults.push(Error::data(format!("the part `{part}` has no class folder `{class}`")).at(place));
        };
        if let Some(classes) = &self.classes {
            for (part, found) in [(&self.train, &mut train), (&self.val, &mut val)] {
                classes.iter().filter(|class| !found.contains_key(*class)).for_each(|class| lacks(class, part));
                found.retain(|class, _| classes.contains(class));
            }
        } else {
            train.keys().filter(|class| !val.contains_key(*class)).for_each(|class| lacks(class, &self.val));
            val.keys().filter(|class| !train.contains_key(*class)).for_each(|class| lacks(class, &self.train));
        }
        faults.into_result().map(|()| [train, val])
    }

    fn divide(&self, [train, mut val]: [BTreeMap<String, Vec<String>>; 2], root: &Path) -> Result<Division> {
        let (mut division, mut faults) = (Division::default(), Faults::default());
        for (label, (class, images)) in (0u32..).zip(train) {
            let queries = val.remove(&class).unwrap_or_default();
            let wanted = [
                (&self.train, images.len(), self.train_per_class),
                (&self.val, queries.len(), self.query_per_class.unwrap_or(1)),
            ];
            for (part, found, needed) in wanted.into_iter().filter(|(_, found, needed)| found < needed) {
                let message = format!("class `{class}` has {found} images in `{part}`, but {needed} are needed");
                faults.push(Error::data(message).at(Place::Path(root.join(part).join(&class).display().to_string())));
            }
            let draw = |purpose: &str, mut paths: Vec<String>| -> Vec<Member> {
                seeded::stream(self.seed, &format!("{purpose} of {class}"), &[]).shuffle(&mut paths);
                paths.into_iter().map(|path| Member { path, labels: vec![label] }).collect()
            };
            let images = draw("split", images);
            division.train.extend(images.iter().take(self.train_per_class).cloned());
            division.database.extend(images);
            division
                .query
                .extend(draw("queries", queries).into_iter().take(self.query_per_class.unwrap_or(usize::MAX)));
            division.classes.push(class);
        }
        faults.into_result().map(|()| division)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// ImageNet's layout in small: three classes with 8 and 3 images.
    pub(crate) fn miniature(folder: &Path, classes: &[&str]) {
        for (part, count) in [("train", 8u8), ("val", 3)] {
            for (number, class) in (0u8..).zip(classes) {
                let below = folder.join(part).join(class);
                std::fs::create_dir_all(&below).unwrap();
                for i in 0..count {
                    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([number, i, count]));
                    let path = below.join(format!("{class}_{i}.JPEG"));
                    picture.save_with_format(path, image::ImageFormat::Png).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_validation_part_asks_and_the_training_part_is_searched() {
        let folder = tempfile::tempdir().unwrap();
        let source = ImageNet {
            root: Location("in".into()),
            train: train_part(),
            val: val_part(),
            classes: None,
            train_per_class: 5,
            query_per_class: None,
            seed: 0,
            on_error: OnError::Error,
        };
        let shown = |source: &ImageNet| source.files(folder.path()).unwrap_err().render("error");
        assert!(shown(&source).contains("the folder `train` is missing"));
        miniature(&folder.path().join("in"), &["n01", "n02", "n03"]);
        let build = |source: &ImageNet| source.build(folder.path(), Path::new("x"), &mut |_, _| Ok(()));
        let splits = build(&source).unwrap();
        assert_eq!([splits.train.len(), splits.query.len(), splits.database.len()], [15, 9, 24]);
        assert!(splits.breaches(Some(true)).is_empty() && source.files(folder.path()).unwrap().len() == 33);
        let some =
            ImageNet { classes: Some(vec!["n03".into(), "n01".into()]), query_per_class: Some(2), ..source.clone() };
        let splits = build(&some).unwrap();
        assert_eq!((splits.train.classes, splits.query.items.len()), (vec!["n01".to_string(), "n03".into()], 4));
        let unknown = ImageNet { classes: Some(vec!["n09".into()]), ..source.clone() };
        assert!(shown(&unknown).ends_with("2 errors"));
        let many = ImageNet { train_per_class: 9, ..source };
        assert!(build(&many).unwrap_err().render("error").contains("has 8 images in `train`, but 9 are needed"));
    }
}
