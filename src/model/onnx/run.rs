//! ONNX files run by a runtime that others wrote (rten), to see that they say what is meant.

use crate::error::{Error, Kind, Result};
use rten::{Dimension, Model, NodeId, Value};
use std::path::Path;

/// An ONNX file of a hashing network, ready to run.
pub struct Onnx {
    model: Model,
    image: NodeId,
    logits: NodeId,
    side: usize,
    bits: usize,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Stage, format!("the ONNX runtime cannot {what}")).note(error.to_string())
}

impl Onnx {
    /// Opens a file with input `image` `[n, 3, side, side]` and output `logits` `[n, bits]`.
    ///
    /// # Errors
    /// What the runtime does not take, or another network.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        let named = |error: Error| error.note(format!("file `{}`", path.display()));
        let model = Model::load(bytes).map_err(|e| named(failed("read the file", e)))?;
        let node = |name: &str| model.node_id(name).map_err(|e| named(failed(&format!("find `{name}`"), e)));
        let (image, logits) = (node("image")?, node("logits")?);
        let fixed = |id: NodeId, place: usize| match model.node_info(id)?.shape()?.get(place)? {
            Dimension::Fixed(length) => Some(*length),
            Dimension::Symbolic(_) => None,
        };
        let (Some(side), Some(bits)) = (fixed(image, 3), fixed(logits, 1)) else {
            return Err(named(Error::data("the ONNX file does not tell its sizes")));
        };
        Ok(Self { model, image, logits, side, bits })
    }

    /// Length of the codes.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Logits of one image, `[3, side, side]`.
    ///
    /// # Errors
    /// An image of another size, or an operation that failed.
    pub fn logits(&self, pixels: Vec<f32>) -> Result<Vec<f32>> {
        let input = Value::from_shape([1, 3, self.side, self.side], pixels).map_err(|e| failed("take the image", e))?;
        let found = self.model.run(vec![(self.image, input.into())], &[self.logits], None);
        let output = found.map_err(|e| failed("run the network", e))?.pop();
        let output = output.ok_or_else(|| failed("run the network", "it gave nothing"))?;
        let (_, logits) = output.into_shape_vec::<f32, 2>().map_err(|e| failed("give logits", e))?;
        Ok(logits)
    }
}
