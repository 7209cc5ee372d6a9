//! Logits of every image of a list, in its order.

use super::net::{HashModel, Mode};
use super::tensor_error;
use crate::dataset::Examples;
use crate::error::Result;
use crate::kernel::host;
use candle_core::Device;

/// Receives the images' positions and their logits, row-major, batch by batch.
pub type Sink<'a> = dyn FnMut(&[u32], &[f32]) -> anyhow::Result<()> + 'a;

/// Runs the network over all images without augmentation; stops at the first error of `examples` or `sink`.
pub fn encode(
    model: &HashModel,
    examples: &dyn Examples,
    batch: usize,
    device: &Device,
    sink: &mut Sink,
) -> anyhow::Result<()> {
    let order: Vec<u32> = (0..u32::try_from(examples.len())?).collect();
    let batches = order.chunks(batch.max(1)).map(<[u32]>::to_vec).collect();
    for batch in examples.batches(batches, None) {
        let batch = batch?;
        let xs = model.images(batch.pixels, batch.index.len(), device)?;
        let logits = model.forward(&xs, Mode::Eval)?.to_device(&Device::Cpu)?;
        sink(&batch.index, host(&logits).values()?)?;
    }
    Ok(())
}

/// Logits of one image's pixels, `[3, side, side]`.
pub fn logits(model: &HashModel, pixels: Vec<f32>) -> Result<Vec<f32>> {
    let xs = model.images(pixels, 1, &Device::Cpu)?;
    let logits = model.forward(&xs, Mode::Eval).map_err(tensor_error)?;
    logits.flatten_all().and_then(|logits| logits.to_vec1()).map_err(tensor_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backbone::BackboneSpec;
    use crate::model::backbone::small::Small;
    use crate::model::testing::Shapes;

    #[test]
    fn every_image_is_encoded_once_in_its_place() {
        let spec = BackboneSpec::Small(Small { channels: vec![4], width: 8, dropout: 0.5 });
        let model = HashModel::seeded(&spec, 6, 16, 1, &Device::Cpu).unwrap();
        let run = |batch: usize| {
            let (mut index, mut logits) = (vec![], vec![]);
            let mut sink = |images: &[u32], values: &[f32]| {
                assert!(images.len() <= batch && values.len() == images.len() * 6);
                index.extend_from_slice(images);
                logits.extend_from_slice(values);
                Ok(())
            };
            encode(&model, &Shapes::new(11, 16, 5), batch, &Device::Cpu, &mut sink).unwrap();
            assert_eq!(index, (0..11).collect::<Vec<u32>>());
            logits
        };
        let (by_four, at_once) = (run(4), run(11));
        assert!(by_four.iter().zip(&at_once).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn an_error_of_the_sink_stops_it() {
        let spec = BackboneSpec::Small(Small { channels: vec![4], width: 8, dropout: 0.0 });
        let model = HashModel::seeded(&spec, 6, 16, 1, &Device::Cpu).unwrap();
        let mut sink = |_: &[u32], _: &[f32]| anyhow::bail!("full");
        let result = encode(&model, &Shapes::new(4, 16, 5), 2, &Device::Cpu, &mut sink);
        assert_eq!(result.unwrap_err().to_string(), "full");
    }
}
