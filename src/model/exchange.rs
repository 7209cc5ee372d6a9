//! How replicas add up their gradients.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

/// Adds up what replicas have.
pub(super) trait Exchange {
    /// Takes the gradients of each replica, in the order of its parameters, and returns their sum for each replica, on its
    /// own device: the same bits on all of them, and in every run.
    fn sum(&self, gradients: Vec<Vec<Tensor>>) -> Result<Vec<Vec<Tensor>>>;
}

/// What suits these devices, one per replica.
pub(super) fn of(devices: &[Device]) -> Result<Box<dyn Exchange>> {
    let _ = devices;
    Ok(Box::new(ThroughHost))
}

/// By way of main memory, whatever the devices are. Each number is added up replica after replica.
struct ThroughHost;

impl Exchange for ThroughHost {
    fn sum(&self, gradients: Vec<Vec<Tensor>>) -> Result<Vec<Vec<Tensor>>> {
        let [first, others @ ..] = &gradients[..] else { return Ok(gradients) };
        if others.is_empty() {
            return Ok(gradients);
        }
        let add = |(number, first): (usize, &Tensor)| {
            let mut sum = first.to_device(&Device::Cpu)?;
            for other in others {
                sum = (sum + other[number].to_device(&Device::Cpu)?)?;
            }
            Ok(sum)
        };
        let sums: Vec<Tensor> = first.par_iter().enumerate().map(add).collect::<Result<_>>()?;
        let on = |like: &Vec<Tensor>| sums.iter().zip(like).map(|(sum, like)| sum.to_device(like.device())).collect();
        gradients.par_iter().map(on).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_added_up_in_the_order_of_the_replicas() {
        let of = |numbers: [f32; 2]| {
            vec![Tensor::new(&numbers, &Device::Cpu).unwrap(), Tensor::new(&[numbers[0]], &Device::Cpu).unwrap()]
        };
        let exchange = super::of(&[Device::Cpu, Device::Cpu, Device::Cpu]).unwrap();
        let sums = exchange.sum(vec![of([1e8, 1.0]), of([-1e8, 2.0]), of([0.5, 4.0])]).unwrap();
        assert_eq!(sums.len(), 3);
        for sum in sums {
            // Another order would lose the half.
            assert_eq!(sum[0].to_vec1::<f32>().unwrap(), [0.5, 7.0]);
            assert_eq!(sum[1].to_vec1::<f32>().unwrap(), [0.5]);
        }
    }
}
