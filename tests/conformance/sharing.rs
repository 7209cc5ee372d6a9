//! Threads, memory and GPUs: who gets them, in which order, and what can never be had.

use crate::scene::{Gate, Going, count, project, tally, text, wait_for, write_stages};
use crate::space::Space;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

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
fn all_gpus_of_a_task_are_told_wherever_one_is() {
    let space = Space::empty();
    let gates = waiting(&space, &[("both", "gpus = 2, priority = 1"), ("one", "gpus = 1"), ("none", "")]);
    let run = Going::of(&space, with_gpus(&space, "3x24G", &[]));
    gates.iter().map(Gate::reached).collect::<Vec<_>>().into_iter().for_each(crate::scene::Reached::open);
    let ended = run.end();
    assert_eq!(ended.code, 0);
    let told = |name: &str| {
        let start = |event: &Value| event["event"] == "start" && event["task"] == format!("command.{name}");
        let event = ended.json().into_iter().find(start).unwrap();
        (event["gpu"].clone(), event["gpus"].clone())
    };
    // Who reads only the first finds it where it was.
    assert_eq!(told("both"), (0.into(), vec![0, 1].into()));
    assert_eq!(told("one"), (2.into(), Value::Null));
    assert_eq!(told("none"), (Value::Null, Value::Null));
    let run = &ended.json()[0]["run"];
    let record = format!("cache/v2/runs/{}/run.json", run.as_str().unwrap());
    let record: Value = serde_json::from_str(&text(&space, &record)).unwrap();
    let tasks = record["tasks"].as_array().unwrap().iter();
    let gpus: BTreeSet<(String, String)> =
        tasks.map(|task| (task["name"].to_string(), task["gpus"].to_string())).collect();
    let expected = [("both", "[0,1]"), ("none", "[]"), ("one", "[2]")];
    assert_eq!(gpus, expected.map(|(name, gpus)| (format!("\"command.{name}\""), gpus.to_string())).into());
    let trace: Value = serde_json::from_str(&space.hashpipe(&["trace"]).ok().stdout).unwrap();
    let slices =
        trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X" && event["pid"] == 3);
    let rows: BTreeSet<(String, u64)> =
        slices.map(|slice| (slice["name"].as_str().unwrap().to_string(), slice["tid"].as_u64().unwrap())).collect();
    let expected = [("both", 0), ("both", 1), ("one", 2)];
    assert_eq!(rows, expected.map(|(name, gpu)| (format!("command.{name}"), gpu)).into());
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
fn memory_of_gpus_is_shared_out_with_what_others_use_left_to_them() {
    let space = Space::empty();
    let (part, last) = ("gpu_memory = '8GiB', priority = 1", "gpu_memory = '8GiB'");
    let gates = waiting(&space, &[("a", part), ("b", part), ("c", part), ("d", part), ("e", last)]);
    // Of 24 GiB on each card others use 6: two of 8 fit, and not three.
    let run = Going::of(&space, with_gpus(&space, "2x24G:6G", &[]));
    let mut at: Vec<_> = gates[..4].iter().map(Gate::reached).collect();
    assert_eq!(starts(&run), set(&["a", "b", "c", "d"]));
    at.remove(0).open();
    gates[4].reached().open();
    at.into_iter().for_each(crate::scene::Reached::open);
    assert_eq!(run.end().code, 0);
    let mut seen: Vec<String> = ["a", "b", "c", "d"].map(|name| text(&space, &format!("{name}.txt"))).to_vec();
    seen.sort();
    assert_eq!(seen, ["<0>\n", "<0>\n", "<1>\n", "<1>\n"]);
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

#[test]
fn who_does_not_need_what_is_scarce_does_not_wait_for_it() {
    let space = Space::empty();
    let gpu = ["gpus = 1, priority = 9", "gpus = 1, priority = 8", "gpus = 1, priority = 7"];
    let gates = waiting(&space, &[("a", gpu[0]), ("b", gpu[1]), ("c", gpu[2]), ("free", "cpus = 1")]);
    let run = Going::of(&space, with_gpus(&space, "24G", &[]));
    let at = gates[0].reached();
    gates[3].reached().open();
    run.wait_for_event("done", "command.free");
    assert_eq!(starts(&run), set(&["a", "free"]));
    at.open();
    gates[1].reached().open();
    gates[2].reached().open();
    assert_eq!(run.end().code, 0);
}

#[test]
fn main_memory_is_not_given_twice() {
    let space = Space::empty();
    let part = ["memory = '6GiB', priority = 2", "memory = '6GiB', priority = 1"];
    let gates = waiting(&space, &[("a", part[0]), ("b", part[1]), ("c", "memory = '3GiB'")]);
    let host = ["--set", "resources.host.memory=\"10GiB\""];
    let run = Going::of(&space, with_gpus(&space, "0", &host));
    let (first, third) = (gates[0].reached(), gates[2].reached());
    assert_eq!(starts(&run), set(&["a", "c"]));
    first.open();
    gates[1].reached().open();
    third.open();
    assert_eq!(run.end().code, 0);
}

#[test]
fn what_can_never_be_had_is_told_before_anything_runs() {
    for (wants, told) in [
        ("gpus = 3", "it wants 3 GPUs"),
        ("gpu_memory = '30GiB'", "it wants a GPU with 30 GiB"),
        ("cpus = 99", "it wants 99 threads"),
        ("memory = '900TiB'", "it wants 900 TiB of memory"),
    ] {
        let space = project("", &[]);
        let run = tally(&space, "runs");
        write_stages(
            &space,
            &format!(
                "[command.first]\nrun = '{run}; : > {{out.o}}'\noutputs = {{ o = '' }}\n\
                 [command.second]\nrun = 'cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.first/o' }}\noutputs = {{ o = '' }}\n\
                 resources = {{ {wants} }}\n"
            ),
        );
        let ended = Going::of(&space, with_gpus(&space, "2x24G", &[])).end();
        assert_eq!(
            (ended.code, ended.tasks("start").len(), count(&space, "runs")),
            (6, 0, 0),
            "{wants}: {}",
            ended.stderr
        );
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(
            said.contains("`command.second` can never run on this machine") && said.contains(told),
            "{wants}: {said}"
        );
    }
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

/// Runs one command alone and holds it until it has taken so long.
fn record_time(space: &Space, gate: &Gate, task: &str, at_least: f64) -> f64 {
    let run = Going::start(space, &["--only", task, "--force", task]);
    let at = gate.reached();
    let since = Instant::now();
    wait_for("time to pass", || (since.elapsed().as_secs_f64() >= at_least).then_some(()));
    at.open();
    let ended = run.end().ok();
    let done = ended.json().into_iter().find(|event| event["event"] == "done" && event["task"] == task).unwrap();
    done["seconds"].as_f64().unwrap()
}

#[test]
fn the_longest_way_to_the_end_begins_first_by_what_it_took_before() {
    let space = Space::empty();
    let names = ["alone", "head", "tail"];
    let gates = names.map(|name| Gate::new(&space, &format!("gate-{name}")));
    let stage = |i: usize, inputs: &str| {
        format!("[command.{}]\nrun = '{}; : > {{out.o}}'\n{inputs}outputs = {{ o = '' }}\n", names[i], gates[i].wait())
    };
    write_stages(&space, &[stage(0, ""), stage(1, ""), stage(2, "inputs = { i = 'command.head/o' }\n")].concat());
    // Which of the two that are ready at the start comes first.
    let first = || -> Value {
        let run = Going::start(&space, &["--jobs", "1", "--force", "command"]);
        run.wait_for("a first start", |event| event["event"] == "start")["task"].clone()
    };
    // One alone that takes longer than the head of a chain, and not as long as the whole chain.
    let head = record_time(&space, &gates[1], "command.head", 0.0);
    let alone = record_time(&space, &gates[0], "command.alone", 1.5 * head);
    record_time(&space, &gates[2], "command.tail", 1.5 * alone);
    assert_eq!(first(), "command.head");
    // The same pipeline with other times before it.
    let head = record_time(&space, &gates[1], "command.head", 0.0);
    let tail = record_time(&space, &gates[2], "command.tail", 0.0);
    record_time(&space, &gates[0], "command.alone", 2.0 * (head + tail));
    assert_eq!(first(), "command.alone");
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
