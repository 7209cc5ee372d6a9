//! A project in a temporary folder, and hashpipe run in it as a user would.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A small pipeline over generated pictures: every kind of stage but `infer`, two bit lengths.
pub(crate) const PIPELINE: &str = r#"
name = "small"

[lists.shapes]
dataset = { name = "shapes", train = 24, query = 8, database = 24, size = 32, seed = 1 }

[train.net]
list = "lists.shapes/train"
bits = [8, 16]
epochs = 1
batch = 10
backbone = { name = "small", channels = [4, 8], width = 16, dropout = 0.5 }
optimizer = { name = "sgd", lr = 0.001 }
transform = { resize = 28, crop = 24 }

[encode.query]
model = "train.net/model"
list = "lists.shapes/query"

[encode.database]
model = "train.net/model"
list = "lists.shapes/database"

[evaluate.map]
query_codes = "encode.query/codes"
database_codes = "encode.database/codes"
query_list = "lists.shapes/query"
database_list = "lists.shapes/database"
top_k = 10

[export.files]
model = "train.net/model"
codes = { database = "encode.database/codes" }
"#;

pub(crate) struct Space(tempfile::TempDir);

/// What a command left behind.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // -1 stands for death by a signal.
        Self { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Fails the test unless the command succeeded.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as lines of JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// Tasks of which an event of this name was told, sorted.
    pub(crate) fn tasks(&self, event: &str) -> Vec<String> {
        let events = self.json();
        let told = events.iter().filter(|e| e["event"] == event).filter_map(|e| e["task"].as_str());
        let mut tasks: Vec<String> = told.map(str::to_string).collect();
        tasks.sort();
        tasks
    }
}

impl Space {
    /// An empty project.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A project with [`PIPELINE`] as `p.toml`.
    pub(crate) fn new() -> Self {
        let space = Self::empty();
        space.write("p.toml", PIPELINE);
        space
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hashpipe"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HASHPIPE_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub(crate) fn hashpipe(&self, arguments: &[&str]) -> Ended {
        Ended::of(&self.command(arguments).output().unwrap())
    }

    /// `hashpipe run p.toml --json` with more arguments.
    pub(crate) fn run(&self, more: &[&str]) -> Ended {
        self.hashpipe(&[&["run", "p.toml", "--json"], more].concat())
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The record of the result a task last had, as JSON.
    pub(crate) fn record(&self, task: &str) -> Value {
        let key = self.last_key("small", task).unwrap();
        let path = self.path("cache/v2/actions").join(&key[..2]).join(format!("{key}.json"));
        serde_json::from_str(std::fs::read_to_string(path).unwrap().lines().next().unwrap()).unwrap()
    }

    /// The key of a task's last result in a pipeline.
    pub(crate) fn last_key(&self, pipeline: &str, task: &str) -> Option<String> {
        let known = std::fs::read_to_string(self.path("cache/v2/known").join(pipeline)).ok()?;
        let attempts = known.lines().filter_map(|line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
        let mut done = attempts.filter(|attempt| attempt["task"] == task && attempt["end"] == "done");
        done.next_back().and_then(|attempt| attempt["key"].as_str().map(str::to_string))
    }

    /// Where an output of a task's last result lies.
    pub(crate) fn object(&self, task: &str, output: &str) -> PathBuf {
        let digest = self.record(task)["outputs"][output]["digest"].as_str().unwrap().to_string();
        self.path("cache/v2/objects").join(&digest[..2]).join(digest)
    }

    /// A copy of the project as it stands.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::empty();
        copy_folder(self.0.path(), copy.0.path());
        copy
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target)
        } else {
            let _ = std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Makes a read-only object writable and changes one byte in its middle.
pub(crate) fn damage(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
