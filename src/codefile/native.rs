//! hashpipe's own files of codes.

use super::{CodeSet, Format, Options};
use crate::error::Result;
use crate::retrieval::{self, Header};
use std::path::Path;

pub(super) const FORMAT: Format = Format {
    name: "hashpipe",
    suffix: ".codes",
    about: "hashpipe's own, with a digest and where the codes come from",
    fits: |head, _| head.starts_with(b"HASHCODE"),
    read,
    write,
};

fn read(path: &Path, _: &Options) -> Result<CodeSet> {
    let (codes, header) = retrieval::read(path)?;
    Ok(CodeSet { codes, ids: None, zeros: header.zeros })
}

fn write(path: &Path, set: &CodeSet, _: &Options) -> Result<()> {
    retrieval::write(path, &set.codes, &Header { zeros: set.zeros, ..Header::default() })
}
