//! Codes from a file of hashpipe's or from an array.

use crate::codefile;
use crate::error::{Error, Place, Result};
use crate::npy::{self, Array, Values};
use crate::retrieval::{self, Codes, Header, Quantisation};
use std::path::Path;

/// What the numbers of an array are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// Told by the type: bool is `Bits`, floats and signed integers are `Signs`, or `Bits` if none is negative; unsigned
    /// integers are `Packed`.
    #[default]
    Auto,
    /// -1, 0 and +1, a number for each bit. 0 is neither.
    Signs,
    /// 0 and 1, a number for each bit.
    Bits,
    /// As many bits in a number as its type has.
    Packed,
    /// Outputs of a network, whose signs are the code.
    Outputs,
}

/// Which bit of a packed number comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BitOrder {
    /// Bit `j` of a code is bit `j % width` of number `j / width`, counted from the least: `np.packbits(..,
    /// bitorder="little")`, and how hashpipe writes them.
    #[default]
    Little,
    /// Counted from the greatest: `np.packbits` as it comes.
    Big,
}

/// How an array of codes is to be read. Distances do not depend on the order of bits, as long as both sides have the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    pub layout: Layout,
    pub order: BitOrder,
    /// Length of a packed code, where the last number is not full.
    pub bits: Option<usize>,
}

/// Codes, and what there is to know of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadCodes {
    pub codes: Codes,
    /// Numbers that were exactly 0 where -1 or +1 was expected: the codes are ternary.
    pub zeros: u64,
    /// Of network outputs.
    pub quantisation: Option<Quantisation>,
    /// Digest of the list that they were made from, if they know it.
    pub list: Option<String>,
    /// What was read, for a person: `float32 (5000, 64), signs`.
    pub form: String,
}

/// Bytes of a codes file from which it is mapped, so that it may be larger than memory; its digest is then not checked.
const MAPPED_FROM: u64 = 1 << 30;

/// Reads codes of whatever form the file has.
///
/// # Errors
/// What is no array of codes, with row and column where one number is at fault; what can be meant in two ways.
pub fn read_codes(path: &Path, reading: Reading) -> Result<ReadCodes> {
    if !npy::is_npy(path) {
        let order = match reading.order {
            BitOrder::Little => codefile::BitOrder::Little,
            BitOrder::Big => codefile::BitOrder::Big,
        };
        let options = codefile::Options { bits: reading.bits, order, ..codefile::Options::default() };
        let (codes, zeros, list, form) = if let Some((codes, header)) = mapped(path)? {
            (codes, header.zeros, header.provenance.list, "codes file, mapped".to_string())
        } else {
            let (set, format) = codefile::read(path, &options)?;
            // Only hashpipe's own files know their list.
            let list = if format.name == "hashpipe" { retrieval::read(path)?.1.provenance.list } else { None };
            (set.codes, set.zeros, list, format.about.to_string())
        };
        if let Some(bits) = reading.bits.filter(|bits| *bits != codes.bits()) {
            let message = format!("`{}` has codes of {} bits and not of {bits}", path.display(), codes.bits());
            return Err(Error::data(message).hint("leave `--bits` out: the file knows"));
        }
        return Ok(ReadCodes { codes, zeros, quantisation: None, list, form });
    }
    of_array(&npy::read(path)?, reading).map_err(|error| error.at(Place::Path(path.display().to_string())))
}

/// The codes of a large codes file of hashpipe's; `None` if the file is small or something else.
fn mapped(path: &Path) -> Result<Option<(Codes, Header)>> {
    if !path.metadata().is_ok_and(|found| found.len() >= MAPPED_FROM) {
        return Ok(None);
    }
    match retrieval::map(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.message() == "not a codes file" => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_array(array: &Array, reading: Reading) -> Result<ReadCodes> {
    let layout = match reading.layout {
        Layout::Auto => told_by_type(array)?,
        layout => layout,
    };
    let unsigned = matches!(array.values, Values::U8(_) | Values::U16(_) | Values::U32(_) | Values::U64(_));
    let (rows, columns) = match (&array.shape[..], layout) {
        (&[rows, columns], _) => (rows, columns),
        (&[], _) => return Err(Error::data("one number is no array of codes")),
        (&[_], Layout::Packed) => {
            return Err(Error::data(format!("an array of shape {}", shape(array)))
                .note("it may be one code of many numbers, or many codes of one number")
                .hint("say which: `array.reshape(1, -1)` or `array.reshape(-1, 1)`"));
        }
        (&[columns], _) => (1, columns),
        _ => {
            return Err(Error::data(format!("an array of shape {} is no array of codes", shape(array)))
                .hint("codes have two dimensions: (items, bits), or (items, numbers) if packed"));
        }
    };
    let word = match layout {
        Layout::Packed => "packed",
        Layout::Signs => "signs",
        Layout::Outputs => "outputs",
        _ => "bits",
    };
    let form = format!("{} {}, {word}", array.values.type_name(), shape(array));
    if layout == Layout::Packed {
        if !unsigned {
            return Err(Error::data(format!("packed codes of type {}", array.values.type_name()))
                .hint("packed codes are unsigned: `array.view(np.uint8)`, or uint64 from int64"));
        }
        let codes = unpack(array, rows, columns, reading)?;
        return Ok(ReadCodes { codes, zeros: 0, quantisation: None, list: None, form });
    }
    if reading.bits.is_some_and(|bits| bits != columns) {
        let bits = reading.bits.unwrap_or_default();
        return Err(Error::data(format!("{columns} numbers a row, but codes of {bits} bits were asked for"))
            .note(format!("the array is {form}"))
            .hint("`--bits` is for packed codes, whose last number is not full"));
    }
    of_numbers(&array.to_f64(), [rows, columns], layout, form)
}

/// What the type says of the numbers, and the numbers themselves where it leaves a choice.
fn told_by_type(array: &Array) -> Result<Layout> {
    let unsigned = matches!(array.values, Values::U8(_) | Values::U16(_) | Values::U32(_) | Values::U64(_));
    let several = array.shape.last().is_some_and(|columns| *columns > 1);
    let looks_unpacked = unsigned && several && array.to_f64().iter().all(|x| *x <= 1.0);
    match &array.values {
        Values::Bool(_) => Ok(Layout::Bits),
        _ if looks_unpacked => Err(Error::data(format!("a {} array of nothing but 0 and 1", array.values.type_name()))
            .note("numbers of this type are packed codes, but these look like one number for each bit")
            .hint("say which: `--layout bits` or `--layout packed`")),
        _ if unsigned => Ok(Layout::Packed),
        _ => {
            // Signs without a single -1 are 0 and 1 in all practice.
            let negative = array.to_f64().iter().any(|x| *x < 0.0);
            Ok(if negative { Layout::Signs } else { Layout::Bits })
        }
    }
}

fn of_numbers(numbers: &[f64], [rows, columns]: [usize; 2], layout: Layout, form: String) -> Result<ReadCodes> {
    let fits = |x: f64| match layout {
        Layout::Signs => x == -1.0 || x == 0.0 || x == 1.0,
        Layout::Outputs => x.is_finite(),
        _ => x == 0.0 || x == 1.0,
    };
    if let Some(at) = numbers.iter().position(|x| !fits(*x)) {
        let (row, column) = (at / columns, at % columns);
        let expected = match layout {
            Layout::Signs => "-1, 0 or +1",
            Layout::Outputs => "a finite number",
            _ => "0 or 1",
        };
        let error = Error::data(format!("row {row}, column {column} is {}, expected {expected}", numbers[at]))
            .note(format!("the array is {form}; rows and columns are counted from 0"));
        return Err(match layout {
            Layout::Outputs => error,
            _ => error.hint("if these are outputs of a network, `--layout outputs` takes their signs"),
        });
    }
    let signed = layout != Layout::Bits;
    let mut codes = Codes::new(columns)?;
    let (mut zeros, mut row) = (0, Vec::with_capacity(columns));
    for i in 0..rows {
        row.clear();
        // Only the sign is kept; as f32, the smallest numbers of f64 would be 0.
        let sign = |x: &f64| if *x > 0.0 { 1.0 } else { -f32::from(u8::from(*x < 0.0 || !signed)) };
        row.extend(numbers[i * columns..(i + 1) * columns].iter().map(sign));
        zeros += codes.push_ternary(&row)? as u64;
    }
    let quantisation = (layout == Layout::Outputs).then(|| Quantisation::of(numbers, columns));
    Ok(ReadCodes { codes, zeros, quantisation, list: None, form })
}

/// Codes from numbers that hold several bits each.
fn unpack(array: &Array, rows: usize, columns: usize, reading: Reading) -> Result<Codes> {
    let (width, numbers): (usize, Vec<u64>) = match &array.values {
        Values::U8(values) => (8, values.iter().map(|x| u64::from(*x)).collect()),
        Values::U16(values) => (16, values.iter().map(|x| u64::from(*x)).collect()),
        Values::U32(values) => (32, values.iter().map(|x| u64::from(*x)).collect()),
        Values::U64(values) => (64, values.clone()),
        _ => (1, vec![]),
    };
    let bits = reading.bits.unwrap_or(columns * width);
    if bits.div_ceil(width) != columns {
        let (least, most) = ((columns.saturating_sub(1) * width + 1), columns * width);
        return Err(Error::data(format!("{columns} numbers of {width} bits a row do not make codes of {bits} bits"))
            .note(format!("they make codes of {least} to {most} bits"))
            .hint("give the length that the codes have with `--bits`"));
    }
    let row_bytes = bits.div_ceil(8);
    let mut bytes = Vec::with_capacity(rows * row_bytes);
    for row in numbers.chunks_exact(columns.max(1)) {
        let little = row.iter().map(|number| match reading.order {
            BitOrder::Little => *number,
            BitOrder::Big => number.reverse_bits() >> (64 - width),
        });
        let all: Vec<u8> = little.flat_map(|number| number.to_le_bytes().into_iter().take(width / 8)).collect();
        // Whole bytes beyond the code's end; what is left of its last byte is checked with the codes.
        if all[row_bytes..].iter().any(|byte| *byte != 0) {
            return Err(padding(bytes.len() / row_bytes, bits));
        }
        bytes.extend(&all[..row_bytes]);
    }
    Codes::from_packed_bytes(bits, &bytes).map_err(|refusal| match refusal {
        retrieval::Refusal::Padding { code } => padding(code, bits),
        refusal => refusal.into(),
    })
}

fn padding(code: usize, bits: usize) -> Error {
    Error::data(format!("code {code} has bits set beyond its {bits}"))
        .hint("check `--bits`, and `--bit-order big` if the codes come from `np.packbits` as it is")
}

/// A shape as Python writes it.
fn shape(array: &Array) -> String {
    let lengths: Vec<String> = array.shape.iter().map(ToString::to_string).collect();
    let comma = if lengths.len() == 1 { "," } else { "" };
    format!("({}{comma})", lengths.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: Values) -> Array {
        Array { shape: shape.to_vec(), values }
    }

    fn read(array: &Array) -> ReadCodes {
        of_array(array, Reading::default()).unwrap()
    }

    fn refused(array: &Array, reading: Reading) -> String {
        of_array(array, reading).unwrap_err().render("error")
    }

    fn rows(codes: &Codes) -> Vec<String> {
        let bit = |i, j| if codes.bit(i, j) { '1' } else { '0' };
        (0..codes.len()).map(|i| (0..codes.bits()).map(|j| bit(i, j)).collect()).collect()
    }

    #[test]
    fn the_same_codes_are_read_from_every_form() {
        // Three codes of ten bits.
        let bits = ["1010000001", "0000000000", "1111111110"];
        let flat: Vec<bool> = bits.iter().flat_map(|code| code.chars().map(|c| c == '1')).collect();
        let signs = |one: &bool| if *one { 1.0 } else { -1.0 };
        let number = |one: &bool| f64::from(u8::from(*one));
        let shape = [3, 10];
        let forms = [
            Values::Bool(flat.clone()),
            Values::F32(flat.iter().map(|b| signs(b) as f32).collect()),
            Values::F64(flat.iter().map(signs).collect()),
            Values::F64(flat.iter().map(number).collect()),
            Values::I8(flat.iter().map(|b| signs(b) as i8).collect()),
            Values::I64(flat.iter().map(|b| number(b) as i64).collect()),
        ];
        for values in forms {
            let found = read(&array(&shape, values));
            assert_eq!((rows(&found.codes), found.zeros), (bits.map(String::from).to_vec(), 0), "{}", found.form);
        }
        let layout = |layout| Reading { layout, ..Reading::default() };
        let unpacked = array(&shape, Values::U8(flat.iter().map(|b| u8::from(*b)).collect()));
        assert_eq!(rows(&of_array(&unpacked, layout(Layout::Bits)).unwrap().codes), bits);
        // np.packbits(bits, axis=1), and the same with bitorder="little"; as numbers of 16 and 64 bits.
        let bytes = |order: BitOrder| -> Vec<u8> {
            let byte = |part: &[bool]| {
                let set = part.iter().enumerate().filter(|(_, one)| **one);
                set.map(|(j, _)| if order == BitOrder::Little { 1 << j } else { 128 >> j }).sum()
            };
            flat.chunks(10).flat_map(|code| code.chunks(8)).map(byte).collect()
        };
        for order in [BitOrder::Little, BitOrder::Big] {
            let packed = array(&[3, 2], Values::U8(bytes(order)));
            let found = of_array(&packed, Reading { order, bits: Some(10), ..Reading::default() }).unwrap();
            assert_eq!(rows(&found.codes), bits, "{order:?}");
        }
        let words: Vec<u64> =
            bytes(BitOrder::Little).chunks(2).map(|code| u64::from(code[0]) | u64::from(code[1]) << 8).collect();
        let ten = Reading { bits: Some(10), ..Reading::default() };
        assert_eq!(rows(&of_array(&array(&[3, 1], Values::U64(words.clone())), ten).unwrap().codes), bits);
        let short = array(&[3, 1], Values::U16(words.iter().map(|word| *word as u16).collect()));
        assert_eq!(rows(&of_array(&short, ten).unwrap().codes), bits);
        let big = array(&[3, 1], Values::U64(words.iter().map(|word| word.reverse_bits()).collect()));
        let found = of_array(&big, Reading { order: BitOrder::Big, ..ten }).unwrap();
        assert_eq!(rows(&found.codes), bits);
    }

    #[test]
    fn zeros_among_signs_are_neither() {
        let found = read(&array(&[2, 3], Values::F32(vec![1.0, 0.0, -1.0, -0.0, 1.0, 1.0])));
        let signs: Vec<f32> = (0..2).flat_map(|i| found.codes.unpack(i)).collect();
        assert_eq!((found.zeros, signs), (2, vec![1.0, 0.0, -1.0, 0.0, 1.0, 1.0]));
    }

    #[test]
    fn outputs_become_signs_if_that_is_said() {
        let outputs = array(&[1, 4], Values::F64(vec![0.5, -2.0, 1e-300, -1.0]));
        assert!(refused(&outputs, Reading::default()).contains("row 0, column 0 is 0.5, expected -1, 0 or +1"));
        let found = of_array(&outputs, Reading { layout: Layout::Outputs, ..Reading::default() }).unwrap();
        assert_eq!((rows(&found.codes), found.zeros), (vec!["1010".to_string()], 0));
        let quantisation = found.quantisation.unwrap();
        assert!((quantisation.mean_squared - (0.25 + 1.0 + 1.0 + 0.0) / 4.0).abs() < 1e-12, "{quantisation:?}");
    }

    #[test]
    fn what_can_be_meant_in_two_ways_is_refused() {
        for (found, words) in [
            (array(&[2, 2], Values::U8(vec![0, 1, 1, 0])), "say which: `--layout bits` or `--layout packed`"),
            (array(&[4], Values::U64(vec![9; 4])), "`array.reshape(1, -1)` or `array.reshape(-1, 1)`"),
            (array(&[2, 1, 2], Values::F32(vec![1.0; 4])), "shape (2, 1, 2) is no array of codes"),
            (array(&[1, 2], Values::F32(vec![1.0, f32::NAN])), "row 0, column 1 is NaN, expected 0 or 1"),
            (array(&[1, 2], Values::I64(vec![-5, 1])), "row 0, column 0 is -5, expected -1, 0 or +1"),
            (array(&[1, 1025], Values::Bool(vec![true; 1025])), "codes of 1025 bits, where 1 to 1024 are possible"),
        ] {
            let text = refused(&found, Reading::default());
            assert!(text.contains(words), "{text}");
        }
        let reading = |bits| Reading { bits: Some(bits), ..Reading::default() };
        let packed = array(&[1, 2], Values::U8(vec![255, 4]));
        let text = refused(&packed, reading(20));
        assert!(text.contains("2 numbers of 8 bits a row do not make codes of 20 bits"), "{text}");
        assert!(refused(&packed, reading(10)).contains("code 0 has bits set beyond its 10"));
        assert!(refused(&array(&[1, 1], Values::U64(vec![1 << 40])), reading(10)).contains("beyond its 10"));
        assert!(refused(&array(&[1, 2], Values::F32(vec![1.0; 2])), reading(10)).contains("2 numbers a row"));
        let signed = array(&[1, 2], Values::I8(vec![3, 4]));
        let text = refused(&signed, Reading { layout: Layout::Packed, ..Reading::default() });
        assert!(text.contains("packed codes of type int8"), "{text}");
    }
}
