//! Threads of running tasks: lent when they are idle, asked back when a task needs them, and without a trace in results.

use crate::scene::{Gate, Going, processes, project, wait_for, write_stages};
use crate::space::Space;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const LISTS: &str =
    "[lists.l]\ndataset = { name = 'shapes', train = 40, query = 2, database = 2, size = 24, seed = 1 }\n";

/// A training that goes on until it is stopped.
fn endless(name: &str, more: &str) -> String {
    format!(
        "[train.{name}]\nlist = 'lists.l/train'\nbits = 8\nepochs = 100000\nbatch = 2\ntransform = {{ resize = 24, crop = 12 }}\n\
         backbone = {{ name = 'small', channels = [4], width = 8 }}\noptimizer = {{ name = 'sgd', lr = 0.0001 }}\n{more}"
    )
}

/// How many threads a task had, from its start on.
fn threads(run: &Going, task: &str) -> Vec<u64> {
    let told = |event: &Value| matches!(event["event"].as_str(), Some("start" | "threads")) && event["task"] == task;
    run.events().iter().filter(|event| told(event)).map(|event| event["threads"].as_u64().unwrap()).collect()
}

fn wait_for_threads(run: &Going, task: &str, expected: &[u64]) {
    wait_for(&format!("{task} to have had {expected:?} threads"), || (threads(run, task) == expected).then_some(()));
}

/// The file that describes the task of a process, if it is one.
fn description(space: &Space, pid: Pid) -> Option<PathBuf> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&str> = line.split('\0').collect();
    words.contains(&"exec").then(|| space.path(words.iter().find(|word| word.ends_with("task.json")).unwrap()))
}

/// The process that runs a task.
fn process_of(space: &Space, task: &str) -> Pid {
    let runs_it = |pid: &Pid| {
        let text = description(space, *pid).map(|path| std::fs::read_to_string(path).unwrap_or_default());
        text.is_some_and(|text| serde_json::from_str::<Value>(&text).is_ok_and(|job| job["task"] == task))
    };
    processes(space).into_iter().find(runs_it).unwrap()
}

#[test]
fn a_running_task_gets_the_threads_of_one_that_ended_and_gives_them_to_one_that_starts() {
    let space = Space::empty();
    let [one, two, after] = ["one", "two", "after"].map(|name| Gate::new(&space, name));
    let stages = format!(
        "{LISTS}{}{}[command.one]\nrun = '{}'\n[command.two]\nrun = '{}; echo 2 > {{out.o}}'\noutputs = {{ o = '' }}\n\
         [command.after]\nrun = '{}'\ninputs = {{ i = 'command.two/o' }}\nresources = {{ cpus = 2 }}\n\
         [resources]\n'train.fixed' = {{ cpus = 1 }}\n",
        endless("long", ""),
        endless("fixed", "seed = 2\n"),
        one.wait(),
        two.wait(),
        after.wait(),
    );
    write_stages(&space, &stages);
    let run = Going::start(&space, &["--jobs", "4"]);
    let at = [one.reached(), two.reached()];
    wait_for_threads(&run, "train.long", &[1]);
    wait_for_threads(&run, "train.fixed", &[1]);
    let [at_one, at_two] = at;
    at_one.open();
    wait_for_threads(&run, "train.long", &[1, 2]);
    // What needs two finds one that is idle, and waits for the other: until its borrower says that it works without it.
    let borrower = process_of(&space, "train.long");
    kill(borrower, Signal::SIGSTOP).unwrap();
    at_two.open();
    run.wait_for_event("done", "command.two");
    let turns = |run: &Going| run.events().iter().filter(|event| event["task"] == "train.fixed").count();
    let so_far = turns(&run);
    wait_for("some turns of the runner", || (turns(&run) > so_far + 5).then_some(()));
    assert_eq!(threads(&run, "command.after"), [0; 0], "never five at work");
    kill(borrower, Signal::SIGCONT).unwrap();
    let at_after = after.reached();
    wait_for_threads(&run, "train.long", &[1, 2, 1]);
    assert_eq!(threads(&run, "command.after"), [2]);
    at_after.open();
    wait_for_threads(&run, "train.long", &[1, 2, 1, 3]);
    assert_eq!(threads(&run, "train.fixed"), [1], "it said how many");
    run.signal(Signal::SIGINT);
    assert_eq!(run.end().code, 130);
}

/// A task's description, with a folder of its own for what it makes.
fn written(space: &Space, name: &str, job: &Value, threads: usize) -> (PathBuf, PathBuf) {
    let [outputs, scratch, shards] = ["outputs", "scratch", "shards"].map(|part| space.path(&format!("{name}/{part}")));
    std::fs::create_dir_all(&outputs).unwrap();
    let mut job = job.clone();
    (job["outputs"], job["scratch"], job["shards"]) = (json!(outputs), json!(scratch), json!(shards));
    job["threads"] = threads.into();
    space.write(&format!("{name}/task.json"), serde_json::to_vec(&job).unwrap());
    (space.path(&format!("{name}/task.json")), outputs)
}

/// Runs a task's process, and tells it another number of threads as soon as it works with the last one. The bytes of its
/// outputs, and how often it changed.
fn performed(
    space: &Space,
    job: &Value,
    name: &str,
    began: usize,
    wants: &[usize],
) -> (BTreeMap<String, Vec<u8>>, usize) {
    let (task, outputs) = written(space, name, job, began);
    let mut command = space.command(&["exec", task.to_str().unwrap()]);
    let command = command.env("RAYON_NUM_THREADS", began.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let (mut leash, mut wants) = (child.stdin.take().unwrap(), wants.iter().cycle());
    let mut want = move || {
        if let Some(count) = wants.next() {
            // One that has just ended hears nothing more.
            let _ = writeln!(leash, "threads {count}").and_then(|()| leash.flush());
        }
    };
    want();
    let mut changes = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let said: Value = serde_json::from_str(&line).unwrap();
        assert_ne!(said["say"], "failed", "{said}");
        if said["say"] == "threads" {
            changes += 1;
            want();
        }
    }
    assert!(child.wait().unwrap().success());
    (contents(&outputs), changes)
}

/// All files below a folder, but those that tell of times.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().to_str().unwrap().to_string();
        if entry.path().is_dir() {
            found.extend(contents(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name != "log" {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn results_do_not_tell_how_many_threads_made_them_and_when() {
    let space = project(&format!("{LISTS}{}", endless("long", "")), &[]);
    let run = Going::start(&space, &["--jobs", "1"]);
    run.wait_for_event("progress", "train.long");
    // The description of the task that is at work.
    let described = description(&space, process_of(&space, "train.long")).unwrap();
    let mut train: Value = serde_json::from_slice(&std::fs::read(described).unwrap()).unwrap();
    run.signal(Signal::SIGINT);
    assert_eq!(run.end().code, 130);

    train["params"]["epochs"] = 8.into();
    let (trained, changes) = performed(&space, &train, "train fixed", 1, &[]);
    assert_eq!(changes, 0);
    let (changed, changes) = performed(&space, &train, "train changing", 1, &[3, 1, 4, 2]);
    assert!(changes > 2, "{changes} changes");
    assert!(trained["model"] == changed["model"] && trained == changed);

    let list = train["params"]["list"].clone();
    let mut prepare = train.clone();
    prepare["kind"] = "prepare".into();
    prepare["params"] = json!({ "list": list, "resize": 12 });
    let model = space.path("train fixed/outputs/model");
    let digest = blake3::hash(&trained["model"]).to_string();
    let mut encode = train.clone();
    encode["kind"] = "encode".into();
    encode["params"] = json!({ "list": list, "model": { "$ref": "m" }, "batch": 3 });
    encode["inputs"]["m"] = json!({ "path": model, "digest": digest, "images": null, "known_as": "" });
    for (kind, job) in [("prepare", prepare), ("encode", encode)] {
        let (fixed, _) = performed(&space, &job, &format!("{kind} fixed"), 2, &[]);
        let (changed, _) = performed(&space, &job, &format!("{kind} changing"), 2, &[1, 3]);
        assert!(!fixed.is_empty() && fixed == changed, "{kind}");
    }
}
