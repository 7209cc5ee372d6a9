//! Promises about the source itself: who imports whom, what is registered, what is in a key.

use crate::space::{PIPELINE, Space};
use hashpipe::cache::{Contents, Key, key, lines};
use hashpipe::config::{Config, Request};
use hashpipe::dataset::source::SourceSpec;
use hashpipe::model::{
    DataParallel, backbone::BackboneSpec, loss::LossSpec, optim::OptimizerSpec, schedule::ScheduleSpec,
};
use hashpipe::plan::{Plan, Task};
use hashpipe::stage::{STAGES, Shape};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The table of `doc/design.md`: `module: the modules it may use`.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("doc/design.md")).unwrap();
    let (_, rest) = text.split_once("```imports\n").expect("doc/design.md has a block ```imports");
    let (block, _) = rest.split_once("```").unwrap();
    let row = |line: &str| {
        let (module, allowed) = line.split_once(':')?;
        Some((module.trim().to_string(), allowed.split_whitespace().map(str::to_string).collect()))
    };
    block.lines().filter_map(row).collect()
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Files of tests may use anything, too.
        if path.is_dir() {
            files.extend(sources(&path))
        } else if !path.to_string_lossy().ends_with("tests.rs") {
            files.push(path)
        }
    }
    files
}

/// The names behind `crate::` in a text, `crate::{a, b::c}` included; tests at the end of a file may use anything.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or(text);
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                for part in list.split_inclusive([',', '{', '}']) {
                    if depth == 0 {
                        found.insert(word(part));
                    }
                    depth += match part.chars().last() {
                        Some('{') => 1,
                        Some('}') => -1,
                        _ => 0,
                    };
                    if depth < 0 {
                        break;
                    }
                }
            }
            None => drop(found.insert(word(rest))),
        }
    }
    found.remove("");
    found
}

#[test]
fn imports_follow_the_table_of_the_design() {
    let (table, src) = (table(), root().join("src"));
    let mut wrong = vec![];
    for path in sources(&src) {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
        let module = name.split(['/', '.']).next().unwrap().to_string();
        if matches!(module.as_str(), "lib" | "main" | "cli") {
            continue;
        }
        let Some(allowed) = table.get(&module) else {
            wrong.push(format!("`{module}` has no row in the table"));
            continue;
        };
        // The macro `choices!` and the names it is called by are not modules.
        let used = imports(&std::fs::read_to_string(&path).unwrap());
        for other in used.into_iter().filter(|other| *other != module && !allowed.contains(other)) {
            wrong.push(format!("src/{name}: `{module}` may not use `{other}`"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_registered_is_well_formed_and_used() {
    let pipelines: String = std::fs::read_dir(root().join("pipelines"))
        .unwrap()
        .chain(std::fs::read_dir(root().join("pipelines/parts")).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let mut names = BTreeSet::new();
    for kind in STAGES {
        assert!(names.insert(kind.name), "{} twice", kind.name);
        assert!(kind.name.chars().all(|c| c.is_ascii_lowercase()) && kind.version > 0);
        assert!(!kind.about.ends_with('.') && !kind.about.contains('\n') && kind.about.len() < 100);
        assert!(pipelines.contains(&format!("[{}.", kind.name)), "no pipeline uses `{}`", kind.name);
        // Reads every construct of its schema, or panics.
        let _ = kind.shape();
    }
    // `synchronous` is what a training is without a word.
    let unused = ["constant", "synchronous"];
    let learning = [LossSpec::NAMES, OptimizerSpec::NAMES, ScheduleSpec::NAMES, DataParallel::NAMES];
    let choices = [&[SourceSpec::NAMES, BackboneSpec::NAMES], &learning[..]].concat();
    for name in choices.concat().into_iter().filter(|name| !unused.contains(name)) {
        let used = [format!("name = \"{name}\"")];
        assert!(used.iter().any(|text| pipelines.contains(text)), "no pipeline uses `{name}`");
    }
}

/// Every task of the shipped pipelines.
fn tasks() -> Vec<Task> {
    let folder = std::fs::read_dir(root().join("pipelines")).unwrap().map(|entry| entry.unwrap().path());
    let files = folder.filter(|path| path.extension().is_some_and(|end| end == "toml"));
    let plan = |file: PathBuf| {
        let request = Request { file, ..Request::default() };
        Plan::new(&Config::load(&request).unwrap()).unwrap_or_else(|e| panic!("{}", e.render("error")))
    };
    files.flat_map(|file| plan(file).tasks).collect()
}

/// Contents of the right form: every reference has a digest of its own.
fn contents(task: &Task) -> Contents {
    let digest = |text: &String| (text.clone(), blake3::hash(text.as_bytes()).to_hex().to_string());
    Contents {
        inputs: task.inputs.keys().map(digest).collect(),
        files: vec![("a".into(), "0".into()), ("b".into(), "1".into())],
        facts: vec![("program".into(), "0".into())],
    }
}

/// Every parameter that a table may have stands among those the key is made of: what is left out of a key says so in its
/// schema, and is not just hidden.
#[test]
fn parameters_hold_all_of_their_tables() {
    fn look(shape: &Shape, value: &Value, at: &str) {
        let params = match shape {
            Shape::Table(params) => params,
            Shape::Choice(variants) => &variants.iter().find(|variant| value["name"] == variant.name).unwrap().params,
            _ => return,
        };
        for param in params.iter().filter(|param| !matches!(param.shape, Shape::Wants)) {
            let below = format!("{at}.{}", param.name);
            let value = value.get(&param.name).unwrap_or_else(|| panic!("{below} is not among the parameters"));
            if !value.is_null() {
                look(&param.shape, value, &below);
            }
        }
    }
    tasks().iter().for_each(|task| look(&task.kind.shape(), &task.params, &task.name));
}

fn key_of(task: &Task, contents: &Contents) -> Key {
    key(&lines(task, contents))
}

/// Pointers to every leaf of the parameters; references and places count as leaves.
fn leaves(value: &Value, at: String, out: &mut Vec<String>) {
    let marked = |map: &serde_json::Map<String, Value>| map.contains_key("$ref") || map.contains_key("$place");
    match value {
        Value::Object(map) if !marked(map) => {
            map.iter().for_each(|(key, value)| leaves(value, format!("{at}/{key}"), out))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| leaves(value, format!("{at}/{i}"), out)),
        _ => out.push(at),
    }
}

/// Another value of the same type.
fn other(value: &Value) -> Value {
    match value {
        Value::Bool(value) => json!(!value),
        Value::Number(n) => n.as_u64().map_or_else(|| json!(n.as_f64().unwrap() * 1.5 + 1.0), |n| json!(n + 1)),
        Value::String(text) => json!(format!("{text}x")),
        Value::Null => json!(1),
        other => panic!("{other} is no leaf"),
    }
}

#[test]
fn any_change_of_a_parameter_or_input_changes_the_key() {
    for mut task in tasks() {
        let contents = contents(&task);
        let before = key_of(&task, &contents);
        let mut pointers = vec![];
        leaves(&task.params, String::new(), &mut pointers);
        assert!(!pointers.is_empty());
        for pointer in pointers {
            let value = task.params.pointer(&pointer).unwrap().clone();
            if value.get("$place").is_some() || value.get("$ref").is_some() {
                continue;
            }
            *task.params.pointer_mut(&pointer).unwrap() = other(&value);
            assert_ne!(key_of(&task, &contents), before, "{}: {pointer}", task.name);
            *task.params.pointer_mut(&pointer).unwrap() = value;
        }
        for text in task.inputs.keys() {
            let mut changed = contents.clone();
            changed.inputs.insert(text.clone(), "f".repeat(64));
            assert_ne!(key_of(&task, &changed), before, "{}: content of {text}", task.name);
        }
        for change in 0..4 {
            let mut changed = contents.clone();
            match change {
                0 => drop(changed.files.pop()),
                3 => changed.facts[0].1 = "1".into(),
                1 => changed.files[0].0 = "aa".into(),
                _ => changed.files[0].1 = "2".into(),
            }
            assert_ne!(key_of(&task, &changed), before, "{}: files", task.name);
        }
        assert_eq!(key_of(&task, &contents), before);
    }
}

#[test]
fn swapped_inputs_are_another_key() {
    let task = tasks().into_iter().find(|task| task.kind.name == "evaluate").unwrap();
    let before = contents(&task);
    let mut swapped = before.clone();
    let names: Vec<String> = before.inputs.keys().cloned().collect();
    swapped.inputs.insert(names[0].clone(), before.inputs[&names[1]].clone());
    swapped.inputs.insert(names[1].clone(), before.inputs[&names[0]].clone());
    assert_ne!(key_of(&task, &before), key_of(&task, &swapped));
}

#[test]
fn no_path_of_the_users_is_hidden_in_a_plain_string() {
    for task in tasks() {
        let mut pointers = vec![];
        leaves(&task.params, String::new(), &mut pointers);
        for pointer in pointers {
            if let Some(Value::String(text)) = task.params.pointer(&pointer) {
                let path = root().join(text);
                assert!(text.is_empty() || text == "." || !path.is_file(), "{}: {pointer} names a file", task.name);
            }
        }
    }
}

/// Keys by which results of earlier programs lie in caches.
const KEYS: [(&str, &str); 12] = [
    ("command.x", "ec3a89590ded"),
    ("encode.database@bits=16", "17a4e986a19e"),
    ("encode.database@bits=8", "17a4e986a19e"),
    ("encode.query@bits=16", "2459e0cc1a63"),
    ("encode.query@bits=8", "2459e0cc1a63"),
    ("evaluate.map@bits=16", "015dfe933bcf"),
    ("evaluate.map@bits=8", "015dfe933bcf"),
    ("export.files@bits=16", "e6ad9bb035ca"),
    ("export.files@bits=8", "e6ad9bb035ca"),
    ("lists.shapes", "0f8228eadb19"),
    ("train.net@bits=16", "dc54d3d5860a"),
    ("train.net@bits=8", "264d92bfa9ae"),
];

/// A parameter that comes changes these, unless it says what was done before (`extend("before" = ..)`, see "Parameters that
/// come later" in `doc/design.md`). Who changes them on purpose raises the stage's `VERSION`, and writes the new ones here.
#[test]
fn results_of_earlier_programs_are_found_by_the_same_keys() {
    let space = Space::empty();
    let command = "\n[command.x]\nrun = ['sort', '{in.list}', '-n', '{param.n}', '{out.o}']\nparams = { n = 3 }\n\
                   inputs = { list = 'lists.shapes/train' }\noutputs = { o = 'o.txt' }\nenv = ['LANG']\n";
    space.write("p.toml", PIPELINE.to_string() + command);
    let request = Request { file: space.path("p.toml"), ..Request::default() };
    let plan = Plan::new(&Config::load(&request).unwrap()).unwrap();
    let keys: BTreeMap<&str, String> =
        plan.tasks.iter().map(|task| (task.name.as_str(), key_of(task, &contents(task)).short().to_string())).collect();
    let expected: BTreeMap<&str, String> = KEYS.iter().map(|(task, key)| (*task, key.to_string())).collect();
    assert_eq!(keys, expected);
}
