//! The first step of a turn: each task whose needs have results is judged, and then has its result or has to run.

use super::{Run, Waiting};
use crate::cache::{Attempt, End, Found, Made, Reason, Start, Verdict, lines};
use crate::error::{Kind, Result};
use crate::event::Event;
use crate::plan::TaskId;
use crate::schedule::{State, predict};
use rayon::prelude::*;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

impl Run<'_> {
    /// Judges every task that can be, those of one depth side by side; a hit frees those after it at once.
    pub(super) fn judge_open(&mut self) {
        while self.front.has_open() {
            let open = self.front.take_open();
            if self.is_stopping() {
                open.into_iter().for_each(|id| self.stop(id));
                continue;
            }
            let verdicts = self.judge_all(&open);
            for (id, verdict) in open.into_iter().zip(verdicts) {
                if self.front.can_be_judged(id) {
                    self.act_on(id, verdict);
                }
            }
        }
    }

    /// Judges tasks side by side, and tells how far that is when it takes long: files may have to be read.
    fn judge_all(&mut self, open: &[TaskId]) -> Vec<Result<Verdict>> {
        const LOOK: Duration = Duration::from_secs(1);
        let (judge, plan, results, watch) = (&self.judge, self.plan, &self.results, &self.options.watch);
        // Every result that is found is claimed; with this, all of them together.
        let _hold = self.store.hold().ok();
        let (sender, verdicts) = channel();
        let mut told = false;
        rayon::in_place_scope(|scope| {
            scope.spawn(move |_| {
                let verdicts: Vec<_> = open.par_iter().map(|id| judge.judge(plan.task(*id), results)).collect();
                // The receiver waits for it.
                let _ = sender.send(verdicts);
            });
            loop {
                match verdicts.recv_timeout(LOOK) {
                    Ok(verdicts) => break verdicts,
                    // It panicked: the scope passes that on.
                    Err(RecvTimeoutError::Disconnected) => break vec![],
                    Err(RecvTimeoutError::Timeout) => {
                        let (read, total) = watch.progress();
                        if told || read < total {
                            told = read < total;
                            (self.show)(&Event::Reading { read, total });
                        }
                    }
                }
            }
        })
    }

    fn act_on(&mut self, id: TaskId, verdict: Result<Verdict>) {
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) if error.kind() == Kind::Interrupted => return self.stop(id),
            Err(error) => return self.fail(id, error, None),
        };
        self.keys.insert(id, verdict.key.clone());
        let forced = self.forced.contains(&id);
        let reason = match verdict.state {
            Found::Hit(made) if !forced => {
                self.contents.insert(id, verdict.contents);
                return self.reuse(id, made, State::Cached);
            }
            Found::Hit(_) => Reason::Forced,
            Found::Evicted(made, reason @ Reason::Gone { .. }) if !forced && !self.is_needed(id, &made) => {
                drop(reason);
                return self.reuse(id, made, State::Evicted);
            }
            Found::Evicted(made, reason) => {
                if let Err(error) = self.quarantine(id, &made) {
                    return self.fail(id, error, None);
                }
                reason
            }
            Found::Run(_) if forced => Reason::Forced,
            Found::Run(reason) => reason,
        };
        if self.front.demand_needs(id) {
            return;
        }
        self.front.set(id, State::Ready);
        let start = if reason == Reason::Forced { Start::Beginning } else { verdict.start };
        let task = self.plan.task(id);
        let need = match predict::need(self.plan, task, self.judge.known(), &self.options.machine) {
            Ok(need) => need,
            Err(error) => return self.fail(id, error, None),
        };
        // Before the first start, all are asked.
        if !self.lost.is_empty()
            && let Err(error) = self.slots.can_ever(&task.name, &need)
        {
            return self.fail(id, error, None);
        }
        let waiting = Waiting {
            key: verdict.key,
            lines: lines(task, &verdict.contents),
            contents: verdict.contents,
            reason,
            start,
            need,
            attempt: 1,
            since: Instant::now(),
        };
        let rank = self.rank(id);
        self.ready.insert(rank, waiting);
    }

    /// Takes a result that is known.
    fn reuse(&mut self, id: TaskId, made: Made, state: State) {
        let (key, took) = (made.key.clone(), made.seconds);
        let known = self.judge.known().last(&self.plan.task(id).name);
        if known.is_none_or(|last| last.end != End::Done || last.key != key) {
            let boot = self.store.action(&key).and_then(|action| action.boot);
            let (run, log) = self.store.action(&key).map_or_else(Default::default, |a| (a.run, a.log));
            let (seconds, outputs) = (made.seconds, made.outputs.clone());
            self.remember(id, Attempt { seconds, outputs, run, log, boot, ..self.attempt(id, &key, End::Done) });
        }
        self.results.insert(id, made);
        self.front.has_result(id, state);
        let task = self.name(id);
        (self.show)(&Event::Cached { task, key: key.to_string(), seconds: took });
    }

    /// Whether somebody needs the bytes of a result that are gone: a task that has to run, or the user.
    fn is_needed(&self, id: TaskId, made: &Made) -> bool {
        self.front.is_asked_for(id) || !self.judge.is_put(self.plan.task(id), made)
    }

    fn quarantine(&mut self, id: TaskId, made: &Made) -> Result<()> {
        for warning in self.judge.quarantine(made)? {
            self.warn(id, &warning);
        }
        Ok(())
    }
}
