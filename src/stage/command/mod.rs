//! `[command.*]`: any program as a stage.
//!
//! The program runs in a folder of its own that holds links to what the stage declares and nothing else:
//!
//! ```text
//! <private folder>/
//!   in/<input><.ext>     every input; what `{in.NAME}` stands for
//!   in/<input>/          an input that is all points of a sweep: a folder with a link for each, named `bits=16<.ext>`
//!   out/<output><.ext>   where `{out.NAME}` is to be written
//!   extract.py           inputs that are relative paths, once more under those paths
//!   results/a.npy        where an output is expected that the command does not name with `{out.NAME}`
//! ```

mod links;
mod supervise;
mod template;

use super::{Content, Ctx, Describe, Fact, Ref, Refs, Scalar, Stage, Words};
use crate::amounts::Wants;
use crate::dataset::Location;
use crate::error::{Error, Kind, Result};
use crate::names::{is_name, known_or_nearest};
use links::{Linked, absolute, link_inputs, linked_at, make_folder, out, stays_below};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use template::{Hole, fill, holes, lone_hole, quoted};

/// A program of the user's.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Command {
    /// The program and its arguments, or a script for `sh -c`.
    run: Words,
    /// What it reads: files, folders, outputs of other stages. All points of a sweep, `evaluate.name@bits=*/result`, are a
    /// folder with a file for each; `{each.NAME}` stands for those files.
    #[serde(default)]
    inputs: BTreeMap<String, Refs>,
    /// Values that `{param.NAME}` stands for.
    #[serde(default)]
    params: BTreeMap<String, Scalar>,
    /// What it writes, and where that is put for the user; "" keeps it in the cache only.
    #[serde(default)]
    outputs: BTreeMap<String, Location>,
    /// Environment variables that it sees; their values are part of the key.
    #[serde(default)]
    env: Vec<String>,
    /// What it occupies; never part of the key.
    #[serde(default, skip_serializing)]
    #[schemars(extend("format" = "wants"))]
    #[expect(dead_code, reason = "the plan reads it from the file, as it reads `[resources]`")]
    resources: Wants,
    /// Give it a folder that outlives failed attempts, in `HASHPIPE_RESUME_DIR`.
    #[serde(default)]
    #[schemars(extend("before" = false))]
    resume: bool,
    /// Reuse its result; without, it runs every time.
    #[serde(default = "yes")]
    #[schemars(extend("before" = true))]
    cache: bool,
    /// An output that is a JSON object; its numbers are shown and compared.
    #[serde(default)]
    #[schemars(extend("before" = null))]
    metrics: Option<String>,
}

fn yes() -> bool {
    true
}

impl Describe for Command {
    const NAME: &'static str = "command";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Run a program of your own";
}

impl Stage for Command {
    fn outputs(&self) -> Vec<&str> {
        self.outputs.keys().map(String::as_str).collect()
    }

    fn holds(&self, output: &str) -> Content {
        let _ = output;
        Content::Any
    }

    fn places(&self) -> Vec<(&str, String)> {
        let placed = self.outputs.iter().filter(|(_, place)| !place.0.is_empty());
        placed.map(|(name, place)| (name.as_str(), self.with_params(&place.0))).collect()
    }

    fn runs_a_program(&self) -> bool {
        true
    }

    fn is_parallel(&self) -> bool {
        holes(&self.run).contains(&Hole::Threads)
    }

    fn facts(&self) -> Vec<Fact> {
        let program = match &self.run {
            Words::Line(_) => SHELL,
            Words::List(words) => words.first().map_or("", String::as_str),
        };
        let variables = self.env.iter().map(|name| Fact::Variable(name.clone()));
        std::iter::once(Fact::Program(program.to_string())).chain(variables).collect()
    }

    fn seen_names(&self, known_as: &dyn Fn(&Ref) -> String) -> Vec<(String, String)> {
        let holes = holes(&self.run);
        let inputs = self.inputs.iter().flat_map(|(name, inputs)| inputs.all().into_iter().map(move |all| (name, all)));
        let inputs = inputs.map(|(name, (point, input))| {
            let known_as = known_as(input);
            // What the command does not name, it finds by its own path.
            let is_named = holes.contains(&Hole::In(name)) || holes.contains(&Hole::Each(name));
            let (line, by_path) = (point.map_or(String::new(), |point| format!(".{point}")), stays_below(&known_as));
            let seen = if by_path && !is_named { known_as } else { linked_at(name, point, &known_as) };
            (format!("seen.inputs.{name}{line}"), seen, linked_at(name, point, ""))
        });
        let outputs =
            self.outputs.keys().map(|name| (format!("seen.outputs.{name}"), self.written_at(name), out(name, "")));
        let telling = inputs.chain(outputs).filter(|(_, seen, plain)| seen != plain);
        telling.map(|(line, seen, _)| (line, seen)).collect()
    }

    fn is_measured(&self) -> bool {
        self.metrics.is_some()
    }

    fn is_cached(&self) -> bool {
        self.cache
    }

    fn check(&self) -> Vec<(&str, Error)> {
        let mut errors = vec![];
        if self.run.texts().first().is_none_or(|first| first.trim().is_empty()) {
            errors.push(("run", Error::input("`run` is empty").hint("write `run = [\"program\", \"argument\"]`")));
        }
        for (key, names) in
            [("inputs", keys(&self.inputs)), ("params", keys(&self.params)), ("outputs", keys(&self.outputs))]
        {
            let odd = names.into_iter().filter(|name| !is_name(name));
            errors.extend(odd.map(|name| {
                let error = Error::input(format!("`{name}` cannot be a name"));
                (key, error.hint("use letters, digits, `-` and `_`"))
            }));
        }
        errors.extend(self.unknown_holes().into_iter().chain(self.crowded_words()).map(|error| ("run", error)));
        errors.extend(self.unknown_in_places().into_iter().map(|error| ("outputs", error)));
        errors.extend(self.homeless_outputs().into_iter().map(|error| ("outputs", error)));
        let odd = self.env.iter().filter(|name| name.is_empty() || name.contains(['=', '\0']));
        errors.extend(odd.map(|name| ("env", Error::input(format!("`{name}` cannot be an environment variable")))));
        if let Some(name) = self.metrics.as_ref().filter(|name| !self.outputs.contains_key(*name)) {
            let error = Error::input(format!("`metrics` names `{name}`, which is no output"));
            errors.push(("metrics", error.hint(known_or_nearest(name, &keys(&self.outputs), "outputs"))));
        }
        errors
    }

    fn remarks(&self) -> Vec<(String, Error)> {
        let used = |name: &String| holes(&self.run).contains(&Hole::Param(name)) || self.is_in_a_place(name);
        let unused = self.params.keys().filter(|name| !used(name));
        unused
            .map(|name| {
                let error = Error::input(format!("the parameter `{name}` is never used by `run`"))
                    .note("each of its values makes a task of its own, with the same work")
                    .hint(format!("write `{{param.{name}}}` where the command takes it, or remove it"));
                (format!("params.{name}"), error)
            })
            .collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let folder = cx.folder();
        make_folder(&folder.join("in"))?;
        let inputs = link_inputs(&self.inputs, cx, &folder)?;
        for place in self.outputs.keys().map(|name| folder.join(self.written_at(name))) {
            make_folder(place.parent().unwrap_or(&folder))?;
        }
        let arguments = self.arguments(cx, &inputs)?;
        supervise::run(cx, &folder, &arguments, &self.environment(cx)?)?;
        self.collect(cx, &folder)?;
        self.report_metrics(cx)
    }
}

/// What runs a command that is one line.
const SHELL: &str = "sh";

fn keys<V>(map: &BTreeMap<String, V>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

impl Command {
    /// Holes that name nothing.
    fn unknown_holes(&self) -> Vec<Error> {
        let unknown = |what: &str, name: &str, known: Vec<&str>| {
            (!known.contains(&name)).then(|| {
                Error::input(format!("`run` uses `{name}`, which is not in `{what}`"))
                    .hint(known_or_nearest(name, &known, what))
            })
        };
        let found = holes(&self.run).into_iter().filter_map(|hole| match hole {
            Hole::In(name) | Hole::Each(name) => unknown("inputs", name, keys(&self.inputs)),
            Hole::Out(name) => unknown("outputs", name, keys(&self.outputs)),
            Hole::Param(name) => unknown("params", name, keys(&self.params)),
            Hole::Threads => None,
        });
        found.collect()
    }

    /// What stands in places and can mean nothing there.
    fn unknown_in_places(&self) -> Vec<Error> {
        let places = Words::List(self.outputs.values().map(|place| place.0.clone()).collect());
        let fault = |hole: &Hole| match hole {
            Hole::Param(name) if self.params.contains_key(*name) => None,
            Hole::Param(name) => {
                Some(Error::input(format!("a place uses `{name}`, which is not in `params`")).hint(known_or_nearest(
                    name,
                    &keys(&self.params),
                    "params",
                )))
            }
            _ => Some(
                Error::input("a place can use `{param.NAME}` and axes, as `{bits}`, and nothing else")
                    .hint("what stands for inputs and outputs belongs into `run`"),
            ),
        };
        holes(&places).iter().filter_map(fault).collect()
    }

    /// Words that would hold several files at once.
    fn crowded_words(&self) -> Vec<Error> {
        let Words::List(words) = &self.run else { return vec![] };
        let crowded = words.iter().filter(|word| {
            let within = Words::Line((*word).clone());
            lone_hole(word).is_none() && holes(&within).iter().any(|hole| matches!(hole, Hole::Each(_)))
        });
        let error = |word: &String| {
            Error::input(format!("`{word}` would hold several files in one word"))
                .note("`{each.NAME}` stands for a word per file")
                .hint("write it as a word of its own, or give the folder with `{in.NAME}`")
        };
        crowded.map(error).collect()
    }

    /// Outputs of which neither the command nor a place says where it is written.
    fn homeless_outputs(&self) -> Vec<Error> {
        let unnamed = self.outputs.iter().filter(|(name, _)| !self.names_output(name));
        unnamed
            .filter(|(_, place)| !stays_below(&self.with_params(&place.0)))
            .map(|(name, _)| {
                Error::input(format!("nothing says where the command writes `{name}`"))
                    .hint(format!("write `{{out.{name}}}` in `run`, or give a relative path it writes to"))
            })
            .collect()
    }

    fn names_output(&self, name: &str) -> bool {
        holes(&self.run).contains(&Hole::Out(name))
    }

    /// A place with the parameters in it filled in.
    fn with_params(&self, place: &str) -> String {
        fill(place, &|hole| match hole {
            Hole::Param(name) => self.params.get(name).map_or(String::new(), Scalar::word),
            Hole::In(name) => format!("{{in.{name}}}"),
            Hole::Each(name) => format!("{{each.{name}}}"),
            Hole::Out(name) => format!("{{out.{name}}}"),
            Hole::Threads => "{threads}".into(),
        })
    }

    fn is_in_a_place(&self, param: &str) -> bool {
        let places = Words::List(self.outputs.values().map(|place| place.0.clone()).collect());
        holes(&places).contains(&Hole::Param(param))
    }

    /// Where, below the private folder, an output is expected.
    fn written_at(&self, name: &str) -> String {
        let place = self.outputs.get(name).map_or(String::new(), |place| self.with_params(&place.0));
        if self.names_output(name) { out(name, &place) } else { place }
    }

    /// The program and its arguments.
    fn arguments(&self, cx: &Ctx, inputs: &BTreeMap<&str, Linked>) -> Result<Vec<String>> {
        let values = |hole: Hole| match hole {
            Hole::In(name) => inputs.get(name).map(|linked| linked.path.clone()).into_iter().collect(),
            Hole::Each(name) => inputs.get(name).map(|linked| linked.files.clone()).unwrap_or_default(),
            Hole::Out(name) => vec![self.written_at(name)],
            Hole::Param(name) => vec![self.params.get(name).map_or(String::new(), Scalar::word)],
            Hole::Threads => vec![cx.threads().to_string()],
        };
        let in_quotes = |hole: Hole| values(hole).iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        Ok(match &self.run {
            Words::Line(line) => vec![SHELL.into(), "-c".into(), fill(line, &in_quotes)],
            Words::List(words) => {
                let filled = |word: &String| match lone_hole(word) {
                    Some(hole) => values(hole),
                    None => vec![fill(word, &|hole| values(hole).join(" "))],
                };
                let mut words: Vec<String> = words.iter().flat_map(filled).collect();
                // A program given by its path lies in the project, not in the private folder.
                if let Some(program) = words.first_mut().filter(|word| word.contains('/')) {
                    *program = absolute(&cx.project().join(&*program))?.display().to_string();
                }
                words
            }
        })
    }

    /// What the program sees of the environment: what it cannot do without, and what the stage declares.
    fn environment(&self, cx: &Ctx) -> Result<Vec<(String, String)>> {
        const ALWAYS: [&str; 8] =
            ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"];
        let passed = ALWAYS.iter().copied().chain(self.env.iter().map(String::as_str));
        let mut variables: Vec<(String, String)> =
            passed.filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?))).collect();
        if !self.env.iter().any(|name| name == "LANG" || name.starts_with("LC_")) {
            // The order of a `sort` must not depend on who runs it.
            variables.push(("LC_ALL".into(), "C.UTF-8".into()));
        }
        if !self.env.iter().any(|name| name == "OMP_NUM_THREADS") {
            variables.push(("OMP_NUM_THREADS".into(), cx.threads().to_string()));
        }
        if self.resume {
            let folder = cx.scratch().join("resume");
            std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, &e))?;
            variables.push(("HASHPIPE_RESUME_DIR".into(), folder.display().to_string()));
        }
        Ok(variables)
    }

    /// Moves what the command wrote to where outputs are taken from.
    fn collect(&self, cx: &Ctx, folder: &Path) -> Result<()> {
        let mut missing = vec![];
        for name in self.outputs.keys() {
            let from = folder.join(self.written_at(name));
            match from.symlink_metadata() {
                Err(_) => missing.push(format!("`{name}` at `{}`", self.written_at(name))),
                Ok(metadata) if metadata.is_symlink() => {
                    return Err(Error::new(Kind::Contract, format!("the output `{name}` is a symbolic link"))
                        .note("what it points to could change later")
                        .hint("have the command write a file or a folder"));
                }
                Ok(_) => {
                    let to = cx.output(name);
                    std::fs::rename(&from, &to).map_err(|e| Error::io("move", &from, &e))?;
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Contract, format!("the command ended well but did not write {}", missing.join(", ")))
            .note("paths are taken from the folder that the command runs in")
            .hint("write outputs to `{out.NAME}`, or to the relative path that `outputs` gives"))
    }

    fn report_metrics(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let Some(name) = &self.metrics else { return Ok(()) };
        let path = cx.output(name);
        let wrong = |what: String| Error::new(Kind::Contract, format!("the metrics `{name}` {what}"));
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("are not a JSON object: {e}")))?;
        for (name, value) in &object {
            if let Some(value) = value.as_f64() {
                cx.metric(name.clone(), value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn command(value: serde_json::Value) -> Command {
        serde_json::from_value(value).unwrap()
    }

    fn faults(value: serde_json::Value) -> Vec<String> {
        command(value).check().iter().map(|(key, error)| format!("{key}: {}", error.message())).collect()
    }

    #[test]
    fn what_is_wrong_is_told_at_its_key() {
        assert_eq!(faults(json!({"run": []})), ["run: `run` is empty"]);
        assert_eq!(
            faults(json!({"run": ["x", "{in.a}"], "outputs": {"o": ""}, "env": ["A=B"], "metrics": "m"})),
            [
                "run: `run` uses `a`, which is not in `inputs`",
                "outputs: nothing says where the command writes `o`",
                "env: `A=B` cannot be an environment variable",
                "metrics: `metrics` names `m`, which is no output",
            ]
        );
        assert_eq!(faults(json!({"run": "x > {out.o}", "outputs": {"o": ""}})), [""; 0]);
        assert_eq!(faults(json!({"run": "x", "outputs": {"o": "../o"}})).len(), 1);
        assert_eq!(
            faults(json!({"run": "x {out.o} {out.p}", "outputs": {"o": "{param.nope}/a", "p": "{in.a}"}})),
            [
                "outputs: a place uses `nope`, which is not in `params`",
                "outputs: a place can use `{param.NAME}` and axes, as `{bits}`, and nothing else",
            ]
        );
    }

    #[test]
    fn outputs_are_expected_where_the_command_says() {
        let named = command(json!({"run": "x {out.o}", "outputs": {"o": "r/o.npy"}}));
        assert_eq!(named.written_at("o"), "out/o.npy");
        let unnamed = command(json!({"run": "x", "params": {"d": 3}, "outputs": {"o": "r/{param.d}.npy"}}));
        assert_eq!(unnamed.written_at("o"), "r/3.npy");
        assert_eq!(unnamed.places(), [("o", "r/3.npy".to_string())]);
        assert!(unnamed.remarks().is_empty());
        assert_eq!(command(json!({"run": "x", "params": {"d": 3}})).remarks().len(), 1);
    }

    #[test]
    fn names_that_the_program_sees_are_told_where_they_say_something() {
        let seen = |value: serde_json::Value| {
            let names = command(value).seen_names(&|input| input.0.clone());
            names.into_iter().map(|(line, seen)| format!("{line} {seen}")).collect::<Vec<_>>()
        };
        let named = |place: &str, input: &str| {
            seen(json!({"run": "x {in.i} {out.o}", "inputs": {"i": input}, "outputs": {"o": place}}))
        };
        assert_eq!(named("", "./data"), [""; 0]);
        assert_eq!(named("results/o.png", "a/b.csv"), ["seen.inputs.i in/i.csv", "seen.outputs.o out/o.png"]);
        assert_eq!(named("elsewhere/p.png", "c.csv"), named("results/o.png", "a/b.csv"));
        let unnamed =
            |input: &str| seen(json!({"run": "x", "inputs": {"i": input}, "outputs": {"o": "r/a.txt"}})).join(", ");
        assert_eq!(unnamed("a/b.csv"), "seen.inputs.i a/b.csv, seen.outputs.o r/a.txt");
        assert_eq!(unnamed("/home/me/b.csv"), "seen.inputs.i in/i.csv, seen.outputs.o r/a.txt");
    }

    #[test]
    fn what_is_no_part_of_the_result_is_not_in_the_parameters() {
        let params =
            serde_json::to_value(command(json!({"run": "x", "resources": {"cpus": 3}, "cache": true}))).unwrap();
        let all = json!({
            "run": "x", "inputs": {}, "params": {}, "outputs": {}, "env": [],
            "resume": false, "cache": true, "metrics": null,
        });
        assert_eq!(params, all);
    }
}
