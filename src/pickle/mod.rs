//! Python pickles as plain data: numbers, text, lists, dictionaries, NumPy arrays and PyTorch tensors. Nothing is executed.
//!
//! A pickle is a program for a stack machine that may call any Python function by name. This one knows the few names
//! that arrays and tensors are made of (`known.rs`), and gives every other one back in an error. Protocols 0 to 5.
//!
//! Values lie in one list and name each other by number: a pickle that holds itself, or nests without end, costs
//! no stack (`values.rs`). Bytes and texts are borrowed from the file; what is made beside them is counted against limits.
//!
//! Sources: the comments of CPython's `Lib/pickletools.py`; `ndarray.__reduce__` of NumPy; `torch/_utils.py`.

mod array;
mod known;
mod literals;
mod machine;
mod source;
mod values;

pub use array::{Array, Number};

use crate::error::Result;
use values::{Id, Node};

/// The data of one pickle.
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
    length: usize,
}

/// A tensor whose numbers lie elsewhere: which storage, and where in it. In elements, not bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The storage's name.
    pub key: String,
    pub number: Number,
    /// The storage's length.
    pub total: usize,
    /// Where the tensor begins.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Steps from one element to the next, per dimension.
    pub strides: Vec<usize>,
}

/// Reads the first pickle of `bytes`; what follows it is not looked at.
///
/// # Errors
/// What is no pickle, is cut short, goes beyond the limits, or needs a Python object that is not on the list: all such
/// names are told at once.
pub fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
    machine::run(bytes)
}

impl<'a> Pickle<'a> {
    /// The whole.
    pub fn root(&self) -> Value<'_, 'a> {
        Value { pickle: self, id: self.root }
    }

    /// Bytes that the pickle took.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// One value of a pickle.
#[derive(Clone, Copy)]
pub struct Value<'p, 'a> {
    pickle: &'p Pickle<'a>,
    id: Id,
}

impl<'p, 'a> Value<'p, 'a> {
    fn node(self) -> &'p Node<'a> {
        &self.pickle.nodes[self.id as usize]
    }

    fn at(self, id: Id) -> Self {
        Self { id, ..self }
    }

    /// A whole number, or a bool as 0 or 1; `None` for those beyond 64 bits.
    pub fn integer(self) -> Option<i64> {
        match self.node() {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// A text. Python 2 wrote texts as bytes: those are taken if they are UTF-8.
    pub fn text(self) -> Option<&'p str> {
        match self.node() {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub fn bytes(self) -> Option<&'p [u8]> {
        match self.node() {
            Node::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The little-endian bytes of a whole number beyond 64 bits.
    pub fn long(self) -> Option<&'p [u8]> {
        match self.node() {
            Node::Long(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A NumPy array.
    pub fn array(self) -> Option<Result<Array<'p>>> {
        match self.node() {
            Node::Array(array) => Some(array.resolve(&self.pickle.nodes)),
            _ => None,
        }
    }

    /// A PyTorch tensor.
    pub fn tensor(self) -> Option<&'p Tensor> {
        match self.node() {
            Node::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Elements of a list, a tuple or a set.
    pub fn elements(self) -> Option<impl ExactSizeIterator<Item = Value<'p, 'a>>> {
        match self.node() {
            Node::Sequence(ids) => Some(ids.iter().map(move |id| self.at(*id))),
            _ => None,
        }
    }

    /// Keys and values of a dictionary, in its order; a key may stand twice, then the last one counts.
    pub fn entries(self) -> Option<impl ExactSizeIterator<Item = (Value<'p, 'a>, Value<'p, 'a>)>> {
        match self.node() {
            Node::Dict(pairs) => Some(pairs.iter().map(move |(key, value)| (self.at(*key), self.at(*value)))),
            _ => None,
        }
    }

    /// The value of a dictionary under a text.
    pub fn get(self, key: &str) -> Option<Value<'p, 'a>> {
        let found = self.entries()?.filter(|(name, _)| name.text() == Some(key)).last();
        found.map(|(_, value)| value)
    }

    /// What it is, in a word, for messages.
    pub fn kind(self) -> &'static str {
        self.node().kind()
    }
}

#[cfg(test)]
mod tests;
