//! Logits or codes of every image of a list, in its order.

use super::feed::{Fed, Feed, Passes};
use super::later::{Later, Plain};
use super::net::{HashModel, Mode};
use super::signs::Signs;
use super::{step_on, tensor_error};
use crate::dataset::Examples;
use crate::error::Result;
use candle_core::{Device, Tensor};

/// Receives the images' positions and their logits, row-major, batch by batch.
pub type Sink<'a> = dyn FnMut(&[u32], &[f32]) -> anyhow::Result<()> + 'a;

/// Receives the images' positions and the signs of their logits, batch by batch.
pub type SignSink<'a> = dyn FnMut(&[u32], &Signs) -> anyhow::Result<()> + 'a;

/// Runs the network over batches of images without augmentation; stops at the first error of `examples` or `sink`.
///
/// An image's logits do not depend on the images beside it, nor on how many there are.
pub fn encode(
    model: &HashModel,
    examples: &dyn Examples,
    batches: Vec<Vec<u32>>,
    device: &Device,
    sink: &mut Sink,
) -> anyhow::Result<()> {
    let ask = Later::numbers;
    run(model, examples, batches, device, ask, &mut |index, logits| sink(&index, &logits))
}

/// The same for those who want codes only, which a GPU packs itself.
pub fn encode_signs(
    model: &HashModel,
    examples: &dyn Examples,
    batches: Vec<Vec<u32>>,
    device: &Device,
    sink: &mut SignSink,
) -> anyhow::Result<()> {
    let ask = Later::signs;
    run(model, examples, batches, device, ask, &mut |index, words| {
        let signs = Signs::new(model.bits(), index.len(), words);
        sink(&index, &signs)
    })
}

/// While a GPU computes on a batch, the next one is on its way to it, and the one after that is decoded.
fn run<T: Plain>(
    model: &HashModel,
    examples: &dyn Examples,
    batches: Vec<Vec<u32>>,
    device: &Device,
    ask: impl Fn(&mut Later<Vec<u32>, T>, Vec<u32>, &Tensor) -> candle_core::Result<()>,
    give: &mut dyn FnMut(Vec<u32>, Vec<T>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let feed = Feed::open(examples, device, Passes::One)?;
    let mut later = Later::new();
    for batch in feed.batches(batches, None) {
        let Fed { index, xs } = batch?;
        ask(&mut later, index, &step_on(device, || model.forward(&xs, Mode::Eval))?)?;
        if let Some((index, numbers)) = later.take()? {
            give(index, numbers)?;
        }
    }
    while let Some((index, numbers)) = later.wait()? {
        give(index, numbers)?;
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

    /// Logits of the images in `order`, in batches of this size, each under its position in the list.
    fn run(model: &HashModel, data: &Shapes, order: &[u32], batch: usize) -> Vec<Vec<u32>> {
        let mut logits = vec![vec![]; data.len()];
        let mut sink = |images: &[u32], values: &[f32]| {
            assert!(images.len() <= batch && values.len() == images.len() * model.bits());
            for (image, values) in images.iter().zip(values.chunks_exact(model.bits())) {
                let bits = values.iter().map(|value| value.to_bits()).collect();
                assert!(std::mem::replace(&mut logits[*image as usize], bits).is_empty(), "image {image} twice");
            }
            Ok(())
        };
        let batches = order.chunks(batch).map(<[u32]>::to_vec).collect();
        encode(model, data, batches, &Device::Cpu, &mut sink).unwrap();
        logits
    }

    #[test]
    fn logits_depend_on_the_image_alone() {
        // Wide and narrow layers: products of different sizes are added up in different ways.
        for (width, bits) in [(8, 6), (700, 48)] {
            let spec = BackboneSpec::Small(Small { channels: vec![4, 40], width, dropout: 0.5 });
            let model = HashModel::seeded(&spec, bits, 24, 1, &Device::Cpu).unwrap();
            let data = Shapes::new(70, 24, 5);
            let order: Vec<u32> = (0..70).collect();
            let expected = run(&model, &data, &order, 70);
            assert!(expected.iter().all(|logits| logits.len() == bits));
            for batch in [1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 65, 69] {
                assert!(run(&model, &data, &order, batch) == expected, "width {width}, batches of {batch}");
            }
            let backwards: Vec<u32> = (0..70).rev().collect();
            assert!(run(&model, &data, &backwards, 9) == expected, "width {width}, backwards");
            let alone = data.batches(vec![vec![3]], None).next().unwrap().unwrap();
            let alone: Vec<u32> = logits(&model, alone.pixels).unwrap().iter().map(|value| value.to_bits()).collect();
            assert_eq!(alone, expected[3]);
        }
    }

    #[test]
    fn an_error_of_the_sink_stops_it() {
        let spec = BackboneSpec::Small(Small { channels: vec![4], width: 8, dropout: 0.0 });
        let model = HashModel::seeded(&spec, 6, 16, 1, &Device::Cpu).unwrap();
        let mut sink = |_: &[u32], _: &[f32]| anyhow::bail!("full");
        let result = encode(&model, &Shapes::new(4, 16, 5), vec![vec![0, 1], vec![2, 3]], &Device::Cpu, &mut sink);
        assert_eq!(result.unwrap_err().to_string(), "full");
    }
}
