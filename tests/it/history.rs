//! Records of runs, what is made of them, and what machines read.

use crate::space::{PIPELINE, Space};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A project after two runs that differ in the ranks that count.
fn twice() -> Space {
    static BASE: OnceLock<Space> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let space = Space::new();
        space.run(&["--events", "events.jsonl"]).ok();
        space.run(&["--set", "evaluate.map.top_k=5"]).ok();
        space
    });
    base.copy()
}

fn runs(space: &Space) -> Vec<Value> {
    space.hashpipe(&["runs", "--json"]).ok().json()
}

/// The folder of the newest run but so many.
fn folder(space: &Space, back: usize) -> PathBuf {
    space.path("cache/v2/runs").join(runs(space)[back]["id"].as_str().unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The faults of a value, by a schema that hashpipe prints.
fn faults(space: &Space, schema: &str, value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(&space.hashpipe(&["schema", schema]).ok().stdout).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect()
}

#[test]
fn every_run_that_did_something_leaves_a_record() {
    let space = twice();
    let known = runs(&space);
    assert_eq!(known.len(), 2);
    let count = |run: &Value, what: &str| run[what].as_u64().unwrap();
    assert_eq!([count(&known[0], "ran"), count(&known[0], "cached")], [2, 9]);
    assert_eq!([count(&known[1], "ran"), count(&known[1], "cached")], [11, 0]);
    assert_eq!(known[0]["sets"], serde_json::json!(["evaluate.map.top_k=5"]));
    assert!(known[0]["saved"].as_f64().unwrap() > 0.0 && known[1]["saved"] == 0.0);

    space.run(&["--set", "evaluate.map.top_k=5"]).ok();
    assert_eq!(runs(&space).len(), 2, "nothing ran and every key is known");
    space.run(&[]).ok();
    assert_eq!(runs(&space).len(), 3, "nothing ran, but the keys are other than in the newest run");

    let record: Value = serde_json::from_slice(&std::fs::read(folder(&space, 1).join("run.json")).unwrap()).unwrap();
    assert_eq!(faults(&space, "run", &record), [""; 0]);
    let task = record["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "train.net@bits=8").unwrap();
    assert_eq!((&task["state"], &task["axes"]["bits"], &task["attempts"]), (&"cached".into(), &8.into(), &0.into()));
    assert_eq!(task["key"], space.record("train.net@bits=8")["key"]);
    assert!(task["metrics"]["loss"].is_number());
}

#[test]
fn overrides_are_recorded_as_they_were_given() {
    let space = Space::new();
    let arguments = ["run", "p.toml", "--only", "lists.shapes", "--set", "train.net.epochs=2"];
    let status = space.command(&arguments).env("HASHPIPE_TRAIN__NET__BATCH", "7").status().unwrap();
    assert!(status.success());
    let record: Value = serde_json::from_slice(&std::fs::read(folder(&space, 0).join("run.json")).unwrap()).unwrap();
    assert_eq!(record["environment"]["HASHPIPE_TRAIN__NET__BATCH"], "7");
    assert_eq!(
        (&record["file"], &record["outcome"], &record["exit_code"]),
        (&"p.toml".into(), &"done".into(), &0.into())
    );
    assert_eq!(record["arguments"].as_array().unwrap()[1..], arguments.map(Value::from));
    assert_eq!(record["tasks"].as_array().unwrap().len(), 1);
}

#[test]
fn events_are_the_same_everywhere_and_as_the_schema_says() {
    let space = twice();
    let schema = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/schema/events.json")).unwrap();
    let printed = space.hashpipe(&["schema", "events"]).ok().stdout;
    assert_eq!(printed, schema, "write it anew: hashpipe schema events > doc/schema/events.json");
    let validator = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();

    let recorded = lines(&folder(&space, 1).join("events.jsonl"));
    assert_eq!(lines(&space.path("events.jsonl")), recorded);
    let (mut open, mut last) = (BTreeMap::new(), 0.0);
    for line in &recorded {
        let faults: Vec<String> = validator.iter_errors(line).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{line}: {faults:?}");
        let ts = line["ts"].as_f64().unwrap();
        assert!(ts >= last);
        last = ts;
        match line["phase"].as_str().unwrap() {
            "start" => assert!(open.insert(line["span"].to_string(), &line["task"]).is_none()),
            "end" => assert_eq!(open.remove(&line["span"].to_string()).unwrap(), &line["task"]),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let mut broken = recorded[0].clone();
    broken["tasks"] = "eleven".into();
    assert!(!validator.is_valid(&broken));
}

#[test]
fn a_killed_run_leaves_what_it_knew() {
    let space = Space::empty();
    space.write("p.toml", PIPELINE.replace("epochs = 1", "epochs = 100000").replace("[8, 16]", "[8]"));
    let mut run = space.start(&["run", "p.toml", "--json"]);
    let events = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut events = events.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    events.find(|event| event["event"] == "progress" && event["task"] == "train.net@bits=8").unwrap();
    assert_eq!(runs(&space)[0]["outcome"], "running");
    run.kill().unwrap();
    run.wait().unwrap();

    let known = runs(&space);
    assert_eq!((&known[0]["outcome"], &known[0]["ended"], &known[0]["ran"]), (&"died".into(), &Value::Null, &1.into()));
    assert!(space.hashpipe(&["runs"]).ok().stdout.contains("died"));
    let trace: Value = serde_json::from_str(&space.hashpipe(&["trace"]).ok().stdout).unwrap();
    let slices = trace["traceEvents"].as_array().unwrap().iter();
    let training: Vec<_> = slices.filter(|e| e["name"] == "train.net@bits=8" && e["ph"] == "X").collect();
    assert!(!training.is_empty() && training.iter().all(|e| e["args"]["ended"] == "unfinished"), "{training:?}");
    // A line that was cut short costs that line.
    let path = folder(&space, 0).join("events.jsonl");
    let mut torn = std::fs::read(&path).unwrap();
    torn.truncate(torn.len() - 10);
    std::fs::write(&path, torn).unwrap();
    assert_eq!(runs(&space)[0]["ran"], 1);
}

#[test]
fn a_run_is_meant_by_its_place_and_by_any_beginning() {
    let space = twice();
    let ids: Vec<String> = runs(&space).iter().map(|run| run["id"].as_str().unwrap().to_string()).collect();
    let meant = |text: &str| {
        let trace: Value = serde_json::from_str(&space.hashpipe(&["trace", text]).ok().stdout).unwrap();
        trace["otherData"]["run"].as_str().unwrap().to_string()
    };
    let word = |id: &str| id.rsplit('-').next().unwrap().to_string();
    assert_eq!(
        [meant("last"), meant(&ids[0]), meant(&word(&ids[0]))],
        [ids[0].clone(), ids[0].clone(), ids[0].clone()]
    );
    assert_eq!([meant("last-1"), meant(&word(&ids[1]))], [ids[1].clone(), ids[1].clone()]);
    for (text, told) in [("last-2", "only 2 runs"), ("nosuch", "there is no run `nosuch`"), ("2", "means several runs")]
    {
        let ended = space.hashpipe(&["diff", text, "last"]);
        assert!(ended.code == 2 && ended.stderr.contains(told), "{}", ended.stderr);
    }
}

#[test]
fn a_log_is_kept_and_a_hit_shows_that_of_the_run_that_made_it() {
    let space = twice();
    let written = folder(&space, 1).join("log/train.net@bits=8.1.txt");
    assert!(written.exists());
    std::fs::write(&written, "what it said\n").unwrap();
    let shown = space.hashpipe(&["log", "train.net@bits=8"]).ok();
    assert_eq!(shown.stdout, "what it said\n");
    assert!(shown.stderr.contains(runs(&space)[1]["id"].as_str().unwrap()), "{}", shown.stderr);
    assert_eq!(space.hashpipe(&["log", "train", "--follow", "--run", "last"]).code, 2, "several tasks");
    assert_eq!(space.hashpipe(&["log", "train.net@bits=8", "--follow"]).ok().stdout, "what it said\n");
    let second = space.hashpipe(&["log", "train.net@bits=8", "--run", "last-1", "--attempt", "2"]);
    assert!(second.code == 2 && second.stderr.contains("started 1 times"), "{}", second.stderr);
    assert!(space.hashpipe(&["log", "trian.net"]).stderr.contains("did you mean `train.net`?"));

    // Run again, it gets a log of its own, and the first one stays.
    space.run(&["--force", "train.net@bits=8"]).ok();
    assert_eq!(space.hashpipe(&["log", "train.net@bits=8"]).ok().stdout, "");
    assert_eq!(std::fs::read_to_string(written).unwrap(), "what it said\n");
}

#[test]
fn two_runs_are_compared_by_what_was_asked_for_and_what_was_found() {
    let space = twice();
    let found = &space.hashpipe(&["diff", "last-1", "last", "--json"]).ok().json()[0];
    let parameter = serde_json::json!({ "task": "evaluate.map", "name": "top_k", "a": "10", "b": "5" });
    assert_eq!(found["parameters"], serde_json::json!([parameter]), "one row for all points");
    assert_eq!(found["settings"][0]["name"], "--set evaluate.map.top_k");
    let metric = |name: &str| found["metrics"].as_array().unwrap().iter().filter(|row| row["name"] == name).count();
    assert_eq!([metric("mAP@10"), metric("mAP@5"), metric("chance")], [2, 2, 0]);
    let text = space.hashpipe(&["diff", "last-1", "last"]).ok().stdout;
    let row = text.lines().find(|line| line.contains("top_k") && line.contains("evaluate.map ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["evaluate.map", "top_k", "10", "5"]);
    assert!(space.hashpipe(&["diff", "last", "last"]).ok().stdout.contains("differ in nothing"));
    // What follows from a difference is not told as one.
    space.run(&["--set", "train.net.epochs=2"]).ok();
    let found = &space.hashpipe(&["diff", "last-2", "last", "--json"]).ok().json()[0];
    let parameter = serde_json::json!({ "task": "train.net", "name": "epochs", "a": "1", "b": "2" });
    assert_eq!(found["parameters"], serde_json::json!([parameter]));
    let all = &space.hashpipe(&["diff", "last", "last", "--all", "--json"]).ok().json()[0];
    assert!(all["parameters"].as_array().unwrap().len() > 20);
}

/// What the format asks of an event (Google, "Trace Event Format"); gives the row of a slice.
fn check_trace_event(event: &Value) -> Option<(u64, u64)> {
    let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name} of {event}"));
    assert!(event["name"].is_string() && event["args"].is_object(), "{event}");
    let row = (number("pid"), number("tid"));
    match event["ph"].as_str().unwrap() {
        "M" => assert!(["process_name", "process_sort_index"].contains(&event["name"].as_str().unwrap())),
        "X" => {
            assert!(number("ts").checked_add(number("dur")).is_some());
            return Some(row);
        }
        "i" => assert!(event["s"] == "t" && number("ts") < u64::MAX),
        "b" | "e" => assert!(event["cat"].is_string() && !event["id"].is_null() && number("ts") < u64::MAX),
        other => panic!("phase {other}"),
    }
    None
}

#[test]
fn a_trace_is_one_that_viewers_read() {
    let space = twice();
    for (run, tasks, hits) in [("last-1", 11, 0), ("last", 2, 9)] {
        space.hashpipe(&["trace", run, "-o", "trace.json"]).ok();
        let trace: Value = serde_json::from_slice(&std::fs::read(space.path("trace.json")).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let mut rows: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
        for event in events {
            if let Some(row) = check_trace_event(event) {
                let start = event["ts"].as_u64().unwrap();
                rows.entry(row).or_default().push((start, start + event["dur"].as_u64().unwrap()));
            }
        }
        // Slices of one row must follow each other or lie in each other; ours follow.
        for slices in rows.values_mut() {
            slices.sort_unstable();
            assert!(slices.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{slices:?}");
        }
        let names = |phase: &str, pid: u64| -> std::collections::BTreeSet<&str> {
            let found = events.iter().filter(|e| e["ph"] == phase && e["pid"] == pid);
            found.map(|e| e["name"].as_str().unwrap()).collect()
        };
        assert_eq!((names("X", 2).len(), names("i", 5).len()), (tasks, hits), "{run}");
    }
}

#[test]
fn seeds_are_taken_together_and_protocols_kept_apart() {
    let space = Space::empty();
    space.write(
        "p.toml",
        PIPELINE.replace("bits = [8, 16]", "bits = 8\nseed = [0, 1, 2]").replace("[export", "[none.export"),
    );
    let text = PIPELINE.replace("bits = [8, 16]", "bits = 8\nseed = [0, 1, 2]");
    let (text, _) = text.split_once("[export").unwrap();
    space.write("p.toml", text);
    let stdout = space.hashpipe(&["run", "p.toml"]).ok().stdout;
    assert!(stdout.contains("95 % interval") && stdout.contains(" ± "), "{stdout}");
    let report: Value =
        serde_json::from_slice(&std::fs::read(space.path("output/small/report.json")).unwrap()).unwrap();
    let group = &report["seeds"][0];
    assert_eq!(
        (report["seeds"].as_array().unwrap().len(), &group["seeds"], &group["stage"]),
        (1, &3.into(), &"evaluate.map".into())
    );
    let values: Vec<f64> =
        report["rows"].as_array().unwrap().iter().map(|r| r["metrics"]["mAP@10"].as_f64().unwrap()).collect();
    let mean = values.iter().sum::<f64>() / 3.0;
    assert!((group["metrics"]["mAP@10"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!(std::fs::read_to_string(space.path("output/small/report.md")).unwrap().contains(" ± "));

    // A seed that was run by itself is one of them; other ranks are another protocol, other epochs another row.
    space.run(&["--set", "train.net.seed=7"]).ok();
    space.run(&["--set", "train.net.seed=7", "--set", "train.net.epochs=2"]).ok();
    // Strictness changes no figure: the same protocol, and the same rows.
    let apart = ["--set", "lists.shapes.protocol=strict", "--set", "evaluate.map.protocol=strict"];
    space.hashpipe(&[&["run", "p.toml"][..], &apart].concat()).ok();
    space.run(&["--set", "evaluate.map.top_k=5"]).ok();
    let boards = space.hashpipe(&["leaderboard", "--json"]).ok().json();
    let board = |top_k: &str| boards.iter().find(|board| board["protocol"]["top_k"] == top_k).unwrap();
    assert_eq!(boards.len(), 2);
    let entries = board("10")["entries"].as_array().unwrap();
    let seeds = |entry: &Value| entry["seeds"].as_array().unwrap().len();
    let mut found: Vec<usize> = entries.iter().map(seeds).collect();
    found.sort_unstable();
    assert_eq!((found, seeds(&board("5")["entries"][0])), (vec![1, 4], 3));
    assert_eq!(
        (&entries[0]["mark"], &entries[1]["mark"]),
        (&"best".into(), &"unknown".into()),
        "one seed has no interval"
    );
    assert!(entries[0]["p_value"].is_null() && entries[1]["p_value"].as_f64() > Some(0.0), "{entries:?}");
    let single = entries.iter().find(|entry| seeds(entry) == 1).unwrap();
    assert!(single["metrics"]["mAP@10"]["over_queries"]["low"].is_f64() && single["selected"].is_null(), "{single}");
    let table = space.hashpipe(&["leaderboard", "small"]).ok().stdout;
    assert!(table.contains("lists.shapes/query") && table.contains("epochs"), "{table}");
    for (form, sign) in [("markdown", "| --- |"), ("latex", "\\begin{tabular}")] {
        assert!(space.hashpipe(&["leaderboard", "--format", form]).ok().stdout.contains(sign), "{form}");
    }
    let csv = space.hashpipe(&["leaderboard", "--format", "csv"]).ok().stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("query_list,database_list,") && !csv.contains('±'), "{csv}");
    assert!(
        lines[0].contains(",mAP@10,mAP@10_deviation,mAP@10_low,mAP@10_high,") && lines[0].contains(",top_k,"),
        "{csv}"
    );
    // What these names came to last are evaluations of five ranks.
    let pair = ["compare", "small/evaluate.map@seed=0", "evaluate.map@seed=1", "--json"];
    let found = space.hashpipe(&pair).ok().json().remove(0);
    let value = |seed: usize| board("5")["entries"][0]["metrics"]["mAP@5"]["values"][seed].as_f64().unwrap();
    assert!((found["difference"].as_f64().unwrap() - (value(0) - value(1))).abs() < 1e-12, "{found}");
    assert_eq!((&found["queries"], &found["exact"]), (&8.into(), &true.into()));

    // An epoch chosen by the very queries of the figures is known by content.
    let [query, database] = ["query", "database"].map(|list| format!("train.net.select.{list}=lists.shapes/{list}"));
    space.run(&["--set", "train.net.seed=8", "--set", &query, "--set", &database]).ok();
    let boards = space.hashpipe(&["leaderboard", "--json"]).ok().json();
    let entries: Vec<&Value> = boards.iter().flat_map(|board| board["entries"].as_array().unwrap()).collect();
    assert_eq!(entries.iter().filter(|entry| entry["selected"] == "on_test").count(), 1, "{entries:?}");
    assert!(space.hashpipe(&["leaderboard"]).ok().stdout.contains("best on test"));
    assert!(space.hashpipe(&["leaderboard", "smal"]).stderr.contains("did you mean `small`?"));
}

#[test]
fn old_runs_go_but_not_those_that_are_pinned_or_in_use() {
    let space = twice();
    let newest = folder(&space, 0);
    let make = |id: &str| {
        let old = space.path("cache/v2/runs").join(id);
        std::fs::create_dir(&old).unwrap();
        let text = std::fs::read_to_string(newest.join("run.json")).unwrap();
        let mut record: Value = serde_json::from_str(&text).unwrap();
        (record["id"], record["began"]) = (id.into(), 1_700_000_000.into());
        std::fs::write(old.join("run.json"), record.to_string()).unwrap();
        std::fs::File::create(old.join("lock")).unwrap()
    };
    let ids = ["231114-221320-bbbb", "231114-221321-cccc", "231114-221322-dddd"];
    let [_idle, used, _pinned] = ids.map(make);
    used.lock().unwrap();
    space.hashpipe(&["pin", "dddd"]).ok();
    let there = || ids.map(|id| space.path("cache/v2/runs").join(id).exists());

    space.run(&["--set", "evaluate.map.top_k=4"]).ok();
    assert_eq!(there(), [true; 3], "once a day is enough");
    std::fs::remove_file(space.path("cache/v2/runs/pruned")).unwrap();
    space.run(&["--set", "evaluate.map.top_k=3"]).ok();
    assert_eq!(there(), [false, true, true]);
    assert_eq!(runs(&space).len(), 6);
}

#[test]
fn a_file_of_events_that_cannot_be_written_is_told_before_anything_runs() {
    let space = Space::new();
    let ended = space.run(&["--events", "none/events.jsonl"]);
    assert!(ended.code != 0 && ended.stderr.contains("none/events.jsonl"), "{}", ended.stderr);
    assert!(!space.path("cache/v2/runs").exists());
}

#[test]
fn a_run_that_could_not_begin_leaves_no_record() {
    let space = Space::empty();
    space.write("p.toml", PIPELINE.replace("batch = 10", "batch = 10\npretrained = \"none.safetensors\""));
    assert_eq!(space.run(&[]).code, 2);
    assert!(runs(&space).is_empty());
}

fn toml(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

#[test]
fn the_schema_takes_every_shipped_pipeline() {
    let space = Space::empty();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    for (folder, schema) in [(root.clone(), "pipeline"), (root.join("parts"), "part")] {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(faults(&space, schema, &toml(&text)), [""; 0], "{}", path.display());
        }
    }
    assert_eq!(faults(&space, "pipeline", &toml(PIPELINE)), [""; 0]);
}

#[test]
fn the_schema_and_the_plan_find_the_same_faults() {
    let space = Space::new();
    let wrong = [
        ("epochs = 1", "epoks = 1"),
        ("epochs = 1", "epochs = \"many\""),
        ("epochs = 1", "epochs = [1, 1]"),
        ("epochs = 1", "epochs = 0"),
        ("epochs = 1", ""),
        ("bits = [8, 16]", "bits = []"),
        ("name = \"sgd\", lr", "name = \"sgd\", rl"),
        ("name = \"sgd\"", "name = \"gds\""),
        ("[encode.query]", "[encoed.query]"),
        ("[encode.query]", "[encode.\"a query\"]"),
        ("name = \"small\"\n\n", "nmae = \"small\"\n\n"),
        ("codes = { database", "codes = { database = 1, other"),
        ("model = \"train.net/model\"", "model = { by = \"bits\", 8 = \"train.net/model\" }"),
        ("[export.files]", "[resources]\ntrian = { cpus = 1 }\n[export.files]"),
        ("[export.files]", "[profile.lite.train.net]\nepoks = 2\n[export.files]"),
    ];
    for (from, to) in wrong {
        let text = PIPELINE.replacen(from, to, 1);
        assert_ne!(text, PIPELINE);
        assert!(!faults(&space, "pipeline", &toml(&text)).is_empty(), "{to}");
        space.write("p.toml", &text);
        let profile: &[&str] = if to.contains("profile") { &["--profile", "lite"] } else { &[] };
        let planned = space.hashpipe(&[&["run", "-n", "p.toml"], profile].concat());
        assert_eq!(planned.code, 2, "{to}: {}", planned.stdout);
    }
    let right = [
        ("epochs = 1", "epochs = { by = \"bits\", 8 = 1, default = 2 }"),
        ("epochs = 1", "epochs = [1, 2]"),
        ("lr = 0.001", "lr = [0.1, 1]"),
        ("[export.files]", "[profile.lite.train.net]\noptimizer = { lr = 1 }\n[export.files]"),
        ("[export.files]", "[resources]\n\"train.net\" = { cpus = 1 }\n[export.files]"),
        ("[export.files]", "[obtain.lists]\nshapes = \"made\"\n[export.files]"),
    ];
    for (from, to) in right {
        let text = PIPELINE.replacen(from, to, 1);
        assert_eq!(faults(&space, "pipeline", &toml(&text)), [""; 0], "{to}");
        space.write("p.toml", &text);
        space.hashpipe(&["run", "-n", "p.toml"]).ok();
    }
}

#[test]
fn shells_and_man_are_told_every_command() {
    let space = Space::empty();
    for shell in ["bash", "zsh", "fish"] {
        let script = space.hashpipe(&["completions", shell]).ok().stdout;
        assert!(script.contains("--keep-going") || script.contains("keep-going"), "{shell}");
    }
    space.hashpipe(&["man", "man"]).ok();
    let page = |name: &str| std::fs::read_to_string(space.path("man").join(name)).unwrap();
    let main = page("hashpipe.1");
    for code in ["130", "75", "interrupted"] {
        assert!(main.contains(code) && space.hashpipe(&["--help"]).ok().stdout.contains(code), "{code}");
    }
    assert!(page("hashpipe-run.1").contains("keep\\-going") && page("hashpipe-log.1").contains("attempt"));
    assert!(!space.path("man/hashpipe-exec.1").exists());
    assert_eq!(space.hashpipe(&["man"]).ok().stdout, main);
}
