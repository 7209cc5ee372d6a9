//! `[import.*]`: a finished network that another program trained.

use super::contract::{agree, readable};
use super::{Content, Ctx, Describe, Ref, Stage};
use crate::dataset::List;
use crate::error::{Error, Result};
use crate::image::Transform;
use crate::model::backbone::{BackboneSpec, alexnet::AlexNet};
use crate::model::weights::{self, Card};
use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network as a `train` stage would leave it, from a file of another program: PyTorch's, PaddlePaddle's, safetensors or
/// NumPy's archive. Names of DeepHash-pytorch, paddle_hashnet and torchvision are known.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// The file of weights, hash layer included.
    weights: Ref,
    /// Length of the codes, which must be the file's.
    #[schemars(range(min = 1, max = 1024))]
    bits: usize,
    /// The network below the hash layer.
    #[serde(default = "backbone")]
    backbone: BackboneSpec,
    /// What is done to an image before the network sees it: as its training did.
    #[serde(default = "transform")]
    transform: Transform,
    /// A list of the data set it was trained on, for the names of its classes.
    list: Option<Ref>,
}

fn backbone() -> BackboneSpec {
    BackboneSpec::AlexNet(AlexNet::default())
}

fn transform() -> Transform {
    Transform::imagenet(256, 224)
}

impl Describe for Import {
    const NAME: &'static str = "import";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Take a finished network that another program trained";
}

impl Stage for Import {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["model"]
    }

    fn holds(&self, output: &str) -> Content {
        if output == "model" { Content::Network } else { Content::Other }
    }

    fn is_parallel(&self) -> bool {
        false
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let checks = [
            ("transform", self.transform.check()),
            ("backbone", self.backbone.builder().check(self.transform.crop as usize)),
        ];
        checks.into_iter().filter_map(|(key, checked)| Some((key, checked.err()?))).collect()
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let path = cx.path(&self.weights)?.to_path_buf();
        let imported = weights::import(&path, &self.backbone, self.transform.crop as usize, &Device::Cpu)?;
        let bits = imported.model.bits();
        if bits != self.bits {
            return Err(Error::data(format!("the network in `{}` gives codes of {bits} bits", path.display()))
                .note(format!("`bits` is {}", self.bits))
                .into());
        }
        let classes = self.list.as_ref().map(|list| Ok::<_, Error>(List::read(cx.path(list)?)?.classes)).transpose()?;
        let card = Card::new(self.backbone.clone(), bits, self.transform.clone(), classes.unwrap_or_default());
        weights::save(&cx.output("model"), &imported.model, &card)?;
        cx.fact("from", format!("{}, names of {}", imported.format, imported.names));
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let (_, card) = readable("model", weights::load(&cx.output("model"), &Device::Cpu))?;
        agree("model", "bits", card.bits, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Desk;
    use crate::testdata;
    use serde_json::{Value, json};

    fn params(file: &str, bits: usize) -> Value {
        json!({
            "weights": file, "bits": bits, "backbone": { "name": "small", "channels": [4], "width": 6 },
            "transform": { "resize": 8, "crop": 8 },
        })
    }

    #[test]
    fn a_network_is_the_same_whoever_wrote_it() {
        let desk = Desk::new();
        let files =
            ["torch_zip", "torch_legacy", "torch_half", "torch_wrapped", "paddle_2", "paddle_4", "npz", "safetensors"];
        let models = files.map(|file| {
            std::fs::write(desk.path(file), testdata::peer(file)).unwrap();
            desk.run("import", params(file, 8)).ok().bytes("model")
        });
        assert!(models.iter().all(|model| *model == models[0]));

        let wrong = desk.run("import", params("npz", 16));
        assert!(wrong.error().render("error").contains("gives codes of 8 bits"));
        std::fs::write(desk.path("module"), testdata::peer("torch_module")).unwrap();
        let text = desk.run("import", params("module", 8)).error().render("error");
        assert!(text.contains("`__main__.Net`") && text.contains("state_dict"), "{text}");
    }
}
