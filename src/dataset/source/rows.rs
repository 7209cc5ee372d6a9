//! The list files of the field: one image a line, its path, then a 0 or 1 for every class.
//!
//! ```text
//! train2014/COCO_train2014_000000172805.jpg 0 0 1 0
//! ```
//!
//! Anything that is no white space separates nothing, so a path may contain spaces: it is what stands before the labels.

use crate::dataset::faults::Faults;
use crate::error::{Error, Place, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A list file.
pub(super) struct Source {
    /// Which list it is, or is a part of: no image is twice in one list.
    pub(super) list: usize,
    pub(super) file: PathBuf,
    pub(super) text: String,
}

/// What is known of the rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form<'a> {
    /// How many classes there are; otherwise as many as most rows have.
    pub(super) classes: Option<usize>,
    /// What every path begins with that is no part of it.
    pub(super) strip: Option<&'a str>,
}

/// A list file as it was read.
pub(super) struct Rows {
    /// Which list it is a part of.
    pub(super) list: usize,
    pub(super) file: PathBuf,
    pub(super) text: String,
    /// Whether a row ends with zeros and ones, so that its path can be marked.
    pub(super) has_labels_behind: bool,
    pub(super) rows: Vec<Row>,
}

/// One image of a list file.
pub(super) struct Row {
    /// Counted from 1.
    pub(super) line: usize,
    /// Normalised: no `.`, no doubled slashes.
    pub(super) path: String,
    /// Ascending.
    pub(super) labels: Vec<u32>,
}

impl Rows {
    /// Where a row's path stands.
    pub(super) fn place(&self, row: usize) -> Place {
        let line = self.rows[row].line;
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        if !self.has_labels_behind {
            return Place::line(&self.file, line, text);
        }
        let path = split(text, labels_at_end(text)).map_or(text.trim(), |(path, _)| path);
        mark(&self.file, line, text, path)
    }
}

/// Parses list files that belong together, and tells how many classes they have.
///
/// # Errors
/// Every broken row of every file, the first ones in full.
pub(super) fn parse(files: Vec<Source>, form: Form) -> Result<(Vec<Rows>, usize)> {
    let known = form.classes.is_some();
    let classes = form.classes.unwrap_or_else(|| most_common(files.iter().map(|source| source.text.as_str())));
    if classes == 0 {
        return Err(Error::data("the lists have no labels").hint("a line is a path and then a 0 or 1 for every class"));
    }
    let (mut parsed, mut faults) = (vec![], Faults::default());
    let mut seen: HashMap<usize, Seen> = HashMap::new();
    for Source { list, file, text } in files {
        let seen = seen.entry(list).or_default();
        let mut reader = Reader { file: &file, classes, known, strip: form.strip, seen, rows: vec![] };
        let content = text.trim_end().trim_start_matches('\u{feff}');
        if content.is_empty() {
            faults.push(Error::data(format!("the list `{}` is empty", file.display())));
        }
        for (number, line) in (1..).zip(content.lines()) {
            if let Err(fault) = reader.line(number, line) {
                faults.push(fault);
            }
        }
        let rows = reader.rows;
        parsed.push(Rows { list, file, text, has_labels_behind: true, rows });
    }
    faults.into_result()?;
    Ok((parsed, classes))
}

/// File and line of each path of a list.
type Seen = HashMap<String, (PathBuf, usize)>;

struct Reader<'a> {
    file: &'a Path,
    classes: usize,
    /// Whether the user said how many classes there are.
    known: bool,
    strip: Option<&'a str>,
    seen: &'a mut Seen,
    rows: Vec<Row>,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) -> Result<()> {
        if line.trim().is_empty() {
            return Err(Error::data("empty line inside the list").at(self.mark(number, line, &line[..0])));
        }
        let (path, tokens) = self.labels(number, line)?;
        let labels = (0..).zip(tokens.split_whitespace()).filter(|(_, token)| *token == "1").map(|(i, _)| i).collect();
        let inside = self.stripped(number, line, path)?;
        let normal = relative(inside).map_err(|(message, hint)| {
            Error::data(format!("`{path}` {message}")).at(self.mark(number, line, path)).hint(hint)
        })?;
        if let Some((file, first)) = self.seen.get(&normal) {
            let other = if file == self.file { String::new() } else { format!(" of `{}`", file.display()) };
            return Err(Error::data(format!("`{path}` is listed twice"))
                .at(self.mark(number, line, path))
                .note(format!("first in line {first}{other}")));
        }
        self.seen.insert(normal.clone(), (self.file.to_path_buf(), number));
        self.rows.push(Row { line: number, path: normal, labels });
        Ok(())
    }

    /// The path without what all paths begin with.
    fn stripped<'t>(&self, number: usize, line: &str, path: &'t str) -> Result<&'t str> {
        let Some(strip) = self.strip else { return Ok(path) };
        path.strip_prefix(strip).map(|inside| inside.trim_start_matches('/')).ok_or_else(|| {
            Error::data(format!("`{path}` does not begin with `{strip}`"))
                .at(self.mark(number, line, path))
                .hint("`strip` is what all paths of the lists begin with")
        })
    }

    /// The row's path, and the text of its labels: exactly as many zeros and ones as there are classes.
    fn labels<'t>(&self, number: usize, line: &'t str) -> Result<(&'t str, &'t str)> {
        let found = labels_at_end(line);
        if found == self.classes
            && let Some(parts) = split(line, found)
        {
            return Ok(parts);
        }
        let expected = match self.known {
            true => format!("there are {} classes", self.classes),
            false => format!("most rows have {}", self.classes),
        };
        let words = line.split_whitespace().count();
        // A word among the labels that is neither 0 nor 1, unless the labels are simply too few or too many.
        let wrong = line.split_whitespace().rev().nth(found).filter(|_| found < self.classes && words > self.classes);
        let (message, marked) = match wrong {
            Some(word) => (format!("label `{word}` is neither 0 nor 1"), word),
            None => (format!("{found} labels, but {expected}"), line.trim()),
        };
        Err(Error::data(message).at(self.mark(number, line, marked)))
    }

    fn mark(&self, number: usize, line: &str, part: &str) -> Place {
        mark(self.file, number, line, part)
    }
}

/// A part of a line, marked in the user's file. `part` must be a slice of `line`.
fn mark(file: &Path, number: usize, line: &str, part: &str) -> Place {
    let before = (part.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    let column = line.get(..before).map_or(0, |before| before.chars().count()) + 1;
    let width = part.chars().count().max(1);
    Place::File { file: file.display().to_string(), line: number, column, text: line.to_string(), width }
}

/// How many words at the end of a line are 0 or 1; the first word is the path's, whatever it is.
fn labels_at_end(line: &str) -> usize {
    let words = line.split_whitespace().count();
    let labels = line.split_whitespace().rev().take_while(|word| matches!(*word, "0" | "1")).count();
    labels.min(words.saturating_sub(1))
}

/// What stands before the last `count` words, and those words; `None` if nothing does.
fn split(line: &str, count: usize) -> Option<(&str, &str)> {
    let mut path = line.trim();
    let end = path.len();
    for _ in 0..count {
        path = path[..path.rfind(char::is_whitespace)?].trim_end();
    }
    Some((path, &line.trim()[path.len()..end]))
}

fn most_common<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    let mut counts = BTreeMap::<usize, usize>::new();
    for line in texts.flat_map(|text| text.trim_end().lines()) {
        *counts.entry(labels_at_end(line)).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, rows)| *rows).map_or(0, |(labels, _)| labels)
}

/// The path without `.` and doubled slashes; or what is wrong with it, and what to do.
pub(super) fn relative(path: &str) -> Result<String, (&'static str, &'static str)> {
    let windows_drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with('/') || path.starts_with('\\') || windows_drive {
        let hint = "paths in a list are relative to `root`; `strip = \"/home/..\"` takes off what they all begin with";
        return Err(("is an absolute path", hint));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match parts.contains(&"..") {
        true => Err(("leaves its folder by `..`", "set `root` to a folder above all images and name them from there")),
        false => Ok(parts.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(text: &str, classes: Option<usize>) -> Result<(Vec<Row>, usize)> {
        let source = Source { list: 0, file: "a.txt".into(), text: text.into() };
        let (lists, classes) = parse(vec![source], Form { classes, strip: None })?;
        Ok((lists.into_iter().flat_map(|list| list.rows).collect(), classes))
    }

    fn plain(rows: &[Row]) -> Vec<(&str, &[u32])> {
        rows.iter().map(|row| (row.path.as_str(), &row.labels[..])).collect()
    }

    fn fails(text: &str, classes: Option<usize>) -> String {
        parse_one(text, classes).map(|_| ()).unwrap_err().render("error")
    }

    #[test]
    fn rows_are_paths_and_labels() {
        let (rows, classes) = parse_one("\u{feff}x/a.jpg 0 1 1\r\n./x//b.jpg\t1  0 0\r\n\n", None).unwrap();
        assert_eq!(plain(&rows), [("x/a.jpg", &[1, 2][..]), ("x/b.jpg", &[0])]);
        assert_eq!(classes, 3);
    }

    #[test]
    fn paths_may_have_spaces_and_rows_no_label() {
        for classes in [None, Some(2)] {
            let (rows, _) = parse_one("my  photo (1).jpg 0 1\nb.jpg 0 0\n", classes).unwrap();
            assert_eq!(plain(&rows), [("my  photo (1).jpg", &[1][..]), ("b.jpg", &[])]);
        }
    }

    #[test]
    fn a_word_that_is_no_label_is_marked() {
        let shown = fails("a.jpg 0 1 0\nb.jpg 0 2 0\n", None);
        assert_eq!(shown, "error: label `2` is neither 0 nor 1\n --> a.txt:2:9\n  |\n2 | b.jpg 0 2 0\n  |         ^");
    }

    #[test]
    fn a_wrong_number_of_labels_is_compared() {
        let text = "a.jpg 0 1 0\nb.jpg 0 1\nc.jpg 0 1 0\nd.jpg 1 0 1 0\n";
        let shown = fails(text, None);
        assert!(shown.contains("2 labels, but most rows have 3\n --> a.txt:2:1\n"), "{shown}");
        assert!(shown.contains("4 labels, but most rows have 3\n --> a.txt:4:1\n"), "{shown}");
        assert!(fails("a.jpg 0 1\n", Some(3)).contains("2 labels, but there are 3 classes"));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let shown = fails("/data/a.jpg 1\nC:\\a.jpg 1\nx/../../a.jpg 1\nb.jpg 1\n", None);
        assert!(shown.contains("`/data/a.jpg` is an absolute path") && shown.contains("`C:\\a.jpg` is an absolute"));
        assert!(
            shown.contains("leaves its folder by `..`\n --> a.txt:3:1\n") && shown.ends_with("3 errors"),
            "{shown}"
        );
    }

    #[test]
    fn repeated_and_empty_lines_are_refused() {
        let shown = fails("a.jpg 1\n\nb.jpg 1\n  ./a.jpg 1\n", None);
        assert!(shown.contains("empty line inside the list\n --> a.txt:2:1"), "{shown}");
        assert!(shown.contains("`./a.jpg` is listed twice\n --> a.txt:4:3\n"), "{shown}");
        assert!(shown.contains("note: first in line 1"), "{shown}");
        assert!(fails(" \n", Some(1)).contains("the list `a.txt` is empty"));
        assert!(fails("a.jpg\nb.jpg\n", None).contains("the lists have no labels"));
    }
}
