//! What one task wants of the machine it is on: the words of the pipeline file, made definite.

use super::machine::{Gpus, Machine};
use crate::amounts::{Bytes, CardMemory, Wants};
use crate::device::HOW_TO_BUILD;
use crate::error::{Error, Place, Result};

/// What a kind of stage can do with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// Nothing.
    Useless,
    /// It would be faster, but this build cannot use any.
    NotBuilt,
    /// It is faster.
    Faster,
    /// Only the program that it starts knows, so its `gpus` decide.
    Unknown,
}

impl Gpu {
    /// Whether a GPU could serve it at all.
    pub fn is_useful(self) -> bool {
        matches!(self, Self::Faster | Self::Unknown)
    }

    /// For a stage of hashpipe's own, by whether a GPU makes it faster.
    pub fn of_builtin(faster: bool) -> Self {
        match (faster, crate::device::can_use_gpus()) {
            (false, _) => Self::Useless,
            (true, false) => Self::NotBuilt,
            (true, true) => Self::Faster,
        }
    }
}

/// What a task wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Threads, exactly; without it, one or as many as fall to its part.
    pub cpus: Option<usize>,
    /// Bytes of main memory.
    pub memory: u64,
    /// How many GPUs.
    pub gpus: usize,
    /// Bytes of each GPU's memory; without it, whole cards.
    pub gpu_memory: Option<u64>,
    /// Whole cards whatever `gpu_memory` says: it ran out of memory on a shared one.
    pub alone: bool,
}

impl Need {
    /// What a task wants, from what is written about it; `seen` is the GPU memory that tasks like it used, for `auto`.
    ///
    /// An unsaid number of GPUs is a wish: one, if the task can use one and there is one. A number that is said is a
    /// demand, and so is `gpu_memory` for a program that only its user knows.
    ///
    /// # Errors
    /// If GPUs are demanded for a stage that cannot use them.
    pub fn of(task: &str, wants: &Wants, gpu: Gpu, seen: Option<u64>, machine: &Machine) -> Result<Self> {
        let gpus = match (gpu, wants.gpus) {
            (Gpu::Useless | Gpu::NotBuilt, Some(gpus)) if gpus > 0 => return Err(cannot_use(task, gpu)),
            (Gpu::Useless | Gpu::NotBuilt, _) => 0,
            (_, Some(gpus)) => gpus,
            (Gpu::Faster, None) => machine.cards().len().min(1),
            (Gpu::Unknown, None) => usize::from(wants.gpu_memory.is_some()),
        };
        let gpu_memory = match wants.gpu_memory {
            Some(CardMemory::Bytes(Bytes(bytes))) => Some(bytes),
            Some(CardMemory::Auto) => seen.and_then(|seen| part_for(seen, machine)),
            None => None,
        };
        let memory = wants.memory.map_or(0, |bytes| bytes.0);
        Ok(Self { cpus: wants.cpus.map(usize::from), memory, gpus, gpu_memory, alone: false })
    }

    /// Refuses more GPUs than its stage can use: those would stand idle.
    pub(super) fn check_gpus(&self, task: &str, most: usize) -> Result<()> {
        if self.gpus <= most {
            return Ok(());
        }
        Err(Error::resources(format!("`{task}` is to have {} GPUs, and can use {most}", self.gpus))
            .hint(format!("say `gpus = {most}` in `[resources]`; a `train` stage can use several")))
    }

    /// The least number of threads it can start with.
    pub fn threads(&self) -> usize {
        self.cpus.unwrap_or(1)
    }

    /// Bytes of each card; nothing if it takes whole cards.
    pub(super) fn part(&self) -> Option<u64> {
        self.gpu_memory.filter(|_| !self.alone)
    }
}

/// The part of a card for a task that was seen to use so much; nothing, so a whole card, if it would not leave a rest.
fn part_for(seen: u64, machine: &Machine) -> Option<u64> {
    // Peaks are seen by looking now and then, so they lie a little below the truth.
    let part = seen.saturating_add(seen / 8);
    machine.cards().iter().any(|card| card.memory.is_some_and(|memory| memory >= part)).then_some(part)
}

fn cannot_use(task: &str, gpu: Gpu) -> Error {
    let error = Error::resources(format!("`{task}` is to have a GPU, which it cannot use"));
    match gpu {
        Gpu::NotBuilt => error
            .note("this hashpipe was built without CUDA")
            .hint("build it with `--features cuda`, or say `gpus = 0` in `[resources]`"),
        _ => error.hint("leave out `gpus` in `[resources]`"),
    }
}

/// Refuses `--gpus` where they are meant for stages that this build cannot run on a GPU, and nothing else uses them.
///
/// `gpus` are what the kinds of the pipeline's stages can do with one.
pub fn check_gpus(asked: Option<&Gpus>, gpus: impl IntoIterator<Item = Gpu>) -> Result<()> {
    if asked.is_none_or(Gpus::is_none) {
        return Ok(());
    }
    let (mut useful, mut not_built) = (false, false);
    for gpu in gpus {
        useful |= gpu.is_useful();
        not_built |= gpu == Gpu::NotBuilt;
    }
    if useful || !not_built {
        return Ok(());
    }
    Err(Error::input("a GPU was asked for, but this hashpipe was built without CUDA")
        .at(Place::Argument("--gpus".into()))
        .note("training and encoding run on the CPU in this build, and no other stage uses a GPU")
        .hint(HOW_TO_BUILD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::machine::Card;

    const GIB: u64 = 1 << 30;

    fn machine(cards: usize) -> Machine {
        Machine::told(4, None, (0..cards).map(|number| (Card::new(number, Some(24 * GIB)), 0)).collect())
    }

    fn gpus(wants: Wants, gpu: Gpu, cards: usize) -> usize {
        Need::of("t", &wants, gpu, None, &machine(cards)).unwrap().gpus
    }

    #[test]
    fn an_unsaid_gpu_is_a_wish_and_a_said_one_a_demand() {
        let (unsaid, said) = (Wants::default(), Wants { gpus: Some(2), ..Wants::default() });
        assert_eq!(gpus(unsaid, Gpu::Faster, 2), 1);
        assert_eq!(gpus(unsaid, Gpu::Faster, 0), 0);
        assert_eq!(gpus(unsaid, Gpu::Unknown, 2), 0);
        assert_eq!(gpus(unsaid, Gpu::NotBuilt, 2), 0);
        assert_eq!(gpus(said, Gpu::Faster, 0), 2);
        assert_eq!(gpus(said, Gpu::Unknown, 0), 2);
        assert_eq!(gpus(Wants { gpus: Some(0), ..unsaid }, Gpu::Faster, 2), 0);
        let error = Need::of("train.a", &said, Gpu::NotBuilt, None, &machine(2)).unwrap_err();
        assert_eq!(error.kind().exit_code(), 6);
        assert!(error.render("error").contains("built without CUDA"));
        let need = Need::of("encode.a", &said, Gpu::Faster, None, &machine(2)).unwrap();
        assert!(need.check_gpus("encode.a", 2).is_ok());
        let error = need.check_gpus("encode.a", 1).unwrap_err();
        assert_eq!(error.kind().exit_code(), 6);
        assert!(error.render("error").contains("`gpus = 1`"));
    }

    #[test]
    fn gpu_memory_alone_asks_for_a_gpu_where_only_the_user_knows() {
        let wants = Wants { gpu_memory: Some(CardMemory::Bytes(Bytes(GIB))), ..Wants::default() };
        assert_eq!(gpus(wants, Gpu::Unknown, 0), 1);
        assert_eq!(gpus(wants, Gpu::Faster, 0), 0);
        assert_eq!(gpus(wants, Gpu::NotBuilt, 1), 0);
    }

    #[test]
    fn auto_is_what_was_seen_or_a_whole_card() {
        let wants = Wants { gpu_memory: Some(CardMemory::Auto), ..Wants::default() };
        let need = |seen| Need::of("t", &wants, Gpu::Faster, seen, &machine(1)).unwrap();
        assert_eq!(need(None).part(), None);
        assert_eq!(need(Some(8 * GIB)).part(), Some(9 * GIB));
        assert_eq!(need(Some(23 * GIB)).part(), None);
        assert_eq!(Need { alone: true, ..need(Some(8 * GIB)) }.part(), None);
    }

    #[test]
    fn gpus_are_refused_only_where_nothing_could_use_them() {
        let asked = Gpus::First(1);
        let check = |gpus: &[Gpu]| check_gpus(Some(&asked), gpus.iter().copied());
        assert!(check(&[Gpu::Useless, Gpu::NotBuilt]).is_err());
        assert!(check(&[Gpu::NotBuilt, Gpu::Unknown]).is_ok());
        assert!(check(&[Gpu::Faster]).is_ok());
        assert!(check(&[Gpu::Useless]).is_ok());
        assert!(check_gpus(None, [Gpu::NotBuilt]).is_ok());
        assert!(check_gpus(Some(&Gpus::First(0)), [Gpu::NotBuilt]).is_ok());
    }
}
