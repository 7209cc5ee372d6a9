//! What went wrong on a GPU, told from the words that a failed task left behind, and what to do about it.
//!
//! One table says which words mean which fault (`sayings`), one function what each fault means and what helps. Which task
//! is tried again is not decided here.

mod sayings;

use sayings::{Fault, fault, library};

use super::machine::{About, Machine};
use super::slots::Share;
use crate::error::{Error, Kind};

/// Whether a failed task's message, or the end of its log, says that a GPU's memory was full.
///
/// Ask only of tasks that had a GPU and failed: some frameworks say the same of main memory, or go on after it.
pub(super) fn gpu_was_full(text: &str) -> bool {
    fault(text).is_some_and(|(fault, _)| fault == Fault::OutOfMemory)
}

/// What is known of a task whose words are explained.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// It is a program of the user's.
    pub(super) is_program: bool,
    /// Its card, for a person; nothing if it had none.
    pub(super) card: Option<String>,
    pub(super) about: About,
}

impl Facts {
    /// Of a task with this share. May ask the driver.
    pub(super) fn of(machine: &Machine, share: Option<&Share>, is_program: bool) -> Self {
        match share.and_then(|share| share.gpus.first()) {
            Some(part) => Self::at(machine, part.position, is_program),
            None => Self { is_program, ..Self::default() },
        }
    }

    /// Of work on a card.
    fn at(machine: &Machine, position: usize, is_program: bool) -> Self {
        let about = machine.about(position);
        let card = machine.cards().get(position).map_or_else(|| format!("GPU {position}"), ToString::to_string);
        let card = about.model.as_ref().map_or(card.clone(), |model| format!("{card} ({model})"));
        Self { is_program, card: Some(card), about }
    }

    fn its_card(&self) -> &str {
        self.card.as_deref().unwrap_or("its GPU")
    }

    /// Compute capability of its card, as the driver tells or else as the program says: `sm_90`.
    fn capability(&self, line: &str) -> Option<(i32, i32)> {
        self.about.capability.or_else(|| {
            let digits: String = line.split_once("sm_")?.1.chars().take_while(char::is_ascii_digit).collect();
            let number: i32 = digits.parse().ok()?;
            Some((number / 10, number % 10))
        })
    }
}

/// The error of a failed task, with what its words, or the end of its log, say of a GPU, and what to do.
pub(super) fn explained(error: Error, log: &str, facts: impl FnOnce() -> Facts) -> Error {
    let message = error.render("error");
    let Some((fault, line)) = fault(&message).or_else(|| fault(log)) else { return error };
    let (note, hints) = explain(fault, line, &facts());
    hints.into_iter().fold(error.note(note), Error::hint)
}

/// The error of work that this process did on a GPU, by its position among the machine's cards.
pub fn explain_gpu(error: Error, machine: &Machine, position: usize) -> Error {
    // A GPU that cannot be opened is explained where it is opened.
    if error.kind() == Kind::Resources {
        return error;
    }
    explained(error, "", || Facts::at(machine, position, false))
}

fn explain(fault: Fault, line: &str, facts: &Facts) -> (String, Vec<String>) {
    let card = facts.its_card();
    let own = |program: &str, stage: &str| if facts.is_program { program.to_string() } else { stage.to_string() };
    match fault {
        Fault::OutOfMemory => (
            format!("the memory of {card} was full"),
            vec![own("have it take less at once, or give it a GPU with more memory", "make `batch` smaller, or use a GPU with more memory")],
        ),
        Fault::LibraryMissing => missing(line, facts),
        Fault::DriverTooOld => too_old(facts),
        Fault::NoKernelImage => no_kernel(line, facts),
        Fault::IllegalAddress => sticky(format!("a program on {card} read or wrote memory that is not its own"), facts),
        Fault::Assert => sticky(
            format!("an assertion of a program on {card} failed: most often an index out of range, such as a label beyond the last class"),
            facts,
        ),
        Fault::LaunchFailed => sticky(format!("a program on {card} broke off"), facts),
        Fault::LaunchTooLarge => (
            format!("a program on {card} wants more registers or shared memory than a block of threads has there"),
            vec![own("it was made for another kind of card: look for a newer version, or smaller blocks", REPORT)],
        ),
        Fault::Timeout => (
            format!("a program on {card} ran longer than the driver lets it beside a screen"),
            vec!["use a card without a screen, or end the graphical session".into()],
        ),
        Fault::Lost => (
            format!("{card} fell off the bus, or its memory is damaged: it answers nobody until it is reset"),
            vec![
                "`dmesg | grep -i xid` and `nvidia-smi` tell what happened; `nvidia-smi --gpu-reset`, or a restart, brings it back".into(),
                "until then, `--gpus` with the numbers of the others, as in `--gpus 1,2`, goes on without it".into(),
            ],
        ),
        Fault::Busy => (
            format!("{card} lets one process in at a time, or is kept by another one"),
            vec![
                "`nvidia-smi -q -d COMPUTE` tells its mode; in `DEFAULT`, which `nvidia-smi -c DEFAULT` sets, several may share it".into(),
                "without `gpu_memory` in `[resources]`, every task gets a card of its own".into(),
            ],
        ),
        Fault::NoDevice if facts.card.is_none() => (
            "it was given no GPU, so CUDA_VISIBLE_DEVICES was empty for it".into(),
            vec![own("say `resources = { gpus = 1 }` in its table", "say `gpus = 1` for it in `[resources]`")],
        ),
        Fault::NoDevice => (
            format!("CUDA does not show it {card}, which it was given"),
            vec!["`nvidia-smi -L` must list the card; a container must be started with it, as in `docker run --gpus all`".into()],
        ),
        Fault::Communication => (
            "the GPUs of this task could not talk to each other".into(),
            vec![own(
                "`NCCL_DEBUG=INFO` tells why; name it in `env` of the stage, so that the program sees it",
                "`NCCL_DEBUG=INFO hashpipe run ..` tells why, in the log of the task",
            )],
        ),
    }
}

const REPORT: &str = "this is a fault of hashpipe: please report it with the whole message and the kind of card";

/// A fault after which the process cannot use the GPU any more.
fn sticky(what: String, facts: &Facts) -> (String, Vec<String>) {
    let note = format!(
        "{what}; after that no call of CUDA works in the same process, so it had to end, and no other task did"
    );
    let hints = if facts.is_program {
        vec![
            "CUDA tells it late: with `CUDA_LAUNCH_BLOCKING=1` in its environment (name it in `env` of the stage) the message comes from the call that failed".into(),
            "`compute-sanitizer PROGRAM ..` names the place in the program".into(),
        ]
    } else {
        vec![
            "CUDA tells it late: with `CUDA_LAUNCH_BLOCKING=1 hashpipe run ..` the message comes from the call that failed".into(),
            "`compute-sanitizer --target-processes all hashpipe run ..` names the place".into(),
            REPORT.into(),
        ]
    };
    (note, hints)
}

fn no_kernel(line: &str, facts: &Facts) -> (String, Vec<String>) {
    let card = facts.its_card();
    let Some((major, minor)) = facts.capability(line) else {
        let ask = "`nvidia-smi --query-gpu=compute_cap --format=csv` tells the card's compute capability".to_string();
        let build = if facts.is_program {
            "build or install the program for it"
        } else {
            "build hashpipe for it: CUDA_COMPUTE_CAP=90 for 9.0"
        };
        return (format!("the program was built for other cards than {card}"), vec![ask, build.into()]);
    };
    let note = format!("the program was built for other cards: {card} has compute capability {major}.{minor}");
    let hint = match facts.is_program {
        true => format!("build or install it for sm_{major}{minor}"),
        false => format!(
            "build hashpipe for it: `CUDA_COMPUTE_CAP={major}{minor} cargo build --release --features cuda,cudnn`"
        ),
    };
    (note, vec![hint])
}

fn too_old(facts: &Facts) -> (String, Vec<String>) {
    let there = match (&facts.about.driver, facts.about.cuda) {
        (Some(driver), Some((major, minor))) => {
            format!("the driver here is {driver}, for CUDA {major}.{minor} and older")
        }
        (Some(driver), None) => format!("the driver here is {driver}"),
        _ => "`nvidia-smi` tells the driver's version and the newest CUDA it serves".into(),
    };
    let wanted = match facts.is_program {
        false => "this hashpipe was built with a newer CUDA",
        true => "the program was built with a newer CUDA (PyTorch tells which: `torch.version.cuda`)",
    };
    (
        format!("{there}; {wanted}"),
        vec![
            "CUDA 13 needs a driver of 580 or newer, CUDA 12 one of 525 or newer: install a newer driver, or a build for an older CUDA".into(),
            "after an update of the driver the machine has to be started again".into(),
        ],
    )
}

fn missing(line: &str, facts: &Facts) -> (String, Vec<String>) {
    let Some((name, (_, what, package))) = library(line) else {
        return ("a library of CUDA was not found".into(), vec![]);
    };
    if package.is_empty() {
        return (
            format!("`{name}` was not found: it comes with {what}"),
            vec!["install the driver; a container must be started with it, as in `docker run --gpus all`".into()],
        );
    }
    let path = match facts.is_program {
        true => {
            "put the folder it lies in into LD_LIBRARY_PATH, and name that in `env` of the stage, so that the program sees it"
        }
        false => "put the folder it lies in into LD_LIBRARY_PATH",
    };
    (
        format!("`{name}` was not found: {what}"),
        vec![format!("it comes with CUDA's toolkit, or with `pip install {package}`"), path.into()],
    )
}

#[cfg(test)]
mod tests;
