//! One task in a process of its own: started, listened to, and its outputs published.

use super::slots::Share;
use crate::cache::{Action, Key, Line, Lookup, Store, write_aside};
use crate::error::{Error, Kind, Result};
use crate::plan::{Task, TaskId};
use crate::stage::{Input, Job, Message};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a worker tells the loop.
pub(super) enum Note {
    /// The task's process said something.
    Said(TaskId, Message),
    /// The task is over.
    Ended(TaskId, Result<Ended>),
}

/// How a task ended well.
pub(super) enum Ended {
    Ran(Action),
    /// Another process made the result while this one waited for the key's lock.
    Shared(Action),
}

/// Everything needed to run a task, free of the plan so that a thread can own it.
pub(super) struct Order {
    pub(super) id: TaskId,
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) outputs: Vec<&'static str>,
    pub(super) params: serde_json::Value,
    pub(super) inputs: BTreeMap<String, Input>,
    pub(super) key: Key,
    pub(super) lines: Vec<Line>,
    pub(super) project: PathBuf,
    pub(super) log: PathBuf,
    pub(super) share: Share,
    /// The user's own files it reads, with the digests that are in its key.
    pub(super) sources: Vec<(PathBuf, String)>,
    /// Run even if the result appears meanwhile.
    pub(super) forced: bool,
}

impl Order {
    pub(super) fn new(task: &Task, inputs: BTreeMap<String, Input>, key: Key, lines: Vec<Line>) -> Self {
        Self {
            id: task.id,
            name: task.name.clone(),
            kind: task.kind.name,
            outputs: task.step.outputs(),
            params: task.params.clone(),
            inputs,
            key,
            lines,
            project: PathBuf::new(),
            log: PathBuf::new(),
            share: Share { threads: 1, gpu: None },
            sources: vec![],
            forced: false,
        }
    }

    /// A result made from files that changed meanwhile is not that of its key.
    fn check_sources(&self, store: &Store) -> Result<()> {
        let mut digests = store.digests();
        for (path, before) in &self.sources {
            if digests.path(path).ok().as_ref() != Some(before) {
                return Err(Error::new(
                    Kind::Changed,
                    format!("`{}` changed while `{}` ran", path.display(), self.name),
                )
                .note("its result was thrown away")
                .hint("run again once the file is no longer written to"));
            }
        }
        Ok(())
    }
}

/// The line to a running task: its standard input. Closing it, as the runner's death does, ends the task too.
#[derive(Clone, Default)]
pub(super) struct Leash(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    pipe: Option<ChildStdin>,
    /// The last word said, which a process that starts later still has to hear.
    said: Option<Word>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Stop,
    Kill,
}

impl Leash {
    /// Asks the task to stop at the next opportunity, saving what it has.
    pub(super) fn stop(&self) {
        self.say(Word::Stop);
    }

    /// Ends the task at once.
    pub(super) fn kill(&self) {
        self.say(Word::Kill);
    }

    /// Whether the task was told to end.
    fn is_pulled(&self) -> bool {
        self.held().said.is_some()
    }

    fn say(&self, word: Word) {
        let mut held = self.held();
        held.said = Some(word);
        held.pass_on();
    }

    fn hold(&self, pipe: Option<ChildStdin>) {
        let mut held = self.held();
        held.pipe = pipe;
        held.pass_on();
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Held {
    fn pass_on(&mut self) {
        let word: &[u8] = match self.said {
            Some(Word::Stop) => b"stop\n",
            Some(Word::Kill) => b"kill\n",
            None => return,
        };
        if let Some(pipe) = self.pipe.as_mut() {
            // A task that is gone already needs no word.
            let _ = pipe.write_all(word).and_then(|()| pipe.flush());
        }
    }
}

/// Runs a task to its end and reports it.
pub(super) fn work(store: &Store, order: &Order, leash: &Leash, notes: &Sender<Note>) {
    let ended = attempt(store, order, leash, notes);
    leash.hold(None);
    // The loop outlives its workers; if it is gone, so is whoever would read this.
    let _ = notes.send(Note::Ended(order.id, ended));
}

fn attempt(store: &Store, order: &Order, leash: &Leash, notes: &Sender<Note>) -> Result<Ended> {
    let _lock = wait_for_lock(store, order, leash, notes)?;
    if !order.forced
        && store.action(&order.key).is_some()
        && let Lookup::Hit(action) = store.find(&order.key, &mut store.digests())
    {
        return Ok(Ended::Shared(action));
    }
    let started = Instant::now();
    let workspace = store.workspace()?;
    let job = job(store, order, workspace.path())?;
    let log = create(&order.log)?;
    let mut child = spawn(order, workspace.path(), log)?;
    leash.hold(child.stdin.take());
    let mut heard = listen(&mut child, order, notes);
    let status = child.wait().map_err(|e| Error::new(Kind::Io, format!("cannot wait for `{}`: {e}", order.name)))?;
    if let Some(error) = heard.failed.take().or_else(|| died(order, status)) {
        // However a task ends that was told to: it did not fail.
        return Err(if leash.is_pulled() { Error::interrupted() } else { error });
    }
    order.check_sources(store)?;
    let missing: Vec<&str> = order.outputs.iter().filter(|name| !job.outputs.join(name).exists()).copied().collect();
    if !missing.is_empty() {
        return Err(Error::new(Kind::Stage, format!("`{}` did not write `{}`", order.name, missing.join("`, `")))
            .hint("this is a fault of hashpipe: please report it"));
    }
    let action = Action {
        key: order.key.clone(),
        lines: order.lines.clone(),
        kind: order.kind.to_string(),
        outputs: store.put_outputs(&job.outputs, &order.outputs)?,
        metrics: heard.metrics,
        warnings: heard.warnings,
        seconds: started.elapsed().as_secs_f64(),
        threads: order.share.threads,
        gpu: order.share.gpu,
        host: host(),
        made: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    };
    store.commit(&action)?;
    Ok(Ended::Ran(action))
}

/// Keeps other processes off this key. Whoever holds it is making the very result that is wanted.
fn wait_for_lock(store: &Store, order: &Order, leash: &Leash, notes: &Sender<Note>) -> Result<File> {
    const AGAIN: Duration = Duration::from_millis(50);
    loop {
        if let Some(lock) = store.try_lock(&order.key)? {
            return Ok(lock);
        }
        if leash.is_pulled() {
            return Err(Error::interrupted());
        }
        let note = "waits for another run that is making the same".to_string();
        let _ = notes.send(Note::Said(order.id, Message::Progress { done: 0, total: 0, note }));
        std::thread::sleep(AGAIN);
    }
}

/// Lays out the task's folder and describes it in `task.json`.
fn job(store: &Store, order: &Order, folder: &Path) -> Result<Job> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|e| Error::io("find", &path, &e));
    let job = Job {
        task: order.name.clone(),
        kind: order.kind.to_string(),
        params: order.params.clone(),
        inputs: order.inputs.clone(),
        project: order.project.clone(),
        outputs: absolute(folder.join("outputs"))?,
        scratch: absolute(store.scratch(&order.key))?,
        threads: order.share.threads,
        gpu: order.share.gpu,
    };
    for path in [&job.outputs, &job.scratch] {
        std::fs::create_dir_all(path).map_err(|e| Error::io("make the folder", path, &e))?;
    }
    let text = serde_json::to_vec_pretty(&job).expect("a job is plain data");
    write_aside(&folder.join("task.json"), &text)?;
    Ok(job)
}

fn create(log: &Path) -> Result<File> {
    let folder = log.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))?;
    File::create(log).map_err(|e| Error::io("write", log, &e))
}

fn spawn(order: &Order, folder: &Path, log: File) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let program =
        std::env::current_exe().map_err(|e| Error::new(Kind::Io, format!("cannot find hashpipe itself: {e}")))?;
    let gpus = order.share.gpu.map_or(String::new(), |slot| slot.to_string());
    Command::new(&program)
        .arg("exec")
        .arg(folder.join("task.json"))
        .env("RAYON_NUM_THREADS", order.share.threads.to_string())
        .env("CUDA_VISIBLE_DEVICES", gpus)
        // glibc gives large buffers back at once and asks for them again at the next step: a tenth of a training's
        // time goes into clearing pages. Other C libraries ignore these.
        .env("MALLOC_MMAP_THRESHOLD_", (32 << 20).to_string())
        .env("MALLOC_TRIM_THRESHOLD_", (1u64 << 32).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Its own group: Ctrl-C reaches the runner alone, which passes it on in its own way.
        .process_group(0)
        .spawn()
        .map_err(|e| Error::io("start", &program, &e))
}

#[derive(Default)]
struct Heard {
    metrics: BTreeMap<String, f64>,
    warnings: Vec<String>,
    failed: Option<Error>,
}

/// Reads what the task says until it closes its mouth.
fn listen(child: &mut Child, order: &Order, notes: &Sender<Note>) -> Heard {
    let mut heard = Heard::default();
    let Some(stdout) = child.stdout.take() else { return heard };
    for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        match &message {
            Message::Metric { name, value } => {
                heard.metrics.insert(name.clone(), *value);
            }
            Message::Warning { text } => heard.warnings.push(text.clone()),
            Message::Failed { error, exit_code } => heard.failed = Some(Error::rendered(error, *exit_code)),
            Message::Progress { .. } => {}
        }
        let _ = notes.send(Note::Said(order.id, message));
    }
    heard
}

/// The error of a task that ended without saying why.
fn died(order: &Order, status: ExitStatus) -> Option<Error> {
    if status.success() {
        return None;
    }
    let error = Error::new(Kind::Stage, format!("`{}` died: {status}", order.name));
    Some(error.hint("a process that is killed without a word often ran out of memory: `dmesg` tells"))
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or("unknown".into(), |name| name.trim().to_string())
}
