//! One task in a process of its own: started, listened to, and its outputs published.

use super::guard::{self, Guard};
use super::out_of_memory::KillCount;
use super::slots::Share;
use crate::amounts::Period;
use crate::cache::{
    Action, CONTENT, Digests, Key, Line, Lookup, Member, Members, Outputs, Owner, Store, Sync, Variant, Workspace,
    this_boot, write_aside_with,
};
use crate::error::{Error, FULL, Kind, Result};
use crate::plan::{Plan, Task, TaskId};
use crate::process::{self, Usage};
use crate::stage::{Input, Job, Message};
use nix::sys::statvfs::{Statvfs, statvfs};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a worker tells the loop.
pub(super) enum Note {
    /// The task's process was started, and has this number.
    Began(TaskId, u32),
    /// The task's process said something.
    Said(TaskId, Message),
    /// Its process has ended; what is left is to publish the result.
    Computed(TaskId),
    /// The task is over.
    Ended(TaskId, Result<Ended>),
}

/// How a task ended well.
pub(super) enum Ended {
    Ran(Box<Ran>),
    /// Another process made the result while this one waited for the key's lock.
    Shared(Box<Action>),
}

/// A result, what is odd about it, and how it went this time: the record may be that of an earlier run, which stays.
pub(super) struct Ran {
    pub(super) action: Action,
    pub(super) warnings: Vec<Error>,
    /// Wall time.
    pub(super) seconds: f64,
    pub(super) log: String,
    /// Bytes of GPU memory it used at most, where that can be told.
    pub(super) gpu_memory: Option<u64>,
}

/// Everything needed to run a task, free of the plan so that a thread can own it.
pub(super) struct Order {
    pub(super) id: TaskId,
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) outputs: Vec<String>,
    pub(super) varies: Vec<String>,
    pub(super) params: serde_json::Value,
    pub(super) inputs: BTreeMap<String, Input>,
    pub(super) key: Key,
    pub(super) lines: Vec<Line>,
    pub(super) project: PathBuf,
    pub(super) pipeline: String,
    pub(super) run: String,
    pub(super) log: PathBuf,
    pub(super) share: Share,
    /// The user's own files it reads.
    pub(super) guards: Vec<Guard>,
    pub(super) digests: Digests,
    /// Its further files, by their names in the key.
    pub(super) files: Members,
    /// Outputs of a smaller result to go on from, by name.
    pub(super) extends_from: BTreeMap<String, Input>,
    /// Its place among the results that longer ones can start from.
    pub(super) member: Option<Member>,
    /// Bytes of GPU memory it was seen to use at most.
    pub(super) peak: Arc<AtomicU64>,
    /// Run even if the result appears meanwhile, and use nothing that was made before.
    pub(super) again: bool,
    /// Wait for another run that works on the same key.
    pub(super) wait: bool,
    /// Whether its result may be reused; one that may not is no standard for the next.
    pub(super) cached: bool,
}

impl Order {
    /// What a task's process is told whoever runs it; the rest is as for a task alone on one thread.
    pub(super) fn new(plan: &Plan, task: &Task, key: &Key, lines: &[Line], digests: &Digests) -> Self {
        let names = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
        Self {
            id: task.id,
            name: task.name.clone(),
            kind: task.kind.name,
            outputs: names(task.step.outputs()),
            varies: names(task.step.varies()),
            params: task.params.clone(),
            inputs: BTreeMap::new(),
            key: key.clone(),
            lines: lines.to_vec(),
            project: plan.project.clone(),
            pipeline: plan.pipeline.clone(),
            run: String::new(),
            log: PathBuf::new(),
            share: Share { threads: 1, ..Share::default() },
            guards: vec![],
            digests: digests.clone(),
            files: vec![],
            extends_from: BTreeMap::new(),
            member: None,
            peak: Arc::default(),
            again: true,
            wait: true,
            cached: task.step.is_cached(),
        }
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
    /// The limit it ran into.
    timed_out: Option<Duration>,
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

    /// Ends the task because its time is over: first asked to, then at once.
    pub(super) fn time_out(&self, limit: Duration) {
        let mut held = self.held();
        let word = if held.timed_out.is_some() { Word::Kill } else { Word::Stop };
        held.timed_out = Some(limit);
        held.said = Some(word);
        held.pass_on();
    }

    /// Tells the task how many threads it has from its next step on.
    pub(super) fn threads(&self, count: usize) {
        self.held().write(&format!("threads {count}\n"));
    }

    /// Why the task was told to end, if it was.
    fn pulled(&self) -> Option<Error> {
        let held = self.held();
        held.said?;
        Some(match held.timed_out {
            None => Error::interrupted(),
            Some(limit) => Error::new(Kind::Stage, format!("took longer than its timeout of {}", Period(limit)))
                .hint("raise `timeout` in its `resources`; what it can resume from is kept"),
        })
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
        match self.said {
            Some(Word::Stop) => self.write("stop\n"),
            Some(Word::Kill) => self.write("kill\n"),
            None => {}
        }
    }

    fn write(&mut self, line: &str) {
        if let Some(pipe) = self.pipe.as_mut() {
            // A task that is gone already needs no word.
            let _ = pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush());
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
    if !order.again
        && store.action(&order.key).is_some()
        && let Lookup::Hit(_) = store.find(&order.key, &order.digests)
        && let Some(action) = store.action(&order.key)
    {
        return Ok(Ended::Shared(Box::new(action)));
    }
    keep_sets(store, order);
    let mut owner = owner(order);
    store.set_owner(&order.key, &owner);
    let mut told: Option<Instant> = None;
    let begun = |pid| drop(notes.send(Note::Began(order.id, pid)));
    let computed = compute(store, order, &store.scratch(&order.key), leash, &begun, &mut |message| {
        // How often whoever waits for this, or looks at it, sees it move.
        const EVERY: Duration = Duration::from_secs(1);
        if let Message::Progress { done, total, note } = &message
            && told.is_none_or(|told| told.elapsed() >= EVERY)
        {
            told = Some(Instant::now());
            (owner.done, owner.total, owner.note) = (*done, *total, note.clone());
            store.set_owner(&order.key, &owner);
        }
        let _ = notes.send(Note::Said(order.id, message));
    })?;
    let _ = notes.send(Note::Computed(order.id));
    guard::check(&order.guards, &order.digests, &order.name)?;
    let Computed { outputs: folder, heard, seconds, .. } = &computed;
    // Forcing bytes to the disk takes longer than a small task. What is lost with the power is noticed and made again.
    const WORTH_A_SYNC: f64 = 2.0;
    let sync = *seconds >= WORTH_A_SYNC;
    // Until the record names them, outputs look like what nobody needs.
    let _hold = store.hold()?;
    let outputs = store.put_outputs(folder, &order.outputs, sync)?;
    let action = record(order, heard, outputs, *seconds, (!sync).then(|| this_boot().to_string()));
    publish(store, order, action).map(|ran| Ended::Ran(Box::new(ran)))
}

/// Writes down what sets of files hold that are one digest in the key.
fn keep_sets(store: &Store, order: &Order) {
    let files = order.lines.iter().find(|line| line.name == "files" && !order.files.is_empty());
    if let Some((_, digest)) = files.and_then(|line| line.value.rsplit_once(CONTENT)) {
        store.keep_set(digest, || Some(order.files.clone()));
    }
    for (path, digest) in order.guards.iter().filter_map(Guard::folder) {
        store.keep_set(digest, || order.digests.listing(path).ok());
    }
}

/// What a process left behind that ended well. Its outputs go when this is dropped.
pub(super) struct Computed {
    _workspace: Workspace,
    /// The folder of its outputs.
    pub(super) outputs: PathBuf,
    pub(super) heard: Heard,
    /// Wall time.
    pub(super) seconds: f64,
}

/// Runs a task's process to its end, apart from the cache.
pub(super) fn compute(
    store: &Store,
    order: &Order,
    scratch: &Path,
    leash: &Leash,
    begun: &dyn Fn(u32),
    hear: &mut dyn FnMut(Message),
) -> Result<Computed> {
    let (started, paused) = (Instant::now(), process::paused());
    let workspace = store.workspace()?;
    let job = job(store, order, workspace.path(), scratch)?;
    let log = create(&order.log)?;
    let kills = KillCount::now();
    let mut child = spawn(order, workspace.path(), log)?;
    begun(child.id());
    leash.hold(child.stdin.take());
    let mut heard = listen(&mut child, hear);
    let status = end(&mut child, order)?;
    if let Some(error) = heard.failed.take().or_else(|| died(order, status)) {
        let error = match kills.explain(status).or_else(|| kills.explain(told_status(&error))) {
            Some(hint) => error.hint(hint),
            // Its log may not have had room for what it said of that.
            None if is_full(workspace.path()) => error.hint(FULL),
            None => error,
        };
        // However a task ends that was told to: it did not fail.
        return Err(leash.pulled().unwrap_or(error));
    }
    if let Some(error) = leash.pulled() {
        return Err(error);
    }
    let missing: Vec<&str> =
        order.outputs.iter().map(String::as_str).filter(|name| !job.outputs.join(name).exists()).collect();
    if !missing.is_empty() {
        return Err(Error::new(Kind::Stage, format!("`{}` did not write `{}`", order.name, missing.join("`, `")))
            .hint("this is a fault of hashpipe: please report it"));
    }
    let seconds = started.elapsed().saturating_sub(process::paused() - paused).as_secs_f64();
    Ok(Computed { _workspace: workspace, outputs: job.outputs, heard, seconds })
}

/// Waits for the process, and ends what it left behind.
fn end(child: &mut Child, order: &Order) -> Result<ExitStatus> {
    process::wait_without_reaping(child.id());
    process::kill_group(child.id());
    let status = process::collect(child);
    // A task that ends by itself leaves nobody behind.
    if status.as_ref().is_ok_and(|status| !status.success()) {
        process::end_orphans();
    }
    status.map_err(|e| Error::new(Kind::Io, format!("cannot wait for `{}`: {e}", order.name)))
}

fn record(order: &Order, heard: &Heard, outputs: Outputs, seconds: f64, boot: Option<String>) -> Action {
    Action {
        key: order.key.clone(),
        lines: order.lines.clone(),
        kind: order.kind.to_string(),
        outputs,
        varies: order.varies.clone(),
        metrics: heard.metrics.clone(),
        facts: heard.facts.clone(),
        warnings: heard.warnings.clone(),
        seconds,
        usage: heard.usage,
        threads: order.share.threads,
        gpus: order.share.cards(),
        gpu_memory: Some(order.peak.load(Ordering::Relaxed)).filter(|peak| *peak > 0),
        host: host().to_string(),
        made: now(),
        run: order.run.clone(),
        log: order.log.display().to_string(),
        boot,
        variants: vec![],
    }
}

/// Writes the record. If the key had a result already, that stays the key's as long as its bytes are there.
fn publish(store: &Store, order: &Order, mut action: Action) -> Result<Ran> {
    let mut warnings = vec![];
    let (seconds, log, gpu_memory) = (action.seconds, action.log.clone(), action.gpu_memory);
    if let Some(first) = store.action(&order.key).filter(|_| order.cached) {
        let differ = first.differences(&action.outputs);
        let kept = store.is_complete(&first);
        if !differ.is_empty() {
            let which =
                if kept { "the first result is kept" } else { "the first result's bytes are gone: this one is used" };
            warnings.push(
                Error::new(Kind::Cache, format!("`{}` is not deterministic", order.name))
                    .note(format!("`{}` differs from what the same key gave before", differ.join("`, `")))
                    .note(which)
                    .hint("look for times, random numbers without a seed, or the order of threads in what it writes"),
            );
        }
        let (mut canonical, other) = if kept { (first, action) } else { (action, first) };
        canonical.variants.extend(other.variants.iter().cloned());
        let known = |canonical: &Action| canonical.variants.iter().any(|variant| variant.outputs == other.outputs);
        if !differ.is_empty() && !known(&canonical) {
            let Action { outputs, metrics, made, run, .. } = other;
            canonical.variants.push(Variant { outputs, metrics, made, run });
        }
        action = canonical;
    }
    if let Some(member) = &order.member {
        store.note_member(member, &order.key);
    }
    store.commit(&action)?;
    Ok(Ran { action, warnings, seconds, log, gpu_memory })
}

/// Keeps other processes off this key. Whoever holds it is making the very result that is wanted.
fn wait_for_lock(store: &Store, order: &Order, leash: &Leash, notes: &Sender<Note>) -> Result<File> {
    const AGAIN: Duration = Duration::from_millis(50);
    let mut told = String::new();
    for round in 0.. {
        if let Some(lock) = store.try_lock(&order.key)? {
            return Ok(lock);
        }
        if let Some(error) = leash.pulled() {
            return Err(error);
        }
        // The first time it may have been a reader that asked who holds it.
        if round > 0 {
            let owner = store.owner(&order.key);
            let note = owner.as_ref().map_or("another run makes the same".into(), |owner| owner.told(host()));
            if !order.wait {
                return Err(Error::new(Kind::Busy, format!("`{}`: {note}", order.name))
                    .hint("without `--no-wait`, this run waits for it and takes its result"));
            }
            if note != told {
                let (done, total) = owner.map_or((0, 0), |owner| (owner.done, owner.total));
                let _ =
                    notes.send(Note::Said(order.id, Message::Progress { done, total, note: format!("waits: {note}") }));
                told = note;
            }
        }
        std::thread::sleep(AGAIN);
    }
    unreachable!("the rounds do not end")
}

/// Lays out the task's folder and describes it in `task.json`.
fn job(store: &Store, order: &Order, folder: &Path, scratch: &Path) -> Result<Job> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|e| Error::io("find", &path, &e));
    let job = Job {
        task: order.name.clone(),
        kind: order.kind.to_string(),
        params: order.params.clone(),
        inputs: order.inputs.clone(),
        project: order.project.clone(),
        outputs: absolute(folder.join("outputs"))?,
        scratch: absolute(scratch.to_path_buf())?,
        // Who has a task made again wants all of it made again.
        shards: absolute(if order.again { folder.join("shards") } else { store.shards() })?,
        extends_from: order.extends_from.clone(),
        threads: order.share.threads,
        gpus: order.share.cards(),
        gpu_memory: order.share.card_memory(),
    };
    std::fs::create_dir_all(&job.outputs).map_err(|e| Error::io("make the folder", &job.outputs, &e))?;
    let text = serde_json::to_vec(&job).expect("a job is plain data");
    write_aside_with(&folder.join("task.json"), &text, Sync::No)?;
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
    let mut command = Command::new(&program);
    command
        .arg("exec")
        .arg(folder.join("task.json"))
        .env("RAYON_NUM_THREADS", order.share.threads.to_string())
        .envs(order.share.environment())
        // glibc gives large buffers back at once and asks for them again at the next step: a tenth of a training's
        // time goes into clearing pages. Other C libraries ignore these.
        .env("MALLOC_MMAP_THRESHOLD_", (32 << 20).to_string())
        .env("MALLOC_TRIM_THRESHOLD_", (1u64 << 32).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Its own group: Ctrl-C reaches the runner alone, which passes it on in its own way.
        .process_group(0);
    process::start(&mut command).map_err(|e| Error::io("start", &program, &e))
}

/// What a task told.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) metrics: BTreeMap<String, f64>,
    facts: BTreeMap<String, String>,
    warnings: Vec<String>,
    failed: Option<Error>,
    usage: Option<Usage>,
}

/// Reads what the task says until it closes its mouth.
fn listen(child: &mut Child, hear: &mut dyn FnMut(Message)) -> Heard {
    let mut heard = Heard::default();
    let Some(stdout) = child.stdout.take() else { return heard };
    for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        match &message {
            Message::Metric { name, value } => {
                heard.metrics.insert(name.clone(), *value);
            }
            Message::Fact { name, text } => {
                heard.facts.insert(name.clone(), text.clone());
            }
            Message::Warning { text } => heard.warnings.push(text.clone()),
            Message::Failed { error, exit_code } => heard.failed = Some(Error::rendered(error, *exit_code)),
            Message::Usage(usage) => heard.usage = Some(*usage),
            Message::Progress { .. } | Message::Threads { .. } => {}
        }
        hear(message);
    }
    heard
}

fn owner(order: &Order) -> Owner {
    Owner {
        pid: std::process::id(),
        host: host().to_string(),
        pipeline: order.pipeline.clone(),
        task: order.name.clone(),
        run: order.run.clone(),
        since: now(),
        done: 0,
        total: 0,
        note: String::new(),
        gpus: order.share.cards(),
    }
}

/// How a program of the user's ended, if its end was a SIGKILL, by what its task's process told of it.
fn told_status(error: &Error) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt as _;
    const KILLED: [&str; 2] = ["was killed by signal 9", "ended with exit code 137"];
    ExitStatus::from_raw(if KILLED.iter().any(|told| error.message().contains(told)) { 9 } else { 0 })
}

/// Whether nothing more can be written where a folder lies.
fn is_full(folder: &Path) -> bool {
    /// A file system that refuses to write may show a little that is kept for others.
    const LITTLE: u64 = 1 << 16;
    // Some do not count files.
    let no_file_more = |disk: &Statvfs| disk.files() > 0 && disk.files_available() == 0;
    statvfs(folder).is_ok_and(|disk| disk.blocks_available() * disk.fragment_size() < LITTLE || no_file_more(&disk))
}

/// The error of a task that ended without saying why.
fn died(order: &Order, status: ExitStatus) -> Option<Error> {
    if status.success() {
        return None;
    }
    let error = Error::new(Kind::Stage, format!("`{}` died: {status}", order.name));
    Some(error.hint("a process that is killed without a word often ran out of memory: `dmesg` tells"))
}

/// This machine's name.
pub(super) fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        name.unwrap_or_else(|| "unknown".into())
    })
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
