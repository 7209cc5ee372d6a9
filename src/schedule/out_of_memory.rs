//! Telling from what a task left behind that it ran out of memory: a GPU's, by its words; the machine's, by its end.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// What programs say when a GPU's memory is full, in lower case. All pieces of an entry stand in one line.
const SAYINGS: &[&[&str]] = &[
    // CUDA's driver, as cudarc and candle, TensorFlow, Numba and PyCUDA quote it; and its run-time library.
    &["cuda_error_out_of_memory"],
    &["cudaerrormemoryallocation"],
    // PyTorch: "CUDA out of memory. Tried to allocate 20.00 MiB", "CUDA error: out of memory"; CuPy and llama.cpp.
    &["cuda", "out of memory"],
    &["hip", "out of memory"],
    &["cuda", "outofmemoryerror"],
    &["cublas_status_alloc_failed"],
    &["cudnn_status_alloc_failed"],
    // TensorFlow: "OOM when allocating tensor with shape[..] on ../device:GPU:0 by allocator GPU_0_bfc".
    &["oom when allocating tensor", "gpu"],
    // JAX: "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3743729664 bytes",
    // "RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (..B) on device ordinal 0".
    &["resource_exhausted", "out of memory"],
    &["resource exhausted", "out of memory"],
    &["resource_exhausted", "failed to allocate request"],
    &["resource exhausted", "failed to allocate request"],
];

/// Whether a failed task's message, or the end of its log, says that a GPU's memory was full.
///
/// Ask only of tasks that had a GPU and failed: some frameworks say the same of main memory, or go on after it.
pub(super) fn gpu_was_full(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.to_lowercase();
        SAYINGS.iter().any(|pieces| pieces.iter().all(|piece| line.contains(piece)))
    })
}

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
    fn a_full_gpu_is_recognised_in_the_words_of_many_programs() {
        let said = [
            "Error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 4.00 GiB total)",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "RuntimeError: CUDA error: out of memory",
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB.",
            "ResourceExhaustedError: OOM when allocating tensor with shape[64,2016,9,9] and type float on \
             /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
            "failed to allocate 17.79G (19104890880 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
            "XlaRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (3206250496B) on device ordinal 0",
            "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 1,000 bytes",
            "Traceback (most recent call last):\n  File \"a.py\"\nRuntimeError: CUDA out of memory.\nexit 1",
        ];
        for text in said {
            assert!(gpu_was_full(text), "{text}");
        }
    }

    #[test]
    fn other_ends_are_not_taken_for_a_full_gpu() {
        let said = [
            "",
            "MemoryError: Unable to allocate 74.5 GiB for an array with shape (100000, 100000)",
            "OOM when allocating tensor with shape[8] on /job:localhost/device:CPU:0 by allocator cpu",
            "RuntimeError: CUDA error: device-side assert triggered",
            "CUDA_ERROR_NO_DEVICE\nthe disk is out of space; memory is fine",
            "cuda is there\nrunning out of memory of what happened",
        ];
        for text in said {
            assert!(!gpu_was_full(text), "{text}");
        }
    }

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
