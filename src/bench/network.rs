//! How fast a network is run and trained.

use super::{Subject, pool};
use crate::error::Result;
use crate::model::Probe;
use crate::model::backbone::BackboneSpec;
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
}

/// A network on images of noise.
///
/// # Errors
/// If there is no such network.
pub fn network(network: &Network, pass: Pass) -> Result<Subject<'static>> {
    let Network { backbone, name, bits, side, batch, threads } = network;
    let mut probe = Probe::new(backbone, *bits, *side, *batch)?;
    let pool = pool(*threads)?;
    let images = *batch as f64;
    let word = if pass == Pass::Forward { "forward" } else { "train" };
    Ok(Subject {
        name: format!("{word} {name}, {batch} images of {side}"),
        speed_of: pass.speed_of(&network_name(backbone, *side)),
        unit: "images",
        threads: *threads,
        turn: Box::new(move || {
            pool.install(|| match pass {
                Pass::Forward => probe.forward(),
                Pass::Train => probe.train(),
            })?;
            Ok(images)
        }),
        floor: None,
    })
}
