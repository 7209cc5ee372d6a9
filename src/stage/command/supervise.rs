//! A program of the user's while it runs: what it says goes to the log, and it ends when it has to, with everything it
//! started.

use crate::error::{Error, Kind, Result};
use crate::process;
use crate::stage::Ctx;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a program that was asked to end may take to save what it has.
const GRACE: Duration = Duration::from_secs(30);

/// What the loop below hears.
enum Word {
    /// A line the program wrote.
    Line(String),
    Ended(std::io::Result<ExitStatus>),
}

/// Runs a program to its end. What it prints goes to this process's standard error, which is the task's log.
pub(super) fn run(cx: &mut Ctx, folder: &Path, arguments: &[String], environment: &[(String, String)]) -> Result<()> {
    process::adopt_orphans();
    let child = spawn(folder, arguments, environment)?;
    let (sender, words) = channel();
    let status = watch(cx, child, sender, &words)?;
    if status.success() {
        return Ok(());
    }
    let program = &arguments[0];
    let said = match (status.code(), status.signal()) {
        (Some(127), _) => format!("`{program}` ended with exit code 127: a program it calls was not found"),
        (Some(code), _) => format!("`{program}` ended with exit code {code}"),
        (None, Some(signal)) => format!("`{program}` was killed by signal {signal}"),
        (None, None) => format!("`{program}` ended: {status}"),
    };
    Err(Error::new(Kind::Stage, said))
}

fn spawn(folder: &Path, arguments: &[String], environment: &[(String, String)]) -> Result<Child> {
    let mut command = Command::new(&arguments[0]);
    command
        .args(&arguments[1..])
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::die_with_parent(&mut command);
    command.spawn().map_err(|e| {
        Error::new(Kind::Stage, format!("cannot start `{}`", arguments[0]))
            .note(e.to_string())
            .hint("it must be executable, and what its first line names must exist")
    })
}

/// Waits for the program to end; asks it to if the user does.
fn watch(cx: &mut Ctx, mut child: Child, sender: Sender<Word>, words: &Receiver<Word>) -> Result<ExitStatus> {
    let mut copies = vec![];
    copies.extend(child.stdout.take().map(|stdout| copy("out", stdout, sender.clone())));
    copies.extend(child.stderr.take().map(|stderr| copy("err", stderr, sender.clone())));
    std::thread::spawn(move || {
        let status = child.wait();
        // What it left running must neither write into results, nor hold the pipes, nor outlive the task.
        process::kill_descendants();
        for copy in copies {
            let _ = copy.join();
        }
        let _ = sender.send(Word::Ended(status));
    });
    const LOOK: Duration = Duration::from_millis(100);
    let mut asked: Option<Instant> = None;
    loop {
        match words.recv_timeout(LOOK) {
            Ok(Word::Line(line)) => cx.said(&line),
            Ok(Word::Ended(status)) => {
                if asked.is_some() {
                    return Err(Error::interrupted());
                }
                return status.map_err(|e| Error::new(Kind::Io, format!("cannot wait for the command: {e}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::new(Kind::Io, "the command was lost")),
        }
        match asked {
            None if cx.is_stopping() => {
                process::terminate_descendants();
                asked = Some(Instant::now());
            }
            Some(since) if since.elapsed() > GRACE => process::kill_descendants(),
            _ => {}
        }
    }
}

/// Copies lines to the log, each with its time and where it came from.
fn copy(tag: &'static str, from: impl Read + Send + 'static, sender: Sender<Word>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = vec![];
        loop {
            line.clear();
            match from.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            // A log that cannot be written must not end the work; its loss shows in the log itself.
            let _ = writeln!(std::io::stderr().lock(), "{} {tag} {text}", time());
            // Bars that redraw themselves: the last state counts.
            let last = text.rsplit('\r').next().unwrap_or_default().to_string();
            if sender.send(Word::Line(last)).is_err() {
                return;
            }
        }
    })
}

/// Time of day in UTC: `14:03:59.120`.
fn time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (day, millis) = (now.as_secs() % 86_400, now.subsec_millis());
    format!("{:02}:{:02}:{:02}.{millis:03}", day / 3600, day / 60 % 60, day % 60)
}
