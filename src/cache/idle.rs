//! Runs that had nothing to do, and how all they looked at looked: while nothing of it looks different, the next run of
//! the same command has nothing to do either, and need neither plan nor make keys to know it.
//!
//! What is compared: the program, the command, and the variables that are laid over a pipeline; the texts of the pipeline,
//! by content; which files the programs of commands are, and the variables they see; the pipeline's journal and its
//! newest run; and every record, object, input and placed output, by what the memo of digests trusts, too (device, inode,
//! size, mtime and ctime of a file that was known by its digest when it looked so). Anything else than a perfect match
//! costs these looks, and then the run judges every task as if there had been none.
//!
//! ```text
//! known/<part of the BLAKE3 of the file's path>.idle
//!   TAG, 8 bytes
//!   BLAKE3 of all that follows
//!   texts, each with its length before it (u32, little-endian), in the order of `Idle`; a list is a number and its items
//! ```

use super::digest::{Looks, looks_of};
use super::judge::{find_program, told_of_variable};
use super::key::CONTENT;
use super::{Contents, Digests, Made, Results, Store, Sync, this_boot, write_aside_with};
use crate::plan::{Plan, Target, Task, TaskId};
use crate::stage::Fact;
use blake3::Hash;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Starts every file. Another number for another layout.
const TAG: [u8; 8] = *b"hpidle1\n";

/// For so long, in seconds, no task is judged: after that one run is a full one, which also notes that all is in use.
const LASTS: u64 = 12 * 60 * 60;

/// A command that was given: what decides its plan beside the texts of the pipeline.
pub struct Question {
    digest: Hash,
    project: PathBuf,
    path: PathBuf,
}

impl Question {
    /// The question of a run of `file`, asked of the cache `store`; `parts` is all that else decides what it does: what is
    /// laid over the pipeline, and where things are put. Nothing if this program cannot tell which one it is.
    pub fn new(store: &Store, project: &Path, file: &Path, parts: &[&str]) -> Option<Self> {
        let program = looks_of(&std::env::current_exe().ok()?)?;
        let here = std::env::current_dir().ok()?;
        let mut digest = blake3::Hasher::new_derive_key("hashpipe 2026-11 idle question v1");
        let mut add = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        add(&program.to_bytes());
        for path in [&here, file, &store.root] {
            add(path.as_os_str().as_bytes());
        }
        parts.iter().for_each(|part| add(part.as_bytes()));
        // All of them: which ones are laid over a pipeline is not known here.
        let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| is_own(name)).collect();
        variables.sort();
        for (name, value) in &variables {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        let name = blake3::hash(here.join(file).as_os_str().as_bytes()).to_hex();
        let path = store.root.join("known").join(format!("{}.idle", &name[..16]));
        Some(Self { digest: digest.finalize(), project: project.to_path_buf(), path })
    }
}

fn is_own(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"HASHPIPE_")
}

/// What a run with nothing to do has found.
struct Idle {
    tasks: u64,
    /// Texts of the pipeline and their digests.
    texts: Vec<(PathBuf, Hash)>,
    /// Words of commands, and the programs that they mean.
    programs: Vec<(String, PathBuf)>,
    /// Variables that commands see, and what their keys say of them.
    variables: Vec<(String, String)>,
    /// Folders and their digests.
    folders: Vec<(PathBuf, String)>,
    files: Vec<(PathBuf, Looks)>,
}

impl Store {
    /// How many tasks have their results, if a run that asked the same found that there is nothing to do, and nothing of
    /// what it looked at looks different now.
    pub fn nothing_to_do(&self, question: &Question) -> Option<u64> {
        let bytes = std::fs::read(&question.path).ok()?;
        let mut rest = Reader::checked(&bytes)?;
        let asked = rest.take()? == question.digest.as_bytes() && rest.take()? == this_boot().as_bytes();
        let age = now().checked_sub(rest.number()?)?;
        let tasks = rest.number()?;
        if !asked || age > LASTS {
            return None;
        }
        for _ in 0..rest.number()? {
            let (path, digest) = (rest.path()?, rest.take()?);
            if blake3::hash(&std::fs::read(path).ok()?).as_bytes() != digest {
                return None;
            }
        }
        for _ in 0..rest.number()? {
            let (word, path) = (rest.text()?, rest.path()?);
            if find_program(&question.project, word)? != path {
                return None;
            }
        }
        for _ in 0..rest.number()? {
            let (name, told) = (rest.text()?, rest.text()?);
            if told_of_variable(name)? != told {
                return None;
            }
        }
        let folders: Vec<(&Path, &str)> =
            (0..rest.number()?).map(|_| Some((rest.path()?, rest.text()?))).collect::<Option<_>>()?;
        let files: Vec<(&Path, &[u8])> =
            (0..rest.number()?).map(|_| Some((rest.path()?, rest.take()?))).collect::<Option<_>>()?;
        /// Fewer looks are not worth another thread.
        const FEW: usize = 128;
        let looks_so = |(path, looks): &(&Path, &[u8])| looks_of(path).is_some_and(|now| now.to_bytes() == *looks);
        if !files.par_iter().with_min_len(FEW).all(looks_so) {
            return None;
        }
        if !folders.is_empty() {
            let digests = self.digests();
            if !folders.iter().all(|(path, digest)| digests.folder(path).is_ok_and(|found| found == *digest)) {
                return None;
            }
        }
        Some(tasks)
    }

    /// Notes that a run had nothing to do: every task of the plan has the result that `results` holds, made from what
    /// `contents` holds, and it lies at its places. Noted is only what can be told by looks; `watched` are further files
    /// that must not change. Failing to costs the next run time.
    pub fn note_nothing_to_do(
        &self,
        question: &Question,
        plan: &Plan,
        (results, contents): (&Results, &HashMap<TaskId, Contents>),
        digests: &Digests,
        watched: &[PathBuf],
    ) {
        if let Some(idle) = self.idle(question, plan, results, contents, digests, watched) {
            let _ = write_aside_with(&question.path, &idle.to_bytes(question), Sync::No);
        }
    }

    fn idle(
        &self,
        question: &Question,
        plan: &Plan,
        results: &Results,
        contents: &HashMap<TaskId, Contents>,
        digests: &Digests,
        watched: &[PathBuf],
    ) -> Option<Idle> {
        let of_task = |task: &Task| self.looked_at(task, results.get(&task.id)?, contents.get(&task.id)?);
        let found: Vec<Looked> = plan.tasks.par_iter().map(of_task).collect::<Option<_>>()?;
        let (mut programs, mut variables) = (BTreeMap::new(), BTreeMap::new());
        let (mut sealed, mut seen) = (vec![], watched.to_vec());
        for looked in found {
            sealed.extend(looked.sealed);
            seen.push(looked.record);
            for (fact, told) in looked.facts {
                match fact {
                    Fact::Program(word) => drop(programs.insert(word, told)),
                    Fact::Variable(name) => drop(variables.insert(name, told)),
                }
            }
        }
        let programs = programs.into_iter().map(|(word, told)| {
            let path = find_program(&question.project, &word)?;
            sealed.push((path.clone(), told.strip_prefix(CONTENT)?.to_string()));
            Some((word, path))
        });
        let programs = programs.collect::<Option<_>>()?;
        let (folders, sealed): (Vec<_>, Vec<_>) = sealed.into_iter().partition(|(path, _)| path.is_dir());
        let looks: Vec<Looks> = digests.looks(&sealed)?;
        let mut files: Vec<(PathBuf, Looks)> = sealed.into_iter().map(|(path, _)| path).zip(looks).collect();
        for path in seen {
            let looks = looks_of(&path)?;
            files.push((path, looks));
        }
        let texts = plan.texts().map(|(path, text)| (path.to_path_buf(), blake3::hash(text.as_bytes()))).collect();
        let variables = variables.into_iter().collect();
        Some(Idle { tasks: plan.tasks.len() as u64, texts, programs, variables, folders, files })
    }

    /// What the judgement of a task rests on, if all of that are single files and folders.
    fn looked_at(&self, task: &Task, made: &Made, contents: &Contents) -> Option<Looked> {
        if !contents.files.is_empty() || task.step.is_measured() || !task.step.shown().is_empty() {
            return None;
        }
        let inputs = task.inputs.iter().filter_map(|(text, target)| match target {
            Target::Path { path } => Some((path, text)),
            Target::Output { .. } => None,
        });
        let mut sealed = vec![];
        for (path, text) in inputs {
            sealed.push((path.clone(), contents.inputs.get(text)?.clone()));
        }
        sealed.extend(made.outputs.values().map(|object| (self.object_path(object), object.digest.clone())));
        for (port, path) in &task.puts {
            sealed.push((path.clone(), made.outputs.get(port)?.digest.clone()));
        }
        let facts = task.step.facts().into_iter().zip(&contents.facts).map(|(fact, (_, told))| (fact, told.clone()));
        Some(Looked { sealed, record: self.action_path(&made.key), facts: facts.collect() })
    }

    /// The journal of a pipeline's tasks.
    pub fn journal_path(&self, pipeline: &str) -> PathBuf {
        self.known_path(pipeline)
    }
}

/// What the judgement of one task rests on.
struct Looked {
    /// Files and folders with their digests.
    sealed: Vec<(PathBuf, String)>,
    record: PathBuf,
    facts: Vec<(Fact, String)>,
}

impl Idle {
    fn to_bytes(&self, question: &Question) -> Vec<u8> {
        let mut out = Writer(vec![0; HEAD]);
        out.put(question.digest.as_bytes());
        out.put(this_boot().as_bytes());
        out.number(now());
        out.number(self.tasks);
        out.list(&self.texts, |out, (path, digest)| {
            out.put(path.as_os_str().as_bytes());
            out.put(digest.as_bytes());
        });
        out.list(&self.programs, |out, (word, path)| {
            out.put(word.as_bytes());
            out.put(path.as_os_str().as_bytes());
        });
        out.list(&self.variables, |out, (name, told)| {
            out.put(name.as_bytes());
            out.put(told.as_bytes());
        });
        out.list(&self.folders, |out, (path, digest)| {
            out.put(path.as_os_str().as_bytes());
            out.put(digest.as_bytes());
        });
        out.list(&self.files, |out, (path, looks)| {
            out.put(path.as_os_str().as_bytes());
            out.put(&looks.to_bytes());
        });
        let mut bytes = out.0;
        let digest = blake3::hash(&bytes[HEAD..]);
        bytes[..TAG.len()].copy_from_slice(&TAG);
        bytes[TAG.len()..HEAD].copy_from_slice(digest.as_bytes());
        bytes
    }
}

/// Bytes before what the checksum is of.
const HEAD: usize = TAG.len() + blake3::OUT_LEN;

struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        // No path is so long, and a file of these that lies is a file that is passed over.
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| put(self, item));
    }
}

/// Reads what [`Writer`] wrote; nothing from the first fault on.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads bytes that are whole.
    fn checked(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let digest = head.strip_prefix(&TAG)?;
        (blake3::hash(rest).as_bytes() == digest).then_some(Self(rest))
    }

    fn take(&mut self) -> Option<&'a [u8]> {
        let (size, rest) = self.0.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take()?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.take()?).ok()
    }

    fn path(&mut self) -> Option<&'a Path> {
        Some(Path::new(OsStr::from_bytes(self.take()?)))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
