//! What takes the steps of a training: replicas on devices, a loss, and the exchange of gradients between them.
//!
//! *Synchronous.* A batch is cut into a share for each replica; their logits come together, the loss judges them once,
//! with its bank as if there were one replica, and each replica gets its part of the loss's gradient. As the loss is the
//! mean over the whole batch, gradients of shares are added up, with no weights. Logits and losses are the same to the
//! bit on any number of replicas of a kind; gradients of weights are sums over images that are cut at the borders of
//! shares, so they differ in their last bits. The same number of replicas gives the same bits in every run.
//!
//! *Ranks.* Each rank has its own batch and its own loss; a replica takes its ranks in turn.

use super::crew::Crew;
use super::exchange::{self, Exchange};
use super::feed::{Given, bound};
use super::loss::{Loss, Sizes, Step};
use super::net::HashModel;
use super::recipe::Recipe;
use super::replica::{Draw, Replica, Share, Verdict, judge, labels};
use super::tensor_error;
use super::tensor_file::write_numbers;
use crate::dataset::Examples;
use crate::error::{Error, Kind, Result};
use candle_core::{Device, Tensor};
use std::ops::Range;

/// Replicas with the same weights, and a loss for each rank: one if the training is synchronous.
pub(super) struct Team {
    crew: Crew,
    exchange: Box<dyn Exchange>,
    losses: Vec<Box<dyn Loss>>,
    /// Whether ranks have batches of their own.
    by_ranks: bool,
    seed: u64,
}

/// Where a training stands when it takes a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// From the training's beginning, from 0.
    pub(super) step: u64,
    /// From 1.
    pub(super) epoch: usize,
    /// What the optimiser's learning rate is multiplied by.
    pub(super) factor: f64,
}

/// A rank's part in a step.
struct Rank {
    seed: u64,
    batch: Given,
    labels: Tensor,
    loss: Box<dyn Loss>,
}

/// What a replica made of its ranks: the sum of their gradients, and each rank's loss with its value.
type Turned = (Vec<Tensor>, Vec<(Box<dyn Loss>, Tensor)>);

impl Team {
    /// A network on the first of the devices, and copies of it on the others.
    pub(super) fn new(recipe: &Recipe, sizes: Sizes, model: HashModel, devices: &[Device]) -> Result<Self> {
        let devices = &devices[..recipe.devices(devices.len())?];
        let [first, others @ ..] = devices else { return Err(Error::resources("a training needs a device")) };
        let others = others.iter().map(|device| Replica::new(recipe, copy_of(&model, recipe, device)?, device));
        let others = others.collect::<Result<Vec<_>>>()?;
        let ranks = recipe.data_parallel.builder().ranks();
        let losses = (0..ranks.unwrap_or(1)).map(|_| recipe.loss.builder().build(sizes));
        Ok(Self {
            losses: losses.collect::<Result<_>>()?,
            crew: Crew::new(Replica::new(recipe, model, first)?, others)?,
            exchange: exchange::of(devices)?,
            by_ranks: ranks.is_some(),
            seed: recipe.seed,
        })
    }

    /// The network that all replicas have.
    pub(super) fn model(&self) -> &HashModel {
        &self.crew.first().model
    }

    pub(super) fn into_model(mut self) -> HashModel {
        if self.by_ranks && self.crew.len() > 1 {
            // A bank on a device goes where its thread is. That one is gone already is no harm.
            let turns = self.losses_by_replica();
            let _ = self.crew.each(turns, |_, losses| {
                drop(losses);
                Ok(())
            });
        }
        self.crew.into_model()
    }

    /// The losses of the ranks that take turns on each replica; they are no longer here.
    fn losses_by_replica(&mut self) -> Vec<Vec<Box<dyn Loss>>> {
        let (count, replicas) = (self.losses.len(), self.crew.len());
        let mut rest = std::mem::take(&mut self.losses).into_iter();
        let has = |replica| bound(count, replica + 1, replicas) - bound(count, replica, replicas);
        (0..replicas).map(|replica| rest.by_ref().take(has(replica)).collect()).collect()
    }

    /// How many batches a step takes.
    pub(super) fn ranks(&self) -> usize {
        self.losses.len()
    }

    /// The devices that a rank's batches are cut for, by their numbers.
    pub(super) fn devices_of(&self, rank: usize) -> Range<usize> {
        let replicas = self.crew.len();
        if !self.by_ranks {
            return 0..replicas;
        }
        let has = |&replica: &usize| rank < bound(self.ranks(), replica + 1, replicas);
        let replica = (0..replicas).find(has).unwrap_or(0);
        replica..replica + 1
    }

    /// What logits are multiplied by in an epoch.
    pub(super) fn scale(&self, epoch: usize) -> f64 {
        self.losses.first().map_or(1.0, |loss| loss.scale(epoch))
    }

    /// Forward, loss, backward, update. Returns each rank's loss, a scalar that has not been read: asking for it waits for
    /// all that its device still has to do.
    pub(super) fn step(
        &mut self,
        examples: &dyn Examples,
        batches: Vec<Given>,
        now: Now,
    ) -> anyhow::Result<Vec<Tensor>> {
        let (gradients, losses) = if self.by_ranks {
            self.gradients_of_ranks(examples, batches, now)?
        } else {
            let Ok([batch]) = <[Given; 1]>::try_from(batches) else { anyhow::bail!("a step takes one batch") };
            self.gradients_of_shares(examples, batch, now)?
        };
        let sums = self.exchange.sum(&mut self.crew, gradients)?;
        self.crew.each(sums, move |replica, sum| Ok(replica.update(&sum, now.factor)?))?;
        Ok(losses)
    }

    /// Of one batch, each replica's part of the gradients of its loss.
    fn gradients_of_shares(
        &mut self,
        examples: &dyn Examples,
        Given { index, pixels }: Given,
        now: Now,
    ) -> anyhow::Result<(Vec<Vec<Tensor>>, Vec<Tensor>)> {
        let replicas = self.crew.len();
        let draw = Draw { seed: self.seed, step: now.step };
        let shares = Share::cut(pixels, index.len(), replicas)?;
        let logits = self.crew.each(shares, move |replica, share| Ok(replica.forward(share, draw)?))?;

        let device = &self.crew.first().device;
        let parts = logits.iter().flatten().map(|part| moved(&part.detach(), device));
        let whole = match &parts.collect::<candle_core::Result<Vec<_>>>()?[..] {
            [whole] => whole.clone(),
            parts => Tensor::cat(parts, 0)?,
        };
        let labels = labels(examples, &index)?;
        let Some(loss) = self.losses.first_mut() else { anyhow::bail!("a training has a loss") };
        let Verdict { loss, gradient } = judge(loss.as_mut(), &whole, &labels, &index, Step { epoch: now.epoch })?;

        // By way of the host, and whole: nothing of one device is in the hands of another's thread.
        let gradient = if replicas == 1 { gradient } else { gradient.to_device(&Device::Cpu)? };
        let part = |(number, logits): (usize, Option<Tensor>)| {
            let (from, to) = (bound(index.len(), number, replicas), bound(index.len(), number + 1, replicas));
            let gradient = if replicas == 1 { gradient.clone() } else { gradient.narrow(0, from, to - from)? };
            Ok((logits, gradient))
        };
        let parts = logits.into_iter().enumerate().map(part).collect::<candle_core::Result<Vec<_>>>()?;
        let gradients =
            self.crew.each(parts, |replica, (logits, gradient)| Ok(replica.backward(logits.as_ref(), &gradient)?))?;
        Ok((gradients, vec![loss]))
    }

    /// Of a batch for each rank, each replica's sum of its ranks' gradients, all together their mean.
    fn gradients_of_ranks(
        &mut self,
        examples: &dyn Examples,
        batches: Vec<Given>,
        now: Now,
    ) -> anyhow::Result<(Vec<Vec<Tensor>>, Vec<Tensor>)> {
        let (count, replicas) = (self.losses.len(), self.crew.len());
        if batches.len() != count {
            anyhow::bail!("{} batches for {count} ranks", batches.len());
        }
        let mut ranks = vec![];
        for (number, (loss, batch)) in std::mem::take(&mut self.losses).into_iter().zip(batches).enumerate() {
            let (seed, labels) = (seed_of(self.seed, number), labels(examples, &batch.index)?);
            ranks.push(Rank { seed, batch, labels, loss });
        }
        let mut turns: Vec<Vec<Rank>> =
            (1..replicas).rev().map(|replica| ranks.split_off(bound(count, replica, replicas))).collect();
        turns.push(ranks);
        turns.reverse();
        let turned = self.crew.each(turns, move |replica, ranks| {
            let (sum, mut judged) = take_turns(replica, ranks, count, now)?;
            if replicas > 1 {
                // Nothing of one device is in the hands of another's thread.
                judged.iter_mut().try_for_each(|(_, value)| value.to_device(&Device::Cpu).map(|host| *value = host))?;
            }
            Ok((sum, judged))
        })?;
        let (gradients, judged): (Vec<_>, Vec<_>) = turned.into_iter().unzip();
        let (losses, values): (Vec<_>, Vec<_>) = judged.into_iter().flatten().unzip();
        self.losses = losses;
        Ok((gradients, values))
    }

    /// Makes sure that all replicas have the same weights, to the bit.
    ///
    /// # Errors
    /// Weights that differ: something computes wrongly, and what was trained since the last look is worth nothing.
    pub(super) fn check_alike(&mut self) -> anyhow::Result<()> {
        if self.crew.len() == 1 {
            return Ok(());
        }
        let digests = self.crew.each(vec![(); self.crew.len()], |replica, ()| {
            let mut hasher = blake3::Hasher::new();
            for (_, var) in replica.model.parameters() {
                write_numbers(&mut hasher, var)?;
            }
            Ok(hasher.finalize())
        })?;
        let Some(other) = digests.iter().position(|digest| Some(digest) != digests.first()) else { return Ok(()) };
        Err(Error::new(Kind::Stage, "the devices of a training have come to different weights")
            .note(format!("those of device {} of {} are not those of the first", other + 1, digests.len()))
            .hint("run again: it goes on from the last epoch in which they were equal")
            .hint("if it happens again, a GPU, its memory or its driver is faulty: train on one with `gpus = 1`")
            .into())
    }

    /// What is remembered between steps beside the weights, by name: `optimizer.*`, and `loss.*`, of later ranks
    /// `rank1.loss.*` and so on.
    pub(super) fn state(&self) -> anyhow::Result<Vec<(String, Tensor)>> {
        let mut state = named("optimizer.", self.crew.first().optimizer.state());
        for (rank, loss) in self.losses.iter().enumerate() {
            state.extend(named(&loss_prefix(rank), loss.state()?));
        }
        Ok(state)
    }

    /// Takes back what `state` gave. `read` gives the tensors whose names begin so, without that beginning.
    pub(super) fn load_state(&mut self, read: impl Fn(&str) -> Result<Vec<(String, Tensor)>>) -> anyhow::Result<()> {
        for (rank, loss) in self.losses.iter_mut().enumerate() {
            loss.load_state(&read(&loss_prefix(rank))?)?;
        }
        // Each its own: an update writes to them.
        let states = (0..self.crew.len()).map(|_| read("optimizer.")).collect::<Result<Vec<_>>>()?;
        self.crew.each(states, |replica, state| {
            let on_device = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&replica.device)?));
            let state = state.into_iter().map(on_device).collect::<candle_core::Result<Vec<_>>>()?;
            Ok(replica.optimizer.load_state(&state)?)
        })?;
        Ok(())
    }
}

impl Replica {
    fn new(recipe: &Recipe, model: HashModel, device: &Device) -> Result<Self> {
        let model = model.in_precision(recipe.precision);
        let optimizer = recipe.optimizer.builder().build(model.parameters())?;
        Ok(Self { model, optimizer, device: device.clone() })
    }
}

/// A rank's seed: the reference adds the rank's number. What is drawn for its first weights is that of rank 0.
pub(super) fn seed_of(seed: u64, rank: usize) -> u64 {
    seed.wrapping_add(rank as u64)
}

/// The same network on another device.
fn copy_of(model: &HashModel, recipe: &Recipe, device: &Device) -> Result<HashModel> {
    let mut source = |name: &str, _: &[usize], _| {
        let found = model.parameters().iter().find(|(other, _)| other == name);
        let (_, var) = found.ok_or_else(|| Error::input(format!("the network has no `{name}`")))?;
        var.flatten_all().and_then(|var| var.to_vec1()).map_err(tensor_error)
    };
    HashModel::build(&recipe.backbone, recipe.bits, model.side(), device, &mut source)
}

/// A tensor on another device, by way of the host: devices do not wait for each other's work.
fn moved(tensor: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    if tensor.device().same_device(device) {
        return Ok(tensor.clone());
    }
    tensor.to_device(&Device::Cpu)?.to_device(device)
}

/// Forward, loss and backward of some of `count` ranks, one after the other.
fn take_turns(replica: &Replica, ranks: Vec<Rank>, count: usize, now: Now) -> anyhow::Result<Turned> {
    let (mut sum, mut judged): (Option<Vec<Tensor>>, _) = (None, vec![]);
    for Rank { seed, batch: Given { index, pixels }, labels, mut loss } in ranks {
        let draw = Draw { seed, step: now.step };
        let share = Share::cut(pixels, index.len(), 1)?.pop();
        let Some(logits) = share.map_or(Ok(None), |share| replica.forward(share, draw))? else {
            anyhow::bail!("a rank has an empty batch")
        };
        let verdict = judge(loss.as_mut(), &logits, &labels, &index, Step { epoch: now.epoch })?;
        let mut gradients = replica.backward(Some(&logits), &verdict.gradient)?;
        if count > 1 {
            // Into memory of its own, too: the next rank's backward pass writes to this one's.
            let part = 1.0 / count as f64;
            gradients = gradients.iter().map(|gradient| gradient * part).collect::<candle_core::Result<_>>()?;
        }
        sum = Some(match sum {
            None => gradients,
            Some(sum) => sum.iter().zip(&gradients).map(|(a, b)| a + b).collect::<candle_core::Result<_>>()?,
        });
        judged.push((loss, verdict.loss));
    }
    let Some(sum) = sum else { anyhow::bail!("a replica without a rank") };
    Ok((sum, judged))
}

fn loss_prefix(rank: usize) -> String {
    if rank == 0 { "loss.".into() } else { format!("rank{rank}.loss.") }
}

/// Tensors with their part of a checkpoint in front of their names.
pub(super) fn named(prefix: &str, tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

#[cfg(test)]
mod tests;
