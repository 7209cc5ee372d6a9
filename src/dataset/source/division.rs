//! Which images of a data set are for training, which are queries, and which are searched: drawn by lot, from a seed.
//!
//! Three ways of drawing, as the field's protocols have it: from all images alike (COCO, MIRFlickr, VOC), from each
//! class (CIFAR, folders), and by filling a quota of each label (NUS-WIDE with 21 concepts).

use super::{Digests, OnError, Progress, Splits, verify};
use crate::dataset::Item;
use crate::error::{Error, Place, Result};
use crate::seeded;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which images are in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Database {
    /// Those that are neither queries nor training images.
    #[default]
    #[serde(rename = "rest")]
    Rest,
    /// All that are no queries.
    #[serde(rename = "train+rest")]
    TrainAndRest,
    /// The training images.
    #[serde(rename = "train")]
    Train,
    /// All that are no training images, so that every query finds itself; HashNet's lists of COCO are made like this.
    #[serde(rename = "query+rest")]
    QueryAndRest,
}

impl Database {
    pub(super) fn holds_train(self) -> bool {
        matches!(self, Self::TrainAndRest | Self::Train)
    }

    fn holds_query(self) -> bool {
        self == Self::QueryAndRest
    }

    fn holds_rest(self) -> bool {
        self != Self::Train
    }

    /// What breaks the rules of a retrieval experiment whatever is drawn.
    pub(super) fn breaches(self) -> Vec<String> {
        match self.holds_query() {
            true => vec!["`database` is \"query+rest\": every query finds itself".into()],
            false => vec![],
        }
    }
}

/// An image and its classes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// Relative to the folder of images, with slashes.
    pub(super) path: String,
    /// Ascending.
    pub(super) labels: Vec<u32>,
}

impl Member {
    fn item(&self, digests: &Digests) -> Option<Item> {
        let digest = digests.get(self.path.as_str())?.clone();
        Some(Item { path: self.path.clone(), labels: self.labels.clone(), digest })
    }
}

/// How many images are drawn, and from which seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub(super) query: usize,
    pub(super) train: usize,
    pub(super) database: Database,
    pub(super) seed: u64,
}

impl Draw {
    /// Whether there is anything to draw; `names` are the two keys in the user's table.
    pub(super) fn check(&self, names: [&str; 2]) -> Result<()> {
        if self.query == 0 || self.train == 0 {
            return Err(Error::input(format!("`{}` and `{}` must be at least 1", names[0], names[1])));
        }
        Ok(())
    }

    /// Draws from all images alike. Their order on disk or in a file does not matter.
    ///
    /// # Errors
    /// Too few images.
    pub(super) fn over_all(&self, mut pool: Vec<Member>, classes: Vec<String>) -> Result<Division> {
        self.check_count("the data set", pool.len(), ["query", "train"])?;
        pool.sort_unstable();
        seeded::stream(self.seed, "split of images", &[]).shuffle(&mut pool);
        let mut division = Division { classes, ..Division::default() };
        self.cut(pool, &mut division);
        Ok(division)
    }

    /// Draws the same number from a class, and adds its images to what was drawn of others. What is drawn depends on the
    /// seed, the class's name and its images only.
    pub(super) fn within_class(&self, name: &str, mut members: Vec<Member>, division: &mut Division) {
        seeded::stream(self.seed, &format!("split of {name}"), &[]).shuffle(&mut members);
        self.cut(members, division);
        division.classes.push(name.to_string());
    }

    /// Walks through the shuffled images; each joins the training images, else the queries, of the first of its classes
    /// that still wants some. `query` and `train` are numbers per class.
    ///
    /// # Errors
    /// Classes that have too few images.
    pub(super) fn by_label(&self, mut pool: Vec<Member>, classes: Vec<String>) -> Result<Division> {
        pool.sort_unstable();
        seeded::stream(self.seed, "split of images", &[]).shuffle(&mut pool);
        let mut wanted = vec![[self.train, self.query]; classes.len()];
        let (mut train, mut query, mut rest) = (vec![], vec![], vec![]);
        for member in pool {
            let open = member.labels.iter().find_map(|label| {
                let wanted = wanted.get_mut(*label as usize)?;
                let kind = wanted.iter().position(|count| *count > 0)?;
                wanted[kind] -= 1;
                Some(kind)
            });
            match open {
                Some(0) => train.push(member),
                Some(_) => query.push(member),
                None => rest.push(member),
            }
        }
        let short: Vec<String> = classes
            .iter()
            .zip(&wanted)
            .filter(|(_, wanted)| **wanted != [0, 0])
            .map(|(name, [train, query])| format!("`{name}` lacks {train} training images and {query} queries"))
            .collect();
        if !short.is_empty() {
            let error = Error::data(format!("{} of {} classes have too few images", short.len(), classes.len()));
            return Err(short.into_iter().take(10).fold(error, Error::note).hint("lower the numbers per class"));
        }
        let mut division = Division { classes, ..Division::default() };
        self.join(query, train, rest, &mut division);
        Ok(division)
    }

    /// Whether `found` images are enough of `what`.
    pub(super) fn check_count(&self, what: &str, found: usize, names: [&str; 2]) -> Result<()> {
        let drawn = self.query.saturating_add(self.train);
        let needed = drawn.saturating_add(usize::from(self.database == Database::Rest));
        if found >= needed {
            return Ok(());
        }
        let (query, train) = (self.query, self.train);
        Err(Error::data(format!("{what} has too few images: {found}, but {needed} are needed"))
            .note(format!("{query} queries, {train} for training, and at least one more if the database is the rest"))
            .hint(format!("lower `{}` or `{}`", names[0], names[1])))
    }

    /// The first are queries, the next train, the others are the rest.
    fn cut(&self, mut members: Vec<Member>, division: &mut Division) {
        let mut train = members.split_off(self.query.min(members.len()));
        let rest = train.split_off(self.train.min(train.len()));
        self.join(members, train, rest, division);
    }

    fn join(&self, query: Vec<Member>, train: Vec<Member>, rest: Vec<Member>, division: &mut Division) {
        if self.database.holds_train() {
            division.database.extend_from_slice(&train);
        }
        if self.database.holds_query() {
            division.database.extend_from_slice(&query);
        }
        if self.database.holds_rest() {
            division.database.extend(rest);
        }
        division.query.extend(query);
        division.train.extend(train);
    }
}

/// Who is in which list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Division {
    pub(super) classes: Vec<String>,
    pub(super) train: Vec<Member>,
    pub(super) query: Vec<Member>,
    pub(super) database: Vec<Member>,
}

impl Division {
    /// Every image once, sorted.
    pub(super) fn paths(&self) -> Vec<&str> {
        let members = self.train.iter().chain(&self.query).chain(&self.database);
        let mut paths: Vec<&str> = members.map(|member| member.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// The files that decide the lists: those in `also`, and every image, which must exist.
    ///
    /// # Errors
    /// Every missing image at once.
    pub(super) fn files(&self, root: &Path, also: Vec<(String, PathBuf)>) -> Result<Vec<(String, PathBuf)>> {
        let paths = self.paths();
        verify::exist(root, &paths, &|i| place(root, paths[i]))?;
        let images = paths.into_iter().map(|path| (format!("images/{path}"), root.join(path)));
        let mut files: Vec<_> = images.chain(also).collect();
        files.sort();
        Ok(files)
    }

    /// Decodes every image and makes the lists, each shuffled: one sorted by class, or with the training images in
    /// front, would bias every ranking with ties.
    pub(super) fn verified(self, root: &Path, seed: u64, on_error: OnError, progress: Progress) -> Result<Splits> {
        let paths = self.paths();
        let (digests, note) = verify::digests(root, &paths, &|i| place(root, paths[i]), on_error, progress)?;
        Ok(self.splits(&digests, seed).with_note(note))
    }

    /// The lists, of the images that have a digest.
    pub(super) fn splits(&self, digests: &Digests, seed: u64) -> Splits {
        let list = |purpose: &str, members: &[Member]| {
            let mut items: Vec<Item> = members.iter().filter_map(|member| member.item(digests)).collect();
            seeded::stream(seed, purpose, &[]).shuffle(&mut items);
            items
        };
        let (train, query) = (list("order of train", &self.train), list("order of query", &self.query));
        Splits::new(self.classes.clone(), train, query, list("order of database", &self.database))
    }
}

fn place(root: &Path, path: &str) -> Place {
    Place::Path(root.join(path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pool(count: u32) -> Vec<Member> {
        (0..count).map(|i| Member { path: format!("{i:03}.jpg"), labels: vec![i % 3] }).collect()
    }

    fn classes() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    fn draw(database: Database) -> Draw {
        Draw { query: 5, train: 10, database, seed: 3 }
    }

    fn names(members: &[Member]) -> BTreeSet<&str> {
        members.iter().map(|member| member.path.as_str()).collect()
    }

    #[test]
    fn the_database_is_what_was_asked_for() {
        for (database, size) in
            [(Database::Rest, 25), (Database::TrainAndRest, 35), (Database::Train, 10), (Database::QueryAndRest, 30)]
        {
            let division = draw(database).over_all(pool(40), classes()).unwrap();
            assert_eq!([division.query.len(), division.train.len(), division.database.len()], [5, 10, size]);
            assert!(names(&division.query).is_disjoint(&names(&division.train)));
            assert_eq!(names(&division.train).is_subset(&names(&division.database)), database.holds_train());
            assert_eq!(names(&division.query).is_subset(&names(&division.database)), database.holds_query());
            assert_eq!(names(&division.database).len(), size);
        }
    }

    #[test]
    fn a_draw_depends_on_the_seed_and_on_no_order() {
        let mut turned = pool(40);
        turned.reverse();
        let first = draw(Database::Rest).over_all(pool(40), classes()).unwrap();
        assert_eq!(first, draw(Database::Rest).over_all(turned, classes()).unwrap());
        assert_ne!(first, Draw { seed: 4, ..draw(Database::Rest) }.over_all(pool(40), classes()).unwrap());
    }

    #[test]
    fn quotas_are_filled_label_by_label() {
        let draw = Draw { query: 2, train: 3, database: Database::TrainAndRest, seed: 1 };
        let mut pool = pool(60);
        pool.iter_mut().step_by(4).for_each(|member| member.labels = vec![0, 2]);
        let division = draw.by_label(pool.clone(), classes()).unwrap();
        assert_eq!([division.train.len(), division.query.len(), division.database.len()], [9, 6, 54]);
        let few = Draw { train: 20, ..draw }.by_label(pool, classes()).unwrap_err();
        assert!(few.message().ends_with("of 3 classes have too few images"), "{few}");
    }

    #[test]
    fn too_few_images_are_counted() {
        let error = draw(Database::Rest).over_all(pool(15), classes()).unwrap_err();
        assert_eq!(error.message(), "the data set has too few images: 15, but 16 are needed");
        assert!(draw(Database::TrainAndRest).over_all(pool(15), classes()).is_ok());
        let huge = Draw { query: usize::MAX, ..draw(Database::Rest) };
        assert!(huge.over_all(pool(15), classes()).is_err());
    }
}
