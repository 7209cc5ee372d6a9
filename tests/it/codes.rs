//! `evaluate`, `search` and `compare`, on codes that no pipeline made.

use crate::space::Space;
use serde_json::{Value, json};

/// A NumPy file of bytes.
fn npy(space: &Space, name: &str, descr: &str, shape: [usize; 2], data: &[u8]) {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}, {}), }}\n", shape[0], shape[1]);
    let head = [&b"\x93NUMPY\x01\0"[..], &(dict.len() as u16).to_le_bytes(), dict.as_bytes()].concat();
    std::fs::write(space.path(name), [&head[..], data].concat()).unwrap();
}

fn signs(space: &Space, name: &str, rows: &[[f32; 4]]) {
    let data: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    npy(space, name, "<f4", [rows.len(), 4], &data);
}

/// Two queries, and a database of five items at distances 0, 1, 1, 2, 4 from the first; two classes.
fn small() -> Space {
    let space = Space::empty();
    signs(&space, "query.npy", &[[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]);
    let database = [
        [1.0, 1.0, 1.0, 1.0],
        [-1.0, 1.0, 1.0, 1.0],
        [1.0, -1.0, 1.0, 1.0],
        [-1.0, -1.0, 1.0, 1.0],
        [-1.0, -1.0, -1.0, -1.0],
    ];
    signs(&space, "database.npy", &database);
    space.write("query.txt", "a 1 0\nz 0 1\n");
    space.write("database.txt", "a 1 0\nb 0 1\nc 1 0\nd 1 0\ne 0 1\n");
    space
}

const SIDES: [&str; 8] = [
    "--query-codes",
    "query.npy",
    "--database-codes",
    "database.npy",
    "--query-labels",
    "query.txt",
    "--database-labels",
    "database.txt",
];

fn evaluate(space: &Space, more: &[&str]) -> Value {
    space.hashpipe(&[&["evaluate"][..], &SIDES, &["--json"], more].concat()).ok().json().remove(0)
}

#[test]
fn codes_of_any_program_are_measured() {
    let space = small();
    let found = evaluate(&space, &["--top-k", "3", "--per-query", "a.jsonl", "--retrieved", "2"]);
    // First query: + - + at 0, 1, 1 with the tie in database order: (1 + 2/3) / 2. Either order: the mean with (1 + 1) / 2.
    // Second: + at 0, then - at 2, then of the two at 3 the first, which is +; were it the other, [+ - -] is worth 1.
    let close = |value: &Value, expected: f64| assert!((value.as_f64().unwrap() - expected).abs() < 1e-12, "{value}");
    close(&found["value"], (5.0 / 6.0 + 5.0 / 6.0) / 2.0);
    close(&found["metrics"]["map"][0]["by_hits"]["best"], 1.0);
    close(&found["value_expected_over_ties"], 11.0 / 12.0);
    assert_eq!(
        (&found["metric"], &found["bits"], &found["queries_in_database"]),
        (&json!("mAP@3"), &json!(4), &json!(1))
    );
    // Pairs of the first query: + at 0, 1, 2 and - at 1, 4; of the second: - at 4, 3, 2 and + at 3, 0.
    assert_eq!(found["distances"]["relevant"], json!([2, 1, 1, 1, 0]));
    assert_eq!(found["distances"]["other"], json!([0, 1, 1, 1, 2]));
    let lines = std::fs::read_to_string(space.path("a.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["retrieved"], &lines[1]["retrieved"]), (&json!([0, 1]), &json!([4, 3])));

    // Without itself, the first query finds - + +.
    let without = evaluate(&space, &["--top-k", "3", "--exclude-self"]);
    close(&without["value"], ((0.5 + 2.0 / 3.0) / 2.0 + 5.0 / 6.0) / 2.0);
    assert_eq!((&without["with_self"]["value"], &found["without_self"]["value"]), (&found["value"], &without["value"]));

    let text = space.hashpipe(&[&["evaluate"][..], &SIDES].concat()).ok().stdout;
    assert!(text.starts_with("2 queries, 5 database items, 4 bits\n"), "{text}");
    assert!(
        text.contains("mAP@all") && text.contains("without the queries") && text.contains("effective bits"),
        "{text}"
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let space = small();
    let refused = |sides: &[&str]| {
        let ended = space.hashpipe(&[&["evaluate"][..], sides].concat());
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        ended.stderr
    };
    let with = |at: usize, file: &'static str| {
        let mut sides = SIDES;
        sides[at] = file;
        refused(&sides)
    };
    npy(&space, "wide.npy", "|u1", [2, 1], &[7, 9]);
    npy(&space, "long.npy", "<f4", [1, 4], &[0; 16]);
    let text = with(1, "wide.npy");
    assert!(
        text.contains("query codes have 8 bits, database codes 4") && text.contains("uint8 (2, 1), packed"),
        "{text}"
    );
    let text = with(1, "long.npy");
    assert!(text.contains("1 query codes, but labels for 2 items"), "{text}");
    assert!(with(1, "query.txt").contains("is no file of codes"));
    let mut sides = SIDES;
    sides[7] = "none.txt";
    let missing = space.hashpipe(&[&["evaluate"][..], &sides].concat());
    assert!(missing.code == 1 && missing.stderr.contains("cannot read `none.txt`"), "{}", missing.stderr);
    let text = refused(&[&SIDES[..], &["--per-query", "a.txt"]].concat());
    assert!(text.contains("end the name in `.jsonl`"), "{text}");
}

#[test]
fn codes_are_searched_by_count_and_by_radius() {
    let space = small();
    let search = |more: &[&str]| {
        let arguments = [&["search", "--codes", "database.npy", "--query", "query.npy", "--json"], more].concat();
        let found = space.hashpipe(&arguments).ok().json();
        let indices = |line: &Value| -> Vec<u64> {
            line["matches"].as_array().unwrap().iter().map(|near| near["index"].as_u64().unwrap()).collect()
        };
        found.iter().map(indices).collect::<Vec<_>>()
    };
    assert_eq!(search(&["--top", "2"]), [[0, 1], [4, 3]]);
    assert_eq!(search(&["--radius", "1"]), [vec![0, 1, 2], vec![4]]);
    let both =
        space.hashpipe(&["search", "--codes", "database.npy", "--query", "query.npy", "--top", "1", "--radius", "1"]);
    assert_eq!(both.code, 2);
}

#[test]
fn cuda_gives_the_same_or_is_refused() {
    let space = small();
    let search = ["search", "--codes", "database.npy", "--query", "query.npy", "--json"];
    let evaluate = [&["evaluate"][..], &SIDES, &["--json", "--top-k", "1,3"]].concat();
    for arguments in [&search[..], &[&search[..], &["--radius", "2"]].concat(), &evaluate] {
        let cpu = space.hashpipe(&[arguments, &["--device", "cpu"]].concat()).ok();
        let gpu = space.hashpipe(&[arguments, &["--device", "cuda"]].concat());
        match gpu.code {
            0 => assert_eq!(gpu.stdout, cpu.stdout),
            code => {
                // Without CUDA in the build; with it, without a GPU.
                assert_eq!(code, if hashpipe::device::can_use_gpus() { 6 } else { 2 }, "{}", gpu.stderr);
                assert!(gpu.stderr.contains("--> --device"), "{}", gpu.stderr);
                assert!(gpu.stdout.is_empty(), "{}", gpu.stdout);
            }
        }
        let wrong = space.hashpipe(&[arguments, &["--device", "gpu"]].concat());
        assert!(wrong.code == 2 && wrong.stderr.contains("`cuda:` and the number"), "{}", wrong.stderr);
    }
}

#[test]
fn codes_alone_tell_what_they_are_like() {
    let space = small();
    let line = space.hashpipe(&["codes", "stats", "database.npy", "--json"]).ok().json().remove(0);
    assert_eq!((&line["count"], &line["buckets"]["alone"], &line["dead"]), (&json!(5), &json!(5), &json!([])));
    let text = space.hashpipe(&["codes", "stats", "database.npy", "query.npy", "--layout", "outputs"]).ok().stdout;
    assert!(text.contains("database.npy") && text.contains("cosine of outputs and signs"), "{text}");
}

#[test]
fn two_models_are_compared_query_by_query() {
    let space = Space::empty();
    let results = |name: &str, values: &[f64]| {
        let lines = values.iter().enumerate();
        let line = |(query, ap): (usize, &f64)| format!("{}\n", json!({ "query": query, "ap": ap, "relevant": 5 }));
        space.write(name, lines.map(line).collect::<String>());
    };
    results("a.jsonl", &[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]);
    results("b.jsonl", &[0.8, 0.7, 0.6, 0.5, 0.4, 0.4]);
    let found = space.hashpipe(&["compare", "a.jsonl", "b.jsonl", "--json"]).ok().json().remove(0);
    // Five differences of one sign: 2 of 2^5 signs are as large.
    assert_eq!((&found["p_value"], &found["exact"], &found["ties"]), (&json!(0.0625), &json!(true), &json!(1)));
    let text = space.hashpipe(&["compare", "a.jsonl", "b.jsonl"]).ok().stdout;
    assert!(text.contains("A better on 5, B on 0, alike on 1") && text.contains("0.062"), "{text}");
    results("c.jsonl", &[0.1]);
    assert!(space.hashpipe(&["compare", "a.jsonl", "c.jsonl"]).stderr.contains("one has 6 queries, the other 1"));
    assert!(space.hashpipe(&["compare", "a.jsonl", "none"]).stderr.contains("neither a file nor an evaluation"));
}
