//! Text for PostgreSQL's `COPY table (id, code) FROM STDIN`, where pgvector compares `bit(64)` with `<~>`.

use super::{CodeSet, Format, Options};
use crate::error::{Error, Place, Result};
use crate::outfile::Outfile;
use crate::retrieval::Codes;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "pgvector",
    suffix: ".copy",
    about: "PostgreSQL's COPY: id, a tab, and the bits from the first to the last",
    fits: |head, _| {
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut cells = line.split(|byte| *byte == b'\t');
        let is_of =
            |cell: Option<&[u8]>, set: &[u8]| cell.is_some_and(|c| !c.is_empty() && c.iter().all(|b| set.contains(b)));
        is_of(cells.next(), b"-0123456789") && is_of(cells.next(), b"01")
    },
    read,
    write,
};

fn write(path: &Path, set: &CodeSet, _: &Options) -> Result<()> {
    let io = |e: std::io::Error| Error::io("write", path, &e);
    let mut out = Outfile::create(path)?;
    for i in 0..set.codes.len() {
        let bits: String = (0..set.codes.bits()).map(|j| if set.codes.bit(i, j) { '1' } else { '0' }).collect();
        writeln!(out, "{}\t{bits}", set.id(i)).map_err(io)?;
    }
    out.finish()
}

fn read(path: &Path, _: &Options) -> Result<CodeSet> {
    let io = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let (mut codes, mut ids): (Option<Codes>, Vec<i64>) = (None, vec![]);
    for number in 1.. {
        let mut text = String::new();
        if std::io::Read::take(&mut file, 4096).read_line(&mut text).map_err(io)? == 0 {
            break;
        }
        let text = text.trim_end();
        let wrong = |what: String| Error::data(what).at(Place::line(path, number, text));
        let cells = text.split_once('\t').and_then(|(id, bits)| Some((id.parse().ok()?, bits)));
        let Some((id, bits)) = cells.filter(|(_, bits)| bits.bytes().all(|b| matches!(b, b'0' | b'1'))) else {
            return Err(wrong("no id, tab, and bits".into()));
        };
        let signs: Vec<f32> = bits.bytes().map(|bit| if bit == b'1' { 1.0 } else { -1.0 }).collect();
        let codes = match &mut codes {
            Some(codes) => codes,
            none => none.insert(Codes::new(signs.len())?),
        };
        codes.push(&signs).map_err(|refusal| wrong(refusal.to_string()))?;
        ids.push(id);
    }
    let codes = codes.ok_or_else(|| Error::data("a file without codes"))?;
    let ids = Some(ids).filter(|ids| ids.iter().enumerate().any(|(i, id)| i as i64 != *id));
    Ok(CodeSet { codes, ids, zeros: 0 })
}
