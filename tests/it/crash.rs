//! Runs that are stopped in the middle, and go on as if they had not been.

use crate::space::{PIPELINE, Space};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};

/// A pipeline whose training is long enough to be stopped in its middle: a second or two.
fn long() -> String {
    PIPELINE.replace("epochs = 1", "epochs = 200").replace("[8, 16]", "[8]")
}

const TRAIN: &str = "train.net@bits=8";

fn start(space: &Space, arguments: &[&str]) -> Started {
    Started(space.start(arguments))
}

/// Reads a run's events until the training's progress has a note like this.
fn wait_for_note(run: &mut Child, wanted: impl Fn(&str) -> bool) {
    let lines = BufReader::new(run.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["task"] == TRAIN && event["note"].as_str().is_some_and(&wanted) {
            return;
        }
    }
    panic!("the run ended too early");
}

/// Waits until the training is in this epoch or a later one.
fn wait_for_epoch(run: &mut Child, epoch: usize) {
    wait_for_note(run, |note| {
        let at = note.strip_prefix("epoch ").and_then(|rest| rest.split('/').next()?.parse::<usize>().ok());
        at.is_some_and(|at| at >= epoch)
    });
}

/// A started run that does not outlive its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

impl std::ops::Deref for Started {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

fn interrupt(run: &Child) {
    signal(run, "-INT");
}

fn signal(run: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success());
}

/// The bytes of the trained model.
fn model(space: &Space) -> Vec<u8> {
    std::fs::read(space.object(TRAIN, "model")).unwrap()
}

fn uninterrupted() -> Vec<u8> {
    let space = Space::empty();
    space.write("p.toml", long());
    space.run(&["--only", TRAIN]).ok();
    model(&space)
}

/// No half-written result: every object is named by its content, and nothing is left in the work folder.
fn assert_clean(space: &Space) {
    for folder in std::fs::read_dir(space.path("cache/v2/objects")).unwrap().flatten() {
        for object in std::fs::read_dir(folder.path()).unwrap().flatten().filter(|o| o.path().is_file()) {
            let digest = blake3::hash(&std::fs::read(object.path()).unwrap()).to_hex().to_string();
            assert_eq!(object.file_name().to_str().unwrap(), digest);
        }
    }
    assert_eq!(space.last_key("small", TRAIN), None);
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let space = Space::empty();
    space.write("p.toml", long());
    let mut run = start(&space, &["run", "p.toml", "--json", "--only", TRAIN]);
    wait_for_epoch(&mut run, 20);
    run.kill().unwrap();
    run.wait().unwrap();
    assert_clean(&space);

    let resumed = space.run(&["--only", TRAIN]).ok();
    let first = resumed.json().into_iter().find(|e| e["event"] == "progress" && e["task"] == TRAIN).unwrap();
    assert!(!first["note"].as_str().unwrap().starts_with("epoch 1/"), "it began anew: {first}");
    assert_eq!(model(&space), uninterrupted());
}

#[test]
fn ctrl_c_stops_in_order_and_the_next_run_goes_on() {
    let space = Space::empty();
    space.write("p.toml", long());
    let mut run = start(&space, &["run", "p.toml", "--json"]);
    wait_for_epoch(&mut run, 3);
    interrupt(&run);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_clean(&space);
    assert_eq!(std::fs::read_dir(space.path("cache/v2/tmp")).unwrap().count(), 0);

    space.run(&[]).ok();
    assert_eq!(model(&space), uninterrupted());
}

#[test]
fn a_signal_to_terminate_stops_in_order_too() {
    let space = Space::empty();
    space.write("p.toml", long());
    let mut run = start(&space, &["run", "p.toml", "--json"]);
    wait_for_epoch(&mut run, 3);
    signal(&run, "-TERM");
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert_clean(&space);
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    let models = ["1", "2", "3"].map(|jobs| {
        let space = Space::empty();
        space.write("p.toml", long());
        space.run(&["--only", "encode.database", "--jobs", jobs]).ok();
        (model(&space), std::fs::read(space.object("encode.database@bits=8", "codes")).unwrap())
    });
    assert!(models[0] == models[1] && models[1] == models[2]);
}

#[test]
fn two_runs_at_once_share_the_work() {
    let space = Space::empty();
    space.write("p.toml", long());
    let mut first = start(&space, &["run", "p.toml", "--json", "--only", TRAIN]);
    wait_for_epoch(&mut first, 2);
    // It waits for the first one's training and takes its result.
    let second = space.run(&["--only", TRAIN]).ok();
    assert_eq!(second.tasks("done"), [""; 0]);
    assert_eq!(first.wait().unwrap().code(), Some(0));
    assert_eq!(model(&space), uninterrupted());
}

#[test]
fn a_run_that_waits_for_another_can_be_interrupted() {
    let space = Space::empty();
    space.write("p.toml", long().replace("epochs = 200", "epochs = 100000"));
    let mut first = start(&space, &["run", "p.toml", "--json", "--only", TRAIN]);
    wait_for_epoch(&mut first, 2);
    let mut second = start(&space, &["run", "p.toml", "--json", "--only", TRAIN]);
    wait_for_note(&mut second, |note| note.starts_with("waits: another run"));
    interrupt(&second);
    assert_eq!(second.wait().unwrap().code(), Some(130));
    interrupt(&first);
    assert_eq!(first.wait().unwrap().code(), Some(130));
}

#[test]
fn twice_ctrl_c_is_no_failure_either() {
    let space = Space::empty();
    space.write("p.toml", long().replace("epochs = 200", "epochs = 100000"));
    let mut run = start(&space, &["run", "p.toml", "--json"]);
    wait_for_epoch(&mut run, 2);
    interrupt(&run);
    interrupt(&run);
    assert_eq!(run.wait().unwrap().code(), Some(130));
}

#[test]
fn a_result_made_from_a_file_that_changed_meanwhile_is_thrown_away() {
    let weights = {
        let space = Space::new();
        space.run(&["--only", TRAIN]).ok();
        model(&space)
    };
    let space = Space::empty();
    space.write("p.toml", long().replace("batch = 10", "batch = 10\npretrained = \"w.safetensors\""));
    space.write("w.safetensors", &weights);
    let mut run = start(&space, &["run", "p.toml", "--json", "--only", TRAIN]);
    wait_for_epoch(&mut run, 2);
    let mut other = weights;
    let last = other.len() - 1;
    other[last - 4] ^= 1;
    space.write("w.safetensors", &other);
    assert_eq!(run.wait().unwrap().code(), Some(4));
    assert_clean(&space);
    assert_eq!(space.run(&["--only", TRAIN]).ok().tasks("done"), [TRAIN]);
}

#[test]
fn a_failure_blocks_what_follows_and_the_rest_goes_on_if_asked() {
    let broken = PIPELINE
        .replace("bits = [8, 16]", "bits = [8, 16]\nseed = 3")
        .replace("lr = 0.001", "lr = { by = \"bits\", 8 = 1e30, default = 0.001 }")
        .replace("epochs = 1", "epochs = 3");
    let space = Space::empty();
    space.write("p.toml", broken);
    let run = space.run(&["--keep-going"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(run.tasks("failed"), [TRAIN]);
    let failed = run.json().into_iter().find(|e| e["event"] == "failed").unwrap();
    assert!(failed["error"].as_str().unwrap().contains("epoch"), "{failed}");
    assert_eq!(run.tasks("blocked").len(), 4);
    assert!(run.tasks("done").contains(&"evaluate.map@bits=16".to_string()));
    // A failure is never cached.
    assert_eq!(space.run(&[]).tasks("failed"), [TRAIN]);
}
