//! NumPy arrays and the kinds of numbers in them.

use super::values::{Id, Node};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// A kind of number, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    F64,
    F32,
    F16,
    /// The upper half of an f32.
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Number {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// By NumPy's letter and size: `f4`, `i8`.
    pub fn of_numpy(code: &str) -> Option<Self> {
        Some(match code {
            "f8" => Self::F64,
            "f4" => Self::F32,
            "f2" => Self::F16,
            "i8" => Self::I64,
            "i4" => Self::I32,
            "i2" => Self::I16,
            "i1" => Self::I8,
            "u1" => Self::U8,
            "u2" => Self::U16,
            "u4" => Self::U32,
            "u8" => Self::U64,
            "b1" => Self::Bool,
            _ => return None,
        })
    }

    /// As people write it: `float32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        }
    }
}

/// An array whose bytes are those that its shape asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array<'p> {
    pub number: Number,
    pub shape: Vec<usize>,
    /// Little-endian, in C order.
    pub data: Cow<'p, [u8]>,
}

/// An array as the pickle tells it.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) fortran: bool,
    /// The node with the bytes.
    pub(super) data: Id,
}

/// NumPy's type of an array's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dtype {
    /// As `numpy.dtype` was called: `f4`.
    pub(super) code: String,
    pub(super) big_endian: bool,
}

impl Raw {
    pub(super) fn resolve<'p>(&self, nodes: &'p [Node]) -> Result<Array<'p>> {
        let Self { dtype, shape, fortran, data } = self;
        let Some(number) = Number::of_numpy(&dtype.code) else {
            return Err(Error::data(format!("a NumPy array of type `{}`", dtype.code))
                .note("arrays of floats, integers and bools are read")
                .hint("convert it in Python: `array.astype(np.float32)`"));
        };
        let Node::Bytes(bytes) = &nodes[*data as usize] else {
            return Err(Error::data("a NumPy array without its bytes"));
        };
        let size = shape.iter().try_fold(number.size(), |size, length| size.checked_mul(*length));
        if size != Some(bytes.len()) {
            return Err(Error::data(format!(
                "a NumPy array {shape:?} of {}-byte numbers has {} bytes",
                number.size(),
                bytes.len()
            )));
        }
        let mut data = Cow::Borrowed(&**bytes);
        if *fortran && shape.iter().filter(|length| **length > 1).count() > 1 {
            data = Cow::Owned(transposed(bytes, shape, number.size()));
        }
        if dtype.big_endian && number.size() > 1 {
            data.to_mut().chunks_exact_mut(number.size()).for_each(<[u8]>::reverse);
        }
        Ok(Array { number, shape: shape.clone(), data })
    }
}

/// An array in Fortran order, in C order: the first index of the one is the last of the other.
fn transposed(bytes: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    let mut strides = vec![width; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    while out.len() < bytes.len() {
        let from: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(&bytes[from..from + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}
