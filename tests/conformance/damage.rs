//! What is changed in the cache or beside it, or lost, or torn: noticed, mended, and never taken for good.

use crate::scene::{Gate, Going, count, listing, project, said, state, states, tally, text, wait_for, write_stages};
use crate::space::{Ended, Space, damage};
use std::path::{Path, PathBuf};

const NONE: [&str; 0] = [];

/// A chain of two commands and a folder of outputs; every start adds a line to `runs`.
fn chain() -> Space {
    let space = project("", &[("a.txt", "one\ntwo\n")]);
    let run = tally(&space, "runs");
    write_stages(
        &space,
        &format!(
            "[command.up]\nrun = '{run}; tr a-z A-Z < {{in.a}} > {{out.o}}'\ninputs = {{ a = 'a.txt' }}\noutputs = {{ o = 'r/up.txt' }}\n\
             [command.split]\nrun = '{run}; mkdir -p {{out.o}}/sub; head -n1 {{in.a}} > {{out.o}}/x; tail -n1 {{in.a}} > {{out.o}}/sub/y'\n\
             inputs = {{ a = 'command.up/o' }}\noutputs = {{ o = 'r/split' }}\n"
        ),
    );
    space.run(&[]).ok();
    space
}

fn warnings(ended: &Ended) -> usize {
    ended.stderr.matches("warning:").count() + ended.tasks("warning").len()
}

#[test]
fn an_output_changed_at_its_place_is_restored_and_the_change_is_kept() {
    let space = chain();
    for time in 1..=2 {
        space.write("r/up.txt", format!("edited {time}\n"));
        let ended = space.run(&[]).ok();
        assert_eq!((ended.tasks("start"), warnings(&ended)), (vec![], 1), "{}", ended.stderr);
        assert!(ended.stderr.contains("r/up.txt` was not what its task gave"), "{}", ended.stderr);
        assert_eq!(text(&space, "r/up.txt"), "ONE\nTWO\n");
        assert_eq!(text(&space, &format!("r/up.txt.before-{time}")), format!("edited {time}\n"));
    }
}

#[test]
fn an_output_that_is_gone_from_its_place_is_put_there_again() {
    let space = chain();
    std::fs::remove_dir_all(space.path("r")).unwrap();
    let ended = space.run(&[]).ok();
    assert_eq!((ended.tasks("start"), warnings(&ended)), (vec![], 0));
    assert_eq!((text(&space, "r/up.txt"), text(&space, "r/split/sub/y")), ("ONE\nTWO\n".into(), "TWO\n".into()));
}

#[test]
fn a_folder_changed_at_its_place_is_restored_file_by_file() {
    let space = chain();
    space.write("r/split/x", "edited\n");
    space.write("r/split/mine", "my own\n");
    std::fs::remove_file(space.path("r/split/sub/y")).unwrap();
    let ended = space.run(&[]).ok();
    assert_eq!(ended.tasks("start"), NONE);
    let read = ["split/x", "split/sub/y", "split.before-1/x", "split.before-1/mine"]
        .map(|name| text(&space, &format!("r/{name}")));
    // What a person put there is not lost: beside the folder, where it is in nobody's way the next time.
    assert_eq!(read, ["ONE\n", "TWO\n", "edited\n", "my own\n"]);
    let before = listing(&space.path("r"));
    assert_eq!(warnings(&space.run(&[]).ok()), 0);
    assert_eq!(listing(&space.path("r")), before);
}

#[test]
fn empty_folders_of_an_output_are_put_there_too() {
    let space = project("[command.x]\nrun = 'mkdir -p {out.o}/a/none {out.o}/b'\noutputs = { o = 'r' }\n", &[]);
    space.run(&[]).ok();
    assert!(space.path("r/a/none").is_dir() && space.path("r/b").is_dir());
    let before = listing(&space.path("r"));
    space.run(&[]).ok();
    assert_eq!(listing(&space.path("r")), before);
    std::fs::remove_dir(space.path("r/b")).unwrap();
    std::fs::create_dir_all(space.path("r/more/of/it")).unwrap();
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
    assert!(space.path("r/b").is_dir() && !space.path("r/more").exists());
}

#[test]
fn what_stands_in_the_way_of_an_output_is_moved_aside() {
    let space = chain();
    std::fs::remove_file(space.path("r/up.txt")).unwrap();
    space.write("r/up.txt/notes", "my own\n");
    space.write("elsewhere/x", "my own\n");
    let before = listing(&space.path("elsewhere"));
    for target in ["../a.txt", "../elsewhere", "../nowhere"] {
        std::fs::remove_dir_all(space.path("r/split")).unwrap();
        std::os::unix::fs::symlink(target, space.path("r/split")).unwrap();
        assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
        assert_eq!(
            (text(&space, "r/up.txt"), text(&space, "r/split/x")),
            ("ONE\nTWO\n".into(), "ONE\n".into()),
            "{target}"
        );
        assert!(!space.path("r/split").is_symlink() && space.path("r/split.before-1").is_symlink());
        std::fs::remove_file(space.path("r/split.before-1")).unwrap();
        assert_eq!(listing(&space.path("elsewhere")), before, "where a link leads to is untouched");
    }
    assert_eq!(text(&space, "r/up.txt.before-1/notes"), "my own\n");
    assert_eq!(text(&space, "a.txt"), "one\ntwo\n");
}

#[test]
fn a_damaged_object_is_set_aside_with_one_warning_and_made_again() {
    let space = chain();
    let (file, folder) = (space.object("command.up", "o"), space.object("command.split", "o"));
    for (damaged, task) in [(file.clone(), "command.up"), (folder.join("sub/y"), "command.split")] {
        let before = std::fs::read(&damaged).unwrap();
        damage(&damaged);
        assert_eq!(state(&space, task), "corrupt");
        assert_eq!(
            std::fs::read_dir(space.path("cache/v2/damaged")).unwrap().count(),
            usize::from(task != "command.up")
        );
        let ended = space.run(&[]).ok();
        assert_eq!((ended.tasks("start"), warnings(&ended)), (vec![task.to_string()], 1), "{}", ended.stdout);
        assert!(ended.stdout.contains("is damaged and will not be used"), "{}", ended.stdout);
        assert_eq!(std::fs::read(&damaged).unwrap(), before);
        assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
    }
    assert_eq!(std::fs::read_dir(space.path("cache/v2/damaged")).unwrap().count(), 2);
}

#[test]
fn a_file_too_many_in_a_cached_folder_is_damage() {
    let space = chain();
    std::fs::write(space.object("command.split", "o").join("more"), "").unwrap();
    assert_eq!(space.run(&[]).ok().tasks("start"), ["command.split"]);
    assert!(!space.path("r/split/more").exists());
}

/// Every file of the cache that is no object.
fn small_files(space: &Space) -> Vec<PathBuf> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, out) } else { out.push(path) }
        }
    }
    let mut files = vec![];
    walk(&space.path("cache"), &mut files);
    files.retain(|path| !path.starts_with(space.path("cache/v2/objects")));
    files.sort();
    files
}

/// What a run and the readers say of a project whose small files are torn; results must be as before.
fn still_right(space: &Space, what: &str) {
    let ended = space.run(&[]);
    assert_eq!(ended.code, 0, "{what}: {}", ended.stderr);
    assert_eq!(
        (text(space, "r/up.txt"), text(space, "r/split/sub/y")),
        ("ONE\nTWO\n".into(), "TWO\n".into()),
        "{what}"
    );
    let states = states(space, &[]);
    assert!(states.values().all(|(state, _)| state == "cached"), "{what}: {states:?}");
    for reader in [&["runs"][..], &["explain", "p.toml", "command", "--hit"], &["run", "-n", "p.toml"]] {
        assert_eq!(space.hashpipe(reader).code, 0, "{what}: {reader:?}");
    }
}

#[test]
fn torn_files_are_never_fatal_and_never_believed() {
    let base = chain();
    // A record of a run is there, and an unfinished key's owner and lock.
    base.run(&["--set", "command.up.run='exit 1'"]);
    base.run(&[]).ok();
    let tear = |path: &Path, how: usize| {
        let bytes = std::fs::read(path).unwrap();
        let torn = match how {
            0 => bytes[..bytes.len() / 2].to_vec(),
            1 => vec![],
            2 => b"{\"\0\xff garbage\n".to_vec(),
            _ => bytes.iter().map(|byte| byte ^ 0x15).collect(),
        };
        let _ = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644));
        std::fs::write(path, torn).unwrap();
    };
    let names: Vec<PathBuf> =
        small_files(&base).iter().map(|path| path.strip_prefix(base.path("")).unwrap().to_path_buf()).collect();
    let kinds = ["actions", "known", "digests", "runs", "scratch"];
    assert!(
        kinds.iter().all(|kind| names.iter().any(|name| name.starts_with(format!("cache/v2/{kind}")))),
        "{names:?}"
    );
    for name in &names {
        let space = base.copy();
        tear(&space.path(name.to_str().unwrap()), 0);
        still_right(&space, name.to_str().unwrap());
    }
    for how in 0..4 {
        let space = base.copy();
        small_files(&space).iter().for_each(|path| tear(path, how));
        still_right(&space, &format!("all, in way {how}"));
    }
}

/// One that can be read, and names another object that is there: only its checksum tells.
#[test]
fn a_record_that_was_changed_is_not_believed() {
    let space = chain();
    let digest = || space.record("command.up")["outputs"]["o"]["digest"].as_str().unwrap().to_string();
    let right = digest();
    space.write("a.txt", "three\nfour\n");
    space.run(&[]).ok();
    let other = digest();
    space.write("a.txt", "one\ntwo\n");
    space.run(&[]).ok();
    let mut changed = 0;
    for path in small_files(&space) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if text.contains(&right) {
            let _ = std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644));
            std::fs::write(&path, text.replace(&right, &other)).unwrap();
            changed += 1;
        }
    }
    assert!(changed >= 2, "the record, and what is known of the pipeline");
    still_right(&space, "changed records");
}

#[test]
fn what_is_gone_from_the_cache_is_evicted_until_someone_needs_it() {
    let space = chain();
    std::fs::remove_file(space.object("command.up", "o")).unwrap();
    assert_eq!((state(&space, "command.up"), state(&space, "command.split")), ("evicted".into(), "cached".into()));
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE, "nobody needs it");
    std::fs::remove_dir_all(space.object("command.split", "o")).unwrap();
    assert_eq!(state(&space, "command.split"), "evicted");
    assert_eq!(space.run(&[]).ok().tasks("start"), ["command.split", "command.up"], "the last one is wanted");
    assert_eq!(count(&space, "runs"), 4);
}

#[test]
fn what_is_gone_is_made_in_its_order() {
    // `b` and `d` have to run; `c`, which `d` needs, and `a`, which both need, are gone.
    let stages = |n: u32| {
        format!(
            "[command.a]\nrun = 'echo a > {{out.o}}'\noutputs = {{ o = '' }}\n\
             [command.b]\nrun = 'echo {n}; cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.a/o' }}\noutputs = {{ o = '' }}\n\
             [command.c]\nrun = 'cat {{in.i}} {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.a/o' }}\noutputs = {{ o = '' }}\n\
             [command.d]\nrun = 'echo {n}; cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.c/o' }}\noutputs = {{ o = '' }}\n"
        )
    };
    for swapped in [false, true] {
        let swap = |text: String| if swapped { text.replace("command.b", "command.z") } else { text };
        let space = project(&swap(stages(1)), &[]);
        space.run(&[]).ok();
        for task in ["command.a", "command.c"] {
            std::fs::remove_file(space.object(task, "o")).unwrap();
        }
        write_stages(&space, &swap(stages(2)));
        assert_eq!(space.run(&["--jobs", "4"]).ok().tasks("done").len(), 4);
        assert_eq!(std::fs::read(space.object("command.d", "o")).unwrap(), b"a\na\n");
    }
}

#[test]
fn a_stage_that_gives_other_bytes_again_is_noticed_and_the_first_result_stays() {
    let space = Space::empty();
    let runs = space.path("runs");
    // Its output is how often it ran.
    write_stages(
        &space,
        &format!(
            "[command.n]\nrun = 'echo x >> {0}; wc -l < {0} > {{out.o}}'\noutputs = {{ o = 'n.txt' }}\n",
            runs.display()
        ),
    );
    space.run(&[]).ok();
    let again = space.run(&["--force", "command.n"]).ok();
    assert!(
        again.stdout.contains("is not deterministic") && again.stdout.contains("the first result is kept"),
        "{}",
        again.stdout
    );
    assert_eq!((text(&space, "n.txt").trim(), count(&space, "runs")), ("1", 2));
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
    let shown = space.hashpipe(&["explain", "p.toml", "command.n"]).ok().stdout;
    assert!(shown.contains("not deterministic: the same key gave 1 other result"), "{shown}");
    let line = &space.hashpipe(&["status", "p.toml", "--json"]).ok().json()[0];
    assert_eq!(line["variants"], 1);

    // Its bytes are gone, and it cannot be made again: what comes instead counts from now on.
    std::fs::remove_file(space.object("command.n", "o")).unwrap();
    let instead = space.run(&[]).ok();
    assert!(
        instead.stdout.contains("is not deterministic") && instead.stdout.contains("this one is used"),
        "{}",
        instead.stdout
    );
    assert_eq!(text(&space, "n.txt").trim(), "3");
    assert_eq!(space.run(&[]).ok().tasks("start"), NONE);
}

#[test]
fn followers_of_a_stage_that_gives_other_bytes_are_judged_by_those() {
    let space = Space::empty();
    let runs = space.path("runs");
    write_stages(
        &space,
        &format!(
            "[command.n]\nrun = 'echo x >> {0}; wc -l < {0} > {{out.o}}'\noutputs = {{ o = '' }}\n\
             [command.twice]\nrun = 'cat {{in.i}} {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.n/o' }}\noutputs = {{ o = 'twice.txt' }}\n",
            runs.display()
        ),
    );
    space.run(&[]).ok();
    std::fs::remove_file(space.object("command.n", "o")).unwrap();
    assert_eq!(space.run(&["--force", "command.twice"]).ok().tasks("start"), ["command.n", "command.twice"]);
    let lines: Vec<String> = text(&space, "twice.txt").lines().map(|line| line.trim().to_string()).collect();
    assert_eq!(lines, ["2", "2"]);
}

#[test]
fn a_result_made_from_a_cached_file_that_changed_meanwhile_is_thrown_away() {
    let space = Space::empty();
    let gate = Gate::new(&space, "gate");
    write_stages(
        &space,
        &format!(
            "[command.a]\nrun = 'echo good > {{out.o}}'\noutputs = {{ o = '' }}\n\
             [command.b]\nrun = '{}; cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.a/o' }}\noutputs = {{ o = 'b.txt' }}\n",
            gate.wait()
        ),
    );
    let run = Going::start(&space, &[]);
    let at = gate.reached();
    damage(&wait_for("the record of a", || {
        space.last_key("small", "command.a").map(|_| space.object("command.a", "o"))
    }));
    at.open();
    let ended = run.end();
    assert_eq!(ended.code, 4, "{}", said(&ended));
    assert!(said(&ended).contains("it lies in the cache"), "{}", said(&ended));
    assert!(space.last_key("small", "command.b").is_none() && !space.path("b.txt").exists());
    let run = Going::start(&space, &[]);
    gate.reached().open();
    assert_eq!((run.end().code, text(&space, "b.txt").as_str()), (0, "good\n"));
}

#[test]
fn a_command_that_writes_to_its_input_has_no_result() {
    let run = |input: &str| {
        format!(
            "[command.a]\nrun = 'echo good > {{out.o}}'\noutputs = {{ o = '' }}\n\
             [command.b]\nrun = 'echo more >> {{in.i}}; cat {{in.i}} > {{out.o}}'\ninputs = {{ i = '{input}' }}\noutputs = {{ o = 'b.txt' }}\n"
        )
    };
    for input in ["command.a/o", "a.txt"] {
        let space = project(&run(input), &[("a.txt", "good\n")]);
        // Without being root it may not even write to the cache.
        assert_ne!(space.run(&[]).code, 0, "{input}");
        assert!(space.last_key("small", "command.b").is_none() && !space.path("b.txt").exists());
    }
}
