//! The stack machine: opcodes to values.

use super::Pickle;
use super::known;
use super::literals;
use super::source::Source;
use super::values::{Id, Node, Values, damaged};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// How many forbidden names are told.
const MAX_TOLD: usize = 12;

struct Machine<'a> {
    source: Source<'a>,
    values: Values<'a>,
    stack: Vec<Id>,
    /// Heights of the stack where marks lie.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Names of objects that are not made.
    refused: BTreeSet<String>,
}

pub(super) fn run(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = Machine {
        source: Source::new(bytes),
        values: Values::new(bytes.len()),
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        refused: BTreeSet::new(),
    };
    let root = loop {
        let at = machine.source.at();
        if let Some(root) = machine.step().map_err(|e| e.note(format!("at byte {at} of the pickle")))? {
            break root;
        }
    };
    if !machine.refused.is_empty() {
        return Err(forbidden(&machine.refused));
    }
    Ok(Pickle { nodes: machine.values.into_nodes(), root, length: machine.source.at() })
}

fn forbidden(names: &BTreeSet<String>) -> Error {
    let told: Vec<&str> = names.iter().take(MAX_TOLD).map(String::as_str).collect();
    let more = names.len().saturating_sub(MAX_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::data("the pickle holds Python objects, not only numbers")
        .note(format!("it needs {}{more}; nothing of it was executed", told.join(", ")))
        .hint("save the weights alone: `torch.save(model.state_dict(), ..)`")
}

impl<'a> Machine<'a> {
    fn step(&mut self) -> Result<Option<Id>> {
        let [opcode] = self.source.take()?;
        match opcode {
            b'.' => return Ok(Some(self.pop()?)),
            0x80 => self.protocol()?,
            0x95 => drop(self.source.take::<8>()?),
            b'(' => self.mark()?,
            b'0' => self.pop_or_mark()?,
            b'1' => drop(self.above_mark()?),
            b'2' => self.duplicate()?,
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => {
                let value = literals::integer(self.source.line()?)?;
                self.push(value)?;
            }
            b'L' => {
                let value = literals::long_digits(self.source.line()?)?;
                self.push(value)?;
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.source.take()?));
                self.push(Node::Int(value))?;
            }
            b'K' => {
                let [value] = self.source.take()?;
                self.push(Node::Int(i64::from(value)))?;
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.source.take()?));
                self.push(Node::Int(value))?;
            }
            0x8a => {
                let value = literals::long(self.source.counted(1)?);
                self.push(value)?;
            }
            0x8b => {
                let value = literals::long(self.source.counted(4)?);
                self.push(value)?;
            }
            b'F' => {
                let value = literals::float(self.source.line()?)?;
                self.push(value)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.source.take()?);
                self.push(Node::Float(value))?;
            }
            b'S' => {
                let text = literals::quoted(&mut self.values, self.source.line()?)?;
                self.push(text)?;
            }
            b'V' => {
                let text = literals::unicode(&mut self.values, self.source.line()?)?;
                self.push(text)?;
            }
            b'U' | b'C' => self.bytes(1)?,
            b'T' | b'B' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
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
                let place = literals::place(self.source.line()?)?;
                self.remember(place)?;
            }
            b'q' => {
                let [place] = self.source.take()?;
                self.remember(u32::from(place))?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.source.take()?);
                self.remember(place)?;
            }
            0x94 => {
                let place = self.memo.len() as u32;
                self.remember(place)?;
            }
            b'g' => {
                let place = literals::place(self.source.line()?)?;
                self.recall(place)?;
            }
            b'h' => {
                let [place] = self.source.take()?;
                self.recall(u32::from(place))?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.source.take()?);
                self.recall(place)?;
            }
            b'c' => {
                let (module, name) = (literals::name(self.source.line()?)?, literals::name(self.source.line()?)?);
                self.global(module, name)?;
            }
            0x93 => self.stack_global()?,
            b'i' => {
                let (module, name) = (literals::name(self.source.line()?)?, literals::name(self.source.line()?)?);
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
                let storage = known::storage(&mut self.values, id)?;
                self.push(storage)?;
            }
            0x98 => {}
            0x82..=0x84 => return Err(damaged("it uses codes of a registry of its own (`copyreg.add_extension`)")),
            0x97 => return Err(damaged("its buffers lie outside of it")),
            other => return Err(damaged(format!("there is no opcode 0x{other:02x}"))),
        }
        Ok(None)
    }

    // The stack.

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.values.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        self.values.linked(1)?;
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
        self.values.linked(2)?;
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
        self.values.linked(4)?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<()> {
        let id = self.memo.get(&place).ok_or_else(|| damaged(format!("nothing was remembered as {place}")))?;
        self.push_id(*id)
    }

    // Values.

    fn protocol(&mut self) -> Result<()> {
        match self.source.take()? {
            [0..=5] => Ok(()),
            [other] => Err(Error::data(format!("a pickle of protocol {other}")).note("protocols 0 to 5 are read")),
        }
    }

    fn bytes(&mut self, width: usize) -> Result<()> {
        let bytes = self.source.counted(width)?;
        self.push(Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn text(&mut self, width: usize) -> Result<()> {
        let text = literals::utf8(self.source.counted(width)?)?;
        self.push(text)
    }

    fn tuple(&mut self, length: usize) -> Result<()> {
        let mut ids = Vec::with_capacity(length);
        for _ in 0..length {
            ids.push(self.pop()?);
        }
        ids.reverse();
        self.values.linked(length)?;
        self.push(Node::Sequence(ids))
    }

    fn sequence(&mut self) -> Result<()> {
        let ids = self.above_mark()?;
        self.values.linked(ids.len())?;
        self.push(Node::Sequence(ids))
    }

    fn dict(&mut self) -> Result<()> {
        let items = self.above_mark()?;
        self.values.linked(items.len())?;
        self.push(Node::Dict(vec![]))?;
        self.set_items(&items)
    }

    fn append(&mut self, values: &[Id]) -> Result<()> {
        let list = self.top()?;
        self.values.linked(values.len())?;
        match self.values.node_mut(list) {
            Node::Sequence(ids) => ids.extend(values),
            Node::Refused => {}
            other => return Err(damaged(format!("it appends to {}", other.kind()))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        self.values.linked(items.len())?;
        let (pairs, []) = items.as_chunks::<2>() else { return Err(damaged("a key without a value")) };
        match self.values.node_mut(dict) {
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
        let (Node::Text(module), Node::Text(name)) = (self.values.node(module), self.values.node(name)) else {
            return Err(damaged("a name that is no text"));
        };
        if module.len() + name.len() > 2000 {
            return Err(damaged("a name that has no end"));
        }
        let (module, name) = (module.to_string(), name.to_string());
        self.global(&module, &name)
    }

    fn call(&mut self, function: Id, arguments: Id) -> Result<()> {
        let node = match (self.values.node(function), self.values.node(arguments)) {
            (Node::Known(known), Node::Sequence(ids)) => {
                let (known, ids) = (*known, ids.clone());
                self.values.linked(ids.len())?;
                known::call(&mut self.values, known, &ids)?
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
        if let Some(node) = known::build(&mut self.values, object, state)? {
            *self.values.node_mut(object) = node;
        }
        Ok(())
    }
}
