//! The second step of a turn: ready tasks that get what they need of the machine are started.

use super::at_work::Running;
use super::{Run, Waiting};
use crate::cache::{Member, Object, Reason, Start, Store, inputs};
use crate::error::Error;
use crate::event::Event;
use crate::plan::{Target, TaskId};
use crate::schedule::guard::Guard;
use crate::schedule::priority::Rank;
use crate::schedule::slots::Share;
use crate::schedule::worker::{self, Order};
use crate::schedule::{State, predict};
use crate::stage::Input;
use std::collections::BTreeMap;

impl Run<'_> {
    /// Starts ready tasks, those with the longest work behind them first.
    pub(super) fn start_ready(&mut self) {
        self.missing = 0;
        if self.is_stopping() {
            return std::mem::take(&mut self.ready).into_keys().for_each(|rank| self.stop(rank.id));
        }
        if !self.started && !self.ready.is_empty() && !self.all_can_run() {
            return;
        }
        let first = self.ready.keys().next().map(|rank| rank.id);
        let ready = self.ready.iter().map(|(rank, waiting)| (rank.id, &waiting.need));
        let (shares, missing) = self.slots.offer_beside(self.at_work.lent(), ready);
        self.missing = missing;
        for (id, share) in shares {
            let rank = self.rank(id);
            if let Some(waiting) = self.ready.remove(&rank) {
                self.start(id, waiting, share);
            }
        }
        if let Some(first) = first.filter(|_| self.lost.len() < self.slots.lost().len()) {
            self.part_with_lost_cards(first);
        }
    }

    /// Tells which GPUs do not answer any more, and gives up the tasks that cannot run without them: they would wait for
    /// ever. `first` is the task that is first in the line.
    fn part_with_lost_cards(&mut self, first: TaskId) {
        let lost: Vec<usize> = self.slots.lost().difference(&self.lost).copied().collect();
        for position in lost {
            self.lost.insert(position);
            let Some(card) = self.options.machine.cards().get(position) else { continue };
            let warning = Error::resources(format!("{card} does not answer any more"))
                .note("no task of this run gets it again")
                .hint("`nvidia-smi` and `dmesg` (Xid) tell what became of it");
            self.warn(first, &warning);
        }
        let hopeless = |(rank, waiting): (&Rank, &Waiting)| {
            let error = self.slots.can_ever(&self.plan.task(rank.id).name, &waiting.need).err()?;
            Some((*rank, error))
        };
        let hopeless: Vec<(Rank, Error)> = self.ready.iter().filter_map(hopeless).collect();
        for (rank, error) in hopeless {
            self.ready.remove(&rank);
            self.fail(rank.id, error, None);
        }
    }

    /// Says once which tasks wait for what others use of the GPUs.
    pub(super) fn tell_of_others(&mut self) {
        for (rank, waiting) in &self.ready {
            if self.slots.waits_for_others(&waiting.need) && self.told.insert(rank.id) {
                let task = self.plan.task(rank.id).name.clone();
                let note = "waits for GPU memory that others use".to_string();
                (self.show)(&Event::Progress { task, done: 0, total: 0, note });
            }
        }
    }

    /// Before the first task starts: whether this machine can run all that may have to run. Hours of work must not be
    /// spent on what then cannot go on.
    fn all_can_run(&mut self) -> bool {
        self.started = true;
        let undecided = [State::Wanted, State::Ready].into_iter().flat_map(|state| self.front.states().all(state));
        let fault = |id: TaskId| {
            let task = self.plan.task(id);
            let need = predict::need(self.plan, task, self.judge.known(), &self.options.machine);
            Some((id, need.and_then(|need| self.slots.can_ever(&task.name, &need)).err()?))
        };
        let faults: Vec<(TaskId, Error)> = undecided.filter_map(fault).collect();
        let all = faults.is_empty();
        for (id, error) in faults {
            if !self.front.states().get(id).is_final() {
                self.ready.retain(|rank, _| rank.id != id);
                self.fail(id, error, None);
            }
        }
        all
    }

    fn start(&mut self, id: TaskId, waiting: Waiting, share: Share) {
        let task = self.plan.task(id);
        let sources = self.judge.sources(task, &waiting.contents);
        let mut guards: Vec<Guard> = sources.iter().map(|(path, digest)| Guard::new(path.clone(), digest)).collect();
        // Files may have changed since the task was judged: from here on they are watched.
        if !self.judge.still(&sources) {
            self.judge.forget_programs();
            self.slots.give_back(share);
            return self.front.reopen(id);
        }
        let inputs = match inputs(self.plan, self.store, task, &waiting.contents, &self.results) {
            Ok(inputs) => inputs,
            Err(error) => {
                self.slots.give_back(share);
                return self.fail(id, error, None);
            }
        };
        let made = inputs.iter().filter(|(text, _)| matches!(task.inputs.get(*text), Some(Target::Output { .. })));
        guards.extend(made.map(|(_, input)| Guard::cached(input.path.clone(), &input.digest)));
        self.front.set(id, State::Running);
        (self.show)(&Event::Start {
            task: task.name.clone(),
            key: waiting.key.to_string(),
            reason: format!("{}{}", waiting.reason, waiting.start),
            threads: share.threads,
            gpu: share.cards().first().copied(),
            gpus: Some(share.cards()).filter(|cards| cards.len() > 1).unwrap_or_default(),
            waited: waiting.since.elapsed().as_secs_f64(),
            expected: self.forecast.expected(id),
        });
        let (log, order) = (self.log(id, waiting.attempt), self.order(id, &waiting, share.clone()));
        let elastic = waiting.need.cpus.is_none() && task.step.follows_threads();
        let running = Running::new(waiting, share, elastic, log.clone());
        let (leash, peak) = (running.leash.clone(), running.peak.clone());
        self.at_work.add(id, running);
        let order = Order { inputs, guards, log, peak, ..order };
        let (store, notes) = (self.store.clone(), self.sender.clone());
        self.watchers.start(move || worker::work(&store, &order, &leash, &notes));
    }

    /// What a task's process is told, but for what was looked up when it starts.
    fn order(&self, id: TaskId, waiting: &Waiting, share: Share) -> Order {
        let task = self.plan.task(id);
        Order {
            run: self.options.run.clone(),
            share,
            extends_from: extends_from(self.store, &waiting.start),
            member: task.step.extends().and_then(|extends| Member::of(&waiting.lines, extends)),
            files: waiting.contents.files.clone(),
            again: matches!(waiting.reason, Reason::Forced | Reason::Always),
            wait: !self.options.no_wait,
            ..Order::new(self.plan, task, &waiting.key, &waiting.lines, self.judge.digests())
        }
    }
}

/// The outputs of a smaller result to go on from, as the task's process takes them.
fn extends_from(store: &Store, start: &Start) -> BTreeMap<String, Input> {
    let Start::Extend(extension) = start else { return BTreeMap::new() };
    let input = |object: &Object| Input {
        path: std::path::absolute(store.object_path(object)).unwrap_or_else(|_| store.object_path(object)),
        digest: object.digest.clone(),
        images: None,
        known_as: String::new(),
    };
    extension.outputs.iter().map(|(name, object)| (name.clone(), input(object))).collect()
}
