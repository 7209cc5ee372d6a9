//! The Python functions and classes that a pickle may name, and what they make of their arguments.

use super::Tensor;
use super::array::{Dtype, Number, Raw};
use super::values::{Id, Node, Values};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// The longest name of a storage, in bytes; PyTorch numbers them.
const MAX_KEY: usize = 256;

/// What an array or a tensor weighs beside its shape, as references to values.
const WEIGHT: usize = 24;

/// The most dimensions: more have no use in a network.
const MAX_DIMENSIONS: usize = 16;

/// One of the few names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `numpy._core.multiarray._reconstruct(ndarray, (0,), b'b')`, then BUILD.
    Reconstruct,
    /// `numpy._core.multiarray.scalar(dtype, bytes)`.
    Scalar,
    /// `numpy._core.numeric._frombuffer(bytes, dtype, shape, order)`: protocol 5.
    FromBuffer,
    NdArray,
    /// `numpy.dtype('f4', ..)`, then BUILD.
    Dtype,
    /// `_codecs.encode(text, 'latin1')`: bytes under protocols 0 to 2.
    Encode,
    /// `bytearray`, `bytes`.
    Bytes,
    /// `collections.OrderedDict`, `dict`.
    Dict,
    /// `set`, `frozenset`, `list`, `tuple`, `torch.Size`.
    Sequence,
    RebuildTensor,
    /// `torch._utils._rebuild_parameter(tensor, ..)`.
    RebuildParameter,
    /// A type of storage; `None` holds numbers that are not read.
    Storage(Option<Number>),
}

/// What may be named.
pub(super) fn find(module: &str, name: &str) -> Option<Known> {
    Some(match (module, name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Known::Reconstruct,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Known::Scalar,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Known::FromBuffer,
        ("numpy", "ndarray") => Known::NdArray,
        ("numpy", "dtype") => Known::Dtype,
        ("_codecs", "encode") => Known::Encode,
        ("builtins" | "__builtin__", "bytearray" | "bytes") => Known::Bytes,
        ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => Known::Dict,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => Known::Sequence,
        ("torch._utils", "_rebuild_tensor_v2") => Known::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Known::RebuildParameter,
        ("torch" | "torch.cuda", storage) => Known::Storage(match storage {
            "DoubleStorage" => Some(Number::F64),
            "FloatStorage" => Some(Number::F32),
            "HalfStorage" => Some(Number::F16),
            "BFloat16Storage" => Some(Number::BF16),
            "LongStorage" => Some(Number::I64),
            "IntStorage" => Some(Number::I32),
            "ShortStorage" => Some(Number::I16),
            "CharStorage" => Some(Number::I8),
            "ByteStorage" => Some(Number::U8),
            "BoolStorage" => Some(Number::Bool),
            "ComplexFloatStorage" | "ComplexDoubleStorage" | "QInt8Storage" | "QUInt8Storage" | "QInt32Storage" => None,
            _ => return None,
        }),
        _ => return None,
    })
}

fn odd(what: &str) -> Error {
    Error::data("the pickle makes no sense").note(format!("{what} with arguments that it does not take"))
}

/// What a function makes of its arguments.
pub(super) fn call<'a>(values: &mut Values<'a>, known: Known, ids: &[Id]) -> Result<Node<'a>> {
    match known {
        Known::Reconstruct => match ids {
            [class, ..] if matches!(values.node(*class), Node::Known(Known::NdArray)) => Ok(Node::Empty),
            _ => Err(odd("`numpy.ndarray`")),
        },
        Known::Dtype => match ids.first().map(|id| values.node(*id)) {
            Some(Node::Text(code)) => Ok(dtype(code)),
            Some(Node::Bytes(code)) => Ok(dtype(&String::from_utf8_lossy(code))),
            _ => Err(odd("`numpy.dtype`")),
        },
        Known::Scalar => scalar(values, ids),
        Known::FromBuffer => from_buffer(values, ids),
        Known::Encode => encode(values, ids),
        Known::Bytes => match ids {
            [] => Ok(Node::Bytes(Cow::Borrowed(&[]))),
            [data] => copied(values, *data),
            [_, _] => encode(values, ids),
            _ => Err(odd("`bytes`")),
        },
        Known::Dict => dict(values, ids),
        Known::Sequence => match ids {
            [] => Ok(Node::Sequence(vec![])),
            [elements] => {
                let ids = sequence(values, *elements).ok_or_else(|| odd("a sequence"))?.to_vec();
                values.linked(ids.len())?;
                Ok(Node::Sequence(ids))
            }
            _ => Err(odd("a sequence")),
        },
        Known::RebuildTensor => tensor(values, ids),
        Known::RebuildParameter => match ids.first().map(|id| values.node(*id)) {
            Some(Node::Tensor(tensor)) => Ok(Node::Tensor(tensor.clone())),
            _ => Err(odd("`torch.nn.Parameter`")),
        },
        Known::NdArray | Known::Storage(_) => Err(odd("a class")),
    }
}

/// What an object becomes by its state; `None` leaves it as it is.
pub(super) fn build<'a>(values: &mut Values<'a>, object: Id, state: Id) -> Result<Option<Node<'a>>> {
    match values.node(object) {
        Node::Dtype(dtype) => {
            let Some([_, order, ..]) = sequence(values, state) else { return Err(odd("`numpy.dtype`")) };
            let big_endian = text(values, *order) == Some(">");
            Ok(Some(Node::Dtype(Dtype { big_endian, ..dtype.clone() })))
        }
        Node::Empty => {
            // (version, shape, dtype, is it in Fortran order, bytes)
            let Some([_, shape, dtype, fortran, data]) = sequence(values, state) else {
                return Err(odd("`numpy.ndarray`"));
            };
            let (Node::Dtype(dtype), Some(shape)) = (values.node(*dtype), numbers(values, *shape)) else {
                return Err(odd("`numpy.ndarray`"));
            };
            let fortran = matches!(values.node(*fortran), Node::Bool(true) | Node::Int(1));
            let mut data = *data;
            let (dtype, shape) = (dtype.clone(), shape);
            // Under protocol 0 bytes are text, one character each.
            if let Node::Text(_) = values.node(data) {
                let bytes = latin1(values, data)?;
                data = values.add(bytes)?;
            } else if !matches!(values.node(data), Node::Bytes(_)) {
                data = object;
            }
            values.linked(WEIGHT + 2 * shape.len())?;
            Ok(Some(Node::Array(Box::new(Raw { dtype, shape, fortran, data }))))
        }
        // Attributes of an `OrderedDict`, such as the `_metadata` of a state_dict; and objects that are not made.
        Node::Dict(_) | Node::Refused | Node::Tensor(_) => Ok(None),
        other => Err(odd(other.kind())),
    }
}

/// What a persistent id means: `('storage', torch.FloatStorage, key, location, length[, view])`.
pub(super) fn storage<'a>(values: &mut Values<'a>, id: Id) -> Result<Node<'a>> {
    let fault = || odd("a storage");
    let ids = sequence(values, id).ok_or_else(fault)?;
    let [tag, class, key, _, length, rest @ ..] = ids else { return Err(fault()) };
    let (Some("storage"), Node::Known(Known::Storage(number))) = (text(values, *tag), values.node(*class)) else {
        return Err(fault());
    };
    let Some(number) = *number else {
        return Err(Error::data("a tensor of complex or quantised numbers").note("real numbers are read"));
    };
    let key = text(values, *key).filter(|key| key.len() <= MAX_KEY).ok_or_else(fault)?;
    let total = number_of(values, *length).ok_or_else(fault)?;
    let mut offset = 0;
    // Of files before PyTorch 1.0: (its own key, offset, length).
    if let Some([_, begin, _]) = rest.first().and_then(|view| sequence(values, *view)) {
        offset = number_of(values, *begin).ok_or_else(fault)?;
    }
    let (key, shape, strides) = (key.to_string(), vec![], vec![]);
    values.linked(WEIGHT + key.len() / 4)?;
    Ok(Node::Storage(Box::new(Tensor { key, number, total, offset, shape, strides })))
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, ..)`.
fn tensor<'a>(values: &mut Values<'a>, ids: &[Id]) -> Result<Node<'a>> {
    let fault = || odd("a tensor");
    let [storage, offset, shape, strides, ..] = ids else { return Err(fault()) };
    let Node::Storage(storage) = values.node(*storage).clone() else { return Err(fault()) };
    let shape = numbers(values, *shape).ok_or_else(fault)?;
    let strides = numbers(values, *strides).filter(|strides| strides.len() == shape.len()).ok_or_else(fault)?;
    let offset = number_of(values, *offset).and_then(|offset| offset.checked_add(storage.offset)).ok_or_else(fault)?;
    // The last element must lie inside; an empty tensor has none.
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |last, (length, stride)| last.checked_add(length.saturating_sub(1).checked_mul(*stride)?));
    let is_empty = shape.contains(&0);
    if !is_empty && last.is_none_or(|last| last >= storage.total) {
        return Err(Error::data("a tensor that reaches beyond its storage"));
    }
    values.linked(WEIGHT + 4 * shape.len() + storage.key.len() / 4)?;
    Ok(Node::Tensor(Box::new(Tensor { offset, shape, strides, ..*storage })))
}

fn dtype<'a>(code: &str) -> Node<'a> {
    let big_endian = code.starts_with('>');
    let code = code.trim_start_matches(['<', '>', '=', '|']).chars().take(16).collect();
    Node::Dtype(Dtype { code, big_endian })
}

fn scalar<'a>(values: &Values<'a>, ids: &[Id]) -> Result<Node<'a>> {
    let [dtype, data] = ids else { return Err(odd("a NumPy number")) };
    let (Node::Dtype(dtype), Node::Bytes(bytes)) = (values.node(*dtype), values.node(*data)) else {
        return Err(odd("a NumPy number"));
    };
    let number = Number::of_numpy(&dtype.code).filter(|number| number.size() == bytes.len());
    let mut bytes = bytes.to_vec();
    if dtype.big_endian {
        bytes.reverse();
    }
    let unsigned = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    Ok(match number.ok_or_else(|| odd("a NumPy number"))? {
        Number::F64 => Node::Float(f64::from_bits(unsigned)),
        Number::F32 => Node::Float(f64::from(f32::from_bits(unsigned as u32))),
        Number::Bool => Node::Bool(unsigned != 0),
        Number::I32 => Node::Int(i64::from(unsigned as i32)),
        Number::I16 => Node::Int(i64::from(unsigned as i16)),
        Number::I8 => Node::Int(i64::from(unsigned as i8)),
        Number::F16 | Number::BF16 => Node::None,
        _ => Node::Int(unsigned as i64),
    })
}

fn from_buffer<'a>(values: &mut Values<'a>, ids: &[Id]) -> Result<Node<'a>> {
    let fault = || odd("`numpy.ndarray`");
    let [data, dtype, shape, order] = ids else { return Err(fault()) };
    let Node::Dtype(dtype) = values.node(*dtype).clone() else { return Err(fault()) };
    let shape = numbers(values, *shape).ok_or_else(fault)?;
    let fortran = text(values, *order) == Some("F");
    values.linked(WEIGHT + 2 * shape.len())?;
    Ok(Node::Array(Box::new(Raw { dtype, shape, fortran, data: *data })))
}

fn encode<'a>(values: &mut Values<'a>, ids: &[Id]) -> Result<Node<'a>> {
    let [data, encoding] = ids else { return Err(odd("`_codecs.encode`")) };
    if !matches!(text(values, *encoding), Some("latin1" | "latin-1" | "iso-8859-1")) {
        return Err(odd("`_codecs.encode`"));
    }
    latin1(values, *data)
}

/// The bytes that a text stands for, one for each character.
fn latin1<'a>(values: &mut Values<'a>, id: Id) -> Result<Node<'a>> {
    let length = match values.node(id) {
        Node::Text(text) => text.len(),
        Node::Bytes(_) => return copied(values, id),
        _ => return Err(odd("`_codecs.encode`")),
    };
    values.makes(length)?;
    let Node::Text(text) = values.node(id) else { return Err(odd("`_codecs.encode`")) };
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    Ok(Node::Bytes(Cow::Owned(bytes.ok_or_else(|| odd("`_codecs.encode`"))?)))
}

/// Bytes again, shared where they are borrowed.
fn copied<'a>(values: &mut Values<'a>, id: Id) -> Result<Node<'a>> {
    let length = match values.node(id) {
        Node::Bytes(Cow::Borrowed(bytes)) => return Ok(Node::Bytes(Cow::Borrowed(bytes))),
        Node::Bytes(Cow::Owned(bytes)) => bytes.len(),
        _ => return Err(odd("`bytes`")),
    };
    values.makes(length)?;
    Ok(values.node(id).clone())
}

fn dict<'a>(values: &mut Values<'a>, ids: &[Id]) -> Result<Node<'a>> {
    let ids = match ids {
        [] => return Ok(Node::Dict(vec![])),
        [pairs] => sequence(values, *pairs).ok_or_else(|| odd("a dictionary"))?.to_vec(),
        _ => return Err(odd("a dictionary")),
    };
    values.linked(2 * ids.len())?;
    let pair = |id: &Id| match sequence(values, *id) {
        Some([key, value]) => Ok((*key, *value)),
        _ => Err(odd("a dictionary")),
    };
    Ok(Node::Dict(ids.iter().map(pair).collect::<Result<_>>()?))
}

fn sequence<'m>(values: &'m Values, id: Id) -> Option<&'m [Id]> {
    match values.node(id) {
        Node::Sequence(ids) => Some(ids),
        _ => None,
    }
}

fn text<'m>(values: &'m Values, id: Id) -> Option<&'m str> {
    match values.node(id) {
        Node::Text(text) => Some(text),
        Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn number_of(values: &Values, id: Id) -> Option<usize> {
    match values.node(id) {
        Node::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

/// A shape or the like, of a sensible number of dimensions.
fn numbers(values: &Values, id: Id) -> Option<Vec<usize>> {
    let ids = sequence(values, id).filter(|ids| ids.len() <= MAX_DIMENSIONS)?;
    ids.iter().map(|id| number_of(values, *id)).collect()
}
