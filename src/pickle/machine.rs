//! The stack machine: opcodes to values.

use super::array::{Dtype, Raw};
use super::known::{self, Known};
use super::{Pickle, Tensor};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// A value's number.
pub(super) type Id = u32;

/// The most values one pickle may hold. The largest data sets of the field have some hundred thousand.
const MAX_NODES: usize = 4_000_000;

/// The most references from lists, dictionaries, stack and memo to values.
const MAX_LINKS: usize = 16_000_000;

/// How many forbidden names are told.
const MAX_TOLD: usize = 12;

/// A value; those inside others are named by number.
#[derive(Debug, Clone)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(#[expect(dead_code, reason = "no reader needs one, but a file may hold one")] f64),
    Long(Cow<'a, [u8]>),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// A list, a tuple or a set.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    /// A Python object that is not made.
    Refused,
    Dtype(Dtype),
    /// `numpy.ndarray` before its state came.
    Empty,
    Array(Box<Raw>),
    /// What a persistent id names: a storage.
    Storage(Box<Tensor>),
    Tensor(Box<Tensor>),
}

impl Node<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Sequence(_) => "a sequence",
            Self::Dict(_) => "a dictionary",
            Self::Known(_) => "a function or a class",
            Self::Refused => "an object",
            Self::Dtype(_) => "a NumPy type",
            Self::Empty | Self::Array(_) => "an array",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(super) nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack where marks lie.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    links: usize,
    /// Bytes that were made and not borrowed; legitimate files make each byte once.
    made: usize,
    /// Names of objects that are not made.
    refused: BTreeSet<String>,
}

pub(super) fn run(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: vec![],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        links: 0,
        made: 0,
        refused: BTreeSet::new(),
    };
    let root = loop {
        let at = machine.at;
        if let Some(root) = machine.step().map_err(|e| e.note(format!("at byte {at} of the pickle")))? {
            break root;
        }
    };
    if !machine.refused.is_empty() {
        return Err(forbidden(&machine.refused));
    }
    Ok(Pickle { nodes: machine.nodes, root, length: machine.at })
}

fn forbidden(names: &BTreeSet<String>) -> Error {
    let told: Vec<&str> = names.iter().take(MAX_TOLD).map(String::as_str).collect();
    let more = names.len().saturating_sub(MAX_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::data("the pickle holds Python objects, not only numbers")
        .note(format!("it needs {}{more}; nothing of it was executed", told.join(", ")))
        .hint("save the weights alone: `torch.save(model.state_dict(), ..)`")
}

fn damaged(what: impl Into<String>) -> Error {
    Error::data("the pickle makes no sense").note(what)
}

impl<'a> Machine<'a> {
    fn step(&mut self) -> Result<Option<Id>> {
        let [opcode] = self.take()?;
        match opcode {
            b'.' => return Ok(Some(self.pop()?)),
            0x80 => self.protocol()?,
            0x95 => drop(self.take::<8>()?),
            b'(' => self.mark()?,
            b'0' => self.pop_or_mark()?,
            b'1' => drop(self.above_mark()?),
            b'2' => self.duplicate()?,
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => self.integer_line()?,
            b'L' => self.long_line()?,
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.take()?));
                self.push(Node::Int(value))?;
            }
            b'K' => {
                let [value] = self.take()?;
                self.push(Node::Int(i64::from(value)))?;
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.take()?));
                self.push(Node::Int(value))?;
            }
            0x8a => {
                let [length] = self.take()?;
                self.long(usize::from(length))?;
            }
            0x8b => {
                let length = self.length(4)?;
                self.long(length)?;
            }
            b'F' => {
                let value = ascii(self.line()?)?.parse().map_err(|_| damaged("a float that is none"))?;
                self.push(Node::Float(value))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(value))?;
            }
            b'S' => self.quoted_line()?,
            b'V' => self.unicode_line()?,
            b'U' | b'C' => self.counted_bytes(1)?,
            b'T' | b'B' => self.counted_bytes(4)?,
            0x8e | 0x96 => self.counted_bytes(8)?,
            0x8c => self.counted_text(1)?,
            b'X' => self.counted_text(4)?,
            0x8d => self.counted_text(8)?,
            b'}' => self.push(Node::Dict(vec![]))?,
            b']' | b')' | 0x8f => self.push(Node::Sequence(vec![]))?,
            b'd' => self.dict()?,
            b'l' | b't' | 0x91 => self.sequence()?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'a' => {
                let value = self.pop()?;
                self.append(&[value])?;
            }
            b'e' | 0x90 => {
                let values = self.above_mark()?;
                self.append(&values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'p' => {
                let place = line_number(self.line()?)?;
                self.remember(place)?;
            }
            b'q' => {
                let [place] = self.take()?;
                self.remember(u32::from(place))?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.take()?);
                self.remember(place)?;
            }
            0x94 => {
                let place = self.memo.len() as u32;
                self.remember(place)?;
            }
            b'g' => {
                let place = line_number(self.line()?)?;
                self.recall(place)?;
            }
            b'h' => {
                let [place] = self.take()?;
                self.recall(u32::from(place))?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.take()?);
                self.recall(place)?;
            }
            b'c' => {
                let (module, name) = (text_line(self.line()?)?, text_line(self.line()?)?);
                self.global(module, name)?;
            }
            0x93 => self.stack_global()?,
            b'i' => {
                let (module, name) = (text_line(self.line()?)?, text_line(self.line()?)?);
                self.above_mark()?;
                self.object(module, name)?;
            }
            b'o' => {
                self.above_mark()?;
                self.push(Node::Refused)?;
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, arguments)?;
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                self.build(object, state)?;
            }
            b'P' => return Err(damaged("a persistent id as a line of text")),
            b'Q' => {
                let id = self.pop()?;
                let storage = known::storage(self, id)?;
                self.push(storage)?;
            }
            0x98 => {}
            0x82..=0x84 => return Err(damaged("it uses codes of a registry of its own (`copyreg.add_extension`)")),
            0x97 => return Err(damaged("its buffers lie outside of it")),
            other => return Err(damaged(format!("there is no opcode 0x{other:02x}"))),
        }
        Ok(None)
    }

    // Bytes.

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let chunk = self.bytes[self.at..].first_chunk().ok_or_else(cut)?;
        self.at += N;
        Ok(*chunk)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let slice = self.bytes[self.at..].get(..length).ok_or_else(cut)?;
        self.at += length;
        Ok(slice)
    }

    /// A length of 1, 4 or 8 bytes.
    fn length(&mut self, width: usize) -> Result<usize> {
        let length = self.slice(width)?.iter().rev().fold(0u64, |length, byte| length << 8 | u64::from(*byte));
        usize::try_from(length).map_err(|_| cut())
    }

    /// The text up to the end of its line.
    fn line(&mut self) -> Result<&'a [u8]> {
        let end = memchr::memchr(b'\n', &self.bytes[self.at..]).ok_or_else(cut)?;
        let line = self.slice(end)?;
        self.at += 1;
        Ok(line)
    }

    // The stack.

    /// Counts references that are kept.
    pub(super) fn linked(&mut self, count: usize) -> Result<()> {
        self.links += count;
        if self.links > MAX_LINKS {
            return Err(Error::data(format!("the pickle has more than {MAX_LINKS} references")));
        }
        Ok(())
    }

    /// Counts bytes that are not borrowed from the file.
    pub(super) fn makes(&mut self, bytes: usize) -> Result<()> {
        self.made += bytes;
        if self.made > self.bytes.len() {
            return Err(damaged("it makes more bytes than it has"));
        }
        Ok(())
    }

    /// A new value, not yet on the stack.
    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id> {
        if self.nodes.len() == MAX_NODES {
            return Err(Error::data(format!("the pickle has more than {MAX_NODES} values")));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        self.linked(1)?;
        self.stack.push(id);
        Ok(())
    }

    /// Height below which the stack belongs to a mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => Err(damaged("it takes from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_or_mark(&mut self) -> Result<()> {
        if !self.marks.is_empty() && self.stack.len() == self.floor() {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    fn mark(&mut self) -> Result<()> {
        self.linked(2)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn above_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn duplicate(&mut self) -> Result<()> {
        let id = self.top()?;
        self.push_id(id)
    }

    fn remember(&mut self, place: u32) -> Result<()> {
        let id = self.top()?;
        // An entry of the table costs about four numbers.
        self.linked(4)?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<()> {
        let id = self.memo.get(&place).ok_or_else(|| damaged(format!("nothing was remembered as {place}")))?;
        self.push_id(*id)
    }

    // Values.

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take()? {
            [0..=5] => Ok(()),
            [other] => Err(Error::data(format!("a pickle of protocol {other}")).note("protocols 0 to 5 are read")),
        }
    }

    fn integer_line(&mut self) -> Result<()> {
        let node = match self.line()? {
            b"00" => Node::Bool(false),
            b"01" => Node::Bool(true),
            other => Node::Int(ascii(other)?.parse().map_err(|_| damaged("an integer that is none"))?),
        };
        self.push(node)
    }

    fn long_line(&mut self) -> Result<()> {
        let digits = ascii(self.line()?)?.trim_end_matches('L');
        match digits.parse() {
            Ok(value) => self.push(Node::Int(value)),
            Err(_) if digits.bytes().skip(1).all(|b| b.is_ascii_digit()) && digits.len() > 18 => {
                self.push(Node::Long(Cow::Borrowed(&[])))
            }
            Err(_) => Err(damaged("an integer that is none")),
        }
    }

    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        let node = if length <= 8 {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let start = if negative { -1 } else { 0 };
            Node::Int(bytes.iter().rev().fold(start, |value, byte| value << 8 | i64::from(*byte)))
        } else {
            Node::Long(Cow::Borrowed(bytes))
        };
        self.push(node)
    }

    fn counted_bytes(&mut self, width: usize) -> Result<()> {
        let length = self.length(width)?;
        let bytes = self.slice(length)?;
        self.push(Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn counted_text(&mut self, width: usize) -> Result<()> {
        let length = self.length(width)?;
        let bytes = self.slice(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Text(Cow::Borrowed(text))),
            // Python writes lone halves of surrogate pairs, which no file of weights has reason to.
            Err(_) => Err(damaged("a text that is not UTF-8")),
        }
    }

    /// `'text'` as Python 2 and protocol 0 write it: bytes, with escapes.
    fn quoted_line(&mut self) -> Result<()> {
        let line = self.line()?.trim_ascii();
        let inside = match line {
            [quote @ (b'\'' | b'"'), inside @ .., last] if quote == last => inside,
            _ => return Err(damaged("a text without quotes")),
        };
        if !inside.contains(&b'\\') {
            return self.push(Node::Bytes(Cow::Borrowed(inside)));
        }
        self.makes(inside.len())?;
        let bytes = unescaped(inside).ok_or_else(|| damaged("a text with an unknown escape"))?;
        self.push(Node::Bytes(Cow::Owned(bytes)))
    }

    /// A text in Python's `raw-unicode-escape`: Latin-1 with `\u1234`.
    fn unicode_line(&mut self) -> Result<()> {
        let line = self.line()?;
        self.makes(line.len())?;
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
        self.push(Node::Text(Cow::Owned(text)))
    }

    fn tuple(&mut self, length: usize) -> Result<()> {
        let mut ids = Vec::with_capacity(length);
        for _ in 0..length {
            ids.push(self.pop()?);
        }
        ids.reverse();
        self.linked(length)?;
        self.push(Node::Sequence(ids))
    }

    fn sequence(&mut self) -> Result<()> {
        let ids = self.above_mark()?;
        self.linked(ids.len())?;
        self.push(Node::Sequence(ids))
    }

    fn dict(&mut self) -> Result<()> {
        let items = self.above_mark()?;
        self.linked(items.len())?;
        self.push(Node::Dict(vec![]))?;
        self.set_items(&items)
    }

    fn append(&mut self, values: &[Id]) -> Result<()> {
        let list = self.top()?;
        self.linked(values.len())?;
        match &mut self.nodes[list as usize] {
            Node::Sequence(ids) => ids.extend(values),
            Node::Refused => {}
            other => return Err(damaged(format!("it appends to {}", other.kind()))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        self.linked(items.len())?;
        let (pairs, []) = items.as_chunks::<2>() else { return Err(damaged("a key without a value")) };
        match &mut self.nodes[dict as usize] {
            Node::Dict(entries) => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Node::Refused => {}
            other => return Err(damaged(format!("it sets a key of {}", other.kind()))),
        }
        Ok(())
    }

    // Python objects.

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match known::find(module, name) {
            Some(known) => self.push(Node::Known(known)),
            None => self.object(module, name),
        }
    }

    /// An object that is not made: its name is told in the end.
    fn object(&mut self, module: &str, name: &str) -> Result<()> {
        let text: String = format!("{module}.{name}").chars().filter(|c| !c.is_control()).take(100).collect();
        if self.refused.len() < 1000 {
            self.refused.insert(format!("`{text}`"));
        }
        self.push(Node::Refused)
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Node::Text(module), Node::Text(name)) = (self.node(module), self.node(name)) else {
            return Err(damaged("a name that is no text"));
        };
        if module.len() + name.len() > 2000 {
            return Err(damaged("a name that has no end"));
        }
        let (module, name) = (module.to_string(), name.to_string());
        self.global(&module, &name)
    }

    fn call(&mut self, function: Id, arguments: Id) -> Result<()> {
        let node = match (self.node(function), self.node(arguments)) {
            (Node::Known(known), Node::Sequence(ids)) => {
                let (known, ids) = (*known, ids.clone());
                self.linked(ids.len())?;
                known::call(self, known, &ids)?
            }
            // Whatever is made of an object that is not made.
            (Node::Refused, _) => Node::Refused,
            (other, _) => return Err(damaged(format!("it calls {}", other.kind()))),
        };
        if matches!(node, Node::Refused) && self.refused.is_empty() {
            return Err(damaged("it calls what it has not named"));
        }
        self.push(node)
    }

    fn build(&mut self, object: Id, state: Id) -> Result<()> {
        if let Some(node) = known::build(self, object, state)? {
            self.nodes[object as usize] = node;
        }
        Ok(())
    }
}

fn cut() -> Error {
    Error::data("the pickle is cut short").hint("copy or download the file again")
}

fn ascii(line: &[u8]) -> Result<&str> {
    std::str::from_utf8(line).map(str::trim).map_err(|_| damaged("a number that is none"))
}

fn text_line(line: &[u8]) -> Result<&str> {
    std::str::from_utf8(line).map(str::trim_ascii_end).map_err(|_| damaged("a name that is not UTF-8"))
}

fn line_number(line: &[u8]) -> Result<u32> {
    ascii(line)?.parse().map_err(|_| damaged("a place that is no number"))
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
