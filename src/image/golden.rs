//! Decoding, resizing and cropping against Pillow's numbers in `tests/golden/preprocess.json`.
//!
//! Pillow decodes through libjpeg-turbo, this crate through zune-jpeg: both are within the standard's tolerance, and a
//! few grey levels apart. The resize is bit-exact, so what differs here is the decoder.

use super::{Transform, decode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(serde::Deserialize)]
struct Golden {
    channel_sum: [i64; 3],
    row_100_cols_0_to_15: Vec<[u8; 3]>,
}

/// The folder of COCO's thirteen demonstration pictures and their lists, which are not part of the repository.
pub(crate) fn coco_lite() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["../shared", "../../shared"]
        .map(|shared| root.join(shared).join("data/coco_lite"))
        .into_iter()
        .find(|folder| folder.join("images").is_dir())
}

#[test]
#[expect(clippy::print_stderr, reason = "a test says what it skips and how near it comes")]
fn preprocessing_agrees_with_pillow() {
    let Some(folder) = coco_lite() else {
        eprintln!("skipped: no COCO pictures in ../shared/data/coco_lite/images");
        return;
    };
    let goldens: BTreeMap<String, Golden> =
        serde_json::from_str(include_str!("../../tests/golden/preprocess.json")).unwrap();
    let (mut worst, mut total, mut compared, mut worst_mean) = (0, 0u64, 0u64, 0f64);
    for (name, golden) in &goldens {
        let image = decode(&std::fs::read(folder.join("images").join(name)).unwrap()).unwrap();
        let out = Transform::imagenet(256, 224).eval(&image);
        for (got, want) in out[100 * 224 * 3..].iter().zip(golden.row_100_cols_0_to_15.as_flattened()) {
            worst = worst.max(got.abs_diff(*want));
            total += u64::from(got.abs_diff(*want));
            compared += 1;
        }
        for (channel, want) in golden.channel_sum.iter().enumerate() {
            let sum: i64 = out.iter().skip(channel).step_by(3).map(|value| i64::from(*value)).sum();
            worst_mean = worst_mean.max((sum - want).abs() as f64 / f64::from(224 * 224));
        }
    }
    let mean = total as f64 / compared as f64;
    eprintln!(
        "{} images: rows differ by at most {worst}, {mean:.4} on average; means by {worst_mean:.4}",
        goldens.len()
    );
    assert!(worst <= 2 && mean < 0.3 && worst_mean < 0.3);
}
