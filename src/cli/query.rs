//! `hashpipe query`: the database images nearest to given ones. The reference's predict, with more than one answer.

use super::{Folders, Pipeline};
use crate::cache::{Judge, Results, State, Store, inputs, survey};
use crate::dataset::{List, eval_pixels};
use crate::error::{Error, Place, Result};
use crate::model::{self, weights};
use crate::outfile;
use crate::plan::{Plan, Task, point_text};
use crate::report::{plural, print, table};
use crate::retrieval::{self, Codes, Neighbour};
use crate::stage::Input;
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// Images to look up
    #[arg(required = true)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    folders: Folders,
    /// Length of the codes, where the pipeline has several (short for `--at bits=N`)
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// A point of the sweep, as in `--at seed=1`
    #[arg(long, value_name = "AXIS=VALUE")]
    at: Vec<String>,
    /// The `encode` stage that made the database codes [default: the one an `evaluate` stage searches]
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// How many database images to show
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// One line of JSON per image
    #[arg(long)]
    json: bool,
    /// Copy the found images to this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let store = arguments.folders.reader(&plan);
    let task = choose(&plan, arguments)?;
    let database = Database::open(&plan, &store, task)?;
    let unreadable: Vec<Error> = arguments
        .images
        .iter()
        .filter(|image| !image.is_file())
        .map(|image| Error::data(format!("there is no image `{}`", image.display())))
        .collect();
    if let Some(error) = Error::all(unreadable) {
        return Err(error);
    }
    let mut names = Names::default();
    for image in &arguments.images {
        let found = database.search(image, arguments.top as usize)?;
        if arguments.json {
            print(&database.to_json(task, image, &found).to_string());
        } else {
            print(&format!("{} ({})", image.display(), task.name));
            print(&database.to_text(&found));
        }
        if let Some(folder) = &arguments.save {
            database.save(&names.of(image), &found, folder)?;
        }
    }
    Ok(0)
}

/// The one task whose codes are searched.
fn choose<'p>(plan: &'p Plan, arguments: &Arguments) -> Result<&'p Task> {
    let mut points = arguments.at.clone();
    points.extend(arguments.bits.map(|bits| format!("bits={bits}")));
    let stage = match &arguments.stage {
        Some(stage) => stage.clone(),
        None => searched(plan)?,
    };
    let candidates: Vec<&Task> = plan.select(&stage)?.into_iter().map(|id| plan.task(id)).collect();
    let fits = |task: &&&Task| {
        let own: Vec<String> = task.axes.iter().map(|(axis, value)| point_text(axis, value)).collect();
        points.iter().all(|point| own.contains(point))
    };
    let fitting: Vec<&&Task> = candidates.iter().filter(fits).collect();
    match fitting[..] {
        [task] if task.kind.name == "encode" => Ok(task),
        [task] => Err(Error::input(format!("`{}` is not an `encode` stage", task.name))),
        _ => {
            let names: Vec<&str> = candidates.iter().map(|task| task.name.as_str()).collect();
            let fault = if fitting.is_empty() { "has no point like that" } else { "has several points" };
            Err(Error::input(format!("`{stage}` {fault}"))
                .at(Some(Place::Argument(points.join(" "))).filter(|_| !points.is_empty()))
                .note(format!("there are: {}", names.join(", ")))
                .hint("pick one with `--bits N` or `--at AXIS=VALUE`"))
        }
    }
}

/// The `encode` stage whose codes an `evaluate` stage searches, or the only one there is.
fn searched(plan: &Plan) -> Result<String> {
    use crate::plan::Target;
    let mut stages: Vec<String> = plan
        .tasks
        .iter()
        .filter(|task| task.kind.name == "evaluate")
        .filter_map(|task| task.inputs.get(crate::stage::Ref::of(task.params.get("database_codes")?)?))
        .filter_map(|target| match target {
            Target::Output { task, .. } => Some(plan.task(*task).stage.clone()),
            Target::Path { .. } => None,
        })
        .collect();
    if stages.is_empty() {
        stages = plan.tasks.iter().filter(|task| task.kind.name == "encode").map(|task| task.stage.clone()).collect();
    }
    stages.sort();
    stages.dedup();
    match &stages[..] {
        [stage] => Ok(stage.clone()),
        [] => Err(Error::input(format!("`{}` has no `encode` stage to search", plan.pipeline))),
        several => Err(Error::input(format!("`{}` has several databases", plan.pipeline))
            .note(format!("they are made by {}", several.join(", ")))
            .hint("pick one with `--stage`")),
    }
}

/// A network with the codes it made and the images they stand for.
struct Database {
    network: model::HashModel,
    card: weights::Card,
    codes: Codes,
    list: List,
    root: PathBuf,
}

impl Database {
    /// Takes everything from the cache; nothing is run.
    fn open(plan: &Plan, store: &Store, task: &Task) -> Result<Self> {
        let standings = survey(plan, store, &[task.id], &[]);
        // What its own inputs were made from may be gone.
        let close = |id| id == task.id || plan.graph.needs(task.id).contains(&id);
        if let Some(standing) = standings.iter().find(|s| close(s.task) && s.state != State::Cached) {
            let name = &plan.task(standing.task).name;
            return Err(Error::input(format!("`{name}` is not in the cache")).note(standing.because.clone()).hint(
                format!("`hashpipe run {} --only {name}` makes it, with the same settings", plan.file.display()),
            ));
        }
        let results: Results = standings.into_iter().filter_map(|s| Some((s.task, s.made?))).collect();
        let contents = Judge::new(plan, store).judge(task, &results)?.contents;
        let inputs = inputs(plan, store, task, &contents, &results)?;
        let (model, list) = (input(task, &inputs, "model")?, input(task, &inputs, "list")?);
        let codes = results.get(&task.id).and_then(|action| action.outputs.get("codes"));
        let codes = codes.ok_or_else(|| Error::data(format!("`{}` has no codes", task.name)))?;
        let (network, card) = weights::load(&model.path, &crate::device::open(None)?)?;
        Ok(Self {
            network,
            card,
            codes: retrieval::read(&store.object_path(codes))?.0,
            root: list.images.clone().unwrap_or_default(),
            list: List::read(&list.path)?,
        })
    }

    fn search(&self, image: &Path, top: usize) -> Result<Vec<Neighbour>> {
        let logits = model::logits(&self.network, eval_pixels(&self.card.transform, image)?)?;
        let mut query = Codes::new(self.card.bits)?;
        query.push(&logits)?;
        Ok(retrieval::top_k(&self.codes, query.code(0), top)?)
    }

    fn path(&self, near: &Neighbour) -> PathBuf {
        self.root.join(&self.list.items[near.index as usize].path)
    }

    fn labels(&self, near: &Neighbour) -> Vec<&str> {
        let labels = &self.list.items[near.index as usize].labels;
        labels.iter().map(|label| self.list.classes[*label as usize].as_str()).collect()
    }

    fn to_text(&self, found: &[Neighbour]) -> String {
        let rows: Vec<Vec<String>> = (1..)
            .zip(found)
            .map(|(rank, near)| {
                let path = tidy(&self.path(near)).display().to_string();
                vec![format!("{rank}"), near.distance.to_string(), path, self.labels(near).join(", ")]
            })
            .collect();
        let searched = format!("{}, {} bits", plural(self.codes.len(), "image"), self.card.bits);
        format!("{}\n({searched})\n", table(&["rank", "distance", "image", "labels"], &rows))
    }

    fn to_json(&self, task: &Task, image: &Path, found: &[Neighbour]) -> serde_json::Value {
        let matches = (1..).zip(found).map(|(rank, near): (usize, _)| {
            json!({
                "rank": rank, "distance": near.distance, "index": near.index,
                "image": self.path(near), "labels": self.labels(near),
            })
        });
        json!({
            "image": image, "task": task.name, "bits": self.card.bits, "database": self.codes.len(),
            "matches": matches.collect::<Vec<_>>(),
        })
    }

    /// Copies the found images under names that begin with the query's and cannot collide with each other.
    fn save(&self, query: &str, found: &[Neighbour], folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))?;
        for (rank, near) in (1..).zip(found) {
            let from = self.path(near);
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let to = folder.join(format!("{query}-match-{rank:02}-{name}"));
            let bytes = std::fs::read(&from).map_err(|e| Error::io("read", &from, &e))?;
            outfile::write(&to, &bytes)?;
        }
        Ok(())
    }
}

/// What the queries are called in the names of saved files; images of one name in several folders are told apart.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn of(&mut self, image: &Path) -> String {
        let stem = image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let further = (2..).map(|number| format!("{stem}-{number}"));
        // Some file systems take large and small letters for the same.
        let mut free = |name: &String| self.0.insert(name.to_lowercase());
        std::iter::once(stem.clone()).chain(further).find(&mut free).unwrap_or(stem)
    }
}

fn input<'i>(task: &Task, inputs: &'i BTreeMap<String, Input>, key: &str) -> Result<&'i Input> {
    let text = task.params.get(key).and_then(crate::stage::Ref::of);
    text.and_then(|text| inputs.get(text)).ok_or_else(|| Error::input(format!("`{}` has no `{key}`", task.name)))
}

/// The path as seen from here, where that is shorter.
fn tidy(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).map_or_else(|_| path.to_path_buf(), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_one_name_are_told_apart() {
        let mut names = Names::default();
        let images = ["a/ü.jpg", "b/ü.jpg", "ü.png", "Ü-2.jpg", "x.jpg"];
        assert_eq!(images.map(|image| names.of(Path::new(image))), ["ü", "ü-2", "ü-3", "Ü-2-2", "x"]);
    }
}
