//! Processes and their descendants: how a task is ended with everything it started.
//!
//! A task leads a process group of its own and adopts what its children leave behind, so that ending it ends all of it.
//! The runner adopts what is left when a task's own process is killed, and ends that. Where `/proc` does not exist
//! (macOS), descendants that leave the group are not found.

#![expect(unsafe_code, reason = "asking for a signal at the parent's death is only possible between fork and exec")]

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill, killpg, raise};
use nix::unistd::{Pid, getpgrp, getpid};
use std::collections::BTreeSet;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a process and its finished children have used.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Seconds of all cores together, in user code and in the kernel.
    pub cpu_seconds: f64,
    /// The largest resident set of any one process, in bytes.
    pub peak_memory: u64,
}

/// Makes writing beyond `ulimit -f` an error like any other, instead of this process's sudden death. The signal is taken,
/// not ignored: programs that are started from here have its default again.
pub fn outlive_file_limits() {
    // Without it, everything works but the message.
    let _ = signal_hook::flag::register(Signal::SIGXFSZ as i32, Arc::default());
}

/// Makes the children of children that die come to this process instead of to the first one of the machine.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    {
        // Without it, orphans are still found by their process group.
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
}

/// Processes that this one started itself and has not waited for yet: whoever else is its child is an orphan.
static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Starts a process of which the orphans come to this one, to be ended by [`end_orphans`].
///
/// # Errors
/// If it cannot be started.
pub fn start(command: &mut Command) -> std::io::Result<Child> {
    adopt_orphans();
    // Held meanwhile: a child that is not in the list yet would be taken for an orphan.
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    started.insert(child.id());
    Ok(child)
}

/// How long this process and what it started stood still, and since when they do.
struct Pauses {
    total: Duration,
    since: Option<Instant>,
}

static PAUSES: Mutex<Pauses> = Mutex::new(Pauses { total: Duration::ZERO, since: None });

fn pauses() -> MutexGuard<'static, Pauses> {
    PAUSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long [`pause`] has held everything so far: limits of time do not count it.
pub fn paused() -> Duration {
    let Pauses { total, since } = *pauses();
    total + since.map_or(Duration::ZERO, |since| since.elapsed())
}

/// Stops all that [`start`] has started, with everything below it, and then this process, as a terminal's Ctrl-Z asks
/// for. Returns when somebody lets this process go on; the others do so by then, too.
pub fn pause() {
    // Held all the while: a process that is started meanwhile would go on alone.
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let tell = |signal: Signal| {
        for pid in started.iter().filter_map(|pid| i32::try_from(*pid).ok()).map(Pid::from_raw) {
            let _ = killpg(pid, signal);
            for pid in descendants(pid) {
                let _ = kill(pid, signal);
            }
        }
    };
    pauses().since = Some(Instant::now());
    tell(Signal::SIGSTOP);
    let _ = raise(Signal::SIGSTOP);
    tell(Signal::SIGCONT);
    let mut pauses = pauses();
    let stood = pauses.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    pauses.total += stood;
}

/// Collects a process that [`start`] has started and that has ended.
///
/// # Errors
/// If it cannot be waited for.
pub fn collect(child: &mut Child) -> std::io::Result<ExitStatus> {
    // Held meanwhile: once it is collected, its number may be an orphan's.
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.remove(&child.id());
    child.wait()
}

/// Ends what came to this process from a task that died without ending its own descendants.
pub fn end_orphans() {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |pid: &Pid| u32::try_from(pid.as_raw()).is_ok_and(|pid| started.contains(&pid));
    // Each round collects what the round before has ended, and finds what was born meanwhile.
    for _ in 0..ROUNDS {
        let orphans: Vec<Pid> = children(getpid()).into_iter().filter(|pid| !is_ours(pid)).collect();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            for pid in descendants(orphan).into_iter().chain([orphan]) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = waitpid(orphan, Some(WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How often descendants are looked for that were born while others were ended.
const ROUNDS: usize = 100;

/// Has the kernel kill the command's process when the thread that starts it dies.
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        // SAFETY: the closure runs between fork and exec, where only what is safe in a signal handler may be called; it
        // makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Ends every member of the process group that a child led, if any is left. The child must not have been waited for yet:
/// until then its number cannot be another's.
pub fn kill_group(leader: u32) {
    if let Ok(leader) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// Waits for a child to end without collecting it, so that its number stays taken.
pub fn wait_without_reaping(child: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let Ok(child) = i32::try_from(child) else { return };
    while waitid(Id::Pid(Pid::from_raw(child)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::Error::EINTR) {
    }
}

/// Asks every descendant of this process to end.
pub fn terminate_descendants() {
    for pid in descendants(getpid()) {
        let _ = kill(pid, Signal::SIGTERM);
    }
}

/// Ends every descendant of this process, also those that are born meanwhile.
pub fn kill_descendants() {
    // Each round finds what the round before had not seen yet; a zombie is found until its parent collects it.
    for _ in 0..ROUNDS {
        let found = descendants(getpid());
        if found.iter().filter(|pid| kill(**pid, Signal::SIGKILL).is_ok() && !is_zombie(**pid)).count() == 0 {
            return;
        }
    }
}

/// Ends this process with all its descendants, at once.
pub fn end_with_all(exit_code: u8) -> ! {
    kill_descendants();
    if getpgrp() == getpid() {
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    }
    std::process::exit(i32::from(exit_code))
}

/// What this process has used, or what its finished children have.
pub fn usage(children: bool) -> Option<Usage> {
    let usage = getrusage(if children { UsageWho::RUSAGE_CHILDREN } else { UsageWho::RUSAGE_SELF }).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Some(Usage {
        cpu_seconds: seconds(usage.user_time()) + seconds(usage.system_time()),
        peak_memory: u64::try_from(usage.max_rss()).unwrap_or(0) * unit,
    })
}

/// Children, their children, and so on, of a process.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut found = vec![];
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let children = children(pid);
        found.extend(&children);
        next.extend(children);
    }
    found
}

/// Children of all threads of a process; none where the system does not tell.
fn children(pid: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let numbers = |list: String| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>();
    lists.flat_map(numbers).map(Pid::from_raw).collect()
}

fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_child_is_found_and_told_from_a_zombie() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(descendants(getpid()).contains(&pid) && !is_zombie(pid));
        kill_group(u32::MAX);
        child.kill().unwrap();
        wait_without_reaping(child.id());
        assert!(is_zombie(pid));
        child.wait().unwrap();
    }
}
