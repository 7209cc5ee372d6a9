//! Parquet: a column `id` of i64 and a column `code` of bytes, as pyarrow, DuckDB, Spark and Milvus read them.

use super::{CodeSet, Format, Options, from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::outfile::Outfile;
use parquet::basic::{Compression, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub(super) const FORMAT: Format = Format {
    name: "parquet",
    suffix: ".parquet",
    about: "Parquet: columns `id` (int64) and `code` (bytes)",
    fits: |head, _| head.starts_with(b"PAR1"),
    read,
    write,
};

/// Codes of a row group: some megabytes.
const GROUP: usize = 1 << 17;

/// The most codes asked of a column at once.
const BATCH: usize = 1 << 14;

fn write(path: &Path, set: &CodeSet, options: &Options) -> Result<()> {
    let mut out = Outfile::create(path)?;
    write_to(&mut out, set, options).map_err(|e| match e {
        ParquetError::External(e) => out.failed(&e.downcast().map_or_else(std::io::Error::other, |e| *e)),
        e => Error::data(format!("cannot write `{}`", path.display())).note(e.to_string()),
    })?;
    out.finish()
}

fn write_to(file: &mut Outfile, set: &CodeSet, options: &Options) -> Result<(), ParquetError> {
    let row = set.codes.bits().div_ceil(8);
    let id = Type::primitive_type_builder("id", Physical::INT64).with_repetition(Repetition::REQUIRED).build()?;
    let code = Type::primitive_type_builder("code", Physical::FIXED_LEN_BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_length(row as i32)
        .build()?;
    let schema = Type::group_type_builder("codes").with_fields(vec![Arc::new(id), Arc::new(code)]).build()?;
    let about = vec![
        KeyValue::new("hashpipe.bits".to_string(), set.codes.bits().to_string()),
        KeyValue::new("hashpipe.bit_order".to_string(), format!("{:?}", options.order).to_lowercase()),
    ];
    // Codes have nothing that compression could find.
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(about))
        .build();
    let mut out = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?;
    let bytes = to_bytes(&set.codes, options.order);
    for first in (0..set.codes.len()).step_by(GROUP) {
        let last = set.codes.len().min(first + GROUP);
        let mut group = out.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            let ids: Vec<i64> = (first..last).map(|i| set.id(i)).collect();
            column.typed::<Int64Type>().write_batch(&ids, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            let codes: Vec<FixedLenByteArray> = bytes[first * row..last * row]
                .chunks_exact(row)
                .map(|code| FixedLenByteArray::from(ByteArray::from(code.to_vec())))
                .collect();
            column.typed::<FixedLenByteArrayType>().write_batch(&codes, None, None)?;
            column.close()?;
        }
        group.close()?;
    }
    out.close()?;
    Ok(())
}

fn read(path: &Path, options: &Options) -> Result<CodeSet> {
    let damaged = |note: String| Error::data("the Parquet file cannot be read").note(note);
    let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
    // The library checks most of what a file says, but not all: a damaged one may make it panic.
    let length = file.metadata().map_err(|e| Error::io("read", path, &e))?.len();
    let read = std::panic::catch_unwind(|| read_from(file, length)).map_err(|_| damaged("it is damaged".into()))?;
    let Columns { ids, codes, row, bits } = read.map_err(|e| damaged(e.to_string()))?;
    let options = Options { bits: options.bits.or(bits), ..options.clone() };
    let codes = from_bytes(codes, row, &options)?;
    if ids.as_ref().is_some_and(|ids| ids.len() != codes.len()) {
        return Err(damaged("its columns have different lengths".into()));
    }
    let ids = ids.filter(|ids| ids.iter().enumerate().any(|(i, id)| i as i64 != *id));
    Ok(CodeSet { codes, ids, zeros: 0 })
}

struct Columns {
    ids: Option<Vec<i64>>,
    codes: Vec<u8>,
    row: usize,
    bits: Option<usize>,
}

fn read_from(file: File, length: u64) -> Result<Columns, ParquetError> {
    let odd = |what: String| ParquetError::General(what);
    let reader = SerializedFileReader::new(file)?;
    let about = reader.metadata().file_metadata();
    let texts = about.key_value_metadata().into_iter().flatten();
    let bits = texts.filter(|text| text.key == "hashpipe.bits").find_map(|text| text.value.as_ref()?.parse().ok());
    let columns: Vec<String> = about.schema_descr().columns().iter().map(|column| column.path().string()).collect();
    let Some(code) = columns.iter().position(|name| name == "code") else {
        return Err(odd(format!("it has no column `code`, but {}", columns.join(", "))));
    };
    let id = columns.iter().position(|name| name == "id");
    let (mut ids, mut codes, mut row) = (id.map(|_| vec![]), vec![], 0);
    let mut take = |code: &[u8]| {
        if row == 0 {
            row = code.len();
        }
        if code.len() != row || row == 0 {
            return Err(ParquetError::General(format!("a code of {} bytes, and the first has {row}", code.len())));
        }
        codes.extend_from_slice(code);
        Ok(())
    };
    inside(&reader, length)?;
    for index in 0..reader.num_row_groups() {
        let group = reader.get_row_group(index)?;
        if let (Some(id), Some(ids)) = (id, &mut ids) {
            let ColumnReader::Int64ColumnReader(column) = group.get_column_reader(id)? else {
                return Err(odd("its column `id` is not int64".into()));
            };
            each(column, |id| {
                ids.push(*id);
                Ok(())
            })?;
        }
        match group.get_column_reader(code)? {
            ColumnReader::FixedLenByteArrayColumnReader(column) => each(column, |code| take(code.data()))?,
            ColumnReader::ByteArrayColumnReader(column) => each(column, |code| take(code.data()))?,
            _ => return Err(odd("its column `code` does not hold bytes".into())),
        }
    }
    Ok(Columns { ids, codes, row, bits })
}

/// Refuses columns that lie outside of the file: the library would panic.
fn inside(reader: &SerializedFileReader<File>, length: u64) -> Result<(), ParquetError> {
    for column in reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let end = start.checked_add(column.compressed_size()).and_then(|end| u64::try_from(end).ok());
        let fits = start >= 0 && column.compressed_size() >= 0 && end.is_some_and(|end| end <= length);
        if !fits {
            return Err(ParquetError::General("a column lies outside of the file".into()));
        }
    }
    Ok(())
}

/// Every value of a column; one that is missing is an error.
fn each<T: DataType>(
    mut column: ColumnReaderImpl<T>,
    mut take: impl FnMut(&T::T) -> Result<(), ParquetError>,
) -> Result<(), ParquetError> {
    loop {
        let (mut values, mut levels) = (vec![], vec![]);
        let (records, found, _) = column.read_records(BATCH, Some(&mut levels), None, &mut values)?;
        if found < records {
            return Err(ParquetError::General("a row has no value".into()));
        }
        if records == 0 {
            return Ok(());
        }
        values.iter().try_for_each(&mut take)?;
    }
}
