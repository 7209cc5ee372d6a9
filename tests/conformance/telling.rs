//! What dry runs, explanations, states and records say, and that they agree with what runs do.

use crate::scene::{Gate, Going, listing, project, states, text, wait_for, wait_for_none, write_stages};
use crate::space::{Space, damage};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A chain, a branch and a lone command; `k` is in the key of the chain's middle alone.
fn stages(k: u32) -> String {
    format!(
        "[command.top]\nrun = 'sort {{in.a}} > {{out.o}}'\ninputs = {{ a = 'a.txt' }}\noutputs = {{ o = '' }}\n\
         [command.middle]\nrun = 'head -n {{param.k}} {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.top/o' }}\n\
         params = {{ k = {k} }}\noutputs = {{ o = 'middle.txt' }}\n\
         [command.bottom]\nrun = 'wc -l < {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.middle/o' }}\noutputs = {{ o = 'n.txt' }}\n\
         [command.lone]\nrun = 'cp {{in.b}} {{out.o}}'\ninputs = {{ b = 'b.txt' }}\noutputs = {{ o = 'lone.txt' }}\n"
    )
}

fn prepared() -> Space {
    let space = project(&stages(1), &[("a.txt", "2\n1\n"), ("b.txt", "b\n")]);
    space.run(&[]).ok();
    space
}

/// What a dry run says it would do with each task.
fn would(space: &Space, more: &[&str]) -> BTreeMap<String, String> {
    let lines = space.hashpipe(&[&["run", "-n", "p.toml", "--json"], more].concat()).ok().json();
    let word = |line: &Value| Some((line["task"].as_str()?.to_string(), line["would"].as_str()?.to_string()));
    lines.iter().filter_map(word).collect()
}

/// A dry run, then a run: each task must do what was said.
fn agree(space: &Space, more: &[&str]) -> BTreeMap<String, String> {
    let before = listing(&space.path(""));
    let would = would(space, more);
    let told = space.hashpipe(&[&["run", "-n", "p.toml"], more].concat()).ok().stdout;
    assert_eq!(listing(&space.path("")), before, "a dry run writes nothing");
    let ran = space.run(more).ok();
    let (started, cached) = (ran.tasks("start"), ran.tasks("cached"));
    for (task, word) in &would {
        let row = told.lines().find(|line| line.split_whitespace().nth(1) == Some(task)).unwrap();
        assert!(row.starts_with(word.as_str()), "{row}");
        match word.as_str() {
            "cached" => assert!(!started.contains(task) && cached.contains(task), "{task} {word}"),
            "run" | "resume" | "extend" => assert!(started.contains(task), "{task} {word}"),
            "unknown" => assert!(started.contains(task) || cached.contains(task), "{task} {word}"),
            other => panic!("{task} {other}"),
        }
    }
    would
}

fn words(would: &BTreeMap<String, String>) -> Vec<&str> {
    ["top", "middle", "bottom", "lone"].iter().map(|name| would[&format!("command.{name}")].as_str()).collect()
}

#[test]
fn a_dry_run_writes_nothing_and_agrees_with_the_run() {
    let space = project(&stages(1), &[("a.txt", "2\n1\n"), ("b.txt", "b\n")]);
    assert_eq!(words(&agree(&space, &[])), ["run", "unknown", "unknown", "run"]);
    assert_eq!(words(&agree(&space, &[])), ["cached"; 4]);
    write_stages(&space, &stages(2));
    assert_eq!(words(&agree(&space, &[])), ["cached", "run", "unknown", "cached"]);
    space.write("b.txt", "bb\n");
    assert_eq!(words(&agree(&space, &[])), ["cached", "cached", "cached", "run"]);
    space.write("a.txt", "1\n2\n");
    assert_eq!(words(&agree(&space, &[])), ["run", "unknown", "unknown", "cached"]);
    // Gone and not needed; gone and needed; damaged.
    std::fs::remove_file(space.object("command.top", "o")).unwrap();
    assert_eq!(words(&agree(&space, &[])), ["cached"; 4]);
    write_stages(&space, &stages(3));
    assert_eq!(words(&agree(&space, &[])), ["run", "run", "unknown", "cached"]);
    damage(&space.object("command.lone", "o"));
    assert_eq!(words(&agree(&space, &[])), ["cached", "cached", "cached", "run"]);
    space.write("middle.txt", "edited\n");
    assert_eq!(words(&agree(&space, &[])), ["cached"; 4]);
    assert_eq!(words(&agree(&space, &["--force", "command.lone"])), ["cached", "cached", "cached", "run"]);
    let only = agree(&space, &["--only", "command.middle", "--force", "command.middle"]);
    assert_eq!(only.keys().collect::<Vec<_>>(), ["command.middle", "command.top"]);
}

#[test]
fn an_explanation_names_the_field_both_values_and_the_line() {
    let space = prepared();
    write_stages(&space, &stages(2));
    let line = text(&space, "p.toml").lines().position(|line| line.contains("k = 2")).unwrap() + 1;
    let shown = space.hashpipe(&["explain", "p.toml", "command.middle"]).ok().stdout;
    let row = shown.lines().find(|line| line.starts_with("    params.k")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["params.k", "1", "2", &format!("p.toml:{line}")],
        "{shown}"
    );
    let explained = &space.hashpipe(&["explain", "p.toml", "command.middle", "--json"]).ok().json()[0];
    let difference = &explained["differences"][0];
    let parts = ["name", "old", "new"].map(|part| difference[part].as_str().unwrap());
    assert_eq!((parts, explained["differences"].as_array().unwrap().len()), (["params.params.k", "1", "2"], 1));

    // The same words in `status`, a dry run and the run.
    let because = "`params.k` changed: 1 -> 2";
    assert_eq!(states(&space, &[])["command.middle"], ("stale".into(), because.into()));
    assert!(space.hashpipe(&["run", "-n", "p.toml"]).ok().stdout.contains(because));
    let run = space.run(&[]).ok();
    let start = run.json().into_iter().find(|event| event["event"] == "start").unwrap();
    assert_eq!(start["reason"], because);
}

#[test]
fn an_explanation_compares_with_the_nearest_result_or_with_that_of_a_run() {
    let stage = |a: u32, b: u32| {
        format!(
            "[command.x]\nrun = 'echo {{param.a}} {{param.b}} > {{out.o}}'\nparams = {{ a = {a}, b = {b} }}\noutputs = {{ o = '' }}\n"
        )
    };
    let space = project(&stage(1, 1), &[]);
    space.run(&[]).ok();
    write_stages(&space, &stage(2, 2));
    space.run(&[]).ok();
    write_stages(&space, &stage(1, 3));
    let rows = |more: &[&str]| -> Vec<String> {
        let shown = space.hashpipe(&[&["explain", "p.toml", "command.x", "--json"], more].concat()).ok().json();
        let differences = shown[0]["differences"].as_array().unwrap().clone();
        differences.iter().map(|d| format!("{} {} {}", d["name"], d["old"], d["new"]).replace('"', "")).collect()
    };
    assert_eq!(rows(&[]), ["params.params.b 1 3"], "not with the last one, in which both differ");
    assert_eq!(rows(&["--against", "last"]), ["params.params.a 2 1", "params.params.b 2 3"]);
    assert_eq!(rows(&["--against", "last-1"]), ["params.params.b 1 3"]);
    // Where a result came from, and all that is in its key.
    space.run(&[]).ok();
    let shown = space.hashpipe(&["explain", "p.toml", "command.x", "--hit"]).ok().stdout;
    for part in ["cached", "made ", "its key is made of:", "params.a", "p.toml:", "program"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn an_input_is_explained_by_the_lines_that_came_and_went() {
    let space = prepared();
    space.write("a.txt", "2\n1\n0\n");
    space.run(&["--only", "command.top"]).ok();
    let shown = space.hashpipe(&["explain", "p.toml", "command.middle"]).ok().stdout;
    assert!(shown.contains("+1 -0 lines"), "{shown}");
}

#[test]
fn an_explanation_names_the_files_that_changed_in_a_folder_or_a_list() {
    let picture = |shade: u8| {
        let mut bytes = std::io::Cursor::new(vec![]);
        let image = image::RgbImage::from_pixel(8, 8, image::Rgb([shade; 3]));
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let space = project(
        "[command.x]\nrun = 'ls {in.f} > {out.o}'\ninputs = { f = 'texts' }\noutputs = { o = '' }\n\
         [lists.y]\ndataset = { name = 'folders', root = 'images', query_per_class = 1, train_per_class = 1 }\n",
        &[],
    );
    for number in 0..6u8 {
        space.write(&format!("texts/{number}.txt"), [number]);
        ["black", "white"].iter().zip([0, 100]).for_each(|(class, shade)| {
            space.write(&format!("images/{class}/{number}.png"), picture(shade + number));
        });
    }
    space.run(&[]).ok();
    for number in 1..6u8 {
        space.write(&format!("texts/{number}.txt"), "changed");
    }
    space.write("texts/b/new.txt", "");
    std::fs::remove_file(space.path("texts/0.txt")).unwrap();
    space.write("images/white/3.png", picture(200));
    space.write("images/black/9.png", picture(9));
    let told = |task: &str| {
        let explained = &space.hashpipe(&["explain", "p.toml", task, "--json"]).ok().json()[0]["differences"][0];
        let shown = space.hashpipe(&["explain", "p.toml", task]).ok().stdout;
        let detail = explained["detail"].as_str().unwrap_or_default().to_string();
        assert!(!detail.is_empty() && shown.contains(&detail), "{shown}");
        detail
    };
    assert_eq!(told("command.x"), "changed 1.txt, 2.txt, 3.txt and 2 more; added b/new.txt; removed 0.txt");
    assert_eq!(told("lists.y"), "changed images/white/3.png; added images/black/9.png");
    // Against what is no longer as it was, either.
    space.run(&[]).ok();
    std::fs::remove_file(space.path("images/black/9.png")).unwrap();
    assert_eq!(told("lists.y"), "removed images/black/9.png");
}

/// Runs in which everything happens that can be told of.
#[test]
fn every_event_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(&Space::empty().hashpipe(&["schema", "events"]).ok().stdout).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let mut seen = BTreeSet::new();
    let mut check = |lines: Vec<Value>| {
        for line in lines {
            let faults: Vec<String> =
                schema.iter_errors(&line).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
            assert!(faults.is_empty(), "{line}: {faults:?}");
            // Nothing is told that the schema does not know.
            let mut stranger = line.clone();
            stranger["event"] = "unheard_of".into();
            assert!(!schema.is_valid(&stranger));
            seen.insert(line["event"].as_str().unwrap().to_string());
        }
    };
    let file = |space: &Space| -> Vec<Value> {
        text(space, "events").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // Begin, start, progress, done, report, end; then cached.
    let space = Space::new();
    for _ in 0..2 {
        check(space.run(&["--events", "events"]).ok().json());
        check(file(&space));
    }
    // Warning, failed, blocked, retry.
    let space = project("", &[]);
    let tries = space.path("tries").display().to_string();
    let greedy = format!("echo x >> {tries}; test $(wc -l < {tries}) -gt 1 || {{ echo CUDA out of memory; exit 1; }}");
    write_stages(
        &space,
        &format!(
            "[command.random]\nrun = 'cat /proc/sys/kernel/random/uuid > {{out.o}}'\noutputs = {{ o = '' }}\n\
             [command.bad]\nrun = 'exit 1'\noutputs = {{ o = 'o' }}\n\
             [command.behind]\nrun = 'cat {{in.i}}'\ninputs = {{ i = 'command.bad/o' }}\n\
             [command.greedy]\nrun = '{greedy}'\nresources = {{ gpus = 1, gpu_memory = '1GiB' }}\n"
        ),
    );
    for more in [&[][..], &["--force", "command.random"]] {
        let mut command = space.command(&[&["run", "p.toml", "--json", "--keep-going"], more].concat());
        command.env("HASHPIPE_FAKE_GPUS", "24G");
        check(Going::of(&space, command).end().json());
    }
    // Stopped.
    let space = project("", &[]);
    let gate = Gate::new(&space, "gate");
    write_stages(&space, &format!("[command.x]\nrun = '{}'\n", gate.wait()));
    let run = Going::start(&space, &[]);
    let _at = gate.reached();
    run.signal(Signal::SIGINT);
    check(run.end().json());
    let all = [
        "begin", "blocked", "cached", "done", "end", "failed", "progress", "report", "retry", "start", "stopped",
        "warning",
    ];
    let missing: Vec<&str> = all.into_iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_state_has_its_word() {
    let space = project("", &[("a.txt", "a\n"), ("b.txt", "b\n"), ("c.txt", "c\n")]);
    let gate = Gate::new(&space, "gate");
    let copy = |name: &str, input: &str| {
        format!(
            "[command.{name}]\nrun = 'cat {{in.i}} > {{out.o}}'\ninputs = {{ i = '{input}' }}\noutputs = {{ o = '' }}\n"
        )
    };
    let gated = |name: &str, input: &str| copy(name, input).replace("run = '", &format!("run = '{}; ", gate.wait()));
    let always = "[command.always]\nrun = 'true'\ncache = false\n";
    let first = [
        copy("cached", "a.txt"),
        copy("corrupt", "b.txt"),
        copy("evicted", "c.txt"),
        copy("behind", "command.evicted/o"),
        copy("stale", "a.txt"),
        always.into(),
    ]
    .concat();
    write_stages(&space, &first);
    space.run(&[]).ok();
    let failing = format!("{}{}", copy("failed", "a.txt").replace("cat", "false"), copy("skipped", "command.failed/o"));
    let stale = copy("stale", "a.txt").replace("cat ", "cat -u ");
    let rest = [
        gated("tainted", "b.txt"),
        gated("interrupted", "c.txt"),
        copy("ready", "b.txt").replace("cat ", "cat -v "),
        copy("blocked", "command.ready/o"),
        copy("missing", "none.txt"),
    ]
    .concat();
    let all = format!("{}{failing}{rest}", first.replace(&copy("stale", "a.txt"), &stale));
    write_stages(&space, &all);
    let started = |task: &str| Going::start(&space, &["--only", task, "--keep-going"]);

    let tainted = started("command.tainted");
    let at = gate.reached();
    space.write("b.txt", "other\n");
    at.open();
    assert_eq!(tainted.end().code, 4);
    space.write("b.txt", "b\n");
    let interrupted = started("command.interrupted");
    let _at = gate.reached();
    assert_eq!(states(&space, &[])["command.interrupted"].0, "running");
    interrupted.signal(Signal::SIGKILL);
    interrupted.end();
    wait_for_none(&space);
    assert_eq!(space.run(&["--only", "command.failed"]).code, 1);
    // The bytes of `cached` are those of `stale` as well, and those of `behind` are those of `evicted`.
    damage(&space.object("command.corrupt", "o"));
    std::fs::remove_file(space.object("command.evicted", "o")).unwrap();

    for (task, (word, because)) in states(&space, &[]) {
        let expected = task.strip_prefix("command.").unwrap();
        let expected = match expected {
            "behind" => "evicted",
            "always" => "uncacheable",
            word => word,
        };
        assert_eq!(word, expected, "{task}: {because}");
    }
    assert_eq!(space.hashpipe(&["status", "p.toml", "--check"]).code, 3);
    let shown = space.hashpipe(&["status", "p.toml"]).ok().stdout;
    let counted = ["1 cached", "2 evicted", "1 interrupted", "1 tainted", "1 corrupt", "1 missing"];
    assert!(counted.iter().all(|part| shown.contains(part)), "{shown}");
    let space = prepared();
    assert_eq!(space.hashpipe(&["status", "p.toml", "--check"]).code, 0);
}

#[test]
fn logs_tell_streams_apart_and_every_attempt_keeps_its_own() {
    let stage = |code: u32| {
        format!(
            "[command.x]\nrun = 'echo to out; echo to err >&2; echo {code} > {{out.o}}; exit {code}'\noutputs = {{ o = '' }}\n"
        )
    };
    let space = project(&stage(1), &[]);
    let failed = space.run(&[]);
    assert!(failed.stdout.contains("command.x"), "{}", failed.stderr);
    let log = |more: &[&str]| space.hashpipe(&[&["log", "command.x"], more].concat()).ok().stdout;
    let lines = |text: String| -> Vec<String> { text.lines().map(|line| line[13..].to_string()).collect() };
    let mut told = lines(log(&[]));
    told.sort();
    assert_eq!(told, ["err to err", "out to out"]);
    write_stages(&space, &stage(0));
    space.run(&[]).ok();
    assert_eq!(lines(log(&["--run", "last-1"])).len(), 2, "what failed keeps its log");
    let text = space.hashpipe(&["run", "p.toml"]).ok();
    assert!(text.stderr.contains("nothing to do"), "{}", text.stderr);
    assert_eq!(lines(log(&[])).len(), 2, "a hit shows the log of the run that made it");
}

#[test]
fn a_failure_shows_the_end_of_its_log() {
    let space = project("[command.x]\nrun = 'seq 100 200; exit 1'\n", &[]);
    let ended = space.hashpipe(&["run", "p.toml"]);
    assert!(
        ended.code == 1 && ended.stderr.contains("out 200") && !ended.stderr.contains("out 150"),
        "{}",
        ended.stderr
    );
}

#[test]
fn two_runs_are_compared_side_by_side() {
    let stage = |dim: u32| {
        let run = r#"printf '{"accuracy": 0.%s, "what": "x"}' {param.dim} > {out.m}"#;
        format!(
            "[command.score]\nrun = '''{run}'''\nparams = {{ dim = {dim} }}\nmetrics = 'm'\noutputs = {{ m = 'm.json' }}\n"
        )
    };
    let space = project(&stage(25), &[]);
    space.run(&[]).ok();
    write_stages(&space, &stage(75));
    space.run(&[]).ok();
    let shown = space.hashpipe(&["diff", "last-1", "last"]).ok().stdout;
    let row = |word: &str| -> Vec<String> {
        let line = shown
            .lines()
            .find(|line| line.split_whitespace().any(|found| found == word))
            .unwrap_or_else(|| panic!("{word}: {shown}"));
        line.split_whitespace().map(str::to_string).collect()
    };
    assert_eq!(row("params.dim")[2..4], ["25", "75"]);
    assert!(row("accuracy").contains(&"0.25".into()) || row("accuracy").contains(&"0.2500".into()), "{shown}");
    let runs = space.hashpipe(&["runs", "--json"]).ok().json();
    assert_eq!(runs.len(), 2);
    let status = &space.hashpipe(&["status", "p.toml", "--json"]).ok().json()[0];
    assert_eq!(status["metrics"]["accuracy"], 0.75);
}

#[test]
fn a_run_that_is_followed_is_told_as_it_goes() {
    let space = project("", &[]);
    let gate = Gate::new(&space, "gate");
    write_stages(&space, &format!("[command.x]\nrun = 'echo before; {}; echo after'\n", gate.wait()));
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut follower = space.command(&["log", "command.x", "--follow"]);
    let mut follower = follower.stdout(log.reopen().unwrap()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let shown = || std::fs::read_to_string(log.path()).unwrap();
    wait_for("the first line", || shown().contains("out before").then_some(()));
    assert!(!shown().contains("after"));
    at.open();
    assert_eq!(run.end().code, 0);
    assert!(wait_for("the end of the log", || follower.try_wait().unwrap()).success() && shown().contains("out after"));
}
