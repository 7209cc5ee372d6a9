//! GPUs by number: those asked for, those made up for tests, those a batch system left visible.

use crate::amounts::Bytes;
use crate::error::{Error, Place, Result};
use std::collections::BTreeSet;
use std::str::FromStr;

/// More than any machine has.
const MOST: usize = 1024;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// As `nvidia-smi` counts.
    pub number: usize,
    /// Bytes; nothing where no driver and no file tells. Such a card cannot be shared.
    pub memory: Option<u64>,
    /// `GPU-8932f937-..`, if a driver tells.
    pub(super) uuid: Option<String>,
}

impl Card {
    pub fn new(number: usize, memory: Option<u64>) -> Self {
        Self { number, memory, uuid: None }
    }
}

/// The GPUs a user wants to be used: `--gpus 2`, or `--gpus 0,2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The first so many.
    First(usize),
    /// Those with these numbers.
    Numbers(BTreeSet<usize>),
}

impl Gpus {
    pub fn is_none(&self) -> bool {
        self.count() == 0
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::First(count) => *count,
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// The numbers, on a machine where nothing else numbers its cards.
    pub(super) fn numbers(&self) -> Vec<usize> {
        match self {
            Self::First(count) => (0..*count).collect(),
            Self::Numbers(numbers) => numbers.iter().copied().collect(),
        }
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("write a count up to {MOST}, or numbers as in `0,2`");
        let number = |text: &str| text.trim().parse().ok().filter(|n| *n <= MOST).ok_or_else(wrong);
        match text.contains(',') {
            true => {
                let parts = text.split(',').filter(|part| !part.trim().is_empty());
                Ok(Self::Numbers(parts.map(number).collect::<Result<_, _>>()?))
            }
            false => Ok(Self::First(number(text)?)),
        }
    }
}

/// The positions of the cards asked for.
pub(super) fn asked_for(cards: &[Card], asked: &Gpus) -> Result<Vec<usize>> {
    let found: Vec<usize> = match asked {
        Gpus::First(count) => (0..cards.len().min(*count)).collect(),
        Gpus::Numbers(numbers) => (0..cards.len()).filter(|i| numbers.contains(&cards[*i].number)).collect(),
    };
    if found.len() == asked.count() {
        return Ok(found);
    }
    let message = match asked {
        Gpus::First(count) => format!("`--gpus {count}` asks for more GPUs than there are"),
        Gpus::Numbers(numbers) => format!("`--gpus {}` asks for GPUs that are not there", listed(numbers.iter())),
    };
    let there = match cards {
        [] => "there is no GPU".into(),
        cards => format!("the GPUs here, by number: {}", listed(cards.iter().map(|card| &card.number))),
    };
    Err(Error::resources(message)
        .at(Place::Argument("--gpus".into()))
        .note(there)
        .hint("`nvidia-smi` shows what the driver sees; CUDA_VISIBLE_DEVICES hides cards from every program"))
}

fn listed<'a>(numbers: impl Iterator<Item = &'a usize>) -> String {
    numbers.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The cards that are left when `CUDA_VISIBLE_DEVICES` is set, as CUDA itself would read it: what comes after the first
/// that is not there does not count.
pub(super) fn visible(cards: Vec<Card>, text: &str) -> Vec<Card> {
    let find = |part: &str| {
        let is_it = |card: &&Card| match part.parse::<usize>() {
            Ok(number) => card.number == number,
            Err(_) => part.starts_with("GPU-") && card.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(part)),
        };
        cards.iter().find(is_it).cloned()
    };
    text.split(',').map_while(|part| find(part.trim())).collect()
}

/// A card that is made up, and how many bytes of it others use.
pub(super) type Fake = (Card, u64);

/// Reads `2x24G`, `24G,48G`, `2x24G:6G` (of which others use 6 GiB each); `0` or nothing is no card.
pub(super) fn fakes(text: &str) -> Result<Vec<Fake>, String> {
    let mut cards: Vec<Fake> = vec![];
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "0") {
        let (what, used) = part.split_once(':').unwrap_or((part, "0"));
        let (count, memory) = what.split_once('x').unwrap_or(("1", what));
        let count: usize = count.trim().parse().map_err(|_| format!("`{count}` is no number of GPUs"))?;
        let (memory, used): (Bytes, Bytes) = (memory.parse()?, used.parse()?);
        if cards.len() + count > MOST {
            return Err(format!("these are more than {MOST} GPUs"));
        }
        let next = cards.len();
        cards.extend((next..next + count).map(|number| (Card::new(number, Some(memory.0)), used.0)));
    }
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn fakes_are_counted_and_sized() {
        let sizes = |text: &str| -> Vec<(usize, u64, u64)> {
            fakes(text)
                .unwrap()
                .into_iter()
                .map(|(card, used)| (card.number, card.memory.unwrap() / GIB, used / GIB))
                .collect()
        };
        assert_eq!(sizes("2x24G"), [(0, 24, 0), (1, 24, 0)]);
        assert_eq!(sizes("24G, 48GiB"), [(0, 24, 0), (1, 48, 0)]);
        assert_eq!(sizes("2x24G:6G,8G"), [(0, 24, 6), (1, 24, 6), (2, 8, 0)]);
        assert_eq!(sizes("0"), []);
        assert_eq!(sizes(""), []);
        for wrong in ["2x", "x24G", "2x24G:", "two", "9999x1G"] {
            assert!(fakes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cards_are_asked_for_by_count_or_by_number() {
        assert_eq!("2".parse(), Ok(Gpus::First(2)));
        assert_eq!("2,0".parse::<Gpus>().unwrap().numbers(), [0, 2]);
        assert_eq!("3,".parse::<Gpus>().unwrap().numbers(), [3]);
        assert!("0".parse::<Gpus>().unwrap().is_none());
        for wrong in ["", "-1", "2000", "a", "0,b"] {
            assert!(wrong.parse::<Gpus>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_hidden_from_cuda_is_not_used() {
        let cards: Vec<Card> =
            (0..3).map(|number| Card { uuid: Some(format!("GPU-{number}a-b")), ..Card::new(number, None) }).collect();
        let numbers = |text: &str| visible(cards.clone(), text).iter().map(|card| card.number).collect::<Vec<usize>>();
        assert_eq!(numbers("2,0"), [2, 0]);
        assert_eq!(numbers("GPU-1a"), [1]);
        assert_eq!(numbers(""), [0; 0]);
        assert_eq!(numbers("-1,0"), [0; 0]);
        assert_eq!(numbers("1,7,0"), [1]);
    }
}
