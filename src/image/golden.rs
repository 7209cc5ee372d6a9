//! Decoding, resizing and cropping against Pillow's numbers in `tests/golden/preprocess.json`.
//!
//! All of it is to the bit.

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
#[expect(clippy::print_stderr, reason = "a test says what it skips")]
fn preprocessing_agrees_with_pillow() {
    let Some(folder) = coco_lite() else {
        eprintln!("skipped: no COCO pictures in ../shared/data/coco_lite/images");
        return;
    };
    let goldens: BTreeMap<String, Golden> =
        serde_json::from_str(include_str!("../../tests/golden/preprocess.json")).unwrap();
    for (name, golden) in &goldens {
        let bytes = std::fs::read(folder.join("images").join(name)).unwrap();
        let transform = Transform::imagenet(256, 224);
        let out = transform.eval(&decode(&bytes).unwrap());
        assert_eq!(out, transform.read_eval(&bytes).unwrap(), "{name}");
        let row = out[100 * 224 * 3..].as_chunks::<3>().0;
        assert_eq!(row[..16], golden.row_100_cols_0_to_15, "{name}");
        let sums =
            [0, 1, 2].map(|channel| out.iter().skip(channel).step_by(3).map(|value| i64::from(*value)).sum::<i64>());
        assert_eq!(sums, golden.channel_sum, "{name}");
    }
}
