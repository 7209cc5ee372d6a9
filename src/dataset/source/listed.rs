//! Three lists that the user has in files: reading them, and making the project's own of them.

use super::rows::{self, Rows};
use super::{Digests, OnError, Progress, Splits, star, text, verify};
use crate::dataset::{Item, Location};
use crate::error::{Error, Place, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Names of the lists, in the order they are read and kept.
pub(super) const LISTS: [&str; 3] = ["train", "query", "database"];

/// Reads the files of the lists, and looks for the folder of images.
///
/// # Errors
/// Everything that is missing or no text, at once.
pub(super) fn texts(
    lists: [(&'static str, &Location); 3],
    root: &Location,
    project: &Path,
) -> Result<Vec<rows::Source>> {
    let (mut texts, mut faults) = (vec![], vec![]);
    for (list, (name, location)) in lists.into_iter().enumerate() {
        let what = format!("the {name} list `{}`", location.0);
        match star::files(&location.resolve(project)) {
            Ok(files) => files.into_iter().for_each(|path| match text::read(&what, &path, text::LARGEST) {
                Ok(text) => texts.push(rows::Source { list, file: path, text }),
                Err(fault) => faults.push(fault),
            }),
            Err(fault) => faults.push(fault),
        }
    }
    let folder = root.resolve(project);
    if !folder.is_dir() {
        faults.push(
            Error::data(format!("the folder of images `{}` is missing", root.0))
                .at(Place::Path(folder.display().to_string()))
                .hint("set `root` to the folder that the paths in the lists start from"),
        );
    }
    Error::all(faults).map_or(Ok(texts), Err)
}

/// The files that decide the lists: their own, and every listed image, which must exist.
///
/// # Errors
/// Every missing image at once.
pub(super) fn files(lists: &[Rows], root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let images = Distinct::of(lists);
    verify::exist(root, &images.paths, &|i| images.place(i))?;
    let mut files: Vec<_> = images.paths.iter().map(|path| (format!("images/{path}"), root.join(path))).collect();
    for (list, name) in LISTS.into_iter().enumerate() {
        let parts: Vec<&Rows> = lists.iter().filter(|rows| rows.list == list).collect();
        let single = parts.len() == 1;
        let name = |i: usize| if single { format!("lists/{name}") } else { format!("lists/{name}/{i:03}") };
        files.extend(parts.iter().enumerate().map(|(i, part)| (name(i), part.file.clone())));
    }
    files.sort();
    Ok(files)
}

/// Decodes every listed image and makes the lists, in the order of the user's.
pub(super) fn splits(
    lists: &[Rows],
    classes: Vec<String>,
    root: &Path,
    on_error: OnError,
    progress: Progress,
) -> Result<Splits> {
    let images = Distinct::of(lists);
    let (digests, note) = verify::digests(root, &images.paths, &|i| images.place(i), on_error, progress)?;
    let [train, query, database] = [0, 1, 2]
        .map(|list| lists.iter().filter(|rows| rows.list == list).flat_map(|rows| items(rows, &digests)).collect());
    Ok(Splits::new(classes, train, query, database).with_note(note))
}

/// The first name that is there twice.
pub(super) fn first_repeated(names: &[String]) -> Option<&String> {
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(*name))
}

/// The images of several lists, each once, with where it is first listed.
struct Distinct<'a> {
    paths: Vec<&'a str>,
    places: Vec<(&'a Rows, usize)>,
}

impl<'a> Distinct<'a> {
    fn of(lists: &'a [Rows]) -> Self {
        let (mut seen, mut distinct) = (HashSet::new(), Self { paths: vec![], places: vec![] });
        for list in lists {
            for (row, image) in list.rows.iter().enumerate() {
                if seen.insert(image.path.as_str()) {
                    distinct.paths.push(&image.path);
                    distinct.places.push((list, row));
                }
            }
        }
        distinct
    }

    fn place(&self, image: usize) -> Place {
        let (list, row) = self.places[image];
        list.place(row)
    }
}

fn items(list: &Rows, digests: &Digests) -> Vec<Item> {
    let item = |row: &rows::Row| {
        let digest = digests.get(row.path.as_str())?.clone();
        Some(Item { path: row.path.clone(), labels: row.labels.clone(), digest })
    };
    list.rows.iter().filter_map(item).collect()
}
