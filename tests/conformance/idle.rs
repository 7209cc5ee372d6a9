//! Plain runs with nothing to do, which remember how all looked that they looked at: what changes is noticed all the
//! same.

use crate::scene::{project, text, wait_for};
use crate::space::{Space, damage};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

const STAGES: &str = "\
    [command.copy]\nrun = ['./tool.sh', '{in.a}', '{out.o}']\ninputs = { a = 'a.txt' }\noutputs = { o = 'copy.txt' }\n\
    env = ['WORD']\n\
    [command.list]\nrun = 'ls {in.f} > {out.o}'\ninputs = { f = 'folder' }\noutputs = { o = '' }\n\
    [command.found]\nrun = ['mine', '{out.o}', '{param.k}']\nparams = { k = 1 }\noutputs = { o = 'found.txt' }\n\
    [command.behind]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'command.list/o' }\noutputs = { o = 'behind.txt' }\n";

fn program(space: &Space, name: &str, text: &str) {
    space.write(name, format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(space.path(name), Permissions::from_mode(0o755)).unwrap();
}

/// A run as a person starts it: what it says, and whether that was nothing to do.
fn run(space: &Space, more: &[&str], word: &str) -> (bool, String) {
    let mut command = space.command(&[&["run", "p.toml"], more].concat());
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{}:{path}", space.path("first").display(), space.path("bin").display()));
    let output = command.env("WORD", word).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (said.contains("nothing to do, 4 tasks cached"), said)
}

fn prepared() -> Space {
    let space = project(STAGES, &[("a.txt", "one\n"), ("folder/x", "x"), ("folder/y", "y")]);
    std::fs::create_dir(space.path("first")).unwrap();
    program(&space, "tool.sh", "cp \"$1\" \"$2\"");
    program(&space, "bin/mine", "echo mine $2 > $1");
    assert!(!run(&space, &[], "w").0);
    space
}

fn note(space: &Space) -> Option<PathBuf> {
    let known = std::fs::read_dir(space.path("cache/v2/known")).unwrap().flatten();
    known.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "idle"))
}

fn digests(space: &Space) -> PathBuf {
    space.path("cache/v2/digests")
}

/// Runs until one has noted how all looks, which takes as long as files may change without a trace in their times.
fn settle(space: &Space) {
    wait_for("a note", || {
        assert!(run(space, &[], "w").0);
        note(space)
    });
}

/// Writes a file that looks as before in size and mtime.
fn write_alike(space: &Space, name: &str, text: &str) {
    let path = space.path(name);
    let before = path.metadata().unwrap();
    assert_eq!(before.len(), text.len() as u64);
    std::fs::write(&path, text).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
}

/// What is done to the project, and whether the next run has to say that it did something.
type Change = (&'static str, fn(&Space), bool);

const CHANGES: [Change; 10] = [
    ("an input of equal size and time", |space| write_alike(space, "a.txt", "two\n"), true),
    ("a file more in an input folder", |space| space.write("folder/z", "z"), true),
    ("the text of the pipeline", |space| space.write("p.toml", text(space, "p.toml").replace("k = 1", "k = 2")), true),
    ("the program", |space| program(space, "tool.sh", "cat \"$1\" > \"$2\""), true),
    ("another program by that name", |space| program(space, "first/mine", "echo other $2 > $1"), true),
    ("a damaged object", |space| damage(&space.object("command.found", "o")), true),
    ("a record that is gone", |space| drop(std::fs::remove_dir_all(space.path("cache/v2/actions"))), true),
    ("a placed output that was edited", |space| write_alike(space, "copy.txt", "two\n"), false),
    ("a placed output that is gone", |space| std::fs::remove_file(space.path("found.txt")).unwrap(), false),
    ("the note itself", |space| damage(&note(space).unwrap()), false),
];

#[test]
fn a_run_with_nothing_to_do_looks_at_all_it_looked_at_before() {
    // Two seconds pass for all of them at once.
    let spaces: Vec<Space> = CHANGES.iter().map(|_| prepared()).collect();
    for ((what, change, ran), space) in CHANGES.into_iter().zip(&spaces) {
        settle(space);
        // What is only found in the memo of digests is not looked for there.
        std::fs::remove_file(digests(space)).unwrap();
        assert!(run(space, &[], "w").0 && !digests(space).exists(), "{what}: nothing to do, by looks alone");
        change(space);
        let (idle, said) = run(space, &[], "w");
        assert_eq!(idle, !ran, "{what}: {said}");
        let found = if what.contains("by that name") { "other 1\n" } else { "mine 1\n" };
        let found = if what.contains("pipeline") { "mine 2\n" } else { found };
        let copied = if what.contains("equal size") { "two\n" } else { "one\n" };
        let listed = if what.contains("folder") { "x\ny\nz\n" } else { "x\ny\n" };
        let texts = ["found.txt", "copy.txt", "behind.txt"].map(|name| text(space, name));
        assert_eq!(texts, [found, copied, listed], "{what}");
    }
}

#[test]
fn what_is_asked_otherwise_is_not_answered_by_an_earlier_run() {
    let space = prepared();
    settle(&space);
    std::fs::remove_file(digests(&space)).unwrap();
    assert!(run(&space, &[], "w").0 && !digests(&space).exists());
    assert!(!run(&space, &[], "other").0, "a variable that a command sees");
    assert!(run(&space, &[], "other").0, "once for each of its values");
    assert!(run(&space, &[], "w").0);
    settle(&space);
    assert!(!run(&space, &["--set", "command.found.params.k=7"], "w").0);
    assert_eq!(text(&space, "found.txt"), "mine 7\n");
    assert!(run(&space, &[], "w").0, "known from before");
    assert_eq!(text(&space, "found.txt"), "mine 1\n", "and put at its place again");
    let forced = space.command(&["run", "p.toml", "--force", "command.list"]).env("WORD", "w").output().unwrap();
    let said = String::from_utf8_lossy(&forced.stderr).into_owned();
    assert!(!said.contains("nothing to do"), "{said}");
}
