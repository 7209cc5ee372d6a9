//! Housekeeping of the cache: nothing that is needed goes, and what is bad is found.

use crate::space::{Space, damage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A chain with a side branch; every output has some size, and the last one a place.
const CHAIN: &str = r#"
name = "small"

[command.numbers]
run = "seq {param.from} 2000 > {out.list}; mkdir {out.folder}; echo {param.from} > {out.folder}/from"
params = { from = 1 }
outputs = { list = "", folder = "" }

[command.sorted]
run = "sort -r {in.list} > {out.list}"
inputs = { list = "command.numbers/list" }
outputs = { list = "" }

[command.sum]
run = "wc -l < {in.list} > {out.sum}; cat {in.folder}/from >> {out.sum}"
inputs = { list = "command.sorted/list", folder = "command.numbers/folder" }
outputs = { sum = "results/sum.txt" }
"#;

const TASKS: [&str; 3] = ["command.numbers", "command.sorted", "command.sum"];

fn ran() -> Space {
    let space = Space::empty();
    space.write("p.toml", CHAIN);
    assert_eq!(space.run(&[]).ok().tasks("done"), TASKS);
    space
}

/// Settings that give the chain other contents.
fn from(n: usize) -> [String; 2] {
    ["--set".into(), format!("command.numbers.params.from={n}")]
}

fn run_from(space: &Space, n: usize) -> crate::space::Ended {
    let [set, value] = from(n);
    space.run(&[&set, &value])
}

/// `hashpipe cache .. --json`: the lines, the last with the sums.
fn cache(space: &Space, arguments: &[&str]) -> Vec<Value> {
    let ended = space.hashpipe(&[&["cache"], arguments, &["--json"]].concat());
    assert!([0, 5].contains(&ended.code), "{}\n{}", ended.stdout, ended.stderr);
    ended.json()
}

fn gc(space: &Space, arguments: &[&str]) -> Vec<Value> {
    cache(space, &[&["gc"], arguments].concat())
}

/// What `status` says of each task.
fn states(space: &Space) -> Vec<String> {
    let lines = space.hashpipe(&["status", "p.toml", "--json"]).ok().json();
    lines.iter().map(|line| line["state"].as_str().unwrap().to_string()).collect()
}

/// Digests of all outputs of the chain's last results.
fn digests(space: &Space) -> Vec<Value> {
    TASKS.map(|task| space.record(task)["outputs"].clone()).to_vec()
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut paths = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        paths.extend(below(&path));
        paths.push(path);
    }
    paths.sort();
    paths
}

fn objects(space: &Space) -> usize {
    let folders = std::fs::read_dir(space.path("cache/v2/objects")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

/// An object that no record names.
fn orphan(space: &Space, text: &str) -> PathBuf {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let name = format!("cache/v2/objects/{}/{digest}", &digest[..2]);
    space.write(&name, text);
    space.path(&name)
}

#[test]
fn without_limits_only_what_nothing_can_use_goes() {
    let space = ran();
    run_from(&space, 5).ok();
    let before = (states(&space), digests(&space));
    let left = orphan(&space, "left by a run that was killed before its record");
    space.write("cache/v2/tmp/1-left/outputs/x", "x");
    space.write("cache/v2/tmp/1-left.lock", "");
    space.write("cache/v2/trash/0123", "left by a gc that was killed");
    assert!(gc(&space, &[])[0]["name"].as_str().unwrap().contains("1-left"), "its lock is free");
    assert!(left.exists(), "it may be in the making");
    gc(&space, &["--grace", "1ms"]);
    assert!(!left.exists());
    for folder in ["tmp", "trash", "claims"] {
        assert_eq!(below(&space.path("cache/v2").join(folder)).len(), 0, "{folder}");
    }
    assert_eq!((states(&space), digests(&space)), before);
    for n in [1, 5] {
        assert_eq!(run_from(&space, n).ok().tasks("start"), [""; 0]);
    }
}

#[test]
fn what_was_given_up_is_made_again_with_equal_bytes() {
    let space = ran();
    let (before, sum) = (digests(&space), std::fs::read(space.path("results/sum.txt")).unwrap());
    let lines = gc(&space, &["--max-size", "1B"]);
    assert_eq!(lines.len(), 4, "three results, and the sums: {lines:?}");
    assert_eq!(objects(&space), 0);
    assert_eq!(states(&space), ["evicted"; 3]);
    assert_eq!(digests(&space), before, "records stay");
    std::fs::remove_file(space.path("results/sum.txt")).unwrap();
    assert_eq!(space.run(&[]).ok().tasks("done"), TASKS);
    assert_eq!(digests(&space), before);
    assert_eq!(std::fs::read(space.path("results/sum.txt")).unwrap(), sum);
    assert_eq!(states(&space), ["cached"; 3]);
}

#[test]
fn older_results_go_before_the_newest() {
    let space = ran();
    run_from(&space, 5).ok();
    let lines = gc(&space, &["--max-size", "1B", "--dry-run"]);
    let superseded: Vec<&Value> = lines.iter().filter(|line| line["why"] == "no task's newest result").collect();
    assert_eq!(superseded.len(), 3);
    let bytes: u64 = superseded.iter().map(|line| line["bytes"].as_u64().unwrap()).sum();
    let most = lines.last().unwrap()["before"].as_u64().unwrap() - bytes;
    gc(&space, &["--max-size", &format!("{most}B")]);
    assert_eq!(run_from(&space, 5).ok().tasks("start"), [""; 0]);
    // The result without followers is needed; what it is made of is made for it.
    std::fs::remove_file(space.path("results/sum.txt")).unwrap();
    assert_eq!(run_from(&space, 1).ok().tasks("start"), TASKS);
}

#[test]
fn what_no_run_has_used_for_long_goes() {
    let space = ran();
    run_from(&space, 5).ok();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86_400);
    for path in below(&space.path("cache/v2/actions")).iter().filter(|path| path.is_file()) {
        std::fs::File::open(path).unwrap().set_modified(past).unwrap();
    }
    run_from(&space, 5).ok();
    let old: Vec<Value> = gc(&space, &["--max-age", "30d"]);
    assert_eq!(old.iter().filter(|line| line["why"] == "not used for 40 days").count(), 3, "{old:?}");
    assert_eq!(run_from(&space, 5).ok().tasks("start"), [""; 0]);
}

#[test]
fn pinned_results_stay() {
    let space = ran();
    let pinned = space.last_key("small", "command.sorted").unwrap();
    space.write("cache/pins/paper", format!("# section 4\n{pinned}\n"));
    let lines = gc(&space, &["--max-size", "1B"]);
    assert!(lines.last().unwrap()["safe"].as_u64().unwrap() > 1000 && lines.last().unwrap()["short_by"] != 0);
    assert_eq!((objects(&space), states(&space)), (1, ["evicted", "cached", "evicted"].map(String::from).to_vec()));
    space.write("cache/pins/paper", "command.sorted\n");
    let ended = space.hashpipe(&["cache", "gc", "--max-size", "1B"]);
    assert!(ended.code == 2 && ended.stderr.contains("pins/paper:1:1"), "{}", ended.stderr);
    std::fs::remove_file(space.path("cache/pins/paper")).unwrap();
    gc(&space, &["--max-size", "1B"]);
    assert_eq!(objects(&space), 0);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_a_gc_would_do() {
    let space = ran();
    run_from(&space, 5).ok();
    orphan(&space, "left");
    let look = || -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
        let paths = below(&space.path("cache")).into_iter();
        paths.map(|path| (path.clone(), path.metadata().map(|m| (m.len(), m.modified().unwrap())).unwrap())).collect()
    };
    let before = look();
    let told = gc(&space, &["--max-size", "1B", "--grace", "1ms", "--dry-run"]);
    let text = space.hashpipe(&["cache", "gc", "--max-size", "1B", "-n"]).ok().stdout;
    cache(&space, &["du"]);
    cache(&space, &["verify"]);
    assert_eq!(look(), before);
    assert!(text.contains("would free") && text.contains("small: command.sum") && text.contains("to make again"));
    let done = gc(&space, &["--max-size", "1B", "--grace", "1ms"]);
    let (told_sums, done_sums) = (told.last().unwrap(), done.last().unwrap());
    assert_eq!(told[..told.len() - 1], done[..done.len() - 1]);
    assert_eq!((&told_sums["before"], &told_sums["after"]), (&done_sums["before"], &done_sums["after"]));
}

#[test]
fn a_killed_gc_is_finished_by_the_next() {
    let space = ran();
    let mut seen = 0;
    for round in 0..5 {
        for n in 0..400 {
            orphan(&space, &format!("{round} {n}"));
        }
        let mut gc = space.start(&["cache", "gc", "--grace", "1ms"]);
        while gc.try_wait().unwrap().is_none() && below(&space.path("cache/v2/trash")).is_empty() {
            std::thread::yield_now();
        }
        gc.kill().unwrap();
        gc.wait().unwrap();
        seen += usize::from(objects(&space) > 4);
        assert_eq!(states(&space), ["cached"; 3]);
        self::gc(&space, &["--grace", "1ms"]);
        assert_eq!((objects(&space), below(&space.path("cache/v2/trash")).len()), (4, 0));
    }
    assert!(seen > 0, "no gc was killed in its middle");
    assert_eq!(space.run(&[]).ok().tasks("start"), [""; 0]);
}

#[test]
fn verify_finds_what_is_bad_and_repair_heals_it() {
    let space = ran();
    assert_eq!(space.hashpipe(&["cache", "verify"]).code, 0);
    let before = digests(&space);
    let object = space.object("command.sorted", "list");
    damage(&object);
    let folder = space.object("command.numbers", "folder");
    std::fs::write(folder.join("more"), "a file too many").unwrap();
    let key = space.last_key("small", "command.sum").unwrap();
    let record = space.path("cache/v2/actions").join(&key[..2]).join(format!("{key}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, &text[..text.len() / 2]).unwrap();
    space.write("cache/v2/objects/ab/notes.txt", "not an object");

    let found = |lines: &[Value]| lines.last().unwrap()["bad"].as_u64().unwrap();
    let ended = space.hashpipe(&["cache", "verify", "--json", "--jobs", "1"]);
    assert_eq!((ended.code, found(&ended.json())), (5, 4), "{}", ended.stdout);
    assert!(object.exists() && record.exists(), "it only looked");
    let text = space.hashpipe(&["cache", "verify"]).stdout;
    assert!(text.contains("small: command.sorted") && text.contains("--repair"), "{text}");

    let ended = space.hashpipe(&["cache", "verify", "--json", "--repair"]);
    assert_eq!((ended.code, found(&ended.json())), (5, 4));
    assert!(!object.exists() && !folder.exists() && !record.exists());
    assert_eq!(space.hashpipe(&["cache", "verify"]).code, 0);
    assert_eq!(space.run(&[]).ok().tasks("done"), TASKS);
    assert_eq!(digests(&space), before);
    assert_eq!(space.hashpipe(&["cache", "verify"]).code, 0);
}

#[test]
fn a_record_of_another_key_is_foreign() {
    let space = ran();
    let keys = ["command.sorted", "command.sum"].map(|task| space.last_key("small", task).unwrap());
    let [from, to] = keys.map(|key| space.path("cache/v2/actions").join(&key[..2]).join(format!("{key}.json")));
    std::fs::copy(from, to).unwrap();
    let lines = cache(&space, &["verify"]);
    assert!(lines[0]["problem"].as_str().unwrap().starts_with("is that of key"), "{lines:?}");
    assert_eq!(lines[0]["tasks"][0]["task"], "command.sum");
}

/// Runs `gc` again and again while `runs` goes on.
fn beside_gc(space: &Space, arguments: &[&str], runs: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let gcs = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                gc(space, arguments);
                rounds += 1;
            }
            rounds
        });
        // However the runs end, the other thread must.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(runs));
        over.store(true, Ordering::Relaxed);
        let rounds: usize = gcs.join().unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(rounds > 1);
    });
}

#[test]
fn a_run_beside_a_gc_loses_nothing() {
    let space = ran();
    // Whatever is given up between runs, a run finds or makes all that it needs.
    beside_gc(&space, &["--max-size", "1B", "--grace", "1ms"], || {
        for round in 0..12 {
            let n = 1 + round % 3;
            let ended = run_from(&space, n);
            assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
            let sum = std::fs::read_to_string(space.path("results/sum.txt")).unwrap();
            assert_eq!(sum, format!("{}\n{n}\n", 2001 - n));
        }
    });
    // Without limits, what was published stays.
    beside_gc(&space, &["--grace", "1ms"], || {
        for n in 11..17 {
            run_from(&space, n).ok();
            assert_eq!(run_from(&space, n).ok().tasks("start"), [""; 0]);
        }
    });
}

#[test]
fn a_run_keeps_the_cache_to_its_limits_once_a_day() {
    let space = ran();
    let limited = |n: usize| {
        let [set, value] = from(n);
        let mut command = space.command(&["run", "p.toml", &set, &value]);
        command.env("HASHPIPE_CACHE_MAX_SIZE", "1B").output().unwrap()
    };
    let stderr = String::from_utf8(limited(5).stderr).unwrap();
    assert!(stderr.contains("freed") && stderr.contains("3 items"), "{stderr}");
    assert_eq!(objects(&space), 4, "what the run itself used stays");
    limited(6);
    assert_eq!(objects(&space), 8, "not twice a day");
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    std::fs::File::options()
        .append(true)
        .open(space.path("cache/v2/gc.lock"))
        .unwrap()
        .set_modified(yesterday)
        .unwrap();
    space.write("cache/config.toml", "max_size = \"huge\"\n");
    let warned = run_from(&space, 6).ok();
    assert!(warned.stderr.contains("config.toml:1:1"), "{}", warned.stderr);
    space.write("cache/config.toml", "max_size = \"1KiB\"\n");
    run_from(&space, 6).ok();
    assert_eq!(objects(&space), 4);
}

#[test]
fn du_adds_up() {
    let space = ran();
    // The same result under another name, in another pipeline.
    space.write("q.toml", CHAIN.replace("name = \"small\"", "name = \"other\""));
    space.hashpipe(&["run", "q.toml"]).ok();
    orphan(&space, "left");
    let lines = cache(&space, &["du"]);
    let sum = |what: &str, member: &str| -> u64 {
        lines.iter().filter(|line| line["what"] == what).map(|line| line[member].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("stage", "results"), sum("stage", "bytes")), (6, 0), "{lines:?}");
    assert_eq!((sum("stage", "shared"), sum("shared", "number")), (2 * sum("shared", "bytes"), 4));
    assert_eq!((sum("unused", "bytes"), sum("unused", "number")), (4, 1));
    let parts: u64 =
        lines.iter().filter(|line| line["what"] != "total").map(|line| line["bytes"].as_u64().unwrap()).sum();
    assert_eq!(parts, sum("total", "bytes"));
    let text = space.hashpipe(&["cache", "du"]).ok().stdout;
    assert!(text.contains("command.sorted") && text.contains("hashpipe cache gc"), "{text}");
    assert_eq!(Space::empty().hashpipe(&["cache", "du"]).code, 2);
}

#[test]
fn objects_are_for_all_who_may_enter_the_cache() {
    use std::os::unix::fs::PermissionsExt as _;
    let space = Space::empty();
    let run =
        "umask 077; echo 1 > {out.x}; echo 2 > {out.y}; chmod u+x {out.y}; mkdir -p {out.z}/sub; chmod 500 {out.z}";
    space.write(
        "p.toml",
        format!("name = \"small\"\n[command.shy]\nrun = {run:?}\noutputs = {{ x = \"\", y = \"\", z = \"\" }}\n"),
    );
    // A folder that a group shares.
    space.write("cache/v2/objects/README", "");
    let objects = space.path("cache/v2/objects");
    std::fs::set_permissions(&objects, std::fs::Permissions::from_mode(0o2775)).unwrap();
    space.run(&[]).ok();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let object = |output| space.object("command.shy", output);
    assert_eq!((mode(&object("x")), mode(&object("y"))), (0o444, 0o544));
    assert_eq!((mode(&object("z")), mode(&object("z").join("sub"))), (0o775, 0o775));
}
