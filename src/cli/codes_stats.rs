//! `hashpipe codes stats`: what codes are like, without labels and whatever program made them.

use super::codes_arguments::CodesForm;
use crate::error::Result;
use crate::external::read_codes;
use crate::report::{count, print, table};
use crate::retrieval::{Quantisation, Statistics};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Files of codes, of any format that `hashpipe codes formats` lists
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    form: CodesForm,
    /// One line of JSON per file
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let mut found = vec![];
    for file in &arguments.files {
        let read = read_codes(file, arguments.form.reading())?;
        let statistics = Statistics::of(&read.codes);
        if arguments.json {
            let mut line = json!(statistics);
            line["file"] = json!(file);
            line["read"] = json!(read.form);
            line["zeros"] = json!(read.zeros);
            line["quantisation"] = json!(read.quantisation);
            print(&line.to_string());
        }
        found.push((file.display().to_string(), statistics, read.quantisation));
    }
    if !arguments.json {
        let columns: Vec<(&str, &Statistics, Option<Quantisation>)> =
            found.iter().map(|(name, statistics, quantisation)| (name.as_str(), statistics, *quantisation)).collect();
        print(&text(&columns));
    }
    Ok(0)
}

/// A column for each set of codes.
pub(super) fn text(columns: &[(&str, &Statistics, Option<Quantisation>)]) -> String {
    let row = |name: &str, value: fn(&Statistics) -> String| {
        let cells = columns.iter().map(|(_, statistics, _)| value(statistics));
        std::iter::once(name.to_string()).chain(cells).collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("codes", |s| count(s.count as u64)),
        row("bits", |s| s.bits.to_string()),
        row("share of ones per bit", |s| {
            let (least, most) = s.balance.iter().fold((1.0, 0.0), |(l, m), p| (f64::min(l, *p), f64::max(m, *p)));
            format!("{:.1} % to {:.1} %", least * 100.0, most * 100.0)
        }),
        row("entropy per bit", |s| format!("{:.4}", s.mean_entropy)),
        row("correlation of bits, mean size", |s| format!("{:.4}", s.correlation.mean_absolute)),
        row("effective bits, tr(C)^2 / tr(C^2)", |s| format!("{:.2}", s.effective_bits)),
        row("bits that never change", |s| s.dead.len().to_string()),
        row("different codes", |s| count(s.buckets.occupied as u64)),
        row("items in the fullest bucket", |s| count(s.buckets.largest as u64)),
        row("two items collide", |s| format!("{:.2e}", s.buckets.collision_probability)),
    ];
    if columns.iter().any(|(_, _, quantisation)| quantisation.is_some()) {
        let mut add = |name: &str, value: fn(Quantisation) -> f64| {
            let cells = columns.iter().map(|(_, _, of)| of.map_or(String::new(), |of| format!("{:.4}", value(of))));
            rows.push(std::iter::once(name.to_string()).chain(cells).collect());
        };
        add("quantisation error, (|x| - 1)^2", |of| of.mean_squared);
        add("cosine of outputs and signs", |of| of.cosine);
    }
    let heads: Vec<&str> = std::iter::once("").chain(columns.iter().map(|(name, _, _)| *name)).collect();
    table(&heads, &rows)
}
