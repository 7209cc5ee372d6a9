//! What the commands show, and the pipelines that are shipped.

use crate::space::{PIPELINE, Space};
use std::path::{Path, PathBuf};

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect()
}

#[test]
fn every_shipped_pipeline_plans_without_its_data() {
    let space = Space::empty();
    for pipeline in shipped() {
        let file = pipeline.to_str().unwrap();
        let ended = space.hashpipe(&["run", "--dry-run", file, "--set", "vars.root=/nowhere"]).ok();
        let missing = ended.stdout.contains("needs these files");
        let generated = ["shapes.toml", "commands.toml"].iter().any(|name| file.ends_with(name));
        assert_eq!(missing, !generated, "{file}: {}", ended.stdout);
        for form in ["--tasks", "--dot", "--mermaid"] {
            space.hashpipe(&["graph", file, form]).ok();
        }
        assert!(!space.hashpipe(&["graph", file]).ok().stdout.contains("  \n"));
    }
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let space = Space::new();
    let ended = space.hashpipe(&["run", "-n", "p.toml"]).ok();
    let line = |task: &str| -> Vec<&str> {
        let line = ended.stdout.lines().find(|line| line.contains(&format!(" {task} "))).unwrap();
        line.split_whitespace().collect()
    };
    assert_eq!(line("lists.shapes"), ["run", "lists.shapes", "never", "run", "before"]);
    assert_eq!(line("train.net@bits=8"), ["unknown", "train.net@bits=8", "waits", "for", "lists.shapes"]);
    assert!(!space.path("cache").exists() && !space.path("output").exists());
}

#[test]
fn the_main_job_tells_what_it_found_and_then_has_nothing_to_do() {
    let space = Space::new();
    let first = space.hashpipe(&["run", "p.toml"]).ok();
    let head: Vec<&str> = first.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["bits", "mAP@10", "chance", "lists", "train", "encode", "evaluate", "export", "files"]);
    assert_eq!(first.stdout.lines().count(), 3, "{}", first.stdout);
    assert!(space.path("output/small/export.files@bits=8/database_code_8.npy").exists());
    assert!(space.path("output/small/report.md").exists());
    let second = space.hashpipe(&["run", "p.toml"]).ok();
    assert_eq!(second.stdout, "");
    assert_eq!(second.stderr, "hashpipe: nothing to do, 11 tasks cached; output/small/report.md\n");
}

#[test]
fn status_knows_every_state() {
    let space = Space::new();
    let states = |more: &[&str]| -> Vec<String> {
        let ended = space.hashpipe(&[&["status", "p.toml", "--json"], more].concat()).ok();
        ended.json().iter().map(|line| line["state"].as_str().unwrap().to_string()).collect()
    };
    let count = |states: &[String], state: &str| states.iter().filter(|s| *s == state).count();
    let fresh = states(&[]);
    assert_eq!((count(&fresh, "ready"), count(&fresh, "blocked")), (1, 10));
    assert_eq!(space.hashpipe(&["status", "p.toml", "--check"]).code, 3);

    space.run(&[]).ok();
    assert_eq!(count(&states(&[]), "cached"), 11);
    assert_eq!(space.hashpipe(&["status", "p.toml", "--check"]).code, 0);
    let changed = states(&["--set", "evaluate.map.top_k=3"]);
    assert_eq!((count(&changed, "cached"), count(&changed, "stale")), (9, 2));
    let text = space.hashpipe(&["status", "p.toml", "--set", "evaluate.map.top_k=3"]).ok().stdout;
    assert!(text.contains("`top_k` changed: 10 -> 3"), "{text}");

    let all = space.hashpipe(&["status"]).ok().stdout;
    assert!(all.contains("small     evaluate.map@bits=8") && all.contains("mAP@10"), "{all}");
    assert!(all.contains("11 tasks"), "{all}");
}

#[test]
fn a_database_image_finds_itself_first() {
    let space = Space::new();
    assert_eq!(space.hashpipe(&["query", "p.toml", "x.jpg", "--bits", "8"]).code, 2, "nothing is cached yet");
    space.run(&[]).ok();
    let images = space.object("lists.shapes", "images");
    let list = hashpipe::dataset::List::read(&space.object("lists.shapes", "database")).unwrap();
    let picture = images.join(&list.items[5].path);
    let picture = picture.to_str().unwrap();

    let ended =
        space.hashpipe(&["query", "p.toml", picture, "--bits", "16", "--top", "3", "--json", "--save", "found"]).ok();
    let answer = &ended.json()[0];
    assert_eq!((&answer["bits"], answer["matches"].as_array().unwrap().len()), (&16.into(), 3));
    assert_eq!(answer["matches"][0]["distance"], 0);
    assert!(answer["matches"][0]["index"].as_u64().unwrap() <= 5, "the first of equals: {answer}");
    assert_eq!(std::fs::read_dir(space.path("found")).unwrap().count(), 3);

    let several = space.hashpipe(&["query", "p.toml", picture]);
    assert!(several.code == 2 && several.stderr.contains("encode.database@bits=8"), "{}", several.stderr);
    let missing = space.hashpipe(&["query", "p.toml", "none.jpg", "--bits", "8"]);
    assert!(missing.code == 2 && missing.stderr.contains("there is no image `none.jpg`"), "{}", missing.stderr);
    space.write("text.jpg", "no picture");
    let broken = space.hashpipe(&["query", "p.toml", "text.jpg", "--bits", "8"]);
    assert!(broken.code == 2 && broken.stderr.contains("`text.jpg` cannot be decoded"), "{}", broken.stderr);
}

#[test]
fn stages_are_told_from_what_parses_them() {
    let space = Space::empty();
    let all = space.hashpipe(&["stages"]).ok().stdout;
    for kind in hashpipe::stage::STAGES {
        assert!(all.contains(&format!("[{}.NAME]  {}", kind.name, kind.about)), "{all}");
    }
    let train = space.hashpipe(&["stages", "train"]).ok().stdout;
    assert!(train.contains("name = \"hashnet\"") && train.contains("a whole number from 1 to 1024"), "{train}");
    assert!(space.hashpipe(&["stages", "trian"]).stderr.contains("did you mean `train`?"));
}

#[test]
fn exported_files_are_what_other_programs_read() {
    let space = Space::new();
    space.run(&[]).ok();
    let folder = space.path("output/small/export.files@bits=16");
    let (codes, _) = hashpipe::retrieval::read(&space.object("encode.database@bits=16", "codes")).unwrap();
    let plain = hashpipe::npy::read(&folder.join("database_code_16.npy")).unwrap();
    let packed = hashpipe::npy::read(&folder.join("database_code_16_packed.npy")).unwrap();
    assert_eq!((plain.shape.as_slice(), packed.shape.as_slice()), ([24, 16].as_slice(), [24, 2].as_slice()));
    for (position, sign) in plain.to_f64().into_iter().enumerate() {
        let (row, bit) = (position / 16, position % 16);
        assert_eq!(sign, if codes.bit(row, bit) { 1.0 } else { -1.0 });
        let byte = packed.to_f64()[row * 2 + bit / 8] as u8;
        assert_eq!(byte >> (bit % 8) & 1 == 1, codes.bit(row, bit));
    }
    let about: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("model_16.json")).unwrap()).unwrap();
    assert_eq!((&about["bits"], &about["transform"]["crop"]), (&16.into(), &24.into()));
}

#[test]
fn exported_files_answer_as_the_trained_network_does() {
    let space = Space::empty();
    let infer = "\n[infer.exported]\nmodel = \"train.net/model\"\ncodes = \"encode.database/codes\"\n\
                 exported = \"export.files/files\"\nlist = \"lists.shapes/query\"\ndatabase = \"lists.shapes/database\"\n";
    space.write("p.toml", format!("{PIPELINE}{infer}"));
    let run = space.run(&[]).ok();
    assert!(run.tasks("done").contains(&"infer.exported@bits=8".to_string()));
    let lines = std::fs::read_to_string(space.path("output/small/infer.exported@bits=8/inference.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 8);
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped must say so")]
fn the_reference_chain_runs_on_its_pictures() {
    let Some(folder) = crate::coco_lite() else {
        return println!("skipped: COCO's pictures are not here");
    };
    let space = Space::empty();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/coco_lite.toml");
    let (file, cache, output) = (file.to_str().unwrap(), space.path("cache"), space.path("output"));
    let root = format!("vars.root={}", folder.display());
    // One length and one epoch of a network that a debug build can train.
    let ended = space.hashpipe(&[
        "run",
        file,
        "--set",
        &root,
        "--set",
        "train.hashnet.bits=[16]",
        "--set",
        "train.hashnet.epochs=1",
        "--set",
        "train.hashnet.backbone={name=\"small\",channels=[4,8],width=16}",
        "--set",
        "train.hashnet.transform={resize=40,crop=32}",
        "--cache",
        cache.to_str().unwrap(),
        "--output",
        output.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("4 of 4 queries are in the database"), "{}", ended.stderr);
    let lines = std::fs::read_to_string(output.join("coco_lite/infer.exported@bits=16/inference.jsonl")).unwrap();
    for line in lines.lines() {
        let found: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(found["distance"], 0, "every query is in this database: {found}");
    }
}
