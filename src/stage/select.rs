//! Which epoch a training keeps: the last one, or the one whose codes rank best.

use super::{Ctx, Ref, prepared};
use crate::dataset::{self, Examples, Images, List};
use crate::error::{Error, Result};
use crate::image::Transform;
use crate::model::{self, HashModel};
use crate::retrieval::{Backend, Codes, Comparison, Labels, Relevance, Wanted};
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// The epoch with the best mAP on some queries is kept, instead of the last one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Select {
    /// List of the queries.
    query: Ref,
    /// List of the images that are searched.
    database: Ref,
    /// What the queries are: `validation`, or `test` if the reported figures are measured on them too, as the
    /// reference's are. Results say so.
    #[serde(default)]
    on: On,
    /// Epochs between two measurements; the last epoch is always measured.
    #[serde(default = "every")]
    #[schemars(range(min = 1, max = 100_000))]
    every: usize,
    /// Ranks that count, from the nearest; 0 ranks the whole database.
    #[serde(default)]
    top_k: usize,
}

/// What the queries are that an epoch is chosen by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum On {
    /// Images that no reported figure is measured on.
    #[default]
    Validation,
    /// The queries that are reported: the figure is then the best of many, and no longer what unknown images get.
    Test,
}

fn every() -> usize {
    10
}

/// Images the network sees at once.
const BATCH: usize = 64;

/// Both lists, opened.
pub(super) struct Judge<'a> {
    select: &'a Select,
    bits: usize,
    device: Device,
    /// What compares the codes: the training's device, while it does not train.
    backend: Backend,
    queries: (Images, Labels),
    database: (Images, Labels),
}

impl Select {
    /// Epochs between two measurements.
    pub(super) fn every(&self) -> usize {
        self.every
    }

    /// What decides the choice, for the name of what is saved of a training.
    pub(super) fn given(&self, cx: &Ctx) -> Result<String> {
        let (query, database) = (cx.digest(&self.query)?, cx.digest(&self.database)?);
        Ok(format!("select every {} by {} of {query} in {database}", self.every, self.metric()))
    }

    /// The figure that is compared: `mAP@5000`.
    fn metric(&self) -> String {
        if self.top_k == 0 { "mAP@all".into() } else { format!("mAP@{}", self.top_k) }
    }

    /// Opens the lists, and tells what makes a choice by them mean something else than it says.
    ///
    /// # Errors
    /// Lists that are not there, are empty, or have other classes than the training list.
    pub(super) fn open(&self, cx: &mut Ctx, train: &List, transform: &Transform, bits: usize) -> Result<Judge<'_>> {
        let (device, backend) = (cx.device()?, Backend::open(cx.gpu())?);
        let mut side = |list: &Ref| {
            let images = List::read(cx.path(list)?)?;
            if images.is_empty() || images.classes != train.classes {
                let fault = if images.is_empty() { "is empty" } else { "has other classes than the training list" };
                return Err(Error::data(format!("`{}` {fault}", list.0)).hint("take all lists from the same data set"));
            }
            let rows = images.items.iter().map(|item| item.labels.as_slice());
            let labels = Labels::from_indices(images.classes.len(), rows)?;
            Ok((prepared::open(cx, images.clone(), list, None, transform.clone())?, labels, images))
        };
        let (queries, query_labels, query_list) = side(&self.query)?;
        let (database, labels, _) = side(&self.database)?;
        self.warn(cx, &query_list, train);
        let (queries, database) = ((queries, query_labels), (database, labels));
        Ok(Judge { select: self, bits, device, backend, queries, database })
    }

    fn warn(&self, cx: &mut Ctx, queries: &List, train: &List) {
        if self.on == On::Test {
            cx.warn(format!(
                "the epoch is chosen by {} on `{}`, which `on = \"test\"` says is what is reported: figures are \
                 best-on-test, as the reference's are, and higher than unknown images would get",
                self.metric(),
                self.query.0
            ));
        } else if self.query.0.ends_with("/query") {
            cx.warn(format!(
                "the epoch is chosen by {} on `{}`: if figures are reported on it too, set `select.on = \"test\"`, or \
                 take a list of its own (`validation` of a `lists` stage)",
                self.metric(),
                self.query.0
            ));
        }
        if let Some(learnt) = dataset::queries_in_training(queries, train) {
            cx.warn(format!("choosing the epoch: {learnt}"));
        }
    }
}

impl Judge<'_> {
    /// The mAP of a network's codes.
    pub(super) fn measure(&self, cx: &RefCell<&mut Ctx>, network: &HashModel) -> anyhow::Result<f64> {
        let (images, total) = (self.queries.0.len(), self.queries.0.len() + self.database.0.len());
        let queries = self.encode(cx, network, &self.queries.0, 0, total)?;
        let database = self.encode(cx, network, &self.database.0, images, total)?;
        let top_k = if self.select.top_k == 0 { usize::MAX } else { self.select.top_k };
        let relevance = Relevance::shared_class(&self.queries.1, &self.database.1)?;
        let comparison = Comparison::over(&self.backend, &queries, &database, relevance);
        let measured = comparison.evaluate::<Error>(&Wanted::map_only(&[top_k]), |_| {
            if cx.borrow().is_stopping() { Err(Error::interrupted()) } else { Ok(()) }
        })?;
        Ok(measured.summary.map.first().map_or(0.0, |map| map.by_hits.stable))
    }

    fn encode(
        &self,
        cx: &RefCell<&mut Ctx>,
        network: &HashModel,
        images: &Images,
        before: usize,
        total: usize,
    ) -> anyhow::Result<Codes> {
        let all: Vec<u32> = (0..u32::try_from(images.len())?).collect();
        let batches = all.chunks(BATCH).map(<[u32]>::to_vec).collect();
        let mut codes = Codes::new(self.bits)?;
        model::encode_signs(network, images, batches, &self.device, &mut |_, signs| {
            for sign in signs.iter() {
                codes.push_words(sign.words, sign.not_a_number)?;
            }
            let (done, metric) = (before + codes.len(), self.select.metric());
            Ok(cx.borrow_mut().note(|| format!("choosing the epoch by {metric}: {done} of {total} images"))?)
        })?;
        Ok(codes)
    }

    /// What was chosen, for a person.
    pub(super) fn told(&self, selected: model::Selected, epochs: usize) -> String {
        let on = if self.select.on == On::Test { "best on test" } else { "on a validation list" };
        let (metric, query) = (self.select.metric(), &self.select.query.0);
        format!("epoch {} of {epochs}: {metric} {:.4} on `{query}`, {on}", selected.epoch, selected.value)
    }
}
