//! What there is to share out: threads, main memory, GPUs and their memory.
//!
//! What was asked for on the command line comes first, then what `[resources] host` says, then what the machine says
//! of itself; of GPUs, a driver is believed before the file. The driver is loaded when GPUs are first asked for, so
//! that a run without any does not wait for it.

mod cards;
mod driver;
mod memory;

pub use cards::{Card, Gpus};
pub use driver::{About, Use};

use crate::amounts::{Bytes, Host};
use crate::error::{Error, Place, Result};
use cards::{Fake, VISIBLE};
use driver::Driver;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Stands in for the GPUs of the machine: `2x24G`, `24G,48G`, `2x24G:6G`. `0` is none.
pub const FAKE_GPUS: &str = "HASHPIPE_FAKE_GPUS";

/// What the user said of the machine.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--jobs`
    pub jobs: Option<usize>,
    /// `--gpus`
    pub gpus: Option<Gpus>,
    /// `[resources] host`
    pub host: Host,
}

/// What there is. Cheap to clone; clones share the driver.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Threads to use.
    pub cpus: usize,
    /// Bytes of main memory to use; nothing where the system does not tell.
    pub memory: Option<u64>,
    host: Host,
    gpus: Arc<OnceLock<Inventory>>,
}

/// The GPUs, and who knows what others use of them.
#[derive(Debug)]
struct Inventory {
    cards: Vec<Card>,
    probe: Probe,
    /// Why there is no card, where that is odd.
    absent: Option<String>,
    /// `CUDA_VISIBLE_DEVICES` is why: it names none of the driver's.
    hidden: bool,
}

#[derive(Debug)]
enum Probe {
    Driver(Box<Driver>),
    /// Bytes used by others, by card: a machine that was made up.
    Told(Vec<u64>),
}

impl Machine {
    /// Finds out what there is.
    ///
    /// # Errors
    /// If more or other GPUs are asked for than there are, or [`FAKE_GPUS`] cannot be read.
    pub fn find(asked: &Asked) -> Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let cpus = asked.jobs.or(asked.host.cpus.map(usize::from)).unwrap_or_else(cores);
        let memory = asked.host.memory.map(|bytes| bytes.0).or_else(|| memory::limit(Path::new("/")));
        let machine = Self { cpus, memory, host: asked.host, gpus: Arc::default() };
        let fakes = match std::env::var(FAKE_GPUS) {
            Ok(text) => Some(cards::fakes(&text).map_err(|e| {
                Error::input(e)
                    .at(Place::Argument(format!("{FAKE_GPUS}={text}")))
                    .hint("write `2x24G`, or `24G,48G:6G`")
            })?),
            Err(_) => None,
        };
        // Without either, nothing can be wrong with the GPUs, and they are looked at when someone wants one.
        let inventory = match (fakes, &asked.gpus) {
            (Some(fakes), _) => Some(Inventory::told(fakes)),
            (None, Some(gpus)) if gpus.is_none() => Some(Inventory::told(vec![])),
            (None, Some(gpus)) => Some(Inventory::real(&asked.host, Some(gpus))),
            (None, None) => None,
        };
        if let Some(inventory) = inventory {
            let _ = machine.gpus.set(inventory.restricted(asked.gpus.as_ref())?);
        }
        Ok(machine)
    }

    /// A machine as it is told, with so many bytes of each GPU used by others.
    pub fn told(cpus: usize, memory: Option<u64>, cards: Vec<(Card, u64)>) -> Self {
        let gpus = Arc::new(OnceLock::from(Inventory::told(cards)));
        Self { cpus, memory, host: Host::default(), gpus }
    }

    /// The same machine with nobody else on it.
    #[must_use]
    pub fn undisturbed(&self) -> Self {
        Self::told(self.cpus, self.memory, self.cards().iter().map(|card| (card.clone(), 0)).collect())
    }

    /// The GPUs to use. The first call may load the driver, which can take a while.
    pub fn cards(&self) -> &[Card] {
        &self.inventory().cards
    }

    /// Why there is no card, where a driver should tell of some and does not.
    pub fn absent(&self) -> Option<&str> {
        self.inventory().absent.as_deref()
    }

    /// Whether the driver has cards, and `CUDA_VISIBLE_DEVICES` leaves none of them.
    pub fn hides_all(&self) -> bool {
        self.inventory().hidden
    }

    /// What the driver tells of a card beside its memory, by its position among [`Machine::cards`].
    pub fn about(&self, position: usize) -> About {
        let Inventory { cards, probe, .. } = self.inventory();
        match (probe, cards.get(position)) {
            (Probe::Driver(driver), Some(card)) => driver.about(card),
            _ => About::default(),
        }
    }

    /// What processes use of each card that are not below this one; `reserved` are the bytes that this run's own tasks
    /// were given of each, for the case that the driver shows no processes.
    pub fn used_by_others(&self, reserved: &[u64]) -> Vec<Use> {
        let Inventory { cards, probe, .. } = self.inventory();
        match probe {
            Probe::Told(used) => used.iter().copied().map(Use::Bytes).collect(),
            Probe::Driver(driver) => {
                let reserved = reserved.iter().copied().chain(std::iter::repeat(0));
                let used = |(card, reserved): (&Card, u64)| driver.used_by_others(card, std::process::id(), reserved);
                cards.iter().zip(reserved).map(used).collect()
            }
        }
    }

    /// Watches how much GPU memory a task's processes use, which have just started; `cards` are the positions of those
    /// it was given, and whether it has them alone.
    pub fn meter(&self, pid: u32, cards: Vec<(usize, bool)>) -> Meter {
        let used = |position: usize| match &self.inventory().probe {
            Probe::Driver(driver) => driver.used(self.cards().get(position)?),
            Probe::Told(_) => None,
        };
        let cards = cards.into_iter().map(|(position, alone)| (position, alone.then(|| used(position)).flatten()));
        Meter { machine: self.clone(), pid, cards: cards.collect(), peak: None }
    }

    fn inventory(&self) -> &Inventory {
        self.gpus.get_or_init(|| Inventory::real(&self.host, None))
    }
}

impl Inventory {
    fn told(cards: Vec<Fake>) -> Self {
        let (cards, used) = cards.into_iter().unzip();
        Self { cards, probe: Probe::Told(used), absent: None, hidden: false }
    }

    /// The driver's cards; without a driver, as many as were asked for, or as the file says. Of either only those that
    /// `CUDA_VISIBLE_DEVICES` names, in its order.
    fn real(host: &Host, asked: Option<&Gpus>) -> Self {
        let visible = std::env::var(VISIBLE).ok();
        let most = host.gpu_memory.map(|Bytes(most)| most);
        let (driver, mut cards) = match Driver::load() {
            Ok(driver) => {
                let cards = driver.cards();
                (Ok(driver), cards)
            }
            Err(absent) => (Err(absent), vec![]),
        };
        let driver = match driver {
            Ok(_) if cards.is_empty() => Err(Some("NVIDIA's driver is there, and shows no GPU".into())),
            driver => driver,
        };
        match driver {
            Ok(driver) => {
                let absent = visible.and_then(|text| {
                    let all = std::mem::take(&mut cards);
                    cards = cards::visible(&all, &text);
                    cards.is_empty().then(|| hidden(all.len(), &text))
                });
                if asked.is_none() {
                    cards.truncate(host.gpus.unwrap_or(usize::MAX));
                }
                for card in &mut cards {
                    card.memory = [card.memory, most].into_iter().flatten().min();
                }
                Self { cards, probe: Probe::Driver(Box::new(driver)), hidden: absent.is_some(), absent }
            }
            Err(absent) => {
                let said = asked.map_or_else(|| (0..host.gpus.unwrap_or(0)).collect(), Gpus::numbers);
                let mut cards = match visible {
                    Some(text) => cards::named(&text, most),
                    None => said.into_iter().map(|number| Card::new(number, most)).collect(),
                };
                if asked.is_none() {
                    cards.truncate(host.gpus.unwrap_or(0));
                }
                Self { absent, ..Self::told(cards.into_iter().map(|card| (card, 0)).collect()) }
            }
        }
    }

    /// Only the cards asked for.
    fn restricted(self, asked: Option<&Gpus>) -> Result<Self> {
        let Some(asked) = asked else { return Ok(self) };
        let kept = cards::asked_for(&self.cards, asked, self.absent.as_deref())?;
        let probe = match self.probe {
            Probe::Told(used) => Probe::Told(kept.iter().map(|position| used[*position]).collect()),
            driver @ Probe::Driver(_) => driver,
        };
        Ok(Self { cards: kept.iter().map(|position| self.cards[*position].clone()).collect(), probe, ..self })
    }
}

/// Why none of so many cards is left.
fn hidden(count: usize, visible: &str) -> String {
    let cards = if count == 1 { "a GPU".into() } else { format!("{count} GPUs") };
    let named = if visible.trim().is_empty() { "is empty".into() } else { format!("is `{visible}`") };
    format!("NVIDIA's driver shows {cards}, but {VISIBLE} {named}, which names none of them")
}

/// The most GPU memory that a process and those it started were seen to use.
#[derive(Debug, Clone)]
pub struct Meter {
    machine: Machine,
    pid: u32,
    /// Positions, with the bytes that were in use before, of cards that it has alone.
    cards: Vec<(usize, Option<u64>)>,
    peak: Option<u64>,
}

impl Meter {
    /// Looks once. Costs a call of the driver per card, and nothing without one.
    pub fn poll(&mut self) {
        if self.cards.is_empty() {
            return;
        }
        let Inventory { cards, probe: Probe::Driver(driver), .. } = self.machine.inventory() else { return };
        let used =
            |(position, before): &(usize, Option<u64>)| driver.used_below(cards.get(*position)?, self.pid, *before);
        self.peak = self.peak.max(self.cards.iter().filter_map(used).max());
    }

    /// Bytes on the card where it was most; nothing if no driver could tell, or its processes were not seen.
    pub fn peak(&self) -> Option<u64> {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn inventory(fakes: &str, asked: &str) -> Result<Inventory> {
        Inventory::told(cards::fakes(fakes).unwrap()).restricted(Some(&asked.parse().unwrap()))
    }

    #[test]
    fn only_the_cards_asked_for_are_used() {
        let kept = inventory("3x24G:6G", "2").unwrap();
        assert_eq!(kept.cards.iter().map(|card| card.number).collect::<Vec<_>>(), [0, 1]);
        let kept = inventory("24G,48G:6G", "1,").unwrap();
        assert_eq!(kept.cards, [Card::new(1, Some(48 * GIB))]);
        assert!(matches!(kept.probe, Probe::Told(used) if used == [6 * GIB]));
        assert!(inventory("24G", "0").unwrap().cards.is_empty());
        for asked in ["2", "0,3"] {
            let error = inventory("24G", asked).unwrap_err();
            assert_eq!(error.kind().exit_code(), 6, "{asked}");
        }
    }

    #[test]
    fn a_machine_that_is_told_has_what_it_is_told() {
        let cards = cards::fakes("2x24G:6G").unwrap();
        let machine = Machine::told(4, Some(GIB), cards);
        assert_eq!(machine.used_by_others(&[]), [Use::Bytes(6 * GIB); 2]);
        assert_eq!(machine.undisturbed().used_by_others(&[]), [Use::Bytes(0); 2]);
        let mut meter = machine.meter(std::process::id(), vec![(0, true)]);
        meter.poll();
        assert_eq!(meter.peak(), None);
    }

    #[test]
    fn what_is_said_comes_before_what_is_found() {
        let host = Host { cpus: std::num::NonZeroUsize::new(3), memory: Some(Bytes(7)), ..Host::default() };
        let machine = Machine::find(&Asked { jobs: None, gpus: None, host }).unwrap();
        assert_eq!((machine.cpus, machine.memory), (3, Some(7)));
        assert_eq!(Machine::find(&Asked { jobs: Some(5), gpus: None, host }).unwrap().cpus, 5);
    }
}
