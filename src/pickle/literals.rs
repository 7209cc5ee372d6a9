//! Values as their bytes spell them: the numbers and texts of protocol 0, long numbers, UTF-8.

use super::values::{Node, Values, damaged};
use crate::error::Result;
use std::borrow::Cow;

/// A whole number in digits, or a bool as `00` or `01`.
pub(super) fn integer<'a>(line: &[u8]) -> Result<Node<'a>> {
    Ok(match line {
        b"00" => Node::Bool(false),
        b"01" => Node::Bool(true),
        other => Node::Int(number(other)?.parse().map_err(|_| damaged("an integer that is none"))?),
    })
}

/// A whole number in digits as Python 2 wrote it, with an `L`; those beyond 64 bits are not read.
pub(super) fn long_digits<'a>(line: &[u8]) -> Result<Node<'a>> {
    let digits = number(line)?.trim_end_matches('L');
    match digits.parse() {
        Ok(value) => Ok(Node::Int(value)),
        Err(_) if digits.bytes().skip(1).all(|b| b.is_ascii_digit()) && digits.len() > 18 => {
            Ok(Node::Long(Cow::Borrowed(&[])))
        }
        Err(_) => Err(damaged("an integer that is none")),
    }
}

/// A whole number in little-endian bytes, two's complement.
pub(super) fn long(bytes: &[u8]) -> Node<'_> {
    if bytes.len() > 8 {
        return Node::Long(Cow::Borrowed(bytes));
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    Node::Int(bytes.iter().rev().fold(start, |value, byte| value << 8 | i64::from(*byte)))
}

pub(super) fn float<'a>(line: &[u8]) -> Result<Node<'a>> {
    Ok(Node::Float(number(line)?.parse().map_err(|_| damaged("a float that is none"))?))
}

/// A place of the memo, in digits.
pub(super) fn place(line: &[u8]) -> Result<u32> {
    number(line)?.parse().map_err(|_| damaged("a place that is no number"))
}

/// The name of a module, a function or a class.
pub(super) fn name(line: &[u8]) -> Result<&str> {
    std::str::from_utf8(line).map(str::trim_ascii_end).map_err(|_| damaged("a name that is not UTF-8"))
}

fn number(line: &[u8]) -> Result<&str> {
    std::str::from_utf8(line).map(str::trim).map_err(|_| damaged("a number that is none"))
}

pub(super) fn utf8(bytes: &[u8]) -> Result<Node<'_>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Node::Text(Cow::Borrowed(text))),
        // Python writes lone halves of surrogate pairs, which no file of weights has reason to.
        Err(_) => Err(damaged("a text that is not UTF-8")),
    }
}

/// `'text'` as Python 2 and protocol 0 write it: bytes, with escapes.
pub(super) fn quoted<'a>(values: &mut Values, line: &'a [u8]) -> Result<Node<'a>> {
    let inside = match line.trim_ascii() {
        [quote @ (b'\'' | b'"'), inside @ .., last] if quote == last => inside,
        _ => return Err(damaged("a text without quotes")),
    };
    if !inside.contains(&b'\\') {
        return Ok(Node::Bytes(Cow::Borrowed(inside)));
    }
    values.makes(inside.len())?;
    let bytes = unescaped(inside).ok_or_else(|| damaged("a text with an unknown escape"))?;
    Ok(Node::Bytes(Cow::Owned(bytes)))
}

/// A text in Python's `raw-unicode-escape`: Latin-1 with `\u1234`.
pub(super) fn unicode<'a>(values: &mut Values, line: &[u8]) -> Result<Node<'a>> {
    values.makes(line.len())?;
    let mut text = String::new();
    let mut rest = line;
    while let [byte, tail @ ..] = rest {
        let digits = match tail.first() {
            Some(b'u') if *byte == b'\\' => 4,
            Some(b'U') if *byte == b'\\' => 8,
            _ => 0,
        };
        if digits == 0 {
            text.push(char::from(*byte));
            rest = tail;
            continue;
        }
        let code = tail.get(1..=digits).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        text.push(code.ok_or_else(|| damaged("a text with an unknown escape"))?);
        rest = &tail[1 + digits..];
    }
    Ok(Node::Text(Cow::Owned(text)))
}

/// Python's escapes in a text of bytes.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'x' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(bytes.next()?)? << 4 | digit(bytes.next()?)?) as u8
            }
            other @ (b'\\' | b'\'' | b'"') => other,
            _ => return None,
        });
    }
    Some(out)
}
