//! What the tests wait for: commands that stand at a gate, runs that go on, processes that are gone.

use crate::space::{Ended, Space};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks until there is something to be found. Only a test that fails waits for long.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const PATIENCE: Duration = Duration::from_secs(120);
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A project with these stages, and a file for each input.
pub(crate) fn project(stages: &str, files: &[(&str, &str)]) -> Space {
    let space = Space::empty();
    write_stages(&space, stages);
    files.iter().for_each(|(name, text)| space.write(name, text));
    space
}

/// Writes the pipeline file.
pub(crate) fn write_stages(space: &Space, stages: &str) {
    space.write("p.toml", format!("name = \"small\"\n{stages}"));
}

/// A pipe that a command stands at until the test opens it. Its path is in the command's text, and so in its key.
pub(crate) struct Gate(PathBuf);

/// A command stands at the gate. Dropping this lets it go on as well.
pub(crate) struct Reached(File);

impl Gate {
    pub(crate) fn new(space: &Space, name: &str) -> Self {
        let path = space.path(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self(path)
    }

    /// What the command says to wait.
    pub(crate) fn wait(&self) -> String {
        format!("read -r _ < {}", self.0.display())
    }

    /// Waits until a command stands here.
    pub(crate) fn reached(&self) -> Reached {
        Reached(wait_for(&format!("a command at {}", self.0.display()), || self.is_reached()))
    }

    fn is_reached(&self) -> Option<File> {
        // Fails as long as nobody reads.
        OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.0).ok()
    }
}

impl Reached {
    /// Lets the command go on.
    pub(crate) fn open(mut self) {
        self.0.write_all(b"\n").unwrap();
    }
}

/// A run that goes on while the test looks. Nothing of it outlives the test.
pub(crate) struct Going {
    child: Child,
    root: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    stderr: File,
}

impl Going {
    /// `hashpipe run p.toml --json` with more arguments.
    pub(crate) fn start(space: &Space, more: &[&str]) -> Self {
        Self::of(space, space.command(&[&["run", "p.toml", "--json"], more].concat()))
    }

    pub(crate) fn of(space: &Space, mut command: Command) -> Self {
        let stderr = tempfile::tempfile().unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr.try_clone().unwrap()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(vec![]));
        let (stdout, heard) = (BufReader::new(child.stdout.take().unwrap()), lines.clone());
        let reader = std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line));
        });
        Self { child, root: space.path("").canonicalize().unwrap(), lines, reader: Some(reader), stderr }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// What it told so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Tasks that have started so far, in that order.
    pub(crate) fn started(&self) -> Vec<String> {
        let events = self.events().into_iter().filter(|event| event["event"] == "start");
        events.map(|event| event["task"].as_str().unwrap().to_string()).collect()
    }

    /// Waits for an event.
    pub(crate) fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || self.events().into_iter().find(|event| is_it(event)))
    }

    /// Waits for an event of a task.
    pub(crate) fn wait_for_event(&self, name: &str, task: &str) -> Value {
        self.wait_for(&format!("{name} of {task}"), |event| event["event"] == name && event["task"] == task)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn end(mut self) -> Ended {
        let status = wait_for("the end of a run", || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        let mut stderr = String::new();
        self.stderr.rewind().unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let stdout = self.lines.lock().unwrap().join("\n");
        Ended { code: status.code().unwrap_or(-1), stdout, stderr }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // A test that fails may leave some: those in its folder, and no others.
            for pid in processes_in(&self.root) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// Processes that work in a folder: runs and tasks in the project's, commands in folders of the cache, wherever they
/// were moved to and whoever their parent is.
fn processes_in(root: &Path) -> Vec<Pid> {
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let works_there = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(root));
    pids.filter(works_there).map(Pid::from_raw).collect()
}

/// The processes of a project.
pub(crate) fn processes(space: &Space) -> Vec<Pid> {
    processes_in(&space.path("").canonicalize().unwrap())
}

/// Waits until no process of a project is left.
pub(crate) fn wait_for_none(space: &Space) {
    wait_for("the last process to end", || processes(space).is_empty().then_some(()));
}

/// The processes of a project whose command line has a word like this.
pub(crate) fn processes_like(space: &Space, word: &str) -> Vec<Pid> {
    let line = |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    processes(space).into_iter().filter(|pid| line(pid).split('\0').any(|found| found == word)).collect()
}

/// The process that runs a task.
pub(crate) fn task_process(space: &Space) -> Pid {
    processes_like(space, "exec")[0]
}

/// What `status` says of every task: its state, and why.
pub(crate) fn states(space: &Space, more: &[&str]) -> BTreeMap<String, (String, String)> {
    let lines = space.hashpipe(&[&["status", "p.toml", "--json"], more].concat()).ok().json();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    lines.iter().map(|line| (text(&line["task"]), (text(&line["state"]), text(&line["because"])))).collect()
}

/// The state of one task.
pub(crate) fn state(space: &Space, task: &str) -> String {
    states(space, &[])[task].0.clone()
}

/// All that a run has said, on either stream.
pub(crate) fn said(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

pub(crate) fn text(space: &Space, name: &str) -> String {
    std::fs::read_to_string(space.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// How often a command ran that adds a line to this file each time.
pub(crate) fn count(space: &Space, name: &str) -> usize {
    std::fs::read_to_string(space.path(name)).unwrap_or_default().lines().count()
}

/// Shell words that add a line to a file of the project, whatever folder they run in.
pub(crate) fn tally(space: &Space, name: &str) -> String {
    format!("echo x >> {}", space.path(name).display())
}

/// Everything below a folder, with all that writing to it would change.
pub(crate) fn listing(folder: &Path) -> BTreeMap<PathBuf, [i128; 6]> {
    let mut found = BTreeMap::new();
    let mut next = vec![folder.to_path_buf()];
    while let Some(path) = next.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            next.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let time = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let looks = [
            metadata.ino().into(),
            metadata.size().into(),
            metadata.mode().into(),
            metadata.nlink().into(),
            time(metadata.mtime(), metadata.mtime_nsec()),
            time(metadata.ctime(), metadata.ctime_nsec()),
        ];
        found.insert(path, looks);
    }
    found
}

/// A result that is nowhere: no record, and nothing at its place.
pub(crate) fn assert_not_cached(space: &Space, task: &str, place: &str) {
    assert_eq!(space.last_key("small", task), None, "{task} has a result");
    let records = std::fs::read_dir(space.path("cache/v2/actions")).unwrap().flatten();
    let records: usize = records.map(|folder| std::fs::read_dir(folder.path()).unwrap().count()).sum();
    assert_eq!(records, 0, "there is a record");
    assert!(!space.path(place).exists(), "{place} is there");
}
