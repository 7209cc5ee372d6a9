//! A trained network as a file: safetensors with torchvision's names, and a card that says what network it is.

use super::backbone::BackboneSpec;
use super::net::{HASH_LAYER, HashModel, is_of_hash_layer};
use super::parameters::Init;
use super::tensor_error;
use super::tensor_file::{TensorFile, write};
use crate::error::{Error, Kind, Result};
use crate::image::Transform;
use crate::weightfile::{self, Layout, Outgoing, Wanted, WeightFile, can_write, fit};
use anyhow::Context;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Raised when the meaning of a card or of a tensor changes.
const FORMAT: u32 = 1;

/// What must be known to use the weights: everything else is in the tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    format: u32,
    pub backbone: BackboneSpec,
    /// Length of the codes.
    pub bits: usize,
    /// What the network expects to have been done to an image.
    pub transform: Transform,
    /// Names of the classes it was trained on, in the order of the labels.
    pub classes: Vec<String>,
}

impl Card {
    pub fn new(backbone: BackboneSpec, bits: usize, transform: Transform, classes: Vec<String>) -> Self {
        Self { format: FORMAT, backbone, bits, transform, classes }
    }

    /// blake3 of what is done to an image, in hex.
    pub fn transform_digest(&self) -> Result<String> {
        let text = serde_json::to_vec(&self.transform)
            .map_err(|e| Error::new(Kind::Stage, "cannot write down the transform").note(e.to_string()))?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }
}

/// Writes a network and its card. Equal weights and cards give equal files.
pub fn save(path: &Path, model: &HashModel, card: &Card) -> anyhow::Result<()> {
    let doing = || format!("cannot write `{}`", path.display());
    let named: Vec<(String, Tensor)> =
        model.parameters().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let mut out = BufWriter::new(File::create(path).with_context(doing)?);
    write(&mut out, &serde_json::to_string(card)?, &named).with_context(doing)?;
    out.flush().with_context(doing)
}

/// Reads a network and its card.
pub fn load(path: &Path, device: &Device) -> Result<(HashModel, Card)> {
    let file = TensorFile::open(path)?;
    let card = read_card(&file, path)?;
    if let Err(fault) = card.transform.check() {
        return Err(unfit(path).note(fault.message().to_string()));
    }
    let mut source = |name: &str, shape: &[usize], _: Init| {
        if let Some(wrong) = mismatch(&file, name, shape) {
            return Err(unfit(path).note(wrong));
        }
        file.read_f32(name)
    };
    let model = HashModel::build(&card.backbone, card.bits, card.transform.crop as usize, device, &mut source)?;
    let is_known = |name: &String| model.parameters().iter().any(|(known, _)| known == name);
    match file.names().iter().find(|name| !is_known(name)) {
        Some(name) => Err(unfit(path).note(format!("the network has no parameter `{name}`"))),
        None => Ok((model, card)),
    }
}

/// Reads a network's card alone.
pub fn card(path: &Path) -> Result<Card> {
    read_card(&TensorFile::open(path)?, path)
}

fn read_card(file: &TensorFile, path: &Path) -> Result<Card> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Some(text) = file.card() else {
        return Err(Error::data(format!("`{}` was not written by hashpipe", path.display()))
            .note("its metadata has no key `hashpipe`")
            .hint("weights from elsewhere can start a training: `pretrained` of a `train` stage")
            .hint("a finished network from elsewhere is used as it is by an `import` stage"));
    };
    let wrong =
        |e: serde_json::Error| Error::data(format!("the card of `{}` is damaged", path.display())).note(e.to_string());
    let Format { format } = serde_json::from_str(text).map_err(wrong)?;
    if format != FORMAT {
        return Err(Error::data(format!("`{}` has format {format}", path.display()))
            .note(format!("this hashpipe reads format {FORMAT}"))
            .hint("use the hashpipe that wrote it, or train again"));
    }
    serde_json::from_str(text).map_err(wrong)
}

/// Fills the backbone from weights in any format that [`weightfile`](crate::weightfile) reads, under the names of any
/// program that it knows; the hash layer stays as it is.
///
/// Returns the names of the tensors that were not used, such as a classifier's last layer. If anything is missing or
/// of another shape, an error lists all of it, and the model is as before.
pub fn load_pretrained(model: &HashModel, path: &Path) -> Result<Vec<String>> {
    let file = WeightFile::open(path)?;
    let (_, wanted): (Vec<_>, Vec<_>) = model.parameters().iter().partition(|(name, _)| is_of_hash_layer(name));
    let fit = fit(&file, &as_wanted(wanted.iter().map(|(name, var)| (name, var.dims()))));
    if !fit.wrong.is_empty() {
        return Err(fit.wrong.into_iter().fold(unfit(path), Error::note));
    }
    let mut read = vec![];
    for (index, (_, var)) in wanted.iter().enumerate() {
        read.push(Tensor::from_vec(fit.read(&file, index)?, var.shape(), var.device()).map_err(tensor_error)?);
    }
    for ((_, var), tensor) in wanted.iter().zip(read) {
        var.set(&tensor).map_err(tensor_error)?;
    }
    Ok(fit.extra)
}

/// A finished network from a file that another program wrote.
pub struct Imported {
    pub model: HashModel,
    /// What wrote the file.
    pub format: &'static str,
    /// Whose names it has.
    pub names: &'static str,
}

/// Reads a whole network, hash layer included, for images of `side` pixels. The length of the codes is the file's.
///
/// # Errors
/// Everything that is missing, of another shape, or too much, all at once.
pub fn import(path: &Path, backbone: &BackboneSpec, side: usize, device: &Device) -> Result<Imported> {
    let file = WeightFile::open(path)?;
    let layout = Layout::guess(&file);
    let Some(bits) = bits_of(&file, layout) else {
        let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name.as_str()).take(20).collect();
        return Err(unfit(path)
            .note(format!("it has no hash layer; its tensors are {}", names.join(", ")))
            .note("a hash layer is `hash`, `hash_layer.6`, `classifier_plus.6` or `classifier.6`, with `.bias`"));
    };
    // Names and shapes first, so that all faults can be told; zeros cost no memory before they are overwritten.
    let mut zeros = |_: &str, shape: &[usize], _: Init| Ok(vec![0.0; shape.iter().product()]);
    let model = HashModel::build(backbone, bits, side, device, &mut zeros)?;
    let fit = fit(&file, &as_wanted(model.parameters().iter().map(|(name, var)| (name, var.dims()))));
    let extra = fit.extra.iter().map(|name| format!("the network has no parameter `{name}`"));
    let wrong: Vec<String> = fit.wrong.iter().cloned().chain(extra).collect();
    if !wrong.is_empty() {
        let hint = format!("its names are taken for those of `{}`: {}", layout.name, layout.about);
        return Err(wrong.into_iter().fold(unfit(path), Error::note).hint(hint));
    }
    for (index, (_, var)) in model.parameters().iter().enumerate() {
        let values = Tensor::from_vec(fit.read(&file, index)?, var.shape(), var.device()).map_err(tensor_error)?;
        var.set(&values).map_err(tensor_error)?;
    }
    Ok(Imported { model, format: file.format().name, names: layout.name })
}

/// Writes a network for another program, in the format that the file's ending tells, under the names of `names`.
///
/// # Errors
/// An ending or names that nobody knows, and the disk.
pub fn export(path: &Path, model: &HashModel, names: &str) -> Result<()> {
    let (format, layout) = (can_write(path)?, Layout::find(names)?);
    let parameters = model.parameters();
    let outgoing = parameters.iter().map(|(name, var)| {
        let (mut shape, turns) = (var.dims().to_vec(), var.rank() == 2 && layout.is_transposed(format));
        if turns {
            shape.reverse();
        }
        Outgoing { name: layout.theirs(name), shape, turns }
    });
    let mut source = |index: usize| {
        let flat = parameters[index].1.flatten_all().and_then(|flat| flat.to_vec1());
        flat.map_err(tensor_error)
    };
    let outgoing: Vec<Outgoing> = outgoing.collect();
    weightfile::write(path, format, &outgoing, &BTreeMap::new(), &mut source)
}

/// Length of the codes that a file's hash layer gives, at most what a network may have.
fn bits_of(file: &WeightFile, layout: &Layout) -> Option<usize> {
    let bias = layout.theirs(&format!("{HASH_LAYER}.bias"));
    let found = file.tensors().iter().find(|tensor| tensor.name == bias || tensor.name.ends_with(&format!(".{bias}")));
    match found?.shape[..] {
        [bits] => Some(bits),
        _ => None,
    }
}

fn as_wanted<'v>(parameters: impl Iterator<Item = (&'v String, &'v [usize])>) -> Vec<Wanted> {
    parameters.map(|(name, shape)| Wanted { name: name.clone(), shape: shape.to_vec() }).collect()
}

fn unfit(path: &Path) -> Error {
    Error::data(format!("the weights in `{}` do not fit the network", path.display()))
}

/// What is wrong with a tensor of a file, if anything.
fn mismatch(file: &TensorFile, name: &str, expected: &[usize]) -> Option<String> {
    match file.shape(name) {
        None => Some(format!("`{name}` {expected:?} is missing")),
        Some(shape) if shape != expected => Some(format!("`{name}` is {shape:?}, expected {expected:?}")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::model::backbone::small::Small;
    use candle_core::DType;
    use tempfile::TempDir;

    fn spec() -> BackboneSpec {
        BackboneSpec::Small(Small { channels: vec![4, 6], width: 10, dropout: 0.5 })
    }

    fn card() -> Card {
        Card::new(spec(), 8, Transform::imagenet(20, 16), vec!["cat".into(), "dog".into()])
    }

    fn model(seed: u64) -> HashModel {
        HashModel::seeded(&spec(), 8, 16, seed, &Device::Cpu).unwrap()
    }

    fn logits(model: &HashModel) -> Vec<Vec<f32>> {
        let xs = Tensor::ones((2, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        model.forward(&xs, Mode::Eval).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn a_saved_network_is_loaded_whole_and_its_bytes_repeat() {
        let dir = TempDir::new().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        save(&a, &model(1), &card()).unwrap();
        save(&b, &model(1), &card()).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        let (loaded, card) = load(&a, &Device::Cpu).unwrap();
        assert_eq!(logits(&loaded), logits(&model(1)));
        assert_eq!((card.bits, card.classes.len(), card.transform.crop), (8, 2, 16));
    }

    #[test]
    fn damaged_files_and_foreign_cards_are_errors() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model");
        save(&path, &model(1), &card()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let load_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            load(&path, &Device::Cpu).map(|_| ()).unwrap_err()
        };
        for length in (0..whole.len()).step_by(97) {
            assert_eq!(load_bytes(&whole[..length]).kind(), Kind::Data);
        }
        let replaced = |from: &str, to: &str| {
            let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            let mut bytes = whole.clone();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            load_bytes(&bytes).render("error")
        };
        assert!(replaced("format\\\":1", "format\\\":2").contains("format 2"));
        assert!(replaced("hashpipe", "somebody").contains("not written by hashpipe"));
        assert!(replaced("bits\\\":8", "bits\\\":9").contains("`hash.weight` is [8, 10], expected [9, 10]"));
        assert!(replaced("hash.bias", "hash.dias").contains("`hash.bias` [8] is missing"));
    }

    #[test]
    fn pretrained_weights_fill_the_backbone_and_leave_the_hash_layer() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("weights");
        save(&path, &model(1), &card()).unwrap();
        let target = model(2);
        assert_eq!(load_pretrained(&target, &path).unwrap(), ["hash.weight", "hash.bias"]);
        let first = |model: &HashModel, name: &str| {
            let (_, var) = model.parameters().iter().find(|(n, _)| n == name).unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(first(&target, "features.3.weight"), first(&model(1), "features.3.weight"));
        assert_eq!(first(&target, "hash.weight"), first(&model(2), "hash.weight"));
    }

    #[test]
    fn every_mismatch_of_pretrained_weights_is_listed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("weights");
        let spec = BackboneSpec::Small(Small { channels: vec![4], width: 10, dropout: 0.0 });
        let other = HashModel::seeded(&spec, 8, 16, 1, &Device::Cpu).unwrap();
        save(&path, &other, &card()).unwrap();
        let text = load_pretrained(&model(1), &path).unwrap_err().render("error");
        for part in [
            "`features.3.weight` [6, 4, 3, 3] is missing",
            "`features.3.bias` [6] is missing",
            "`classifier.1.weight` is",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
