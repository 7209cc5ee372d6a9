//! Every evaluation in a cache, side by side where they can be compared: one table per protocol.
//!
//! A protocol is all that an evaluation's key holds but the codes themselves: both lists, the rule of relevance, the
//! ranks that count. What was done to get the codes is found by following digests back through the cache's records, so
//! that names do not matter. Results whose history differs in nothing but the seed are one row.

use super::form::Table;
use super::spread::{is_inside, spread};
use super::summary::in_order;
use crate::cache::{Action, Key};
use crate::certainty::{self, LEVEL, RESAMPLES};
use crate::event::Spread;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a result was called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub pipeline: String,
    pub task: String,
}

/// Results of one protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leaderboard {
    /// What all rows have in common: lists, ranks, rules.
    pub protocol: BTreeMap<String, String>,
    pub entries: Vec<Entry>,
}

/// One way to make codes, over all of its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    pub pipeline: String,
    pub stage: String,
    /// What was done, by kind of stage and key: `train.bits`.
    pub parameters: BTreeMap<String, String>,
    /// The seeds, in order.
    pub seeds: Vec<String>,
    pub metrics: BTreeMap<String, Figure>,
    /// How the epoch was chosen that the codes are of; `null` for the last one.
    pub selected: Option<Selected>,
    /// How it compares with the best entry of the same code length.
    pub mark: Mark,
    /// How often chance alone makes a difference to that entry as large as theirs: the paired randomisation test over
    /// queries, two-sided, on each query's mean over the seeds. `null` for the best one itself, and where the results
    /// per query are gone.
    pub p_value: Option<f64>,
    /// Query by query, the mean over the seeds.
    #[serde(skip)]
    numbers: Option<Vec<f64>>,
}

/// How an epoch was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// By queries that are not those of the figures.
    OnValidation,
    /// By the very queries that the figures are of, which makes them better than unknown images would get.
    OnTest,
}

impl Selected {
    fn text(selected: Option<Self>) -> &'static str {
        match selected {
            None => "last",
            Some(Self::OnValidation) => "best on validation",
            Some(Self::OnTest) => "best on test",
        }
    }
}

/// A figure over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub mean: f64,
    /// `null` for one seed.
    pub spread: Option<Spread>,
    /// Per seed.
    pub values: Vec<f64>,
    /// Of a single seed: the bootstrap interval over queries.
    pub over_queries: Option<OverQueries>,
}

/// An interval over queries, as the evaluation told it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OverQueries {
    pub low: f64,
    pub high: f64,
}

/// How an entry compares with the best one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    Best,
    /// The difference lies inside its 95 % interval.
    Inside,
    /// The difference is larger than that.
    Below,
    /// One seed on either side: nobody knows.
    Unknown,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Inside => "~",
            Self::Below => "",
            Self::Unknown => "?",
        }
    }
}

/// How the marks are to be read.
const MARKS: &[&str] = &[
    "best: of its code length; ~: the difference to it lies inside its 95 % interval (Welch's t over seeds);",
    "?: one seed alone has no interval. ±: half the 95 % interval of the mean (Student's t, n - 1 degrees of freedom).",
    "[a, b]: 95 % interval of one seed over its queries (bootstrap). p: of the difference to the best of its code length, \
     by paired randomisation over queries.",
];

/// What the rows of a board have in common, and the rows with what they were made from.
type Rows<'a> = (BTreeMap<String, String>, Vec<(Entry, &'a Action)>);

/// Numbers per query of an evaluation, if they are still there.
type Numbers<'a> = dyn Fn(&Action) -> Option<Vec<f64>> + 'a;

impl Leaderboard {
    /// The boards of all evaluations that have a name, or with `all`, of every one.
    pub fn all(actions: &[Action], names: &HashMap<Key, BTreeSet<Named>>, all: bool, per_query: &Numbers) -> Vec<Self> {
        let history = History::new(actions);
        // By what was measured and how, as the evaluation itself names it; its key says more than that.
        let mut boards: BTreeMap<String, Rows> = BTreeMap::new();
        for action in actions.iter().filter(|action| action.kind == "evaluate" && !action.metrics.is_empty()) {
            let name = names.get(&action.key).and_then(BTreeSet::first);
            if name.is_some() || all {
                let entry = history.entry(action, name);
                let protocol = history.protocol(action, names);
                let group = match action.facts.get("protocol") {
                    // A figure of all ranks has another name than one of as many as there are.
                    Some(name) => {
                        format!("{name} {}", in_order(entry.metrics.keys()).first().cloned().unwrap_or_default())
                    }
                    None => format!("{protocol:?}"),
                };
                boards.entry(group).or_insert((protocol, vec![])).1.push((entry, action));
            }
        }
        let mut boards: Vec<Self> = boards
            .into_values()
            .map(|(protocol, found)| {
                let mut entries = over_seeds(found, per_query);
                mark(&mut entries);
                test(&mut entries);
                Self { protocol, entries }
            })
            .collect();
        boards.sort_by(|a, b| a.protocol.cmp(&b.protocol));
        boards
    }

    /// What the table is of, in a line.
    pub fn title(&self) -> String {
        let value = |name: &str| self.protocol.get(name).map_or("", String::as_str);
        let known = ["query_list", "database_list"];
        let others: Vec<String> = self
            .protocol
            .iter()
            .filter(|(name, _)| !known.contains(&name.as_str()))
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("{} in {}; {}", value("query_list"), value("database_list"), others.join(", "))
    }

    /// What has to be known to read the tables, in lines.
    pub fn legend() -> &'static [&'static str] {
        MARKS
    }

    /// A row per entry; of the parameters, those that differ.
    pub fn to_table(&self) -> Table {
        let differing = differing(&self.entries.iter().collect::<Vec<_>>());
        let stages: BTreeSet<&String> = self.entries.iter().map(|entry| &entry.stage).collect();
        let metrics = in_order(self.entries.iter().flat_map(|entry| entry.metrics.keys()));
        let mut heads = vec!["pipeline".to_string()];
        heads.extend((stages.len() > 1).then(|| "stage".to_string()));
        heads.extend(differing.iter().map(|name| short_name(name, &differing)));
        let chosen = self.entries.iter().any(|entry| entry.selected.is_some());
        heads.extend(chosen.then(|| "epoch".to_string()));
        heads.push("seeds".into());
        heads.extend(metrics.iter().cloned());
        heads.push("mark".into());
        let tested = self.entries.iter().any(|entry| entry.p_value.is_some());
        heads.extend(tested.then(|| "p".to_string()));
        let row = |entry: &Entry| {
            let mut cells = vec![entry.pipeline.clone()];
            cells.extend((stages.len() > 1).then(|| entry.stage.clone()));
            cells.extend(differing.iter().map(|name| entry.parameters.get(name).cloned().unwrap_or_default()));
            cells.extend(chosen.then(|| Selected::text(entry.selected).to_string()));
            cells.push(entry.seeds.len().to_string());
            cells.extend(metrics.iter().map(|name| entry.metrics.get(name).map_or(String::new(), Figure::text)));
            cells.push(entry.mark.sign().to_string());
            cells.extend(tested.then(|| entry.p_value.map_or(String::new(), p_value)));
            cells
        };
        Table { heads, rows: self.entries.iter().map(row).collect() }
    }
}

/// Names of the parameters that not all entries have alike, the length of the codes first.
pub(super) fn differing(entries: &[&Entry]) -> Vec<String> {
    let names: BTreeSet<&String> = entries.iter().flat_map(|entry| entry.parameters.keys()).collect();
    let values = |name: &String| entries.iter().map(|entry| entry.parameters.get(name)).collect::<BTreeSet<_>>();
    let mut names: Vec<String> = names.into_iter().filter(|name| values(name).len() > 1).cloned().collect();
    names.sort_by_key(|name| name != BITS);
    names
}

impl Figure {
    pub(super) fn new(values: Vec<f64>) -> Self {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self { mean, spread: spread(&values), values, over_queries: None }
    }

    fn text(&self) -> String {
        match (self.spread.filter(|spread| spread.deviation > 0.0), self.over_queries) {
            (Some(spread), _) => format!("{:.4} ± {:.4}", spread.mean, spread.interval),
            (None, Some(over)) => format!("{:.4} [{:.4}, {:.4}]", self.mean, over.low, over.high),
            (None, None) => format!("{:.4}", self.mean),
        }
    }
}

/// A p-value as a person reads it.
fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.1e}") } else { format!("{p:.3}") }
}

/// Parameters that are known by name here.
pub(super) const BITS: &str = "train.bits";
const SEED: &str = "train.seed";
const SELECTED_BY: &str = "train.select.query";
const SELECTED_ON: &str = "train.select.on";

/// Parameters of an evaluation that say what else is written, and not what is measured.
const UNMEASURED: [&str; 2] = ["retrieved", "form"];

/// A parameter's name without its kind of stage, where that is enough.
fn short_name(name: &str, all: &[String]) -> String {
    let bare = |name: &str| name.split_once('.').map_or(name.to_string(), |(_, rest)| rest.to_string());
    let own = bare(name);
    if all.iter().filter(|other| bare(other) == own).count() == 1 { own } else { name.to_string() }
}

/// The records of a cache by what they made.
struct History<'a> {
    /// Digest of an output to the first record that made it, and the output's name.
    makers: HashMap<&'a str, (&'a Action, &'a str)>,
}

impl<'a> History<'a> {
    fn new(actions: &'a [Action]) -> Self {
        let mut makers: HashMap<&str, (&Action, &str)> = HashMap::new();
        for action in actions {
            for (port, object) in &action.outputs {
                let maker = makers.entry(&object.digest).or_insert((action, port));
                if (action.made, &action.key) < (maker.0.made, &maker.0.key) {
                    *maker = (action, port);
                }
            }
        }
        Self { makers }
    }

    /// All that an evaluation's key holds but the codes.
    fn protocol(&self, action: &Action, names: &HashMap<Key, BTreeSet<Named>>) -> BTreeMap<String, String> {
        let measured = |name: &str| !name.ends_with("_codes") && name != "kind" && !UNMEASURED.contains(&bare(name));
        let lines = action.lines.iter().filter(|line| measured(&line.name));
        let text = |value: &str| {
            let Some(digest) = content(value) else { return value.to_string() };
            let short = digest.get(..12).unwrap_or(digest);
            let made = self.makers.get(digest).and_then(|(maker, port)| {
                let name = names.get(&maker.key)?.first()?;
                Some(format!("{}/{port} ({short})", name.task))
            });
            made.unwrap_or_else(|| short.to_string())
        };
        lines.map(|line| (bare(&line.name).to_string(), text(&line.value))).collect()
    }

    fn entry(&self, action: &Action, name: Option<&Named>) -> Entry {
        let mut parameters: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let codes = action.lines.iter().filter(|line| line.name.ends_with("_codes"));
        let mut seen = BTreeSet::new();
        for digest in codes.filter_map(|line| content(&line.value)) {
            self.follow(digest, "codes", &mut seen, &mut parameters);
        }
        let mut parameters: BTreeMap<String, String> = parameters
            .into_iter()
            .map(|(name, values)| (name, values.into_iter().collect::<Vec<_>>().join(", ")))
            .collect();
        let seed = parameters.remove(SEED);
        let task = name.map_or(action.key.short(), |name| &name.task);
        Entry {
            pipeline: name.map_or(String::new(), |name| name.pipeline.clone()),
            stage: super::tally::stage_of(task).to_string(),
            selected: selected(action, &parameters),
            parameters,
            seeds: seed.into_iter().collect(),
            metrics: action.metrics.iter().map(|(name, value)| (name.clone(), Figure::new(vec![*value]))).collect(),
            mark: Mark::Unknown,
            p_value: None,
            numbers: None,
        }
    }

    /// Gathers what went into some content: the parameters of the record that made it, and of those behind it.
    fn follow(
        &self,
        digest: &str,
        name: &str,
        seen: &mut BTreeSet<&'a Key>,
        parameters: &mut BTreeMap<String, BTreeSet<String>>,
    ) {
        let short = digest.get(..12).unwrap_or(digest);
        let Some((maker, _)) = self.makers.get(digest).filter(|(maker, _)| maker.kind != "lists") else {
            parameters.entry(name.to_string()).or_default().insert(short.to_string());
            return;
        };
        // A stage may give back what it was given.
        if !seen.insert(&maker.key) {
            return;
        }
        for line in maker.lines.iter().filter(|line| line.name != "kind") {
            let name = format!("{}.{}", maker.kind, bare(&line.name));
            match content(&line.value) {
                // The lists of queries and database are part of the protocol.
                Some(_) if maker.kind == "encode" && line.name == "params.list" => {}
                Some(digest) => self.follow(digest, &name, seen, parameters),
                None => drop(parameters.entry(name).or_default().insert(line.value.clone())),
            }
        }
    }
}

/// How the epoch of an evaluation's codes was chosen. That it was by the evaluation's own queries is seen by content,
/// whatever the training was told.
fn selected(action: &Action, parameters: &BTreeMap<String, String>) -> Option<Selected> {
    let by = parameters.get(SELECTED_BY)?;
    let reported = action.lines.iter().filter(|line| bare(&line.name) == "query_list");
    let own = reported.filter_map(|line| content(&line.value)).any(|digest| digest.starts_with(by.as_str()));
    let told = parameters.get(SELECTED_ON).is_some_and(|on| on.trim_matches('"') == "test");
    Some(if own || told { Selected::OnTest } else { Selected::OnValidation })
}

fn bare(name: &str) -> &str {
    name.strip_prefix("params.").unwrap_or(name)
}

/// The digest in a key line that stands for content.
fn content(value: &str) -> Option<&str> {
    value.strip_prefix("blake3:")
}

/// Entries that differ in nothing but the seed, as one, with each query's mean over the seeds. Of several results for one
/// seed, the first is taken.
fn over_seeds(mut found: Vec<(Entry, &Action)>, per_query: &Numbers) -> Vec<Entry> {
    found.sort_by_key(|(_, action)| (action.made, action.key.clone()));
    let mut groups: Vec<(Entry, BTreeMap<String, &Action>)> = vec![];
    for (entry, action) in found {
        let seed = entry.seeds.first().cloned().unwrap_or_default();
        match groups.iter_mut().find(|(group, _)| group.parameters == entry.parameters) {
            Some((_, seeds)) => drop(seeds.entry(seed).or_insert(action)),
            None => groups.push((entry, BTreeMap::from([(seed, action)]))),
        }
    }
    // A single entry is compared with nothing: its numbers are not read.
    let compared = groups.len() > 1;
    let merged = groups.into_iter().map(|(entry, seeds)| {
        let names: BTreeSet<&String> = seeds.values().flat_map(|action| action.metrics.keys()).collect();
        let values = |name: &String| seeds.values().filter_map(|action| action.metrics.get(name).copied()).collect();
        let alone = seeds.values().next().filter(|_| seeds.len() == 1);
        let intervals = alone.map(|action| intervals(action)).unwrap_or_default();
        let figure = |name: &String| Figure { over_queries: intervals.get(name).copied(), ..Figure::new(values(name)) };
        let metrics = names.into_iter().map(|name| (name.clone(), figure(name))).collect();
        let numbers = compared.then(|| mean_over(seeds.values().map(|action| per_query(action)))).flatten();
        Entry { seeds: seeds.keys().cloned().collect(), metrics, numbers, ..entry }
    });
    merged.collect()
}

/// Intervals over queries that an evaluation told, by figure.
fn intervals(action: &Action) -> BTreeMap<String, OverQueries> {
    action.facts.get("intervals").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Query by query, the mean of several evaluations; `None` if one of them has no numbers, or others have more.
fn mean_over(all: impl Iterator<Item = Option<Vec<f64>>>) -> Option<Vec<f64>> {
    let all: Option<Vec<Vec<f64>>> = all.collect();
    let all = all?;
    let first = all.first()?.len();
    if all.iter().any(|numbers| numbers.len() != first) {
        return None;
    }
    Some((0..first).map(|i| all.iter().map(|numbers| numbers[i]).sum::<f64>() / all.len() as f64).collect())
}

/// Compares each entry's queries with those of the best entry of its code length.
fn test(entries: &mut [Entry]) {
    let mut best: Option<Vec<f64>> = None;
    for entry in entries {
        if entry.mark == Mark::Best {
            best.clone_from(&entry.numbers);
        } else if let (Some(best), Some(own)) = (&best, &entry.numbers) {
            entry.p_value = certainty::paired(best, own, RESAMPLES, LEVEL, 0).map(|found| found.p_value);
        }
    }
}

/// Sorts by code length and then the first figure, and compares each entry with the best of its length.
fn mark(entries: &mut [Entry]) {
    let Some(first) = in_order(entries.iter().flat_map(|entry| entry.metrics.keys())).into_iter().next() else {
        return;
    };
    let bits = |entry: &Entry| entry.parameters.get(BITS).and_then(|bits| bits.parse::<u64>().ok());
    let mean = |entry: &Entry| entry.metrics.get(&first).map_or(f64::NEG_INFINITY, |figure| figure.mean);
    entries.sort_by(|a, b| bits(a).cmp(&bits(b)).then(mean(b).total_cmp(&mean(a))));
    for group in entries.chunk_by_mut(|a, b| bits(a) == bits(b)) {
        let values = |entry: &Entry| entry.metrics.get(&first).map(|figure| figure.values.clone()).unwrap_or_default();
        let best = values(&group[0]);
        for (position, entry) in group.iter_mut().enumerate() {
            entry.mark = match is_inside(&best, &values(entry)) {
                _ if position == 0 => Mark::Best,
                Some(true) => Mark::Inside,
                Some(false) => Mark::Below,
                None => Mark::Unknown,
            };
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// An entry with these values, one for each seed.
    pub(in crate::report) fn entry(bits: &str, values: &[f64]) -> Entry {
        Entry {
            pipeline: "p".into(),
            stage: "evaluate.map".into(),
            parameters: [(BITS.to_string(), bits.to_string())].into(),
            seeds: (0..values.len()).map(|seed| seed.to_string()).collect(),
            metrics: [("mAP@10".to_string(), Figure::new(values.to_vec()))].into(),
            selected: None,
            mark: Mark::Unknown,
            p_value: None,
            numbers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::entry;
    use super::*;

    #[test]
    fn entries_are_tested_against_the_best_of_their_length() {
        let with = |bits: &str, value: f64, numbers: Option<Vec<f64>>| Entry { numbers, ..entry(bits, &[value]) };
        let queries = |high: usize| Some((0..8).map(|i| f64::from(u8::from(i < high))).collect::<Vec<f64>>());
        let mut entries = vec![
            with("8", 0.2, queries(0)),
            with("8", 0.9, queries(8)),
            with("8", 0.5, None),
            with("16", 0.3, queries(1)),
        ];
        mark(&mut entries);
        test(&mut entries);
        // All eight queries better: 2 of 2^8 signs are as large. The 16 bits are compared with themselves only.
        let found: Vec<Option<f64>> = entries.iter().map(|entry| entry.p_value).collect();
        assert_eq!(found, [None, None, Some(2.0 / 256.0), None]);
        let heads = Leaderboard { protocol: BTreeMap::new(), entries }.to_table().heads;
        assert_eq!(heads, ["pipeline", "bits", "seeds", "mAP@10", "mark", "p"]);
    }

    #[test]
    fn the_best_of_each_length_comes_first_and_near_ones_are_marked() {
        let mut entries = vec![
            entry("8", &[0.40, 0.41, 0.42]),
            entry("8", &[0.69, 0.71, 0.73]),
            entry("128", &[0.9]),
            entry("8", &[0.70, 0.71, 0.75]),
            entry("8", &[0.5]),
        ];
        mark(&mut entries);
        let bits: Vec<&str> = entries.iter().map(|entry| entry.parameters[BITS].as_str()).collect();
        assert_eq!(bits, ["8", "8", "8", "8", "128"]);
        let marks: Vec<&str> = entries.iter().map(|entry| entry.mark.sign()).collect();
        assert_eq!(marks, ["best", "~", "?", "", "best"]);
    }

    #[test]
    fn a_record_that_gives_back_what_it_was_given_is_followed_once() {
        let text = format!(
            r#"{{"key":"{}","lines":[{{"name":"params.x","value":"blake3:aa"}}],"kind":"command",
            "outputs":{{"y":{{"digest":"aa","size":1,"folder":false}}}},"metrics":{{}},"warnings":[],"seconds":1.0,
            "threads":1,"gpu":null,"host":"h","made":0}}"#,
            "0".repeat(64)
        );
        let actions: Vec<Action> = vec![serde_json::from_str(&text).unwrap()];
        let mut parameters = BTreeMap::new();
        History::new(&actions).follow("aa", "codes", &mut BTreeSet::new(), &mut parameters);
        assert!(parameters.is_empty());
    }
}
