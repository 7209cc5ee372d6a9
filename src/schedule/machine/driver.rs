//! NVIDIA's driver, through its management library. The only file that names NVML.
//!
//! The library is loaded at run time: a machine without it builds and runs the same. Whatever it refuses to tell is
//! taken as not known; a task never fails because of it.

use super::Card;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;

/// A driver that answers.
#[derive(Debug)]
pub(super) struct Driver(Nvml);

impl Driver {
    /// Loads the library; nothing without a driver or without cards.
    pub(super) fn load() -> Option<Self> {
        let nvml = Nvml::init().ok()?;
        (nvml.device_count().ok()? > 0).then_some(Self(nvml))
    }

    /// The cards, in the order of `nvidia-smi`.
    pub(super) fn cards(&self) -> Vec<Card> {
        let count = self.0.device_count().unwrap_or(0);
        let card = |number: u32| {
            let device = self.0.device_by_index(number).ok()?;
            let memory = device.memory_info().ok().map(|info| info.total);
            Some(Card { number: number as usize, memory, uuid: device.uuid().ok() })
        };
        (0..count).filter_map(card).collect()
    }

    /// Bytes of a card used by processes that are not `root` nor below it.
    ///
    /// In a container the driver may show no processes, or those of the host's numbering. Then `reserved`, what was
    /// given to tasks below `root`, is taken for what they use.
    pub(super) fn used_by_others(&self, card: usize, root: u32, reserved: u64) -> u64 {
        let used = || {
            let device = self.device(card)?;
            let used = device.memory_info().ok()?.used;
            let processes = processes(&device);
            let unseen = processes.is_empty() || processes.keys().any(|pid| parent(*pid).is_none());
            let ours = if unseen { reserved } else { below(&processes, root) };
            Some(used.saturating_sub(ours))
        };
        used().unwrap_or(0)
    }

    /// Bytes of a card used by `root` and the processes below it; nothing if none of them is seen there.
    pub(super) fn used_below(&self, card: usize, root: u32) -> Option<u64> {
        Some(below(&processes(&self.device(card)?), root)).filter(|used| *used > 0)
    }

    fn device(&self, card: usize) -> Option<Device<'_>> {
        self.0.device_by_index(u32::try_from(card).ok()?).ok()
    }
}

/// Bytes used by each process on a card. One that computes and draws is listed twice, with the same figure.
fn processes(device: &Device) -> BTreeMap<u32, u64> {
    let mut processes = BTreeMap::new();
    for listed in [device.running_compute_processes(), device.running_graphics_processes()] {
        for process in listed.unwrap_or_default() {
            let used = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => bytes,
                UsedGpuMemory::Unavailable => 0,
            };
            let known = processes.entry(process.pid).or_insert(0);
            *known = used.max(*known);
        }
    }
    processes
}

fn below(processes: &BTreeMap<u32, u64>, root: u32) -> u64 {
    processes.iter().filter(|(pid, _)| is_below(**pid, root)).map(|(_, used)| used).sum()
}

/// Whether a process is `root` or was started by it, directly or not.
fn is_below(pid: u32, root: u32) -> bool {
    // No process has so many ancestors; a chain that changes while it is read must not go round for ever.
    const DEEPEST: usize = 100;
    std::iter::successors(Some(pid), |pid| parent(*pid)).take(DEEPEST).any(|pid| pid == root)
}

/// The process that started this one; nothing if there is no such process.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `1234 (any name) S 1230 ..`: the name may hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_below_those_that_started_it() {
        // A shell in a shell: the inner one tells its number and waits for a line.
        let mut outer = Command::new("sh")
            .args(["-c", "sh -c 'echo $$; read line; :'; :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (us, inner): (u32, u32) = (std::process::id(), line.trim().parse().unwrap());
        let processes = BTreeMap::from([(us, 1), (outer.id(), 2), (inner, 4)]);
        assert_eq!(below(&processes, us), 7);
        assert_eq!(below(&processes, outer.id()), 6);
        assert_eq!(below(&processes, inner), 4);
        drop(outer.stdin.take());
        outer.wait().unwrap();
        assert_eq!(parent(outer.id()), None);
    }

    #[test]
    fn without_a_driver_nothing_is_found_and_nothing_fails() {
        // On a machine with one, it tells of its cards instead.
        assert!(Driver::load().is_none_or(|driver| !driver.cards().is_empty()));
    }
}
