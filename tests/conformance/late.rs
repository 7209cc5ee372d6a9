//! Parameters that stages got later: what was made before there were any stays good, and what they say is told.

use crate::scene::{project, write_stages};
use crate::space::{PIPELINE, Space};

const NONE: [&str; 0] = [];

/// A command with these further keys.
fn stage(more: &str) -> String {
    format!("[command.x]\nrun = 'echo x > {{out.o}}'\noutputs = {{ o = 'o.txt' }}\n{more}")
}

fn started(space: &Space, stages: &str) -> Vec<String> {
    write_stages(space, stages);
    space.run(&[]).ok().tasks("start")
}

#[test]
fn a_parameter_that_came_later_keeps_results_while_it_says_what_was_done_before() {
    let space = project(&stage(""), &[]);
    space.run(&[]).ok();
    // What a program that knows nothing of them writes, and finds.
    let record = space.record("command.x")["lines"].to_string();
    assert!(["resume", "cache", "metrics"].iter().all(|late| !record.contains(&format!("params.{late}"))), "{record}");
    assert_eq!(started(&space, &stage("resume = false\ncache = true\n")), NONE, "written out");
    assert_eq!(started(&space, &stage("resume = true\n")), ["command.x"], "any other value");
    assert!(space.record("command.x")["lines"].to_string().contains("params.resume"));
    assert_eq!(started(&space, &stage("")), NONE, "and back again");
}

#[test]
fn a_training_made_before_there_was_a_choice_of_precision_is_found() {
    let space = Space::new();
    space.run(&[]).ok();
    let record = space.record("train.net@bits=8")["lines"].to_string();
    assert!(!record.contains("precision") && !record.contains("params.select") && record.contains("params.seed"));
    space.write("p.toml", PIPELINE.replace("epochs = 1", "epochs = 1\nprecision = \"f32\""));
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
    let other = space.run(&["--set", "train.net.precision=bf16", "--only", "train.net@bits=8"]).ok();
    assert_eq!(other.tasks("start"), ["train.net@bits=8"]);
}

#[test]
fn what_a_key_leaves_out_is_explained_and_compared() {
    let space = project(&stage(""), &[]);
    space.run(&[]).ok();
    let hit = space.hashpipe(&["explain", "p.toml", "command.x", "--hit"]).ok().stdout;
    let (key, left_out) = hit.split_once("left out of it").unwrap();
    assert!(!key.contains("resume") && left_out.contains("resume") && left_out.contains("false"), "{hit}");
    let json = &space.hashpipe(&["explain", "p.toml", "command.x", "--json"]).ok().json()[0];
    let left_out: Vec<&str> =
        json["left_out"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(left_out, ["params.cache", "params.metrics", "params.resume"]);

    write_stages(&space, &stage("resume = true\n"));
    let difference = &space.hashpipe(&["explain", "p.toml", "command.x", "--json"]).ok().json()[0]["differences"][0];
    assert_eq!(
        (&difference["name"], &difference["old"], &difference["new"]),
        (&"params.resume".into(), &"false".into(), &"true".into())
    );
    assert!(difference["place"].as_str().unwrap().contains("p.toml:5"), "{difference}");
    let status = space.hashpipe(&["status", "p.toml"]).ok().stdout;
    assert!(status.contains("`resume` changed: false -> true"), "{status}");
    space.run(&[]).ok();
    let compared = space.hashpipe(&["diff", "last-1", "last"]).ok().stdout;
    let row = compared.lines().find(|line| line.contains("resume")).unwrap_or_else(|| panic!("{compared}"));
    assert!(row.contains("false") && row.contains("true"), "{row}");
}
