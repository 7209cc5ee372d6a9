//! JSON lines of an id and the code in hexadecimal: what loaders of Qdrant, Milvus, Elasticsearch and others are fed with.

use super::{CodeSet, Format, Options, from_bytes, to_bytes};
use crate::error::{Error, Place, Result};
use crate::outfile::Outfile;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "jsonl",
    suffix: ".jsonl",
    about: "JSON lines of `id` and `code`, its bytes in hexadecimal",
    fits: |head, _| head.trim_ascii_start().starts_with(b"{"),
    read,
    write,
};

/// The longest line: a code of 1,024 bits has 256 digits.
const LONGEST: u64 = 4096;

#[derive(Deserialize)]
struct Line {
    id: i64,
    code: String,
}

fn write(path: &Path, set: &CodeSet, options: &Options) -> Result<()> {
    let io = |e: std::io::Error| Error::io("write", path, &e);
    let mut out = Outfile::create(path)?;
    let row = set.codes.bits().div_ceil(8);
    for (i, code) in to_bytes(&set.codes, options.order).chunks_exact(row).enumerate() {
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{{\"id\":{},\"code\":\"{hex}\"}}", set.id(i)).map_err(io)?;
    }
    out.finish()
}

fn read(path: &Path, options: &Options) -> Result<CodeSet> {
    let io = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let (mut bytes, mut ids, mut row) = (vec![], vec![], 0);
    for number in 1.. {
        let mut text = vec![];
        let length = std::io::Read::take(&mut file, LONGEST).read_until(b'\n', &mut text).map_err(io)?;
        if length == 0 {
            break;
        }
        let at = || Place::line(path, number, String::from_utf8_lossy(&text).trim_end());
        let wrong = |what: String| Error::data(what).at(at()).hint("a line is {\"id\":7,\"code\":\"5f82\"}");
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&text).map_err(|e| wrong(format!("no code: {e}")))?;
        let code = bytes_of(&line.code).ok_or_else(|| wrong("a code that is not hexadecimal".into()))?;
        if ids.is_empty() {
            row = code.len();
        }
        if code.len() != row || row == 0 {
            return Err(wrong(format!("a code of {} bytes, and the first has {row}", code.len())));
        }
        bytes.extend(code);
        ids.push(line.id);
    }
    let codes = from_bytes(bytes, row, options)?;
    let ids = Some(ids).filter(|ids| ids.iter().enumerate().any(|(i, id)| i as i64 != *id));
    Ok(CodeSet { codes, ids, zeros: 0 })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
