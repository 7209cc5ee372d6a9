//! One task that reads all points of a sweep.

use crate::scene::{project, states, text, write_stages};
use crate::space::Space;
use serde_json::Value;
use std::collections::BTreeMap;

const NONE: [&str; 0] = [];

/// Squares of some numbers, and a table of them. `more` goes into the table's stage.
fn stages(numbers: &str, run: &str, more: &str) -> String {
    format!(
        "[command.square]\nrun = 'echo $(({{param.n}} * {{param.n}})) > {{out.o}}'\nparams = {{ n = {numbers} }}\n\
         outputs = {{ o = 'squares/{{param.n}}.txt' }}\n\
         [command.table]\nrun = '{run}'\ninputs = {{ all = 'command.square@params.n=*/o' }}\n\
         outputs = {{ o = 'table.txt' }}\n{more}"
    )
}

/// Names and contents, in the order in which `{each.all}` gives them.
const TABLE: &str = "for f in {each.all}; do echo $(basename $f) $(cat $f); done > {out.o}";

fn started(space: &Space, stages: &str) -> Vec<String> {
    write_stages(space, stages);
    space.run(&[]).ok().tasks("start")
}

#[test]
fn one_task_reads_all_points_of_a_sweep_in_the_order_of_their_values() {
    let space = project(&stages("[10, 2, -1]", TABLE, ""), &[]);
    let first = space.run(&[]).ok();
    assert_eq!(first.tasks("done").len(), 4);
    assert_eq!(text(&space, "table.txt"), "params.n=-1.txt 1\nparams.n=2.txt 4\nparams.n=10.txt 100\n");
    // The order in which the sweep is written counts for nothing.
    assert_eq!(started(&space, &stages("[2, -1, 10]", TABLE, "")), NONE);
    // A point more, less, and back again.
    assert_eq!(started(&space, &stages("[2, -1, 10, 3]", TABLE, "")), ["command.square@params.n=3", "command.table"]);
    assert_eq!(text(&space, "table.txt").lines().nth(2), Some("params.n=3.txt 9"));
    assert_eq!(started(&space, &stages("[2, 10]", TABLE, "")), ["command.table"]);
    assert_eq!(started(&space, &stages("[10, 2, -1]", TABLE, "")), NONE);
    // As a folder, and as words of a program's.
    assert_eq!(started(&space, &stages("[2, 10]", "ls {in.all} > {out.o}", "")), ["command.table"]);
    assert_eq!(text(&space, "table.txt"), "params.n=10.txt\nparams.n=2.txt\n");
    write_stages(
        &space,
        &stages("[2, 10]", "", "").replace("run = ''", "run = ['sort', '-o', '{out.o}', '{each.all}']"),
    );
    space.run(&[]).ok();
    assert_eq!(text(&space, "table.txt"), "100\n4\n");
}

#[test]
fn values_that_change_places_and_contents_of_points_are_in_the_key() {
    // The same contents under other values: what was 1 under 1 and 4 under 2 is now the other way round.
    let stages = |first: &str, second: &str| {
        format!(
            "[command.one]\nrun = 'cat {{in.i}} > {{out.o}}'\ninputs = {{ i = ['{first}', '{second}'] }}\noutputs = {{ o = '' }}\n\
             [command.all]\nrun = 'cat {{each.i}} > {{out.o}}'\ninputs = {{ i = 'command.one@inputs.i=*/o' }}\noutputs = {{ o = 'o.txt' }}\n"
        )
    };
    let space = project(&stages("a/1.txt", "b/2.txt"), &[("a/1.txt", "1\n"), ("b/2.txt", "2\n")]);
    space.run(&[]).ok();
    assert_eq!(text(&space, "o.txt"), "1\n2\n");
    let (one, two) = (space.path("a/1.txt"), space.path("b/2.txt"));
    std::fs::rename(&one, space.path("other")).unwrap();
    std::fs::rename(&two, &one).unwrap();
    std::fs::rename(space.path("other"), &two).unwrap();
    assert_eq!(space.run(&[]).ok().tasks("start"), ["command.all"], "the same contents, swapped");
    assert_eq!(text(&space, "o.txt"), "2\n1\n");
    let task = "command.all";
    let lines = space.record(task)["lines"].clone();
    let names: Vec<&str> = lines.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"params.inputs.i.inputs.i=a/1.txt"), "{names:?}");
}

#[test]
fn other_axes_are_followed_point_by_point() {
    let space = project(
        "[command.a]\nrun = 'echo {param.x}{param.y} > {out.o}'\nparams = { x = [1, 2], y = ['p', 'q'] }\noutputs = { o = '' }\n\
         [command.rows]\nrun = 'cat {each.a} | tr \"\\n\" \" \" > {out.o}'\ninputs = { a = 'command.a@params.x=*/o' }\noutputs = { o = 'row_{params.y}.txt' }\n\
         [command.one]\nrun = 'cat {each.a} > {out.o}'\ninputs = { a = 'command.a@params.x=*,params.y=q/o' }\noutputs = { o = 'one.txt' }\n\
         [command.all]\nrun = 'ls {in.a} > {out.o}'\ninputs = { a = 'command.a@params.x=*,params.y=*/o' }\noutputs = { o = 'all.txt' }\n",
        &[],
    );
    space.run(&[]).ok();
    assert_eq!([text(&space, "row_p.txt"), text(&space, "row_q.txt")], ["1p 2p ", "1q 2q "]);
    assert_eq!(text(&space, "one.txt"), "1q\n2q\n");
    assert_eq!(text(&space, "all.txt").lines().next(), Some("params.x=1,params.y=p"));
    assert_eq!(text(&space, "all.txt").lines().count(), 4);
    let states = states(&space, &[]);
    let tasks: Vec<&String> = states.keys().filter(|task| !task.starts_with("command.a@")).collect();
    assert_eq!(tasks, ["command.all", "command.one", "command.rows@params.y=p", "command.rows@params.y=q"]);
    // All of an axis may be asked for on the command line, too.
    let ran = space.run(&["--force", "command.a@params.x=*,params.y=q"]).ok();
    assert_eq!(ran.tasks("start"), ["command.a@params.x=1,params.y=q", "command.a@params.x=2,params.y=q"]);
}

#[test]
fn what_is_told_of_a_task_names_the_points_it_reads() {
    let space = project(&stages("[1, 2]", TABLE, ""), &[]);
    let would = || -> BTreeMap<String, String> {
        let lines = space.hashpipe(&["run", "-n", "p.toml", "--json"]).ok().json();
        let word = |line: &Value| Some((line["task"].as_str()?.to_string(), line["would"].as_str()?.to_string()));
        lines.iter().filter_map(word).collect()
    };
    assert_eq!(would()["command.table"], "unknown");
    let (state, because) = states(&space, &[])["command.table"].clone();
    assert_eq!(
        (state.as_str(), because.as_str()),
        ("blocked", "waits for command.square@params.n=1, command.square@params.n=2")
    );
    space.run(&[]).ok();
    assert_eq!(would()["command.table"], "cached");
    // Another content at one point, and a point that was not there.
    write_stages(&space, &stages("[1, 2, 3]", TABLE, "").replace("{param.n}))", "{param.n} + {param.n} / 2))"));
    space.run(&["--only", "command.square"]).ok();
    let explained = space.hashpipe(&["explain", "p.toml", "command.table", "--json"]).ok().json();
    let differences = explained[0]["differences"].as_array().unwrap();
    let told: Vec<(&str, bool, bool)> = differences
        .iter()
        .map(|d| (d["name"].as_str().unwrap(), d["old"].is_null(), d["place"].as_str().unwrap().contains("p.toml:")))
        .collect();
    let (two, three) = ("params.inputs.all.params.n=2", "params.inputs.all.params.n=3");
    assert_eq!(told[..2], [(two, false, true), (three, true, true)]);
    let shown = space.hashpipe(&["explain", "p.toml", "command.table"]).ok().stdout;
    assert!(shown.contains("inputs.all.params.n=2") && shown.contains("+1 -1 lines"), "{shown}");
    let graph = space.hashpipe(&["graph", "p.toml"]).ok().stdout;
    let row: Vec<&str> =
        graph.lines().find(|line| line.starts_with("command.table")).unwrap().split_whitespace().collect();
    assert_eq!(row, ["command.table", "1", "command.square/o"]);
    let graph = space.hashpipe(&["graph", "p.toml", "--tasks"]).ok().stdout;
    assert!(graph.contains("command.square@params.n=1/o, command.square@params.n=2/o"), "{graph}");
}

#[test]
fn a_point_that_is_gone_or_damaged_is_made_again_for_whoever_reads_all() {
    let space = project(&stages("[1, 2]", TABLE, ""), &[]);
    space.run(&[]).ok();
    let two = "command.square@params.n=2";
    std::fs::remove_file(space.object(two, "o")).unwrap();
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE, "nobody needs it");
    assert_eq!(
        started(&space, &stages("[1, 2]", &TABLE.replace("done", "done; echo end"), "")),
        [two, "command.table"]
    );
}

#[test]
fn what_cannot_be_gathered_is_told_at_its_place() {
    let refused = |space: &Space, stages: &str, parts: &[&str]| {
        write_stages(space, stages);
        let told = space.hashpipe(&["run", "-n", "p.toml"]);
        assert_eq!(told.code, 2, "{}", told.stdout);
        assert!(parts.iter().all(|part| told.stderr.contains(part)), "{}", told.stderr);
        assert!(told.stderr.contains("p.toml:"), "{}", told.stderr);
    };
    let space = Space::empty();
    let good = stages("[1, 2]", TABLE, "");
    refused(
        &space,
        &good.replace("@params.n=*", "@params.m=*"),
        &["is not swept over `params.m`", "did you mean `params.n`?"],
    );
    refused(&space, &stages("1", TABLE, ""), &["is not swept over `params.n`", "even of one value: `params.n = [..]`"]);
    refused(
        &space,
        &good.replace("command.square@", "command.sqare@"),
        &["no stage `command.sqare`", "did you mean `command.square`?"],
    );
    refused(&space, &good.replace("=*/o'", "=*/p'"), &["has no output `p`"]);
    refused(&space, &stages("[1, '1']", TABLE, ""), &["sweeps over 1 and \"1\": both would be called params.n=1"]);
    let words = good.replace(&format!("'{TABLE}'"), "['cat', 'x{each.all}', '{out.o}']");
    refused(&space, &words, &["would hold several files in one word", "a word of its own"]);
    refused(
        &space,
        &good.replace("{each.all}", "{each.al}"),
        &["uses `al`, which is not in `inputs`", "did you mean `all`?"],
    );
    let one = "[lists.l]\ndataset = { name = 'shapes', train = 4, query = 2, database = 4, size = 32, seed = [1, 2] }\n\
               [train.t]\nlist = 'lists.l@dataset.seed=*/train'\nbits = 8\nepochs = 1\n";
    refused(&space, one, &["`list` takes one input", "pick one, as in"]);
    // The editor's schema says the same of both.
    let schema: Value = serde_json::from_str(&space.hashpipe(&["schema"]).ok().stdout).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let takes = |text: &str| schema.is_valid(&toml::from_str::<Value>(text).unwrap());
    assert!(takes(&good) && !takes(one) && takes(&one.replace("seed=*", "seed=1")));
}
