//! What programs of the field call the tensors of a hashing network.

use super::{Tensor, WeightFile};
use crate::error::{Error, Result};

/// A way to name them. Convolutions are `features.I` everywhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    pub name: &'static str,
    pub about: &'static str,
    /// Beginnings of names: ours and theirs; the first that fits counts.
    prefixes: &'static [(&'static str, &'static str)],
    /// Whether its linear layers' weights are `[in, out]`, whatever the format.
    transposed: bool,
}

/// Every way.
pub static LAYOUTS: &[Layout] = &[
    Layout { name: "hashpipe", about: "torchvision's names, and `hash`", prefixes: &[], transposed: false },
    Layout {
        name: "torchvision",
        about: "torchvision's AlexNet, whose last layer gives the code",
        prefixes: &[("hash", "classifier.6")],
        transposed: false,
    },
    Layout {
        name: "deephash",
        about: "DeepHash-pytorch: `hash_layer.1`, `.4` and `.6`",
        prefixes: &[("hash", "hash_layer.6"), ("classifier", "hash_layer")],
        transposed: false,
    },
    Layout {
        name: "paddle_hashnet",
        about: "paddle_hashnet: `classifier_plus.1`, `.4` and `.6`, transposed",
        prefixes: &[("hash", "classifier_plus.6"), ("classifier", "classifier_plus")],
        transposed: true,
    },
];

/// What wrappers put in front of every name.
const WRAPPED: [&str; 4] = ["module.", "_orig_mod.", "model.", "net."];

fn swapped(name: &str, from: &str, to: &str) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    rest.starts_with('.').then(|| format!("{to}{rest}"))
}

impl Layout {
    /// The layout with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> Result<&'static Self> {
        LAYOUTS.iter().find(|layout| layout.name == name).ok_or_else(|| {
            let names: Vec<&str> = LAYOUTS.iter().map(|layout| layout.name).collect();
            Error::input(format!("there are no names `{name}`")).note(format!("there are {}", names.join(", ")))
        })
    }

    /// Their name of one of our tensors.
    pub fn theirs(&self, ours: &str) -> String {
        let found = self.prefixes.iter().find_map(|(our, their)| swapped(ours, our, their));
        found.unwrap_or_else(|| ours.to_string())
    }

    /// Our name of one of their tensors.
    pub fn ours(&self, theirs: &str) -> String {
        let found = self.prefixes.iter().find_map(|(our, their)| swapped(theirs, their, our));
        found.unwrap_or_else(|| theirs.to_string())
    }

    /// Whether linear weights are `[in, out]` under these names in a file of this format.
    pub fn is_transposed(&self, format: &super::Format) -> bool {
        self.transposed || format.transposed
    }

    /// Which one a file's names are of.
    pub fn guess(file: &WeightFile) -> &'static Self {
        let wrapper = wrapper(file);
        let has = |prefix: &str| file.tensors().iter().any(|t| bare(&t.name, wrapper).starts_with(prefix));
        let index = match () {
            () if has("hash.") => 0,
            () if has("hash_layer.") => 2,
            () if has("classifier_plus.") => 3,
            () => 1,
        };
        &LAYOUTS[index]
    }
}

/// What stands in front of every name of a file.
fn wrapper(file: &WeightFile) -> &'static str {
    let all =
        |prefix: &&&str| !file.tensors().is_empty() && file.tensors().iter().all(|t| t.name.starts_with(**prefix));
    WRAPPED.iter().find(all).copied().unwrap_or_default()
}

fn bare<'n>(name: &'n str, wrapper: &str) -> &'n str {
    name.strip_prefix(wrapper).unwrap_or(name)
}

/// What each tensor of a file is called here, in the order of the file.
pub fn here(file: &WeightFile) -> Vec<String> {
    let (layout, wrapper) = (Layout::guess(file), wrapper(file));
    file.tensors().iter().map(|tensor| layout.ours(bare(&tensor.name, wrapper))).collect()
}

/// A tensor's name and shape under other names and in another format, and whether its numbers change places.
pub fn rename(file: &WeightFile, tensor: &Tensor, to: &Layout, format: &super::Format) -> (String, Vec<usize>, bool) {
    let from = Layout::guess(file);
    let name = to.theirs(&from.ours(bare(&tensor.name, wrapper(file))));
    let turns = tensor.shape.len() == 2 && from.is_transposed(file.format()) != to.is_transposed(format);
    let mut shape = tensor.shape.clone();
    if turns {
        shape.reverse();
    }
    (name, shape, turns)
}

/// A tensor that a network needs: our name, PyTorch's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub shape: Vec<usize>,
}

/// How a file's tensors serve a network.
#[derive(Debug)]
pub struct Fit {
    pub layout: &'static Layout,
    /// For each tensor wanted, its position in the file, and whether its rows and columns are the other way round.
    taken: Vec<Option<(usize, bool)>>,
    /// What is wrong, one line for each tensor that is missing or of another shape.
    pub wrong: Vec<String>,
    /// Tensors that are not wanted.
    pub extra: Vec<String>,
}

/// Finds the tensors that are wanted, under whatever names the file has for them.
pub fn fit(file: &WeightFile, wanted: &[Wanted]) -> Fit {
    let (layout, wrapper) = (Layout::guess(file), wrapper(file));
    let mut fit = Fit { layout, taken: vec![], wrong: vec![], extra: vec![] };
    let mut used = vec![false; file.tensors().len()];
    for Wanted { name, shape } in wanted {
        let theirs = layout.theirs(name);
        let known_as = if theirs == *name { String::new() } else { format!(" (here `{theirs}`)") };
        let found = file.tensors().iter().position(|tensor| bare(&tensor.name, wrapper) == theirs);
        let Some(index) = found else {
            fit.wrong.push(format!("`{name}`{known_as} {shape:?} is missing"));
            fit.taken.push(None);
            continue;
        };
        used[index] = true;
        let turned = shape.len() == 2 && layout.is_transposed(file.format());
        let expected: Vec<usize> = if turned { shape.iter().rev().copied().collect() } else { shape.clone() };
        let has = &file.tensors()[index].shape;
        if *has != expected {
            fit.wrong.push(format!("`{name}`{known_as} is {has:?}, expected {expected:?}"));
        }
        fit.taken.push(Some((index, turned)));
    }
    let extra = file.tensors().iter().zip(&used).filter(|(tensor, used)| {
        // A count that PyTorch's batch normalisation keeps for its own use.
        !**used && !tensor.name.ends_with("num_batches_tracked")
    });
    fit.extra = extra.map(|(tensor, _)| tensor.name.clone()).collect();
    fit
}

impl Fit {
    /// The numbers of a wanted tensor, by its position, in PyTorch's order.
    ///
    /// # Errors
    /// It is missing, or cannot be read.
    pub fn read(&self, file: &WeightFile, wanted: usize) -> Result<Vec<f32>> {
        let Some(Some((index, turned))) = self.taken.get(wanted) else {
            return Err(Error::data("a tensor that the file does not have"));
        };
        let tensor = &file.tensors()[*index];
        let values = file.read_f32(tensor)?;
        Ok(match tensor.shape[..] {
            [rows, columns] if *turned => turn(&values, rows, columns),
            _ => values,
        })
    }
}

/// A matrix with its rows as columns.
pub(super) fn turn(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    // In blocks, so that neither side runs through memory in long steps.
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}
