//! How long a run would take on this machine: the tasks handed out as a run would, with a clock in place of processes.

use super::machine::Machine;
use super::need::Need;
use super::priority::{Rank, remaining};
use super::slots::{Share, Slots};
use crate::plan::TaskId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

/// A task that would run.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub need: Need,
    /// Seconds it is expected to take; nothing if that is not known.
    pub seconds: Option<f64>,
    pub priority: i64,
    /// Positions of the tasks it has to wait for, all before its own.
    pub needs: Vec<usize>,
}

/// What a run would take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prediction {
    /// Seconds from the first start to the last end.
    pub wall: f64,
    /// Seconds of each task times its threads, added up.
    pub cpu_seconds: f64,
    /// Seconds of each task times its GPUs, or the parts of them that it reserves, added up.
    pub gpu_seconds: f64,
    /// Tasks of which nothing is known: the other figures leave them out, and so are too small.
    pub unknown: usize,
}

/// Plays a run.
///
/// The machine is taken to be free of others, and a task to take its time whatever threads it gets. Tasks that could
/// never start are left out, with all that waits for them.
pub(super) fn simulate(tasks: &[Expected], machine: &Machine) -> Prediction {
    let mut play = Play::new(tasks, machine);
    play.start();
    while let Some(Reverse((now, id))) = play.ends.pop() {
        play.prediction.wall = now.as_secs_f64();
        play.end(now, id);
        // All that ends at the same moment ends before anything starts.
        while let Some(Reverse((_, id))) = play.ends.peek().copied().filter(|Reverse((at, _))| *at == now) {
            play.ends.pop();
            play.end(now, id);
        }
        play.start();
    }
    play.prediction
}

struct Play<'a> {
    tasks: &'a [Expected],
    machine: &'a Machine,
    slots: Slots,
    needed_by: Vec<Vec<TaskId>>,
    /// How many of its needs each task still waits for.
    missing: Vec<usize>,
    remaining: Vec<f64>,
    ready: BTreeMap<Rank, &'a Need>,
    ends: BinaryHeap<Reverse<(Duration, TaskId)>>,
    running: HashMap<TaskId, Share>,
    now: Duration,
    prediction: Prediction,
}

impl<'a> Play<'a> {
    fn new(tasks: &'a [Expected], machine: &'a Machine) -> Self {
        let mut needed_by = vec![vec![]; tasks.len()];
        for (position, task) in tasks.iter().enumerate() {
            for need in &task.needs {
                needed_by[*need].push(TaskId(position));
            }
        }
        let seconds: Vec<f64> = tasks.iter().map(|task| task.seconds.unwrap_or(0.0)).collect();
        // Asking for the cards may load the driver: only where someone wants one.
        let alone = if tasks.iter().any(|task| task.need.gpus > 0) { machine.undisturbed() } else { machine.clone() };
        let mut play = Self {
            tasks,
            machine,
            slots: Slots::new(alone),
            missing: tasks.iter().map(|task| task.needs.len()).collect(),
            remaining: remaining(|id| needed_by[id.0].iter().copied(), &seconds),
            needed_by,
            ready: BTreeMap::new(),
            ends: BinaryHeap::new(),
            running: HashMap::new(),
            now: Duration::ZERO,
            prediction: Prediction::default(),
        };
        play.prediction.unknown = tasks.iter().filter(|task| task.seconds.is_none()).count();
        (0..tasks.len())
            .filter(|id| play.missing[*id] == 0)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| play.line_up(id));
        play
    }

    fn line_up(&mut self, id: usize) {
        let task = &self.tasks[id];
        if self.slots.can_ever("", &task.need).is_ok() {
            let rank = Rank { priority: task.priority, remaining: self.remaining[id], id: TaskId(id) };
            self.ready.insert(rank, &task.need);
        }
    }

    fn start(&mut self) {
        let started = self.slots.offer(self.ready.iter().map(|(rank, need)| (rank.id, *need)));
        for (id, share) in started {
            let task = &self.tasks[id.0];
            self.ready.remove(&Rank { priority: task.priority, remaining: self.remaining[id.0], id });
            let seconds = task.seconds.unwrap_or(0.0);
            self.prediction.cpu_seconds += seconds * share.threads as f64;
            self.prediction.gpu_seconds += seconds * self.cards(&share);
            let end = self.now.saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or_default());
            self.ends.push(Reverse((end, id)));
            self.running.insert(id, share);
        }
    }

    fn end(&mut self, now: Duration, id: TaskId) {
        self.now = now;
        if let Some(share) = self.running.remove(&id) {
            self.slots.give_back(share);
        }
        for next in std::mem::take(&mut self.needed_by[id.0]) {
            self.missing[next.0] -= 1;
            if self.missing[next.0] == 0 {
                self.line_up(next.0);
            }
        }
    }

    /// How many cards a share is, parts counted as such.
    fn cards(&self, share: &Share) -> f64 {
        let part = |part: &super::slots::Part| match part.memory {
            Some(bytes) => {
                let card = self.machine.cards().get(part.position);
                card.and_then(|card| card.memory).map_or(1.0, |memory| bytes as f64 / memory as f64)
            }
            None => 1.0,
        };
        share.gpus.iter().map(part).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::machine::Card;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn machine(cpus: usize, cards: usize) -> Machine {
        Machine::told(
            cpus,
            Some(8 * GIB),
            (0..cards).map(|number| (Card::new(number, Some(24 * GIB)), 20 * GIB)).collect(),
        )
    }

    fn task(seconds: f64, need: Need, needs: &[usize]) -> Expected {
        Expected { need, seconds: Some(seconds), priority: 0, needs: needs.to_vec() }
    }

    fn one_thread() -> Need {
        Need { cpus: Some(1), ..Need::default() }
    }

    #[test]
    fn the_longest_path_starts_first() {
        // Two threads: a chain of 10 + 10, and three tasks of 5 beside it. Any other order takes 25.
        let tasks = [
            task(5.0, one_thread(), &[]),
            task(5.0, one_thread(), &[]),
            task(5.0, one_thread(), &[]),
            task(10.0, one_thread(), &[]),
            task(10.0, one_thread(), &[3]),
        ];
        let prediction = simulate(&tasks, &machine(2, 0));
        assert_eq!((prediction.wall, prediction.cpu_seconds), (20.0, 35.0));
    }

    #[test]
    fn gpus_are_counted_by_the_part_that_is_reserved() {
        let part = Need { gpus: 1, gpu_memory: Some(6 * GIB), ..one_thread() };
        let whole = Need { gpus: 1, ..one_thread() };
        let tasks = [task(8.0, part, &[]), task(8.0, part, &[]), task(8.0, whole, &[])];
        let prediction = simulate(&tasks, &machine(4, 1));
        assert_eq!((prediction.wall, prediction.gpu_seconds), (16.0, 12.0));
    }

    #[test]
    fn what_is_not_known_or_can_never_run_is_left_out() {
        let huge = Need { memory: 9 * GIB, ..one_thread() };
        let unknown = Expected { seconds: None, ..task(0.0, one_thread(), &[]) };
        let tasks = [task(3.0, one_thread(), &[]), task(50.0, huge, &[]), task(60.0, one_thread(), &[1]), unknown];
        let prediction = simulate(&tasks, &machine(1, 0));
        assert_eq!(prediction, Prediction { wall: 3.0, cpu_seconds: 3.0, gpu_seconds: 0.0, unknown: 1 });
    }

    proptest! {
        #[test]
        fn a_run_takes_no_less_than_its_longest_path_and_no_more_than_all_in_turn(
            seconds in prop::collection::vec(1u32..20, 1..25),
            edges in prop::collection::vec((0usize..25, 0usize..25), 0..40),
            cpus in 1usize..5
        ) {
            let needs = |to: usize| -> Vec<usize> {
                let mut needs: Vec<usize> = edges.iter().filter(|e| e.1 == to && e.0 < to).map(|e| e.0).collect();
                needs.sort_unstable();
                needs.dedup();
                needs
            };
            let tasks: Vec<Expected> =
                seconds.iter().enumerate().map(|(i, s)| task(f64::from(*s), one_thread(), &needs(i))).collect();
            let total: f64 = seconds.iter().map(|s| f64::from(*s)).sum();
            let next = |id: TaskId| (0..tasks.len()).filter(|i| tasks[*i].needs.contains(&id.0)).map(TaskId).collect::<Vec<_>>();
            let lengths: Vec<f64> = seconds.iter().map(|s| f64::from(*s)).collect();
            let longest = remaining(next, &lengths).into_iter().fold(0.0, f64::max);
            let prediction = simulate(&tasks, &machine(cpus, 0));
            prop_assert_eq!(prediction.cpu_seconds, total);
            prop_assert!(prediction.wall >= longest.max(total / cpus as f64));
            // Graham: a list schedule is never worse than this.
            prop_assert!(prediction.wall <= total / cpus as f64 + longest);
        }
    }
}
