//! `[evaluate.*]`: how well query codes find their like among database codes.

use super::{Ctx, Describe, Ref, Stage};
use crate::dataset::List;
use crate::error::{Error, Result};
use crate::retrieval::{self, Codes, Labels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{BufWriter, Write as _};

/// Measures retrieval: mAP@k in the reference's definition and two stricter ones, and the chance level.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Evaluate {
    /// Codes of the queries.
    query_codes: Ref,
    /// Codes of the database.
    database_codes: Ref,
    /// List the query codes were made from, for its labels.
    query_list: Ref,
    /// List the database codes were made from, for its labels.
    database_list: Ref,
    /// Ranks that count, from the nearest; 0 ranks the whole database.
    #[serde(default)]
    top_k: usize,
}

impl Describe for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Measure how well query codes find their like in a database";
}

impl Stage for Evaluate {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["result", "per_query"]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![("result", "result.json"), ("per_query", "per_query.jsonl")]
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (queries, query_labels, classes) = self.side(cx, &self.query_codes, &self.query_list)?;
        let (database, database_labels, others) = self.side(cx, &self.database_codes, &self.database_list)?;
        if classes != others {
            return Err(Error::data(format!(
                "`{}` and `{}` have other classes",
                self.query_list.0, self.database_list.0
            ))
            .note(format!("{} classes: {}", classes.len(), shortened(&classes)))
            .note(format!("{} classes: {}", others.len(), shortened(&others)))
            .hint("relevance is a shared class: both lists must number the same classes in the same order")
            .into());
        }
        let k = if self.top_k == 0 { database.len() } else { self.top_k.min(database.len()) };
        let total = queries.len() as u64;
        let found = retrieval::evaluate(&queries, &database, &query_labels, &database_labels, Some(k), |done| {
            cx.step(done as u64, total, || "queries".into())
        })?;

        // The name says what was asked for, so that a smaller database does not make another metric of it.
        let at = if self.top_k == 0 { "mAP@all".to_string() } else { format!("mAP@{}", self.top_k) };
        cx.metric(&at, found.map);
        cx.metric("chance", found.chance);
        let result = json!({
            "metric": at,
            "value": found.map,
            "value_min_rk": found.map_min_rk,
            "value_expected_over_ties": found.expected_map,
            "chance": found.chance,
            "protocol": {
                "bits": queries.bits(),
                "queries": queries.len(),
                "database": database.len(),
                "k": k,
                "relevant": "query and database image share at least one label",
                "ties": "in database order",
                "average_precision": "mean precision at the hits within the first k; 0 without a hit",
                "query_list": cx.digest(&self.query_list)?,
                "database_list": cx.digest(&self.database_list)?,
                "query_codes": cx.digest(&self.query_codes)?,
                "database_codes": cx.digest(&self.database_codes)?,
            },
            "notes": {
                "value_min_rk": "divided by min(relevant in the database, k) instead of by the hits found",
                "value_expected_over_ties": "the mean over all orders of equally distant images",
                "chance": "mean share of the database that is relevant: the precision of a random ranking",
            },
        });
        let path = cx.output("result");
        std::fs::write(&path, format!("{result:#}\n")).map_err(|e| Error::io("write", &path, &e))?;
        per_query(cx, &found.per_query)?;
        Ok(())
    }
}

impl Evaluate {
    /// Codes, labels and classes of one side, which must be of the same images.
    fn side(&self, cx: &mut Ctx, codes: &Ref, list: &Ref) -> Result<(Codes, Labels, Vec<String>)> {
        let (packed, header) = retrieval::read(cx.path(codes)?)?;
        let images = List::read(cx.path(list)?)?;
        let digest = cx.digest(list)?;
        if header.provenance.list.as_deref().is_some_and(|made_from| made_from != digest) {
            return Err(Error::data(format!("`{}` was not made from `{}`", codes.0, list.0))
                .note("codes carry the digest of the list they were made from, and it differs")
                .hint("give the list that the `encode` stage reads"));
        }
        if packed.len() != images.items.len() {
            return Err(Error::data(format!(
                "`{}` has {} codes, but `{}` has {} images",
                codes.0,
                packed.len(),
                list.0,
                images.items.len()
            )));
        }
        let labels =
            Labels::from_indices(images.classes.len(), images.items.iter().map(|item| item.labels.as_slice()))?;
        Ok((packed, labels, images.classes))
    }
}

/// The first few names.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "))
}

/// One line of JSON per query.
fn per_query(cx: &Ctx, results: &[retrieval::QueryResult]) -> Result<()> {
    let path = cx.output("per_query");
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(&path)?);
        for (query, result) in results.iter().enumerate() {
            let mut line = serde_json::to_value(result)?;
            line["query"] = query.into();
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    write().map_err(|e| Error::io("write", &path, &e))
}
