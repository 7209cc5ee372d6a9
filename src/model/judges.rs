//! Who judges the logits of a step: one loss, a part of one loss on each device, or a loss for each rank.

use super::checkpoint::named;
use super::crew::Crew;
use super::feed::bound;
use super::loss::part::{Bank, Batch, Division, Judged, Part};
use super::loss::{Loss, Sizes, Step};
use super::recipe::Recipe;
use super::replica::{Verdict, judge};
use super::step_on;
use crate::error::Result;
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// The losses of a training.
pub(super) enum Judges {
    /// One loss, where the first device is.
    One(Box<dyn Loss>),
    /// One loss in parts, one for each device.
    Parts(Vec<Box<dyn Part>>, Bank),
    /// A loss for each rank.
    Ranks(Vec<Box<dyn Loss>>),
}

/// Logits that the replicas made of their shares of a batch, none of an empty share, and what they are of.
pub(super) struct Made {
    pub(super) logits: Vec<Option<Tensor>>,
    /// `[n, classes]`, on the CPU.
    pub(super) labels: Tensor,
    pub(super) index: Vec<u32>,
    pub(super) step: Step,
}

/// What was said of a batch.
pub(super) struct Said {
    /// A scalar, where it was computed.
    pub(super) loss: Tensor,
    /// The logits of each replica, and the loss's gradient by them.
    pub(super) by_replica: Vec<(Option<Tensor>, Tensor)>,
}

impl Judges {
    /// Of a training on so many devices.
    pub(super) fn new(recipe: &Recipe, sizes: Sizes, devices: usize) -> Result<Self> {
        let (loss, division) = (recipe.loss.builder(), recipe.data_parallel.builder());
        let bank = division.bank();
        if let Some(ranks) = division.ranks() {
            return Ok(Self::Ranks((0..ranks).map(|_| loss.build(sizes)).collect::<Result<_>>()?));
        }
        if bank.is_first() || devices < 2 {
            return Ok(Self::One(loss.build(sizes)?));
        }
        let part = |number| loss.part(sizes, Division { bank, number, of: devices });
        Ok(Self::Parts((0..devices).map(part).collect::<Result<_>>()?, bank))
    }

    /// How many batches a step takes, each with a loss of its own.
    pub(super) fn batches(&self) -> usize {
        if let Self::Ranks(losses) = self { losses.len() } else { 1 }
    }

    /// What logits are multiplied by in an epoch.
    pub(super) fn scale(&self, epoch: usize) -> f64 {
        match self {
            Self::One(loss) => loss.scale(epoch),
            Self::Ranks(losses) => losses.first().map_or(1.0, |loss| loss.scale(epoch)),
            Self::Parts(parts, _) => parts.first().map_or(1.0, |part| part.scale(epoch)),
        }
    }

    /// Judges one batch, whose logits several replicas may have made.
    pub(super) fn judge(&mut self, crew: &mut Crew, made: Made) -> anyhow::Result<Said> {
        match self {
            Self::One(loss) => by_one(loss.as_mut(), &crew.first().device, made),
            Self::Parts(parts, _) => by_parts(parts, crew, made),
            Self::Ranks(_) => anyhow::bail!("a rank judges its own batch"),
        }
    }

    /// Drops what lies on devices, on the threads that they belong to.
    pub(super) fn release(self, crew: &mut Crew) {
        // That a thread is gone already is no harm.
        let _ = match self {
            Self::One(_) => Ok(vec![]),
            Self::Parts(parts, _) => crew.each(parts, |_, part| {
                drop(part);
                Ok(())
            }),
            Self::Ranks(losses) => crew.each(by_replica(losses, crew.len()), |_, losses| {
                drop(losses);
                Ok(())
            }),
        };
    }

    /// What is remembered between steps, by name: `loss.*`, of later ranks `rank1.loss.*` and so on. It does not tell how
    /// many devices there are.
    pub(super) fn state(&mut self, crew: &mut Crew) -> anyhow::Result<Vec<(String, Tensor)>> {
        match self {
            Self::One(loss) => Ok(named(&prefix(0), loss.state()?)),
            Self::Ranks(losses) => {
                let mut state = vec![];
                for (rank, loss) in losses.iter().enumerate() {
                    state.extend(named(&prefix(rank), loss.state()?));
                }
                Ok(state)
            }
            Self::Parts(parts, bank) => {
                let own = std::mem::take(parts);
                let told = crew.each(own, |_, part| Ok((part.state()?, part)))?;
                let (mut states, own): (Vec<_>, Vec<_>) = told.into_iter().unzip();
                *parts = own;
                if *bank == Bank::Replicated {
                    states.truncate(1);
                }
                Ok(named(&prefix(0), joined(&states)?))
            }
        }
    }

    /// Takes back what `state` gave. `read` gives the tensors whose names begin so, without that beginning.
    pub(super) fn load_state(&mut self, read: impl Fn(&str) -> Result<Vec<(String, Tensor)>>) -> anyhow::Result<()> {
        match self {
            Self::One(loss) => loss.load_state(&read(&prefix(0))?)?,
            Self::Ranks(losses) => {
                for (rank, loss) in losses.iter_mut().enumerate() {
                    loss.load_state(&read(&prefix(rank))?)?;
                }
            }
            Self::Parts(parts, _) => {
                let state = read(&prefix(0))?;
                parts.iter_mut().try_for_each(|part| part.load_state(&state))?;
            }
        }
        Ok(())
    }
}

/// Losses in the order of their ranks, by the replicas that the ranks take turns on.
pub(super) fn by_replica(losses: Vec<Box<dyn Loss>>, replicas: usize) -> Vec<Vec<Box<dyn Loss>>> {
    let count = losses.len();
    let mut rest = losses.into_iter();
    let has = |replica| bound(count, replica + 1, replicas) - bound(count, replica, replicas);
    (0..replicas).map(|replica| rest.by_ref().take(has(replica)).collect()).collect()
}

fn prefix(rank: usize) -> String {
    if rank == 0 { "loss.".into() } else { format!("rank{rank}.loss.") }
}

/// All logits come to the first device, and each replica gets its part of the gradient.
fn by_one(loss: &mut dyn Loss, device: &Device, made: Made) -> anyhow::Result<Said> {
    let Made { logits, labels, index, step } = made;
    let replicas = logits.len();
    let parts = logits.iter().flatten().map(|part| moved(&part.detach(), device));
    let whole = match &parts.collect::<candle_core::Result<Vec<_>>>()?[..] {
        [whole] => whole.clone(),
        parts => Tensor::cat(parts, 0)?,
    };
    let judged = step_on(device, || judge(loss, &whole, &labels, &index, step));
    let Verdict { loss, gradient } = judged?;
    // By way of the host, and whole: nothing of one device is in the hands of another's thread.
    let gradient = if replicas == 1 { gradient } else { gradient.to_device(&Device::Cpu)? };
    Ok(Said { loss, by_replica: cut(logits, &gradient, index.len())? })
}

/// All logits come to all devices by way of the host, and the parts of loss and gradient are added up there, in the order
/// of the devices.
fn by_parts(parts: &mut Vec<Box<dyn Part>>, crew: &mut Crew, made: Made) -> anyhow::Result<Said> {
    let Made { logits, labels, index, step } = made;
    let count = index.len();
    let mut whole = vec![];
    for part in logits.iter().flatten() {
        whole.extend(part.detach().to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let bits = whole.len() / count.max(1);
    let batch = Arc::new(Batch { logits: whole, labels, index, epoch: step.epoch });
    let arguments = std::mem::take(parts).into_iter().map(|part| (part, Arc::clone(&batch))).collect();
    let begun = crew.each(arguments, |replica, (mut part, batch)| Ok((part.begin(&batch, &replica.device)?, part)))?;

    let mut totals: Vec<u64> = vec![];
    for (counts, _) in &begun {
        totals.resize(counts.len(), 0);
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    let arguments = begun.into_iter().map(|(_, part)| (part, totals.clone())).collect();
    let judged = crew.each(arguments, |_, (mut part, totals)| Ok((part.judge(&totals)?, part)))?;

    let (mut loss, mut gradient) = (0.0, vec![0f32; count * bits]);
    for (Judged { loss: share, rows, gradient: own }, part) in judged {
        loss += share;
        let Some(slot) = gradient.get_mut(rows.start * bits..rows.end * bits).filter(|slot| slot.len() == own.len())
        else {
            anyhow::bail!("a gradient of {} numbers for the images {rows:?} of {count}", own.len())
        };
        slot.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        parts.push(part);
    }
    let gradient = Tensor::from_vec(gradient, (count, bits), &Device::Cpu)?;
    let loss = Tensor::new(loss as f32, &Device::Cpu)?;
    Ok(Said { loss, by_replica: cut(logits, &gradient, count)? })
}

/// Each replica's logits with their part of the gradient by those of all `count` images.
fn cut(
    logits: Vec<Option<Tensor>>,
    gradient: &Tensor,
    count: usize,
) -> candle_core::Result<Vec<(Option<Tensor>, Tensor)>> {
    let replicas = logits.len();
    let part = |(number, logits): (usize, Option<Tensor>)| {
        let (from, to) = (bound(count, number, replicas), bound(count, number + 1, replicas));
        let gradient = if replicas == 1 { gradient.clone() } else { gradient.narrow(0, from, to - from)? };
        Ok((logits, gradient))
    };
    logits.into_iter().enumerate().map(part).collect()
}

/// A tensor on another device, by way of the host: devices do not wait for each other's work.
fn moved(tensor: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    if tensor.device().same_device(device) {
        return Ok(tensor.clone());
    }
    tensor.to_device(&Device::Cpu)?.to_device(device)
}

/// Tensors of the same names, one below the other.
fn joined(states: &[Vec<(String, Tensor)>]) -> anyhow::Result<Vec<(String, Tensor)>> {
    let Some(first) = states.first() else { return Ok(vec![]) };
    let of = |(place, (name, _)): (usize, &(String, Tensor))| {
        let rows: Vec<&Tensor> = states.iter().filter_map(|state| Some(&state.get(place)?.1)).collect();
        Ok((name.clone(), Tensor::cat(&rows, 0)?))
    };
    first.iter().enumerate().map(of).collect()
}
