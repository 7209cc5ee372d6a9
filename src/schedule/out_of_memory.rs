//! Telling from a task's end that the machine ran out of memory. A GPU's: see `gpu_fault`.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// How many processes the kernel has killed for want of memory, noted before a task starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KillCount {
    root: PathBuf,
    killed: Option<u64>,
}

impl KillCount {
    /// Reads the kernel's counters: of this process's control group where there is one, else of the whole machine.
    pub(super) fn now() -> Self {
        Self::at(Path::new("/"))
    }

    fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), killed: killed(root) }
    }

    /// What to tell of a task that ended so, if the kernel has killed something for want of memory meanwhile.
    ///
    /// A shell reports a killed child as exit code 137.
    pub(super) fn explain(&self, status: ExitStatus) -> Option<String> {
        const SIGKILL: i32 = 9;
        let was_killed = status.signal() == Some(SIGKILL) || status.code() == Some(128 + SIGKILL);
        let more = killed(&self.root)? > self.killed?;
        (was_killed && more).then(|| {
            "the kernel killed a process for want of memory while it ran: say how much it needs, as in \
             `memory = \"8GiB\"` under `[resources]`, so that less runs beside it"
                .to_string()
        })
    }
}

/// The kernel's count; `root` is `/`.
fn killed(root: &Path) -> Option<u64> {
    let count = |path: &Path| {
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let events = group.and_then(|group| count(&Path::new("sys/fs/cgroup").join(group).join("memory.events")));
    events.or_else(|| count(Path::new("proc/vmstat")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_explained_only_when_the_kernel_counted_one() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (killed, by_shell, failed) =
            (ExitStatus::from_raw(9), ExitStatus::from_raw(137 << 8), ExitStatus::from_raw(1 << 8));
        assert_eq!(KillCount::at(folder.path()).explain(killed), None);
        write("proc/vmstat", "oom_kill 3\n");
        let before = KillCount::at(folder.path());
        assert_eq!(before.explain(killed), None);
        write("proc/vmstat", "pgfault 1\noom_kill 4\n");
        assert!(before.explain(killed).is_some() && before.explain(by_shell).is_some());
        assert_eq!(before.explain(failed), None);
        // The counter of the group says whether it was one of ours.
        write("proc/self/cgroup", "0::/job\n");
        write("sys/fs/cgroup/job/memory.events", "low 0\noom 1\noom_kill 1\noom_group_kill 0\n");
        let before = KillCount::at(folder.path());
        write("proc/vmstat", "oom_kill 5\n");
        assert_eq!(before.explain(killed), None);
    }
}
