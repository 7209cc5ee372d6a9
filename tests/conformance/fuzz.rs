//! Runs killed at random moments, then a run that is let be: always the same results, and nothing left behind.
//!
//! `HASHPIPE_FUZZ_ROUNDS=300` plays so many rounds instead of as many as fit in ten seconds; `HASHPIPE_FUZZ_SEED`
//! repeats what a failure has printed.

use crate::scene::{Going, processes, processes_like, states, wait_for_none};
use crate::space::Space;
use hashpipe::seeded::{Stream, stream};
use nix::sys::signal::{Signal, kill};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Commands with files, folders, a sweep and something to resume from, and a tiny training that others follow. No pipes:
/// a shell does not tell that a program in the middle of one was killed.
const STAGES: &str = r#"
name = "small"

[command.words]
run = "set -e; seq 1 {param.n} > {out.list}; mkdir -p {out.folder}/sub; seq 1 50 > all; split -l 5 all {out.folder}/sub/part-"
params = { n = [300, 500] }
outputs = { list = "results/{param.n}.txt", folder = "results/parts-{param.n}" }

[command.sum]
run = ["awk", "{s += $1} END {print s}", "{in.list}"]
inputs = { list = "command.words/list" }

[command.kept]
run = '''
set -e
i=$(cat $HASHPIPE_RESUME_DIR/i || echo 0)
while [ $i -lt 20 ]; do i=$((i+1)); echo $i > $HASHPIPE_RESUME_DIR/new; mv $HASHPIPE_RESUME_DIR/new $HASHPIPE_RESUME_DIR/i; done
sort -n {in.folder}/sub/* > {out.sorted}; echo $i >> {out.sorted}
'''
inputs = { folder = "command.words@params.n=300/folder" }
resume = true
outputs = { sorted = "results/sorted.txt" }

[lists.shapes]
dataset = { name = "shapes", train = 12, query = 4, database = 8, size = 32, seed = 1 }

[train.net]
list = "lists.shapes/train"
bits = 8
epochs = 12
batch = 6
backbone = { name = "small", channels = [4, 8], width = 16, dropout = 0.5 }
optimizer = { name = "sgd", lr = 0.001 }
transform = { resize = 28, crop = 24 }

[encode.query]
model = "train.net/model"
list = "lists.shapes/query"

[command.size]
run = "set -e; wc -c < {in.codes} > {out.bytes}; cat {in.sorted} >> {out.bytes}"
inputs = { codes = "encode.query/codes", sorted = "command.kept/sorted" }
outputs = { bytes = "results/bytes.txt" }
"#;

/// The digest of every output of every task, and of every file that a person finds.
fn results(space: &Space) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for task in states(space, &[]).keys() {
        let record = space.record(task);
        let varies = record["varies"].as_array().cloned().unwrap_or_default();
        for (name, object) in record["outputs"].as_object().unwrap() {
            if !varies.contains(&name.as_str().into()) {
                found.insert(format!("{task}/{name}"), object["digest"].as_str().unwrap().to_string());
            }
        }
    }
    for path in files(&space.path("results")) {
        let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
        found.insert(path.strip_prefix(space.path("")).unwrap().display().to_string(), digest);
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut next) = (vec![], vec![folder.to_path_buf()]);
    while let Some(folder) = next.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { next.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Every object is what its name says, every record is whole, and nothing was damaged.
fn assert_whole(space: &Space) {
    let verified = space.hashpipe(&["cache", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    // Folders in `tmp` and locks of finished keys may be left by who was killed while tidying up; `cache gc` removes them.
    assert_eq!(files(&space.path("cache/v2/damaged")), Vec::<PathBuf>::new());
}

/// Whom a round kills.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Runner,
    /// The runner and all that it started, in one go.
    All,
    /// The process of one task.
    Task,
    /// A program that a task has started.
    Program,
}

impl Victim {
    fn drawn(lot: &mut Stream) -> Self {
        [Self::Runner, Self::Runner, Self::All, Self::Task, Self::Program][lot.below(5)]
    }

    fn kill(self, space: &Space, run: &Going, lot: &mut Stream) {
        let tasks = processes_like(space, "exec");
        let of_runner = |pid: &nix::unistd::Pid| *pid == run.pid() || tasks.contains(pid);
        let programs: Vec<_> = processes(space).into_iter().filter(|pid| !of_runner(pid)).collect();
        let victims = match self {
            Self::Runner => vec![run.pid()],
            Self::All => [vec![run.pid()], tasks, programs].concat(),
            Self::Task if !tasks.is_empty() => vec![tasks[lot.below(tasks.len())]],
            Self::Program if !programs.is_empty() => vec![programs[lot.below(programs.len())]],
            Self::Task | Self::Program => vec![],
        };
        // Some may have ended by themselves.
        for pid in victims {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Kills a run or several at random moments, then lets one be. Gives how many were killed before their end.
fn round(seed: u64, number: u64, whole: Duration, expected: &BTreeMap<String, String>) -> usize {
    let mut lot = stream(seed, "fuzz", &[number]);
    let space = Space::empty();
    space.write("p.toml", STAGES);
    let mut killed = 0;
    for _ in 0..=lot.below(3) {
        let victim = Victim::drawn(&mut lot);
        let moment = whole.mul_f64(lot.range(0.0, 1.1));
        let run = Going::start(&space, &["--jobs", ["1", "2", "4"][lot.below(3)]]);
        // No event to wait for: any moment will do, and the more there are the better.
        std::thread::sleep(moment);
        victim.kill(&space, &run, &mut lot);
        let ended = run.end();
        killed += usize::from(ended.code != 0);
        wait_for_none(&space);
    }
    let last = Going::start(&space, &[]).end();
    assert_eq!(last.code, 0, "{}{}", last.stdout, last.stderr);
    wait_for_none(&space);
    assert!(states(&space, &[]).values().all(|(state, _)| state == "cached"));
    assert_eq!(results(&space), *expected);
    assert_whole(&space);
    assert_eq!(space.run(&[]).ok().tasks("start"), [""; 0]);
    killed
}

#[test]
#[expect(clippy::print_stdout, reason = "a random test must say how to repeat it")]
fn a_killed_run_is_made_good_by_the_next() {
    const ENOUGH: Duration = Duration::from_secs(10);
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("HASHPIPE_FUZZ_ROUNDS");
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let seed = number("HASHPIPE_FUZZ_SEED").unwrap_or_else(|| now() as u64 % 1_000_000);
    let space = Space::empty();
    space.write("p.toml", STAGES);
    let started = Instant::now();
    assert_eq!(Going::start(&space, &[]).end().code, 0);
    let (whole, expected) = (started.elapsed(), results(&space));
    assert!(
        expected.contains_key("results/sorted.txt") && expected.contains_key("encode.query/codes"),
        "{expected:#?}"
    );
    let (mut played, mut killed, started) = (0, 0, Instant::now());
    while rounds.map_or(started.elapsed() < ENOUGH, |rounds| played < rounds) {
        println!("HASHPIPE_FUZZ_SEED={seed}, round {played}");
        killed += round(seed, played, whole, &expected);
        played += 1;
    }
    println!("{played} rounds with seed {seed}: {killed} runs did not end well, all were made good");
    assert!(killed > 0 || played < 3, "no run was killed");
}
