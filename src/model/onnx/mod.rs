//! A network as an ONNX file: a graph of five standard operations and the weights, for any runtime.
//!
//! Only the messages of ONNX's protocol buffers that such a graph needs are written, by hand: field numbers are those of
//! `onnx.proto3`. ir_version 7 and opset 13 are old enough for every runtime of the last years.

mod run;

pub use run::Onnx;

use super::backbone::Layer;
use super::net::{HASH_LAYER, HashModel};
use super::tensor_error;
use super::weights::Card;
use crate::error::{Error, Result};
use crate::kernel::host;
use crate::outfile::Outfile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::Path;

const IR_VERSION: u64 = 7;
const OPSET: u64 = 13;

/// The largest message that protocol buffers have.
const LARGEST: u64 = i32::MAX as u64;

/// What an ONNX file does beside the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Normalise in the graph: the input is RGB scaled to 0..1, without mean and standard deviation.
    #[serde(default)]
    pub normalise: bool,
    /// A second output `code`, true where a logit is above 0.
    #[serde(default)]
    pub sign: bool,
}

/// Writes the network: input `image` float32 `[n, 3, side, side]`, output `logits` float32 `[n, bits]`, any `n`.
///
/// # Errors
/// A backbone that cannot be told in ONNX, more than 2 GB of weights, or the disk.
pub fn write(path: &Path, model: &HashModel, card: &Card, options: Options) -> Result<()> {
    let Some(mut layers) = card.backbone.builder().layers() else {
        return Err(Error::input("this backbone cannot be written as ONNX").hint("leave `onnx` out of `formats`"));
    };
    layers.push(Layer::Linear { name: HASH_LAYER.into(), relu: false });
    let graph = graph(&layers, model, card, options);

    let mut before = Message::default();
    before.number(1, IR_VERSION);
    before.text(2, "hashpipe");
    before.text(3, env!("CARGO_PKG_VERSION"));
    let mut opset = Message::default();
    opset.text(1, "");
    opset.number(2, OPSET);
    before.message(8, &opset);
    for (key, value) in [("bits", card.bits.to_string()), ("classes", card.classes.join(", "))] {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.text(2, &value);
        before.message(14, &entry);
    }

    // The weights stand between the graph's other fields and are streamed: their sizes are known beforehand.
    let mut heads = vec![];
    for (name, var) in model.parameters() {
        heads.push(initializer(name, var.dims(), var.elem_count()));
    }
    let weights: u64 =
        heads.iter().zip(model.parameters()).map(|(h, (_, var))| h.0.len() as u64 + 4 * var.elem_count() as u64).sum();
    let length = graph.0.len() as u64 + weights;
    if length + 4096 > LARGEST {
        return Err(Error::data(format!("the network has {length} bytes, and an ONNX file at most {LARGEST}")));
    }
    let io = |e: std::io::Error| Error::io("write", path, &e);
    let mut out = Outfile::create(path)?;
    before.key(7, LENGTH);
    before.varint(length);
    out.write_all(&before.0).map_err(io)?;
    out.write_all(&graph.0).map_err(io)?;
    for (head, (_, var)) in heads.iter().zip(model.parameters()) {
        out.write_all(&head.0).map_err(io)?;
        let tensor = var.as_detached_tensor().contiguous().map_err(tensor_error)?;
        for chunk in host(&tensor).values().map_err(tensor_error)?.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            out.write_all(&bytes).map_err(io)?;
        }
    }
    out.finish()
}

/// A graph's nodes, inputs and outputs; without its weights.
fn graph(layers: &[Layer], model: &HashModel, card: &Card, options: Options) -> Message {
    let mut graph = Message::default();
    let (mut value, mut nodes) = ("image".to_string(), 0);
    let mut step =
        |graph: &mut Message, operation: &str, further: &[&str], attributes: &[Message], output: Option<&str>| {
            let name = format!("{operation}_{nodes}");
            // Some runtimes keep nodes and values under one roof: their names must differ.
            let output = output.map_or_else(|| format!("x{nodes}"), ToOwned::to_owned);
            let mut node = Message::default();
            node.text(1, &value);
            further.iter().for_each(|input| node.text(1, input));
            node.text(2, &output);
            node.text(3, &name);
            node.text(4, operation);
            attributes.iter().for_each(|attribute| node.message(5, attribute));
            graph.message(1, &node);
            nodes += 1;
            value = output;
        };
    if options.normalise {
        step(&mut graph, "Sub", &["mean"], &[], None);
        step(&mut graph, "Div", &["std"], &[], None);
    }
    for (place, layer) in layers.iter().enumerate() {
        let is_last = place + 1 == layers.len();
        match layer {
            Layer::Conv { name, side, stride, padding, pool } => {
                let pair = |value: &usize| [*value as u64; 2];
                let attributes = [
                    integers("kernel_shape", &pair(side)),
                    integers("strides", &pair(stride)),
                    integers("pads", &[*padding as u64; 4]),
                ];
                step(&mut graph, "Conv", &[&format!("{name}.weight"), &format!("{name}.bias")], &attributes, None);
                step(&mut graph, "Relu", &[], &[], None);
                if let Some(pool) = pool {
                    let attributes =
                        [integers("kernel_shape", &pair(&pool.kernel)), integers("strides", &pair(&pool.stride))];
                    step(&mut graph, "MaxPool", &[], &attributes, None);
                }
            }
            Layer::Flatten => step(&mut graph, "Flatten", &[], &[integer("axis", 1)], None),
            Layer::Linear { name, relu } => {
                let inputs = [&*format!("{name}.weight"), &*format!("{name}.bias")];
                let output = is_last.then_some("logits");
                step(&mut graph, "Gemm", &inputs, &[integer("transB", 1)], output);
                if *relu {
                    step(&mut graph, "Relu", &[], &[], None);
                }
            }
        }
    }
    if options.sign {
        step(&mut graph, "Greater", &["zero"], &[], Some("code"));
    }
    graph.text(2, "hashpipe");
    let small = |graph: &mut Message, name: &str, shape: &[usize], values: &[f32]| {
        let mut all = initializer(name, shape, values.len());
        all.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        graph.0.extend(all.0);
    };
    if options.normalise {
        small(&mut graph, "mean", &[1, 3, 1, 1], &card.transform.mean.map(|value| value as f32));
        small(&mut graph, "std", &[1, 3, 1, 1], &card.transform.std.map(|value| value as f32));
    }
    if options.sign {
        small(&mut graph, "zero", &[], &[0.0]);
    }
    graph.message(11, &about("image", FLOAT, &[3, model.side(), model.side()]));
    graph.message(12, &about("logits", FLOAT, &[card.bits]));
    if options.sign {
        graph.message(12, &about("code", BOOL, &[card.bits]));
    }
    graph
}

/// Kinds of numbers in ONNX.
const FLOAT: u64 = 1;
const BOOL: u64 = 9;

/// A named whole number of a node.
fn integer(name: &str, value: u64) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.number(3, value);
    attribute.number(20, 2);
    attribute
}

/// Named whole numbers of a node.
fn integers(name: &str, values: &[u64]) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    values.iter().for_each(|value| attribute.number(8, *value));
    attribute.number(20, 7);
    attribute
}

/// What is said of an input or an output: any number of rows of this shape.
fn about(name: &str, kind: u64, shape: &[usize]) -> Message {
    let (mut row, mut dimensions) = (Message::default(), Message::default());
    row.text(2, "n");
    dimensions.message(1, &row);
    for length in shape {
        let mut dimension = Message::default();
        dimension.number(1, *length as u64);
        dimensions.message(1, &dimension);
    }
    let (mut tensor, mut of_type, mut value) = (Message::default(), Message::default(), Message::default());
    tensor.number(1, kind);
    tensor.message(2, &dimensions);
    of_type.message(1, &tensor);
    value.text(1, name);
    value.message(2, &of_type);
    value
}

/// A weight of a graph up to its numbers, of which there are `count`; they follow as they lie in memory.
fn initializer(name: &str, shape: &[usize], count: usize) -> Message {
    let mut tensor = Message::default();
    shape.iter().for_each(|length| tensor.number(1, *length as u64));
    tensor.number(2, FLOAT);
    tensor.text(8, name);
    tensor.key(9, LENGTH);
    tensor.varint(4 * count as u64);
    let mut field = Message::default();
    field.key(5, LENGTH);
    field.varint((tensor.0.len() + 4 * count) as u64);
    field.0.extend(tensor.0);
    field
}

/// A message of protocol buffers in the making.
#[derive(Default)]
struct Message(Vec<u8>);

/// How a field is written: as a number, or with its length in front.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 127 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, form: u64) {
        self.varint(field << 3 | form);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}
