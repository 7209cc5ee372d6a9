//! NumPy's `.npy` files: arrays out for other programs, and in from them.
//!
//! Written as version 1.0, byte for byte as `numpy.save` does: `\x93NUMPY`, 1, 0, the header's length as u16, then
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }` padded with spaces and a newline to a multiple of 64
//! bytes from the start of the file, then the values row by row.
//!
//! Read are versions 1.0 to 3.0, either byte order, and both orders of an array; what comes out is always row by row.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::outfile::Outfile;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The values start at a multiple of this.
const ALIGNMENT: usize = 64;
/// Of a header that cannot be understood, so many bytes are quoted.
const QUOTED: usize = 100;

/// An array from a file, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each dimension; empty for a single number.
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The types that are read, by their names in Rust; float16 comes as `F32`, which holds it exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

impl Values {
    /// NumPy's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::F32(_) => "float32",
            Self::F64(_) => "float64",
            Self::U8(_) => "uint8",
            Self::U16(_) => "uint16",
            Self::U32(_) => "uint32",
            Self::U64(_) => "uint64",
            Self::I8(_) => "int8",
            Self::I16(_) => "int16",
            Self::I32(_) => "int32",
            Self::I64(_) => "int64",
            Self::Bool(_) => "bool",
        }
    }
}

impl Array {
    /// The values as f64, exact except for integers beyond 2^53.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::F64(values) => values.clone(),
            Values::U8(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::U16(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::U32(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::U64(values) => values.iter().map(|&x| x as f64).collect(),
            Values::I8(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::I16(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::I32(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::I64(values) => values.iter().map(|&x| x as f64).collect(),
            Values::Bool(values) => values.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }
}

/// Writes `[rows, columns]` of f32, row by row; `values` has `rows * columns` of them.
pub fn write_f32(path: &Path, [rows, columns]: [usize; 2], values: impl IntoIterator<Item = f32>) -> Result<()> {
    write(path, "<f4", rows, columns, values.into_iter().map(f32::to_le_bytes))
}

/// Writes `[rows, columns]` of u8, row by row; `values` has `rows * columns` of them.
pub fn write_u8(path: &Path, [rows, columns]: [usize; 2], values: impl IntoIterator<Item = u8>) -> Result<()> {
    write(path, "|u1", rows, columns, values.into_iter().map(|byte| [byte]))
}

fn write<const N: usize>(
    path: &Path,
    descr: &str,
    rows: usize,
    columns: usize,
    values: impl Iterator<Item = [u8; N]>,
) -> Result<()> {
    let mut out = Outfile::create(path)?;
    let run = || -> std::io::Result<usize> {
        out.write_all(&head(descr, &[rows, columns]))?;
        let mut count = 0;
        for value in values {
            out.write_all(&value)?;
            count += 1;
        }
        Ok(count)
    };
    let count = run().map_err(|e| Error::io("write", path, &e))?;
    if count != rows * columns {
        return Err(Error::data(format!("{count} values for an array of {rows} x {columns}")).at(place(path)));
    }
    out.finish()
}

/// Everything before the values of an array.
pub fn head(descr: &str, shape: &[usize]) -> Vec<u8> {
    let lengths: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", lengths.join(", "));
    let prefix = MAGIC.len() + 4;
    let length = (prefix + dict.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    let mut bytes = [&MAGIC[..], &[1, 0], &(length as u16).to_le_bytes(), dict.as_bytes()].concat();
    bytes.resize(prefix + length - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Reads an array of floats, integers or booleans, in either byte order and either order of its dimensions.
pub fn read(path: &Path) -> Result<Array> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    parse(&bytes).map_err(|e| e.at(place(path)))
}

/// What a file says of its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// NumPy's name of the type: `<f4`.
    pub descr: String,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
    /// Where the values begin.
    pub length: usize,
}

/// Reads what stands before the values; `bytes` may end behind it.
///
/// # Errors
/// What is no NumPy file.
pub fn header(bytes: &[u8]) -> Result<Header> {
    let (dict, data) = split(bytes)?;
    let Some(Dict { descr, fortran_order, shape }) = Dict::parse(dict) else {
        return Err(senseless(dict));
    };
    Ok(Header { descr: descr.to_string(), fortran_order, shape, length: bytes.len() - data.len() })
}

/// Whether a file starts as a NumPy array does.
pub fn is_npy(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *MAGIC
}

/// A header that is none, with its beginning: a damaged length may make it any size.
fn senseless(dict: &[u8]) -> Error {
    let (shown, more) = (&dict[..dict.len().min(QUOTED)], dict.len().saturating_sub(QUOTED));
    let more = if more > 0 { format!(".. and {more} more bytes") } else { String::new() };
    Error::data("the NumPy file's header makes no sense")
        .note(format!("{}{more}", shown.escape_ascii()))
        .hint("the file may be damaged: copy it again, or write it anew with `np.save`")
}

fn place(path: &Path) -> Place {
    Place::Path(path.display().to_string())
}

fn parse(bytes: &[u8]) -> Result<Array> {
    let (dict, data) = split(bytes)?;
    let Some(Dict { descr, fortran_order, shape }) = Dict::parse(dict) else {
        return Err(senseless(dict));
    };
    let unknown = || {
        let descr: String = descr.chars().take(QUOTED).collect();
        Error::data(format!("a NumPy array of type `{descr}`"))
            .note("float16 to float64, int8 to int64, uint8 to uint64 and bool are read")
            .hint("convert it: `np.save(path, array.astype(np.float32))`")
    };
    let (order, kind) = descr.split_at_checked(1).ok_or_else(unknown)?;
    let width = match kind {
        "u1" | "i1" | "b1" => 1,
        "f2" | "u2" | "i2" => 2,
        "f4" | "u4" | "i4" => 4,
        "f8" | "u8" | "i8" => 8,
        _ => return Err(unknown()),
    };
    if !matches!((order, width), ("<" | ">", _) | ("|", 1)) {
        return Err(unknown());
    }
    // The size is checked against the file before anything is allocated for it.
    if shape.iter().try_fold(width, |size: usize, &length| size.checked_mul(length)) != Some(data.len()) {
        return Err(Error::data("the NumPy file has another size than its header says").note(format!(
            "shape {shape:?} of {width}-byte values does not make {} bytes; a truncated copy has fewer",
            data.len()
        )));
    }
    let mut data = Cow::Borrowed(data);
    if order == ">" && width > 1 {
        data.to_mut().chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    if fortran_order && shape.len() > 1 {
        data = Cow::Owned(by_rows(&data, &shape, width));
    }
    Ok(Array { shape, values: values(kind, &data) })
}

/// Values from little-endian bytes of a known type.
fn values(kind: &str, data: &[u8]) -> Values {
    fn each<const N: usize, T>(data: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks().0.iter().map(|bytes| value(*bytes)).collect()
    }
    match kind {
        "f2" => Values::F32(each(data, |bytes| from_half(u16::from_le_bytes(bytes)))),
        "f4" => Values::F32(each(data, f32::from_le_bytes)),
        "f8" => Values::F64(each(data, f64::from_le_bytes)),
        "u2" => Values::U16(each(data, u16::from_le_bytes)),
        "u4" => Values::U32(each(data, u32::from_le_bytes)),
        "u8" => Values::U64(each(data, u64::from_le_bytes)),
        "i1" => Values::I8(each(data, i8::from_le_bytes)),
        "i2" => Values::I16(each(data, i16::from_le_bytes)),
        "i4" => Values::I32(each(data, i32::from_le_bytes)),
        "i8" => Values::I64(each(data, i64::from_le_bytes)),
        "b1" => Values::Bool(data.iter().map(|&b| b != 0).collect()),
        _ => Values::U8(data.to_vec()),
    }
}

/// The same array with its last index running fastest, from one with its first running fastest.
fn by_rows(data: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    // How far apart neighbours along each dimension lie in `data`, in values.
    let mut strides: Vec<usize> = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for length in shape {
        strides.push(stride);
        stride *= length;
    }
    let mut index = vec![0; shape.len()];
    while out.len() < data.len() {
        let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(&data[at * width..(at + 1) * width]);
        for (i, length) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *length {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The value of a float of 16 bits (IEEE 754 binary16), exactly.
fn from_half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff) / 1024.0);
    let size = match exponent {
        0 => fraction * 2f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// The header's text, and the values.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let cut = || Error::data("the NumPy file ends inside its header");
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(Error::data("not a NumPy file").note("a `.npy` file starts with `\\x93NUMPY`"));
    };
    let ([major, minor], rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => return Err(Error::data(format!("a NumPy file of version {major}.{minor}"))),
    }
    .ok_or_else(cut)?;
    rest.split_at_checked(length).ok_or_else(cut)
}

/// The header: a Python dictionary of three known keys.
#[derive(Debug, PartialEq)]
struct Dict<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Dict<'a> {
    /// Reads keys in any order, as NumPy does; `None` if anything is amiss.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let mut rest = std::str::from_utf8(text).ok()?.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let value = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" if descr.is_none() => store(&mut descr, quoted(value)?),
                "fortran_order" if fortran_order.is_none() => store(&mut fortran_order, boolean(value)?),
                "shape" if shape.is_none() => store(&mut shape, tuple(value)?),
                _ => return None,
            };
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').map_or(rest, str::trim_start);
        }
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// Keeps a value, and returns the text behind it.
fn store<'a, T>(slot: &mut Option<T>, (value, rest): (T, &'a str)) -> &'a str {
    *slot = Some(value);
    rest
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn boolean(text: &str) -> Option<(bool, &str)> {
    let word = |word, value| text.strip_prefix(word).map(|rest| (value, rest));
    word("True", true).or_else(|| word("False", false))
}

/// `()`, `(3,)` or `(3, 4)`; a last comma may follow.
fn tuple(text: &str) -> Option<(Vec<usize>, &str)> {
    let (inside, rest) = text.strip_prefix('(')?.split_once(')')?;
    let inside = inside.trim();
    if inside.is_empty() {
        return Some((vec![], rest));
    }
    let inside = inside.strip_suffix(',').unwrap_or(inside);
    let lengths: Option<Vec<usize>> = inside.split(',').map(|length| length.trim().parse().ok()).collect();
    Some((lengths?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file as other programs write it.
    fn file(dict: &str, data: &[u8]) -> Vec<u8> {
        let dict = format!("{dict}\n");
        [&b"\x93NUMPY\x01\0"[..], &(dict.len() as u16).to_le_bytes(), dict.as_bytes(), data].concat()
    }

    fn of_type(descr: &str, data: &[u8]) -> Values {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}");
        parse(&file(&dict, data)).unwrap().values
    }

    fn message(bytes: &[u8]) -> String {
        parse(bytes).expect_err("a damaged file").message().to_string()
    }

    #[test]
    fn bytes_are_those_of_numpy() {
        // tests/golden/formats.json, written by numpy.save.
        let golden = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats.json"));
        let golden: serde_json::Value = serde_json::from_str(&golden.unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codes.npy");
        write_f32(&path, [2, 2], [1.0, -1.0, 0.0, 1.0]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden["npy_v1_f4_2x2"].as_str().unwrap());
        assert_eq!(read(&path).unwrap(), Array { shape: vec![2, 2], values: Values::F32(vec![1.0, -1.0, 0.0, 1.0]) });
    }

    #[test]
    fn values_start_at_a_multiple_of_64() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.npy");
        for rows in [0, 1, 10, 1_000, 100_000] {
            write_u8(&path, [rows, 3], (0..rows * 3).map(|i| i as u8)).unwrap();
            let size = std::fs::metadata(&path).unwrap().len() as usize;
            assert_eq!((size - rows * 3) % 64, 0);
            let expected = (0..rows * 3).map(|i| i as u8).collect();
            assert_eq!(read(&path).unwrap(), Array { shape: vec![rows, 3], values: Values::U8(expected) });
        }
    }

    #[test]
    fn a_wrong_number_of_values_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_u8(&folder.path().join("a.npy"), [2, 2], [1, 2, 3]).unwrap_err();
        assert_eq!(error.message(), "3 values for an array of 2 x 2");
    }

    #[test]
    fn each_type_is_read() {
        assert_eq!(of_type("<f4", &[0, 0, 128, 63, 0, 0, 0, 192]), Values::F32(vec![1.0, -2.0]));
        assert_eq!(of_type("<f8", &[1.5f64, -2.0].map(f64::to_le_bytes).concat()), Values::F64(vec![1.5, -2.0]));
        assert_eq!(of_type("<i8", &[-1i64, 5].map(i64::to_le_bytes).concat()), Values::I64(vec![-1, 5]));
        assert_eq!(of_type("|u1", &[1, 255]), Values::U8(vec![1, 255]));
        assert_eq!(of_type("|i1", &[1, 255]), Values::I8(vec![1, -1]));
        assert_eq!(of_type("|b1", &[1, 0]), Values::Bool(vec![true, false]));
        assert_eq!(of_type(">f4", &[1.5f32, -2.0].map(f32::to_be_bytes).concat()), Values::F32(vec![1.5, -2.0]));
        assert_eq!(of_type("<u8", &[u64::MAX, 5].map(u64::to_le_bytes).concat()), Values::U64(vec![u64::MAX, 5]));
        assert_eq!(of_type(">i2", &[-2i16, 5].map(i16::to_be_bytes).concat()), Values::I16(vec![-2, 5]));
        assert_eq!(of_type("<u4", &[7u32, 5].map(u32::to_le_bytes).concat()), Values::U32(vec![7, 5]));
        let array = Array { shape: vec![2], values: Values::I8(vec![-1, 1]) };
        assert_eq!(array.to_f64(), [-1.0, 1.0]);
    }

    #[test]
    fn half_floats_are_exact() {
        // np.array([...], np.float16).view(np.uint16)
        let known = [
            (0x3c00, 1.0),
            (0xbc00, -1.0),
            (0x0000, 0.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in known {
            assert_eq!(from_half(bits), value, "{bits:04x}");
        }
        assert!(from_half(0x7e00).is_nan() && from_half(0x8000).is_sign_negative());
        assert_eq!(of_type("<f2", &[0x3c00u16, 0xbc00].map(u16::to_le_bytes).concat()), Values::F32(vec![1.0, -1.0]));
    }

    #[test]
    fn an_array_in_fortran_order_is_read_by_rows() {
        // np.save of np.asfortranarray(np.arange(6).reshape(2, 3)), and of three dimensions.
        let two = file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", &[0, 3, 1, 4, 2, 5]);
        assert_eq!(parse(&two).unwrap().values, Values::U8(vec![0, 1, 2, 3, 4, 5]));
        let columns: Vec<u8> = (0..24u8).map(|at| at % 2 * 12 + at / 2 % 3 * 4 + at / 6).collect();
        let three = file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4), }", &columns);
        assert_eq!(parse(&three).unwrap().values, Values::U8((0..24).collect()));
        let nothing = file("{'descr': '>f8', 'fortran_order': True, 'shape': (0, 3), }", &[]);
        assert_eq!(parse(&nothing).unwrap(), Array { shape: vec![0, 3], values: Values::F64(vec![]) });
    }

    #[test]
    fn headers_vary_in_what_python_allows() {
        let shape = |dict: &str| parse(&file(dict, &[7; 6])).map(|array| array.shape).unwrap();
        assert_eq!(shape("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }   "), [2, 3]);
        assert_eq!(shape(r#"{"shape":(6,),"fortran_order":True,"descr":"|u1"}"#), [6]);
        assert_eq!(shape("{'descr':'|u1','fortran_order':False,'shape':(1,2,3,)}"), [1, 2, 3]);
        let one = file("{'descr': '|u1', 'fortran_order': False, 'shape': (), }", &[7]);
        assert!(parse(&one).unwrap().shape.is_empty());
        let mut second = file("{'descr': '|u1', 'fortran_order': False, 'shape': (6,), }", &[7; 6]);
        second[6] = 2;
        second.splice(10..10, [0, 0]);
        assert_eq!(parse(&second).unwrap().shape, [6]);
    }

    #[test]
    fn each_fault_has_its_message() {
        let typed = |descr: &str, order: &str, shape: &str| {
            file(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"), &[0; 6])
        };
        assert_eq!(message(b"PK\x03\x04"), "not a NumPy file");
        assert_eq!(message(b"\x93NUMPY\x04\0\x01\0 "), "a NumPy file of version 4.0");
        for descr in ["<c8", "|S3", "|f4", "=f4", "<f3", "", "<M8"] {
            assert_eq!(message(&typed(descr, "False", "(2, 3)")), format!("a NumPy array of type `{descr}`"));
        }
        let (size, header) =
            ("the NumPy file has another size than its header says", "the NumPy file's header makes no sense");
        for shape in ["(2, 4)", "(2,)", "(18446744073709551615, 2)"] {
            assert_eq!(message(&typed("|u1", "False", shape)), size);
        }
        for shape in ["(2, -3)", "(18446744073709551616,)", "6", "(,)", "(2 3)"] {
            assert_eq!(message(&typed("|u1", "False", shape)), header);
        }
        assert_eq!(message(&typed("|u1", "0", "(6,)")), header);
        assert_eq!(message(&file("{'descr': '|u1', 'descr': '|u1'}", &[])), header);
        // A length that was damaged takes the values for a part of the header.
        let mut damaged = file("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }", &[0xee; 70_000]);
        (damaged[8], damaged[9]) = (0xff, 0xff);
        let shown = parse(&damaged).unwrap_err().render("error");
        assert!(shown.contains("(2, 3)") && shown.contains(" more bytes") && shown.len() < 1000, "{shown}");
        assert_eq!(message(&file("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4])), header);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = [head("<f4", &[2, 2]), vec![0; 16]].concat();
        assert!(parse(&bytes).is_ok());
        for length in 0..bytes.len() {
            message(&bytes[..length]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(flips in prop::collection::vec((0usize..96, any::<u8>()), 1..6)) {
            let mut bytes = [head("|u1", &[4, 8]), vec![0; 32]].concat();
            for (place, byte) in flips {
                bytes[place] = byte;
            }
            let _ = parse(&bytes);
        }
    }
}
