//! What happens to an image before the network sees it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resize, crop and normalise, as torchvision's `Resize`, `CenterCrop` or `RandomCrop`, `ToTensor` and `Normalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// Length the shorter side is resized to, in pixels; the other side keeps the aspect.
    #[schemars(range(min = 8, max = 4096))]
    pub resize: u32,
    /// Side of the square that is cut out, in pixels.
    #[schemars(range(min = 8, max = 4096))]
    pub crop: u32,
    /// Mean of red, green and blue, subtracted after scaling pixels to 0..1.
    #[serde(default = "imagenet_mean")]
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, divided by.
    #[serde(default = "imagenet_std")]
    pub std: [f32; 3],
}

fn imagenet_mean() -> [f32; 3] {
    [0.485, 0.456, 0.406]
}

fn imagenet_std() -> [f32; 3] {
    [0.229, 0.224, 0.225]
}

impl Transform {
    /// ImageNet's usual normalisation with the given sizes.
    pub fn imagenet(resize: u32, crop: u32) -> Self {
        Self { resize, crop, mean: imagenet_mean(), std: imagenet_std() }
    }
}
