//! From settings to a plan, in passes: check every table, order the stages, unroll sweeps, read parameters, resolve.
//!
//! A pipeline may have a hundred thousand tasks: every pass is linear, and what looks at one stage alone runs side by
//! side.

use super::check::{self, Found};
use super::target::{self, Text};
use super::{Axes, Graph, Plan, Target, Task, TaskId, graph, point_text, refs_in, sweep};
use crate::config::{Config, Mark};
use crate::error::{Error, Place, Result};
use crate::names::{is_name, known_or_nearest};
use crate::stage::{Content, Kind, Parsed, STAGES};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

/// Plans every stage of a pipeline.
pub(super) fn plan(config: &Config) -> Result<Plan> {
    let mut planner = Planner { config, errors: vec![], remarks: vec![], tasks: vec![], graph: Graph::default() };
    planner.run();
    match Error::all(planner.errors) {
        Some(error) => Err(error),
        None => Ok(Plan {
            pipeline: config.name.clone(),
            file: config.file.clone(),
            project: config.project.clone(),
            host: config.host(),
            tasks: planner.tasks,
            graph: planner.graph,
            remarks: planner.remarks,
            places: config.places(),
        }),
    }
}

/// A stage table that passed its check.
struct Sound<'a> {
    kind: &'static Kind,
    name: &'a str,
    id: String,
    table: &'a Value,
    found: Found,
}

/// Stages by their ids: the position among the sound ones, or nothing for one that has faults of its own.
type Ids = HashMap<String, Option<usize>>;

struct Planner<'a> {
    config: &'a Config,
    errors: Vec<Error>,
    remarks: Vec<Error>,
    tasks: Vec<Task>,
    graph: Graph,
}

impl<'a> Planner<'a> {
    fn run(&mut self) {
        let kinds: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
        self.errors.extend(self.config.unknown_top_keys(&kinds));
        let (sound, ids) = self.check_tables();
        if ids.is_empty() && self.errors.is_empty() {
            self.errors.push(
                Error::input(format!("`{}` has no stages", self.config.file.display()))
                    .hint(format!("add a table such as `[lists.name]`; kinds: {}", kinds.join(", "))),
            );
        }
        let mut names: Vec<String> = ids.keys().cloned().collect();
        names.sort();
        self.errors.extend(self.config.unknown_subjects(&kinds, &names));
        let edges = self.edges(&sound, &ids);
        match graph::order(sound.len(), &edges) {
            Ok(order) => {
                let points = self.unroll(&sound, &order);
                self.add_tasks(&sound, points);
                self.check_places();
            }
            Err(cycles) => self.cycles(&sound, &cycles),
        }
    }

    /// Checks each table by itself.
    fn check_tables(&mut self) -> (Vec<Sound<'a>>, Ids) {
        let config = self.config;
        let checked: Vec<(Sound<'a>, Vec<Error>)> = STAGES
            .iter()
            .flat_map(|kind| {
                let tables: Vec<(&str, &Value)> = config.stages(kind.name).collect();
                let shape = if tables.is_empty() { None } else { Some(kind.shape()) };
                let check = |(name, table)| {
                    let mut found = Found::default();
                    let mut faults = vec![];
                    match misnamed(config, kind, name, table) {
                        Some(fault) => faults.push(fault),
                        None => {
                            found = shape
                                .as_ref()
                                .map(|s| check::check(config, kind.name, name, s, table))
                                .unwrap_or_default();
                            faults.append(&mut found.errors);
                            faults.extend(config.check_own_resources(kind.name, name));
                        }
                    }
                    (Sound { kind, name, id: format!("{}.{name}", kind.name), table, found }, faults)
                };
                tables.into_par_iter().map(check).collect::<Vec<_>>()
            })
            .collect();
        let (mut sound, mut ids) = (vec![], Ids::new());
        for (stage, faults) in checked {
            ids.insert(stage.id.clone(), faults.is_empty().then_some(sound.len()));
            if faults.is_empty() {
                sound.push(stage);
            }
            self.errors.extend(faults);
        }
        (sound, ids)
    }

    /// Who needs whom, as positions in `sound`; references to stages that do not exist are errors.
    fn edges(&mut self, sound: &[Sound], ids: &Ids) -> Vec<(usize, usize)> {
        let mut edges = vec![];
        for (to, stage) in sound.iter().enumerate() {
            for (path, text) in &stage.found.refs {
                let Text::Output { stage: needed, .. } = target::parse(text) else { continue };
                match ids.get(&needed) {
                    Some(Some(from)) => edges.push((*from, to)),
                    // It exists but has faults of its own, which are told already.
                    Some(None) => {}
                    None => {
                        let known: Vec<&str> = ids.keys().map(String::as_str).collect();
                        let error = Error::input(format!("there is no stage `{needed}`"))
                            .hint(known_or_nearest(&needed, &known, "stages"));
                        self.add(error, stage, path, Mark::Value);
                    }
                }
            }
        }
        edges
    }

    fn cycles(&mut self, sound: &[Sound], cycles: &[Vec<usize>]) {
        for cycle in cycles {
            let mut names: Vec<&str> = cycle.iter().map(|i| sound[*i].id.as_str()).collect();
            names.push(names[0]);
            let first = &sound[cycle[0]];
            let path =
                first.found.refs.iter().find(|(_, text)| text.starts_with(names[1])).map(|(path, _)| path.clone());
            let error = Error::input(format!("stages need each other: {}", names.join(" -> ")))
                .note("an arrow reads \"needs\"")
                .hint("one of them must take its input from somewhere else");
            self.add(error, first, &path.unwrap_or_default(), Mark::Value);
        }
    }

    /// The points of every stage, in the order of the stages, each with its stage's position. Numbers of tasks are given
    /// in this order.
    fn unroll<'s>(&mut self, sound: &[Sound<'s>], order: &[usize]) -> Vec<(usize, sweep::Point<'s>)> {
        let (mut known, mut points) = (sweep::Known::new(), vec![]);
        for &position in order {
            let stage = &sound[position];
            // A stage whose inputs could not be planned has nothing to join with; the cause is told already.
            let missing = stage.found.refs.iter().any(|(_, text)| match target::parse(text) {
                Text::Output { stage, .. } => !known.contains_key(&stage),
                Text::Path(_) => false,
            });
            if missing || self.check_points(stage, &known) {
                continue;
            }
            let mut refs: Vec<Vec<String>> =
                stage.found.refs.iter().map(|(path, _)| swept_path(path, &stage.found)).collect();
            refs.dedup();
            match sweep::unroll(stage.table, &stage.found.axes, &stage.found.by, &refs, &known) {
                Ok(unrolled) => {
                    if let Some(name) = twins(&stage.id, &unrolled) {
                        let error = Error::input(format!("two tasks of `{}` would both be called {name}", stage.id))
                            .note("the values of a point are put between commas")
                            .hint("leave `,` and `=` out of the values that are swept over");
                        self.add(error, stage, &[], Mark::Key);
                        continue;
                    }
                    let mine = known.entry(stage.id.clone()).or_default();
                    for point in unrolled {
                        mine.push((TaskId(points.len()), point.axes.clone()));
                        points.push((position, point));
                    }
                }
                Err(fault) => self.add(Error::input(fault.message), stage, &fault.path, Mark::Value),
            }
        }
        points
    }

    /// Tells points of references that name no axis of the stage they pick from; whether there are any.
    fn check_points(&mut self, stage: &Sound, known: &sweep::Known) -> bool {
        let before = self.errors.len();
        for (path, text) in &stage.found.refs {
            let Text::Output { stage: needed, select, .. } = target::parse(text) else { continue };
            let first = known.get(&needed).and_then(|tasks| tasks.first());
            let axes: Vec<&str> = first.into_iter().flat_map(|(_, axes)| axes.keys().map(String::as_str)).collect();
            for (axis, _) in select.iter().filter(|(axis, _)| !axes.contains(&axis.as_str())) {
                let error = Error::input(format!("`{needed}` is not swept over `{axis}`"))
                    .note("a point is picked as in \"train.name@bits=64/model\", all as in \"train.name@bits=*/model\"")
                    .hint(match axes[..] {
                        [] => format!("a list makes an axis, even of one value: `{axis} = [..]` where it is set"),
                        _ => known_or_nearest(axis, &axes, "axes"),
                    });
                self.add(error, stage, path, Mark::Value);
            }
        }
        self.errors.len() > before
    }

    /// Reads every point's parameters, then makes its task. If any is at fault there is no plan, so that numbers of
    /// tasks need not stay right.
    fn add_tasks(&mut self, sound: &[Sound], points: Vec<(usize, sweep::Point)>) {
        let parsed: Vec<_> = points.par_iter().map(|(at, point)| sound[*at].kind.parse(&point.table)).collect();
        for ((at, point), parsed) in points.into_iter().zip(parsed) {
            let (stage, before) = (&sound[at], self.errors.len());
            match parsed {
                Ok(parsed) => self.add_task(stage, point, parsed),
                Err(e) => {
                    for e in *e {
                        let path = e.path.clone();
                        self.add(Error::input(e.kind.to_string()), stage, &path, Mark::Value);
                    }
                }
            }
            // Further points of the sweep would only repeat it.
            self.dedup_errors(before);
        }
    }

    fn add_task(&mut self, stage: &Sound, point: sweep::Point, parsed: Parsed) {
        let faulty = !self.errors.is_empty();
        for (key, error) in parsed.stage.check() {
            self.add(error, stage, &[key.to_string()], Mark::Key);
        }
        if faulty || !self.errors.is_empty() {
            return;
        }
        let inputs = self.inputs(stage, &parsed, &point);
        let needs: Vec<TaskId> = point.inputs.values().copied().collect();
        let name = task_name(&stage.id, &point.axes);
        for (key, remark) in parsed.stage.remarks() {
            let path: Vec<String> = key.split('.').map(str::to_string).collect();
            let remark = remark.at(self.place(stage, &path, Mark::Key));
            if !self.remarks.iter().any(|known| known.render("warning") == remark.render("warning")) {
                self.remarks.push(remark);
            }
        }
        let fill = |place: String| {
            let fill = |text: String, (axis, value): (&String, &Value)| {
                text.replace(&format!("{{{axis}}}"), &point_text(axis, value)[axis.len() + 1..])
            };
            plain(&self.config.project.join(point.axes.iter().fold(place, fill)))
        };
        let puts = parsed.stage.places().into_iter().map(|(port, place)| (port.to_string(), fill(place))).collect();
        self.tasks.push(Task {
            id: self.graph.add(&needs),
            name,
            stage: stage.id.clone(),
            kind: stage.kind,
            axes: point.axes,
            step: parsed.stage,
            params: parsed.params,
            inputs,
            wants: self.config.wants(stage.kind.name, stage.name),
            puts,
            obtain: self.config.obtain(stage.kind.name, stage.name).map(str::to_string),
        });
    }

    /// What every reference of a task means.
    fn inputs(&mut self, stage: &Sound, parsed: &Parsed, point: &sweep::Point) -> BTreeMap<String, Target> {
        let (mut inputs, takes) = (BTreeMap::new(), parsed.stage.takes());
        for (path, text) in refs_in(&parsed.params) {
            let target = match (target::parse(&text), point.inputs.get(&text)) {
                (Text::Output { port, stage: needed, .. }, Some(task)) => {
                    if let Some(needed_task) = self.tasks.get(task.0) {
                        let fault = unknown_port(&needed, &port, &needed_task.step.outputs())
                            .or_else(|| unsuitable(&takes, &path, &text, needed_task.step.holds(&port)));
                        self.errors.extend(fault.map(|error| error.at(self.place(stage, &path, Mark::Value))));
                    }
                    Target::Output { task: *task, port }
                }
                _ => Target::Path { path: plain(&self.config.project.join(&text)) },
            };
            inputs.insert(text, target);
        }
        inputs
    }

    /// Whether a place is the user's to be written to: what the project is made of is not, nor is what would hold it.
    fn forbidden_places(&self) -> Vec<Error> {
        let project = whole(&self.config.project);
        let own = project.join("cache");
        let files: Vec<PathBuf> = self.config.places().texts().map(|(path, _)| whole(path)).collect();
        let around: Vec<PathBuf> = files.into_iter().chain([own.clone(), project.join("output")]).collect();
        let fault = |(task, place): (&Task, &PathBuf)| {
            let put = whole(place);
            let is_around = around.iter().find(|kept| kept.starts_with(&put));
            let is_inside = put.starts_with(&own).then_some(&own);
            let is_project = project.starts_with(&put);
            let (kept, how) = match (is_project, is_around, is_inside) {
                (true, ..) => (&project, "is, or holds, the project's folder"),
                (_, Some(kept), _) => (kept, "is, or holds, what is hashpipe's own or the pipeline's"),
                (_, _, Some(kept)) => (kept, "lies in what is hashpipe's own"),
                _ => return None,
            };
            let error = Error::input(format!("an output of `{}` cannot be put at `{}`", task.name, place.display()))
                .at(self.place_of(task, "outputs"))
                .note(format!("that {how}: `{}`", kept.display()))
                .hint("name a file or folder of its own, as in \"results/features.npy\"");
            Some(error)
        };
        let places = self.tasks.iter().flat_map(|task| task.puts.iter().map(move |(_, path)| (task, path)));
        places.filter_map(fault).collect()
    }

    /// Holes of a place that no axis filled.
    fn open_places(&self) -> Vec<Error> {
        let fault = |(task, place): (&Task, &PathBuf)| {
            let text = place.to_str()?;
            let (_, rest) = text.split_once('{')?;
            let (hole, _) = rest.split_once('}')?;
            let known: Vec<&str> = task.axes.keys().map(String::as_str).collect();
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            (!hole.is_empty() && hole.chars().all(plain)).then(|| {
                Error::input(format!("`{{{hole}}}` in a place of `{}` stands for nothing", task.name))
                    .at(self.place_of(task, "outputs"))
                    .note("a place takes `{param.NAME}`, and the axes that its task is swept over")
                    .hint(known_or_nearest(hole, &known, "axes"))
            })
        };
        let places = self.tasks.iter().flat_map(|task| task.puts.iter().map(move |(_, path)| (task, path)));
        places.filter_map(fault).collect()
    }

    /// Two tasks must not put their outputs at one place or inside of one another, and what a task puts somewhere is read
    /// from the task.
    fn check_places(&mut self) {
        let mut places = Places::default();
        let mut errors = vec![];
        for (i, task) in self.tasks.iter().enumerate() {
            for (port, path) in &task.puts {
                let Some(first) = places.owners.insert(path, i) else { continue };
                let error = Error::input(format!("two tasks put an output at `{}`", path.display()))
                    .at(self.place_of(task, "outputs"))
                    .note(format!("`{}` and `{}`, output `{port}`", self.tasks[first].name, task.name))
                    .hint("name the point in the path, as in \"results/{bits}.npy\"");
                errors.push(error);
            }
        }
        for (i, task) in self.tasks.iter().enumerate() {
            for (port, path) in &task.puts {
                let Some(outer) = places.surround(path, i).map(|outer| &self.tasks[outer]) else { continue };
                let error = Error::input(format!("`{}` lies inside of another output", path.display()))
                    .at(self.place_of(task, "outputs"))
                    .note(format!("`{}`, output `{port}`; the folder around it is `{}`'s", task.name, outer.name))
                    .hint(
                        "put it elsewhere: a folder that a task puts somewhere holds what the task wrote, and no more",
                    );
                errors.push(error);
            }
        }
        if !places.owners.is_empty() {
            for task in &self.tasks {
                let paths = task.inputs.iter().filter_map(|(text, target)| match target {
                    Target::Path { path } => Some((text, path)),
                    Target::Output { .. } => None,
                });
                errors.extend(paths.filter_map(|(text, path)| self.unplanned(&mut places, task, text, path)));
            }
        }
        drop(places);
        self.errors.extend(errors);
        for error in self.forbidden_places().into_iter().chain(self.open_places()) {
            self.errors.push(error);
        }
    }

    /// The fault of a path that a task reads and another one puts there, so that nothing says which comes first.
    fn unplanned<'p>(&self, places: &mut Places<'p>, task: &Task, text: &str, path: &'p Path) -> Option<Error> {
        let error = |message: String| Error::input(message).at(self.place_of(task, "inputs"));
        if let Some(owner) = places.owners.get(path).map(|i| &self.tasks[*i]) {
            let port = owner.puts.iter().find(|(_, put)| put == path).map_or("", |(port, _)| port);
            return Some(
                error(format!("`{text}` of `{}` is made by `{}`", task.name, owner.name))
                    .hint(format!("write \"{}/{port}\", so that it waits for it", owner.stage)),
            );
        }
        let (owner, what) = match (places.around(path), places.around.get(path)) {
            (Some(owner), _) => (owner, "lies in what"),
            (None, Some(owner)) => (*owner, "is a folder in which lies what"),
            (None, None) => return None,
        };
        let owner = &self.tasks[owner];
        Some(
            error(format!("`{text}` of `{}` {what} `{}` makes", task.name, owner.name))
                .hint(format!("take it from `{}`, so that it waits for it, or keep the two apart", owner.stage)),
        )
    }

    fn place_of(&self, task: &Task, key: &str) -> Option<Place> {
        let steps: Vec<&str> = task.stage.split('.').chain([key]).collect();
        self.config.place(&steps, Mark::Key)
    }

    /// Drops errors since `before` that say again what an earlier one said.
    fn dedup_errors(&mut self, before: usize) {
        for error in self.errors.split_off(before) {
            let text = error.render("error");
            if !self.errors.iter().any(|known| known.render("error") == text) {
                self.errors.push(error);
            }
        }
    }

    fn add(&mut self, error: Error, stage: &Sound, path: &[String], mark: Mark) {
        let place = self.place(stage, path, mark);
        self.errors.push(error.at(place));
    }

    fn place(&self, stage: &Sound, path: &[String], mark: Mark) -> Option<Place> {
        let steps: Vec<&str> =
            [stage.kind.name, stage.name].into_iter().chain(path.iter().map(String::as_str)).collect();
        self.config.place(&steps, mark)
    }
}

/// A stage's task at a point.
fn task_name(stage: &str, axes: &Axes) -> String {
    let points: Vec<String> = axes.iter().map(|(axis, value)| point_text(axis, value)).collect();
    if points.is_empty() { stage.to_string() } else { format!("{stage}@{}", points.join(",")) }
}

/// The name of two points of a stage, if there are such.
fn twins(stage: &str, points: &[sweep::Point]) -> Option<String> {
    let mut names = HashSet::with_capacity(points.len());
    points.iter().map(|point| task_name(stage, &point.axes)).find(|name| !names.insert(name.clone()))
}

/// A path without `.` in it, so that equal paths are equal.
fn plain(path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let plain: PathBuf = parts.collect();
    if plain.as_os_str().is_empty() { PathBuf::from(".") } else { plain }
}

/// A path from the root, without `.` and `..` in it.
fn whole(path: &Path) -> PathBuf {
    let from_root = std::path::absolute(plain(path)).unwrap_or_else(|_| path.to_path_buf());
    from_root.components().fold(PathBuf::new(), |mut whole, part| {
        if part == Component::ParentDir {
            whole.pop();
        } else {
            whole.push(part);
        }
        whole
    })
}

/// Where outputs are put: positions of the tasks that put them there.
#[derive(Default)]
struct Places<'a> {
    owners: HashMap<&'a Path, usize>,
    /// Every folder around one of those.
    around: HashMap<&'a Path, usize>,
    /// The owner of what is around a folder, if anybody owns that: most paths lie in few folders.
    looked: HashMap<&'a Path, Option<usize>>,
}

impl<'a> Places<'a> {
    /// Notes the folders around a place of a task's. Gives the owner of one of them.
    fn surround(&mut self, path: &'a Path, task: usize) -> Option<usize> {
        for folder in path.ancestors().skip(1) {
            if let Some(owner) = self.owners.get(folder) {
                return Some(*owner);
            }
            if self.around.insert(folder, task).is_some() {
                break;
            }
        }
        None
    }

    /// The owner of a folder around a path.
    fn around(&mut self, path: &'a Path) -> Option<usize> {
        let parent = path.parent()?;
        let owners = &self.owners;
        *self.looked.entry(parent).or_insert_with(|| parent.ancestors().find_map(|folder| owners.get(folder).copied()))
    }
}

/// The fault of a table whose name or form is not that of a stage.
fn misnamed(config: &Config, kind: &Kind, name: &str, table: &Value) -> Option<Error> {
    let fault = match (table.is_object(), is_name(name)) {
        (true, true) => return None,
        (true, false) => "has a name with other characters than letters, digits, `-`, `_`",
        (false, _) => "is not a table",
    };
    let error = Error::input(format!("`{}.{name}` {fault}", kind.name))
        .hint(format!("write `[{}.some-name]` with its keys below", kind.name));
    Some(error.at(config.place(&[kind.name, name], Mark::Key)))
}

/// The fault of a reference to an output that its stage does not have.
fn unknown_port(stage: &str, port: &str, ports: &[&str]) -> Option<Error> {
    if ports.contains(&port) {
        return None;
    }
    if ports.is_empty() {
        return Some(Error::input(format!("`{stage}` has no outputs")).hint("name one in its `outputs`"));
    }
    if port.is_empty() {
        let hint = format!("write \"{stage}/{}\"; its outputs: {}", ports[0], ports.join(", "));
        return Some(Error::input(format!("`{stage}` is a stage: say which of its outputs")).hint(hint));
    }
    let hint = known_or_nearest(port, ports, "outputs");
    Some(Error::input(format!("`{stage}` has no output `{port}`")).hint(hint))
}

/// The fault of a reference to an output that is not what its stage reads there.
fn unsuitable(takes: &[(&str, Content)], path: &[String], text: &str, found: Content) -> Option<Error> {
    let is_it = |key: &str| {
        let steps: Vec<&str> = key.split('.').collect();
        steps.len() == path.len() && steps.iter().zip(path).all(|(step, found)| *step == "*" || step == found)
    };
    let (_, wanted) = takes.iter().find(|(key, wanted)| is_it(key) && !found.suits(*wanted))?;
    let error = Error::input(format!("`{}` takes {}, and `{text}` is not", path.join("."), wanted.told()));
    Some(
        error
            .note(format!("`{text}` is {}", found.told()))
            .hint(format!("write, for example, \"{}\"", wanted.example())),
    )
}

/// The path of a swept reference is that of the parameter, not of the element in its list.
fn swept_path(path: &[String], found: &Found) -> Vec<String> {
    match found.axes.iter().find(|axis| path.len() == axis.path.len() + 1 && path.starts_with(&axis.path)) {
        Some(axis) => axis.path.clone(),
        None => path.to_vec(),
    }
}
