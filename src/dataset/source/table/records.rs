//! Rows of CSV, TSV and JSON Lines as named cells, each with its line.

use crate::error::{Error, Place, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Cells between commas, the first line names the columns.
    Csv,
    /// Cells between tabs, the first line names the columns.
    Tsv,
    /// A JSON object in each line.
    Jsonl,
}

impl Format {
    /// By the end of a file's name.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// A table as it was read.
pub(super) struct Records<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    /// Columns of the first line, if that names them.
    columns: Option<HashMap<String, usize>>,
    rows: Vec<(usize, Cells)>,
}

/// Cells of a row: in the order of the columns, or by name.
enum Cells {
    Ordered(csv::StringRecord),
    Named(Map<String, Value>),
}

/// Lines of records that come one after the other. The reader's own count is one too low after CRLF, and it takes empty
/// lines for the beginning of what follows.
struct Lines<'a> {
    text: &'a str,
    /// So many bytes were counted.
    at: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line, from 1, of a record that the reader found here.
    fn line(&mut self, position: Option<&csv::Position>) -> usize {
        let bytes = self.text.as_bytes();
        let mut begin = position.map_or(self.at, |position| position.byte() as usize).clamp(self.at, bytes.len());
        while matches!(bytes.get(begin), Some(b'\r' | b'\n')) {
            begin += 1;
        }
        self.line += bytes[self.at..begin].iter().filter(|byte| **byte == b'\n').count();
        self.at = begin;
        self.line
    }
}

/// One cell.
#[derive(Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Text(&'a str),
    Json(&'a Value),
}

impl<'a> Records<'a> {
    /// Reads a table. Rows that are none are handed to `fault`.
    ///
    /// # Errors
    /// A first line that names no columns, or one of them twice.
    pub(super) fn read(file: &'a Path, text: &'a str, format: Format, fault: &mut dyn FnMut(Error)) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        let mut records = Self { file, lines: text.lines().collect(), columns: None, rows: vec![] };
        match format {
            Format::Csv => records.separated(text, b',', fault)?,
            Format::Tsv => records.separated(text, b'\t', fault)?,
            Format::Jsonl => records.objects(fault),
        }
        Ok(records)
    }

    fn separated(&mut self, text: &str, between: u8, fault: &mut dyn FnMut(Error)) -> Result<()> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(between)
            .quoting(between == b',')
            .flexible(true)
            .has_headers(false)
            .from_reader(text.as_bytes());
        let mut columns: Option<HashMap<String, usize>> = None;
        let mut lines = Lines { text, at: 0, line: 1 };
        for record in reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(e) => {
                    let line = lines.line(e.position());
                    fault(Error::data("broken row").at(self.place(line)).note(e.to_string()));
                    continue;
                }
            };
            let line = lines.line(record.position());
            let Some(known) = &columns else {
                let mut named = HashMap::new();
                for (i, name) in record.iter().enumerate() {
                    if named.insert(name.trim().to_string(), i).is_some() {
                        return Err(
                            Error::data(format!("two columns are called `{}`", name.trim())).at(self.place(line))
                        );
                    }
                }
                columns = Some(named);
                continue;
            };
            if record.len() != known.len() {
                let message = format!("{} cells, but there are {} columns", record.len(), known.len());
                let hint = "a cell with a comma in it stands between double quotes";
                let error = Error::data(message).at(self.place(line));
                fault(if between == b',' { error.hint(hint) } else { error });
                continue;
            }
            self.rows.push((line, Cells::Ordered(record)));
        }
        self.columns = columns;
        match self.columns {
            Some(_) => Ok(()),
            None => Err(Error::data("the table is empty").at(Place::Path(self.file.display().to_string()))),
        }
    }

    fn objects(&mut self, fault: &mut dyn FnMut(Error)) {
        let end = self.lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        for (number, line) in (1..).zip(&self.lines[..end]) {
            match serde_json::from_str::<Map<String, Value>>(line) {
                Ok(object) => self.rows.push((number, Cells::Named(object))),
                Err(e) => {
                    let words = e.to_string();
                    let reason = words.split(" at line ").next().unwrap_or_default().to_string();
                    fault(Error::data("the line is no JSON object").at(self.place(number)).note(reason));
                }
            }
        }
    }

    pub(super) fn place(&self, line: usize) -> Place {
        Place::line(self.file, line, self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default())
    }

    /// The first of these columns that is not there, where the first line names columns.
    pub(super) fn missing(&self, names: &[&str]) -> Option<Error> {
        let columns = self.columns.as_ref()?;
        let name = names.iter().find(|name| !columns.contains_key(**name))?;
        let mut known: Vec<&str> = columns.keys().map(String::as_str).collect();
        known.sort_unstable();
        known.truncate(100);
        let hint = crate::names::known_or_nearest(name, &known, "columns");
        Some(Error::data(format!("there is no column `{name}`")).at(self.place(1)).hint(hint))
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Line of a row, from 1.
    pub(super) fn line(&self, row: usize) -> usize {
        self.rows[row].0
    }

    pub(super) fn cell(&self, row: usize, name: &str) -> Option<Cell<'_>> {
        match &self.rows[row].1 {
            Cells::Ordered(record) => record.get(*self.columns.as_ref()?.get(name)?).map(Cell::Text),
            Cells::Named(object) => object.get(name).map(|value| match value {
                Value::String(text) => Cell::Text(text),
                value => Cell::Json(value),
            }),
        }
    }
}
