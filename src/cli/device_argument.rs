//! What compares codes, as an argument says it.

use crate::amounts::Bytes;
use crate::device;
use crate::error::{Place, Result};
use crate::retrieval::Backend;
use clap::Args;

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct DeviceArgument {
    /// What compares the codes: `cpu`, `cuda` for the first GPU, `cuda:1` for the second; results are the same
    #[arg(long, value_name = "DEVICE", value_parser = slot, default_value = "cpu")]
    device: Slot,
    /// Of the GPU's memory, take so much at most; codes that do not fit come in parts [default: what is free]
    #[arg(long, value_name = "SIZE")]
    gpu_memory: Option<Bytes>,
}

/// The processor, or the GPU in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) Option<usize>);

impl DeviceArgument {
    pub(super) fn backend(self) -> Result<Backend> {
        if let (Some(slot), Some(Bytes(bytes))) = (self.device.0, self.gpu_memory) {
            device::give(slot, bytes);
        }
        Backend::open(self.device.0).map_err(|e| e.within(Place::Argument("--device".into())))
    }
}

pub(super) fn slot(text: &str) -> Result<Slot, String> {
    let slot = match text.split_once(':') {
        _ if text == "cpu" => Some(Slot(None)),
        _ if text == "cuda" => Some(Slot(Some(0))),
        Some(("cuda", number)) if number.bytes().all(|digit| digit.is_ascii_digit()) => {
            number.parse().ok().map(|slot| Slot(Some(slot)))
        }
        _ => None,
    };
    slot.ok_or_else(|| "expected `cpu`, `cuda`, or `cuda:` and the number of a GPU".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let found = ["cpu", "cuda", "cuda:0", "cuda:12"].map(|text| slot(text).unwrap().0);
        assert_eq!(found, [None, Some(0), Some(0), Some(12)]);
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cpu:0", "CUDA", "cuda:99999999999999999999"]
        {
            assert!(slot(wrong).is_err(), "{wrong}");
        }
    }
}
