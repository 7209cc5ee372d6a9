//! What is free of the machine, and who gets it.
//!
//! **A share.** Threads are given exactly as wanted, or, where nothing is said, divided: results do not depend on how
//! many, so a task may take what would lie idle. Main memory is reserved as said. A GPU is given whole, or, where a
//! task says how much of its memory it wants, shared: to the card that has least to spare and still fits (best fit), so
//! that large gaps stay for large tasks. Of a card counts what is neither reserved here nor used by others at that
//! moment, less a small part that drivers and allocators take beside. A whole card must be free of this run's tasks and
//! at least half free of others'.
//!
//! **Nobody stands in the way.** Ready tasks are asked in order of priority, and one that cannot start now is passed
//! over: only what it lacks is scarce, and who does not need that starts.
//!
//! **Nobody waits for ever.** A big task could be passed over by small ones again and again. So the first that waits
//! for threads, the first that waits for memory, and the first that waits for a GPU count how many behind them have
//! taken of what they lack. After [`PATIENCE`] of those, what it lacks is kept: what is free of it, and the cards with
//! the least on them, go to nobody behind it until it has started. Tasks before it in priority are not held up. Nothing
//! is kept for a task that waits for cards which others use: when they will leave is not known.
//!
//! Rejected: keeping at once (one long task on one thread would leave all others idle), and keeping until predicted
//! ends (wrong predictions would show as tasks that do not start, for no reason that can be seen).

use super::machine::{Card, Machine};
use super::need::Need;
use crate::amounts::Bytes;
use crate::error::{Error, Result};
use crate::plan::TaskId;
use std::collections::HashMap;

/// How many tasks may take what another one, before them in priority, is waiting for.
const PATIENCE: usize = 4;

/// The part of a card's memory that is left for what drivers and allocators take beside: one of so many.
const HEADROOM: u64 = 64;

/// What is free.
#[derive(Debug)]
pub(super) struct Slots {
    machine: Machine,
    cpus: usize,
    memory: u64,
    /// By position among the machine's cards; empty until a task wants one.
    cards: Vec<Load>,
    /// Tasks that were passed over.
    passed: HashMap<TaskId, Passed>,
}

/// What this run's tasks have of a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    tasks: usize,
    bytes: u64,
}

/// What a task was given, to be given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub threads: usize,
    /// Bytes.
    pub memory: u64,
    pub gpus: Vec<Part>,
}

/// A card, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The card's number, as `nvidia-smi` counts.
    pub card: usize,
    /// Bytes; the whole card if it is not said.
    pub memory: Option<u64>,
}

impl Share {
    /// What tells a process its cards: none without a GPU. CUDA numbers cards by speed unless it is told otherwise.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        let numbers: Vec<String> = self.gpus.iter().map(|part| part.card.to_string()).collect();
        [("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()), ("CUDA_VISIBLE_DEVICES", numbers.join(","))]
    }

    /// The numbers of its cards.
    pub(super) fn cards(&self) -> Vec<usize> {
        self.gpus.iter().map(|part| part.card).collect()
    }
}

/// Something a task may have too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scarce {
    Cpus,
    Memory,
    Gpus,
}

impl Scarce {
    const ALL: [Self; 3] = [Self::Cpus, Self::Memory, Self::Gpus];
}

/// What a task has too little of.
#[derive(Debug, Clone, Copy, Default)]
struct Lacks {
    some: [bool; 3],
    /// Cards would be lacking even if all tasks of this run had ended: others use them.
    others: bool,
}

impl Lacks {
    fn has(&self, what: Scarce) -> bool {
        self.some[what as usize]
    }
}

/// How often a task was passed over, and what it has lacked meanwhile.
#[derive(Debug, Default)]
struct Passed {
    times: usize,
    lacked: [bool; 3],
}

/// One walk over the ready tasks.
#[derive(Default)]
struct Walk {
    /// Bytes of each card that others use, once someone asked.
    others: Option<Vec<u64>>,
    /// The first task that lacks each thing.
    first: [Option<TaskId>; 3],
    /// What was refused: as a walk only takes, the same is refused again. A sweep has many of few kinds.
    refused: Vec<Need>,
    keeps: Keeps,
}

/// What is kept for tasks that waited too long.
#[derive(Default)]
struct Keeps {
    cpus: usize,
    memory: u64,
    /// Positions of cards.
    cards: Vec<usize>,
}

impl Slots {
    pub(super) fn new(machine: Machine) -> Self {
        let (cpus, memory) = (machine.cpus, machine.memory.unwrap_or(u64::MAX));
        Self { machine, cpus, memory, cards: vec![], passed: HashMap::new() }
    }

    /// Whether a task could start if it had the machine to itself.
    ///
    /// # Errors
    /// Says all that the task wants too much of, and what to do.
    pub(super) fn can_ever(&self, task: &str, need: &Need) -> Result<()> {
        let mut too_much = vec![];
        if need.threads() > self.machine.cpus {
            let note = format!("it wants {} threads, and there are {}", need.threads(), self.machine.cpus);
            too_much.push((note, "`--jobs` says how many threads there are; without `cpus` it takes what is free"));
        }
        if let Some(there) = self.machine.memory.filter(|there| need.memory > *there) {
            let note = format!("it wants {} of memory, and there are {}", Bytes(need.memory), Bytes(there));
            let hint = "want less `memory` in `[resources]`, or tell how much there is: `host = { memory = .. }`";
            too_much.push((note, hint));
        }
        if need.gpus > 0 && self.fitting(need) < need.gpus {
            let note = format!("it wants {}, and there {}", gpus(need), self.inventory());
            let hint = match self.machine.cards() {
                [] => "without a driver, `--gpus` or `host = { gpus = .. }` in `[resources]` says how many there are",
                _ => "want less in `[resources]`: `gpus = 0` keeps it off them",
            };
            too_much.push((note, hint));
        }
        if too_much.is_empty() {
            return Ok(());
        }
        let error = Error::resources(format!("`{task}` can never run on this machine"));
        Err(too_much.into_iter().fold(error, |error, (note, hint)| error.note(note).hint(hint)))
    }

    /// Gives shares to those of the ready tasks that can start now, asked in the given order, the first first.
    ///
    /// It is enough to ask again when a task became ready or a share was given back, but for tasks of which
    /// [`Slots::waits_for_others`] is true: nobody tells when others leave a card. Stops reading `ready` when no thread
    /// is left, so a long line costs nothing on a busy machine.
    pub(super) fn offer<'a>(&mut self, ready: impl IntoIterator<Item = (TaskId, &'a Need)>) -> Vec<(TaskId, Share)> {
        let mut walk = Walk::default();
        let (mut started, mut elastic) = (vec![], vec![]);
        for (id, need) in ready {
            // Everybody needs a thread.
            if self.cpus <= walk.keeps.cpus {
                break;
            }
            if walk.refused.contains(need) {
                continue;
            }
            match self.find(need, &mut walk) {
                Ok(cards) => {
                    self.pass_others(need, &walk);
                    self.passed.remove(&id);
                    if need.cpus.is_none() {
                        elastic.push(started.len());
                    }
                    started.push((id, self.take(need, &cards)));
                }
                Err(lacks) => self.refuse(id, need, lacks, &mut walk),
            }
        }
        self.divide(&mut started, &elastic, walk.keeps.cpus);
        started
    }

    /// Takes a share back.
    pub(super) fn give_back(&mut self, share: Share) {
        self.cpus += share.threads;
        self.memory += share.memory;
        for part in share.gpus {
            let position = self.machine.cards().iter().position(|card| card.number == part.card);
            let Some(load) = position.and_then(|position| self.cards.get_mut(position)) else { continue };
            load.tasks -= 1;
            load.bytes -= part.memory.unwrap_or(load.bytes);
        }
    }

    /// Whether a task cannot start because of what others use of the GPUs: then it is worth asking again although
    /// nothing was given back, and worth telling.
    pub(super) fn waits_for_others(&mut self, need: &Need) -> bool {
        self.find(need, &mut Walk::default()).is_err_and(|lacks| lacks.others)
    }

    /// The cards a task can have now, or what it has too little of.
    fn find(&mut self, need: &Need, walk: &mut Walk) -> Result<Vec<usize>, Lacks> {
        let mut lacks = Lacks::default();
        lacks.some[Scarce::Cpus as usize] = self.cpus.saturating_sub(walk.keeps.cpus) < need.threads();
        let memory = self.memory.saturating_sub(walk.keeps.memory);
        lacks.some[Scarce::Memory as usize] = need.memory > 0 && memory < need.memory;
        let mut cards = vec![];
        if need.gpus > 0 {
            self.cards.resize(self.machine.cards().len(), Load::default());
            let loads = &self.cards;
            let others = walk.others.get_or_insert_with(|| {
                self.machine.used_by_others(&loads.iter().map(|load| load.bytes).collect::<Vec<_>>())
            });
            cards = self.suiting(need, others, loads);
            cards.retain(|position| !walk.keeps.cards.contains(position));
            lacks.some[Scarce::Gpus as usize] = cards.len() < need.gpus;
            cards.truncate(need.gpus);
            lacks.others = lacks.has(Scarce::Gpus)
                && self.suiting(need, others, &vec![Load::default(); loads.len()]).len() < need.gpus;
        }
        if lacks.some.contains(&true) { Err(lacks) } else { Ok(cards) }
    }

    /// The positions of the cards that suit a task, the best first, when this run's tasks have `loads` of them.
    fn suiting(&self, need: &Need, others: &[u64], loads: &[Load]) -> Vec<usize> {
        let cards = self.machine.cards().iter().enumerate();
        let mut found: Vec<(u64, usize)> =
            cards.filter_map(|(i, card)| Some((spare(need, card, others[i], loads[i])?, i))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, position)| position).collect()
    }

    /// How many cards could ever suit a task.
    fn fitting(&self, need: &Need) -> usize {
        let nobody = vec![0; self.machine.cards().len()];
        self.suiting(need, &nobody, &vec![Load::default(); nobody.len()]).len()
    }

    fn take(&mut self, need: &Need, cards: &[usize]) -> Share {
        self.cpus -= need.threads();
        self.memory -= need.memory;
        let gpus = cards.iter().map(|position| {
            let card = &self.machine.cards()[*position];
            let part = need.part().filter(|part| card.memory.is_some_and(|memory| *part <= shareable(memory)));
            let load = &mut self.cards[*position];
            load.tasks += 1;
            load.bytes += part.or(card.memory).unwrap_or(u64::MAX);
            Part { card: card.number, memory: part }
        });
        Share { threads: need.threads(), memory: need.memory, gpus: gpus.collect() }
    }

    /// Counts a start against those before it that wait for what it has taken.
    fn pass_others(&mut self, need: &Need, walk: &Walk) {
        let takes = [true, need.memory > 0, need.gpus > 0];
        let mut told: Vec<TaskId> = vec![];
        for what in Scarce::ALL {
            let Some(id) = walk.first[what as usize].filter(|id| takes[what as usize] && !told.contains(id)) else {
                continue;
            };
            self.passed.entry(id).or_default().times += 1;
            told.push(id);
        }
    }

    /// Notes what a task lacks, and keeps that for it if it has waited too long.
    fn refuse(&mut self, id: TaskId, need: &Need, lacks: Lacks, walk: &mut Walk) {
        walk.refused.push(*need);
        if lacks.others {
            return;
        }
        let mut is_first = false;
        for what in Scarce::ALL.into_iter().filter(|what| lacks.has(*what)) {
            let first = walk.first[what as usize].get_or_insert(id);
            is_first |= *first == id;
        }
        let Some(passed) = self.passed.get_mut(&id).filter(|passed| is_first && passed.times >= PATIENCE) else {
            return;
        };
        // What it lacked before and has found stays kept too: else it could be lost again while the rest comes free.
        let lacked = Scarce::ALL.map(|what| lacks.has(what) || passed.lacked[what as usize]);
        passed.lacked = lacked;
        if lacked[Scarce::Cpus as usize] {
            walk.keeps.cpus += need.threads();
        }
        if lacked[Scarce::Memory as usize] {
            walk.keeps.memory = walk.keeps.memory.saturating_add(need.memory);
        }
        if lacked[Scarce::Gpus as usize] {
            let others = walk.others.as_deref().unwrap_or_default();
            let mut cards = self.suiting(need, others, &vec![Load::default(); others.len()]);
            cards.retain(|position| !walk.keeps.cards.contains(position));
            cards.sort_by_key(|position| self.cards[*position].bytes);
            walk.keeps.cards.extend(cards.into_iter().take(need.gpus));
        }
    }

    /// Divides the threads that are left among the tasks that started with one and can use more.
    fn divide(&mut self, started: &mut [(TaskId, Share)], elastic: &[usize], kept: usize) {
        let free = self.cpus.saturating_sub(kept);
        for (turn, position) in elastic.iter().enumerate() {
            let (even, rest) = (free / elastic.len(), free % elastic.len());
            let more = even + usize::from(turn < rest);
            started[*position].1.threads += more;
            self.cpus -= more;
        }
    }

    /// The cards in a sentence that begins with "there".
    fn inventory(&self) -> String {
        let shown = |card: &Card| match card.memory {
            Some(memory) => format!("GPU {} with {}", card.number, Bytes(memory)),
            None => format!("GPU {}, whose memory is not known", card.number),
        };
        match self.machine.cards() {
            [] => "is none".into(),
            [card] => format!("is {}", shown(card)),
            cards => format!("are {}", cards.iter().map(shown).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// The memory of a card that tasks can share.
fn shareable(memory: u64) -> u64 {
    memory - memory / HEADROOM
}

/// How little a card suits a task: what it would have to spare, least first; nothing if the task does not fit.
fn spare(need: &Need, card: &Card, others: u64, load: Load) -> Option<u64> {
    match (need.part(), card.memory) {
        (Some(part), Some(memory)) if part > memory => None,
        (Some(part), Some(memory)) if part <= shareable(memory) => {
            shareable(memory).checked_sub(others.saturating_add(load.bytes))?.checked_sub(part)
        }
        // A whole card, or so large a part that nothing else fits beside it, or a card that cannot be shared.
        (_, memory) => (load.tasks == 0 && memory.is_none_or(|memory| others <= memory / 2)).then_some(others),
    }
}

/// `2 GPUs with 6 GiB each`
fn gpus(need: &Need) -> String {
    let count = if need.gpus == 1 { "a GPU".into() } else { format!("{} GPUs", need.gpus) };
    match need.part() {
        Some(part) if need.gpus == 1 => format!("{count} with {}", Bytes(part)),
        Some(part) => format!("{count} with {} each", Bytes(part)),
        None => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    /// A machine with cards of so many GiB, of which others use so many.
    fn slots(cpus: usize, memory: u64, cards: &[(u64, u64)]) -> Slots {
        let cards = cards.iter().enumerate().map(|(i, (all, used))| (Card::new(i, Some(all * GIB)), used * GIB));
        Slots::new(Machine::told(cpus, Some(memory * GIB), cards.collect()))
    }

    fn cpus(count: usize) -> Need {
        Need { cpus: Some(count), ..Need::default() }
    }

    fn gpu(part: Option<u64>) -> Need {
        Need { gpus: 1, gpu_memory: part.map(|part| part * GIB), ..cpus(1) }
    }

    /// Asks for one task alone.
    fn ask(slots: &mut Slots, need: Need) -> Option<Share> {
        slots.offer([(TaskId(0), &need)]).pop().map(|(_, share)| share)
    }

    fn offered(slots: &mut Slots, needs: &[Need]) -> Vec<usize> {
        let ready = needs.iter().enumerate().map(|(i, need)| (TaskId(i), need));
        slots.offer(ready).into_iter().map(|(id, _)| id.0).collect()
    }

    fn card(share: Option<Share>) -> Option<usize> {
        share.map(|share| share.gpus[0].card)
    }

    #[test]
    fn threads_are_divided_among_those_that_can_start() {
        let mut slots = slots(8, 1, &[]);
        let (free, exact, never) = (Need::default(), cpus(2), Need { memory: 2 * GIB, ..Need::default() });
        let needs = [free, never, exact, free, free];
        let ready = needs.iter().enumerate().map(|(i, need)| (TaskId(i), need));
        let shares = slots.offer(ready);
        let threads: Vec<(usize, usize)> = shares.iter().map(|(id, share)| (id.0, share.threads)).collect();
        assert_eq!(threads, [(0, 2), (2, 2), (3, 2), (4, 2)]);
        assert_eq!(ask(&mut slots, free), None);
        for (_, share) in shares {
            slots.give_back(share);
        }
        assert_eq!(ask(&mut slots, free).unwrap().threads, 8);
    }

    #[test]
    fn a_scarce_resource_does_not_stand_in_the_way_of_others() {
        let mut slots = slots(4, 4, &[(24, 0)]);
        let memory = |gib| Need { memory: gib * GIB, ..cpus(1) };
        assert_eq!(offered(&mut slots, &[gpu(None), gpu(None), memory(3), memory(2), cpus(1)]), [0, 2, 4]);
    }

    #[test]
    fn a_card_is_shared_by_those_that_say_how_much_they_want() {
        let mut slots = slots(8, 1, &[(24, 0), (24, 0)]);
        assert_eq!(card(ask(&mut slots, gpu(Some(10)))), Some(0));
        // The tightest card that fits: the other one stays whole.
        assert_eq!(card(ask(&mut slots, gpu(Some(10)))), Some(0));
        assert_eq!(card(ask(&mut slots, gpu(Some(4)))), Some(1));
        assert_eq!(ask(&mut slots, gpu(None)), None);
        assert_eq!(card(ask(&mut slots, gpu(Some(3)))), Some(0));
        // 23 of 24 GiB are taken: the last one is not all there, drivers take from it.
        assert_eq!(card(ask(&mut slots, gpu(Some(1)))), Some(1));
    }

    #[test]
    fn who_ran_out_of_memory_gets_a_card_of_its_own() {
        let mut slots = slots(8, 1, &[(24, 0), (24, 0)]);
        let first = ask(&mut slots, gpu(Some(2))).unwrap();
        let alone = ask(&mut slots, Need { alone: true, ..gpu(Some(2)) }).unwrap();
        assert_eq!(alone.gpus, [Part { card: 1, memory: None }]);
        assert_eq!(card(ask(&mut slots, gpu(Some(2)))), Some(0));
        slots.give_back(alone);
        assert_eq!(ask(&mut slots, gpu(Some(23))).unwrap().gpus, [Part { card: 1, memory: Some(23 * GIB) }]);
        slots.give_back(first);
    }

    #[test]
    fn what_others_use_is_not_given_away() {
        let mut slots = slots(8, 1, &[(24, 20), (24, 6)]);
        assert_eq!(card(ask(&mut slots, gpu(Some(3)))), Some(0));
        assert_eq!(card(ask(&mut slots, gpu(Some(3)))), Some(1));
        // A whole card is at least half free; the other one is not, whoever else is on it.
        assert_eq!(ask(&mut slots, gpu(None)), None);
        assert!(slots.waits_for_others(&gpu(Some(20))));
        assert!(!slots.waits_for_others(&gpu(None)));
        assert!(!slots.waits_for_others(&cpus(9)));
        assert!(slots.can_ever("t", &gpu(Some(20))).is_ok());
    }

    #[test]
    fn a_card_whose_memory_is_not_known_is_given_whole() {
        let mut slots = Slots::new(Machine::told(4, None, vec![(Card::new(3, None), 0)]));
        let share = ask(&mut slots, gpu(Some(1))).unwrap();
        assert_eq!(share.gpus, [Part { card: 3, memory: None }]);
        assert_eq!(ask(&mut slots, gpu(Some(1))), None);
        slots.give_back(share);
        assert_eq!(card(ask(&mut slots, gpu(None))), Some(3));
    }

    #[test]
    fn a_task_is_told_its_cards() {
        let mut slots = slots(8, 1, &[(24, 0), (24, 0), (24, 0)]);
        let visible = |share: &Share| share.environment()[1].clone();
        assert_eq!(visible(&ask(&mut slots, cpus(1)).unwrap()), ("CUDA_VISIBLE_DEVICES", String::new()));
        let two = ask(&mut slots, Need { gpus: 2, ..cpus(1) }).unwrap();
        assert_eq!(visible(&two), ("CUDA_VISIBLE_DEVICES", "0,1".to_string()));
        assert_eq!(visible(&ask(&mut slots, gpu(Some(1))).unwrap()).1, "2");
    }

    #[test]
    fn all_that_can_never_fit_is_told() {
        let slots = slots(2, 4, &[(24, 0)]);
        let need = Need { cpus: Some(3), memory: 5 * GIB, gpus: 2, gpu_memory: Some(6 * GIB), alone: false };
        let error = slots.can_ever("train.a", &need).unwrap_err();
        assert_eq!(error.kind().exit_code(), 6);
        let said = error.render("error");
        let pieces = [
            "`train.a` can never run on this machine",
            "it wants 3 threads, and there are 2",
            "it wants 5 GiB of memory, and there are 4 GiB",
            "it wants 2 GPUs with 6 GiB each, and there is GPU 0 with 24 GiB",
            "`--jobs`",
        ];
        for piece in pieces {
            assert!(said.contains(piece), "{piece}\n{said}");
        }
        assert!(slots.can_ever("t", &gpu(Some(24))).is_ok());
        assert!(slots.can_ever("t", &gpu(Some(25))).is_err());
        assert!(Slots::new(Machine::told(1, None, vec![])).can_ever("t", &gpu(None)).is_err());
    }

    /// A big task before an endless stream of small ones, one of which ends after each walk: after how many walks does
    /// it start? `crowd` is there already.
    fn walks_until(slots: &mut Slots, big: Need, small: Need, crowd: usize) -> Option<usize> {
        let mut running: Vec<Share> = (0..crowd).filter_map(|_| ask(slots, small)).collect();
        (1..100).find(|_| {
            let ready = [(TaskId(7), &big), (TaskId(8), &small), (TaskId(9), &small)];
            let started = slots.offer(ready);
            let big_started = started.iter().any(|(id, _)| id.0 == 7);
            running.extend(started.into_iter().map(|(_, share)| share));
            if !running.is_empty() {
                slots.give_back(running.remove(0));
            }
            big_started
        })
    }

    #[test]
    fn a_big_task_is_not_passed_over_for_ever() {
        let memory = |gib| Need { memory: gib * GIB, ..cpus(1) };
        assert!(walks_until(&mut slots(4, 1, &[]), cpus(4), cpus(1), 4).is_some());
        assert!(walks_until(&mut slots(64, 8, &[]), memory(8), memory(1), 8).is_some());
        assert!(walks_until(&mut slots(64, 8, &[(24, 0), (24, 0)]), gpu(None), gpu(Some(5)), 8).is_some());
        let both = Need { cpus: Some(4), ..gpu(None) };
        assert!(walks_until(&mut slots(4, 8, &[(24, 0)]), both, gpu(Some(5)), 4).is_some());
    }

    #[test]
    fn nothing_is_kept_for_who_waits_for_others() {
        let mut slots = slots(4, 8, &[(24, 12)]);
        let waits = Need { cpus: Some(4), ..gpu(Some(20)) };
        for _ in 0..3 * PATIENCE {
            let ready = [(TaskId(0), &waits), (TaskId(1), &gpu(Some(5))), (TaskId(2), &cpus(2))];
            let mut started = slots.offer(ready);
            assert_eq!(started.len(), 2);
            slots.give_back(started.remove(0).1);
            // One of them goes on, so that threads are lacking too.
            assert_eq!(offered(&mut slots, &[waits, cpus(1)]), [1]);
            slots.give_back(Share { threads: 1, ..Share::default() });
            slots.give_back(started.remove(0).1);
        }
    }

    #[test]
    fn what_was_kept_stays_kept_until_the_rest_is_free() {
        let mut slots = slots(8, 8, &[(24, 0)]);
        let (memory, card) = (Need { memory: 5 * GIB, ..cpus(1) }, gpu(None));
        let both = Need { memory: 8 * GIB, ..card };
        let first = ask(&mut slots, memory).unwrap();
        slots.passed.insert(TaskId(0), Passed { times: PATIENCE, ..Passed::default() });
        assert_eq!(offered(&mut slots, &[both, card]), [1]);
        slots.give_back(first);
        // The memory is there now and the card is not: the next one may not take the memory instead.
        assert_eq!(offered(&mut slots, &[both, memory]), [0; 0]);
        slots.give_back(Share { threads: 1, memory: 0, gpus: vec![Part { card: 0, memory: None }] });
        assert_eq!(offered(&mut slots, &[both, memory]), [0]);
    }

    #[test]
    fn what_is_kept_is_only_what_is_lacking() {
        let mut slots = slots(8, 8, &[(24, 0)]);
        let (running, whole) = (ask(&mut slots, gpu(Some(5))).unwrap(), gpu(None));
        for _ in 0..PATIENCE {
            let small = offered(&mut slots, &[whole, gpu(Some(2))]);
            assert_eq!(small, [1]);
            slots.give_back(Share { threads: 1, memory: 0, gpus: vec![Part { card: 0, memory: Some(2 * GIB) }] });
        }
        // Now the card is kept, and threads are not.
        assert_eq!(offered(&mut slots, &[whole, gpu(Some(2)), cpus(3), Need::default()]), [2, 3]);
        slots.give_back(running);
    }

    fn any_need() -> impl Strategy<Value = Need> {
        let cpus = prop::option::of(1usize..6);
        let part = prop::option::of(1u64..26);
        (cpus, 0u64..10, 0usize..4, part, any::<bool>()).prop_map(|(cpus, memory, gpus, part, alone)| Need {
            cpus,
            memory: memory * GIB,
            gpus,
            gpu_memory: part.map(|part| part * GIB),
            alone,
        })
    }

    /// What is wrong with so many shares being out at once.
    fn over_committed(machine: &Machine, running: &[Share]) -> Option<String> {
        let threads: usize = running.iter().map(|share| share.threads).sum();
        let memory: u64 = running.iter().map(|share| share.memory).sum();
        if threads > machine.cpus || memory > machine.memory.unwrap_or(u64::MAX) {
            return Some(format!("{threads} threads, {memory} bytes"));
        }
        let others = machine.used_by_others(&[]);
        machine.cards().iter().zip(others).find_map(|(card, others)| {
            let parts: Vec<Option<u64>> = running
                .iter()
                .flat_map(|share| &share.gpus)
                .filter(|p| p.card == card.number)
                .map(|p| p.memory)
                .collect();
            let shared: u64 = parts.iter().flatten().sum();
            let whole = parts.iter().filter(|part| part.is_none()).count();
            let wrong = whole > 1 || (whole == 1 && parts.len() > 1) || (shared > 0 && shared + others > card.memory?);
            wrong.then(|| format!("card {}: {parts:?}", card.number))
        })
    }

    proptest! {
        #[test]
        fn nothing_is_promised_twice_and_everything_runs_in_the_end(
            needs in prop::collection::vec(any_need(), 1..40),
            total in (1usize..6, 1u64..10),
            cards in prop::collection::vec((1u64..26, 0u64..12), 0..4),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 400)
        ) {
            let mut slots = slots(total.0, total.1, &cards);
            let machine = slots.machine.clone();
            // Others stay for good here, so what waits for them is left out.
            let possible = |slots: &mut Slots, need: &Need| slots.can_ever("t", need).is_ok() && !slots.waits_for_others(need);
            let mut ready: Vec<(TaskId, Need)> = vec![];
            for (i, need) in needs.iter().enumerate() {
                if possible(&mut slots, need) {
                    ready.push((TaskId(i), *need));
                }
            }
            let (mut running, mut ends) = (vec![], ends.iter());
            while !ready.is_empty() || !running.is_empty() {
                for (id, share) in slots.offer(ready.iter().map(|(id, need)| (*id, need)).collect::<Vec<_>>()) {
                    let position = ready.iter().position(|(other, _)| *other == id).unwrap();
                    let (_, need) = ready.remove(position);
                    prop_assert!(need.cpus.is_none_or(|cpus| cpus == share.threads) && share.threads > 0);
                    prop_assert!(share.memory == need.memory && share.gpus.len() == need.gpus);
                    running.push(share);
                }
                prop_assert_eq!(over_committed(&machine, &running), None);
                prop_assert!(!running.is_empty(), "{:?} cannot start on a free machine", ready);
                let end = ends.next().unwrap().index(running.len());
                slots.give_back(running.swap_remove(end));
            }
            prop_assert_eq!((slots.cpus, slots.memory), (total.0, total.1 * GIB));
            prop_assert!(slots.cards.iter().all(|load| *load == Load::default()));
        }
    }
}
