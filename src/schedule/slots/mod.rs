//! What is free of the machine, and who gets it.
//!
//! **A share.** Threads are given exactly as wanted, or, where nothing is said, divided: results do not depend on how
//! many, so a task may take what would lie idle. Main memory is reserved as said. A GPU is given whole, or, where a
//! task says how much of its memory it wants, shared: to the card that has least to spare and still fits (best fit), so
//! that large gaps stay for large tasks. Of a card counts what is neither reserved here nor used by others at that
//! moment, less a small part that drivers and allocators take beside. A whole card must be free of this run's tasks and
//! at least half free of others'. A card that does not answer any more is given to nobody again in this run.
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

mod possible;
mod share;

pub(in crate::schedule) use share::{Part, Share};

use super::machine::{Card, Machine, Use};
use super::need::Need;
use crate::plan::TaskId;
use std::collections::{BTreeSet, HashMap};

/// How many tasks may take what another one, before them in priority, is waiting for.
const PATIENCE: usize = 4;

/// The part of a card's memory that is left for what drivers and allocators take beside: one of so many.
const HEADROOM: u64 = 64;

/// How many kinds of refused wants are remembered in a walk: looking through more costs more than asking again.
const KINDS: usize = 16;

/// What is free.
#[derive(Debug, Clone)]
pub(in crate::schedule) struct Slots {
    machine: Machine,
    cpus: usize,
    memory: u64,
    /// By position among the machine's cards; empty until a task wants one.
    cards: Vec<Load>,
    /// Positions of cards that do not answer any more.
    lost: BTreeSet<usize>,
    /// Tasks that were passed over.
    passed: HashMap<TaskId, Passed>,
}

/// What this run's tasks have of a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    tasks: usize,
    bytes: u64,
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
#[derive(Debug, Clone, Default)]
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
    pub(in crate::schedule) fn new(machine: Machine) -> Self {
        let (cpus, memory) = (machine.cpus, machine.memory.unwrap_or(u64::MAX));
        Self { machine, cpus, memory, cards: vec![], lost: BTreeSet::new(), passed: HashMap::new() }
    }

    /// Gives shares to those of the ready tasks that can start now, asked in the given order, the first first.
    ///
    /// It is enough to ask again when a task became ready or a share was given back, but for tasks of which
    /// [`Slots::waits_for_others`] is true: nobody tells when others leave a card. Stops reading `ready` when no thread
    /// is left, so a long line costs nothing on a busy machine.
    pub(in crate::schedule) fn offer<'a>(
        &mut self,
        ready: impl IntoIterator<Item = (TaskId, &'a Need)>,
    ) -> Vec<(TaskId, Share)> {
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

    /// The same while `lent` threads of running tasks can be asked back, and how many of those the ready tasks will start
    /// with. Shares are given to those only that get no thread which one before them would have got of all together.
    pub(in crate::schedule) fn offer_beside<'a>(
        &mut self,
        lent: usize,
        ready: impl Iterator<Item = (TaskId, &'a Need)> + Clone,
    ) -> (Vec<(TaskId, Share)>, usize) {
        if lent == 0 || ready.clone().next().is_none() {
            return (self.offer(ready), 0);
        }
        let mut all = Self { cpus: self.cpus + lent, ..self.clone() };
        let planned = all.offer(ready.clone());
        let missing = planned.iter().map(|(_, share)| share.threads).sum::<usize>().saturating_sub(self.cpus);
        if missing == 0 {
            return (self.offer(ready), 0);
        }
        self.lost = all.lost;
        let mut idle = self.cpus;
        let at_once = planned.iter().take_while(|(_, share)| {
            let fits = share.threads <= idle;
            idle = idle.saturating_sub(share.threads);
            fits
        });
        let at_once: HashMap<TaskId, usize> = at_once.map(|(id, share)| (*id, share.threads)).collect();
        let exactly = |(id, need): (TaskId, &Need)| Some((id, Need { cpus: Some(*at_once.get(&id)?), ..*need }));
        let needs: Vec<(TaskId, Need)> = ready.filter_map(exactly).take(at_once.len()).collect();
        (self.offer(needs.iter().map(|(id, need)| (*id, need))), missing)
    }

    /// Takes a share back.
    pub(in crate::schedule) fn give_back(&mut self, share: Share) {
        self.cpus += share.threads;
        self.memory += share.memory;
        for part in share.gpus {
            let Some(load) = self.cards.get_mut(part.position) else { continue };
            load.tasks -= 1;
            load.bytes -= part.memory.unwrap_or(load.bytes);
        }
    }

    /// Threads that no task has.
    pub(in crate::schedule) fn idle(&self) -> usize {
        self.cpus
    }

    /// Gives some of the idle threads to a task that has started.
    pub(in crate::schedule) fn lend(&mut self, share: &mut Share, count: usize) {
        let count = count.min(self.cpus);
        self.cpus -= count;
        share.threads += count;
    }

    /// Takes what a task has beyond so many threads.
    pub(in crate::schedule) fn reclaim(&mut self, share: &mut Share, threads: usize) {
        let count = share.threads.saturating_sub(threads);
        self.cpus += count;
        share.threads -= count;
    }

    /// Whether a task cannot start because of what others use of the GPUs: then it is worth asking again although
    /// nothing was given back, and worth telling.
    pub(in crate::schedule) fn waits_for_others(&mut self, need: &Need) -> bool {
        self.find(need, &mut Walk::default()).is_err_and(|lacks| lacks.others)
    }

    /// Positions of the cards that were found not to answer any more. What was possible before may not be now: see
    /// [`Slots::can_ever`].
    pub(in crate::schedule) fn lost(&self) -> &BTreeSet<usize> {
        &self.lost
    }

    /// What others use of each card now; notes which cards do not answer.
    fn used_by_others(&mut self) -> Vec<u64> {
        let reserved: Vec<u64> = self.cards.iter().map(|load| load.bytes).collect();
        let found = self.machine.used_by_others(&reserved);
        let used = |(position, used)| match used {
            Use::Bytes(bytes) => bytes,
            Use::Lost => {
                self.lost.insert(position);
                0
            }
        };
        found.into_iter().enumerate().map(used).collect()
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
            if walk.others.is_none() {
                walk.others = Some(self.used_by_others());
            }
            let others = walk.others.as_deref().unwrap_or_default();
            cards = self.suiting(need, others, &self.cards);
            cards.retain(|position| !walk.keeps.cards.contains(position));
            lacks.some[Scarce::Gpus as usize] = cards.len() < need.gpus;
            cards.truncate(need.gpus);
            lacks.others = lacks.has(Scarce::Gpus)
                && self.suiting(need, others, &vec![Load::default(); self.cards.len()]).len() < need.gpus;
        }
        if lacks.some.contains(&true) { Err(lacks) } else { Ok(cards) }
    }

    /// The positions of the cards that suit a task, the best first, when this run's tasks have `loads` of them.
    fn suiting(&self, need: &Need, others: &[u64], loads: &[Load]) -> Vec<usize> {
        let cards = self.machine.cards().iter().enumerate().filter(|(position, _)| !self.lost.contains(position));
        let mut found: Vec<(u64, usize)> =
            cards.filter_map(|(i, card)| Some((spare(need, card, others[i], loads[i])?, i))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, position)| position).collect()
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
            Part { position: *position, card: card.number, name: card.name.clone(), memory: part }
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
        if walk.refused.len() < KINDS {
            walk.refused.push(*need);
        }
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

#[cfg(test)]
mod fairness;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const GIB: u64 = 1 << 30;

    /// A machine with cards of so many GiB, of which others use so many.
    pub(super) fn slots(cpus: usize, memory: u64, cards: &[(u64, u64)]) -> Slots {
        let cards = cards.iter().enumerate().map(|(i, (all, used))| (Card::new(i, Some(all * GIB)), used * GIB));
        Slots::new(Machine::told(cpus, Some(memory * GIB), cards.collect()))
    }

    pub(super) fn cpus(count: usize) -> Need {
        Need { cpus: Some(count), ..Need::default() }
    }

    pub(super) fn gpu(part: Option<u64>) -> Need {
        Need { gpus: 1, gpu_memory: part.map(|part| part * GIB), ..cpus(1) }
    }

    /// Asks for one task alone.
    pub(super) fn ask(slots: &mut Slots, need: Need) -> Option<Share> {
        slots.offer([(TaskId(0), &need)]).pop().map(|(_, share)| share)
    }

    pub(super) fn offered(slots: &mut Slots, needs: &[Need]) -> Vec<usize> {
        let ready = needs.iter().enumerate().map(|(i, need)| (TaskId(i), need));
        slots.offer(ready).into_iter().map(|(id, _)| id.0).collect()
    }

    fn parts(share: &Share) -> Vec<(usize, Option<u64>)> {
        share.gpus.iter().map(|part| (part.card, part.memory)).collect()
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
    fn what_is_lent_is_found_again_by_those_that_would_start_with_it() {
        let mut slots = slots(8, 1, &[]);
        let mut share = ask(&mut slots, cpus(2)).unwrap();
        let mut other = ask(&mut slots, cpus(3)).unwrap();
        slots.lend(&mut share, 3);
        assert_eq!((share.threads, slots.idle()), (5, 0));
        let offered = |slots: &mut Slots, needs: &[Need]| {
            let (started, missing) = slots.offer_beside(3, needs.iter().enumerate().map(|(i, need)| (TaskId(i), need)));
            let threads: Vec<(usize, usize)> = started.iter().map(|(id, share)| (id.0, share.threads)).collect();
            started.into_iter().for_each(|(_, share)| slots.give_back(share));
            (threads, missing)
        };
        let never = Need { memory: 2 * GIB, ..Need::default() };
        assert_eq!(offered(&mut slots, &[]), (vec![], 0));
        assert_eq!(offered(&mut slots, &[never, cpus(4)]), (vec![], 0));
        assert_eq!(offered(&mut slots, &[never, cpus(2)]), (vec![], 2));
        // One that takes any number would have had them all.
        assert_eq!(offered(&mut slots, &[Need::default()]), (vec![], 3));
        slots.reclaim(&mut other, 1);
        assert_eq!(offered(&mut slots, &[cpus(2)]), (vec![(0, 2)], 0));
        // What is idle is kept for the first one, and goes to others only before it or beside it.
        assert_eq!(offered(&mut slots, &[cpus(5), cpus(1)]), (vec![], 3));
        assert_eq!(offered(&mut slots, &[cpus(1), cpus(4), cpus(1)]), (vec![(0, 1)], 3));
        assert_eq!(offered(&mut slots, &[cpus(6), cpus(1)]), (vec![(1, 1)], 0));
        slots.reclaim(&mut share, 2);
        slots.give_back(share);
        slots.give_back(other);
        assert_eq!(slots.idle(), 8);
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
        assert_eq!(parts(&alone), [(1, None)]);
        assert_eq!(card(ask(&mut slots, gpu(Some(2)))), Some(0));
        slots.give_back(alone);
        assert_eq!(parts(&ask(&mut slots, gpu(Some(23))).unwrap()), [(1, Some(23 * GIB))]);
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
        assert_eq!(parts(&share), [(3, None)]);
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
        assert_eq!(two.card_memory(), [None, None]);
        let part = ask(&mut slots, gpu(Some(1))).unwrap();
        assert_eq!((visible(&part).1.as_str(), part.card_memory()), ("2", vec![Some(GIB)]));
    }

    #[test]
    fn cards_are_named_as_the_driver_names_them_and_two_may_have_one_number() {
        let instance = |name: &str| {
            let mut card = Card::new(0, Some(20 * GIB));
            card.name = name.into();
            card
        };
        let cards = vec![(instance("MIG-a"), 0), (instance("MIG-b"), 0)];
        let mut slots = Slots::new(Machine::told(4, None, cards));
        let (first, second) = (ask(&mut slots, gpu(None)).unwrap(), ask(&mut slots, gpu(None)).unwrap());
        assert_eq!([&first, &second].map(|share| share.environment()[1].1.clone()), ["MIG-a", "MIG-b"]);
        assert_eq!((first.cards(), second.positions()), (vec![0], vec![(1, true)]));
        slots.give_back(second);
        assert_eq!(ask(&mut slots, gpu(None)).unwrap().environment()[1].1, "MIG-b");
        assert_eq!(ask(&mut slots, gpu(None)), None);
    }
}
