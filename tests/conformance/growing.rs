//! Trainings that go on from where others ended: longer ones, and those that were stopped.

use crate::scene::{Going, state, text, wait_for_none};
use crate::space::{PIPELINE, Space};
use nix::sys::signal::Signal;
use serde_json::Value;

const TRAIN: &str = "train.net@bits=8";

/// A project that trains one small network for so many epochs.
fn training(epochs: u32) -> Space {
    let space = Space::empty();
    set_epochs(&space, epochs);
    space
}

fn set_epochs(space: &Space, epochs: u32) {
    space.write("p.toml", PIPELINE.replace("epochs = 1", &format!("epochs = {epochs}")).replace("[8, 16]", "[8]"));
}

/// What a dry run would do with the training.
fn would(space: &Space) -> Value {
    let lines = space.hashpipe(&["run", "-n", "p.toml", "--json"]).ok().json();
    lines.into_iter().find(|line| line["task"] == TRAIN).unwrap()
}

/// Digests of a task's outputs but for those that hold times.
fn digests(space: &Space, task: &str) -> Vec<(String, Value)> {
    let record = space.record(task);
    let varies = record["varies"].as_array().cloned().unwrap_or_default();
    let outputs = record["outputs"].as_object().unwrap().clone().into_iter();
    outputs
        .filter(|(name, _)| !varies.contains(&name.as_str().into()))
        .map(|(name, o)| (name, o["digest"].clone()))
        .collect()
}

/// The first word a run said of the training's progress.
fn first_note(events: &[Value]) -> &str {
    let first = events.iter().find(|event| event["event"] == "progress" && event["task"] == TRAIN);
    first.unwrap()["note"].as_str().unwrap()
}

#[test]
fn a_longer_training_starts_from_a_shorter_one_and_ends_as_if_it_had_not() {
    let space = training(2);
    space.run(&["--only", TRAIN]).ok();
    set_epochs(&space, 3);
    let dry = would(&space);
    assert_eq!(dry["would"], "extend", "{dry}");
    let run = space.run(&["--only", TRAIN]).ok();
    let start = run.json().into_iter().find(|event| event["event"] == "start").unwrap();
    assert!(start["reason"].as_str().unwrap().contains("goes on from 2 of 3"), "{start}");
    assert!(first_note(&run.json()).starts_with("epoch 3/3"), "{}", first_note(&run.json()));

    let whole = training(3);
    whole.run(&["--only", TRAIN]).ok();
    assert_eq!(digests(&space, TRAIN), digests(&whole, TRAIN));
    assert_eq!(space.record(TRAIN)["key"], whole.record(TRAIN)["key"]);
    // The shorter one is still there, and a shorter one cannot be made from a longer.
    set_epochs(&space, 2);
    assert_eq!(would(&space)["would"], "cached");
    set_epochs(&space, 1);
    assert_eq!(would(&space)["would"], "run");
}

#[test]
fn what_a_longer_training_would_start_from_is_checked() {
    let space = training(2);
    space.run(&["--only", TRAIN]).ok();
    crate::space::damage(&space.object(TRAIN, "state"));
    set_epochs(&space, 3);
    space.run(&["--only", TRAIN]).ok();
    let whole = training(3);
    whole.run(&["--only", TRAIN]).ok();
    assert_eq!(digests(&space, TRAIN), digests(&whole, TRAIN));
}

/// A project whose training was killed after some epochs.
fn killed(epochs: u32) -> Space {
    let space = training(epochs);
    let run = Going::start(&space, &["--only", TRAIN]);
    run.wait_for("the tenth epoch", |event| {
        let note = event["note"].as_str().and_then(|note| note.strip_prefix("epoch ")?.split('/').next()?.parse().ok());
        event["task"] == TRAIN && note.is_some_and(|at: u32| at >= 10)
    });
    run.signal(Signal::SIGKILL);
    run.end();
    wait_for_none(&space);
    space
}

#[test]
fn a_training_that_was_killed_is_interrupted_and_resumed_and_equal() {
    let space = killed(200);
    assert_eq!(state(&space, TRAIN), "interrupted");
    let dry = would(&space);
    assert_eq!(dry["would"], "resume", "{dry}");
    let told = space.hashpipe(&["run", "-n", "p.toml"]).ok().stdout;
    assert!(told.contains("goes on from epoch"), "{told}");
    let run = space.run(&["--only", TRAIN]).ok();
    assert!(!first_note(&run.json()).starts_with("epoch 1/"), "{}", first_note(&run.json()));
    let whole = training(200);
    whole.run(&["--only", TRAIN]).ok();
    assert_eq!(digests(&space, TRAIN), digests(&whole, TRAIN));

    // A checkpoint that is torn is passed over, and one of another key is none of its business.
    let torn = killed(200);
    let folder = std::fs::read_dir(torn.path("cache/v2/scratch")).unwrap().flatten().map(|entry| entry.path());
    let folder =
        folder.into_iter().find(|path| path.is_dir() && path.join("").read_dir().unwrap().next().is_some()).unwrap();
    let mut checkpoints: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    let newest = checkpoints.last().unwrap();
    let bytes = std::fs::read(newest).unwrap();
    std::fs::write(newest, &bytes[..bytes.len() / 2]).unwrap();
    torn.run(&["--only", TRAIN]).ok();
    assert_eq!(digests(&torn, TRAIN), digests(&whole, TRAIN));
}

#[test]
fn a_changed_training_does_not_go_on_from_another_ones_checkpoint() {
    let space = killed(200);
    space.write("p.toml", text(&space, "p.toml").replace("lr = 0.001", "lr = 0.002"));
    assert_eq!(would(&space)["would"], "run");
}

#[test]
fn verify_kills_a_training_and_finds_it_equal() {
    let space = training(40);
    space.run(&["--only", TRAIN]).ok();
    let ended = space.hashpipe(&["verify", "p.toml", "train", "--resume", "--json"]).ok();
    let line = &ended.json()[0];
    assert_eq!((line["result"].as_str(), line["killed"].as_array().unwrap().len()), (Some("bit-exact"), 1), "{line}");
    assert_eq!(space.run(&["--only", TRAIN]).ok().tasks("start"), [""; 0], "the cache is as it was");
}

#[test]
fn verify_tells_a_stage_that_does_not_resume_to_the_same() {
    let space = Space::empty();
    let runs = space.path("runs");
    space.write(
        "p.toml",
        format!(
            "name = \"small\"\n[command.n]\nrun = 'echo x >> {0}; wc -l < {0} > {{out.o}}'\noutputs = {{ o = '' }}\n",
            runs.display()
        ),
    );
    space.run(&[]).ok();
    let ended = space.hashpipe(&["verify", "p.toml", "command.n"]);
    assert!(ended.code == 1 && ended.stdout.contains("unstable"), "{}{}", ended.stdout, ended.stderr);
}
