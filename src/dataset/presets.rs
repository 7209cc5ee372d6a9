//! The data sets of the field, by the names its programs have for them: how many classes, and how many ranks count.
//!
//! The numbers are the reference's (its table `config_dataset`); where it says -1, all ranks are meant, and 0 says so
//! here. A pipeline may take any other numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A data set as the field evaluates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Preset {
    /// Its name, as in `preset = "coco"`.
    pub name: &'static str,
    /// How many classes it has.
    pub classes: usize,
    /// Ranks that count in the mAP; 0: all.
    pub top_k: usize,
    /// Names of the classes in the order of the published labels, where that order is known.
    #[serde(skip)]
    pub names: Option<&'static [&'static str]>,
}

/// A name of [`PRESETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresetName {
    /// CIFAR-10: 10 classes, all ranks count.
    Cifar10,
    /// NUS-WIDE with its 21 most frequent concepts, mAP@5000.
    #[serde(rename = "nuswide_21")]
    NusWide21,
    /// NUS-WIDE with its 81 concepts, mAP@5000.
    #[serde(rename = "nuswide_81")]
    NusWide81,
    /// COCO: 80 classes in alphabetical order, mAP@5000.
    Coco,
    /// ImageNet with 100 classes, mAP@1000.
    #[serde(rename = "imagenet")]
    ImageNet,
    /// MIRFlickr-25K: 38 classes, all ranks count.
    #[serde(rename = "mirflickr")]
    MirFlickr,
    /// PASCAL VOC 2012: 20 classes, all ranks count.
    Voc2012,
}

/// Every data set of the table, in the order of [`PresetName`].
pub const PRESETS: [Preset; 7] = [
    Preset { name: "cifar10", classes: 10, top_k: 0, names: Some(&CIFAR10) },
    Preset { name: "nuswide_21", classes: 21, top_k: 5000, names: None },
    Preset { name: "nuswide_81", classes: 81, top_k: 5000, names: None },
    Preset { name: "coco", classes: 80, top_k: 5000, names: Some(&COCO) },
    Preset { name: "imagenet", classes: 100, top_k: 1000, names: None },
    Preset { name: "mirflickr", classes: 38, top_k: 0, names: None },
    Preset { name: "voc2012", classes: 20, top_k: 0, names: None },
];

impl PresetName {
    /// What the name stands for.
    pub fn preset(self) -> &'static Preset {
        &PRESETS[self as usize]
    }
}

impl Preset {
    /// Names of the classes, or numbered ones.
    pub fn class_names(&self) -> Vec<String> {
        match self.names {
            Some(names) => names.iter().map(ToString::to_string).collect(),
            None => (0..self.classes).map(|class| format!("class_{class}")).collect(),
        }
    }
}

/// CIFAR-10's classes, in the order of its labels.
pub(super) const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// COCO's categories in alphabetical order.
pub(super) const COCO: [&str; 80] = [
    "airplane",
    "apple",
    "backpack",
    "banana",
    "baseball bat",
    "baseball glove",
    "bear",
    "bed",
    "bench",
    "bicycle",
    "bird",
    "boat",
    "book",
    "bottle",
    "bowl",
    "broccoli",
    "bus",
    "cake",
    "car",
    "carrot",
    "cat",
    "cell phone",
    "chair",
    "clock",
    "couch",
    "cow",
    "cup",
    "dining table",
    "dog",
    "donut",
    "elephant",
    "fire hydrant",
    "fork",
    "frisbee",
    "giraffe",
    "hair drier",
    "handbag",
    "horse",
    "hot dog",
    "keyboard",
    "kite",
    "knife",
    "laptop",
    "microwave",
    "motorcycle",
    "mouse",
    "orange",
    "oven",
    "parking meter",
    "person",
    "pizza",
    "potted plant",
    "refrigerator",
    "remote",
    "sandwich",
    "scissors",
    "sheep",
    "sink",
    "skateboard",
    "skis",
    "snowboard",
    "spoon",
    "sports ball",
    "stop sign",
    "suitcase",
    "surfboard",
    "teddy bear",
    "tennis racket",
    "tie",
    "toaster",
    "toilet",
    "toothbrush",
    "traffic light",
    "train",
    "truck",
    "tv",
    "umbrella",
    "vase",
    "wine glass",
    "zebra",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_presets_go_together() {
        for preset in &PRESETS {
            let name: PresetName = serde_json::from_value(preset.name.into()).unwrap();
            assert_eq!(name.preset(), preset);
            assert_eq!(preset.class_names().len(), preset.classes, "{}", preset.name);
        }
        assert!(COCO.is_sorted() && CIFAR10.is_sorted());
    }
}
