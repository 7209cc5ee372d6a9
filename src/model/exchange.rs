//! How replicas add up their gradients.

use super::crew::Crew;
use crate::error::Result;
#[cfg(feature = "nccl")]
use candle_core::DeviceLocation;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Adds up what replicas have.
pub(super) trait Exchange {
    /// Takes the gradients of each replica, in the order of its parameters, and returns their sum for each replica, on its
    /// own device or on the host: the same bits for all of them, and in every run.
    fn sum(&self, crew: &mut Crew, gradients: Vec<Vec<Tensor>>) -> anyhow::Result<Vec<Vec<Tensor>>>;
}

/// What suits these devices, one per replica.
///
/// # Errors
/// GPUs that cannot be brought together.
pub(super) fn of(devices: &[Device]) -> Result<Box<dyn Exchange>> {
    #[cfg(feature = "nccl")]
    if devices.len() > 1 && are_different_gpus(devices) {
        return Ok(Box::new(CardToCard(crate::device::nccl::Ring::new(devices)?)));
    }
    let _ = devices;
    Ok(Box::new(ThroughHost))
}

/// Whether NCCL could add up between them: it takes no card twice.
#[cfg(feature = "nccl")]
fn are_different_gpus(devices: &[Device]) -> bool {
    let number = |device: &Device| match device.location() {
        DeviceLocation::Cuda { gpu_id } => Some(gpu_id),
        _ => None,
    };
    let numbers: Option<std::collections::HashSet<usize>> = devices.iter().map(number).collect();
    numbers.is_some_and(|numbers| numbers.len() == devices.len())
}

/// From card to card, by NCCL, in whose order numbers are added up: the same in every run on the same cards.
#[cfg(feature = "nccl")]
struct CardToCard(crate::device::nccl::Ring);

#[cfg(feature = "nccl")]
impl Exchange for CardToCard {
    fn sum(&self, crew: &mut Crew, gradients: Vec<Vec<Tensor>>) -> anyhow::Result<Vec<Vec<Tensor>>> {
        let in_order = |of_one: Vec<Tensor>| of_one.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>();
        let gradients: Vec<Vec<Tensor>> = crew.each(gradients, move |_, of_one| Ok(in_order(of_one)?))?;
        self.0.sum(&gradients)?;
        Ok(gradients)
    }
}

/// By way of main memory, whatever the devices are. Each number is added up replica after replica.
struct ThroughHost;

impl Exchange for ThroughHost {
    fn sum(&self, crew: &mut Crew, gradients: Vec<Vec<Tensor>>) -> anyhow::Result<Vec<Vec<Tensor>>> {
        if gradients.len() < 2 {
            return Ok(gradients);
        }
        let to_host = |of_one: Vec<Tensor>| {
            of_one.iter().map(|gradient| gradient.to_device(&Device::Cpu)).collect::<candle_core::Result<Vec<_>>>()
        };
        let on_host = crew.each(gradients, move |_, of_one| Ok(to_host(of_one)?))?;
        Ok(vec![added_up(&on_host)?; on_host.len()])
    }
}

/// The sum of what several replicas have on the host.
fn added_up(replicas: &[Vec<Tensor>]) -> candle_core::Result<Vec<Tensor>> {
    let [first, others @ ..] = replicas else { return Ok(vec![]) };
    let add =
        |(number, first): (usize, &Tensor)| others.iter().try_fold(first.clone(), |sum, other| sum + &other[number]);
    first.par_iter().enumerate().map(add).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_added_up_in_the_order_of_the_replicas() {
        let of = |numbers: [f32; 2]| {
            vec![Tensor::new(&numbers, &Device::Cpu).unwrap(), Tensor::new(&[numbers[0]], &Device::Cpu).unwrap()]
        };
        let sum = added_up(&[of([1e8, 1.0]), of([-1e8, 2.0]), of([0.5, 4.0])]).unwrap();
        // Another order would lose the half.
        assert_eq!(sum[0].to_vec1::<f32>().unwrap(), [0.5, 7.0]);
        assert_eq!(sum[1].to_vec1::<f32>().unwrap(), [0.5]);
    }
}
