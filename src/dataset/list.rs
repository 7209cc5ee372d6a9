//! The project's own list of labelled images, as the `lists` stage writes it and every later stage reads it.
//!
//! A list is JSON Lines. Paths are relative, with slashes, so it does not depend on where the images lie; each image
//! carries its digest, so that new pixels under an old name make a new list.
//!
//! ```text
//! {"format":"hashpipe.list","version":1,"classes":["airplane","bird"]}
//! {"path":"train/0001.jpg","labels":[0],"digest":"<blake3 of the file, 64 hex digits>"}
//! ```

use super::faults::Faults;
use crate::error::{Error, Place, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufWriter, Write};
use std::path::Path;

const FORMAT: &str = "hashpipe.list";
const VERSION: u32 = 1;

/// Labelled images, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Names of the classes; a label is a position in here.
    pub classes: Vec<String>,
    pub items: Vec<Item>,
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Relative to the images' folder, with slashes on every system.
    pub path: String,
    /// Classes of the image, ascending; empty if it has none.
    pub labels: Vec<u32>,
    /// blake3 of the file, in hex.
    pub digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    classes: Vec<String>,
}

impl List {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Reads a list.
    ///
    /// # Errors
    /// A file that is no list or one of another version, and broken rows, each with its line.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::data(format!("`{}` is a folder and not a list", path.display()))
                .hint("a list is an output such as \"lists.name/train\"; \"lists.name/images\" holds the pictures"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read list", path, &e))?;
        let mut lines = text.lines();
        let classes = read_header(path, lines.next().unwrap_or_default())?;
        let (mut items, mut faults) = (vec![], Faults::default());
        for (number, line) in (2..).zip(lines) {
            match read_item(line, classes.len()) {
                Ok(item) => items.push(item),
                Err((message, column)) => faults.push(Error::data(message).at(place(path, number, line, column))),
            }
        }
        faults.into_result()?;
        Ok(Self { classes, items })
    }

    /// Writes the list.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.write_to(path).map_err(|e| Error::io("write list", path, &e))
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::new(std::fs::File::create(path)?);
        let header = Header { format: FORMAT.into(), version: VERSION, classes: self.classes.clone() };
        serde_json::to_writer(&mut out, &header)?;
        for item in &self.items {
            out.write_all(b"\n")?;
            serde_json::to_writer(&mut out, item)?;
        }
        out.write_all(b"\n")?;
        out.flush()
    }
}

fn read_header(path: &Path, line: &str) -> Result<Vec<String>> {
    let not_a_list = || {
        Error::data(format!("`{}` is not a hashpipe list", path.display())).hint("lists are made by a `lists` stage")
    };
    // The version first: the rest of another version's header may look different.
    let header: serde_json::Value = serde_json::from_str(line).map_err(|_| not_a_list())?;
    if header["format"] != FORMAT {
        return Err(not_a_list());
    }
    if header["version"] != VERSION {
        let message = format!("the list `{}` has version {}", path.display(), header["version"]);
        return Err(Error::data(message)
            .note(format!("this hashpipe reads version {VERSION}"))
            .hint("run its `lists` stage again"));
    }
    match serde_json::from_value::<Header>(header) {
        Ok(header) => Ok(header.classes),
        Err(e) => Err(Error::data("broken list header").at(Place::line(path, 1, line)).note(e.to_string())),
    }
}

/// One row, or what is wrong with it and at which column (none: the whole line).
fn read_item(line: &str, classes: usize) -> Result<Item, (String, Option<usize>)> {
    let item: Item = serde_json::from_str(line).map_err(|e| {
        let text = e.to_string();
        // serde_json counts lines of its own text, which is one row of ours.
        let reason = text.split(" at line ").next().unwrap_or_default();
        (format!("broken row: {reason}"), Some(e.column()).filter(|column| *column > 0))
    })?;
    let fault = if item.path.is_empty() {
        "the path is empty".to_string()
    } else if item.digest.len() != 64 || !item.digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        format!("`{}` is not a blake3 digest", item.digest)
    } else if let Some(label) = item.labels.iter().find(|label| **label as usize >= classes) {
        format!("label {label} is out of range: there are {classes} classes, counted from 0")
    } else if !item.labels.is_sorted_by(|a, b| a < b) {
        "the labels are not ascending".to_string()
    } else {
        return Ok(item);
    };
    Err((fault, None))
}

fn place(path: &Path, number: usize, line: &str, column: Option<usize>) -> Place {
    match column {
        None => Place::line(path, number, line),
        Some(column) => {
            Place::File { file: path.display().to_string(), line: number, column, text: line.to_string(), width: 1 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: usize) -> List {
        let item = |i: usize| Item {
            path: format!("train2014/COCO_train2014_{i:012}.jpg"),
            labels: (0..80).filter(|label| (i * 7 + *label as usize * 13).is_multiple_of(27)).collect(),
            digest: blake3::hash(&i.to_le_bytes()).to_string(),
        };
        List { classes: (0..80).map(|c| format!("class_{c}")).collect(), items: (0..rows).map(item).collect() }
    }

    fn read(text: &str) -> Result<List> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.list");
        std::fs::write(&path, text).unwrap();
        List::read(&path)
    }

    const HEADER: &str = r#"{"format":"hashpipe.list","version":1,"classes":["a","b"]}"#;

    #[test]
    fn a_list_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.list");
        for rows in [0, 1, 1000] {
            list(rows).write(&path).unwrap();
            assert_eq!(List::read(&path).unwrap(), list(rows));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "a.jpg 0 1 0\n", "{}", r#"{"format":"other","version":1,"classes":[]}"#] {
            assert!(read(text).unwrap_err().message().ends_with("is not a hashpipe list"), "{text}");
        }
        let newer = read(&HEADER.replace(":1,", ":2,")).unwrap_err().render("error");
        assert!(newer.contains("has version 2") && newer.contains("reads version 1"), "{newer}");
        assert_eq!(read(r#"{"format":"hashpipe.list","version":1}"#).unwrap_err().message(), "broken list header");
    }

    #[test]
    fn every_broken_row_is_shown_with_its_line() {
        let digest = "0".repeat(64);
        let rows = [
            format!(r#"{{"path":"x","labels":[0],"digest":"{digest}"}}"#),
            format!(r#"{{"path":"x","labels":[2],"digest":"{digest}"}}"#),
            format!(r#"{{"path":"x","labels":[1,0],"digest":"{digest}"}}"#),
            r#"{"path":"x","labels":[1],"digest":"12"}"#.to_string(),
            r#"{"path":"x","labels":"#.to_string(),
            format!(r#"{{"path":"","labels":[],"digest":"{digest}"}}"#),
        ];
        let shown = read(&format!("{HEADER}\n{}\n", rows.join("\n"))).unwrap_err().render("error");
        for expected in [
            "label 2 is out of range: there are 2 classes, counted from 0",
            "a.list:3:1",
            "the labels are not ascending",
            "`12` is not a blake3 digest",
            "broken row: EOF while parsing a value",
            "a.list:6:21",
            "the path is empty",
            "5 errors",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    /// Not a benchmark: it says how long COCO's database takes, and that nothing is quadratic.
    #[test]
    #[ignore = "prints a time"]
    #[expect(clippy::print_stderr, reason = "a time is read by a person")]
    fn a_large_list_reads_fast() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.list");
        list(112_218).write(&path).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(List::read(&path).unwrap().len(), 112_218);
        eprintln!("112,218 rows in {:?}", start.elapsed());
    }
}
