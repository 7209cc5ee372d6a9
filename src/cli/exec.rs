//! `hashpipe exec`: one task, in this process.

use crate::device;
use crate::error::{Error, Kind, Result};
use crate::process::{self, Usage};
use crate::stage::{self, Ctx, Job, Message, Stop};
use crate::threads;
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The task's description, as `run` writes it
    task: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let stop = Stop::default();
    obey(stop.clone());
    let job = read(&arguments.task)?;
    // The runner ends a task by telling it, and with it what it started; a signal meant for a program of the user's must
    // not end this process, which watches it.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Stop::default())
            .map_err(|e| Error::new(Kind::Io, format!("cannot take signals: {e}")))?;
    }
    let ended = execute(job, stop);
    if let Some(usage) = usage() {
        say(Message::Usage(usage));
    }
    match ended {
        Ok(()) => Ok(0),
        Err(error) => {
            let exit_code = error.kind().exit_code();
            say(Message::Failed { error: error.render("error"), exit_code });
            Ok(exit_code)
        }
    }
}

fn read(path: &std::path::Path) -> Result<Job> {
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    serde_json::from_slice(&text).map_err(|e| Error::input(format!("`{}` is not a task: {e}", path.display())))
}

fn execute(job: Job, stop: Stop) -> Result<()> {
    let kind = stage::find(&job.kind).ok_or_else(|| Error::input(format!("there is no stage `{}`", job.kind)))?;
    let parsed = kind.parse(&job.params).map_err(|e| Error::input(e.to_string()))?;
    let name = job.task.clone();
    // The task counts its cards from 0.
    for (slot, bytes) in job.gpu_memory.iter().enumerate() {
        bytes.iter().for_each(|bytes| device::give(slot, *bytes));
    }
    let mut cx = Ctx::new(job, stop, Box::new(say));
    stage::perform(parsed.stage.as_ref(), &mut cx).map_err(|e| match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => {
            let causes: Vec<String> = e.chain().skip(1).map(ToString::to_string).collect();
            causes.into_iter().fold(Error::new(Kind::Stage, format!("`{name}`: {e}")), Error::note)
        }
    })
}

/// Speaks to the runner.
fn say(message: Message) {
    let line = serde_json::to_string(&message).expect("a message is plain data");
    // If the runner is gone there is nobody left to tell; `obey` ends this process.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Listens to the runner: `stop` asks for an orderly end; `kill`, or the runner's death, ends this process at once;
/// `threads 3` changes how many it works with from its next step on.
fn obey(stop: Stop) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
            match line.as_str() {
                "stop" => stop.store(true, Ordering::Relaxed),
                "kill" => break,
                line => {
                    if let Some(count) = line.strip_prefix("threads ").and_then(|count| count.parse().ok()) {
                        threads::want(count);
                    }
                }
            }
        }
        process::end_with_all(Kind::Interrupted.exit_code());
    });
}

/// What this process and what it started have used.
fn usage() -> Option<Usage> {
    let (own, children) = (process::usage(false)?, process::usage(true)?);
    Some(Usage {
        cpu_seconds: own.cpu_seconds + children.cpu_seconds,
        peak_memory: own.peak_memory.max(children.peak_memory),
    })
}
