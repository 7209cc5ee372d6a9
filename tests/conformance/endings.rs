//! Tasks and runs that fail, are killed, or take too long: nothing of them is cached, nothing of them is left.

use crate::scene::{
    Gate, Going, assert_not_cached, count, processes, processes_like, project, state, states, tally, task_process,
    text, wait_for, wait_for_none, write_stages,
};
use crate::space::Space;
use nix::sys::signal::{Signal, kill};
use std::time::{Duration, Instant};

const X: &str = "command.x";

/// One command with one output, which it has written before it does something else.
fn after_writing(space: &Space, then: &str, more: &str) {
    write_stages(
        space,
        &format!("[command.x]\nrun = '''echo whole > {{out.o}}; {then}'''\noutputs = {{ o = 'o.txt' }}\n{more}"),
    );
}

#[test]
fn a_failure_is_never_cached() {
    let space = Space::empty();
    for (then, told) in [("exit 3", "ended with exit code 3"), ("kill -SEGV $$", "was killed by signal 11")] {
        let counted = format!("{}; {then}", tally(&space, "runs"));
        after_writing(&space, &counted, "");
        for run in 1..=2 {
            let ended = space.run(&[]);
            assert_eq!((ended.code, ended.tasks("failed")), (1, vec![X.to_string()]));
            assert!(ended.stderr.contains(told) || ended.stdout.contains(told), "{}", ended.stdout);
            assert_not_cached(&space, X, "o.txt");
            let (state, because) = &states(&space, &[])[X];
            assert!(state == "failed" && because.contains(told), "{state}: {because}");
            assert_eq!(count(&space, "runs"), run);
        }
        std::fs::remove_file(space.path("runs")).unwrap();
    }
}

#[test]
fn what_needs_a_failure_is_skipped_and_the_rest_goes_on_if_asked() {
    let space = project(
        "[command.bad]\nrun = 'exit 1'\noutputs = { o = 'o' }\n\
         [command.behind]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'command.bad/o' }\noutputs = { o = '' }\n\
         [command.far]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'command.behind/o' }\noutputs = { o = '' }\n\
         [command.other]\nrun = 'echo 1 > {out.o}'\noutputs = { o = 'other.txt' }\n",
        &[],
    );
    let ended = space.run(&["--keep-going"]);
    assert_eq!((ended.code, ended.tasks("done")), (1, vec!["command.other".to_string()]));
    assert_eq!(ended.tasks("blocked"), ["command.behind", "command.far"]);
    let states = states(&space, &[]);
    let words: Vec<&str> = states.values().map(|(state, _)| state.as_str()).collect();
    assert_eq!(words, ["failed", "skipped", "skipped", "cached"]);
    assert_eq!(text(&space, "other.txt"), "1\n");
}

#[test]
fn the_state_of_a_failure_is_not_that_of_an_interruption() {
    let stage = |k: u32| format!("[command.x]\nrun = 'test {{param.k}} != 1'\nparams = {{ k = {k} }}\n");
    let space = project(&stage(1), &[]);
    assert_eq!(space.run(&[]).code, 1);
    write_stages(&space, &stage(2));
    space.run(&[]).ok();
    write_stages(&space, &stage(1));
    assert_eq!(state(&space, X), "failed");
}

#[test]
fn a_command_that_takes_too_long_is_ended_and_never_cached() {
    // One that ends when it is asked to, and one that ends well when it is.
    for trap in ["exec sleep 1000", "trap \"exit 0\" TERM; while :; do sleep 0.01; done"] {
        let space = Space::empty();
        after_writing(&space, trap, "resources = { timeout = '100ms' }\n");
        let ended = Going::start(&space, &[]).end();
        assert_eq!(ended.code, 1);
        assert!(
            ended.stderr.contains("timeout of 100ms") || ended.stdout.contains("timeout of 100ms"),
            "{}",
            ended.stdout
        );
        assert_not_cached(&space, X, "o.txt");
        wait_for_none(&space);
    }
}

#[test]
fn time_spent_waiting_for_another_run_is_not_the_commands() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    after_writing(&space, &gate.wait(), "");
    let first = Going::start(&space, &[]);
    let at = gate.reached();
    let second = Going::start(&space, &["--set", "command.x.resources.timeout=\"1ms\""]);
    second.wait_for("the second run to wait", |event| {
        event["note"].as_str().is_some_and(|note| note.starts_with("waits"))
    });
    // Long enough to be ended by a mistake, and of no consequence if it is not.
    let since = Instant::now();
    wait_for("a mistake to happen", || (since.elapsed() > Duration::from_millis(400)).then_some(()));
    at.open();
    assert_eq!((first.end().code, second.end().code), (0, 0));
}

#[test]
fn ctrl_c_asks_and_what_ends_well_then_is_no_result_either() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    after_writing(&space, &format!("trap \"echo asked; exit 0\" TERM; {}", gate.wait()), "");
    let run = Going::start(&space, &[]);
    let _at = gate.reached();
    run.signal(Signal::SIGINT);
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("stopped")), (130, vec![X.to_string()]), "{}", ended.stderr);
    assert_not_cached(&space, X, "o.txt");
    assert_eq!(state(&space, X), "interrupted");
    wait_for_none(&space);
    let log = space.hashpipe(&["log", X]).ok().stdout;
    assert!(log.contains("asked"), "{log}");
}

#[test]
fn ctrl_c_ends_the_reading_of_inputs_at_once() {
    let space = project(
        "[command.x]\nrun = 'wc -c < {in.i} > {out.o}'\ninputs = { i = 'i' }\noutputs = { o = 'o.txt' }\n",
        &[],
    );
    // A hole that takes minutes to read, and no room.
    std::fs::File::create(space.path("i")).unwrap().set_len(1 << 40).unwrap();
    let run = Going::start(&space, &[]);
    run.wait_for("reading", |event| event["event"] == "reading");
    run.signal(Signal::SIGINT);
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("start")), (130, vec![]), "{}", ended.stderr);
    assert_not_cached(&space, X, "o.txt");
    space.write("i", "four");
    assert_eq!((space.run(&[]).code, text(&space, "o.txt").trim()), (0, "4"));
}

#[test]
fn ctrl_z_holds_a_run_with_all_its_tasks_and_their_limits_of_time() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    after_writing(&space, &gate.wait(), "resources = { timeout = '3s' }\n");
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    run.signal(Signal::SIGTSTP);
    let stands = |pid: &nix::unistd::Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let all = wait_for("all to stand", || Some(processes(&space)).filter(|all| all.iter().all(stands)));
    assert!(all.len() >= 3, "the runner, the task's process and the command");
    // As long as the command may take in all.
    let since = Instant::now();
    wait_for("time to pass", || (since.elapsed() > Duration::from_secs(3)).then_some(()));
    run.signal(Signal::SIGCONT);
    at.open();
    let ended = run.end();
    assert_eq!((ended.code, text(&space, "o.txt").as_str()), (0, "whole\n"), "{}", ended.stdout);
    assert!(space.record(X)["seconds"].as_f64().unwrap() < 3.0, "nor is it time that the command took");
}

#[test]
fn ctrl_c_twice_ends_what_does_not_listen() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    let asked = space.path("asked");
    after_writing(&space, &format!("trap \"echo > {}\" TERM; while :; do {}; done", asked.display(), gate.wait()), "");
    let run = Going::start(&space, &[]);
    let _at = gate.reached();
    run.signal(Signal::SIGINT);
    wait_for("the command to be asked", || asked.exists().then_some(()));
    assert!(!processes_like(&space, "exec").is_empty(), "it goes on");
    run.signal(Signal::SIGINT);
    assert_eq!(run.end().code, 130);
    wait_for_none(&space);
    assert_not_cached(&space, X, "o.txt");
}

/// A command with a child, a grandchild in the background, and one in a session of its own, all of which wait.
fn family(space: &Space) -> (Gate, [std::path::PathBuf; 2]) {
    let gate = Gate::new(space, "gate");
    let born = ["child", "apart"].map(|name| space.path(name));
    let [child, apart] = born.each_ref().map(|path| format!("echo > {}; exec sleep 1000", path.display()));
    let script = format!("(sh -c \"{child}\" & wait) & setsid sh -c \"{apart}\" & {}", gate.wait());
    after_writing(space, &script, "");
    (gate, born)
}

fn all_born(born: &[std::path::PathBuf]) {
    wait_for("all children", || born.iter().all(|path| path.exists()).then_some(()));
}

#[test]
fn a_killed_runner_leaves_no_process_and_no_partial_output() {
    let space = Space::empty();
    let (gate, born) = family(&space);
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    all_born(&born);
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end().code, -1);
    wait_for_none(&space);
    drop(at);
    assert_not_cached(&space, X, "o.txt");
    assert_eq!(state(&space, X), "interrupted");

    let run = Going::start(&space, &[]);
    gate.reached().open();
    assert_eq!((run.end().code, text(&space, "o.txt").as_str()), (0, "whole\n"));
    assert_eq!(std::fs::read_dir(space.path("cache/v2/tmp")).unwrap().count(), 0, "what was left is swept");
}

#[test]
fn a_killed_task_takes_all_it_started_with_it() {
    let space = Space::empty();
    let (gate, born) = family(&space);
    let run = Going::start(&space, &[]);
    let _at = gate.reached();
    all_born(&born);
    kill(task_process(&space), Signal::SIGKILL).unwrap();
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("failed")), (1, vec![X.to_string()]));
    wait_for_none(&space);
    assert_not_cached(&space, X, "o.txt");
    assert_eq!(state(&space, X), "failed");
}

#[test]
fn a_killed_task_takes_nothing_of_others_with_it() {
    let space = Space::empty();
    let (gate, born) = family(&space);
    let other = Gate::new(&space, "other");
    let stages = text(&space, "p.toml");
    space.write(
        "p.toml",
        format!(
            "{stages}[command.y]\nrun = 'setsid sleep 1000 & {}; echo y > {{out.o}}'\noutputs = {{ o = 'y.txt' }}\n",
            other.wait()
        ),
    );
    let run = Going::start(&space, &["--jobs", "2", "--keep-going"]);
    let (_at, at) = (gate.reached(), other.reached());
    all_born(&born);
    let killed = processes_like(&space, "exec").into_iter().find(|pid| {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let line = |child: &str| std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        children.split_whitespace().any(|child| line(child).contains("whole"))
    });
    kill(killed.unwrap(), Signal::SIGKILL).unwrap();
    run.wait_for_event("failed", X);
    at.open();
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("done")), (1, vec!["command.y".to_string()]));
    assert_eq!(text(&space, "y.txt"), "y\n");
    wait_for_none(&space);
}

#[test]
fn a_command_that_has_ended_leaves_nothing_running() {
    let space = Space::empty();
    let born = space.path("born");
    let late = "setsid sh -c \"echo > BORN; sleep 1000\" & until test -e BORN; do sleep 0.01; done";
    after_writing(&space, &late.replace("BORN", born.to_str().unwrap()), "");
    let ended = Going::start(&space, &[]).end();
    assert_eq!((ended.code, text(&space, "o.txt").as_str()), (0, "whole\n"));
    wait_for_none(&space);
}

#[test]
fn a_folder_to_resume_from_outlives_a_killed_run_and_is_that_of_its_key() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    let run = format!(
        "n=$(cat $HASHPIPE_RESUME_DIR/n || echo 0); n=$((n+1)); echo $n > $HASHPIPE_RESUME_DIR/n; {}; echo {{param.k}} $n > {{out.o}}",
        gate.wait()
    );
    let stage = |k: u32| {
        format!("[command.x]\nrun = '''{run}'''\nresume = true\nparams = {{ k = {k} }}\noutputs = {{ o = 'o.txt' }}\n")
    };
    write_stages(&space, &stage(1));
    let killed = Going::start(&space, &[]);
    let _at = gate.reached();
    killed.signal(Signal::SIGKILL);
    killed.end();
    wait_for_none(&space);
    let finish = || {
        let run = Going::start(&space, &[]);
        gate.reached().open();
        assert_eq!(run.end().code, 0);
        text(&space, "o.txt")
    };
    write_stages(&space, &stage(2));
    assert_eq!(finish(), "2 1\n", "another key begins anew");
    write_stages(&space, &stage(1));
    assert_eq!(finish(), "1 2\n", "the same goes on");
    let left = std::fs::read_dir(space.path("cache/v2/scratch")).unwrap().count();
    assert_eq!(left, 0, "and what it went on from has served");
}
