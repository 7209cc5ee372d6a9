//! The third step of a turn: what running tasks say is passed on, and those that end have a result, run once more, or fail.

use super::at_work::Running;
use super::{Run, Waiting};
use crate::amounts::CardMemory;
use crate::cache::{Action, Attempt, End};
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::plan::TaskId;
use crate::schedule::gpu_fault::{Facts, explained, gpu_was_full};
use crate::schedule::need::{Gpu, Need};
use crate::schedule::slots::Share;
use crate::schedule::worker::{Ended, Note, Ran};
use crate::schedule::{State, predict};
use crate::stage::Message;
use std::sync::atomic::Ordering;

impl Run<'_> {
    pub(super) fn hear(&mut self, note: Note) {
        match note {
            Note::Began(id, pid) => {
                let timeout = self.plan.task(id).wants.timeout.map(|limit| limit.0);
                if let Some(running) = self.at_work.get_mut(id) {
                    running.began(pid, timeout, &self.options.machine);
                }
            }
            Note::Said(id, Message::Progress { done, total, note }) => {
                if let Some(running) = self.at_work.get_mut(id) {
                    running.steps();
                }
                let task = self.name(id);
                (self.show)(&Event::Progress { task, done, total, note });
            }
            Note::Said(id, Message::Warning { text }) => {
                let task = self.name(id);
                (self.show)(&Event::Warning { task, text });
            }
            Note::Said(id, Message::Threads { threads }) => {
                if let Some(running) = self.at_work.get_mut(id) {
                    running.works_with(threads, &mut self.slots);
                }
                let task = self.name(id);
                (self.show)(&Event::Threads { task, threads });
            }
            Note::Said(..) => {}
            Note::Computed(id) => {
                if let Some(running) = self.at_work.get_mut(id) {
                    let (share, peak) = (running.computed(), running.peak.load(Ordering::Relaxed));
                    self.want_what_was_measured(id, peak);
                    self.give_back(share);
                }
            }
            Note::Ended(id, ended) => self.ended(id, ended),
        }
    }

    fn give_back(&mut self, share: Option<Share>) {
        if let Some(share) = share {
            self.slots.give_back(share);
        }
    }

    fn ended(&mut self, id: TaskId, ended: Result<Ended>) {
        let Some(mut running) = self.at_work.remove(id) else { return };
        let share = running.computed();
        self.give_back(share.clone());
        match ended {
            Ok(Ended::Ran(ran)) => {
                let Ran { action, warnings, seconds, log, gpu_memory } = *ran;
                for warning in warnings {
                    self.warn(id, &warning);
                }
                let event = Event::Done {
                    task: self.name(id),
                    key: action.key.to_string(),
                    seconds,
                    metrics: action.metrics.clone(),
                };
                let attempt = Attempt { seconds, log, gpu_memory, ..self.attempt(id, &action.key, End::Done) };
                self.finish(id, State::Done, &action, attempt, &event);
            }
            Ok(Ended::Shared(action)) => {
                let event = Event::Cached { task: self.name(id), key: action.key.to_string(), seconds: action.seconds };
                let attempt = Attempt {
                    seconds: action.seconds,
                    log: action.log.clone(),
                    gpu_memory: action.gpu_memory,
                    run: action.run.clone(),
                    ..self.attempt(id, &action.key, End::Done)
                };
                self.finish(id, State::Cached, &action, attempt, &event);
            }
            Err(error) => {
                let end = match error.kind() {
                    Kind::Interrupted => End::Stopped,
                    Kind::Changed => End::Tainted,
                    _ => End::Failed,
                };
                let attempt = Attempt {
                    seconds: running.seconds(),
                    cause: error.message().to_string(),
                    log: running.log.display().to_string(),
                    ..self.attempt(id, &running.waiting.key, end)
                };
                let full = end == End::Failed && self.was_crowded_out(&running, share.as_ref(), &error);
                self.remember(id, Attempt { alone: full, ..attempt });
                if full {
                    return self.retry_alone(id, running.waiting, &error);
                }
                let error =
                    if end == End::Failed { self.explained(id, &running, share.as_ref(), error) } else { error };
                if end == End::Stopped {
                    self.stop(id);
                    let task = self.name(id);
                    (self.show)(&Event::Stopped { task });
                } else {
                    self.fail(id, error, Some(running.log));
                }
            }
        }
    }

    /// Whether a task failed because the memory of a GPU that it shared was full.
    fn was_crowded_out(&self, running: &Running, share: Option<&Share>, error: &Error) -> bool {
        let had_a_gpu = share.is_some_and(|share| !share.gpus.is_empty());
        if !had_a_gpu || running.waiting.need.alone {
            return false;
        }
        gpu_was_full(&error.render("error")) || gpu_was_full(&running.last_words())
    }

    /// The error of a failed task with what its words say of a GPU. Tasks that can use none speak of none.
    fn explained(&self, id: TaskId, running: &Running, share: Option<&Share>, error: Error) -> Error {
        let use_of_gpu = predict::use_of_gpu(self.plan.task(id));
        // A GPU that cannot be opened is explained where it is opened.
        if !use_of_gpu.is_useful() || error.kind() == Kind::Resources {
            return error;
        }
        let facts = || Facts::of(&self.options.machine, share, use_of_gpu == Gpu::Unknown);
        explained(error, &running.last_words(), facts)
    }

    /// Gives a task a GPU of its own, once.
    fn retry_alone(&mut self, id: TaskId, waiting: Waiting, error: &Error) {
        let task = self.name(id);
        (self.show)(&Event::Retry { task, because: format!("{}: alone on a GPU", error.message()) });
        self.front.set(id, State::Ready);
        let need = Need { alone: true, ..waiting.need };
        let rank = self.rank(id);
        self.ready.insert(rank, Waiting { need, attempt: waiting.attempt + 1, ..waiting });
    }

    fn finish(&mut self, id: TaskId, state: State, action: &Action, attempt: Attempt, event: &Event) {
        let (outputs, boot) = (action.outputs.clone(), action.boot.clone());
        self.remember(id, Attempt { outputs, boot, ..attempt });
        self.results.insert(id, action.made());
        self.front.has_result(id, state);
        (self.show)(event);
    }

    /// A task's GPU memory was measured: those of its stage that wait for a whole card until that is known want their part
    /// now, before its card is given to the next.
    fn want_what_was_measured(&mut self, id: TaskId, peak: u64) {
        if peak == 0 {
            return;
        }
        let stage = &self.plan.task(id).stage;
        for (rank, waiting) in &mut self.ready {
            let task = self.plan.task(rank.id);
            if task.stage == *stage
                && task.wants.gpu_memory == Some(CardMemory::Auto)
                && let Ok(need) =
                    predict::need_by(self.plan, task, self.judge.known(), &self.options.machine, Some(peak))
            {
                waiting.need = need;
            }
        }
    }
}
