//! Whether a task's result is there, and if not, why: the one code path behind `run`, `status` and `--dry-run`.

use super::{
    Action, Attempt, CONTENT, Contents, Digests, End, Extension, Journal, Key, Known, Line, Lookup, Made, Member,
    Reason, Store, Watch, differences, key_of, lines,
};
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, Target, Task, TaskId};
use crate::stage::{Fact, Images, Input, Ref};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Judges tasks of one plan against one cache.
pub struct Judge<'a> {
    plan: &'a Plan,
    store: &'a Store,
    digests: Digests,
    /// What became of the pipeline's tasks before.
    pub journal: Journal,
    /// Files each task reads beyond its references, found once.
    files: Mutex<HashMap<TaskId, Files>>,
    /// Where the programs lie that commands name.
    programs: Mutex<HashMap<String, (PathBuf, Option<String>)>>,
}

/// Files by their names in a key.
type Files = Arc<Vec<(String, PathBuf)>>;

/// What is known of a task whose inputs are all there.
pub struct Verdict {
    pub key: Key,
    /// What its inputs hold.
    pub contents: Contents,
    pub state: Found,
    /// Where it would begin, if it has to run.
    pub start: Start,
}

/// Where a task begins that has to run.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    Beginning,
    /// Where it was stopped, in its own words.
    Resume(String),
    /// At the end of a smaller result.
    Extend(Extension),
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Beginning => Ok(()),
            Self::Resume(place) => write!(f, "; goes on from {place}"),
            Self::Extend(Extension { from, to, key, .. }) => {
                write!(f, "; goes on from {from} of {to}, of {}", key.short())
            }
        }
    }
}

/// Whether a result can be reused.
pub enum Found {
    Hit(Made),
    /// There was a result; its bytes are gone. What it was is still known.
    Evicted(Made, Reason),
    Run(Reason),
}

/// Results of the tasks judged or run so far.
pub type Results = HashMap<TaskId, Made>;

/// Records of tasks, for whoever shows what was measured.
pub type Actions = HashMap<TaskId, Action>;

impl<'a> Judge<'a> {
    pub fn new(plan: &'a Plan, store: &'a Store) -> Self {
        Self::with(plan, store, store.digests())
    }

    /// The same; the watch sees how much is read, and can end it.
    pub fn watched(plan: &'a Plan, store: &'a Store, watch: Arc<Watch>) -> Self {
        Self::with(plan, store, store.digests().watched(watch))
    }

    /// The same, with a memo of digests of one's own.
    pub fn with(plan: &'a Plan, store: &'a Store, digests: Digests) -> Self {
        Self {
            plan,
            store,
            digests,
            journal: store.journal(&plan.pipeline),
            files: Mutex::default(),
            programs: Mutex::default(),
        }
    }

    /// What became of the pipeline's tasks before.
    pub fn known(&self) -> &Known {
        &self.journal.known
    }

    /// Finds the files and programs of a task; everything that is missing is said at once.
    pub fn check_files(&self, task: &Task) -> Result<()> {
        if held(&self.files).contains_key(&task.id) {
            return Ok(());
        }
        let missing = task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path } if !path.exists() => Some(self.missing(task, text, path)),
            _ => None,
        });
        let mut errors: Vec<Error> = missing.collect();
        for fact in task.step.facts() {
            if let Fact::Program(word) = fact {
                errors.extend(self.program(task, &word).err());
            }
        }
        if let Some(error) = Error::all(errors) {
            return Err(error);
        }
        let files = task.step.files(&self.plan.project).map_err(|e| match &task.obtain {
            Some(obtain) => e.hint(obtain.trim().to_string()),
            None => e,
        })?;
        held(&self.files).insert(task.id, Arc::new(files));
        Ok(())
    }

    fn missing(&self, task: &Task, text: &str, path: &Path) -> Error {
        let hint = task.obtain.as_deref().map(|text| text.trim().to_string());
        Error::data(format!("`{text}` of `{}` does not exist", task.name))
            .at(self.plan.place_of_ref(task, text))
            .note(format!("looked for `{}`", path.display()))
            .hint(hint.unwrap_or_else(|| "correct the path, or put the file there".into()))
    }

    /// Where the program lies that a command names.
    fn program(&self, task: &Task, word: &str) -> Result<PathBuf> {
        if let Some((path, _)) = held(&self.programs).get(word) {
            return Ok(path.clone());
        }
        let found = find_program(&self.plan.project, word);
        let Some(path) = found else {
            let hint = match word.contains('/') {
                true => "paths of programs are taken from the project folder",
                false => "install it, or correct `PATH`",
            };
            return Err(Error::data(format!("there is no program `{word}`"))
                .at(self.plan.place(task, "run", crate::config::Mark::Value))
                .hint(hint));
        };
        held(&self.programs).insert(word.to_string(), (path.clone(), None));
        Ok(path)
    }

    /// Digest of the program that commands name; looked at once, since ten thousand commands may name the same.
    fn program_digest(&self, task: &Task, word: &str) -> Result<String> {
        let path = self.program(task, word)?;
        if let Some((_, Some(digest))) = held(&self.programs).get(word) {
            return Ok(digest.clone());
        }
        let digest = self.digests.file(&path)?;
        held(&self.programs).insert(word.to_string(), (path, Some(digest.clone())));
        Ok(digest)
    }

    /// Judges a task; `results` holds those of all it needs.
    pub fn judge(&self, task: &Task, results: &Results) -> Result<Verdict> {
        let contents = self.contents(task, results)?;
        let key = key_of(task, &contents);
        let state = if task.step.is_cached() {
            match self.find(task, &key) {
                Lookup::Hit(made) => Found::Hit(made),
                Lookup::Lost(made, reason) => Found::Evicted(made, reason),
                Lookup::Miss => Found::Run(self.reason(&task.name, &key, &lines(task, &contents))),
            }
        } else {
            Found::Run(Reason::Always)
        };
        let start = match state {
            Found::Hit(_) => Start::Beginning,
            _ => self.start(task, &key, &lines(task, &contents)),
        };
        Ok(Verdict { key, contents, state, start })
    }

    fn start(&self, task: &Task, key: &Key, lines: &[Line]) -> Start {
        if let Some(place) = task.step.resumable(&self.store.scratch(key)) {
            return Start::Resume(place);
        }
        let extension =
            task.step.extends().and_then(|extends| self.store.extension(&Member::of(lines, extends)?, extends));
        extension.map_or(Start::Beginning, Start::Extend)
    }

    /// The result of a key: from what this pipeline's tasks came to, or from its record.
    fn find(&self, task: &Task, key: &Key) -> Lookup {
        if !self.store.note_use(key) {
            return Lookup::Miss;
        }
        match self.journal.known.done(&task.name, key) {
            // One read for all tasks instead of one each; what is said there is checked like a record.
            Some(attempt) if !task.step.is_measured() => {
                self.store.check(attempt.made(), attempt.boot.as_deref(), &self.digests)
            }
            _ => self.store.find(key, &self.digests),
        }
    }

    /// Why a task with this key has to run.
    fn reason(&self, task: &str, key: &Key, lines: &[Line]) -> Reason {
        // What changed while it ran has given it another key by now.
        if self.known().last(task).is_some_and(|last| last.end == End::Tainted) {
            return Reason::Tainted;
        }
        let last = self.known().attempts(task).iter().rev().find(|attempt| attempt.key == *key);
        let owner = self.store.owner(key);
        // An attempt of a later run, of which nothing was heard any more.
        let died = owner.as_ref().is_some_and(|owner| last.is_none_or(|last| last.run != owner.run));
        match last {
            Some(Attempt { end: End::Failed, cause, .. }) if !died => return Reason::Failed { cause: cause.clone() },
            _ => {}
        }
        if let Some(owner) = owner {
            return Reason::Interrupted { note: owner.note };
        }
        match self.nearest(task, lines) {
            Some(old) => Reason::between(&old, lines),
            None if self.known().keys(task).is_empty() => Reason::New,
            None => Reason::Forgotten,
        }
    }

    /// The key lines of the task's earlier result that differ least from these; of equals, the newest.
    fn nearest(&self, task: &str, lines: &[Line]) -> Option<Vec<Line>> {
        let earlier = self.known().keys(task).into_iter().filter_map(|key| Some(self.store.action(key)?.lines));
        earlier.min_by_key(|old| differences(old, lines).len())
    }

    /// Moves what is damaged of a result out of the way.
    pub fn quarantine(&self, made: &Made) -> Result<Vec<Error>> {
        self.store.quarantine(&made.outputs)
    }

    /// The user's own files a task reads, its program among them, with the digests found when it was judged.
    pub fn sources(&self, task: &Task, contents: &Contents) -> Vec<(PathBuf, String)> {
        let named = task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path } => Some((path.clone(), contents.inputs.get(text)?.clone())),
            Target::Output { .. } => None,
        });
        let files = self.files_of(task);
        let files = files.iter().map(|(_, path)| path.clone());
        let programs = task.step.facts().into_iter().zip(&contents.facts).filter_map(|(fact, (_, told))| match fact {
            Fact::Program(word) => Some((self.program(task, &word).ok()?, told.strip_prefix(CONTENT)?.to_string())),
            Fact::Variable(_) => None,
        });
        let files = files.zip(contents.files.iter().map(|(_, digest)| digest.clone()));
        named.chain(files).chain(programs).collect()
    }

    /// Whether these files still have these digests.
    pub fn still(&self, sources: &[(PathBuf, String)]) -> bool {
        sources.iter().all(|(path, digest)| self.digests.path(path).is_ok_and(|found| found == *digest))
    }

    /// Looks at programs anew: one of them has changed since it was looked at.
    pub fn forget_programs(&self) {
        held(&self.programs).clear();
    }

    /// Whether every output that the user wants at a place lies there as it was made.
    pub fn is_put(&self, task: &Task, made: &Made) -> bool {
        task.puts.iter().all(|(port, path)| {
            let digest = made.outputs.get(port).map(|object| object.digest.as_str());
            self.digests.path(path).ok().as_deref() == digest
        })
    }

    fn files_of(&self, task: &Task) -> Files {
        held(&self.files).get(&task.id).cloned().unwrap_or_default()
    }

    /// The digests it knows, for whoever looks at the same files.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// Writes down what is not written yet, at the end of a run. What cannot be written costs the next run time, and
    /// this one nothing.
    pub fn close(self) -> Vec<Error> {
        let failures = [self.digests.save().err(), self.journal.close().err()];
        let hint = |error: Error| error.hint("results are whole; the next run may take longer to find that out");
        failures.into_iter().flatten().map(hint).collect()
    }

    fn contents(&self, task: &Task, results: &Results) -> Result<Contents> {
        self.check_files(task)?;
        let mut contents = Contents::default();
        for (text, target) in &task.inputs {
            let digest = match target {
                Target::Path { path } => self.digests.path(path)?,
                Target::Output { task: from, port } => object(results, *from, port)?.digest.clone(),
            };
            contents.inputs.insert(text.clone(), digest);
        }
        let files = self.files_of(task);
        if !files.is_empty() {
            let paths: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
            let digests = self.digests.files(&paths)?;
            contents.files = files.iter().map(|(name, _)| name.clone()).zip(digests).collect();
        }
        for fact in task.step.facts() {
            contents.facts.push(self.fact(task, fact)?);
        }
        contents.facts.extend(task.step.seen_names(&|input| self.known_as(task, input)));
        Ok(contents)
    }

    /// The path that an input of a task has for the user; empty if it has none.
    fn known_as(&self, task: &Task, input: &Ref) -> String {
        match task.inputs.get(&input.0) {
            Some(Target::Output { task, port }) => known_as(self.plan, *task, port),
            _ => input.0.clone(),
        }
    }

    fn fact(&self, task: &Task, fact: Fact) -> Result<(String, String)> {
        Ok(match fact {
            Fact::Program(word) => ("program".into(), format!("{CONTENT}{}", self.program_digest(task, &word)?)),
            Fact::Variable(name) => {
                let Some(value) = told_of_variable(&name) else {
                    return Err(Error::input(format!("the environment variable `{name}` is not UTF-8"))
                        .at(self.plan.place(task, "env", crate::config::Mark::Value)));
                };
                (format!("env.{name}"), value)
            }
        })
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the program lies that a word of a command means: a path from the project's folder, or a name that `PATH` finds.
pub(super) fn find_program(project: &Path, word: &str) -> Option<PathBuf> {
    match word.contains('/') {
        true => Some(project.join(word)).filter(|path| path.is_file()),
        false => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(word))
            .find(|path| is_program(path)),
    }
}

/// What a key holds of an environment variable: the digest of its value, which may be a secret. Nothing if that is not
/// UTF-8.
pub(super) fn told_of_variable(name: &str) -> Option<String> {
    match std::env::var(name) {
        Ok(value) => Some(format!("{CONTENT}{}", blake3::hash(value.as_bytes()).to_hex())),
        Err(std::env::VarError::NotPresent) => Some("not set".into()),
        Err(std::env::VarError::NotUnicode(_)) => None,
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
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
            Target::Path { path } => Input { path: absolute(path), digest, images: None, known_as: text.clone() },
            Target::Output { task: from, port } => Input {
                path: absolute(&store.object_path(object(results, *from, port)?)),
                digest,
                images: images(plan, store, *from, results)?,
                known_as: known_as(plan, *from, port),
            },
        })
    };
    task.inputs.iter().map(|(text, target)| Ok((text.clone(), meaning(text, target)?))).collect()
}

/// The path, from the project folder, at which an output is put for the user.
fn known_as(plan: &Plan, task: TaskId, port: &str) -> String {
    let puts = &plan.task(task).puts;
    let path =
        puts.iter().find(|(name, _)| name == port).map(|(_, path)| path.strip_prefix(&plan.project).unwrap_or(path));
    path.map_or(String::new(), |path| path.display().to_string())
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
    results
        .get(&task)
        .and_then(|made| made.outputs.get(port))
        .ok_or_else(|| Error::new(Kind::Cache, format!("output `{port}` of task {} is not there", task.0)))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
