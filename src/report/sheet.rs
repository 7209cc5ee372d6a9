//! All leaderboards as one table for programs: a row per entry, its protocol in columns, every number by itself.

use super::form::Table;
use super::leaderboard::{BITS, Entry, Figure, Leaderboard, Mark, Selected, differing};
use super::summary::in_order;
use std::collections::BTreeSet;

/// What comes first of a protocol.
const LISTS: [&str; 2] = ["query_list", "database_list"];

/// The table. Of the parameters it has those that differ, and the length of the codes.
pub fn sheet(boards: &[Leaderboard]) -> Table {
    let entries: Vec<&Entry> = boards.iter().flat_map(|board| &board.entries).collect();
    let mut protocol: Vec<&String> =
        boards.iter().flat_map(|board| board.protocol.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    protocol.sort_by_key(|name| LISTS.iter().position(|list| list == name).unwrap_or(LISTS.len()));
    let mut parameters = differing(&entries);
    if !parameters.iter().any(|name| name == BITS) && entries.iter().any(|entry| entry.parameters.contains_key(BITS)) {
        parameters.insert(0, BITS.into());
    }
    let metrics = in_order(entries.iter().flat_map(|entry| entry.metrics.keys()));

    let mut heads: Vec<String> = protocol.iter().map(ToString::to_string).collect();
    heads.extend(["pipeline", "stage"].map(String::from));
    heads.extend(parameters.iter().cloned());
    heads.extend(["selected", "seeds"].map(String::from));
    heads.extend(metrics.iter().flat_map(|name| ["", "_deviation", "_low", "_high"].map(|end| format!("{name}{end}"))));
    heads.extend(["mark", "p_value"].map(String::from));

    let row = |(board, entry): (&Leaderboard, &Entry)| {
        let mut cells: Vec<String> =
            protocol.iter().map(|name| board.protocol.get(*name).cloned().unwrap_or_default()).collect();
        cells.extend([entry.pipeline.clone(), entry.stage.clone()]);
        cells.extend(parameters.iter().map(|name| entry.parameters.get(name).cloned().unwrap_or_default()));
        cells.extend([selected(entry.selected).into(), entry.seeds.len().to_string()]);
        cells.extend(metrics.iter().flat_map(|name| numbers(entry.metrics.get(name))));
        cells.extend([mark(entry.mark).into(), number(entry.p_value)]);
        cells
    };
    let pairs = boards.iter().flat_map(|board| board.entries.iter().map(move |entry| (board, entry)));
    Table { heads, rows: pairs.map(row).collect() }
}

/// Mean, standard deviation over the seeds, and both ends of the 95 % interval: over the seeds, or over the queries of a
/// single one.
fn numbers(figure: Option<&Figure>) -> [String; 4] {
    let Some(figure) = figure else { return Default::default() };
    let ends = match (figure.spread, figure.over_queries) {
        (Some(spread), _) => Some((spread.mean - spread.interval, spread.mean + spread.interval)),
        (None, over) => over.map(|over| (over.low, over.high)),
    };
    let deviation = figure.spread.map(|spread| spread.deviation);
    [Some(figure.mean), deviation, ends.map(|(low, _)| low), ends.map(|(_, high)| high)].map(number)
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn selected(selected: Option<Selected>) -> &'static str {
    match selected {
        None => "last",
        Some(Selected::OnValidation) => "on_validation",
        Some(Selected::OnTest) => "on_test",
    }
}

fn mark(mark: Mark) -> &'static str {
    match mark {
        Mark::Best => "best",
        Mark::Inside => "inside",
        Mark::Below => "below",
        Mark::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::Form;
    use super::super::leaderboard::{OverQueries, testing::entry};
    use super::*;

    #[test]
    fn all_protocols_are_one_table_of_numbers() {
        let board = |top_k: &str, entries: Vec<Entry>| Leaderboard {
            protocol: [("top_k", top_k), ("query_list", "lists.a/query (1,2)"), ("database_list", "d")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .into(),
            entries,
        };
        let mut alone = entry("16", &[0.75]);
        alone.metrics.insert("ndcg".into(), Figure::new(vec![0.5]));
        let over = Some(OverQueries { low: 0.5, high: 0.875 });
        alone.metrics.get_mut("mAP@10").unwrap().over_queries = over;
        (alone.selected, alone.p_value) = (Some(Selected::OnTest), Some(0.0625));
        let boards = [board("10", vec![entry("8", &[0.25, 0.25]), alone]), board("5", vec![entry("8", &[1.0])])];
        assert_eq!(
            sheet(&boards).to_form(Form::Csv),
            "query_list,database_list,top_k,pipeline,stage,train.bits,selected,seeds,\
             mAP@10,mAP@10_deviation,mAP@10_low,mAP@10_high,ndcg,ndcg_deviation,ndcg_low,ndcg_high,mark,p_value\n\
             \"lists.a/query (1,2)\",d,10,p,evaluate.map,8,last,2,0.25,0,0.25,0.25,,,,,unknown,\n\
             \"lists.a/query (1,2)\",d,10,p,evaluate.map,16,on_test,1,0.75,,0.5,0.875,0.5,,,,unknown,0.0625\n\
             \"lists.a/query (1,2)\",d,5,p,evaluate.map,8,last,1,1,,,,,,,,unknown,"
        );
    }
}
