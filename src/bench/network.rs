//! How fast a network is run and trained.

use super::{Subject, pool};
use crate::error::Result;
use crate::model::backbone::BackboneSpec;
use crate::model::{Limits, Precision, Probe, Rates, multiply};
use crate::stage::{Pass, network_name};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

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
    /// Which GPU, as CUDA counts; nothing for the CPU.
    pub gpu: Option<usize>,
}

/// A network on images of noise, already on its device.
///
/// Its floor on the CPU is as many multiplications and additions with nothing around them. On a GPU it is what takes longer:
/// as many in one product by cuBLAS, or reading the weights once forward and once backward and updating them with their
/// momentum, at the rate of a copy; `rates` gets both rates.
///
/// # Errors
/// If there is no such network, or no such GPU.
pub fn network(network: &Network, pass: Pass, rates: Rc<Cell<Option<Rates>>>) -> Result<Subject<'static>> {
    let Network { backbone, name, bits, side, batch, threads, precision, gpu } = network;
    let device = crate::device::open(*gpu)?;
    let mut probe = Probe::new(backbone, *bits, *side, *batch, *precision, &device)?;
    let (pool, floor_pool, precision) = (pool(*threads)?, pool(*threads)?, *precision);
    let operations = probe.operations();
    let per_image = if pass == Pass::Forward { operations.forward } else { operations.training };
    let images = *batch as f64;
    let (word, passes) = match pass {
        Pass::Forward => ("forward", 1.0),
        Pass::Train => ("train", 5.0),
    };
    let bytes_per_image = passes * probe.parameter_bytes() / images;
    let floor: Box<dyn FnMut() -> Result<f64>> = match gpu {
        None => Box::new(move || Ok(floor_pool.install(|| multiply(precision)) / per_image)),
        Some(_) => {
            let limits = Limits::new(precision, &device)?;
            Box::new(move || {
                let began = Instant::now();
                let found = limits.rates()?;
                rates.set(Some(found));
                let seconds = f64::max(per_image / found.operations, bytes_per_image / found.bytes);
                // As many images as would have been done meanwhile.
                Ok(began.elapsed().as_secs_f64() / seconds)
            })
        }
    };
    Ok(Subject {
        name: format!("{word} {name} in {}, {batch} images of {side}", precision.name()),
        speed_of: pass.speed_of(&network_name(backbone, *side), precision, gpu.is_some()),
        unit: "images",
        threads: *threads,
        turn: Box::new(move || {
            pool.install(|| match pass {
                Pass::Forward => probe.forward(),
                Pass::Train => probe.train(),
            })?;
            probe.synchronise()?;
            Ok(images)
        }),
        floor: Some(floor),
    })
}
