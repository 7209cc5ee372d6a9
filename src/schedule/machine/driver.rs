//! NVIDIA's driver, through its management library. The only file that names NVML.
//!
//! The library is loaded at run time: a machine without it builds and runs the same. What it refuses to tell is taken as
//! not known, and no task fails because of it. Only a card that answered before and does no more is given to nobody.
//!
//! It has to be that of driver 510 or newer: older ones tell no memory in the form that is asked for, and their cards are
//! given whole.

use super::cards::Card;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;

/// A driver that answers.
#[derive(Debug)]
pub(super) struct Driver(Nvml);

/// What a card tells of its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Bytes that others use; 0 where that is not known.
    Bytes(u64),
    /// It fell off the bus, or has to be reset.
    Lost,
}

/// What a person or a message wants to know of a card beside its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `NVIDIA H200`
    pub model: Option<String>,
    /// Compute capability, as in 9.0.
    pub capability: Option<(i32, i32)>,
    /// The driver's version: `580.82.07`.
    pub driver: Option<String>,
    /// The newest CUDA that the driver serves, as in 13.0.
    pub cuda: Option<(i32, i32)>,
}

impl Driver {
    /// Loads the library.
    ///
    /// # Errors
    /// Why there is no driver, where something is odd about that: its library is there.
    pub(super) fn load() -> Result<Self, Option<String>> {
        match Nvml::init() {
            Ok(nvml) => Ok(Self(nvml)),
            Err(NvmlError::LibloadingError(_)) => Err(None),
            Err(error) => Err(Some(format!("NVIDIA's library libnvidia-ml.so.1 is there, but says: {error}"))),
        }
    }

    /// The cards that this process may open, in the order of `nvidia-smi`, those that MIG has cut up as their instances.
    pub(super) fn cards(&self) -> Vec<Card> {
        let mut cards = vec![];
        let numbers = 0..self.0.device_count().unwrap_or(0);
        let opened = numbers.filter_map(|number| Some((number as usize, self.0.device_by_index(number).ok()?)));
        for (ordinal, (number, device)) in opened.enumerate() {
            let card = Card { ordinal, ..Card::new(number, None) };
            match device.mig_mode().is_ok_and(|mode| mode.current != 0) {
                true => cards.extend(instances(&device, &card)),
                false => cards.push(told(&device, card)),
            }
        }
        // CUDA takes names or numbers, and no mixture.
        if cards.iter().any(|card| !is_uuid(&card.name)) {
            cards.retain(|card| card.instance.is_none());
            cards.iter_mut().for_each(|card| card.name = card.ordinal.to_string());
        }
        cards
    }

    /// What processes use of a card that are not `root` nor below it.
    ///
    /// In a container the driver may show no processes, or those of the host's numbering. Then `reserved`, what was
    /// given to tasks below `root`, is taken for what they use.
    pub(super) fn used_by_others(&self, card: &Card, root: u32, reserved: u64) -> Use {
        let Some(device) = self.device(card) else { return Use::Lost };
        let used = match device.memory_info() {
            Ok(info) => info.used,
            Err(NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::Unknown) => return Use::Lost,
            Err(_) => return Use::Bytes(0),
        };
        let ours = below(&processes(&device), root).unwrap_or(reserved);
        Use::Bytes(used.saturating_sub(ours))
    }

    /// Bytes of a card used by `root` and the processes below it; nothing if none of them is seen there.
    ///
    /// Where the driver shows no processes, `before`, what was used before they started, is taken off what is used now;
    /// it is nothing for a card that others share.
    pub(super) fn used_below(&self, card: &Card, root: u32, before: Option<u64>) -> Option<u64> {
        let device = self.device(card)?;
        let used = match below(&processes(&device), root) {
            Some(used) => used,
            None => device.memory_info().ok()?.used.saturating_sub(before?),
        };
        Some(used).filter(|used| *used > 0)
    }

    /// Bytes of a card in use.
    pub(super) fn used(&self, card: &Card) -> Option<u64> {
        self.device(card)?.memory_info().ok().map(|info| info.used)
    }

    pub(super) fn about(&self, card: &Card) -> About {
        let device = u32::try_from(card.number).ok().and_then(|number| self.0.device_by_index(number).ok());
        let device = device.as_ref();
        let cuda = self.0.sys_cuda_driver_version().ok();
        About {
            model: device.and_then(|device| device.name().ok()),
            capability: device
                .and_then(|device| device.cuda_compute_capability().ok())
                .map(|capability| (capability.major, capability.minor)),
            driver: self.0.sys_driver_version().ok(),
            // 13020 is 13.2.
            cuda: cuda.map(|version| (version / 1000, version % 1000 / 10)),
        }
    }

    fn device(&self, card: &Card) -> Option<Device<'_>> {
        let device = self.0.device_by_index(u32::try_from(card.number).ok()?).ok()?;
        match card.instance {
            Some(instance) => device.mig_device_by_index(u32::try_from(instance).ok()?).ok(),
            None => Some(device),
        }
    }
}

/// The instances of a card that MIG has cut up; only such have memory that a program can use.
fn instances(device: &Device, card: &Card) -> Vec<Card> {
    let of = device.uuid().ok();
    let made = (0..device.mig_device_count().unwrap_or(0)).filter_map(|instance| {
        let own = device.mig_device_by_index(instance).ok()?;
        Some(told(&own, Card { instance: Some(instance as usize), of: of.clone(), ..card.clone() }))
    });
    made.collect()
}

/// A card with what the driver tells of it.
fn told(device: &Device, card: Card) -> Card {
    // What the driver keeps for itself is never a program's.
    let memory = device.memory_info().ok().map(|info| info.total.saturating_sub(info.reserved));
    let name = device.uuid().unwrap_or_default();
    Card { memory, name, ..card }
}

fn is_uuid(name: &str) -> bool {
    name.starts_with("GPU-") || name.starts_with("MIG-")
}

/// Bytes used by each process on a card; nothing for those of which the driver does not tell. One that computes and
/// draws is listed twice, with the same figure.
fn processes(device: &Device) -> BTreeMap<u32, Option<u64>> {
    let mut processes = BTreeMap::new();
    for listed in [device.running_compute_processes(), device.running_graphics_processes()] {
        for process in listed.unwrap_or_default() {
            let used = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            let known = processes.entry(process.pid).or_insert(None);
            *known = used.max(*known);
        }
    }
    processes
}

/// Bytes used by `root` and what it started; nothing if that cannot be told: no process is shown, one that is not of
/// this system, or one of which no figure is told.
fn below(processes: &BTreeMap<u32, Option<u64>>, root: u32) -> Option<u64> {
    if processes.is_empty() || processes.keys().any(|pid| parent(*pid).is_none()) {
        return None;
    }
    processes.iter().filter(|(pid, _)| is_below(**pid, root)).map(|(_, used)| *used).sum()
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
        let mut processes = BTreeMap::from([(us, Some(1)), (outer.id(), Some(2)), (inner, Some(4))]);
        assert_eq!(below(&processes, us), Some(7));
        assert_eq!(below(&processes, outer.id()), Some(6));
        assert_eq!(below(&processes, inner), Some(4));
        assert_eq!(below(&BTreeMap::new(), inner), None);
        processes.insert(outer.id(), None);
        assert_eq!((below(&processes, us), below(&processes, inner)), (None, Some(4)));
        drop(outer.stdin.take());
        outer.wait().unwrap();
        assert_eq!(parent(outer.id()), None);
        assert_eq!(below(&processes, us), None);
    }
}
