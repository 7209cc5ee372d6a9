//! `hashpipe evaluate`: how well codes rank, whatever program made them, and what they are like.

use super::codes_arguments::CodesForm;
use super::codes_stats;
use super::compare::positive;
use super::device_argument::DeviceArgument;
use crate::assess::{Asked, Assessment, RESAMPLES, Sides, assess, metric_name};
use crate::certainty::Interval;
use crate::error::{Error, Place, Result};
use crate::external::{ReadCodes, ReadLabels, read_codes, read_labels, same_items};
use crate::per_query::Form;
use crate::report::{count, note, print, table};
use crate::retrieval::Relevance;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Codes of the queries: a codes file of hashpipe, or a NumPy array
    #[arg(long, value_name = "FILE")]
    query_codes: PathBuf,
    /// Codes of the database
    #[arg(long, value_name = "FILE")]
    database_codes: PathBuf,
    /// Labels of the queries: a list, or a NumPy array of class numbers or of a 0 or 1 for each class
    #[arg(long, value_name = "FILE")]
    query_labels: PathBuf,
    /// Labels of the database
    #[arg(long, value_name = "FILE")]
    database_labels: PathBuf,
    /// Ranks that count, from the nearest; several as in `--top-k 1000,5000` [default: the whole database]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = positive)]
    top_k: Vec<usize>,
    /// Take each query itself out of its ranking: the same image by content, or else the same path
    #[arg(long)]
    exclude_self: bool,
    /// Write the results of each query, as lines of JSON (`.jsonl`) or as Parquet (`.parquet`)
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Also write the positions of so many of the nearest items of each query
    #[arg(long, value_name = "N", value_parser = positive, requires = "per_query")]
    retrieved: Option<usize>,
    /// Resamples of the 95 % intervals over queries; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = RESAMPLES)]
    resamples: usize,
    /// What they are drawn by
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    form: CodesForm,
    /// One object of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let written = |path| Form::of(path).map(|form| (path, form));
    let per_query = arguments.per_query.as_deref().map(written).transpose()?;
    let backend = arguments.device.backend()?;
    let reading = arguments.form.reading();
    let queries = read_codes(&arguments.query_codes, reading)?;
    let database = read_codes(&arguments.database_codes, reading)?;
    let [query_labels, labels] = read_labels(&arguments.query_labels, &arguments.database_labels)?;
    check(arguments, [&queries, &database], [&query_labels, &labels])?;
    let same = themselves(arguments, &query_labels, &labels)?;
    let top_k = if arguments.top_k.is_empty() { vec![0] } else { arguments.top_k.clone() };
    let relevance = Relevance::shared_class(&query_labels.labels, &labels.labels)?;
    let sides = Sides { queries: &queries.codes, database: &database.codes, relevance, backend: &backend };
    let asked = Asked {
        top_k: &top_k,
        also: &[],
        same: &same,
        exclude_self: arguments.exclude_self,
        retrieved: arguments.retrieved.unwrap_or(0),
        resamples: arguments.resamples,
        seed: arguments.seed,
    };
    let found = assess::<Error>(sides, asked, |_| Ok(()))?;
    if let Some((path, form)) = per_query {
        found.per_query.write(path, form)?;
    }
    let metric = metric_name(top_k[0]);
    for (side, codes) in [("query", &queries), ("database", &database)] {
        if codes.zeros > 0 {
            note(&format!("warning: {} signs of the {side} codes are 0: neither -1 nor +1", count(codes.zeros)));
        }
    }
    found.tie_warning(&metric).iter().for_each(|warning| note(&format!("warning: {warning}")));
    if arguments.json {
        print(&to_json(arguments, &found, &metric, same.len(), [&queries, &database]).to_string());
    } else {
        print(&text(arguments, &found, &metric, same.len(), [&queries, &database]));
    }
    Ok(0)
}

/// Codes and labels must be of the same items, and both sides of one length; the message names what differs.
fn check(arguments: &Arguments, codes: [&ReadCodes; 2], labels: [&ReadLabels; 2]) -> Result<()> {
    let at = |path: &Path| Place::Path(path.display().to_string());
    let mut errors = vec![];
    let [queries, database] = codes;
    if queries.codes.bits() != database.codes.bits() {
        let (a, b) = (queries.codes.bits(), database.codes.bits());
        errors.push(
            Error::data(format!("query codes have {a} bits, database codes {b}"))
                .note(format!("`{}`: {}", arguments.query_codes.display(), queries.form))
                .note(format!("`{}`: {}", arguments.database_codes.display(), database.form))
                .hint("encode both with the same model, and give packed codes their length with `--bits`"),
        );
    }
    let files = [
        ("query", &arguments.query_codes, &arguments.query_labels),
        ("database", &arguments.database_codes, &arguments.database_labels),
    ];
    for ((side, codes_file, labels_file), (codes, labels)) in files.into_iter().zip(codes.into_iter().zip(labels)) {
        let (items, rows) = (codes.codes.len(), labels.labels.len());
        if items != rows {
            errors.push(
                Error::data(format!("{items} {side} codes, but labels for {rows} items"))
                    .at(at(labels_file))
                    .note(format!("`{}`: {}", codes_file.display(), codes.form))
                    .hint("give the labels of the very items that the codes were made from, in the same order"),
            );
        } else if items == 0 {
            errors.push(Error::data(format!("there are no {side} codes")).at(at(codes_file)));
        }
        if codes.list.as_ref().is_some_and(|list| labels.digests.is_some() && *list != labels.file) {
            errors.push(
                Error::data(format!("the {side} codes were not made from this list"))
                    .at(at(labels_file))
                    .note("codes carry the digest of the list they were made from, and it differs")
                    .hint("give the list that the `encode` stage read"),
            );
        }
    }
    Error::all(errors).map_or(Ok(()), Err)
}

/// Where each query stands in the database.
///
/// # Errors
/// If they are to be taken out and nobody can tell which they are.
fn themselves(arguments: &Arguments, queries: &ReadLabels, database: &ReadLabels) -> Result<BTreeMap<usize, Vec<u32>>> {
    if let Some(same) = same_items(queries, database) {
        return Ok(same);
    }
    let one = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if one(&arguments.query_codes, &arguments.database_codes) {
        return Ok((0..queries.labels.len()).map(|query| (query, vec![query as u32])).collect());
    }
    if arguments.exclude_self {
        return Err(Error::input("nobody can tell which database items are the queries themselves")
            .at(Place::Argument("--exclude-self".into()))
            .note("arrays of labels know neither content nor paths, and the codes are in two files")
            .hint("give lists as labels, or the same file of codes for both sides"));
    }
    Ok(BTreeMap::new())
}

fn to_json(
    arguments: &Arguments,
    found: &Assessment,
    metric: &str,
    inside: usize,
    [queries, database]: [&ReadCodes; 2],
) -> Value {
    let mut told = found.to_json(arguments.exclude_self);
    told["metric"] = json!(metric);
    told["bits"] = json!(queries.codes.bits());
    told["queries_in_database"] = json!(inside);
    told["exclude_self"] = json!(arguments.exclude_self);
    told["read"] = json!({ "query_codes": queries.form, "database_codes": database.form });
    told["zeros"] = json!({ "query": queries.zeros, "database": database.zeros });
    told["quantisation"] = json!({ "query": queries.quantisation, "database": database.quantisation });
    told
}

fn text(
    arguments: &Arguments,
    found: &Assessment,
    metric: &str,
    inside: usize,
    [queries, database]: [&ReadCodes; 2],
) -> String {
    let summary = &found.evaluation.summary;
    let (items, total) = (count(summary.queries as u64), count(summary.database as u64));
    let head = format!("{items} queries, {total} database items, {} bits", queries.codes.bits());
    let interval = |name: &str| {
        let text = |i: &Interval| format!("{:.0} % interval {:.4} to {:.4}", i.level * 100.0, i.low, i.high);
        found.intervals.get(name).map_or(String::new(), text)
    };
    let mut rows: Vec<[String; 3]> = vec![];
    let mut add = |name: &str, value: f64, more: String| rows.push([name.to_string(), format!("{value:.4}"), more]);
    let map = &summary.map[found.main];
    add(metric, map.by_hits.stable, interval("value"));
    let bounds = format!("{:.4} to {:.4} over all orders of ties", map.by_hits.worst, map.by_hits.best);
    add("  expected over ties", map.by_hits.expected, bounds);
    add("  divided by min(R, k)", map.by_ideal.stable, interval("value_min_rk"));
    if let Some(other) = found.other_value() {
        let name = if arguments.exclude_self { "  with the queries in it" } else { "  without the queries" };
        add(name, other, format!("{} of {items} queries are in the database", count(inside as u64)));
    }
    for (_, map) in summary.map.iter().enumerate().filter(|(at, _)| *at != found.main) {
        add(&format!("mAP@{}", map.k), map.by_hits.stable, interval(&format!("map_at_{}", map.k)));
    }
    if let Some(ndcg) = summary.ndcg.get(found.main) {
        add(&format!("NDCG@{}", ndcg.k), ndcg.value, interval("ndcg"));
    }
    if let Some(lookup) = &summary.lookup {
        let sure = interval("lookup_precision");
        let between = if sure.is_empty() { "" } else { "; " };
        let success = format!("{sure}{between}{:.1} % of the lookups find something", lookup.success * 100.0);
        add(&format!("P@H<={}", lookup.radius), lookup.precision, success);
    }
    add("chance", summary.chance, "mean share of the database that is relevant".into());
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    let codes = codes_stats::text(&[
        ("queries", &found.query_codes, queries.quantisation),
        ("database", &found.database_codes, database.quantisation),
    ]);
    format!("{head}\n\n{}\n\n{codes}", table(&["figure", "value", ""], &rows))
}
