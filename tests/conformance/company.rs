//! Several runs at once, those who look on, and a disk that is full.

use crate::scene::{Gate, Going, count, project, said, states, tally, text, wait_for_none, write_stages};
use crate::space::Space;
use nix::sys::signal::Signal;
use std::process::Command;

const X: &str = "command.x";

/// A command that says something, stands at a gate, and counts how often it ran.
fn slow() -> (Space, Gate) {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    let run = tally(&space, "runs");
    write_stages(
        &space,
        &format!(
            "[command.x]\nrun = 'echo step seven; {run}; {}; echo x > {{out.o}}'\noutputs = {{ o = 'x.txt' }}\n\
             [command.behind]\nrun = 'cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.x/o' }}\noutputs = {{ o = 'y.txt' }}\n",
            gate.wait()
        ),
    );
    (space, gate)
}

fn waits(run: &Going) -> String {
    let is_waiting =
        |event: &serde_json::Value| event["note"].as_str().is_some_and(|note| note.starts_with("waits: another run"));
    run.wait_for("a run to wait for another one, which has said something", |event| {
        is_waiting(event) && event["note"].as_str().is_some_and(|note| note.contains("step"))
    })["note"]
        .as_str()
        .unwrap()
        .to_string()
}

#[test]
fn two_runs_at_once_share_the_work_and_one_shows_how_far_the_other_is() {
    let (space, gate) = slow();
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let second = Going::start(&space, &[]);
    let note = waits(&second);
    assert!(note.contains(&format!("pid {}", first.pid())) && note.contains("step seven"), "{note}");
    at.open();
    let (first, second) = (first.end(), second.end());
    assert_eq!((first.code, second.code), (0, 0), "{}{}", first.stderr, second.stderr);
    assert_eq!((count(&space, "runs"), second.tasks("cached").contains(&X.to_string())), (1, true));
    assert_eq!(text(&space, "y.txt"), "x\n");
}

#[test]
fn runs_of_other_pipelines_share_the_work_too() {
    let (space, gate) = slow();
    space.write(
        "q.toml",
        text(&space, "p.toml").replace("\"small\"", "\"other\"").replace("command.x", "command.another"),
    );
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let second = Going::of(&space, space.command(&["run", "q.toml", "--json"]));
    waits(&second);
    at.open();
    assert_eq!((first.end().code, second.end().code, count(&space, "runs")), (0, 0, 1));
}

#[test]
fn who_waits_takes_over_when_the_other_is_killed() {
    let (space, gate) = slow();
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let second = Going::start(&space, &[]);
    waits(&second);
    first.signal(Signal::SIGKILL);
    first.end();
    // Whoever stands at the gate now was started by the second run.
    crate::scene::wait_for("the second run to start the command", || (count(&space, "runs") == 2).then_some(()));
    gate.reached().open();
    // Not before: a command that has come already would read the end of the pipe, and go through.
    drop(at);
    let ended = second.end();
    assert_eq!((ended.code, text(&space, "y.txt").as_str()), (0, "x\n"), "{}", ended.stderr);
    wait_for_none(&space);
}

#[test]
fn who_waits_takes_over_when_the_other_fails() {
    let (space, gate) = slow();
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let second = Going::start(&space, &[]);
    waits(&second);
    nix::sys::signal::kill(crate::scene::task_process(&space), Signal::SIGKILL).unwrap();
    assert_eq!(first.end().code, 1);
    crate::scene::wait_for("the second run to start the command", || (count(&space, "runs") == 2).then_some(()));
    gate.reached().open();
    drop(at);
    assert_eq!((second.end().code, text(&space, "y.txt").as_str()), (0, "x\n"));
}

#[test]
fn whoever_will_not_wait_is_told_so() {
    let (space, gate) = slow();
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let ended = space.run(&["--no-wait"]);
    assert_eq!((ended.code, ended.tasks("start").len()), (75, 1), "{}", ended.stderr);
    assert!(said(&ended).contains(&format!("pid {}", first.pid())), "{}", said(&ended));
    at.open();
    assert_eq!(first.end().code, 0);
    assert_eq!(space.run(&["--no-wait"]).code, 0);
}

#[test]
fn readers_neither_wait_nor_keep_anybody_from_working() {
    let (space, gate) = slow();
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    let states = crate::scene::wait_for("what the command said to be told", || {
        Some(states(&space, &[])).filter(|states| states[X].1.contains("step seven"))
    });
    assert_eq!((states[X].0.as_str(), states["command.behind"].0.as_str()), ("running", "blocked"));
    for reader in [
        &["status", "p.toml"][..],
        &["status"],
        &["explain", "p.toml", "command", "--hit"],
        &["run", "-n", "p.toml"],
        &["graph", "p.toml"],
        &["runs"],
        &["log", X],
        &["trace"],
        &["diff", "last", "last"],
        &["cache", "du"],
        &["cache", "verify"],
        &["cache", "gc", "--dry-run"],
    ] {
        let ended = Going::of(&space, space.command(reader)).end();
        assert_eq!(ended.code, 0, "{reader:?}: {}", ended.stderr);
    }
    at.open();
    assert_eq!((run.end().code, count(&space, "runs")), (0, 1));
}

/// A script whose first command mounts a small memory disk at `cache`, in a name space of its own: gone when it ends.
fn on_a_small_disk(space: &Space, script: &str) -> Option<String> {
    let hashpipe = env!("CARGO_BIN_EXE_hashpipe");
    let script = format!("mkdir -p cache && mount -t tmpfs -o size=2m none cache || exit 99\nhp={hashpipe}\n{script}");
    let ended = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(space.path(""))
        .output()
        .ok()?;
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    (ended.status.code() == Some(0)).then(|| format!("{out}{err}")).or_else(|| {
        assert!(ended.status.code() != Some(98), "{out}{err}");
        None
    })
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped must say so")]
fn a_full_disk_is_said_clearly_and_loses_nothing() {
    let space = project(
        "[command.a]\nrun = 'echo a > {out.o}'\noutputs = { o = 'a.txt' }\n\
         [command.b]\nrun = 'cat {in.i} > {out.o}; head -c 1500000 /dev/zero >> {out.o}'\ninputs = { i = 'command.a/o' }\noutputs = { o = '' }\n",
        &[],
    );
    let script = r#"
        $hp run p.toml --only command.a > first 2>&1; test $? = 0 || exit 97
        head -c 1000000 /dev/zero > cache/filler
        $hp run p.toml > second 2>&1; echo $? > second.code
        cat /dev/zero > cache/filler 2> /dev/null
        $hp run p.toml --only command.a > third 2>&1; echo $? > third.code
        $hp status p.toml --json > status 2>&1; echo $? >> third.code
        $hp run p.toml > fourth 2>&1; echo $? > fourth.code
        rm cache/filler
        $hp run p.toml --json > fifth 2>&1; echo $? > fifth.code
        $hp cache verify > verified 2>&1; echo $? >> fifth.code
    "#;
    if on_a_small_disk(&space, script).is_none() {
        return println!("skipped: this system lets nobody mount a small disk of his own");
    }
    let shown = ["first", "second", "third", "status", "fourth", "fifth", "verified"]
        .map(|name| text(&space, name))
        .join("\n---\n");
    let code = |name: &str| text(&space, &format!("{name}.code"));
    // The command itself finds it full, then hashpipe does.
    assert_eq!(code("second"), "1\n", "{shown}");
    assert!(text(&space, "second").contains("the disk is full"), "{shown}");
    assert_eq!(code("third"), "0\n0\n", "{shown}");
    assert_eq!(code("fourth"), "1\n", "{shown}");
    assert!(text(&space, "fourth").contains("the disk is full"), "{shown}");
    assert_eq!(code("fifth"), "0\n0\n", "{shown}");
    let events = text(&space, "fifth");
    let events = events.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let started: Vec<_> = events.filter(|event| event["event"] == "start").map(|event| event["task"].clone()).collect();
    assert_eq!(started, ["command.b"], "{shown}");
}
