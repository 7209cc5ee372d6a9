//! How fast a network is run and trained.

use super::{Subject, pool};
use crate::error::Result;
use crate::model::backbone::BackboneSpec;
use crate::model::{Precision, Probe, multiply};
use crate::stage::{Pass, network_name};

/// A network and how it is used.
#[derive(Debug, Clone)]
pub struct Network {
    pub backbone: BackboneSpec,
    /// Its name, for the table.
    pub name: String,
    pub bits: usize,
    /// Side of the images, in pixels.
    pub side: usize,
    /// Images at once.
    pub batch: usize,
    pub threads: usize,
    pub precision: Precision,
}

/// A network on images of noise. Its floor is as many multiplications and additions with nothing around them.
///
/// # Errors
/// If there is no such network.
pub fn network(network: &Network, pass: Pass) -> Result<Subject<'static>> {
    let Network { backbone, name, bits, side, batch, threads, precision } = network;
    let mut probe = Probe::new(backbone, *bits, *side, *batch, *precision)?;
    let (pool, floor_pool, precision) = (pool(*threads)?, pool(*threads)?, *precision);
    let operations = probe.operations();
    let per_image = if pass == Pass::Forward { operations.forward } else { operations.training };
    let images = *batch as f64;
    let word = if pass == Pass::Forward { "forward" } else { "train" };
    Ok(Subject {
        name: format!("{word} {name} in {}, {batch} images of {side}", precision.name()),
        speed_of: pass.speed_of(&network_name(backbone, *side), precision),
        unit: "images",
        threads: *threads,
        turn: Box::new(move || {
            pool.install(|| match pass {
                Pass::Forward => probe.forward(),
                Pass::Train => probe.train(),
            })?;
            Ok(images)
        }),
        floor: Some(Box::new(move || Ok(floor_pool.install(|| multiply(precision)) / per_image))),
    })
}
