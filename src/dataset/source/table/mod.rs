//! `name = "table"`: lists as CSV, TSV or JSON Lines with named columns.
//!
//! ```text
//! path,labels                      path,cat,dog
//! "my photo, 1.jpg",cat;dog        "my photo, 1.jpg",1,1
//!
//! {"path": "my photo.jpg", "labels": ["cat", "dog"]}
//! ```
//!
//! Labels are names in one cell, or a 0 or 1 in a column for each class; in JSON also a list of names, or of zeros and
//! ones in the order of `classes`.

mod records;

use super::rows::{self, Row, Rows};
use super::{OnError, Progress, Source, Splits, listed, star};
use crate::dataset::Location;
use crate::dataset::faults::Faults;
use crate::error::{Error, Result};
use records::{Cell, Records};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

pub(super) use records::Format;

/// Lists on disk as tables with named columns: CSV, TSV or JSON Lines.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// List of the training images; a star in its name stands for anything, as in `part*.csv`.
    pub train: Location,
    /// List of the queries.
    pub query: Location,
    /// List of the images that are searched.
    pub database: Location,
    /// Folder the paths in the lists are relative to.
    pub root: Location,
    /// How the lists are written; otherwise their names end in `.csv`, `.tsv` or `.jsonl`.
    #[serde(default)]
    pub format: Option<Format>,
    /// Column of the images' paths.
    #[serde(default = "path")]
    pub path: String,
    /// Column of the labels; not used if every class has a column of its own.
    #[serde(default = "labels")]
    pub labels: String,
    /// What stands between the names of several labels in one cell.
    #[serde(default = "semicolon")]
    pub separator: String,
    /// Whether the labels are zeros and ones: in a column called like each class, or in JSON in one list.
    #[serde(default)]
    pub multi_hot: bool,
    /// Names of the classes, in their order; otherwise all names that occur, in alphabetical order.
    #[serde(default)]
    pub classes: Option<Vec<String>>,
    /// Column that says which list a row is in, `train`, `query` or `database`, or several with the separator: all
    /// lists may then be one file.
    #[serde(default)]
    pub split: Option<String>,
    /// Whether the protocol has the training images in the database too; if this is not said, either is right.
    #[serde(default)]
    pub train_in_database: Option<bool>,
    /// What happens to an image that cannot be decoded: `error`, or `skip` to leave it out of all lists.
    #[serde(default)]
    pub on_error: OnError,
}

fn path() -> String {
    "path".into()
}

fn labels() -> String {
    "labels".into()
}

fn semicolon() -> String {
    ";".into()
}

impl Source for Table {
    fn check(&self) -> Result<()> {
        if let Some(repeated) = self.classes.as_deref().and_then(listed::first_repeated) {
            return Err(Error::input(format!("`classes` names `{repeated}` twice")));
        }
        if self.separator.is_empty() {
            return Err(Error::input("`separator` is empty").hint("give what stands between labels, as \";\""));
        }
        match (self.multi_hot, &self.classes) {
            (true, None) => Err(Error::input("`multi_hot` needs `classes`: the names of the columns, in order")),
            _ => Ok(()),
        }
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        listed::files(&self.parse(project)?.0, &self.root.resolve(project))
    }

    fn root(&self, project: &Path) -> Option<PathBuf> {
        Some(self.root.resolve(project))
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let lists = self.lists().map(|(name, list)| (format!("{name} list"), star::shown(&list.resolve(project))));
        lists.into_iter().chain([("images".to_string(), self.root.resolve(project))]).collect()
    }

    fn train_in_database(&self) -> Option<bool> {
        self.train_in_database
    }

    fn breaches(&self) -> Vec<String> {
        let others = [("database", &self.database), ("train", &self.train)];
        let same = others.into_iter().filter(|(_, list)| self.split.is_none() && **list == self.query);
        same.map(|(name, _)| format!("`query` and `{name}` are the same list")).collect()
    }

    fn build(&self, project: &Path, _images: &Path, progress: Progress) -> Result<Splits> {
        let (lists, classes) = self.parse(project)?;
        listed::splits(&lists, classes, &self.root.resolve(project), self.on_error, progress)
    }
}

/// A row before the classes are known.
struct Found {
    row: Row,
    names: Vec<String>,
}

impl Table {
    fn lists(&self) -> [(&'static str, &Location); 3] {
        [("train", &self.train), ("query", &self.query), ("database", &self.database)]
    }

    /// A table by itself, with the usual names of columns, all rows of it; and the classes.
    pub(super) fn single(file: &Path, text: String, classes: Option<Vec<String>>) -> Result<(Rows, Vec<String>)> {
        let at = || Location(String::new());
        let table = Self {
            train: at(),
            query: at(),
            database: at(),
            root: at(),
            format: None,
            path: path(),
            labels: labels(),
            separator: semicolon(),
            multi_hot: false,
            classes,
            split: None,
            train_in_database: None,
            on_error: OnError::Error,
        };
        let (mut lists, classes) = table.parsed(vec![rows::Source { list: 0, file: file.to_path_buf(), text }])?;
        Ok((lists.remove(0), classes))
    }

    fn parse(&self, project: &Path) -> Result<(Vec<Rows>, Vec<String>)> {
        self.check()?;
        self.parsed(listed::texts(self.lists(), &self.root, project)?)
    }

    fn parsed(&self, texts: Vec<rows::Source>) -> Result<(Vec<Rows>, Vec<String>)> {
        let (mut tables, mut faults) = (vec![], Faults::default());
        let mut seen = HashMap::new();
        for source in texts {
            let seen = seen.entry(source.list).or_default();
            match self.rows(&source, seen, &mut faults) {
                Ok(found) => tables.push((source, found)),
                Err(fault) => faults.push(fault),
            }
        }
        faults.into_result()?;
        let classes = self.classes.clone().unwrap_or_else(|| {
            let names = tables.iter().flat_map(|(_, found)| found).flat_map(|found| &found.names);
            names.collect::<BTreeSet<_>>().into_iter().cloned().collect()
        });
        if classes.is_empty() {
            return Err(Error::data("the lists have no labels")
                .hint(format!("`labels` names their column, now `{}`", self.labels)));
        }
        let position: HashMap<&str, u32> = (0..).zip(&classes).map(|(i, name)| (name.as_str(), i)).collect();
        let lists = tables.into_iter().map(|(source, found)| {
            let rows = found.into_iter().map(|Found { mut row, names }| {
                row.labels.extend(names.iter().filter_map(|name| position.get(name.as_str())));
                row.labels.sort_unstable();
                row.labels.dedup();
                row
            });
            let rows = rows.collect();
            Rows { list: source.list, file: source.file, text: source.text, has_labels_behind: false, rows }
        });
        let lists = lists.collect();
        Ok((lists, classes))
    }

    /// The rows of a file that are in its list. `seen` holds the line of each path of that list so far.
    fn rows(
        &self,
        source: &rows::Source,
        seen: &mut HashMap<String, String>,
        faults: &mut Faults,
    ) -> Result<Vec<Found>> {
        let Some(format) = self.format.or_else(|| Format::of(&source.file)) else {
            let message = format!("`{}` may be CSV, TSV or JSON Lines", source.file.display());
            return Err(Error::input(message).hint("say which: `format = \"csv\"`"));
        };
        let records = Records::read(&source.file, &source.text, format, &mut |fault| faults.push(fault))?;
        let mut columns = vec![self.path.as_str()];
        columns.extend(self.split.as_deref());
        match (&self.classes, self.multi_hot) {
            (Some(classes), true) => columns.extend(classes.iter().map(String::as_str)),
            _ => columns.push(&self.labels),
        }
        if let Some(missing) = records.missing(&columns) {
            return Err(missing);
        }
        let mut found = vec![];
        for row in 0..records.len() {
            match self.row(&records, row, listed::LISTS[source.list]) {
                Ok(None) => {}
                Ok(Some(one)) => {
                    let here = format!("line {} of `{}`", one.row.line, source.file.display());
                    if let Some(first) = seen.insert(one.row.path.clone(), here) {
                        let error = Error::data(format!("`{}` is listed twice", one.row.path));
                        faults.push(error.at(records.place(one.row.line)).note(format!("first in {first}")));
                    }
                    found.push(one);
                }
                Err(fault) => faults.push(fault.at(records.place(records.line(row)))),
            }
        }
        Ok(found)
    }

    /// A row, if it is in the list; errors lack their place.
    fn row(&self, records: &Records, row: usize, list: &str) -> Result<Option<Found>> {
        let text = |name: &str| match records.cell(row, name) {
            Some(Cell::Text(text)) => Ok(text),
            Some(Cell::Json(_)) => Err(Error::data(format!("`{name}` is no text"))),
            None => Err(Error::data(format!("there is no `{name}`"))),
        };
        if let Some(split) = &self.split {
            let names: Vec<&str> = text(split)?.split(&self.separator).map(str::trim).collect();
            if let Some(unknown) = names.iter().find(|name| !listed::LISTS.contains(name)) {
                return Err(Error::data(format!("`{split}` is `{unknown}`")).note("it is train, query or database"));
            }
            if !names.contains(&list) {
                return Ok(None);
            }
        }
        let given = text(&self.path)?;
        let path = rows::relative(given.trim())
            .map_err(|(words, hint)| Error::data(format!("`{given}` {words}")).hint(hint))?;
        if path.is_empty() {
            return Err(Error::data(format!("`{}` is empty", self.path)));
        }
        let (names, labels) =
            if self.multi_hot { (vec![], self.hot(records, row)?) } else { (self.names(records, row)?, vec![]) };
        Ok(Some(Found { row: Row { line: records.line(row), path, labels }, names }))
    }

    fn names(&self, records: &Records, row: usize) -> Result<Vec<String>> {
        let names: Vec<String> = match records.cell(row, &self.labels) {
            None | Some(Cell::Json(Value::Null)) => vec![],
            Some(Cell::Text(text)) => text
                .split(&self.separator)
                .map(|name| name.trim().to_string())
                .filter(|name| !name.is_empty())
                .collect(),
            Some(Cell::Json(Value::Array(items))) => {
                let name = |item: &Value| match item {
                    Value::String(name) => Ok(name.clone()),
                    other => Err(Error::data(format!("label `{}` is no name", short(other)))
                        .hint("zeros and ones need `multi_hot = true` and `classes`")),
                };
                items.iter().map(name).collect::<Result<_>>()?
            }
            Some(Cell::Json(other)) => {
                return Err(Error::data(format!("`{}` is `{}` and no list of names", self.labels, short(other))));
            }
        };
        let Some(classes) = &self.classes else { return Ok(names) };
        match names.iter().find(|name| !classes.contains(name)) {
            None => Ok(names),
            Some(unknown) => {
                let known: Vec<&str> = classes.iter().map(String::as_str).collect();
                let hint = crate::names::known_or_nearest(unknown, &known, "classes");
                Err(Error::data(format!("unknown label `{unknown}`")).hint(hint))
            }
        }
    }

    /// Zeros and ones of the classes, from a column each, or from one list.
    fn hot(&self, records: &Records, row: usize) -> Result<Vec<u32>> {
        let classes = self.classes.as_deref().unwrap_or_default();
        let mut labels = vec![];
        let mut take = |label: u32, cell: Option<Cell>| match cell {
            Some(Cell::Text(text)) if text.trim() == "1" => {
                labels.push(label);
                Ok(())
            }
            Some(Cell::Text(text)) if text.trim() == "0" => Ok(()),
            Some(Cell::Json(value)) if *value == 1 || *value == true => {
                labels.push(label);
                Ok(())
            }
            Some(Cell::Json(value)) if *value == 0 || *value == false => Ok(()),
            other => {
                let class = &classes[label as usize];
                let given = match other {
                    None => return Err(Error::data(format!("there is no label of `{class}`"))),
                    Some(Cell::Text(text)) => text.chars().take(40).collect(),
                    Some(Cell::Json(value)) => short(value),
                };
                Err(Error::data(format!("the label `{given}` of `{class}` is neither 0 nor 1")))
            }
        };
        if let Some(Cell::Json(Value::Array(items))) = records.cell(row, &self.labels) {
            if items.len() != classes.len() {
                let message = format!("{} labels, but `classes` names {}", items.len(), classes.len());
                return Err(Error::data(message));
            }
            (0..).zip(items).try_for_each(|(label, value)| take(label, Some(Cell::Json(value))))?;
        } else {
            (0..).zip(classes).try_for_each(|(label, class)| take(label, records.cell(row, class)))?;
        }
        Ok(labels)
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pictures and a table for all lists.
    fn project(name: &str, text: &str) -> (tempfile::TempDir, Table) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pictures")).unwrap();
        for (number, name) in ["a.png", "b, c.png", "d.png"].iter().enumerate() {
            let picture = image::RgbImage::from_pixel(9, 9, image::Rgb([number as u8 * 50; 3]));
            picture.save(folder.path().join("pictures").join(name)).unwrap();
        }
        std::fs::write(folder.path().join(name), text).unwrap();
        let at = |path: &str| Location(path.to_string());
        let table = Table {
            train: at(name),
            query: at(name),
            database: at(name),
            root: at("pictures"),
            format: None,
            path: path(),
            labels: labels(),
            separator: semicolon(),
            multi_hot: false,
            classes: None,
            split: Some("split".into()),
            train_in_database: None,
            on_error: OnError::Error,
        };
        (folder, table)
    }

    fn build(folder: &tempfile::TempDir, table: &Table) -> Result<Splits> {
        table.build(folder.path(), Path::new("unused"), &mut |_, _| Ok(()))
    }

    fn rows(list: &crate::dataset::List) -> Vec<(&str, &[u32])> {
        list.items.iter().map(|item| (item.path.as_str(), &item.labels[..])).collect()
    }

    #[test]
    fn names_and_zeros_and_ones_say_the_same_in_every_format() {
        let csv = "\u{feff}path,labels,split\r\na.png,dog,train;database\r\n\"b, c.png\",dog; cat,database\r\nd.png,,query\r\n";
        let tsv = "split\tpath\tcat\tdog\ntrain;database\ta.png\t0\t1\ndatabase\tb, c.png\t1\t1\nquery\td.png\t0\t0\n";
        let names = r#"{"path": "a.png", "labels": "dog", "split": "train;database", "more": [1]}
            {"path": "b, c.png", "labels": ["dog", "cat"], "split": "database"}
            {"path": "d.png", "split": "query"}"#;
        let hot = r#"{"path": "a.png", "labels": [0, 1], "split": "train;database"}
            {"path": "b, c.png", "labels": [true, 1], "split": "database"}
            {"path": "d.png", "labels": [0, false], "split": "query"}"#;
        for (name, text, multi_hot) in
            [("l.csv", csv, false), ("l.tsv", tsv, true), ("l.jsonl", names, false), ("l.jsonl", hot, true)]
        {
            let (folder, mut table) = project(name, text);
            table.multi_hot = multi_hot;
            table.classes = multi_hot.then(|| vec!["cat".into(), "dog".into()]);
            let splits = build(&folder, &table).unwrap_or_else(|e| panic!("{}", e.render("error")));
            assert_eq!(splits.train.classes, ["cat", "dog"]);
            assert_eq!(rows(&splits.train), [("a.png", &[1][..])]);
            assert_eq!(rows(&splits.query), [("d.png", &[][..])]);
            assert_eq!(rows(&splits.database), [("a.png", &[1][..]), ("b, c.png", &[0, 1])]);
            assert_eq!(table.files(folder.path()).unwrap().len(), 3 + 3);
        }
    }

    #[test]
    fn every_wrong_row_is_told_with_its_line() {
        let csv = "path,labels\na.png,cat\nd.png\n/x.png,cat\na.png,dog\n,cat\nd.png,bird\n";
        let (folder, mut table) = project("l.csv", csv);
        table.split = None;
        // However lines end, and whatever stands between them.
        for text in [
            "path,labels\r\na.png,cat\r\n/x.png,dog\r\n",
            "\u{feff}path,labels\r\n\r\n/x.png,\"dog\r\n\"\r\n",
            "path,labels\n\n/x.png,dog\n",
        ] {
            std::fs::write(folder.path().join("l.csv"), text).unwrap();
            let shown = build(&folder, &table).unwrap_err().render("error");
            assert!(shown.contains("l.csv:3:1") && shown.contains("3 | /x.png"), "{shown}");
        }
        std::fs::write(folder.path().join("l.csv"), csv).unwrap();
        table.classes = Some(vec!["cat".into(), "dog".into()]);
        let shown = |table: &Table| build(&folder, table).unwrap_err().render("error");
        let text = shown(&table);
        for expected in [
            "1 cells, but there are 2 columns",
            "l.csv:3:1",
            "`/x.png` is an absolute path",
            "`a.png` is listed twice",
            "first in line 2 of `",
            "`path` is empty",
            "unknown label `bird`",
            "l.csv:7:1",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        table.path = "image".into();
        assert!(shown(&table).contains("there is no column `image`"));
        std::fs::write(folder.path().join("l.csv"), "path,path\n").unwrap();
        assert!(shown(&table).contains("two columns are called `path`"));
        (table.multi_hot, table.classes) = (true, None);
        assert!(shown(&table).contains("`multi_hot` needs `classes`"));
    }

    #[test]
    fn broken_json_is_told_with_its_line() {
        let text = "{\"path\": \"a.png\", \"labels\": [7], \"split\": \"train\"}\n{\"path\": 3, \"split\": \"train\"}\n[1]\n\n{\"path\": \"d.png\", \"split\": \"test\"}\n";
        let (folder, table) = project("l.jsonl", text);
        let shown = build(&folder, &table).unwrap_err().render("error");
        for expected in [
            "label `7` is no name",
            "`path` is no text",
            "l.jsonl:2:1",
            "the line is no JSON object",
            "`split` is `test`",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }
}
