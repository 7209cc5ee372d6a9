//! Numbers of a tensor, whatever their kind, as f32.

use super::{Place, Tensor, WeightFile, archive};
use crate::error::{Error, Result};
use crate::pickle::Number;
use std::io::{Read as _, Seek as _, SeekFrom};

/// Bytes that are converted at a time; a multiple of every number's size.
const CHUNK: usize = 1 << 20;

impl WeightFile {
    /// The tensor's numbers in C order; infinite ones and NaN are refused, also those beyond f32.
    pub fn read_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let (number, width) = (tensor.number, tensor.number.size());
        let count = tensor.elements().ok_or_else(|| self.damaged("a tensor beyond counting"))?;
        let values = match &tensor.place {
            Place::At(offset) => self.at(*offset, count, number)?,
            Place::Here(bytes) => converted(bytes, number),
            Place::Packed { entry, skip } => {
                let all = archive::unpack(&self.path, &self.file, *entry, archive::MAX_UNPACKED)?;
                let bytes = all.get(*skip as usize..).filter(|bytes| bytes.len() == count * width);
                converted(bytes.ok_or_else(|| self.damaged(format!("`{}` is cut short", tensor.name)))?, number)
            }
            Place::Strided(..) if count == 0 => vec![],
            Place::Strided(offset, strides) => {
                let last: usize = tensor.shape.iter().zip(strides).map(|(length, stride)| (length - 1) * stride).sum();
                let storage = self.at(*offset, last + 1, number)?;
                gathered(&storage, &tensor.shape, strides)
            }
        };
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(Error::data(format!("`{}` in `{}` holds NaN or infinite numbers", tensor.name, self.path.display())))
    }

    /// `count` numbers from this byte of the file on.
    fn at(&self, offset: u64, count: usize, number: Number) -> Result<Vec<f32>> {
        let io = |error: std::io::Error| Error::io("read", &self.path, &error);
        let length = self.file.metadata().map_err(io)?.len();
        let size = count as u64 * number.size() as u64;
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(self.damaged("it is cut short"));
        }
        self.check_sum(offset)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let mut values = Vec::with_capacity(count);
        let mut buffer = vec![0; CHUNK.min(size as usize)];
        let mut left = size as usize;
        while left > 0 {
            let bytes = &mut buffer[..CHUNK.min(left)];
            file.read_exact(bytes).map_err(io)?;
            left -= bytes.len();
            values.append(&mut converted(bytes, number));
        }
        Ok(values)
    }
}

fn gathered(storage: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    while values.len() < count {
        let place: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        values.push(storage[place]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    values
}

fn converted(bytes: &[u8], number: Number) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], to: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|chunk| to(*chunk)).collect()
    }
    match number {
        Number::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Number::F32 => each(bytes, f32::from_le_bytes),
        Number::F16 => each(bytes, |b| f16_to_f32(u16::from_le_bytes(b))),
        Number::BF16 => each(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Number::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        Number::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        Number::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
        Number::I8 => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
        Number::U8 => each(bytes, |[b]| f32::from(b)),
        Number::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
        Number::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
        Number::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
        Number::Bool => each(bytes, |[b]| f32::from(u8::from(b != 0))),
    }
}

/// IEEE 754's half precision: 1 bit sign, 5 exponent, 10 fraction.
fn f16_to_f32(half: u16) -> f32 {
    let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}
