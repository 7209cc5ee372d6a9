//! What is written for the user: whole files or none, and no silence about what could not be written.

use crate::space::Space;
use hashpipe::weightfile::{Outgoing, can_write, write};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// A file of weights with one tensor.
fn weights(path: &Path, values: &[f32]) {
    let tensors = [Outgoing { name: "a".into(), shape: vec![values.len()], turns: false }];
    let mut source = |_: usize| Ok(values.to_vec());
    write(path, can_write(path).unwrap(), &tensors, &BTreeMap::new(), &mut source).unwrap();
}

#[test]
fn a_failed_conversion_keeps_what_was_there() {
    let space = Space::empty();
    weights(&space.path("good.npz"), &[1.0, 2.0]);
    weights(&space.path("bad.npz"), &[1.0, f32::NAN]);
    for out in ["a.safetensors", "a.pth", "a.pdparams", "b.npz"] {
        space.hashpipe(&["weights", "convert", "good.npz", out]).ok();
        let before = std::fs::read(space.path(out)).unwrap();
        let ended = space.hashpipe(&["weights", "convert", "bad.npz", out]);
        assert!(ended.code == 2 && ended.stderr.contains("holds NaN"), "{}", ended.stderr);
        assert!(std::fs::read(space.path(out)).unwrap() == before, "{out}");
    }
    assert_eq!(std::fs::read_dir(space.path(".")).unwrap().count(), 6, "nothing is left beside them");
}

#[test]
fn what_standard_output_does_not_take_is_an_error() {
    let space = Space::new();
    let commands: [&[&str]; 9] = [
        &["schema"],
        &["stages"],
        &["status", "p.toml"],
        &["run", "-n", "p.toml"],
        &["runs"],
        &["leaderboard"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ];
    for command in commands {
        let told = |stdout: Stdio| {
            let ended = space.command(command).stdout(stdout).output().unwrap();
            (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
        };
        if let Ok(full) = File::options().write(true).open("/dev/full") {
            let (code, stderr) = told(full.into());
            assert!(code == Some(1) && stderr.contains("cannot write to standard output"), "{command:?}: {stderr}");
            assert!(stderr.contains("the disk is full"), "{command:?}: {stderr}");
        }
        // A reader that has seen enough is no error.
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(told(closed.into()), (Some(0), String::new()), "{command:?}");
    }
}

#[test]
fn a_limit_of_the_shell_is_an_error_like_others() {
    let space = Space::new();
    let hashpipe = space.command(&[]).get_program().to_str().unwrap().to_string();
    let limited = |arguments: &str| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -f 0; exec '{hashpipe}' {arguments}");
        shell.args(["-c", &script]).current_dir(space.path(".")).output().unwrap()
    };
    let ended = limited("man pages");
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && stderr.contains("`ulimit -f` shows"), "{:?} {stderr}", ended.status);
    assert_eq!(std::fs::read_dir(space.path("pages")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn a_variable_is_blamed_for_its_own_value() {
    let space = Space::new();
    for (name, value) in [("HASHPIPE_JOBS", "x"), ("HASHPIPE_JOBS", "0"), ("HASHPIPE_GPUS", "a,b")] {
        let ended = space.command(&["run", "-n", "p.toml"]).env(name, value).output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(2) && stderr.contains(&format!("--> {name}={value}")), "{stderr}");
        assert!(!stderr.contains("--jobs") && !stderr.contains("--gpus"), "{stderr}");
    }
}
