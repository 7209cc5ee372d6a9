//! Where labelled images come from: one file per kind of source, one line each below.

mod check;
mod cifar;
mod coco;
mod division;
mod files;
mod folders;
#[cfg(test)]
mod hostile;
mod imagenet;
mod listed;
mod mirflickr;
mod nuswide;
mod rows;
mod shapes;
mod star;
mod table;
mod text;
mod verify;
mod voc;

use super::{Item, List, breach};
use crate::choices;
use crate::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use check::{Expected, Summary, check};
pub use cifar::Cifar;
pub use coco::Coco;
pub use division::Database;
pub use files::Files;
pub use folders::Folders;
pub use imagenet::ImageNet;
pub use mirflickr::MirFlickr;
pub use nuswide::NusWide;
pub use shapes::Shapes;
pub use table::Table;
pub use voc::Voc;

choices! {
    /// What `dataset = { name = ".." }` may be.
    pub enum SourceSpec: Source {
        Shapes(shapes::Shapes) = "shapes",
        Files(files::Files) = "files",
        Folders(folders::Folders) = "folders",
        Table(table::Table) = "table",
        Coco(coco::Coco) = "coco",
        Cifar(cifar::Cifar) = "cifar",
        NusWide(nuswide::NusWide) = "nuswide",
        MirFlickr(mirflickr::MirFlickr) = "mirflickr",
        Voc(voc::Voc) = "voc",
        ImageNet(imagenet::ImageNet) = "imagenet",
    }
}

/// A source of labelled images. Paths in its parameters are relative to `project`.
pub trait Source {
    /// Whether the parameters make sense together.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The files that decide the result, as (name in the key, path on disk), sorted by name.
    ///
    /// Names do not depend on where the project or the images lie.
    ///
    /// # Errors
    /// Parameters that make no sense, and every missing file at once.
    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>>;

    /// The folder the listed paths are relative to; `None`: the folder that `build` fills.
    fn root(&self, project: &Path) -> Option<PathBuf>;

    /// Everything that must exist before anything can run, for a person: what it is, and its path.
    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)>;

    /// Whether the training images are also in the database, where that is known beforehand: the lists are held to it.
    fn train_in_database(&self) -> Option<bool>;

    /// Breaches of the protocol that the parameters alone show.
    fn breaches(&self) -> Vec<String> {
        vec![]
    }

    /// Makes the lists, decoding every listed image. `images` is an empty folder for those who make their own.
    ///
    /// `progress(done, total)` is told how many images are finished; an error from it stops the work.
    ///
    /// # Errors
    /// Broken lists, and every missing or undecodable image at once.
    fn build(&self, project: &Path, images: &Path, progress: Progress) -> Result<Splits>;
}

/// Told how many images of how many are done; returns an error to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// The three lists of a retrieval experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    pub train: List,
    pub query: List,
    pub database: List,
    /// Things worth telling that no protocol forbids: images without labels, repeated images.
    pub notes: Vec<String>,
}

impl Splits {
    fn new(classes: Vec<String>, train: Vec<Item>, query: Vec<Item>, database: Vec<Item>) -> Self {
        let [train, query, database] = [train, query, database].map(|items| List { classes: classes.clone(), items });
        let mut splits = Self { train, query, database, notes: vec![] };
        splits.notes = [splits.repeated(), splits.unlabelled(), splits.labelling()].concat();
        splits
    }

    /// The same with one more thing to tell.
    fn with_note(mut self, note: Option<String>) -> Self {
        self.notes.extend(note);
        self
    }

    /// What makes the lists measure something else than retrieval of unknown images, each with count and examples.
    pub fn breaches(&self, train_in_database: Option<bool>) -> Vec<String> {
        breach::among(&self.train, &self.query, &self.database, train_in_database)
    }

    fn named(&self) -> [(&'static str, &List); 3] {
        [("training images", &self.train), ("queries", &self.query), ("database images", &self.database)]
    }

    fn repeated(&self) -> Vec<String> {
        let told = |(name, list): (&str, &List)| {
            breach::told(&breach::repeated(list), format!("of {} {name} repeat another one, by content", list.len()))
        };
        self.named().into_iter().filter_map(told).collect()
    }

    /// Classes that a list lacks, and images whose labels depend on where they are listed.
    fn labelling(&self) -> Vec<String> {
        let absent = breach::absent(&self.named());
        let contradicting = breach::contradicting(&[&self.train, &self.query, &self.database]);
        [absent, contradicting].into_iter().flatten().collect()
    }

    fn unlabelled(&self) -> Vec<String> {
        let named = self.named();
        let count = |list: &List| list.items.iter().filter(|item| item.labels.is_empty()).count();
        named
            .into_iter()
            .filter(|(_, list)| count(list) > 0)
            .map(|(name, list)| {
                format!("{} of {} {name} have no label: nothing is relevant to them", count(list), list.len())
            })
            .collect()
    }
}

/// The rows of a list file: path and labels.
pub type LabelledPaths = Vec<(String, Vec<u32>)>;

/// Paths and labels of each list file of the field, and how many classes the files, which belong together, speak of.
///
/// # Errors
/// Every broken row of every file, the first ones in full.
pub fn read_rows(files: Vec<(PathBuf, String)>) -> Result<(Vec<LabelledPaths>, usize)> {
    let sources = files.into_iter().enumerate().map(|(list, (file, text))| rows::Source { list, file, text });
    let (lists, classes) = rows::parse(sources.collect(), rows::Form::default())?;
    let of_list = |list: rows::Rows| list.rows.into_iter().map(|row| (row.path, row.labels)).collect();
    Ok((lists.into_iter().map(of_list).collect(), classes))
}

/// Digests by path, for lists that share images. Images that are left out have none.
type Digests<'a> = BTreeMap<&'a str, String>;

/// What happens to an image that cannot be decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It is an error, which names all of them.
    #[default]
    Error,
    /// It is in no list, as if it had never been listed, so that every image of a list has a code; a warning counts them.
    Skip,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, labels: &[u32], digest: char) -> Item {
        Item { path: path.into(), labels: labels.to_vec(), digest: String::from(digest).repeat(64) }
    }

    #[test]
    fn overlaps_are_found_by_content_and_labels_are_counted() {
        let train = vec![item("a", &[0], 'a'), item("b", &[1], 'b')];
        let query = vec![item("c", &[0], 'b'), item("d", &[], 'd')];
        let database = vec![item("e", &[0], 'd'), item("f", &[0], 'b'), item("g", &[1], 'b')];
        let splits = Splits::new(vec!["x".into(), "y".into()], train, query, database);
        assert_eq!(
            splits.notes,
            [
                "1 of 3 database images repeat another one, by content (`g` as `f`)",
                "1 of 2 queries have no label: nothing is relevant to them",
                "classes without queries: 1 of 2 (`y`)",
                "3 rows list an image again, by content, with other labels (`c` as `b`, `e` as `d`, `f` as `b`)",
            ]
        );
        let leaks = [
            "2 of 2 queries are in the database, by content: each finds itself (`c` as `g`, `d` as `e`)",
            "1 of 2 queries are training images, by content (`c` as `b`)",
        ];
        assert_eq!(splits.breaches(None), leaks);
        let inside = "1 of 2 training images are not in the database, by content, but the protocol says so (`a`)";
        assert_eq!(splits.breaches(Some(true)), [leaks[0], leaks[1], inside]);
        let apart =
            "1 of 2 training images are in the database, by content, but the protocol keeps them apart (`b` as `g`)";
        assert_eq!(splits.breaches(Some(false)), [leaks[0], leaks[1], apart]);
    }

    #[test]
    fn lists_that_share_nothing_break_nothing() {
        let list = |digests: &str| digests.chars().map(|digest| item("x", &[0], digest)).collect::<Vec<_>>();
        let splits = Splits::new(vec!["x".into()], list("abc"), list("de"), list("fgh"));
        assert_eq!(splits.breaches(Some(false)), [""; 0]);
        assert_eq!(splits.breaches(Some(true)).len(), 1);
        assert_eq!(splits.notes, [""; 0], "nothing to tell");
    }

    #[test]
    fn the_first_examples_are_named() {
        let same = |digests: &str| digests.chars().map(|c| item(&format!("{c}.jpg"), &[0], c)).collect::<Vec<_>>();
        let splits = Splits::new(vec!["x".into()], vec![], same("abcdef"), same("abcdef"));
        let expected =
            "6 of 6 queries are in the database, by content: each finds itself (`a.jpg`, `b.jpg`, `c.jpg`, ...)";
        assert_eq!(splits.breaches(None), [expected]);
    }

    #[test]
    fn a_source_is_read_from_its_name() {
        let spec: SourceSpec = serde_json::from_str(
            r#"{"name":"files","train":"t.txt","query":"q.txt","database":"d.txt","root":"images"}"#,
        )
        .unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        assert_eq!((&written["name"], &written["root"]["$place"]), (&"files".into(), &"images".into()));
        assert_eq!(SourceSpec::NAMES[..3], ["shapes", "files", "folders"]);
        assert_eq!(spec.builder().root(Path::new("/p")), Some(PathBuf::from("/p/images")));
        let misspelt = r#"{"name":"shapes","trian":3}"#;
        assert!(serde_json::from_str::<SourceSpec>(misspelt).unwrap_err().to_string().contains("trian"));
    }
}
