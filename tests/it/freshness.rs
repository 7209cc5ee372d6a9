//! What is changed, and exactly which stages run again.

use crate::space::{PIPELINE, Space, damage};
use std::sync::OnceLock;

const ALL: [&str; 11] = [
    "encode.database@bits=16",
    "encode.database@bits=8",
    "encode.query@bits=16",
    "encode.query@bits=8",
    "evaluate.map@bits=16",
    "evaluate.map@bits=8",
    "export.files@bits=16",
    "export.files@bits=8",
    "lists.shapes",
    "train.net@bits=16",
    "train.net@bits=8",
];

/// A project whose every result is cached; each test works on a copy.
fn cached() -> Space {
    static BASE: OnceLock<Space> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let space = Space::new();
        assert_eq!(space.run(&[]).ok().tasks("done"), ALL);
        space
    });
    base.copy()
}

/// The tasks that start when the pipeline file is `text` and the arguments are given.
fn started(space: &Space, text: &str, more: &[&str]) -> Vec<String> {
    space.write("p.toml", text);
    space.run(more).ok().tasks("start")
}

fn without(prefixes: &[&str]) -> Vec<&'static str> {
    ALL.into_iter().filter(|task| !prefixes.iter().any(|prefix| task.starts_with(prefix))).collect()
}

fn only(prefixes: &[&str]) -> Vec<&'static str> {
    ALL.into_iter().filter(|task| prefixes.iter().any(|prefix| task.starts_with(prefix))).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn what_changes_no_result_runs_nothing() {
    let space = cached();
    let reformatted = PIPELINE.replace(" = ", "   =  ").replace("[encode.query]", "# a comment\n[encode.query]");
    let renamed = PIPELINE.replace("train.net", "train.other").replace("encode.query", "encode.asked");
    let moved = {
        let (head, tail) = PIPELINE.split_once("[evaluate.map]").unwrap();
        let (lists, rest) = head.split_once("[train.net]").unwrap();
        format!("{lists}[evaluate.map]{tail}[train.net]{rest}")
    };
    let spelt_out =
        PIPELINE.replace("epochs = 1\n", "epochs = 1\nseed = 0\nloss = { name = \"hashnet\", alpha = 1e-1 }\n");
    let resources = format!("{PIPELINE}\n[resources]\ntrain = {{ cpus = 1 }}\n");
    let about = PIPELINE.replace("\"small\"\n\n", "\"small\"\nabout = \"words\"\n\n");
    let as_vars = PIPELINE.replace("top_k = 10", "top_k = 10 # {vars.k}").replace("[lists", "[vars]\nk = 1\n[lists");
    for (what, text) in [
        ("the same file", PIPELINE.to_string()),
        ("spaces and comments", reformatted),
        ("names of stages", renamed),
        ("the order of stages", moved),
        ("defaults written out, another spelling of a number", spelt_out),
        ("resources", resources),
        ("a description", about),
        ("an unused variable", as_vars),
    ] {
        assert_eq!(started(&space, &text, &[]), NONE, "{what}");
    }
    assert_eq!(started(&space, PIPELINE, &["--jobs", "1"]), NONE, "--jobs");
    assert_eq!(
        started(&space, &PIPELINE.replace("\"small\"\n\n", "\"another\"\n\n"), &[]),
        NONE,
        "the pipeline's name"
    );
}

#[test]
fn epochs_of_one_length_run_that_training_and_what_follows() {
    let space = cached();
    let text = PIPELINE.replace("epochs = 1", "epochs = { by = \"bits\", 8 = 1, default = 2 }");
    let sixteen: Vec<&str> = ALL.into_iter().filter(|task| task.ends_with("@bits=16")).collect();
    assert_eq!(started(&space, &text, &[]), sixteen);
    assert_eq!(started(&space, &text.replace("bits = [8, 16]", "bits = 16"), &[]), NONE, "one value is a point, too");
    assert_eq!(started(&space, PIPELINE, &[]), NONE, "and back again is a hit");
}

#[test]
fn a_parameter_runs_its_stage_and_what_its_output_changes() {
    let space = cached();
    let set = |argument: &str| space.copy().run(&["--set", argument]).ok().tasks("start");
    assert_eq!(set("evaluate.map.top_k=5"), only(&["evaluate"]));
    assert_eq!(set("train.net.seed=7"), without(&["lists"]));
    assert_eq!(set("train.net.optimizer.lr=0.002"), without(&["lists"]));
    assert_eq!(set("lists.shapes.dataset.seed=2"), ALL);
    // More queries: the training and the database's codes stay.
    assert_eq!(set("lists.shapes.dataset.query=9"), only(&["lists", "encode.query", "evaluate"]));
    // Another batch gives the same codes: the wave stops there.
    assert_eq!(set("encode.database.batch=7"), only(&["encode.database"]));
    assert_eq!(set("export.files.codes.query=\"encode.query/codes\""), only(&["export"]));
}

#[test]
fn a_new_point_of_a_sweep_runs_alone() {
    let text = PIPELINE.replace("[8, 16]", "[8, 16, 24]");
    let added = started(&cached(), &text, &[]);
    assert_eq!(added.len(), 5, "{added:?}");
    assert!(added.iter().all(|task| task.ends_with("@bits=24")), "{added:?}");
}

#[test]
fn a_stage_that_gives_the_same_again_stops_the_wave() {
    let space = cached();
    assert_eq!(space.run(&["--force", "lists.shapes"]).ok().tasks("start"), ["lists.shapes"]);
    assert_eq!(space.run(&["--force", "train.net@bits=8"]).ok().tasks("start"), ["train.net@bits=8"]);
}

#[test]
fn parts_of_a_pipeline_are_chosen() {
    let space = Space::new();
    let only_lists = space.run(&["--only", "lists.shapes"]).ok();
    assert_eq!(only_lists.tasks("done"), ["lists.shapes"]);
    let one = space.run(&["--only", "encode.query@bits=8"]).ok();
    assert_eq!(one.tasks("done"), ["encode.query@bits=8", "train.net@bits=8"]);
    let from = space.run(&["--from", "encode.database@bits=8"]).ok();
    assert_eq!(from.tasks("done"), ["encode.database@bits=8", "evaluate.map@bits=8", "export.files@bits=8"]);
}

#[test]
fn lost_and_damaged_results_are_made_again() {
    let space = cached();
    let gone = || std::fs::remove_file(space.object("encode.query@bits=8", "codes")).unwrap();
    gone();
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE, "nobody needs it now");
    assert_eq!(space.run(&["--only", "encode.query@bits=8"]).ok().tasks("start"), ["encode.query@bits=8"]);
    gone();
    let needed = space.run(&["--set", "evaluate.map.top_k=5", "--only", "evaluate.map@bits=8"]).ok();
    assert_eq!(needed.tasks("start"), ["encode.query@bits=8", "evaluate.map@bits=8"]);
    std::fs::remove_file(space.object("evaluate.map@bits=16", "result")).unwrap();
    assert_eq!(space.run(&[]).ok().tasks("start"), ["evaluate.map@bits=16"], "nothing stands behind it");

    let object = space.object("encode.query@bits=8", "codes");
    damage(&object);
    let again = space.run(&[]).ok();
    assert_eq!(again.tasks("start"), ["encode.query@bits=8"]);
    let warning = again.json().into_iter().find(|e| e["event"] == "warning").unwrap();
    assert!(warning["text"].as_str().unwrap().contains("is damaged and will not be used"), "{warning}");
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
}

#[test]
fn records_that_cannot_be_read_are_misses() {
    let space = cached();
    for (change, what) in [(0, "empty"), (1, "torn"), (2, "tampered")] {
        let key = space.record("evaluate.map@bits=8")["key"].as_str().unwrap().to_string();
        let path = space.path("cache/v2/actions").join(&key[..2]).join(format!("{key}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = match change {
            0 => String::new(),
            1 => text[..text.len() / 2].to_string(),
            _ => text.replace("mAP@10\":", "mAP@10\":9"),
        };
        assert_ne!(changed, text);
        std::fs::write(&path, changed).unwrap();
        assert_eq!(space.run(&[]).ok().tasks("start"), ["evaluate.map@bits=8"], "{what}");
    }
    space.write("cache/v2/digests", "not a memo\n\u{0}");
    space.write("cache/v2/known/small", "not an attempt\n\u{0}");
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
}

#[test]
fn what_a_person_finds_is_restored() {
    let space = cached();
    let files = ["evaluate.map@bits=8/result.json", "export.files@bits=16/database_code_16.npy", "report.md"];
    for file in files {
        let path = space.path("output/small").join(file);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, "scribbled over").unwrap();
        assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
        assert_eq!(std::fs::read(&path).unwrap(), before, "{file}");
    }
}

/// Pictures and lists of the user's own, made from generated ones.
fn own_files(space: &Space, folder: &str) -> String {
    let generated = cached();
    let images = generated.object("lists.shapes", "images");
    let list = std::fs::read_to_string(generated.object("lists.shapes", "database")).unwrap();
    let mut lines = String::new();
    for line in list.lines().skip(1) {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = item["path"].as_str().unwrap();
        space.write(&format!("{folder}/images/{path}"), std::fs::read(images.join(path)).unwrap());
        let labels: Vec<&str> = (0..24)
            .map(|class| match item["labels"].as_array().unwrap().contains(&class.into()) {
                true => "1",
                false => "0",
            })
            .collect();
        lines += &format!("{path} {}\n", labels.join(" "));
    }
    for name in ["train", "query", "database"] {
        space.write(&format!("{folder}/{name}.txt"), &lines);
    }
    PIPELINE.replace(
        "{ name = \"shapes\", train = 24, query = 8, database = 24, size = 32, seed = 1 }",
        "{ name = \"files\", train = \"{vars.root}/train.txt\", query = \"{vars.root}/query.txt\", \
         database = \"{vars.root}/database.txt\", root = \"{vars.root}/images\" }",
    ) + "\n[vars]\nroot = \"own\"\n"
}

/// What a task said last of its progress.
fn last_note(events: &[serde_json::Value], task: &str) -> String {
    let of_task = |event: &&serde_json::Value| event["event"] == "progress" && event["task"] == task;
    events.iter().rfind(of_task).unwrap()["note"].as_str().unwrap().to_string()
}

#[test]
fn other_labels_and_names_of_the_same_pictures_encode_nothing() {
    let space = Space::empty();
    let text = own_files(&space, "own");
    assert_eq!(started(&space, &text, &[]), ALL);
    let before = space.object("encode.database@bits=8", "codes");
    let list = std::fs::read_to_string(space.path("own/database.txt")).unwrap();
    let relabelled: String = list.lines().map(|line| format!("{}1\n", &line[..line.len() - 1])).collect();
    space.write("own/database.txt", relabelled);
    let run = space.run(&[]).ok();
    assert_eq!(run.tasks("start"), only(&["lists", "encode.database", "evaluate", "export"]));
    assert_eq!(last_note(&run.json(), "encode.database@bits=8"), "images, 24 of them reused");
    // The file names the list it was made from; the codes themselves are the same.
    let codes = |path: &std::path::Path| hashpipe::retrieval::read(path).unwrap().0;
    assert!(codes(&before) == codes(&space.object("encode.database@bits=8", "codes")));
    // Who forces a stage wants all of it made again.
    let forced = space.run(&["--force", "encode.database@bits=8"]).ok();
    assert_eq!(last_note(&forced.json(), "encode.database@bits=8"), "images");
}

#[test]
fn the_content_of_own_files_decides() {
    let space = Space::empty();
    let text = own_files(&space, "own");
    assert_eq!(started(&space, &text, &[]), ALL);
    assert_eq!(started(&space, &text, &[]), NONE);

    std::fs::rename(space.path("own"), space.path("moved")).unwrap();
    assert_eq!(space.run(&["--set", "vars.root=moved"]).ok().tasks("start"), NONE, "moved elsewhere");
    std::fs::rename(space.path("moved"), space.path("own")).unwrap();

    let query = std::fs::read_to_string(space.path("own/query.txt")).unwrap();
    space.write("own/query.txt", query.replace(' ', "  "));
    assert_eq!(space.run(&[]).ok().tasks("start"), ["lists.shapes"], "a list reformatted: the same lists come out");

    let first = query.split(' ').next().unwrap();
    let last = query.lines().last().unwrap().split(' ').next().unwrap();
    let picture = std::fs::read(space.path("own/images").join(last)).unwrap();
    space.write(&format!("own/images/{first}"), picture);
    assert_eq!(space.run(&[]).ok().tasks("start"), ALL, "other pixels under an old name");

    let shorter: String = query.lines().skip(1).map(|line| format!("{line}\n")).collect();
    space.write("own/query.txt", shorter);
    let expected = only(&["lists", "encode.query", "evaluate"]);
    assert_eq!(space.run(&[]).ok().tasks("start"), expected, "a query less");
}

#[test]
fn prepared_images_train_the_same_network_and_are_made_once() {
    let space = cached();
    let prepared = PIPELINE
        .replace("[train.net]\n", "[prepare.train]\nlist = \"lists.shapes/train\"\nresize = 28\n\n[train.net]\n")
        .replace("bits = [8, 16]\n", "bits = [8, 16]\nprepared = \"prepare.train/images\"\n");
    // The same networks come out: nothing behind them has to run.
    let expected = ["prepare.train", "train.net@bits=16", "train.net@bits=8"];
    assert_eq!(started(&space, &prepared, &[]), expected);
    assert_eq!(started(&space, &prepared.replace("epochs = 1", "epochs = 2"), &[]), without(&["lists", "prepare"]));
    assert_eq!(started(&space, &prepared, &[]), NONE);
    let verified = space.hashpipe(&["cache", "verify"]).ok();
    assert!(verified.stdout.contains("0 bad"), "{}", verified.stdout);

    let other = prepared.replace("resize = 28, crop", "resize = 30, crop");
    space.write("p.toml", other);
    let refused = space.run(&[]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stdout.contains("the images were prepared for another transform"), "{}", refused.stdout);
}
