//! GPUs as a driver tells of them: which there are, what others use of them, what tasks were seen to use, and what becomes
//! of tasks whose GPU fails.
//!
//! The driver's library is one of paper, `nvml/nvml.c`, which says what a text file says. The commands use no GPU.

use crate::scene::{Gate, Going, Reached, said, text, wait_for, write_stages};
use crate::space::{Ended, Space};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const GIB: u64 = 1 << 30;

/// The folder of the made-up library; nothing, and a word about it, where there is no C compiler.
#[expect(clippy::print_stdout, reason = "a test that is skipped must say so")]
fn library() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nvml-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/nvml/nvml.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(folder.join("libnvidia-ml.so.1"))
            .arg(source)
            .output()
            .ok()
            .filter(|_| cfg!(target_os = "linux"))?;
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Some(folder)
    });
    if folder.is_none() {
        println!("skipped: there is no C compiler `cc`, or this is not Linux");
    }
    folder.as_deref()
}

/// A project on a machine with a driver that says what [`Machine::says`] was given last.
struct Machine {
    space: Space,
    library: &'static Path,
}

impl Machine {
    fn with(driver: &str) -> Option<Self> {
        let machine = Self { library: library()?, space: Space::empty() };
        machine.says(driver);
        Some(machine)
    }

    /// From now on. At once: whoever reads meanwhile reads the old or the new.
    fn says(&self, driver: &str) {
        self.space.write("driver.new", driver);
        std::fs::rename(self.space.path("driver.new"), self.space.path("driver")).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.space.command(arguments);
        command.env("LD_LIBRARY_PATH", self.library).env("FAKE_NVML", self.space.path("driver"));
        command.env_remove("CUDA_VISIBLE_DEVICES");
        command
    }

    fn start(&self, more: &[&str]) -> Going {
        Going::of(&self.space, self.command(&[&["run", "p.toml", "--json", "--jobs", "8"], more].concat()))
    }

    /// With `CUDA_VISIBLE_DEVICES` set.
    fn run_seeing(&self, visible: &str, more: &[&str]) -> Ended {
        let mut command = self.command(&[&["run", "p.toml", "--json", "--force", "command"], more].concat());
        command.env("CUDA_VISIBLE_DEVICES", visible);
        Going::of(&self.space, command).end()
    }

    /// What a dry run tells of each GPU.
    fn gpus(&self) -> Vec<Value> {
        let ended = Going::of(&self.space, self.command(&["run", "p.toml", "--dry-run", "--json"])).end().ok();
        let forecast = ended.json().into_iter().find_map(|line| line.get("forecast").cloned()).unwrap();
        forecast["gpus"].as_array().unwrap().clone()
    }

    /// Commands that each stand at a gate of their own and write what they see of GPUs.
    fn waiting(&self, wants: &[(&str, &str)]) -> Vec<Gate> {
        let gates: Vec<Gate> = wants.iter().map(|(name, _)| Gate::new(&self.space, &format!("gate-{name}"))).collect();
        let stage = |((name, wants), gate): (&(&str, &str), &Gate)| {
            let run = format!("{}; {}; : > {{out.o}}", self.tells(name), gate.wait());
            format!("[command.{name}]\nrun = '{run}'\nresources = {{ {wants} }}\noutputs = {{ o = '' }}\n")
        };
        write_stages(&self.space, &wants.iter().zip(&gates).map(stage).collect::<String>());
        gates
    }

    /// One command that wants something and writes what it sees.
    fn one(&self, wants: &str) {
        let run = format!("{}; : > {{out.o}}", self.tells("one"));
        let stage = format!("[command.one]\nrun = '{run}'\nresources = {{ {wants} }}\noutputs = {{ o = '' }}\n");
        write_stages(&self.space, &stage);
    }

    /// Shell words that write what a command sees of GPUs to a file of the test's: its outputs must not depend on that.
    fn tells(&self, name: &str) -> String {
        let seen = self.space.path(&format!("{name}.seen"));
        format!("echo \"<$CUDA_VISIBLE_DEVICES> $CUDA_DEVICE_ORDER\" > {}", seen.display())
    }

    /// The cards that a command saw.
    fn seen_by(&self, name: &str) -> String {
        let seen = text(&self.space, &format!("{name}.seen"));
        let cards = seen.trim().strip_prefix('<').and_then(|seen| seen.strip_suffix("> PCI_BUS_ID"));
        cards.unwrap_or_else(|| panic!("{name}: {seen}")).to_string()
    }
}

/// A card as the driver tells of it, in GiB.
fn gpu(uuid: &str, total: u64, used: u64) -> String {
    format!("gpu {uuid} {} 0 {}\n", total * GIB, used * GIB)
}

fn three() -> String {
    [gpu("GPU-aa-1", 24, 0), gpu("GPU-ab-2", 24, 0), gpu("GPU-cc-3", 24, 0)].concat()
}

#[test]
fn a_dry_run_tells_which_gpus_there_are_and_what_others_use() {
    let stranger = std::process::id();
    let driver = format!(
        "gpu GPU-a {} {} {}\n{}process 0 {stranger} {GIB}\nprocess 1 {stranger} {}\ngraphics 1 {stranger} {}\n",
        24 * GIB,
        GIB / 2,
        2 * GIB,
        gpu("GPU-b", 48, 0),
        5 * GIB,
        5 * GIB
    );
    let Some(machine) = Machine::with(&driver) else { return };
    machine.one("gpus = 1");
    let gpus = machine.gpus();
    let figure = |gpu: usize, key: &str| gpus[gpu][key].as_u64().unwrap();
    // What the driver keeps for itself belongs to nobody.
    assert_eq!((figure(0, "memory"), figure(0, "used_by_others")), (24 * GIB - GIB / 2, 3 * GIB));
    assert_eq!((figure(1, "memory"), figure(1, "used_by_others"), gpus.len()), (48 * GIB, 5 * GIB, 2));
    assert_eq!((&gpus[1]["name"], &gpus[1]["model"]), (&Value::from("GPU-b"), &Value::from("NVIDIA Paper 9000")));
    let shown = Going::of(&machine.space, machine.command(&["run", "p.toml", "-n"])).end().ok().stdout;
    assert!(shown.contains("used by others") && shown.contains("48.0 GiB") && shown.contains("GPU-b"), "{shown}");
    // Nobody asks for GPUs that nothing wants.
    machine.one("");
    assert_eq!(machine.gpus(), Vec::<Value>::new());
}

#[test]
fn only_cards_that_cuda_may_see_are_used_in_that_order_and_by_uuid() {
    let Some(machine) = Machine::with(&three()) else { return };
    for (wants, visible, seen) in [
        ("gpus = 1", "1", "GPU-ab-2"),
        ("gpus = 2", "2,0", "GPU-cc-3,GPU-aa-1"),
        ("gpus = 2", "GPU-c,GPU-aa", "GPU-cc-3,GPU-aa-1"),
        ("gpus = 1", "2,7,0", "GPU-cc-3"),
        ("gpus = 0", "1", ""),
    ] {
        machine.one(wants);
        let ended = machine.run_seeing(visible, &[]);
        assert_eq!((ended.code, machine.seen_by("one").as_str()), (0, seen), "{visible}: {}", said(&ended));
    }
    machine.one("gpus = 2");
    for (visible, more) in [("1", &[][..]), ("", &[]), ("-1,0,1", &[]), ("GPU-a,1", &[]), ("0,1", &["--gpus", "2,0"])] {
        let ended = machine.run_seeing(visible, more);
        assert_eq!(ended.code, 6, "{visible}: {}", said(&ended));
        let named = ["", "-1,0,1", "GPU-a,1"].contains(&visible);
        assert_eq!(
            said(&ended).contains("driver shows 3 GPUs, but CUDA_VISIBLE_DEVICES is"),
            named,
            "{}",
            said(&ended)
        );
    }
    // By the driver's numbers among those that are left.
    machine.one("gpus = 1");
    assert_eq!(machine.run_seeing("2,1", &["--gpus", "1,"]).ok().code, 0);
    assert_eq!(machine.seen_by("one"), "GPU-ab-2");
    // Two cards of four may be opened. CUDA numbers those two.
    machine.says(&format!("{}{}fail handle 0 4\nfail handle 2 4\n", three(), gpu("GPU-dd-4", 24, 0)));
    assert_eq!(machine.run_seeing("1", &[]).ok().code, 0);
    assert_eq!(machine.seen_by("one"), "GPU-dd-4");
    // Without a driver there is nothing but the words.
    machine.says("init 9\n");
    machine.one("gpus = 2");
    assert_eq!(machine.run_seeing("3,GPU-ab,1", &["--gpus", "2"]).ok().code, 0);
    assert_eq!(machine.seen_by("one"), "3,GPU-ab");
    assert_eq!(machine.run_seeing("3", &["--gpus", "2"]).code, 6);
}

#[test]
fn a_task_starts_when_strangers_leave_the_memory_it_wants() {
    let stranger = std::process::id();
    let busy = format!("{}process 0 {stranger} {}\n", gpu("GPU-a", 24, 0), 20 * GIB);
    let Some(machine) = Machine::with(&busy) else { return };
    let gates = machine.waiting(&[("large", "gpu_memory = '8GiB'"), ("small", "gpu_memory = '3GiB', priority = -1")]);
    let run = machine.start(&[]);
    gates[1].reached().open();
    run.wait_for("large to wait", |event| {
        event["task"] == "command.large" && event["note"] == "waits for GPU memory that others use"
    });
    assert_eq!(run.started(), ["command.small"]);
    machine.says(&gpu("GPU-a", 24, 0));
    gates[0].reached().open();
    assert_eq!(run.end().code, 0);
}

/// Commands like the trainings of a sweep, which tell their process's number and stand at a gate.
fn trainings(machine: &Machine) -> Vec<Gate> {
    let bits = ["16", "32", "48", "64"];
    let gates = bits.map(|bits| Gate::new(&machine.space, &format!("gate-{bits}")));
    let path = |name: &str| machine.space.path(name).display().to_string();
    let run = format!(
        "echo $$ > {0}; {1}; read -r _ < {2}; rm {0}; : > {{out.o}}",
        path("pid-{param.bits}"),
        machine.tells("{param.bits}"),
        path("gate-{param.bits}"),
    );
    write_stages(
        &machine.space,
        &format!(
            "[command.train]\nrun = '{run}'\nparams = {{ bits = [16, 32, 48, 64] }}\n\
             outputs = {{ o = '' }}\nresources = {{ gpu_memory = 'auto' }}\n"
        ),
    );
    gates.into()
}

/// Waits until the run has looked at what its tasks use since this was called.
fn measured(machine: &Machine) {
    let calls = machine.space.path("driver.calls");
    std::fs::write(&calls, "").unwrap();
    // Who asks for all that is used asks for memory first.
    wait_for("a look at what tasks use", || {
        std::fs::read_to_string(&calls).unwrap().contains("handle 0\nprocesses 0\n").then_some(())
    });
}

/// Runs the trainings twice; `driver` says what the driver tells of them. Of the first run only one starts at once, which
/// is measured.
fn share_a_card(driver: &dyn Fn(&Machine) -> String) {
    let Some(machine) = Machine::with(&gpu("GPU-a", 24, 0)) else { return };
    let gates = trainings(&machine);
    let run = machine.start(&[]);
    let at = gates[0].reached();
    machine.says(&driver(&machine));
    measured(&machine);
    assert_eq!(run.started(), ["command.train@params.bits=16"]);
    at.open();
    let at: Vec<Reached> = gates[1..].iter().map(Gate::reached).collect();
    at.into_iter().for_each(Reached::open);
    assert_eq!(run.end().code, 0);
    let peak = 5 * GIB;
    assert_eq!(machine.space.record("command.train@params.bits=16")["gpu_memory"], peak);
    // All four at once from now on: what they use is known.
    let run = machine.start(&["--force", "command"]);
    let at: Vec<Reached> = gates.iter().map(Gate::reached).collect();
    assert_eq!(run.started().len(), 4);
    at.into_iter().for_each(Reached::open);
    assert_eq!(run.end().code, 0);
    for bits in ["16", "32", "48", "64"] {
        assert_eq!(machine.seen_by(bits), "GPU-a");
    }
}

#[test]
fn four_trainings_of_measured_memory_share_a_card() {
    share_a_card(&|machine| {
        // One that computes and draws is listed twice, and uses its memory once.
        let process = |bits| {
            let number = machine.space.path(&format!("pid-{bits}"));
            ["process", "graphics"].map(|how| format!("{how} 0 @{} {}\n", number.display(), 5 * GIB)).concat()
        };
        format!("{}{}", gpu("GPU-a", 24, 0), [16, 32, 48, 64].map(process).concat())
    });
}

#[test]
fn where_no_processes_are_shown_the_use_of_the_card_is_measured() {
    // In the second run, each of four is taken to use its part.
    share_a_card(&|_| format!("{}fail processes 0 3\n", gpu("GPU-a", 24, 5)));
}

#[test]
fn a_card_that_does_not_answer_any_more_is_given_to_nobody() {
    let two = [gpu("GPU-a", 24, 0), gpu("GPU-b", 24, 0)].concat();
    for fault in ["fail handle 0 15\n", "fail memory 0 999\n"] {
        let Some(machine) = Machine::with(&two) else { return };
        let gates =
            machine.waiting(&[("a", "gpus = 1, priority = 2"), ("b", "gpus = 1, priority = 1"), ("c", "gpus = 1")]);
        let run = machine.start(&[]);
        let (first, second) = (gates[0].reached(), gates[1].reached());
        machine.says(&format!("{two}{fault}"));
        first.open();
        let told = run.wait_for("a warning", |event| event["event"] == "warning");
        assert!(told["text"].as_str().unwrap().contains("GPU 0 does not answer any more"), "{told}");
        second.open();
        gates[2].reached().open();
        assert_eq!(run.end().code, 0);
        assert_eq!(["a", "b", "c"].map(|name| machine.seen_by(name)), ["GPU-a", "GPU-b", "GPU-b"]);
    }
}

#[test]
fn what_only_a_lost_card_could_run_fails_instead_of_waiting() {
    let Some(machine) = Machine::with(&gpu("GPU-a", 24, 0)) else { return };
    let gates = machine.waiting(&[("a", "gpus = 1, priority = 1"), ("b", "gpus = 1"), ("free", "")]);
    let run = machine.start(&["--keep-going"]);
    let (at, free) = (gates[0].reached(), gates[2].reached());
    machine.says(&format!("{}fail handle 0 15\n", gpu("GPU-a", 24, 0)));
    at.open();
    run.wait_for_event("failed", "command.b");
    free.open();
    let ended = run.end();
    assert_eq!((ended.code, ended.tasks("done").len()), (6, 2), "{}", said(&ended));
    assert!(said(&ended).contains("GPU 0, which does not answer any more"), "{}", said(&ended));
}

#[test]
fn instances_of_a_card_are_cards_of_their_own() {
    let mig = |uuid: &str, gib: u64| format!("mig {uuid} {} 0\n", gib * GIB);
    let driver = [gpu("GPU-a", 40, 0), mig("MIG-x", 10), mig("MIG-y", 20), gpu("GPU-b", 24, 0)].concat();
    let Some(machine) = Machine::with(&driver) else { return };
    let gates = machine.waiting(&[("one", "gpus = 1"), ("two", "gpus = 1"), ("three", "gpus = 1")]);
    // A card that says nothing of MIG is whole.
    machine.says(&format!("{driver}fail mig 0 3\n"));
    assert_eq!(machine.gpus().len(), 2);
    machine.says(&driver);
    let gpus = machine.gpus();
    let told =
        gpus.iter().map(|gpu| (gpu["gpu"].as_u64(), gpu["instance"].as_u64(), gpu["memory"].as_u64().unwrap() / GIB));
    assert_eq!(told.collect::<Vec<_>>(), [(Some(0), Some(0), 10), (Some(0), Some(1), 20), (Some(1), None, 24)]);
    let run = machine.start(&[]);
    gates.iter().map(Gate::reached).collect::<Vec<_>>().into_iter().for_each(Reached::open);
    assert_eq!(run.end().code, 0);
    let mut seen = ["one", "two", "three"].map(|name| machine.seen_by(name));
    seen.sort();
    assert_eq!(seen, ["GPU-b", "MIG-x", "MIG-y"]);
    machine.one("gpu_memory = '15GiB'");
    for (visible, seen) in [("MIG-", 6), ("MIG-x", 6), ("MIG-x,MIG-y", 0), ("0", 6), ("1,0", 0)] {
        assert_eq!(machine.run_seeing(visible, &[]).code, seen, "{visible}");
    }
}

#[test]
fn what_a_driver_does_not_tell_stops_nobody() {
    let Some(machine) = Machine::with(&format!("{}fail memory * 3\nfail uuid * 3\n", three())) else { return };
    // Of unknown memory nothing can be shared, and without UUIDs there are numbers.
    let gates = machine.waiting(&[("a", "gpu_memory = '1GiB'"), ("b", "gpu_memory = '1GiB'")]);
    let run = machine.start(&[]);
    gates.iter().map(Gate::reached).collect::<Vec<_>>().into_iter().for_each(Reached::open);
    assert_eq!(run.end().code, 0);
    let mut seen = ["a", "b"].map(|name| machine.seen_by(name));
    seen.sort();
    assert_eq!(seen, ["0", "1"]);
}

#[test]
fn a_library_without_a_driver_is_no_gpu_and_is_named_as_the_cause() {
    let Some(machine) = Machine::with("init 9\n") else { return };
    machine.one("gpus = 1");
    for (driver, told) in [
        ("init 9\n", "libnvidia-ml.so.1 is there, but says: NVIDIA driver is not loaded"),
        ("init 18\n", "version mismatch"),
        ("", "NVIDIA's driver is there, and shows no GPU"),
    ] {
        machine.says(driver);
        let ended = machine.start(&["--force", "command"]).end();
        assert!(ended.code == 6 && said(&ended).contains(told), "{driver}: {}", said(&ended));
        // Who says that there is one is believed.
        let ended = machine.start(&["--gpus", "1", "--force", "command"]).end().ok();
        assert_eq!((ended.code, machine.seen_by("one").as_str()), (0, "0"));
    }
}

#[test]
fn a_task_that_dies_on_its_gpu_fails_alone_and_is_explained() {
    let Some(machine) = Machine::with(&three()) else { return };
    let gate = Gate::new(&machine.space, "gate");
    let stages = |cry: &str| {
        format!(
            "[command.dies]\nrun = 'echo \"{cry}\" >&2; exit 1; : > {{out.o}}'\nresources = {{ gpus = 1, priority = 2 }}\noutputs = {{ o = '' }}\n\
             [command.beside]\nrun = ': > {{out.o}}; {}'\nresources = {{ gpus = 1, priority = 1 }}\noutputs = {{ o = '' }}\n\
             [command.later]\nrun = 'cat {{in.i}} > {{out.o}}'\ninputs = {{ i = 'command.beside/o' }}\n\
             resources = {{ gpus = 1 }}\noutputs = {{ o = '' }}\n",
            gate.wait()
        )
    };
    let illegal = "RuntimeError: CUDA error: an illegal memory access was encountered";
    for (more, done) in [(&[][..], &["command.beside"][..]), (&["--keep-going"], &["command.beside", "command.later"])]
    {
        write_stages(&machine.space, &stages(illegal));
        let run = machine.start(&[&["--force", "command"], more].concat());
        let at = gate.reached();
        let failed = run.wait_for_event("failed", "command.dies");
        let told = failed["error"].as_str().unwrap();
        for piece in ["exit code 1", "GPU 0 (NVIDIA Paper 9000)", "CUDA_LAUNCH_BLOCKING=1", "compute-sanitizer"] {
            assert!(told.contains(piece), "{piece}\n{told}");
        }
        at.open();
        let ended = run.end();
        assert_eq!((ended.code, ended.tasks("done")), (1, done.iter().map(ToString::to_string).collect()));
    }
    for (cry, told) in [
        ("no kernel image is available for execution on the device", "has compute capability 9.0"),
        ("CUDA driver version is insufficient for CUDA runtime version", "580.82.07, for CUDA 13.0"),
        ("libcudnn.so.9: cannot open shared object file", "pip install nvidia-cudnn"),
    ] {
        write_stages(&machine.space, &stages(cry));
        let ended = machine.start(&["--only", "command.dies"]).end();
        assert!(ended.code == 1 && said(&ended).contains(told), "{told}\n{}", said(&ended));
    }
    // One that was given no GPU is told so.
    let stages = stages("RuntimeError: No CUDA GPUs are available").replacen("gpus = 1", "gpus = 0", 1);
    write_stages(&machine.space, &stages);
    let ended = machine.start(&["--only", "command.dies"]).end();
    assert!(said(&ended).contains("it was given no GPU"), "{}", said(&ended));
}
