//! What `graph` shows: which stage needs which, what uses one, and how one leads to another.

use crate::space::Space;
use serde_json::Value;
use std::collections::BTreeSet;

/// Names of the nodes of `graph --json`, with their steps.
fn nodes(space: &Space, more: &[&str]) -> Vec<(String, Option<u64>)> {
    let json = &space.hashpipe(&[&["graph", "p.toml", "--json"], more].concat()).ok().json()[0];
    let node = |node: &Value| (node["name"].as_str().unwrap().to_string(), node["steps"].as_u64());
    json["nodes"].as_array().unwrap().iter().map(node).collect()
}

fn names(space: &Space, more: &[&str]) -> Vec<String> {
    nodes(space, more).into_iter().map(|(name, _)| name).collect()
}

fn lines(space: &Space, more: &[&str]) -> Vec<String> {
    space.hashpipe(&[&["graph", "p.toml"], more].concat()).ok().stdout.lines().map(str::to_string).collect()
}

#[test]
fn what_uses_a_stage_and_what_it_needs_is_shown_in_steps() {
    let space = Space::new();
    let users = nodes(&space, &["--rdeps", "train.net"]);
    let expected =
        [("train.net", 0), ("encode.query", 1), ("encode.database", 1), ("evaluate.map", 2), ("export.files", 1)];
    let set = |nodes: &[(String, Option<u64>)]| nodes.iter().cloned().collect::<BTreeSet<_>>();
    let wanted: Vec<(String, Option<u64>)> =
        expected.iter().map(|(name, far)| (name.to_string(), Some(*far))).collect();
    assert_eq!(set(&users), set(&wanted));
    assert_eq!(names(&space, &["--rdeps", "train.net", "--depth", "0"]), ["train.net"]);
    assert_eq!(names(&space, &["--rdeps", "train.net", "--depth", "1"]).len(), 4);
    assert_eq!(names(&space, &["--deps", "encode.query"]), ["lists.shapes", "train.net", "encode.query"]);
    // A kind stands for its stages, and a task shows tasks.
    assert_eq!(names(&space, &["--rdeps", "evaluate"]), ["evaluate.map"]);
    let tasks = names(&space, &["--rdeps", "encode.query@bits=8"]);
    assert_eq!(tasks, ["encode.query@bits=8", "evaluate.map@bits=8"]);
    assert_eq!(names(&space, &["--rdeps", "encode.query@bits=*"]).len(), 4);
    let text = lines(&space, &["--rdeps", "encode"]);
    assert!(text[0].contains("steps") && text.iter().any(|line| line.starts_with("export.files")), "{text:?}");
    assert!(!text.iter().any(|line| line.starts_with("lists.shapes") || line.starts_with("train.net")), "{text:?}");
}

#[test]
fn a_file_of_ones_own_is_a_place_to_start_from() {
    let space = Space::empty();
    space.write(
        "p.toml",
        "[command.a]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'data/i.txt' }\noutputs = { o = '' }\n\
         [command.b]\nrun = 'cat {in.i}'\ninputs = { i = 'command.a/o' }\n\
         [command.c]\nrun = 'cat {in.i}'\ninputs = { i = 'data/j.txt' }\n",
    );
    assert_eq!(names(&space, &["--rdeps", "data/i.txt"]), ["command.a", "command.b", "data/i.txt"]);
    assert_eq!(lines(&space, &["--path", "data/i.txt", "command.b"]), ["data/i.txt -> command.a/o -> command.b"]);
    let missing = space.hashpipe(&["graph", "p.toml", "--rdeps", "data/k.txt"]);
    assert!(missing.code == 2 && missing.stderr.contains("no stage `data/k.txt`"), "{}", missing.stderr);
}

#[test]
fn ways_lead_from_one_stage_to_another() {
    let space = Space::new();
    let shortest = lines(&space, &["--path", "train.net", "evaluate.map"]);
    // Of equals, the first in plan order.
    assert_eq!(shortest, ["train.net/model -> encode.query/codes -> evaluate.map"]);
    let all = lines(&space, &["--path", "lists.shapes", "evaluate.map", "--all"]);
    let expected = [
        "lists.shapes/database,query -> evaluate.map",
        "lists.shapes/database -> encode.database/codes -> evaluate.map",
        "lists.shapes/query -> encode.query/codes -> evaluate.map",
        "lists.shapes/train -> train.net/model -> encode.database/codes -> evaluate.map",
        "lists.shapes/train -> train.net/model -> encode.query/codes -> evaluate.map",
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>(), expected.map(str::to_string).iter().collect());
    assert!(all.is_sorted_by_key(|way| way.matches("->").count()));
    let json = &space.hashpipe(&["graph", "p.toml", "--path", "lists", "evaluate", "--all", "--json"]).ok().json()[0];
    assert_eq!((&json["count"], json["paths"].as_array().unwrap().len()), (&5.into(), 5));
    assert_eq!(json["edges"].as_array().unwrap().len(), 9, "{json}");
    // The same ways, drawn.
    for (form, arrow) in [("--dot", " -> "), ("--mermaid", "--> ")] {
        let drawn = lines(&space, &["--path", "train.net", "evaluate.map", form]).join("\n");
        assert_eq!(drawn.matches(arrow).count(), 2, "{drawn}");
        assert!(!drawn.contains("encode.database") && !drawn.contains("lists.shapes"), "{drawn}");
    }
    let backwards = lines(&space, &["--path", "evaluate.map", "train.net"]);
    assert_eq!(backwards, ["no way leads from `evaluate.map` to `train.net`: `evaluate.map` needs `train.net`"]);
    let none = lines(&space, &["--path", "export.files", "evaluate.map"]);
    assert_eq!(none, ["no way leads from `export.files` to `evaluate.map`"]);
    let json = &space.hashpipe(&["graph", "p.toml", "--path", "export.files", "evaluate.map", "--json"]).ok().json()[0];
    assert_eq!(
        (&json["count"], &json["paths"], &json["nodes"]),
        (&0.into(), &Value::Array(vec![]), &Value::Array(vec![]))
    );
}

#[test]
fn a_graph_of_endlessly_many_ways_and_one_of_great_length_are_walked() {
    let space = Space::empty();
    // Each of two needs both of the step before: 2^100 ways.
    let mut text = "[command.s0-a]\nrun = 'x'\noutputs = { o = 'o' }\n".to_string();
    let both = |i: usize| {
        if i == 0 { "a = 'command.s0-a/o'".into() } else { format!("a = 'command.s{i}-a/o', b = 'command.s{i}-b/o'") }
    };
    for i in 1..=100 {
        for side in ["a", "b"] {
            let inputs = both(i - 1);
            text += &format!(
                "[command.s{i}-{side}]\nrun = 'cat {{in.a}} > {{out.o}}'\ninputs = {{ {inputs} }}\noutputs = {{ o = '' }}\n"
            );
        }
    }
    text += &format!("[command.end]\nrun = 'cat {{in.a}}'\ninputs = {{ {} }}\n", both(100));
    // No stage of it can be made without its output's place.
    space.write("p.toml", text.replace("outputs = { o = 'o' }", "outputs = { o = 'o.txt' }"));
    let ended = space.hashpipe(&["graph", "p.toml", "--path", "command.s0-a", "command.end", "--all", "--json"]).ok();
    let json = &ended.json()[0];
    assert_eq!(json["count"], (1u128 << 100).to_string());
    assert_eq!(json["paths"].as_array().unwrap().len(), 1000);
    assert!(ended.stderr.contains("the first 1000 of 1267650600228229401496703205376 ways"), "{}", ended.stderr);
    assert_eq!(lines(&space, &["--path", "command.s0-a", "command.end"]).join("").matches("->").count(), 101);
    // A long chain is no deep stack.
    let chain = (1..5_000).map(|i| {
        format!("[command.c{i}]\nrun = 'x'\ninputs = {{ i = 'command.c{}/o' }}\noutputs = {{ o = 'o{i}' }}\n", i - 1)
    });
    space.write("p.toml", "[command.c0]\nrun = 'x'\noutputs = { o = 'o0' }\n".to_string() + &chain.collect::<String>());
    let all = lines(&space, &["--path", "command.c0", "command.c4999", "--all"]);
    assert_eq!((all.len(), all[0].matches("->").count()), (1, 4_999));
}

#[test]
fn names_that_are_not_there_and_questions_that_exclude_each_other_are_refused() {
    let space = Space::new();
    for arguments in
        [["--rdeps", "trian.net"].as_slice(), &["--deps", "trian.net"], &["--path", "lists.shapes", "trian.net"]]
    {
        let ended = space.hashpipe(&[&["graph", "p.toml"], arguments].concat());
        assert!(ended.code == 2 && ended.stderr.contains("did you mean `train.net`?"), "{}", ended.stderr);
    }
    for arguments in [
        ["--rdeps", "train.net", "--deps", "train.net"].as_slice(),
        &["--depth", "1"],
        &["--all"],
        &["--path", "train.net"],
        &["--path", "lists.shapes", "train.net", "--rdeps", "train.net"],
        &["--json", "--dot"],
    ] {
        assert_eq!(space.hashpipe(&[&["graph", "p.toml"], arguments].concat()).code, 2, "{arguments:?}");
    }
}

#[test]
fn names_that_mermaid_cannot_tell_apart_get_numbers() {
    let space = Space::empty();
    let stage = |name: &str| format!("[command.{name}]\nrun = 'cat {{in.i}}'\ninputs = {{ i = 'a\"b.txt' }}\n");
    space.write("p.toml", stage("a-b") + &stage("a_b"));
    let drawn = lines(&space, &["--mermaid"]);
    assert!(drawn.contains(&"  command_a_b[\"command.a_b\"]".to_string()), "{drawn:?}");
    assert!(drawn.contains(&"  command_a_b_2[\"command.a-b\"]".to_string()), "{drawn:?}");
    assert!(drawn.iter().any(|line| line.contains("[\"a#quot;b.txt\"] --> command_a_b_2")), "{drawn:?}");
}
