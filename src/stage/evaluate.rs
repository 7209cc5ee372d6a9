//! `[evaluate.*]`: how well query codes find their like among database codes.

use super::contract::{agree, broken, readable};
use super::protocol::Protocol;
use super::{Content, Ctx, Describe, Ref, Stage};
use crate::assess::{Asked, Assessment, RESAMPLES, Sides, assess, metric_name};
use crate::dataset::{self, List};
use crate::error::{Error, Result};
use crate::per_query::{Form, PerQuery};
use crate::retrieval::{self, Backend, Codes, Labels, Relevance};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Measures retrieval: mAP@k in the reference's definition and stricter ones, each with its interval; curves, lookups,
/// classes; what the codes are like; and all of it query by query.
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
    /// What happens when a query is in the database, or more ranks should count than there are images.
    #[serde(default)]
    protocol: Protocol,
    /// Whether a query that is in the database, by content, is taken out of its own ranking. Both figures are told.
    #[serde(default)]
    #[schemars(extend("before" = false))]
    exclude_self: bool,
    /// How many of the nearest images of each query are listed in its results, by position in the database list.
    #[serde(default)]
    #[schemars(extend("before" = 0))]
    retrieved: usize,
    /// How the results of each query are written.
    #[serde(default)]
    #[schemars(extend("before" = "jsonl"))]
    form: Written,
}

/// How the results of each query are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Written {
    /// A line of JSON for each.
    #[default]
    Jsonl,
    /// A Parquet file.
    Parquet,
}

/// What counts as found.
const RELEVANT: &str = "query and database image share at least one label";
/// How a ranking orders images of equal distance.
const TIES: &str = "in database order";
const AVERAGE_PRECISION: &str = "mean precision at the hits within the first k; 0 without a hit";
const DISTANCE: &str = "number of bits that differ";
/// The k of mAP@k and NDCG@k that are told beside the one asked for; 0 is the whole database.
const OTHER_CUTS: [usize; 3] = [100, 1000, 0];

impl Describe for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Measure how well query codes find their like in a database";
}

impl Stage for Evaluate {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["result", "per_query"]
    }

    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![
            ("query_codes", Content::Codes),
            ("database_codes", Content::Codes),
            ("query_list", Content::List),
            ("database_list", Content::List),
        ]
    }

    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        let name = if self.form == Written::Parquet { "per_query.parquet" } else { "per_query.jsonl" };
        vec![("result", "result.json"), ("per_query", name)]
    }

    fn can_use_a_gpu(&self) -> bool {
        true
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (queries, query_images) = self.side(cx, &self.query_codes, &self.query_list)?;
        let (database, images) = self.side(cx, &self.database_codes, &self.database_list)?;
        let (classes, others) = (&query_images.classes, &images.classes);
        if classes != others {
            return Err(Error::data(format!(
                "`{}` and `{}` have other classes",
                self.query_list.0, self.database_list.0
            ))
            .note(format!("{} classes: {}", classes.len(), shortened(classes)))
            .note(format!("{} classes: {}", others.len(), shortened(others)))
            .hint("relevance is a shared class: both lists must number the same classes in the same order")
            .into());
        }
        let k = if self.top_k == 0 { database.len() } else { self.top_k.min(database.len()) };
        let leaked = dataset::queries_in_database(&query_images, &images);
        self.judge(cx, leaked.as_ref(), database.len())?;
        let total = queries.len() as u64;
        let (query_labels, database_labels) = (labels(&query_images)?, labels(&images)?);
        let same = dataset::same_images(&query_images, &images);
        let relevance = Relevance::shared_class(&query_labels, &database_labels)?;
        let (top_k, exclude_self, retrieved) = ([self.top_k], self.exclude_self, self.retrieved);
        let same = &same;
        let asked =
            Asked { top_k: &top_k, also: &OTHER_CUTS, same, exclude_self, retrieved, resamples: RESAMPLES, seed: 0 };
        let backend = Backend::open(cx.gpu())?;
        let sides = Sides { queries: &queries, database: &database, relevance, backend: &backend };
        let found = assess(sides, asked, |done| cx.step(done as u64, total, || "queries".into()))?;
        let metric = self.report(cx, &found, same.len())?;

        let digest = self.protocol_digest(cx, k)?;
        cx.fact("protocol", digest.clone());
        let mut result = found.to_json(exclude_self);
        result["metric"] = json!(metric);
        name_classes(&mut result["metrics"], classes);
        result["protocol"] = json!({
            "digest": digest,
            "bits": queries.bits(),
            "queries": queries.len(),
            "database": database.len(),
            "k": k,
            "relevant": RELEVANT,
            "distance": DISTANCE,
            "ties": TIES,
            "average_precision": AVERAGE_PRECISION,
            "queries_in_database": leaked,
            "exclude_self": exclude_self,
            "query_list": cx.digest(&self.query_list)?,
            "database_list": cx.digest(&self.database_list)?,
            "query_codes": cx.digest(&self.query_codes)?,
            "database_codes": cx.digest(&self.database_codes)?,
        });
        result["notes"] = notes();
        let path = cx.output("result");
        std::fs::write(&path, format!("{result:#}\n")).map_err(|e| Error::io("write", &path, &e))?;
        let form = if self.form == Written::Parquet { Form::Parquet } else { Form::JsonLines };
        found.per_query.write(&cx.output("per_query"), form)?;
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let result = read_json("result", &cx.output("result"))?.pop().unwrap_or_default();
        for name in ["value", "value_min_rk", "value_expected_over_ties", "chance"] {
            in_range("result", name, &result[name])?;
        }
        let queries = List::read(cx.path(&self.query_list)?)?.len();
        let database = List::read(cx.path(&self.database_list)?)?.len();
        agree("result", "queries", result["protocol"]["queries"].to_string(), queries.to_string())?;
        agree("result", "database", result["protocol"]["database"].to_string(), database.to_string())?;
        let k = result["protocol"]["k"].as_u64().filter(|k| (1..=database as u64).contains(k));
        let k = k.ok_or_else(|| broken("result", format!("k is {}", result["protocol"]["k"])))?;
        let lines = readable("per_query", PerQuery::rows(&cx.output("per_query")))?;
        agree("per_query", "lines", lines.len(), queries)?;
        lines.iter().try_for_each(|line| check_query(line, k, database as u64))
    }
}

/// The numbers of one query must make sense together.
fn check_query(line: &Map<String, Value>, k: u64, database: u64) -> Result<()> {
    let value = |name: &str| line.get(name).unwrap_or(&Value::Null);
    for name in ["ap", "ap_min_rk", "expected_ap", "expected_ap_min_rk", "worst_ap", "best_ap"] {
        in_range("per_query", name, value(name))?;
    }
    let query = value("query");
    let count = |name: &str, most: u64| {
        let found = value(name).as_u64().filter(|count| *count <= most);
        found.ok_or_else(|| broken("per_query", format!("`{name}` of query {query} is {}", value(name))))
    };
    let relevant = count("relevant", database)?;
    let hits = count("hits", k.min(relevant))?;
    match value("first_hit").as_u64() {
        None if hits == 0 => Ok(()),
        Some(rank) if hits > 0 && (1..=k).contains(&rank) => Ok(()),
        _ => Err(broken("per_query", format!("query {query}: {hits} hits, the first at {}", value("first_hit")))),
    }
}

/// A share of something. NaN and infinite numbers have no JSON, and stand as null.
fn in_range(output: &str, name: &str, value: &Value) -> Result<()> {
    /// What a mean of ones may be above 1.
    const ROUNDING: f64 = 1e-9;
    match value.as_f64() {
        Some(share) if (0.0..=1.0 + ROUNDING).contains(&share) => Ok(()),
        _ => Err(broken(output, format!("`{name}` is {value}, expected 0 to 1"))),
    }
}

/// The JSON values of an output, one after the other.
fn read_json(output: &str, path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
    readable(output, values.map_err(|e| Error::data(e.to_string())))
}

impl Evaluate {
    /// Tells the figures, their intervals, and what is wrong with them; gives the name of the main one.
    fn report(&self, cx: &mut Ctx, found: &Assessment, inside: usize) -> Result<String> {
        // The name says what was asked for, so that a smaller database does not make another metric of it.
        let metric = metric_name(self.top_k);
        cx.metric(&metric, found.value());
        if let (Some(name), Some(other)) = (self.other_metric(found), found.other_value()) {
            cx.metric(name, other);
        }
        cx.metric("chance", found.evaluation.summary.chance);
        if let Some(interval) = found.intervals.get("value") {
            let mut intervals = json!({ &metric: { "low": interval.low, "high": interval.high } });
            if let Some((other, interval)) = self.other_metric(found).zip(found.intervals.get("other")) {
                intervals[other] = json!({ "low": interval.low, "high": interval.high });
            }
            cx.fact("intervals", intervals.to_string());
        }
        if self.exclude_self && inside == 0 {
            cx.warn("`exclude_self` takes nothing out: no query is in the database, by content");
        }
        if let Some(warning) = found.tie_warning(&metric) {
            cx.warn(warning);
        }
        Ok(metric)
    }

    /// The name of the figure with the queries in the database, or without them, whichever is not the main one.
    fn other_metric(&self, found: &Assessment) -> Option<String> {
        let (metric, word) = (metric_name(self.top_k), if self.exclude_self { "with" } else { "without" });
        found.other.as_ref().map(|_| format!("{metric} {word} self"))
    }

    /// Warns of what makes the figure mean something else than it says, or refuses it.
    fn judge(&self, cx: &mut Ctx, leaked: Option<&String>, database: usize) -> Result<()> {
        // Of lists made together, the stage that made them has warned.
        let together = match (self.query_list.0.rsplit_once('/'), self.database_list.0.rsplit_once('/')) {
            (Some((a, _)), Some((b, _))) => a == b && a.starts_with("lists."),
            _ => false,
        };
        let told = together && self.protocol == Protocol::Published;
        let short = (self.top_k > database)
            .then(|| format!("`top_k` is {}, but the database has {database} images: all of them count", self.top_k));
        let leaks = leaked.filter(|_| !told && !self.exclude_self).cloned();
        let breaches: Vec<String> = leaks.into_iter().chain(short).collect();
        self.protocol.judge(cx, &breaches)
    }

    /// Names what a figure was measured on and how. Figures of different names must not be compared.
    fn protocol_digest(&self, cx: &Ctx, k: usize) -> Result<String> {
        let k = k.to_string();
        let excluded = self.exclude_self.then_some(("self", "excluded"));
        let mut hasher = blake3::Hasher::new_derive_key("hashpipe 2026-11 protocol v1");
        let rules = [
            ("query_list", cx.digest(&self.query_list)?),
            ("database_list", cx.digest(&self.database_list)?),
            ("k", &k),
            ("relevant", RELEVANT),
            ("distance", DISTANCE),
            ("ties", TIES),
            ("average_precision", AVERAGE_PRECISION),
        ];
        for (name, value) in rules.into_iter().chain(excluded) {
            for text in [name, value] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Codes and images of one side, which must be the same images.
    fn side(&self, cx: &mut Ctx, codes: &Ref, list: &Ref) -> Result<(Codes, List)> {
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
        Ok((packed, images))
    }
}

fn labels(list: &List) -> Result<Labels> {
    Ok(Labels::from_indices(list.classes.len(), list.items.iter().map(|item| item.labels.as_slice()))?)
}

/// The first few names.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "))
}

/// Puts the names of classes in the place of their numbers.
fn name_classes(metrics: &mut Value, classes: &[String]) {
    for class in metrics["per_class"].as_array_mut().into_iter().flatten() {
        let name = class["class"].as_u64().and_then(|class| classes.get(class as usize));
        class["class"] = json!(name);
    }
}

/// What the values mean.
fn notes() -> Value {
    json!({
        "value_min_rk": "divided by min(relevant in the database, k) instead of by the hits found",
        "value_expected_over_ties": "the mean over all orders of equally distant images",
        "stable, expected, worst, best": "with ties in database order; mean, least and greatest over all orders",
        "by_hits, by_ideal": "divided by the hits within the first k; by min(relevant in the database, k)",
        "ndcg, curve": "means over all orders of equally distant images; the gain of n shared labels is 2^n - 1",
        "lookup, by_radius": "images within so many bits; a query that finds none has precision 0",
        "distances": "pairs of a query and a database image at each distance, by whether they share a class",
        "with_self, without_self": "the same with the queries in the database left there, or taken out",
        "intervals": "95 %, bootstrap over queries, percentiles",
        "chance": "mean share of the database that is relevant: the precision of a random ranking",
        "effective_bits": "tr(C)^2 / tr(C^2) of the correlation matrix C of all bits that change",
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Desk, Ended};
    use crate::error::Kind;
    use serde_json::{Value, json};

    /// Codes of eight queries and of thirty database images.
    fn desk() -> Desk {
        let desk = Desk::new();
        desk.list("query", &desk.pictures(0..8, "query"));
        desk.list("database", &desk.pictures(8..38, "database"));
        desk.model("model", 16, 1);
        for list in ["query", "database"] {
            let codes = desk.run("encode", json!({ "model": "model", "list": list })).ok();
            std::fs::copy(codes.path("codes"), desk.path(&format!("{list} codes"))).unwrap();
        }
        desk
    }

    fn params(top_k: usize, protocol: &str) -> Value {
        json!({
            "query_codes": "query codes", "database_codes": "database codes",
            "query_list": "query", "database_list": "database", "top_k": top_k, "protocol": protocol,
        })
    }

    fn evaluate(desk: &Desk, top_k: usize) -> Ended {
        desk.run("evaluate", params(top_k, "published")).ok()
    }

    /// All but that ties make the figure, which so few codes hardly avoid.
    fn warnings(ended: &Ended) -> Vec<&str> {
        ended.warnings().into_iter().filter(|warning| !warning.contains("orders of ties")).collect()
    }

    fn result(ended: &Ended) -> Value {
        serde_json::from_slice(&ended.bytes("result")).unwrap()
    }

    #[test]
    fn the_protocol_has_a_name_that_tells_unlike_figures_apart() {
        let desk = desk();
        let name = |desk: &Desk, top_k| {
            let ended = evaluate(desk, top_k);
            let name = ended.fact("protocol").unwrap().to_string();
            assert_eq!(result(&ended)["protocol"]["digest"], name.as_str());
            name
        };
        let base = name(&desk, 10);
        assert_eq!(name(&desk, 10), base);
        assert_ne!(name(&desk, 11), base);
        assert_eq!(name(&desk, 0), name(&desk, 30), "the whole database is what counts in both");
        desk.model("model", 24, 3);
        for list in ["query", "database"] {
            let codes = desk.run("encode", json!({ "model": "model", "list": list })).ok();
            std::fs::copy(codes.path("codes"), desk.path(&format!("{list} codes"))).unwrap();
        }
        assert_eq!(name(&desk, 10), base, "other codes are what is compared");
        desk.list("query", &desk.pictures(0..7, "query"));
        let codes = desk.run("encode", json!({ "model": "model", "list": "query" })).ok();
        std::fs::copy(codes.path("codes"), desk.path("query codes")).unwrap();
        assert_ne!(name(&desk, 10), base);
    }

    #[test]
    fn queries_in_the_database_and_ranks_beyond_it_are_breaches() {
        let desk = desk();
        assert_eq!(warnings(&evaluate(&desk, 30)), [""; 0]);
        let beyond = "`top_k` is 31, but the database has 30 images: all of them count";
        assert_eq!(warnings(&evaluate(&desk, 31)), [beyond]);
        let strict = desk.run("evaluate", params(31, "strict"));
        assert_eq!((strict.error().kind(), strict.error().message()), (Kind::Contract, beyond));

        desk.list("query", &desk.pictures(0..9, "query"));
        let codes = desk.run("encode", json!({ "model": "model", "list": "query" })).ok();
        std::fs::copy(codes.path("codes"), desk.path("query codes")).unwrap();
        let leak =
            "1 of 9 queries are in the database, by content: each finds itself (`query/8.bmp` as `database/8.bmp`)";
        let ended = evaluate(&desk, 5);
        let told = &result(&ended)["protocol"]["queries_in_database"];
        assert_eq!((warnings(&ended), told), (vec![leak], &leak.into()));
        assert_eq!(desk.run("evaluate", params(5, "strict")).error().message(), leak);
    }

    #[test]
    fn a_query_in_the_database_is_told_of_or_taken_out() {
        let desk = desk();
        desk.list("query", &desk.pictures(0..12, "query"));
        let codes = desk.run("encode", json!({ "model": "model", "list": "query" })).ok();
        std::fs::copy(codes.path("codes"), desk.path("query codes")).unwrap();
        let with = evaluate(&desk, 5);
        let mut asked = params(5, "strict");
        (asked["exclude_self"], asked["retrieved"], asked["form"]) = (true.into(), 4.into(), "parquet".into());
        let without = desk.run("evaluate", asked.clone()).ok();
        let (told, other) = (result(&with), result(&without));
        assert_eq!((&told["without_self"]["value"], &other["with_self"]["value"]), (&other["value"], &told["value"]));
        assert!(told["value"].as_f64() > other["value"].as_f64(), "{} {}", told["value"], other["value"]);
        assert_ne!(with.fact("protocol"), without.fact("protocol"));
        // Queries 8 to 11 are database images 0 to 3, and are not among their own neighbours.
        asked["form"] = "jsonl".into();
        let lines = String::from_utf8(desk.run("evaluate", asked.clone()).ok().bytes("per_query")).unwrap();
        for (query, line) in lines.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            let retrieved = line["retrieved"].as_array().unwrap();
            assert!(retrieved.len() == 4 && !retrieved.contains(&json!(query as i64 - 8)), "{line}");
        }
        desk.list("query", &desk.pictures(0..8, "query"));
        let codes = desk.run("encode", json!({ "model": "model", "list": "query" })).ok();
        std::fs::copy(codes.path("codes"), desk.path("query codes")).unwrap();
        let nothing = "`exclude_self` takes nothing out: no query is in the database, by content";
        assert_eq!(warnings(&desk.run("evaluate", asked).ok()), [nothing]);
    }

    #[test]
    fn figures_that_cannot_be_are_not_published() {
        let desk = desk();
        let ended = evaluate(&desk, 10);
        let whole = result(&ended);
        for (at, value, words) in [
            ("/value", json!(1.01), "`value` is 1.01, expected 0 to 1"),
            ("/value", json!(null), "`value` is null"),
            ("/chance", json!(-0.1), "`chance` is -0.1"),
            ("/protocol/queries", json!(9), "queries: 9, expected 8"),
            ("/protocol/k", json!(31), "k is 31"),
        ] {
            let mut changed = whole.clone();
            *changed.pointer_mut(at).unwrap() = value;
            std::fs::write(ended.path("result"), changed.to_string()).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
        }
        std::fs::write(ended.path("result"), "{\"value\": ").unwrap();
        assert!(ended.breach().contains("EOF"));
        std::fs::write(ended.path("result"), whole.to_string()).unwrap();

        let lines = String::from_utf8(ended.bytes("per_query")).unwrap();
        let first = lines.lines().next().unwrap();
        let edited = |key: &str, value: Value| {
            let mut line: Value = serde_json::from_str(first).unwrap();
            line[key] = value;
            lines.replacen(first, &line.to_string(), 1)
        };
        for (text, words) in [
            (lines.replacen(&format!("{first}\n"), "", 1), "lines: 7, expected 8"),
            (edited("ap", json!(2)), "`ap` is 2"),
            (edited("hits", json!(11)), "`hits` of query 0 is 11"),
            (edited("relevant", json!(31)), "`relevant` of query 0 is 31"),
            (edited("first_hit", json!(null)), "the first at null"),
        ] {
            std::fs::write(ended.path("per_query"), text).unwrap();
            assert!(ended.breach().contains(words), "{}", ended.breach());
        }
    }
}
