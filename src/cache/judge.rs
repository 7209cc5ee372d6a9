//! Whether a task's result is there, and if not, why: the one code path behind `run`, `status` and `--dry-run`.

use super::{Action, Contents, Digests, Key, Line, Lookup, Reason, Store, key, lines};
use crate::error::{Error, Result};
use crate::plan::{Plan, Target, Task, TaskId};
use crate::stage::{Images, Input};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Judges tasks of one plan against one cache.
pub struct Judge<'a> {
    plan: &'a Plan,
    store: &'a Store,
    digests: Digests,
    /// Files each task reads beyond its references, found once.
    files: HashMap<TaskId, Vec<(String, PathBuf)>>,
}

/// What is known of a task whose inputs are all there.
pub struct Verdict {
    pub key: Key,
    /// What its inputs hold.
    pub contents: Contents,
    pub lines: Vec<Line>,
    pub state: Known,
}

/// Whether a result can be reused.
pub enum Known {
    Hit(Action),
    Run(Reason),
}

/// Results of the tasks judged or run so far.
pub type Results = HashMap<TaskId, Action>;

impl<'a> Judge<'a> {
    pub fn new(plan: &'a Plan, store: &'a Store) -> Self {
        Self { plan, store, digests: store.digests(), files: HashMap::new() }
    }

    /// Finds the files of a task; everything that is missing is said at once.
    pub fn check_files(&mut self, task: &Task) -> Result<()> {
        if self.files.contains_key(&task.id) {
            return Ok(());
        }
        let missing = task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path, place } if !path.exists() => Some(
                Error::data(format!("`{text}` of `{}` does not exist", task.name))
                    .at(place.clone())
                    .note(format!("looked for `{}`", path.display()))
                    .hint(
                        task.obtain
                            .as_deref()
                            .map(|text| text.trim().to_string())
                            .unwrap_or_else(|| "correct the path, or put the file there".into()),
                    ),
            ),
            _ => None,
        });
        if let Some(error) = Error::all(missing.collect()) {
            return Err(error);
        }
        let files = task.step.files(&self.plan.project).map_err(|e| match &task.obtain {
            Some(obtain) => e.hint(obtain.trim().to_string()),
            None => e,
        })?;
        self.files.insert(task.id, files);
        Ok(())
    }

    /// Judges a task; `results` holds those of all it needs.
    pub fn judge(&mut self, task: &Task, results: &Results) -> Result<Verdict> {
        let contents = self.contents(task, results)?;
        let lines = lines(task, &contents);
        let key = key(&lines);
        let state = match self.store.find(&key, &mut self.digests) {
            Lookup::Hit(action) => Known::Hit(action),
            Lookup::Lost(reason) => Known::Run(reason),
            Lookup::Miss => Known::Run(self.store.reason(&self.plan.pipeline, &task.name, &lines)),
        };
        Ok(Verdict { key, contents, lines, state })
    }

    /// Moves what is damaged of a key out of the way.
    pub fn quarantine(&mut self, key: &Key) -> Result<Vec<Error>> {
        self.store.quarantine(key, &mut self.digests)
    }

    /// The user's own files a task reads, with the digests found when it was judged.
    pub fn sources(&self, task: &Task, contents: &Contents) -> Vec<(PathBuf, String)> {
        let named = task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path, .. } => Some((path.clone(), contents.inputs.get(text)?.clone())),
            Target::Output { .. } => None,
        });
        let files = self.files.get(&task.id).into_iter().flatten().map(|(_, path)| path.clone());
        named.chain(files.zip(contents.files.iter().map(|(_, digest)| digest.clone()))).collect()
    }

    /// Writes down the digests it had to compute.
    pub fn save(&mut self) -> Result<()> {
        self.digests.save()
    }

    fn contents(&mut self, task: &Task, results: &Results) -> Result<Contents> {
        self.check_files(task)?;
        let mut contents = Contents::default();
        for (text, target) in &task.inputs {
            let digest = match target {
                Target::Path { path, .. } => self.digests.path(path)?,
                Target::Output { task: from, port } => object(results, *from, port)?.digest.clone(),
            };
            contents.inputs.insert(text.clone(), digest);
        }
        let files = &self.files[&task.id];
        let paths: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
        let digests = self.digests.files(&paths)?;
        contents.files = files.iter().map(|(name, _)| name.clone()).zip(digests).collect();
        Ok(contents)
    }
}

/// What each reference of a task means to the process that runs it.
pub fn inputs(
    plan: &Plan,
    store: &Store,
    task: &Task,
    contents: &Contents,
    results: &Results,
) -> Result<BTreeMap<String, Input>> {
    let meaning = |text: &String, target: &Target| -> Result<Input> {
        let digest = contents.inputs.get(text).cloned().unwrap_or_default();
        Ok(match target {
            Target::Path { path, .. } => Input { path: absolute(path), digest, images: None },
            Target::Output { task: from, port } => Input {
                path: absolute(&store.object_path(object(results, *from, port)?)),
                digest,
                images: images(plan, store, *from, results)?,
            },
        })
    };
    task.inputs.iter().map(|(text, target)| Ok((text.clone(), meaning(text, target)?))).collect()
}

/// Where the images of a task's lists lie.
fn images(plan: &Plan, store: &Store, task: TaskId, results: &Results) -> Result<Option<PathBuf>> {
    Ok(match plan.task(task).step.images(&plan.project) {
        Images::None => None,
        Images::Folder(folder) => Some(absolute(&folder)),
        Images::Output(port) => Some(absolute(&store.object_path(object(results, task, port)?))),
    })
}

fn object<'r>(results: &'r Results, task: TaskId, port: &str) -> Result<&'r super::Object> {
    results.get(&task).and_then(|action| action.outputs.get(port)).ok_or_else(|| {
        Error::new(crate::error::Kind::Cache, format!("output `{port}` of task {} is not there", task.0))
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
