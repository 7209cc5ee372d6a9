//! A task run once more, apart from the cache, to see whether it gives the same again; and killed on the way, to see
//! whether what it resumes to is the same.

use super::machine::Machine;
use super::predict;
use super::slots::{Share, Slots};
use super::worker::{self, Computed, Leash, Order};
use crate::cache::{Digests, Judge, Results, Store, inputs, lines};
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, TaskId};
use crate::stage::Message;
use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a rehearsal gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// Digests of the outputs, by name.
    pub outputs: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, f64>,
    /// Where it was killed: what it had last said of its progress.
    pub killed: Vec<String>,
    /// Wall time of all attempts.
    pub seconds: f64,
}

/// Runs a task in a folder of its own; `results` are those of what it needs. It is killed at each of the given parts of
/// its way (0 to 1), and each time goes on from what it has saved. `expected` are the seconds it takes, for tasks that do
/// not tell how far they are.
///
/// # Errors
/// If what it needs is not in the cache, or it fails.
pub fn rehearse(
    plan: &Plan,
    store: &Store,
    id: TaskId,
    results: &Results,
    machine: &Machine,
    kills: &[f64],
    expected: f64,
) -> Result<Rehearsal> {
    let started = Instant::now();
    let task = plan.task(id);
    let judge = Judge::new(plan, store);
    let verdict = judge.judge(task, results)?;
    let need = predict::need(plan, task, judge.known(), machine)?;
    let mut slots = Slots::new(machine.clone());
    slots.can_ever(&task.name, &need)?;
    let share = slots.offer([(id, &need)]).pop().map(|(_, share)| share);
    let place = store.workspace()?;
    let order = &Order {
        inputs: inputs(plan, store, task, &verdict.contents, results)?,
        log: place.path().join("log.txt"),
        share: share.unwrap_or(Share { threads: machine.cpus, ..Share::default() }),
        ..Order::new(plan, task, &verdict.key, &lines(task, &verdict.contents), judge.digests())
    };
    let scratch = place.path().join("scratch");
    let mut killed = vec![];
    let mut kills = kills.iter().copied().peekable();
    loop {
        let kill = kills.peek().copied();
        let (result, at) = attempt(store, order, &scratch, kill, expected);
        match result {
            Ok(computed) => return finish(&order.digests, order, computed, killed, started),
            Err(error) if error.kind() == Kind::Interrupted && at.is_some() => {
                killed.extend(at);
                kills.next();
            }
            Err(error) => return Err(error),
        }
    }
}

/// One attempt; if it was killed, where.
fn attempt(
    store: &Store,
    order: &Order,
    scratch: &std::path::Path,
    kill: Option<f64>,
    expected: f64,
) -> (Result<Computed>, Option<String>) {
    let leash = Leash::default();
    let (sender, messages) = channel();
    let started = Instant::now();
    let mut at = None;
    let result = std::thread::scope(|scope| {
        let leash = &leash;
        let task =
            scope.spawn(move || worker::compute(store, order, scratch, leash, &|_| {}, &mut |m| drop(sender.send(m))));
        loop {
            let (part, note) = match messages.recv_timeout(Duration::from_millis(5)) {
                Ok(Message::Progress { done, total, note }) if total > 0 => (done as f64 / total as f64, note),
                Ok(_) => continue,
                Err(RecvTimeoutError::Timeout) => {
                    (if expected > 0.0 { started.elapsed().as_secs_f64() / expected } else { 0.0 }, String::new())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if at.is_none() && kill.is_some_and(|kill| part >= kill) {
                at = Some(if note.is_empty() { format!("{:.0}% of its time", 100.0 * part) } else { note });
                leash.kill();
            }
        }
        task.join()
    });
    (result.unwrap_or_else(|_| Err(Error::new(Kind::Stage, "a thread of hashpipe died"))), at)
}

fn finish(
    digests: &Digests,
    order: &Order,
    computed: Computed,
    killed: Vec<String>,
    started: Instant,
) -> Result<Rehearsal> {
    let digest = |name: &String| Ok((name.clone(), digests.path(&computed.outputs.join(name))?));
    Ok(Rehearsal {
        outputs: order.outputs.iter().map(digest).collect::<Result<_>>()?,
        metrics: computed.heard.metrics.clone(),
        killed,
        seconds: started.elapsed().as_secs_f64(),
    })
}
