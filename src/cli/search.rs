//! `hashpipe search`: the codes nearest to given codes, whatever program made them.

use super::codes_arguments::CodesForm;
use super::compare::positive;
use super::device_argument::DeviceArgument;
use crate::dataset::List;
use crate::error::{Error, Result};
use crate::external::read_codes;
use crate::report::{print, table};
use crate::retrieval::{Engine, Neighbour};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The codes that are searched: a codes file of hashpipe, or a NumPy array
    #[arg(long, value_name = "FILE")]
    codes: PathBuf,
    /// The codes that are looked up
    #[arg(long, value_name = "FILE")]
    query: PathBuf,
    /// How many of the nearest to show
    #[arg(long, value_name = "N", value_parser = positive, default_value = "10", conflicts_with = "radius")]
    top: usize,
    /// Show all that differ in at most so many bits instead
    #[arg(long, value_name = "BITS")]
    radius: Option<usize>,
    /// The list that the searched codes were made from, to show paths
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    form: CodesForm,
    /// One line of JSON per query
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let backend = arguments.device.backend()?;
    let reading = arguments.form.reading();
    let database = read_codes(&arguments.codes, reading)?;
    let queries = read_codes(&arguments.query, reading)?;
    if queries.codes.bits() != database.codes.bits() {
        return Err(Error::data(format!(
            "query codes have {} bits, database codes {}",
            queries.codes.bits(),
            database.codes.bits()
        ))
        .note(format!("`{}`: {}", arguments.query.display(), queries.form))
        .note(format!("`{}`: {}", arguments.codes.display(), database.form))
        .hint("encode queries and database with the same model, and give packed codes their length with `--bits`"));
    }
    let list = arguments.list.as_deref().map(List::read).transpose()?;
    if let Some(list) = list.as_ref().filter(|list| list.len() != database.codes.len()) {
        let (codes, images) = (database.codes.len(), list.len());
        return Err(Error::data(format!("{codes} codes, but a list of {images} images"))
            .hint("give the list that the codes were made from"));
    }
    let engine = Engine::over(&database.codes).on(&backend);
    let found = match arguments.radius {
        Some(radius) => engine.within(&queries.codes, radius)?,
        None => engine.top_k(&queries.codes, arguments.top)?,
    };
    let shown = Shown { list: list.as_ref(), half_bits: engine.half_bits(&queries.codes) };
    for (query, found) in found.iter().enumerate() {
        match arguments.json {
            true => print(&json!({ "query": query, "matches": shown.matches(found) }).to_string()),
            false => print(&shown.text(query, found)),
        }
    }
    Ok(0)
}

/// How what was found is shown.
struct Shown<'l> {
    list: Option<&'l List>,
    /// Whether distances are counted in half bits.
    half_bits: bool,
}

impl Shown<'_> {
    fn path(&self, near: &Neighbour) -> Option<&str> {
        self.list?.items.get(near.index as usize).map(|item| item.path.as_str())
    }

    /// In bits.
    fn distance(&self, near: &Neighbour) -> Value {
        if self.half_bits { json!(f64::from(near.distance) / 2.0) } else { json!(near.distance) }
    }

    fn matches(&self, found: &[Neighbour]) -> Vec<Value> {
        let one = |(rank, near): (usize, &Neighbour)| {
            let mut one = json!({ "rank": rank, "index": near.index, "distance": self.distance(near) });
            if let Some(path) = self.path(near) {
                one["path"] = json!(path);
            }
            one
        };
        (1..).zip(found).map(one).collect()
    }

    fn text(&self, query: usize, found: &[Neighbour]) -> String {
        let row = |(rank, near): (usize, &Neighbour)| {
            let mut cells = vec![rank.to_string(), self.distance(near).to_string(), near.index.to_string()];
            cells.extend(self.path(near).map(ToOwned::to_owned));
            cells
        };
        let rows: Vec<Vec<String>> = (1..).zip(found).map(row).collect();
        let heads = ["rank", "distance", "index", "path"];
        let heads = &heads[..if self.list.is_some() { 4 } else { 3 }];
        format!("query {query}\n{}\n", table(heads, &rows))
    }
}
