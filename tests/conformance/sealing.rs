//! What a command sees: what it declares and nothing else, and all of that is in its key.

use crate::scene::{project, text, write_stages};
use crate::space::{Ended, Space};
use std::os::unix::fs::PermissionsExt as _;

const NONE: [&str; 0] = [];

/// `run` with variables set.
fn run_with(space: &Space, variables: &[(&str, &str)]) -> Ended {
    let mut command = space.command(&["run", "p.toml", "--json"]);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }.ok()
}

#[test]
fn variables_that_are_not_declared_are_not_seen() {
    let space = project("[command.x]\nrun = 'env > {out.o}'\noutputs = { o = 'env.txt' }\n", &[]);
    run_with(
        &space,
        &[("COLOUR", "red"), ("HASHPIPE_JOBS", "1"), ("LANG", "xx_XX"), ("LC_TIME", "xx"), ("PYTHONPATH", "/x")],
    );
    let seen = text(&space, "env.txt");
    let mut names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    let allowed = [
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "HOME",
        "LC_ALL",
        "LOGNAME",
        "OLDPWD",
        "OMP_NUM_THREADS",
        "PATH",
        "PWD",
        "SHELL",
        "SHLVL",
        "TMPDIR",
        "USER",
        "_",
    ];
    let odd: Vec<&&str> = names.iter().filter(|name| !allowed.contains(name)).collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert!(seen.contains("LC_ALL=C.UTF-8\n"), "{seen}");
    assert_eq!(run_with(&space, &[("COLOUR", "blue")]).tasks("start"), NONE);
}

#[test]
fn declared_variables_are_seen_and_are_in_the_key() {
    let stage = "[command.x]\nrun = 'echo ${COLOUR-none} > {out.o}'\nenv = ['COLOUR']\noutputs = { o = 'o.txt' }\n";
    let space = project(stage, &[]);
    let run = |variables: &[(&str, &str)]| (run_with(&space, variables).tasks("start").len(), text(&space, "o.txt"));
    assert_eq!(run(&[("COLOUR", "red")]), (1, "red\n".into()));
    assert_eq!(run(&[("COLOUR", "blue")]), (1, "blue\n".into()));
    assert_eq!(run(&[("COLOUR", "")]), (1, "\n".into()));
    assert_eq!(run(&[]), (1, "none\n".into()), "not set is not empty");
    assert_eq!(run(&[("COLOUR", "red")]), (0, "red\n".into()));
    // The value may be a secret: it stands nowhere in the cache.
    run_with(&space, &[("COLOUR", "hunter2")]);
    std::fs::remove_file(space.object("command.x", "o")).unwrap();
    let found =
        std::process::Command::new("grep").args(["-r", "hunter2", "cache"]).current_dir(space.path("")).output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
}

fn write_program(space: &Space, name: &str, script: &str) {
    space.write(name, format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(space.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_script_and_a_program_are_in_the_key_by_content() {
    let space = project(
        "[command.script]\nrun = ['sh', 'tool.sh', '{out.o}']\ninputs = { script = 'tool.sh' }\noutputs = { o = 'script.txt' }\n\
         [command.program]\nrun = ['bin/tool', '{out.o}']\noutputs = { o = 'program.txt' }\n",
        &[],
    );
    let write = |word: &str| {
        write_program(&space, "tool.sh", &format!("echo {word} > $1"));
        write_program(&space, "bin/tool", &format!("echo {word} > $1"));
    };
    write("one");
    space.run(&[]).ok();
    write("two");
    let changed = space.run(&[]).ok();
    assert_eq!(changed.tasks("start"), ["command.program", "command.script"]);
    assert_eq!((text(&space, "script.txt"), text(&space, "program.txt")), ("two\n".into(), "two\n".into()));
    assert!(changed.stdout.contains("`program` has new content"), "{}", changed.stdout);
    write("one");
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
}

#[test]
fn which_program_a_name_means_is_in_the_key() {
    let space = project("[command.x]\nrun = ['some-tool', '{out.o}']\noutputs = { o = 'o.txt' }\n", &[]);
    write_program(&space, "one/some-tool", "echo one > $1");
    write_program(&space, "two/some-tool", "echo two > $1");
    let path = std::env::var("PATH").unwrap();
    let run = |first: &str| {
        let found = format!("{}:{path}", space.path(first).display());
        let started = run_with(&space, &[("PATH", &found)]).tasks("start").len();
        (started, text(&space, "o.txt"))
    };
    assert_eq!(run("one"), (1, "one\n".into()));
    assert_eq!(run("two"), (1, "two\n".into()));
    assert_eq!(run("one"), (0, "one\n".into()));
    let ended = space.run(&[]);
    assert!(ended.code == 2 && ended.stderr.contains("there is no program `some-tool`"), "{}", ended.stderr);
}

#[test]
fn what_is_not_declared_is_not_there() {
    let space = project(
        "[command.x]\nrun = ': > {out.o}; find . -type l -o -type f | sort > {out.o}; cat data/a.txt >> {out.o}'\n\
         inputs = { a = 'data/a.txt', up = 'command.up/o' }\noutputs = { o = 'o.txt' }\n\
         [command.up]\nrun = 'echo 1 > {out.o}'\noutputs = { o = 'up/o.csv' }\n",
        &[("data/a.txt", "a\n"), ("data/b.txt", "b\n"), ("c.txt", "c\n")],
    );
    space.run(&[]).ok();
    assert_eq!(text(&space, "o.txt"), "./data/a.txt\n./in/a.txt\n./in/up.csv\n./out/o.txt\n./up/o.csv\na\n");
    write_stages(
        &space,
        "[command.x]\nrun = 'cat data/b.txt > {out.o}'\ninputs = { a = 'data/a.txt' }\noutputs = { o = 'o.txt' }\n",
    );
    assert_eq!(space.run(&[]).code, 1, "forgetting an input fails at once");
}

#[test]
fn equal_work_elsewhere_gives_equal_bytes() {
    let stage = "[command.x]\nrun = 'echo $0 {in.a} {out.o} {param.k} > {out.o}'\ninputs = { a = 'a.txt' }\nparams = { k = 1 }\noutputs = { o = 'o.txt' }\n";
    let spaces = ["x", "x"].map(|content| project(stage, &[("a.txt", content)]));
    let keys = spaces.each_ref().map(|space| {
        space.run(&[]).ok();
        space.record("command.x")
    });
    assert_eq!(keys[0]["key"], keys[1]["key"], "no path of the project's is in a key");
    assert_eq!(keys[0]["outputs"], keys[1]["outputs"]);
}
