//! What changes a key, and what does not: any command that can be written, and every stage of the shipped pipelines.

use hashpipe::cache::{Contents, Key, key, lines};
use hashpipe::config::{Config, Request};
use hashpipe::plan::{Plan, Task};
use hashpipe::stage::Ref;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// A command as a person may write it.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    words: Vec<String>,
    params: BTreeMap<String, Value>,
    /// Path and content.
    inputs: BTreeMap<String, (String, u8)>,
    /// Names and places.
    outputs: BTreeMap<String, String>,
    env: BTreeMap<String, u8>,
    program: u8,
    resume: bool,
    cache: bool,
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

impl Written {
    /// The pipeline file; `backwards` turns every order round that a person may choose.
    fn text(&self, backwards: bool, more: &str) -> String {
        let turned = |mut items: Vec<String>| {
            if backwards {
                items.reverse();
            }
            format!("{{ {} }}", items.join(", "))
        };
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        let params = self.params.iter().map(|(name, v)| format!("{name} = {}", value(v))).collect();
        let inputs = self.inputs.iter().map(|(name, (path, _))| format!("{name} = {}", quoted(path))).collect();
        let outputs = self.outputs.iter().map(|(name, place)| format!("{name} = {}", quoted(place))).collect();
        let env: Vec<String> = self.env.keys().map(|name| quoted(name)).collect();
        let mut lines = vec![
            format!("run = [{}]", words.join(", ")),
            format!("params = {}", turned(params)),
            format!("inputs = {}", turned(inputs)),
            format!("outputs = {}", turned(outputs)),
            format!("env = [{}]", env.join(", ")),
        ];
        if self.resume {
            lines.push("resume = true".into());
        }
        if !self.cache {
            lines.push("cache = false".into());
        }
        if backwards {
            lines.reverse();
        }
        let mut text = format!("name = 'p'\n[command.{}]\n", self.name);
        lines.iter().for_each(|line| writeln!(text, "{line}").unwrap());
        text + more
    }

    fn key(&self) -> Key {
        self.key_of(&self.text(false, ""))
    }

    /// The key that this text has, with the contents that are said here.
    fn key_of(&self, text: &str) -> Key {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), text).unwrap();
        let plan = plan(&folder.path().join("p.toml"));
        let task = &plan.tasks[0];
        let digest = |byte: &u8| blake3::hash(&[*byte]).to_hex().to_string();
        let mut facts = vec![("program".to_string(), digest(&self.program))];
        facts.extend(self.env.iter().map(|(name, value)| (format!("env.{name}"), digest(value))));
        facts.extend(task.step.seen_names(&|input: &Ref| input.0.clone()));
        let inputs = self.inputs.values().map(|(path, content)| (path.clone(), digest(content))).collect();
        key(&lines(task, &Contents { inputs, files: vec![], facts }))
    }
}

fn plan(file: &Path) -> Plan {
    let request = Request { file: file.to_path_buf(), ..Request::default() };
    Plan::new(&Config::load(&request).unwrap()).unwrap_or_else(|e| panic!("{}", e.render("error")))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e6..1e6f64).prop_filter("a number", |x| x.is_finite()).prop_map(Value::from),
        "[ -<>-z]{0,6}".prop_map(Value::from),
    ]
}

prop_compose! {
    fn written()(
        name in "[a-z]{1,5}",
        tail in prop::collection::vec("[a-z -]{1,6}", 0..3),
        params in prop::collection::btree_map("[a-z]{1,3}", scalar(), 1..4),
        inputs in prop::collection::btree_map("[a-z]{1,3}", ("[a-z]{1,4}[.]txt", any::<u8>()), 1..4),
        outputs in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{1,4}[.]txt", 1..3),
        env in prop::collection::btree_map("[A-Z]{1,3}", any::<u8>(), 0..3),
        program in any::<u8>(),
        named in any::<bool>(),
    ) -> Written {
        let holes = |what: &str, names: Vec<&String>| names.iter().map(|name| format!("{{{what}.{name}}}")).collect::<Vec<_>>();
        let mut words = vec!["program".to_string()];
        words.extend(tail);
        words.extend(holes("param", params.keys().collect()));
        if named {
            words.extend(holes("in", inputs.keys().collect()));
            words.extend(holes("out", outputs.keys().collect()));
        }
        // Every input a file, and every place, of its own.
        let inputs = inputs.into_iter().enumerate().map(|(i, (name, (path, content)))| (name, (format!("in{i}{path}"), content)));
        let outputs = outputs.into_iter().enumerate().map(|(i, (name, place))| (name, format!("out{i}{place}")));
        Written {
            name, words, params, inputs: inputs.collect(), outputs: outputs.collect(), env, program, resume: false, cache: true,
        }
    }
}

/// What any one value could be instead, its type changed as well.
fn others(value: &Value) -> Vec<Value> {
    let word = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut others = vec![Value::from(format!("{word}x")), Value::from(word.clone())];
    match value {
        Value::Bool(value) => others.push((!value).into()),
        Value::Number(number) => {
            others.push((number.as_f64().unwrap() + 1.0).into());
            others.extend(number.as_i64().map(|number| Value::from(number as f64)));
            others.extend(number.as_i64().map(|number| Value::from(number + 1)));
        }
        _ => others.extend([word.parse::<i64>().ok().map(Value::from), Some(Value::from(0))].into_iter().flatten()),
    }
    others.retain(|other| other != value);
    others
}

/// Every single change of what decides a result.
fn changes(written: &Written) -> Vec<(String, Written)> {
    let mut found = vec![];
    let mut add = |what: String, change: &dyn Fn(&mut Written)| {
        let mut changed = written.clone();
        change(&mut changed);
        found.push((what, changed));
    };
    for (name, value) in &written.params {
        for other in others(value) {
            add(format!("{name} = {other}"), &|w| drop(w.params.insert(name.clone(), other.clone())));
        }
        add(format!("another parameter beside {name}"), &|w| drop(w.params.insert("zzzz".into(), value.clone())));
    }
    for (name, (path, content)) in &written.inputs {
        add(format!("content of {name}"), &|w| drop(w.inputs.insert(name.clone(), (path.clone(), content ^ 1))));
        add(format!("{name} in another role"), &|w| {
            let input = w.inputs.remove(name).unwrap();
            w.inputs.insert("zzzz".into(), input);
            w.words
                .iter_mut()
                .filter(|word| **word == format!("{{in.{name}}}"))
                .for_each(|word| *word = "{in.zzzz}".into());
        });
        add(format!("ending of {name}"), &|w| {
            w.inputs.insert(name.clone(), (path.replace(".txt", ".csv"), *content));
        });
    }
    for (name, place) in &written.outputs {
        add(format!("ending of {name}"), &|w| drop(w.outputs.insert(name.clone(), place.replace(".txt", ".csv"))));
        add(format!("another output beside {name}"), &|w| drop(w.outputs.insert("zzzz".into(), "zzzz".into())));
    }
    for name in written.env.keys() {
        add(format!("value of {name}"), &|w| *w.env.get_mut(name).unwrap() ^= 1);
        add(format!("without {name}"), &|w| w.env.retain(|other, _| other != name));
    }
    add("the program".into(), &|w| w.program ^= 1);
    add("a word more".into(), &|w| w.words.push("x".into()));
    for i in 1..written.words.len() {
        add(format!("word {i}"), &|w| w.words[i].push('x'));
        add(format!("without word {i}"), &|w| drop(w.words.remove(i)));
    }
    add("resume".into(), &|w| w.resume = true);
    add("cache".into(), &|w| w.cache = false);
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_single_change_of_a_command_changes_its_key(written in written()) {
        let before = written.key();
        let mut seen = vec![before];
        for (what, changed) in changes(&written) {
            let key = changed.key();
            prop_assert!(key != seen[0], "{}", what);
            seen.push(key);
        }
    }

    #[test]
    fn order_form_names_resources_and_places_change_no_key_of_a_command(written in written(), named in "[a-z]{6}") {
        let before = written.key();
        prop_assert_eq!(&written.key_of(&written.text(true, "")), &before, "order");
        let spaced = written.text(false, "").replace(" = ", "   =\t").replace('\n', "   # a comment\n\n");
        prop_assert_eq!(&written.key_of(&spaced), &before, "form");
        let resources = "resources = { cpus = 1, memory = '1GiB', gpus = 0, gpu_memory = '1GiB', timeout = '1h', priority = 2 }\n";
        prop_assert_eq!(&written.key_of(&written.text(false, resources)), &before, "resources");
        let more = "[resources]\ncommand = { cpus = 2 }\nhost = { memory = '1GiB' }\n[vars]\nx = 1\n";
        prop_assert_eq!(&written.key_of(&written.text(false, more)), &before, "resources of all, and variables");
        let renamed = Written { name: named, ..written.clone() };
        prop_assert_eq!(&renamed.key(), &before, "name of the stage");
        prop_assert_eq!(&written.key_of(&written.text(false, "").replace("name = 'p'", "name = 'another'")), &before, "of the pipeline");
        let mut env = written.clone();
        env.env.clear();
        prop_assert_eq!(env.key() == before, written.env.is_empty());
        if written.words.iter().any(|word| word.starts_with("{out.")) {
            let mut elsewhere = written.clone();
            elsewhere.outputs.values_mut().for_each(|place| *place = format!("elsewhere/{place}"));
            elsewhere.inputs.values_mut().for_each(|(path, _)| *path = format!("elsewhere/{path}"));
            prop_assert_eq!(&elsewhere.key(), &before, "places");
        }
    }

    #[test]
    fn values_and_contents_that_change_places_change_the_key(written in written()) {
        let before = written.key();
        let names: Vec<&String> = written.params.keys().collect();
        for (a, b) in names.iter().zip(names.iter().skip(1)) {
            let mut swapped = written.clone();
            swapped.params.insert((*a).clone(), written.params[*b].clone());
            swapped.params.insert((*b).clone(), written.params[*a].clone());
            prop_assert_eq!(swapped.key() == before, written.params[*a] == written.params[*b]);
        }
        let roles: Vec<&String> = written.inputs.keys().collect();
        for (a, b) in roles.iter().zip(roles.iter().skip(1)) {
            let mut swapped = written.clone();
            let ((path_a, content_a), (path_b, content_b)) = (&written.inputs[*a], &written.inputs[*b]);
            swapped.inputs.insert((*a).clone(), (path_a.clone(), *content_b));
            swapped.inputs.insert((*b).clone(), (path_b.clone(), *content_a));
            prop_assert_eq!(swapped.key() == before, content_a == content_b);
        }
    }
}

/// Every task of the shipped pipelines.
fn shipped() -> Vec<Task> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.flat_map(|file| plan(&file).tasks).collect()
}

fn leaves(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) if map.contains_key("$place") || map.contains_key("$ref") => {}
        Value::Object(map) => map.iter().for_each(|(name, value)| leaves(value, format!("{at}/{name}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| leaves(value, format!("{at}/{i}"), out)),
        _ => out.push(at),
    }
}

#[test]
fn any_other_value_of_any_type_changes_the_key_of_any_stage() {
    for mut task in shipped() {
        let content = |text: &String| (text.clone(), blake3::hash(text.as_bytes()).to_hex().to_string());
        let contents = Contents { inputs: task.inputs.keys().map(content).collect(), ..Contents::default() };
        let key_of = |task: &Task| key(&lines(task, &contents));
        let before = key_of(&task);
        let mut pointers = vec![];
        leaves(&task.params, String::new(), &mut pointers);
        for pointer in pointers {
            let value = task.params.pointer(&pointer).unwrap().clone();
            for other in others(&value)
                .into_iter()
                .chain([Value::Null, Value::Array(vec![value.clone()])])
                .filter(|o| *o != value)
            {
                *task.params.pointer_mut(&pointer).unwrap() = other.clone();
                assert_ne!(key_of(&task), before, "{}: {pointer} = {other}", task.name);
            }
            *task.params.pointer_mut(&pointer).unwrap() = value;
        }
        assert_eq!(key_of(&task), before);
        // A reference by another text to the same content is the same input.
        let renamed: Vec<String> = task.inputs.keys().cloned().collect();
        for text in renamed {
            let mut other = contents.clone();
            other.inputs.insert("another text".into(), contents.inputs[&text].clone());
            let params = task
                .params
                .to_string()
                .replace(&format!("{{\"$ref\":{}}}", quoted(&text)), "{\"$ref\":\"another text\"}");
            let before_params = std::mem::replace(&mut task.params, serde_json::from_str(&params).unwrap());
            assert_eq!(key(&lines(&task, &other)), before, "{}: {text}", task.name);
            task.params = before_params;
        }
    }
}
