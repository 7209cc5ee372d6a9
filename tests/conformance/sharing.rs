//! Threads, memory and GPUs: who gets them, in which order, and what can never be had.

use crate::scene::{Gate, Going, count, project, text, write_stages};
use crate::space::Space;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::process::Command;

/// `run` on a machine with these GPUs.
fn with_gpus(space: &Space, gpus: &str, more: &[&str]) -> Command {
    let mut command = space.command(&[&["run", "p.toml", "--json", "--jobs", "8"], more].concat());
    command.env("HASHPIPE_FAKE_GPUS", gpus);
    command
}

/// Commands that each stand at a gate of their own, want something, and write what they see of GPUs.
fn waiting(space: &Space, wants: &[(&str, &str)]) -> Vec<Gate> {
    let gates: Vec<Gate> = wants.iter().map(|(name, _)| Gate::new(space, &format!("gate-{name}"))).collect();
    let stages = wants.iter().zip(&gates).map(|((name, wants), gate)| {
        format!(
            "[command.{name}]\nrun = 'echo \"<$CUDA_VISIBLE_DEVICES>\" > {{out.o}}; {}'\nresources = {{ {wants} }}\noutputs = {{ o = '{name}.txt' }}\n",
            gate.wait()
        )
    });
    write_stages(space, &stages.collect::<String>());
    gates
}

fn starts(run: &Going) -> BTreeSet<String> {
    run.started().into_iter().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("command.{name}")).collect()
}

#[test]
fn every_task_sees_its_own_gpus_and_one_without_sees_none() {
    let space = Space::empty();
    let gates = waiting(&space, &[("one", "gpus = 1"), ("two", "gpus = 1"), ("none", ""), ("zero", "gpus = 0")]);
    let mut command = with_gpus(&space, "2x24G", &[]);
    let run = Going::of(&space, {
        command.env("CUDA_VISIBLE_DEVICES", "7");
        command
    });
    gates.iter().map(Gate::reached).collect::<Vec<_>>().into_iter().for_each(crate::scene::Reached::open);
    assert_eq!(run.end().code, 0);
    let seen = ["one", "two", "none", "zero"].map(|name| text(&space, &format!("{name}.txt")));
    let own: BTreeSet<&str> = seen[..2].iter().map(|text| text.trim()).collect();
    assert_eq!((own, &seen[2..]), (BTreeSet::from(["<0>", "<1>"]), &["<>\n".to_string(), "<>\n".to_string()][..]));
    // Both at once for one that wants both.
    let gates = waiting(&space, &[("both", "gpus = 2")]);
    let run = Going::of(&space, with_gpus(&space, "2x24G", &[]));
    gates[0].reached().open();
    assert_eq!((run.end().code, text(&space, "both.txt").as_str()), (0, "<0,1>\n"));
}

#[test]
fn a_task_waits_for_others_to_leave_a_gpu_and_says_so() {
    let space = Space::empty();
    let gates = waiting(&space, &[("a", "gpu_memory = '20GiB'"), ("b", "")]);
    let run = Going::of(&space, with_gpus(&space, "24G:6G", &[]));
    gates[1].reached().open();
    let told = run.wait_for("a to wait", |event| event["event"] == "progress" && event["task"] == "command.a");
    assert_eq!(told["note"], "waits for GPU memory that others use");
    run.wait_for_event("done", "command.b");
    run.signal(Signal::SIGINT);
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("start")), (130, vec!["command.b".to_string()]));
}

/// A command that runs out of GPU memory unless it was tried before, and says which try it is.
fn greedy(space: &Space, succeeds: bool) {
    let tries = space.path("tries");
    let again = if succeeds { "test $n -gt 1" } else { "false" };
    write_stages(
        space,
        &format!(
            "[command.greedy]\nrun = '''echo x >> {0}; n=$(wc -l < {0}); echo try $n; {again} || {{ echo CUDA out of memory; exit 1; }}\n\
             echo {{param.k}} > {{out.o}}'''\nparams = {{ k = 1 }}\nresources = {{ gpu_memory = '4GiB' }}\noutputs = {{ o = 'o.txt' }}\n",
            tries.display()
        ),
    );
}

#[test]
fn out_of_gpu_memory_is_tried_once_more_alone_and_remembered() {
    let space = Space::empty();
    greedy(&space, true);
    let ended = Going::of(&space, with_gpus(&space, "24G", &[])).end();
    assert_eq!((ended.code, count(&space, "tries")), (0, 2), "{}", ended.stderr);
    assert_eq!((ended.tasks("retry").len(), ended.tasks("start").len(), ended.tasks("failed").len()), (1, 2, 0));
    let log = |more: &[&str]| space.hashpipe(&[&["log", "command.greedy"], more].concat()).ok().stdout;
    assert!(log(&[]).contains("try 2") && log(&["--attempt", "1"]).contains("try 1"));

    // Under another key it gets a card of its own at once: what could be beside it waits.
    let gates = waiting(&space, &[("beside", "gpu_memory = '4GiB', priority = -1")]);
    let beside = text(&space, "p.toml");
    greedy(&space, true);
    let held = Gate::new(&space, "held");
    let stages = text(&space, "p.toml").replace("echo {param.k}", &format!("{}; echo {{param.k}}", held.wait()));
    space.write("p.toml", format!("{stages}{}", beside.split_once('\n').unwrap().1));
    let run = Going::of(&space, with_gpus(&space, "24G", &[]));
    let at = held.reached();
    assert_eq!(starts(&run), set(&["greedy"]));
    at.open();
    gates[0].reached().open();
    assert_eq!(run.end().code, 0);
    assert!(log(&[]).contains("try 3"), "the log of its first attempt in this run");
}

#[test]
fn out_of_gpu_memory_alone_is_a_failure() {
    let space = Space::empty();
    greedy(&space, false);
    let ended = Going::of(&space, with_gpus(&space, "24G", &[])).end();
    assert_eq!((ended.code, count(&space, "tries"), ended.tasks("failed").len()), (1, 2, 1), "{}", ended.stderr);
}

#[test]
fn priority_comes_before_length() {
    let space = project(
        "[command.a]\nrun = ': > {out.o}'\noutputs = { o = '' }\n[command.b]\nrun = 'cat {in.i} > {out.o}'\ninputs = { i = 'command.a/o' }\n\
         outputs = { o = '' }\n[command.z]\nrun = ': > {out.o}'\noutputs = { o = '' }\nresources = { priority = 1 }\n",
        &[],
    );
    let events = space.run(&["--jobs", "1"]).ok().json();
    let first = events.into_iter().find(|event| event["event"] == "start").unwrap();
    assert_eq!(first["task"], "command.z");
}
