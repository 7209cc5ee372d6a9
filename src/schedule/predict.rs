//! What tasks want of the machine, and how long they will take by what is known of earlier runs.

use super::machine::Machine;
use super::need::{Gpu, Need};
use super::simulate::{Expected, Prediction, simulate};
use super::slots::Slots;
use crate::amounts::CardMemory;
use crate::cache::{Attempt, End, Known, Store};
use crate::error::{Error, Result};
use crate::plan::{Plan, Target, Task, TaskId};
use crate::stage::{Network, Ref, images_in};
use std::collections::{BTreeMap, HashMap};

/// What a task's stage can do with a GPU.
pub fn use_of_gpu(task: &Task) -> Gpu {
    if task.step.runs_a_program() {
        return Gpu::Unknown;
    }
    let is_asked = task.wants.gpus.is_some_and(|gpus| gpus > 0) || task.wants.gpu_memory.is_some();
    Gpu::of_builtin(task.step.resources().gpu || task.step.can_use_a_gpu() && is_asked)
}

/// What a task wants, by what is written about it and what was seen of it; or else of others of its stage, which differ in
/// what a sweep changes.
///
/// # Errors
/// If GPUs are demanded for a stage that cannot use them, or not so many.
pub fn need(plan: &Plan, task: &Task, known: &Known, machine: &Machine) -> Result<Need> {
    need_by(plan, task, known, machine, None)
}

/// The same; `just_seen` is the GPU memory that one of its stage used that is not written down yet.
pub(super) fn need_by(
    plan: &Plan,
    task: &Task,
    known: &Known,
    machine: &Machine,
    just_seen: Option<u64>,
) -> Result<Need> {
    let attempts = known.attempts(&task.name);
    let seen = match task.wants.gpu_memory {
        Some(CardMemory::Auto) => measured(attempts).or_else(|| {
            let others = plan.tasks.iter().filter(|other| other.stage == task.stage);
            others.filter_map(|other| measured(known.attempts(&other.name))).chain(just_seen).max()
        }),
        _ => None,
    };
    let mut need = Need::of(&task.name, &task.wants, use_of_gpu(task), seen, machine)?;
    need.check_gpus(&task.name, task.step.most_gpus())?;
    if !task.step.is_parallel() {
        need.cpus = need.cpus.or(Some(1));
    }
    need.alone = attempts.iter().any(|attempt| attempt.alone);
    Ok(need)
}

/// Bytes of GPU memory that the last attempt used of which that was measured.
fn measured(attempts: &[Attempt]) -> Option<u64> {
    attempts.iter().rev().find_map(|attempt| attempt.gpu_memory)
}

/// Seconds each task took when it last ended well; where it never did, what others of its stage took; else what its
/// work takes at the speed that was measured of this machine; else what others of its kind took.
pub(super) fn seconds(plan: &Plan, known: &Known, store: &Store, machine: &Machine) -> Vec<Option<f64>> {
    let own: Vec<Option<f64>> = plan.tasks.iter().map(|task| last(known.attempts(&task.name))).collect();
    let speeds = if own.contains(&None) { store.speeds() } else { BTreeMap::new() };
    let mut groups: HashMap<&str, (f64, u32)> = HashMap::new();
    for (task, seconds) in plan.tasks.iter().zip(&own) {
        let Some(seconds) = seconds else { continue };
        for group in [task.stage.as_str(), task.kind.name] {
            let (sum, count) = groups.entry(group).or_default();
            *sum += seconds;
            *count += 1;
        }
    }
    let mean = |group: &str| groups.get(group).map(|(sum, count)| sum / f64::from(*count));
    let on_a_gpu = |task: &Task| need(plan, task, known, machine).is_ok_and(|need| need.gpus > 0);
    let by_speed = |task: &Task| by_speed(plan, known, store, &speeds, task, on_a_gpu(task));
    let guess = |task: &Task| mean(&task.stage).or_else(|| by_speed(task)).or_else(|| mean(task.kind.name));
    plan.tasks.iter().zip(own).map(|(task, own)| own.or_else(|| guess(task))).collect()
}

/// What a task's work takes at the speed that was measured, if its list is there.
fn by_speed(
    plan: &Plan,
    known: &Known,
    store: &Store,
    speeds: &BTreeMap<String, f64>,
    task: &Task,
    on_a_gpu: bool,
) -> Option<f64> {
    if speeds.is_empty() {
        return None;
    }
    let work = task.step.work()?;
    let maker = |input: &Ref| match task.inputs.get(&input.0)? {
        Target::Output { task, port } => Some((plan.task(*task), port)),
        Target::Path { .. } => None,
    };
    let network = match work.network {
        Network::Known(network) => network,
        Network::Of(model) => match maker(&model)?.0.step.work()?.network {
            Network::Known(network) => network,
            Network::Of(_) => return None,
        },
    };
    let speed = speeds.get(&work.pass.speed_of(&network, work.precision, on_a_gpu))?;
    let (lister, port) = maker(&work.list)?;
    let list = known.attempts(&lister.name).iter().rev().find(|attempt| attempt.end == End::Done)?.outputs.get(port)?;
    let images = images_in(&store.object_path(list)).ok()?;
    Some(images as f64 * work.rounds / speed)
}

fn last(attempts: &[Attempt]) -> Option<f64> {
    attempts.iter().rev().find(|attempt| attempt.end == End::Done).map(|attempt| attempt.seconds)
}

/// Why this machine can never run some tasks, for those of which that is so.
pub fn impossible(plan: &Plan, known: &Known, machine: &Machine, tasks: &[TaskId]) -> Vec<Error> {
    let slots = Slots::new(machine.clone());
    let fault = |id: &TaskId| {
        let task = plan.task(*id);
        need(plan, task, known, machine).and_then(|need| slots.can_ever(&task.name, &need)).err()
    };
    tasks.iter().filter_map(fault).collect()
}

/// What running these tasks would take; a task's `part` is what is left of it to do, from 0 to 1.
///
/// Tasks that this machine can never run are left out; the run tells of them.
pub fn predict(plan: &Plan, known: &Known, store: &Store, machine: &Machine, tasks: &[(TaskId, f64)]) -> Prediction {
    let seconds = seconds(plan, known, store, machine);
    let positions: HashMap<TaskId, usize> = tasks.iter().enumerate().map(|(i, (id, _))| (*id, i)).collect();
    let expected = |(id, part): &(TaskId, f64)| {
        let task = plan.task(*id);
        Expected {
            need: need(plan, task, known, machine).unwrap_or_default(),
            seconds: seconds[id.0].map(|seconds| seconds * part),
            priority: task.wants.priority.unwrap_or(0),
            needs: plan.graph.needs(*id).iter().filter_map(|need| positions.get(need).copied()).collect(),
        }
    };
    simulate(&tasks.iter().map(expected).collect::<Vec<_>>(), machine)
}
