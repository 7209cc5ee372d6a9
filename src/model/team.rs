//! What takes the steps of a training: replicas on devices, a loss, and the exchange of gradients between them.
//!
//! *Synchronous.* A batch is cut into a share for each replica; their logits come together, the loss judges them as if
//! there were one replica, and each replica gets its part of the loss's gradient. As the loss is the mean over the whole
//! batch, gradients of shares are added up, with no weights. Logits and, where the bank is on one device, losses are the
//! same to the bit on any number of replicas of a kind; gradients of weights are sums over images that are cut at the
//! borders of shares, so they differ in their last bits. The same number of replicas gives the same bits in every run.
//!
//! *Ranks.* Each rank has its own batch and its own loss; a replica takes its ranks in turn.

use super::checkpoint::named;
use super::crew::Crew;
use super::exchange::{self, Exchange};
use super::feed::{Given, bound};
use super::judges::{Judges, Made, Said};
use super::loss::{Loss, Sizes, Step};
use super::net::HashModel;
use super::recipe::Recipe;
use super::replica::{Draw, Replica, Share, judge, labels};
use super::tensor_error;
use super::tensor_file::write_numbers;
use crate::dataset::Examples;
use crate::error::{Error, Kind, Result};
use candle_core::{Device, Tensor};
use std::ops::Range;

/// Replicas with the same weights, and who judges what they make.
pub(super) struct Team {
    crew: Crew,
    exchange: Box<dyn Exchange>,
    judges: Judges,
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
        Ok(Self {
            judges: Judges::new(recipe, sizes, devices.len())?,
            crew: Crew::new(Replica::new(recipe, model, first)?, others)?,
            exchange: exchange::of(devices)?,
            seed: recipe.seed,
        })
    }

    /// The network that all replicas have.
    pub(super) fn model(&self) -> &HashModel {
        &self.crew.first().model
    }

    pub(super) fn into_model(self) -> HashModel {
        let Self { mut crew, judges, .. } = self;
        judges.release(&mut crew);
        crew.into_model()
    }

    /// How many batches a step takes.
    pub(super) fn ranks(&self) -> usize {
        self.judges.batches()
    }

    /// The devices that a rank's batches are cut for, by their numbers.
    pub(super) fn devices_of(&self, rank: usize) -> Range<usize> {
        let replicas = self.crew.len();
        if !matches!(self.judges, Judges::Ranks(_)) {
            return 0..replicas;
        }
        let has = |&replica: &usize| rank < bound(self.ranks(), replica + 1, replicas);
        let replica = (0..replicas).find(has).unwrap_or(0);
        replica..replica + 1
    }

    /// What logits are multiplied by in an epoch.
    pub(super) fn scale(&self, epoch: usize) -> f64 {
        self.judges.scale(epoch)
    }

    /// Forward, loss, backward, update. Returns each rank's loss, a scalar that has not been read: asking for it waits for
    /// all that its device still has to do.
    pub(super) fn step(
        &mut self,
        examples: &dyn Examples,
        batches: Vec<Given>,
        now: Now,
    ) -> anyhow::Result<Vec<Tensor>> {
        let (gradients, losses) = match &mut self.judges {
            Judges::Ranks(losses) => {
                let losses = std::mem::take(losses);
                self.gradients_of_ranks(losses, examples, batches, now)?
            }
            _ => {
                let Ok([batch]) = <[Given; 1]>::try_from(batches) else { anyhow::bail!("a step takes one batch") };
                self.gradients_of_shares(examples, batch, now)?
            }
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

        let labels = labels(examples, &index)?;
        let made = Made { logits, labels, index, step: Step { epoch: now.epoch } };
        let Said { loss, by_replica } = self.judges.judge(&mut self.crew, made)?;
        let gradients = self
            .crew
            .each(by_replica, |replica, (logits, gradient)| Ok(replica.backward(logits.as_ref(), &gradient)?))?;
        Ok((gradients, vec![loss]))
    }

    /// Of a batch for each rank, each replica's sum of its ranks' gradients, all together their mean.
    fn gradients_of_ranks(
        &mut self,
        losses: Vec<Box<dyn Loss>>,
        examples: &dyn Examples,
        batches: Vec<Given>,
        now: Now,
    ) -> anyhow::Result<(Vec<Vec<Tensor>>, Vec<Tensor>)> {
        let (count, replicas) = (losses.len(), self.crew.len());
        if batches.len() != count {
            anyhow::bail!("{} batches for {count} ranks", batches.len());
        }
        let mut ranks = vec![];
        for (number, (loss, batch)) in losses.into_iter().zip(batches).enumerate() {
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
        self.judges = Judges::Ranks(losses);
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

    /// What is remembered between steps beside the weights, by name: `optimizer.*`, and what the losses remember.
    pub(super) fn state(&mut self) -> anyhow::Result<Vec<(String, Tensor)>> {
        let mut state = named("optimizer.", self.crew.first().optimizer.state());
        state.extend(self.judges.state(&mut self.crew)?);
        Ok(state)
    }

    /// Takes back what `state` gave. `read` gives the tensors whose names begin so, without that beginning.
    pub(super) fn load_state(&mut self, read: impl Fn(&str) -> Result<Vec<(String, Tensor)>>) -> anyhow::Result<()> {
        self.judges.load_state(&read)?;
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

#[cfg(test)]
mod tests;
