//! `[lists.*]`: labelled images of a data set, as the lists of a retrieval experiment.

use super::contract::{broken, readable};
use super::protocol::{self, Protocol};
use super::{Content, Ctx, Describe, Images, Stage};
use crate::dataset::source::{Source, SourceSpec};
use crate::dataset::{Item, List};
use crate::error::{Error, Result};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Lists of training, query and database images, each image decoded once and named by its content.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lists {
    /// Where the images and labels come from.
    dataset: SourceSpec,
    /// What happens when a query is in the database or was trained on, or the lists break another rule.
    #[serde(default)]
    protocol: Protocol,
    /// Images that are taken from the training list and listed in an output of their own, `validation`, to choose an
    /// epoch by. Which ones, their content decides.
    #[serde(default)]
    #[schemars(extend("before" = 0))]
    validation: usize,
}

/// The lists, which are its outputs.
const LISTS: [&str; 3] = ["train", "query", "database"];

/// Output of training images that are not trained on.
const VALIDATION: &str = "validation";

/// Output of a generator: the pictures it made.
const MADE: &str = "images";

impl Describe for Lists {
    const NAME: &'static str = "lists";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "List the training, query and database images of a data set, and check every one";
}

impl Lists {
    fn source(&self) -> &dyn Source {
        self.dataset.builder()
    }

    fn makes_images(&self) -> bool {
        self.source().root(Path::new("")).is_none()
    }

    /// The names of the lists it writes.
    fn lists(&self) -> impl Iterator<Item = &'static str> {
        LISTS.into_iter().chain((self.validation > 0).then_some(VALIDATION))
    }
}

/// Takes so many images out of the training list, with their order kept. An image is taken or left together with all
/// its copies; those go first whose digest has the smallest digest, so that new images move few others.
fn split_off(train: &mut List, count: usize) -> Result<List> {
    if count >= train.len() {
        let message = format!("`validation` takes {count} images, but there are {} to train on", train.len());
        return Err(Error::input(message).hint("take fewer"));
    }
    let lot = |item: &Item| *blake3::hash(format!("validation {}", item.digest).as_bytes()).as_bytes();
    let mut order: Vec<_> = train.items.iter().map(|item| (lot(item), item.digest.clone())).collect();
    order.sort_unstable();
    // Copies stand side by side; whoever begins within the count is taken whole, unless that takes too many.
    let mut taken: HashSet<String> = HashSet::new();
    let mut size = 0;
    for copies in order.chunk_by(|a, b| a.1 == b.1) {
        if size + copies.len() <= count {
            size += copies.len();
            taken.insert(copies[0].1.clone());
        }
        if size == count {
            break;
        }
    }
    let classes = train.classes.clone();
    let (items, left) = train.items.drain(..).partition(|item| taken.contains(&item.digest));
    train.items = left;
    Ok(List { classes, items })
}

impl Stage for Lists {
    fn outputs(&self) -> Vec<&'static str> {
        self.lists().chain(self.makes_images().then_some(MADE)).collect()
    }

    fn holds(&self, output: &str) -> Content {
        if output == MADE { Content::Images } else { Content::List }
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let source = self.source();
        let breaches = if self.protocol == Protocol::Strict { source.breaches() } else { vec![] };
        let breaches = breaches.iter().map(|breach| protocol::error(breach));
        source.check().err().into_iter().chain(breaches).map(|error| ("dataset", error)).collect()
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.source().files(project)
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        self.source().needs(project)
    }

    fn images(&self, project: &Path) -> Images {
        self.source().root(project).map_or(Images::Output(MADE), Images::Folder)
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (project, made) = (cx.project().to_path_buf(), cx.output(MADE));
        if self.makes_images() {
            std::fs::create_dir_all(&made).map_err(|e| Error::io("make the folder", &made, &e))?;
        }
        let mut splits =
            self.source().build(&project, &made, &mut |done, total| cx.step(done, total, || "images".into()))?;
        for note in &splits.notes {
            cx.warn(note.clone());
        }
        self.protocol.judge(cx, &splits.breaches(self.source().train_in_database()))?;
        if self.validation > 0 {
            split_off(&mut splits.train, self.validation)?.write(&cx.output(VALIDATION))?;
        }
        for (name, list) in LISTS.into_iter().zip([&splits.train, &splits.query, &splits.database]) {
            list.write(&cx.output(name))?;
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let folder = self.source().root(cx.project()).unwrap_or_else(|| cx.output(MADE));
        for name in self.lists() {
            // Reading a list refuses labels out of range.
            let list = readable(name, List::read(&cx.output(name)))?;
            if let Some(item) = first_repeated(&list) {
                return Err(broken(name, format!("`{}` is in it twice", item.path)));
            }
            if let Some(item) = list.items.par_iter().find_first(|item| !folder.join(&item.path).is_file()) {
                return Err(broken(name, format!("`{}` is not in `{}`", item.path, folder.display())));
            }
        }
        Ok(())
    }
}

/// The first image that has been in the list before.
fn first_repeated(list: &List) -> Option<&Item> {
    let mut seen = HashSet::new();
    list.items.iter().find(|item| !seen.insert(&item.path))
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::super::testing::{Desk, Ended};
    use crate::dataset::{Item, List};
    use crate::error::Kind;
    use serde_json::{Value, json};

    /// Rows as the field writes them.
    fn write_rows(desk: &Desk, name: &str, items: &[Item]) {
        let row = |item: &Item| format!("{} {} {}\n", item.path, 1 - item.labels[0], item.labels[0]);
        std::fs::write(desk.path(name), items.iter().map(row).collect::<String>()).unwrap();
    }

    fn params(protocol: &str, train_in_database: Option<bool>) -> Value {
        let dataset = json!({
            "name": "files", "train": "t.txt", "query": "q.txt", "database": "d.txt", "root": "images",
            "train_in_database": train_in_database,
        });
        json!({ "dataset": dataset, "protocol": protocol })
    }

    /// Four queries, two of which are in the database under other names; training images that are not.
    fn desk() -> Desk {
        let desk = Desk::new();
        write_rows(&desk, "t.txt", &desk.pictures(0..3, "train"));
        write_rows(&desk, "q.txt", &desk.pictures(10..14, "query"));
        write_rows(&desk, "d.txt", &desk.pictures(12..20, "database"));
        desk
    }

    const LEAK: &str = "2 of 4 queries are in the database, by content: each finds itself (`query/12.bmp` as \
                        `database/12.bmp`, `query/13.bmp` as `database/13.bmp`)";

    #[test]
    fn a_breach_of_the_protocol_is_a_warning_or_an_error() {
        let desk = desk();
        assert_eq!(desk.run("lists", params("published", None)).ok().warnings(), [LEAK]);
        let strict = desk.run("lists", params("strict", None));
        assert_eq!((strict.error().kind(), strict.error().message()), (Kind::Contract, LEAK));
        let text = desk.run("lists", params("strict", Some(true))).error().render("error");
        assert!(
            text.contains("3 of 3 training images are not in the database") && text.ends_with("2 errors"),
            "{text}"
        );

        write_rows(&desk, "q.txt", &desk.pictures(30..33, "query"));
        assert_eq!(desk.run("lists", params("strict", Some(false))).ok().warnings(), [""; 0]);
    }

    #[test]
    fn one_list_for_two_purposes_is_told_before_anything_runs() {
        let check = |protocol: &str| {
            let mut params = params(protocol, None);
            params["dataset"]["query"] = "d.txt".into();
            let stage = find("lists").unwrap().parse(&params).unwrap().stage;
            stage.check().into_iter().map(|(key, error)| (key.to_string(), error)).collect::<Vec<_>>()
        };
        assert!(check("published").is_empty());
        let [(_, error)] = &check("strict")[..] else { panic!("one fault") };
        assert_eq!((error.kind(), error.message()), (Kind::Contract, "`query` and `database` are the same list"));
    }

    #[test]
    fn validation_images_are_no_longer_trained_on() {
        let desk = desk();
        let mut items = desk.pictures(0..30, "train");
        // A copy under another name goes where the picture goes.
        std::fs::copy(desk.path("images/train/7.bmp"), desk.path("images/train/copy.bmp")).unwrap();
        items.push(Item { path: "train/copy.bmp".into(), ..items[7].clone() });
        write_rows(&desk, "t.txt", &items);
        let with = |validation: usize| {
            let mut params = params("published", None);
            params["validation"] = validation.into();
            desk.run("lists", params)
        };
        let read = |ended: &Ended, name: &str| List::read(&ended.path(name)).unwrap().items;
        let whole = read(&desk.run("lists", params("published", None)).ok(), "train");
        let ended = with(10).ok();
        let (train, validation) = (read(&ended, "train"), read(&ended, "validation"));
        assert_eq!((train.len(), validation.len()), (21, 10));
        assert!(validation.iter().all(|item| train.iter().all(|other| other.digest != item.digest)));
        let both: Vec<Item> = whole.into_iter().filter(|i| train.contains(i) || validation.contains(i)).collect();
        assert_eq!(both.len(), 31);
        // One image less moves no other one but at the border.
        items.remove(20);
        write_rows(&desk, "t.txt", &items);
        let again = read(&with(10).ok(), "validation");
        assert!(validation.iter().filter(|item| again.contains(item)).count() >= 8);
        assert!(with(30).error().message().contains("takes 30 images, but there are 30 to train on"));
    }

    #[test]
    fn broken_images_are_an_error_or_left_out_and_counted() {
        let desk = desk();
        std::fs::write(desk.path("images/database/15.bmp"), "not an image").unwrap();
        let refused = desk.run("lists", params("published", None));
        let text = refused.error().render("error");
        assert!(text.contains("image `database/15.bmp` cannot be read") && text.contains("d.txt:4:1"), "{text}");

        let mut skipping = params("published", None);
        skipping["dataset"]["on_error"] = "skip".into();
        let ended = desk.run("lists", skipping).ok();
        let told = "1 of 15 images cannot be decoded and are left out of the lists: `database/15.bmp` (";
        assert!(ended.warnings()[0].starts_with(told), "{:?}", ended.warnings());
        assert!(ended.warnings()[0].ends_with("not a JPEG, PNG, BMP, GIF, TIFF or WebP image"));
        let list = List::read(&ended.path("database")).unwrap();
        let numbers: Vec<&str> = list.items.iter().map(|item| item.path.as_str()).collect();
        assert_eq!(numbers, [12, 13, 14, 16, 17, 18, 19].map(|number| format!("database/{number}.bmp")));
    }

    #[test]
    fn lists_that_lie_are_not_published() {
        let desk = desk();
        let ended: Ended = desk.run("lists", params("published", None)).ok();
        let list = List::read(&ended.path("query")).unwrap();
        for (edit, words) in [
            ("twice", "`query/10.bmp` is in it twice"),
            ("elsewhere", "`query/99.bmp` is not in `"),
            ("label", "label 2 is out of range"),
        ] {
            let mut list = list.clone();
            match edit {
                "twice" => list.items.push(list.items[0].clone()),
                "elsewhere" => list.items[1].path = "query/99.bmp".into(),
                _ => list.items[2].labels = vec![2],
            }
            list.write(&ended.path("query")).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
        }
    }
}
