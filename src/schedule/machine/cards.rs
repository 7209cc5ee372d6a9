//! GPUs by number: those asked for, those made up for tests, those that `CUDA_VISIBLE_DEVICES` leaves.

use crate::amounts::Bytes;
use crate::error::{Error, Place, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// More than any machine has.
const MOST: usize = 1024;

/// What tells every CUDA program which GPUs there are for it.
pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A GPU, or an instance of one that MIG has cut into several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// As `nvidia-smi` counts.
    pub number: usize,
    /// Which instance of that GPU it is, if the GPU is cut into some.
    pub instance: Option<usize>,
    /// Bytes; nothing where no driver and no file tells. Such a card cannot be shared.
    pub memory: Option<u64>,
    /// What names it in `CUDA_VISIBLE_DEVICES`: `GPU-8932f937-..` or `MIG-..`, if a driver tells; else a number as CUDA
    /// counts.
    pub name: String,
    /// The UUID of the GPU that it is an instance of.
    pub(super) of: Option<String>,
    /// As CUDA counts GPUs in the order of the bus: those that this process may not open are left out.
    pub(super) ordinal: usize,
}

impl Card {
    pub fn new(number: usize, memory: Option<u64>) -> Self {
        Self { number, instance: None, memory, name: number.to_string(), of: None, ordinal: number }
    }

    /// Whether a word of `CUDA_VISIBLE_DEVICES` is the beginning of one of its names.
    fn is_called(&self, word: &str) -> bool {
        let begins = |name: &str| name.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
        begins(&self.name) || self.of.as_deref().is_some_and(begins)
    }
}

/// `GPU 0`, or `GPU 0, instance 2`
impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {}", self.number)?;
        self.instance.map_or(Ok(()), |instance| write!(f, ", instance {instance}"))
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

    fn count(&self) -> usize {
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

/// The positions of the cards asked for; all instances of a GPU have its number.
pub(super) fn asked_for(cards: &[Card], asked: &Gpus, absent: Option<&str>) -> Result<Vec<usize>> {
    let (found, all): (Vec<usize>, bool) = match asked {
        Gpus::First(count) => ((0..cards.len().min(*count)).collect(), cards.len() >= *count),
        Gpus::Numbers(numbers) => {
            let found = (0..cards.len()).filter(|i| numbers.contains(&cards[*i].number)).collect();
            (found, numbers.iter().all(|number| cards.iter().any(|card| card.number == *number)))
        }
    };
    if all {
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
    let error = Error::resources(message).at(Place::Argument("--gpus".into())).note(there);
    let error = absent.into_iter().fold(error, Error::note);
    Err(error.hint(format!("`nvidia-smi` shows what the driver sees; {VISIBLE} hides cards from every program")))
}

fn listed<'a>(numbers: impl Iterator<Item = &'a usize>) -> String {
    numbers.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The cards that are left when `CUDA_VISIBLE_DEVICES` is set, in its order, as CUDA itself would read it: what comes
/// after the first that is not there, or that could be several, does not count. A number or the name of a GPU that is cut
/// into instances means its first one.
///
/// Numbers count in the order of the bus, as `nvidia-smi` and all that hashpipe starts count.
pub(super) fn visible(cards: &[Card], text: &str) -> Vec<Card> {
    let find = |word: &str| {
        let is_it = |card: &&Card| match word.parse::<usize>() {
            Ok(number) => card.ordinal == number,
            Err(_) => (word.starts_with("GPU-") || word.starts_with("MIG-")) && card.is_called(word),
        };
        let mut found = cards.iter().filter(is_it);
        let first = found.next()?;
        // An instance by its own name is one; by that of its card, the first of any.
        let is_same = |card: &Card| !word.starts_with("MIG-") && card.ordinal == first.ordinal;
        found.all(is_same).then_some(first)
    };
    let mut left: Vec<Card> = vec![];
    for card in text.split(',').map_while(|word| find(word.trim())) {
        // CUDA refuses a card that is listed twice; tasks are told each once.
        if !left.contains(card) {
            left.push(card.clone());
        }
    }
    left
}

/// The cards that `CUDA_VISIBLE_DEVICES` names where no driver says what there is.
pub(super) fn named(text: &str, memory: Option<u64>) -> Vec<Card> {
    let mut cards: Vec<Card> = vec![];
    for (place, word) in text.split(',').map(str::trim).enumerate() {
        let number = word.parse::<usize>().ok();
        if number.is_none() && !word.starts_with("GPU-") && !word.starts_with("MIG-") {
            break;
        }
        if cards.iter().all(|card| card.name != word) {
            cards.push(Card { name: word.into(), ..Card::new(number.unwrap_or(place), memory) });
        }
    }
    cards
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

    fn card(number: usize, name: &str) -> Card {
        Card { name: name.into(), ..Card::new(number, None) }
    }

    fn instance(number: usize, instance: usize, name: &str, of: &str) -> Card {
        Card { instance: Some(instance), of: Some(of.into()), ..card(number, name) }
    }

    fn names(cards: Vec<Card>) -> String {
        cards.into_iter().map(|card| card.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_hidden_from_cuda_is_not_used() {
        let cards: Vec<Card> = (0..3).map(|number| card(number, &format!("GPU-{number}a-b"))).collect();
        let left = |text: &str| names(visible(&cards, text));
        assert_eq!(left("2,0"), "GPU-2a-b GPU-0a-b");
        assert_eq!(left(" 2 , GPU-1A"), "GPU-2a-b GPU-1a-b");
        assert_eq!(left("1,1,GPU-1a,0"), "GPU-1a-b GPU-0a-b");
        // A beginning that several names have, no card at all, and what follows them.
        assert_eq!(["0,GPU-,1", "0,,1", "0,-1,1", "0,7,1", "0,NoDevFiles", "0,GPU-9"].map(left), ["GPU-0a-b"; 6]);
        assert_eq!(["", "-1,0", "NoDevFiles"].map(left), [""; 3]);
        // Of four cards only two may be opened: CUDA numbers those, whatever `nvidia-smi` calls them.
        let few = [Card { ordinal: 0, ..card(2, "GPU-c") }, Card { ordinal: 1, ..card(3, "GPU-d") }];
        assert_eq!(names(visible(&few, "1")), "GPU-d");
        assert_eq!(names(visible(&few, "2")), "");
    }

    #[test]
    fn instances_of_a_card_are_named_by_themselves_or_by_it() {
        let cards = [
            instance(0, 0, "MIG-11", "GPU-a"),
            instance(0, 1, "MIG-12", "GPU-a"),
            card(1, "GPU-b"),
            instance(2, 0, "MIG-3", "GPU-c"),
        ];
        let left = |text: &str| names(visible(&cards, text));
        assert_eq!(left("MIG-12,GPU-b,MIG-11"), "MIG-12 GPU-b MIG-11");
        assert_eq!(left("MIG-3,MIG-1"), "MIG-3");
        assert_eq!(left("0,2,1"), "MIG-11 MIG-3 GPU-b");
        assert_eq!(left("GPU-a"), "MIG-11");
        assert_eq!(left("GPU-"), "");
        let asked = |text: &str| asked_for(&cards, &text.parse().unwrap(), None);
        assert_eq!(asked("0,2").unwrap(), [0, 1, 3]);
        assert_eq!(asked("2").unwrap(), [0, 1]);
        assert!(asked("0,3").is_err() && asked("5").is_err());
        assert_eq!([cards[1].to_string(), cards[2].to_string()], ["GPU 0, instance 1", "GPU 1"]);
    }

    #[test]
    fn without_a_driver_the_words_are_taken_as_they_are() {
        let cards = named("3, GPU-ab ,3,1,-1,0", Some(GIB));
        assert_eq!(cards.iter().map(|card| card.number).collect::<Vec<_>>(), [3, 1, 1]);
        assert_eq!(names(cards), "3 GPU-ab 1");
        assert_eq!(names(named("NoDevFiles", None)), "");
    }
}
