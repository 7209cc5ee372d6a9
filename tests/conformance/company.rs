//! Several runs at once, those who look on, and a disk that is full.

use crate::scene::{Gate, Going, count, tally, text, wait_for_none, write_stages};
use crate::space::Space;
use nix::sys::signal::Signal;

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
    drop(at);
    // Whoever stands at the gate now was started by the second run.
    crate::scene::wait_for("the second run to start the command", || (count(&space, "runs") == 2).then_some(()));
    gate.reached().open();
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
    drop(at);
    crate::scene::wait_for("the second run to start the command", || (count(&space, "runs") == 2).then_some(()));
    gate.reached().open();
    assert_eq!((second.end().code, text(&space, "y.txt").as_str()), (0, "x\n"));
}
