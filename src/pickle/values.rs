//! The values of a pickle, in one list; and how much a pickle may make of them.

use super::Tensor;
use super::array::{Dtype, Raw};
use super::known::Known;
use crate::error::{Error, Result};
use std::borrow::Cow;

/// A value's number.
pub(super) type Id = u32;

/// The most values one pickle may hold. The largest data sets of the field have some hundred thousand.
const MAX_NODES: usize = 4_000_000;

/// The most references from lists, dictionaries, stack and memo to values.
const MAX_LINKS: usize = 16_000_000;

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

/// All values made so far, within the limits.
pub(super) struct Values<'a> {
    nodes: Vec<Node<'a>>,
    links: usize,
    /// Bytes that were made and not borrowed; legitimate files make each byte once.
    made: usize,
    /// The pickle's own length.
    length: usize,
}

impl<'a> Values<'a> {
    /// For a pickle in so many bytes.
    pub(super) fn new(length: usize) -> Self {
        Self { nodes: vec![], links: 0, made: 0, length }
    }

    pub(super) fn into_nodes(self) -> Vec<Node<'a>> {
        self.nodes
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node<'a> {
        &mut self.nodes[id as usize]
    }

    /// A new value.
    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id> {
        if self.nodes.len() == MAX_NODES {
            return Err(Error::data(format!("the pickle has more than {MAX_NODES} values")));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

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
        if self.made > self.length {
            return Err(damaged("it makes more bytes than it has"));
        }
        Ok(())
    }
}

/// The error of a pickle that no Python wrote.
pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::data("the pickle makes no sense").note(what)
}
