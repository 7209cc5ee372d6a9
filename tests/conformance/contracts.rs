//! What a command must have written, where that is put, and what is refused before anything runs.

use crate::scene::{assert_not_cached, project, state, text, write_stages};

const X: &str = "command.x";

#[test]
fn outputs_that_are_not_what_was_promised_are_a_failure_of_their_own() {
    for (run, told) in [
        ("true", "did not write `o` at `out/o.json`"),
        ("ln -s /etc/hostname {out.o}", "the output `o` is a symbolic link"),
        ("ln -s /nowhere {out.o}", "the output `o` is a symbolic link"),
        ("mkdir {out.o}; ln -s /etc/hostname {out.o}/x", "is not a file"),
        ("mkdir {out.o}; mkfifo {out.o}/x", "is not a file"),
        ("mkdir {out.o}; ln -s /nowhere {out.o}/x", "is not a file"),
        ("mkdir {out.o}; ln -s /etc {out.o}/x", "is not a file"),
        ("mkfifo {out.o}", "is not a file"),
        ("echo not json > {out.o}", "the metrics `o` are not a JSON object"),
        ("echo [1] > {out.o}", "the metrics `o` are not a JSON object"),
    ] {
        let metrics = if run.starts_with("echo") { "metrics = 'o'\n" } else { "" };
        let space = project(
            &format!("[command.x]\nrun = 'echo {{out.o}}; {run}'\n{metrics}outputs = {{ o = 'o.json' }}\n"),
            &[],
        );
        let ended = space.run(&[]);
        assert_eq!(ended.code, 7, "{run}: {}", ended.stdout);
        assert!(ended.stdout.contains(told), "{run}: {}", ended.stdout);
        assert_not_cached(&space, X, "o.json");
        assert_eq!(state(&space, X), "failed");
        write_stages(&space, "[command.x]\nrun = 'echo {} > {out.o}'\nmetrics = 'o'\noutputs = { o = 'o.json' }\n");
        assert_eq!((space.run(&[]).ok().tasks("done"), text(&space, "o.json").as_str()), (vec![X.to_string()], "{}\n"));
    }
}

#[test]
fn a_sweep_makes_a_task_for_each_value_and_runs_only_new_ones() {
    let stage = |dims: &str| {
        format!(
            "[command.make]\nrun = 'echo {{param.dim}} {{param.sign}} > {{out.o}}'\nparams = {{ dim = {dims}, sign = ['+', '-'] }}\n\
             outputs = {{ o = 'r/{{param.dim}}{{param.sign}}.txt' }}\n\
             [command.use]\nrun = 'sed s/^/used:/ {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.make/o' }}\n\
             outputs = {{ o = 'used/{{params.dim}}{{params.sign}}.txt' }}\n"
        )
    };
    let space = project(&stage("[16, 32]"), &[]);
    assert_eq!(space.run(&[]).ok().tasks("start").len(), 8);
    write_stages(&space, &stage("[32, 64]"));
    let started = space.run(&[]).ok().tasks("start");
    assert_eq!(started.len(), 4, "{started:?}");
    assert!(started.iter().all(|task| task.contains("params.dim=64")), "{started:?}");
    assert_eq!((text(&space, "r/16+.txt"), text(&space, "used/64-.txt")), ("16 +\n".into(), "used:64 -\n".into()));
}

#[test]
fn two_outputs_at_one_place_are_refused() {
    let stage = |name: &str, place: &str| {
        format!("[command.{name}]\nrun = 'echo {name} > {{out.o}}'\noutputs = {{ o = '{place}' }}\n")
    };
    let swept = |place: &str| {
        format!(
            "[command.x]\nrun = 'echo {{param.k}} > {{out.o}}'\nparams = {{ k = [1, 2] }}\noutputs = {{ o = '{place}' }}\n"
        )
    };
    let reads = |input: &str| format!("[command.z]\nrun = 'ls {{in.i}}'\ninputs = {{ i = '{input}' }}\n");
    let made = "made by `command.a`";
    for (stages, told) in [
        ([stage("a", "r/o"), stage("b", "r/o")], "two tasks put an output at `r/o`"),
        ([stage("a", "r/o"), stage("b", "./r/o")], "two tasks put an output at"),
        ([stage("a", "r"), stage("b", "r/o")], "`r/o` lies inside of another output"),
        ([stage("a", "r/x/y"), stage("b", "r")], "`r/x/y` lies inside of another output"),
        ([swept("r/o"), String::new()], "two tasks put an output at `r/o`"),
        ([stage("a", "r/o"), reads("r/o")], made),
        ([stage("a", "r"), reads("r/o")], "`r/o` of `command.z` lies in what `command.a` makes"),
        ([stage("a", "r/x/o"), reads("r")], "`r` of `command.z` is a folder in which lies what `command.a` makes"),
    ] {
        let space = project(&stages.concat(), &[]);
        let ended = space.run(&[]);
        assert!(ended.code == 2 && ended.stderr.contains(told), "{told}: {}", ended.stderr);
        assert!(!space.path("cache").exists() && ended.stderr.contains("p.toml:"), "{}", ended.stderr);
    }
    let apart = [stage("a", "r/o"), stage("b", "r/oo"), stage("c", "r/p/q"), swept("r/{param.k}"), reads("rr")];
    project(&apart.concat(), &[("rr", "")]).run(&[]).ok();
}

#[test]
fn a_file_in_the_place_of_an_output_makes_way_and_is_kept() {
    let space =
        project("[command.x]\nrun = 'echo made > {out.o}'\noutputs = { o = 'o.txt' }\n", &[("o.txt", "my own\n")]);
    let ended = space.run(&[]).ok();
    assert!(ended.stderr.contains("moved to"), "{}", ended.stderr);
    assert_eq!((text(&space, "o.txt"), text(&space, "o.txt.before-1")), ("made\n".into(), "my own\n".into()));
}

#[test]
fn a_command_that_may_not_be_cached_runs_every_time() {
    let space = project("[command.x]\nrun = 'echo x > {out.o}'\ncache = false\noutputs = { o = 'o.txt' }\n", &[]);
    for _ in 0..2 {
        assert_eq!(space.run(&[]).ok().tasks("start"), [X]);
        assert_eq!(state(&space, X), "uncacheable");
    }
}

#[test]
fn what_an_output_links_to_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let space = project("", &[("own/a.txt", "mine\n"), ("b.txt", "mine\n")]);
    let mode = |name: &str| space.path(name).metadata().unwrap().permissions().mode() & 0o777;
    let before = (mode("own/a.txt"), mode("b.txt"));
    let own = |name: &str| space.path(name).display().to_string();
    let run = |what: &str| {
        write_stages(&space, &format!("[command.x]\nrun = '{what}'\noutputs = {{ o = 'o' }}\n"));
        space.run(&[]).code
    };
    assert_eq!(run(&format!("mkdir {{out.o}}; ln -s {} {{out.o}}/x", own("own"))), 7);
    assert_eq!(run(&format!("ln {} {{out.o}}", own("b.txt"))), 0);
    assert_eq!((mode("own/a.txt"), mode("b.txt")), before, "files of the user's are no outputs");
    space.write("b.txt", "edited\n");
    assert_eq!((space.run(&[]).ok().tasks("start").len(), text(&space, "o").as_str()), (0, "mine\n"));
}
