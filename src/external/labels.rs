//! Labels from a list or an array.

use crate::dataset::source::read_rows;
use crate::dataset::{List, same_names};
use crate::error::{Error, Place, Result};
use crate::npy::{self, Array, Values};
use crate::retrieval::Labels;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Labels of one side, and what else its list knows.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadLabels {
    pub labels: Labels,
    /// Where the items are from, if it is a list.
    pub paths: Option<Vec<String>>,
    /// Digest of each image, if it is a list of hashpipe's.
    pub digests: Option<Vec<String>>,
    /// Digest of the file.
    pub file: String,
}

/// What a file says before both sides are known.
struct Side {
    /// Names of the classes.
    names: Option<Vec<String>>,
    /// How many classes there are; `None` if only the greatest number tells.
    classes: Option<usize>,
    items: Vec<Vec<u32>>,
    paths: Option<Vec<String>>,
    digests: Option<Vec<String>>,
    file: String,
    form: String,
}

/// Reads the labels of queries and database, which must speak of the same classes.
///
/// # Errors
/// Files that hold no labels, and sides that do not fit together.
pub fn read_labels(queries: &Path, database: &Path) -> Result<[ReadLabels; 2]> {
    let paths = [queries, database];
    // List files of the field do not say how many classes there are: both are read together, so that they agree.
    let fields: Vec<PathBuf> = paths.iter().filter(|path| is_text_list(path)).map(|path| path.to_path_buf()).collect();
    let mut rows = match fields.is_empty() {
        true => vec![],
        false => {
            let text = |path: &PathBuf| {
                let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
                Ok((path.clone(), text))
            };
            let (rows, classes) = read_rows(fields.iter().map(text).collect::<Result<Vec<_>>>()?)?;
            rows.into_iter().map(|rows| (rows, classes)).rev().collect()
        }
    };
    let mut side = |path: &Path| -> Result<Side> {
        let file = digest(path)?;
        if let Some((rows, classes)) = is_text_list(path).then(|| rows.pop()).flatten() {
            let (paths, items): (Vec<String>, Vec<Vec<u32>>) = rows.into_iter().unzip();
            let (classes, form) = (Some(classes), format!("list file of {classes} classes"));
            return Ok(Side { names: None, classes, items, paths: Some(paths), digests: None, file, form });
        }
        if npy::is_npy(path) {
            let found = of_array(&npy::read(path)?).map_err(|e| e.at(Place::Path(path.display().to_string())))?;
            return Ok(Side { file, ..found });
        }
        let List { classes, items } = List::read(path)?;
        let form = format!("list of {} classes", classes.len());
        Ok(Side {
            classes: Some(classes.len()),
            names: Some(classes),
            paths: Some(items.iter().map(|item| item.path.clone()).collect()),
            digests: Some(items.iter().map(|item| item.digest.clone()).collect()),
            items: items.into_iter().map(|item| item.labels).collect(),
            file,
            form,
        })
    };
    let sides = [side(queries)?, side(database)?];
    let classes = common_classes(&sides)?;
    let finish = |side: Side| -> Result<ReadLabels> {
        let labels = Labels::from_indices(classes, side.items.iter().map(Vec::as_slice))?;
        Ok(ReadLabels { labels, paths: side.paths, digests: side.digests, file: side.file })
    };
    let [queries, database] = sides;
    Ok([finish(queries)?, finish(database)?])
}

/// How many classes both sides speak of.
fn common_classes(sides: &[Side; 2]) -> Result<usize> {
    let [queries, database] = sides;
    if let (Some(names), Some(others)) = (&queries.names, &database.names)
        && names != others
    {
        let at = names.iter().zip(others).position(|(a, b)| a != b).unwrap_or(names.len().min(others.len()));
        let name = |names: &[String]| names.get(at).map_or("missing".to_string(), |name| format!("`{name}`"));
        return Err(Error::data("the labels of queries and database have other classes")
            .note(format!("class {at} is {} for queries, {} for the database", name(names), name(others)))
            .hint("relevance is a shared class: both must number the same classes in the same order"));
    }
    let greatest =
        sides.iter().flat_map(|side| side.items.iter().flatten()).max().map_or(0, |class| *class as usize + 1);
    match (queries.classes, database.classes) {
        (Some(a), Some(b)) if a != b => {
            Err(Error::data(format!("queries are labelled with {a} classes, the database with {b}"))
                .note(format!("queries: {}; database: {}", queries.form, database.form))
                .hint("both must number the same classes in the same order"))
        }
        (Some(classes), _) | (None, Some(classes)) if greatest > classes => {
            let class = greatest - 1;
            Err(Error::data(format!("class {class} on one side, but the other has {classes} classes only"))
                .note(format!("queries: {}; database: {}", queries.form, database.form)))
        }
        (Some(classes), _) | (None, Some(classes)) => Ok(classes),
        (None, None) => Ok(greatest),
    }
}

/// Whether a file is neither an array nor a list of hashpipe's, and so a list file of the field, if anything.
fn is_text_list(path: &Path) -> bool {
    use std::io::Read as _;
    let mut start = [0; 1];
    let first = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
    first && start[0] != b'{' && !npy::is_npy(path)
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|e| Error::io("read", path, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Class numbers, one an item; or a 0 or 1 for each class.
fn of_array(array: &Array) -> Result<Side> {
    let numbers = array.to_f64();
    let side = |classes, items, form: &str| Side {
        names: None,
        classes,
        items,
        paths: None,
        digests: None,
        file: String::new(),
        form: format!("{} {:?}, {form}", array.values.type_name(), array.shape),
    };
    match array.shape[..] {
        [_] | [_, 1] if !matches!(array.values, Values::Bool(_)) => {
            let class = |(row, x): (usize, &f64)| {
                let is_number = x.fract() == 0.0 && (0.0..f64::from(MOST_CLASSES)).contains(x);
                is_number.then(|| vec![*x as u32]).ok_or_else(|| {
                    Error::data(format!("row {row} is {x}, which is no number of a class"))
                        .note(format!("an array of shape {:?} holds a class for each item, from 0", array.shape))
                        .hint("several labels an item: a 0 or 1 for each class, shape (items, classes)")
                })
            };
            Ok(side(None, numbers.iter().enumerate().map(class).collect::<Result<_>>()?, "class numbers"))
        }
        [rows, classes] => {
            if let Some(at) = numbers.iter().position(|x| *x != 0.0 && *x != 1.0) {
                let (row, column) = (at / classes, at % classes);
                return Err(Error::data(format!("row {row}, column {column} is {}, expected 0 or 1", numbers[at]))
                    .note(format!("an array of shape {:?} holds a 0 or 1 for each class", array.shape)));
            }
            let of_row = |row: usize| {
                let row = &numbers[row * classes..(row + 1) * classes];
                (0..).zip(row).filter(|(_, x)| **x == 1.0).map(|(class, _)| class).collect()
            };
            Ok(side(Some(classes), (0..rows).map(of_row).collect(), "a 0 or 1 for each class"))
        }
        _ => Err(Error::data(format!("an array of shape {:?} is no array of labels", array.shape))
            .hint("labels are class numbers, shape (items,), or a 0 or 1 for each class, shape (items, classes)")),
    }
}

/// Class numbers are below this: a table of all classes is kept.
const MOST_CLASSES: u32 = 1 << 20;

/// For each query, the database items that are the same picture: by content where both sides know it, else by path.
///
/// `None` if neither can be told.
pub fn same_items(queries: &ReadLabels, database: &ReadLabels) -> Option<BTreeMap<usize, Vec<u32>>> {
    let (names, others) = match (&queries.digests, &database.digests) {
        (Some(names), Some(others)) => (names, others),
        _ => (queries.paths.as_ref()?, database.paths.as_ref()?),
    };
    Some(same_names(names, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(folder.join(name), bytes).unwrap();
        folder.join(name)
    }

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [&b"\x93NUMPY\x01\0"[..], &(dict.len() as u16).to_le_bytes(), dict.as_bytes(), data].concat()
    }

    fn classes(side: &ReadLabels) -> Vec<Vec<u32>> {
        (0..side.labels.len()).map(|i| side.labels.classes_of(i).collect()).collect()
    }

    #[test]
    fn every_form_of_labels_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let expected = vec![vec![2], vec![0], vec![1]];
        let item = |path: &str, label: u32, digit: &str| {
            format!(r#"{{"path":"{path}","labels":[{label}],"digest":"{}"}}"#, digit.repeat(64))
        };
        let head = r#"{"format":"hashpipe.list","version":1,"classes":["x","y","z"]}"#;
        let list = [head, &item("a", 2, "a"), &item("b", 0, "b"), &item("c", 1, "c")].join("\n");
        let files = [
            write(folder.path(), "list", list.as_bytes()),
            write(folder.path(), "text", b"a 0 0 1\nb 1 0 0\nother name 0 1 0\n"),
            write(folder.path(), "ids.npy", &npy("<i8", "(3,)", &[2i64, 0, 1].map(i64::to_le_bytes).concat())),
            write(folder.path(), "column.npy", &npy("|u1", "(3, 1)", &[2, 0, 1])),
            write(folder.path(), "hot.npy", &npy("|b1", "(3, 3)", &[0, 0, 1, 1, 0, 0, 0, 1, 0])),
            write(
                folder.path(),
                "float.npy",
                &npy("<f4", "(3, 3)", &[0., 0., 1., 1., 0., 0., 0., 1., 0f32].map(f32::to_le_bytes).concat()),
            ),
        ];
        for queries in &files {
            for database in &files {
                let [a, b] = read_labels(queries, database).unwrap_or_else(|e| panic!("{}", e.render("error")));
                assert_eq!((classes(&a), classes(&b)), (expected.clone(), expected.clone()));
            }
        }
        let [list, text] = read_labels(&files[0], &files[1]).unwrap();
        assert_eq!(same_items(&list, &text), Some([(0, vec![0]), (1, vec![1])].into()), "by path");
        assert_eq!(same_items(&list, &list).unwrap().len(), 3);
        let [list, ids] = read_labels(&files[0], &files[2]).unwrap();
        assert_eq!(same_items(&list, &ids), None);
    }

    #[test]
    fn sides_that_do_not_fit_are_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let list = |name: &str, classes: &str| {
            let head = format!(r#"{{"format":"hashpipe.list","version":1,"classes":[{classes}]}}"#);
            write(folder.path(), name, format!("{head}\n").as_bytes())
        };
        let (cats, dogs) = (list("cats", r#""x","cat""#), list("dogs", r#""x","dog""#));
        let wide = write(folder.path(), "wide.npy", &npy("|b1", "(1, 3)", &[0, 0, 1]));
        let ids = write(folder.path(), "ids.npy", &npy("|u1", "(1,)", &[7]));
        let odd = write(folder.path(), "odd.npy", &npy("<f4", "(1,)", &0.5f32.to_le_bytes()));
        let two = write(folder.path(), "two.npy", &npy("|u1", "(1, 2)", &[0, 2]));
        let text = write(folder.path(), "text", b"a 0 1 0\nb 0 1\n");
        for (queries, database, words) in [
            (&cats, &dogs, "class 1 is `cat` for queries, `dog` for the database"),
            (&cats, &wide, "queries are labelled with 2 classes, the database with 3"),
            (&ids, &wide, "class 7 on one side, but the other has 3 classes only"),
            (&odd, &wide, "row 0 is 0.5, which is no number of a class"),
            (&two, &wide, "row 0, column 1 is 2, expected 0 or 1"),
            (&text, &wide, "labels, but most rows have"),
        ] {
            let text = read_labels(queries, database).unwrap_err().render("error");
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(read_labels(&folder.path().join("none"), &wide).unwrap_err().kind(), crate::error::Kind::Io);
    }
}
