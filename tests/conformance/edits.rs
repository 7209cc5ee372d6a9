//! Never a wrong hit: what is edited, replaced and swapped, before a stage runs and while it does.

use crate::scene::{Gate, Going, assert_not_cached, count, project, state, tally, text, wait_for, write_stages};
use crate::space::Space;
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime};

const NONE: [&str; 0] = [];
const COPY: &str = "command.copy";

/// A copy of `a.txt` that stands at a gate before it reads and at another one after it has written.
fn slow_copy() -> (Space, Gate, Gate) {
    let space = project("", &[("a.txt", "old\n")]);
    let (before, after) = (Gate::new(&space, "before"), Gate::new(&space, "after"));
    let (first, second) = (before.wait(), after.wait());
    write_stages(
        &space,
        &format!(
            "[command.copy]\nrun = '{first}; cat {{in.a}} > {{out.o}}; {second}'\ninputs = {{ a = 'a.txt' }}\n\
             outputs = {{ o = 'results/o.txt' }}\n"
        ),
    );
    (space, before, after)
}

/// Runs the slow copy, with something done before it reads and something after.
fn run_slowly((space, before, after): &(Space, Gate, Gate), early: impl Fn(), late: impl Fn()) -> i32 {
    let run = Going::start(space, &[]);
    let gate = before.reached();
    early();
    gate.open();
    let gate = after.reached();
    late();
    gate.open();
    run.end().code
}

#[test]
fn an_input_edited_while_its_stage_runs_taints_the_result() {
    for early in [true, false] {
        let scene = slow_copy();
        let space = &scene.0;
        let edit = |now: bool| {
            if now {
                space.write("a.txt", "new\n")
            }
        };
        assert_eq!(run_slowly(&scene, || edit(early), || edit(!early)), 4);
        assert_not_cached(space, COPY, "results/o.txt");
        assert_eq!(state(space, COPY), "tainted");

        assert_eq!(run_slowly(&scene, || {}, || {}), 0);
        assert_eq!(text(space, "results/o.txt"), "new\n");
        assert_eq!(state(space, COPY), "cached");
        // What was read at first has no result either: it was never made.
        space.write("a.txt", "old\n");
        assert_eq!(run_slowly(&scene, || {}, || {}), 0);
        assert_eq!(text(space, "results/o.txt"), "old\n");
    }
}

#[test]
fn an_input_that_was_other_while_its_stage_ran_taints_the_result_even_if_it_is_back() {
    let scene = slow_copy();
    let space = &scene.0;
    let set = |content: &str| {
        // Written aside and renamed, as editors do: never the same file again.
        space.write("a.new", content);
        std::fs::rename(space.path("a.new"), space.path("a.txt")).unwrap();
    };
    assert_eq!(run_slowly(&scene, || set("new\n"), || set("old\n")), 4);
    assert_not_cached(space, COPY, "results/o.txt");
    assert_eq!(run_slowly(&scene, || {}, || {}), 0);
    assert_eq!(text(space, "results/o.txt"), "old\n");
}

#[test]
fn an_edit_that_hides_itself_taints_the_result() {
    let scene = slow_copy();
    let space = &scene.0;
    let hidden = || {
        let modified = space.path("a.txt").metadata().unwrap().modified().unwrap();
        space.write("a.txt", "new\n");
        File::options().write(true).open(space.path("a.txt")).unwrap().set_modified(modified).unwrap();
    };
    assert_eq!(run_slowly(&scene, hidden, || {}), 4);
    assert_not_cached(space, COPY, "results/o.txt");
}

#[test]
fn a_file_edited_in_an_input_folder_taints_the_result() {
    let space = project("", &[("data/sub/a.txt", "old\n"), ("data/b.txt", "b\n")]);
    let gate = Gate::new(&space, "gate");
    let stage = format!(
        "[command.copy]\nrun = 'cat {{in.d}}/sub/a.txt > {{out.o}}; {}'\ninputs = {{ d = 'data' }}\noutputs = {{ o = 'o.txt' }}\n",
        gate.wait()
    );
    write_stages(&space, &stage);
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    space.write("data/sub/a.txt", "new\n");
    at.open();
    assert_eq!(run.end().code, 4);
    assert_not_cached(&space, COPY, "o.txt");
    let run = Going::start(&space, &[]);
    gate.reached().open();
    assert_eq!((run.end().code, text(&space, "o.txt").as_str()), (0, "new\n"));
}

#[test]
fn a_program_edited_while_it_runs_taints_the_result() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    let program = |word: &str| {
        space.write("tool.new", format!("#!/bin/sh\necho {word} > \"$1\"\n{}\n", gate.wait()));
        std::fs::set_permissions(space.path("tool.new"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(space.path("tool.new"), space.path("tool.sh")).unwrap();
    };
    program("old");
    write_stages(&space, "[command.copy]\nrun = ['./tool.sh', '{out.o}']\noutputs = { o = 'o.txt' }\n");
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    program("new");
    at.open();
    let ended = run.end();
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert_not_cached(&space, COPY, "o.txt");
    let run = Going::start(&space, &[]);
    gate.reached().open();
    assert_eq!((run.end().code, text(&space, "o.txt").as_str()), (0, "new\n"));
}

#[test]
fn a_program_edited_in_the_middle_of_a_run_is_looked_at_anew() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    let program = |word: &str| {
        space.write("tool.new", format!("#!/bin/sh\necho {word} > \"$1\"\n"));
        std::fs::set_permissions(space.path("tool.new"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(space.path("tool.new"), space.path("tool.sh")).unwrap();
    };
    program("old");
    // Both are judged at the start; the second one runs after the first, when the program is another.
    write_stages(
        &space,
        &format!(
            "[command.first]\nrun = '{}; : > {{out.o}}'\noutputs = {{ o = '' }}\nresources = {{ priority = 1 }}\n\
             [command.second]\nrun = ['./tool.sh', '{{out.o}}']\noutputs = {{ o = 'o.txt' }}\n",
            gate.wait()
        ),
    );
    let run = Going::start(&space, &["--jobs", "1"]);
    let at = gate.reached();
    program("new");
    at.open();
    assert_eq!((run.end().code, text(&space, "o.txt").as_str()), (0, "new\n"));
    program("old");
    assert_eq!(space.run(&[]).ok().tasks("start"), ["command.second"]);
    assert_eq!(text(&space, "o.txt"), "old\n");
}

/// Waits until files are older than what the memo of digests takes for settled: only such are remembered at all.
fn settle(space: &Space, names: &[&str]) {
    let age = |name: &str| {
        let changed = u64::try_from(space.path(name).metadata().unwrap().ctime()).unwrap();
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(changed)).unwrap_or_default()
    };
    wait_for("files to settle", || names.iter().all(|name| age(name) > Duration::from_millis(3_100)).then_some(()));
}

#[test]
fn edits_that_hide_from_size_and_time_are_found() {
    let files = [("a.txt", "aaa\n"), ("b.txt", "bbb\n"), ("c/x.txt", "ccc\n"), ("older.txt", "BBB\n")];
    let space = project(
        "[command.a]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'a.txt' }\noutputs = { o = 'r/a' }\n\
         [command.b]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'b.txt' }\noutputs = { o = 'r/b' }\n\
         [command.c]\nrun = 'cat {in.i}/x.txt > {out.o}'\ninputs = { i = 'c' }\noutputs = { o = 'r/c' }\n\
         [command.d]\nrun = 'tr a-z A-Z < {in.i} > {out.o}'\ninputs = { i = 'a.txt' }\noutputs = { o = 'r/d' }\n",
        &files,
    );
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    let modified = |name: &str, at: SystemTime| {
        File::options().write(true).open(space.path(name)).unwrap().set_modified(at).unwrap();
    };
    for (name, _) in files {
        modified(name, long_ago);
    }
    modified("older.txt", long_ago - Duration::from_secs(1_000_000));
    settle(&space, &files.map(|(name, _)| name));
    space.run(&[]).ok();
    let memo = space.path("cache/v2/digests").metadata().unwrap().len();
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
    assert!(memo >= 3 * 112, "the memo knows the inputs");

    // The same size and time of change.
    for name in ["a.txt", "c/x.txt"] {
        space.write(name, "new\n");
        modified(name, long_ago);
    }
    // The same size, and an older time of change than before.
    std::fs::rename(space.path("older.txt"), space.path("b.txt")).unwrap();
    let all = ["command.a", "command.b", "command.c", "command.d"];
    assert_eq!(space.run(&[]).ok().tasks("start"), all);
    let results = ["r/a", "r/b", "r/c", "r/d"].map(|name| text(&space, name));
    assert_eq!(results, ["new\n", "BBB\n", "new\n", "NEW\n"]);
}

/// The project's stage with another text, and what the run then starts.
fn started(space: &Space, stages: &str) -> Vec<String> {
    write_stages(space, stages);
    space.run(&[]).ok().tasks("start")
}

#[test]
fn swapped_values_are_another_key() {
    let stage = |bits: u32, batch: u32| {
        format!(
            "[command.x]\nrun = 'echo {{param.bits}} {{param.batch}} > {{out.o}}'\n\
             params = {{ bits = {bits}, batch = {batch} }}\noutputs = {{ o = 'o.txt' }}\n"
        )
    };
    let space = project(&stage(32, 64), &[]);
    space.run(&[]).ok();
    assert_eq!(started(&space, &stage(64, 32)), ["command.x"]);
    assert_eq!(text(&space, "o.txt"), "64 32\n");
    // Going back is a hit, and the file is what it was.
    assert_eq!(started(&space, &stage(32, 64)), NONE);
    assert_eq!(text(&space, "o.txt"), "32 64\n");
}

#[test]
fn values_of_another_type_are_another_key() {
    let stage = |value: &str| {
        let tally = "echo {param.v} > {out.o}";
        format!("[command.x]\nrun = '{tally}'\nparams = {{ v = {value} }}\noutputs = {{ o = 'o.txt' }}\n")
    };
    let space = project(&stage("1"), &[]);
    space.run(&[]).ok();
    for other in ["'1'", "1.0", "true", "'true'", "'1.0'"] {
        assert_eq!(started(&space, &stage(other)), ["command.x"], "{other}");
    }
    assert_eq!(started(&space, &stage("1")), NONE);
}

#[test]
fn swapped_inputs_are_another_key() {
    let stage = |a: &str, b: &str| {
        format!(
            "[command.x]\nrun = 'cat {{in.a}} {{in.b}} > {{out.o}}'\ninputs = {{ a = '{a}', b = '{b}' }}\n\
             outputs = {{ o = 'o.txt' }}\n"
        )
    };
    let space = project(&stage("x", "y"), &[("x", "x\n"), ("y", "y\n")]);
    space.run(&[]).ok();
    assert_eq!(started(&space, &stage("y", "x")), ["command.x"]);
    assert_eq!(text(&space, "o.txt"), "y\nx\n");
    // Outputs of stages as well.
    let both = |a: &str, b: &str| {
        format!(
            "[command.make]\nrun = 'echo 1 > {{out.one}}; echo 2 > {{out.two}}'\noutputs = {{ one = '', two = '' }}\n{}",
            stage(&format!("command.make/{a}"), &format!("command.make/{b}"))
        )
    };
    started(&space, &both("one", "two"));
    assert_eq!(text(&space, "o.txt"), "1\n2\n");
    assert_eq!(started(&space, &both("two", "one")), ["command.x"]);
    assert_eq!(text(&space, "o.txt"), "2\n1\n");
}

#[test]
fn back_to_what_was_is_a_hit_and_restores_it() {
    let space = project("", &[("a.txt", "one\n")]);
    let run = tally(&space, "runs");
    write_stages(
        &space,
        &format!(
            "[command.up]\nrun = '{run}; tr a-z A-Z < {{in.a}} > {{out.o}}'\ninputs = {{ a = 'a.txt' }}\noutputs = {{ o = 'up.txt' }}\n\
             [command.twice]\nrun = '{run}; cat {{in.a}} {{in.a}} > {{out.o}}'\ninputs = {{ a = 'command.up/o' }}\noutputs = {{ o = 'twice.txt' }}\n"
        ),
    );
    for (content, runs) in [("one\n", 2), ("two\n", 4), ("one\n", 4), ("two\n", 4)] {
        space.write("a.txt", content);
        space.run(&[]).ok();
        let up = content.to_uppercase();
        assert_eq!((text(&space, "up.txt"), text(&space, "twice.txt")), (up.clone(), up.repeat(2)));
        assert_eq!(count(&space, "runs"), runs, "{content}");
    }
    // No key of one made from the other was mixed up: nothing had to make way for what nobody knew.
    assert!(!space.path("up.txt.before-1").exists());
}

#[test]
fn equal_outputs_stop_the_wave() {
    let space = project(
        "[command.sorted]\nrun = 'sort {in.a} > {out.o}'\ninputs = { a = 'a.txt' }\noutputs = { o = '' }\n\
         [command.counted]\nrun = 'wc -l < {in.a} > {out.o}'\ninputs = { a = 'command.sorted/o' }\noutputs = { o = 'n.txt' }\n",
        &[("a.txt", "b\na\n")],
    );
    space.run(&[]).ok();
    space.write("a.txt", "a\nb\n");
    assert_eq!(space.run(&[]).ok().tasks("start"), ["command.sorted"]);
}

#[test]
fn which_file_of_a_command_is_taken_is_in_its_key() {
    let stage = |place: &str| {
        format!("[command.x]\nrun = 'echo one > a.txt; echo two > b.txt'\noutputs = {{ o = '{place}' }}\n")
    };
    let space = project(&stage("a.txt"), &[]);
    space.run(&[]).ok();
    assert_eq!(started(&space, &stage("b.txt")), ["command.x"]);
    assert_eq!((text(&space, "a.txt"), text(&space, "b.txt")), ("one\n".into(), "two\n".into()));
}

#[test]
fn the_ending_by_which_a_command_tells_forms_is_in_its_key() {
    let stage = |input: &str, place: &str| {
        format!(
            "[command.x]\nrun = ['sh', '-c', 'echo $0 $1 > $1', '{{in.i}}', '{{out.o}}']\ninputs = {{ i = '{input}' }}\n\
             outputs = {{ o = '{place}' }}\n"
        )
    };
    let space = project(&stage("a.csv", "o.png"), &[("a.csv", "same\n"), ("a.txt", "same\n"), ("b/c.csv", "same\n")]);
    space.run(&[]).ok();
    assert_eq!(started(&space, &stage("a.csv", "o.jpg")), ["command.x"]);
    assert_eq!(text(&space, "o.jpg"), "in/i.csv out/o.jpg\n");
    assert_eq!(started(&space, &stage("a.txt", "o.jpg")), ["command.x"]);
    assert_eq!(text(&space, "o.jpg"), "in/i.txt out/o.jpg\n");
    // Where either lies says nothing, if its name is given to the command.
    assert_eq!(started(&space, &stage("b/c.csv", "elsewhere/p.png")), NONE);
    assert_eq!(text(&space, "elsewhere/p.png"), "in/i.csv out/o.png\n");
}

#[test]
fn what_changes_no_result_runs_nothing() {
    let stages = "[command.up]\nrun = 'tr a-z A-Z < {in.a} > {out.o}'\ninputs = { a = 'a.txt' }\nparams = { x = 1, y = 0.5 }\n\
                  outputs = { o = 'up.txt' }\n[command.twice]\nrun = ['cat', '{in.a}', '{in.b}']\n\
                  inputs = { a = 'command.up/o', b = 'a.txt' }\n";
    let space = project(stages, &[("a.txt", "one\n")]);
    space.run(&[]).ok();
    let (up, twice) = stages.split_once("[command.twice]").unwrap();
    let twice = format!("[command.twice]{twice}");
    for (what, text) in [
        ("spaces and comments", stages.replace(" = ", "  =   ").replace("\n[", "\n# a comment\n[")),
        ("the order of stages", format!("{twice}{up}")),
        (
            "the order of keys",
            stages
                .replace("x = 1, y = 0.5", "y = 0.5, x = 1")
                .replace("a = 'command.up/o', b = 'a.txt'", "b = 'a.txt', a = 'command.up/o'"),
        ),
        ("another spelling", stages.replace("0.5", "5e-1").replace("x = 1", "x = 0x1").replace('\'', "\"")),
        ("tables instead of lines", stages.replace("inputs = { a = 'a.txt' }\n", "inputs.a = 'a.txt'\n")),
        ("names of stages", stages.replace("up", "upper")),
        ("resources", format!("{stages}resources = {{ cpus = 1, memory = '1MiB', timeout = '1h', priority = 3 }}\n")),
        ("places", stages.replace("'up.txt'", "'elsewhere/up.txt'")),
        ("defaults written out", format!("{stages}env = []\nresume = false\ncache = true\n")),
    ] {
        assert_ne!(text, stages, "{what}");
        assert_eq!(started(&space, &text), NONE, "{what}");
    }
}
