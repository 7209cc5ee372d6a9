//! What a command must have written, where that is put, and what is refused before anything runs.

use crate::scene::{project, state, text, write_stages};

const X: &str = "command.x";

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
