//! Results query by query, as lines of JSON or as Parquet: columns with names, a row for each query.
//!
//! Both forms hold the same. In Parquet, whole numbers are unsigned integers of 32 bits, a missing number is null, and
//! retrieved items are a list (the three levels that the format's specification asks for). Nothing in a file tells when
//! it was made, so equal results give equal bytes.

use crate::error::{Error, Place, Result};
use crate::outfile::Outfile;
use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{DoubleType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::SerializedFileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

/// A value for each query.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    Numbers(Vec<f64>),
    Counts(Vec<u32>),
    /// `None`: there is none, as the rank of a first hit without a hit.
    Maybe(Vec<Option<u32>>),
    /// Items, as those that were retrieved.
    Items(Vec<Vec<u32>>),
}

/// Columns of one length, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PerQuery {
    columns: Vec<(String, Column)>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line of JSON for each query.
    JsonLines,
    Parquet,
}

impl Form {
    /// The form that a file's name asks for.
    ///
    /// # Errors
    /// A name that ends neither in `.jsonl` nor in `.parquet`.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::JsonLines),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(Error::input(format!("`{}` does not say how results are to be written", path.display()))
                .hint("end the name in `.jsonl` (lines of JSON) or `.parquet`")),
        }
    }
}

/// The bytes at both ends of a Parquet file.
const PARQUET: &[u8; 4] = b"PAR1";

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Counts(values) => values.len(),
            Self::Maybe(values) => values.len(),
            Self::Items(values) => values.len(),
        }
    }

    fn json(&self, row: usize) -> Value {
        match self {
            Self::Numbers(values) => values[row].into(),
            Self::Counts(values) => values[row].into(),
            Self::Maybe(values) => values[row].into(),
            Self::Items(values) => values[row].clone().into(),
        }
    }

    /// Its line in the schema.
    fn schema(&self, name: &str) -> String {
        match self {
            Self::Numbers(_) => format!("required double {name};"),
            Self::Counts(_) => format!("required int32 {name} (INTEGER(32,false));"),
            Self::Maybe(_) => format!("optional int32 {name} (INTEGER(32,false));"),
            Self::Items(_) => format!(
                "required group {name} (LIST) {{ repeated group list {{ required int32 element (INTEGER(32,false)); }} }}"
            ),
        }
    }
}

impl PerQuery {
    /// Adds a column, which must be as long as those that are there.
    #[must_use]
    pub fn with(mut self, name: &str, column: Column) -> Self {
        debug_assert!(self.columns.is_empty() || self.len() == column.len(), "`{name}` has another length");
        self.columns.push((name.to_string(), column));
        self
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The numbers of a column, if it is one of numbers or of counts.
    pub fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        match &self.columns.iter().find(|(column, _)| column == name)?.1 {
            Column::Numbers(values) => Some(values.clone()),
            Column::Counts(values) => Some(values.iter().map(|value| f64::from(*value)).collect()),
            _ => None,
        }
    }

    /// Writes a file, whole or not at all.
    pub fn write(&self, path: &Path, form: Form) -> Result<()> {
        let io = |e: std::io::Error| Error::io("write", path, &e);
        let mut out = Outfile::create(path)?;
        match form {
            Form::JsonLines => {
                for row in 0..self.len() {
                    let line: Map<String, Value> =
                        self.columns.iter().map(|(name, column)| (name.clone(), column.json(row))).collect();
                    writeln!(out, "{}", Value::Object(line)).map_err(io)?;
                }
            }
            Form::Parquet => self.write_parquet(&mut out).map_err(|e| match e {
                ParquetError::External(e) => io(e.downcast().map_or_else(std::io::Error::other, |e| *e)),
                e => Error::data("results cannot be written as Parquet").note(e.to_string()),
            })?,
        }
        out.finish()
    }

    fn write_parquet(&self, out: &mut (impl std::io::Write + Send)) -> Result<(), ParquetError> {
        let mut schema = "message per_query { ".to_string();
        for (name, column) in &self.columns {
            let _ = write!(schema, "{} ", column.schema(name));
        }
        schema.push('}');
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("hashpipe ", env!("CARGO_PKG_VERSION")).to_string());
        let schema = Arc::new(parse_message_type(&schema)?);
        let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties.build()))?;
        let mut group = writer.next_row_group()?;
        for (_, column) in &self.columns {
            let Some(mut out) = group.next_column()? else { break };
            match (column, out.untyped()) {
                (Column::Numbers(values), ColumnWriter::DoubleColumnWriter(_)) => {
                    out.typed::<DoubleType>().write_batch(values, None, None)?;
                }
                (Column::Counts(values), _) => {
                    let values: Vec<i32> = values.iter().map(|value| value.cast_signed()).collect();
                    out.typed::<Int32Type>().write_batch(&values, None, None)?;
                }
                (Column::Maybe(values), _) => {
                    let there: Vec<i32> = values.iter().flatten().map(|value| value.cast_signed()).collect();
                    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                    out.typed::<Int32Type>().write_batch(&there, Some(&levels), None)?;
                }
                (Column::Items(rows), _) => {
                    // An empty row has one pair of levels and no value; in others, the first item begins the row.
                    let values: Vec<i32> = rows.iter().flatten().map(|value| value.cast_signed()).collect();
                    let (mut there, mut repeats) = (vec![], vec![]);
                    for row in rows {
                        there.extend(std::iter::repeat_n(i16::from(!row.is_empty()), row.len().max(1)));
                        repeats.extend((0..row.len().max(1)).map(|i| i16::from(i > 0)));
                    }
                    out.typed::<Int32Type>().write_batch(&values, Some(&there), Some(&repeats))?;
                }
                (Column::Numbers(_), _) => return Err(ParquetError::General("a column of another type".into())),
            }
            out.close()?;
        }
        group.close()?;
        writer.close()?;
        Ok(())
    }

    /// Reads a file of either form. Of its columns, those are kept that hold a number for every query.
    ///
    /// # Errors
    /// What is neither, with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let rows = Self::rows(path)?;
        let names: Vec<String> = rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default();
        let column = |name: String| {
            let values: Option<Vec<f64>> = rows.iter().map(|row| row.get(&name)?.as_f64()).collect();
            Some((name, Column::Numbers(values?)))
        };
        Ok(Self { columns: names.into_iter().filter_map(column).collect() })
    }

    /// The rows of a file of either form, by name. Lists in a Parquet file come as null.
    ///
    /// # Errors
    /// What is neither, with the line.
    pub fn rows(path: &Path) -> Result<Vec<Map<String, Value>>> {
        let io = |e: std::io::Error| Error::io("read", path, &e);
        let mut start = [0; PARQUET.len()];
        let is_parquet = File::open(path).map_err(io)?.read_exact(&mut start).is_ok() && start == *PARQUET;
        let file = File::open(path).map_err(io)?;
        if is_parquet {
            let rows =
                SerializedFileReader::new(file).and_then(|reader| reader.into_iter().collect::<Result<Vec<_>, _>>());
            let rows = rows.map_err(|e| {
                let place = Place::Path(path.display().to_string());
                Error::data("the Parquet file cannot be read").at(place).note(e.to_string())
            })?;
            let named = |row: &Row| row.get_column_iter().map(|(name, field)| (name.clone(), number(field))).collect();
            return Ok(rows.iter().map(named).collect());
        }
        let row = |(line, text): (usize, std::io::Result<String>)| {
            let text = text.map_err(io)?;
            serde_json::from_str(&text).map_err(|e| {
                Error::data("not a line of JSON with the results of a query")
                    .at(Place::line(path, line, &text))
                    .note(e.to_string())
            })
        };
        (1..).zip(BufReader::new(file).lines()).map(row).collect()
    }
}

fn number(field: &Field) -> Value {
    match field {
        Field::Double(value) => (*value).into(),
        Field::Float(value) => f64::from(*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> PerQuery {
        PerQuery::default()
            .with("query", Column::Counts(vec![0, 1, 2]))
            .with("ap", Column::Numbers(vec![0.1 + 0.2, 0.0, 1.0]))
            .with("first_hit", Column::Maybe(vec![Some(3), None, Some(1)]))
            .with("retrieved", Column::Items(vec![vec![7, u32::MAX], vec![], vec![0]]))
    }

    #[test]
    fn lines_of_json_are_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        results().write(&path, Form::of(&path).unwrap()).unwrap();
        let lines = [
            r#"{"ap":0.30000000000000004,"first_hit":3,"query":0,"retrieved":[7,4294967295]}"#,
            r#"{"ap":0.0,"first_hit":null,"query":1,"retrieved":[]}"#,
            r#"{"ap":1.0,"first_hit":1,"query":2,"retrieved":[0]}"#,
        ];
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines.join("\n") + "\n");
        let read = PerQuery::read(&path).unwrap();
        assert_eq!((read.len(), read.names().collect::<Vec<_>>()), (3, vec!["ap", "query"]));
        assert_eq!(read.numbers("ap"), Some(vec![0.1 + 0.2, 0.0, 1.0]));
    }

    #[test]
    fn parquet_holds_the_same_and_equal_results_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        for path in [&path, &again] {
            results().write(path, Form::of(path).unwrap()).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap());
        let read = PerQuery::read(&path).unwrap();
        assert_eq!((read.numbers("ap"), read.numbers("query")), (results().numbers("ap"), Some(vec![0.0, 1.0, 2.0])));
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let rows: Vec<Value> = reader.into_iter().map(|row| row.unwrap().to_json_value_text()).collect();
        assert_eq!(rows[0]["retrieved"], serde_json::json!([7, u32::MAX]));
        assert_eq!((&rows[1]["retrieved"], &rows[1]["first_hit"]), (&serde_json::json!([]), &Value::Null));
    }

    trait Text {
        fn to_json_value_text(&self) -> Value;
    }

    impl Text for parquet::record::Row {
        /// Its items, as far as these tests look at them.
        fn to_json_value_text(&self) -> Value {
            let field = |field: &Field| match field {
                Field::ListInternal(list) => list.elements().iter().map(number).collect(),
                field => number(field),
            };
            self.get_column_iter().map(|(name, value)| (name.clone(), field(value))).collect::<Map<_, _>>().into()
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Form::of(Path::new("a.txt")).is_err());
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{\"ap\":1}\nhello\n").unwrap();
        let text = PerQuery::read(&path).unwrap_err().render("error");
        assert!(text.contains("a.jsonl:2:1"), "{text}");
        std::fs::write(&path, "PAR1 and more").unwrap();
        assert_eq!(PerQuery::read(&path).unwrap_err().message(), "the Parquet file cannot be read");
    }
}
