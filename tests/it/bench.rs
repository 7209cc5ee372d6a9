//! `hashpipe bench`, and what its figures are good for.

use crate::space::Space;
use serde_json::Value;

const NET: &str = r#"{ name = "small", channels = [4, 8], width = 16, dropout = 0.5 }"#;

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Seconds that a dry run foretells.
fn foretold(space: &Space, stage: &str) -> (f64, u64) {
    let dry = space.hashpipe(&["run", "p.toml", "--dry-run", "--json", "--only", stage]).ok();
    let last = json(&dry.stdout).into_iter().find_map(|line| line.get("forecast").cloned()).unwrap();
    (last["seconds"].as_f64().unwrap(), last["unknown"].as_u64().unwrap())
}

#[test]
fn a_training_that_never_ran_is_foretold_by_what_was_measured() {
    let space = Space::new();
    space.run(&["--only", "lists"]).ok();
    let train = "train.net@bits=8";
    assert_eq!(foretold(&space, train).1, 1, "nothing is known");
    let net = ["--backbone", NET, "--side", "24", "--batch", "10", "--seconds", "0", "--json"];
    let found = json(&space.hashpipe(&[&["bench", "train"][..], &net].concat()).ok().stdout);
    let [figures] = &found[..] else { panic!("{found:?}") };
    let speed = figures["images_per_second"].as_f64().unwrap();
    assert!(figures["p10"].as_f64().unwrap() <= speed && speed <= figures["p90"].as_f64().unwrap());
    let (seconds, unknown) = foretold(&space, train);
    assert_eq!(unknown, 0);
    assert!((seconds - 24.0 / speed).abs() < 1e-6 * seconds, "{seconds} {speed}");
}

#[test]
fn several_batches_take_turns_and_each_is_told() {
    let space = Space::empty();
    let net = ["--backbone", NET, "--side", "24", "--batch", "4,8", "--seconds", "0", "--json"];
    let found = json(&space.hashpipe(&[&["bench", "forward"][..], &net].concat()).ok().stdout);
    let told: Vec<_> = found.iter().map(|line| (line["batch"].as_u64().unwrap(), line["device"].as_str())).collect();
    assert_eq!(told, [(4, Some("cpu")), (8, Some("cpu"))]);
    assert!(found.iter().all(|line| line["precision"] == "f32" && line["floor"].as_f64().unwrap() > 0.0));
}

#[test]
fn bench_tells_what_is_wrong_and_leaves_no_cache_behind() {
    let space = Space::new();
    for (arguments, told) in [
        (&["bench", "train", "--backbone", "alexnat"][..], "--backbone"),
        (&["bench", "forward", "--side", "100"], "224"),
        (&["bench", "forward", "--batch", "8,0"], "--batch"),
        (&["bench", "forward", "--device", "gpu"], "the number of a GPU"),
        (&["bench", "--seconds=-1"], "--seconds"),
        (&["bench", "hash", "none.bin"], "none.bin"),
        (&["bench", "images", "."], "holds no images"),
        (&["bench", "images", ".", "--crop", "300"], "crop"),
    ] {
        let ended = space.hashpipe(arguments);
        assert!(ended.code != 0 && ended.stderr.contains(told), "{arguments:?}: {}", ended.stderr);
    }
    // Where there is a GPU, this works.
    if !hashpipe::device::can_use_gpus() {
        let ended = space.hashpipe(&["bench", "train", "--device", "cuda:1"]);
        assert!(ended.code == 2 && ended.stderr.contains("built without CUDA"), "{}", ended.stderr);
        assert!(ended.stderr.contains("--device"), "{}", ended.stderr);
    }
    space.write("some.bin", "x".repeat(1 << 20));
    let ended = space.hashpipe(&["bench", "hash", "some.bin", "--seconds", "0"]).ok();
    assert!(ended.stdout.contains("some.bin"), "{}", ended.stdout);
    assert!(!space.path("cache").exists());
}
