//! Images for the tests: of noise, in several shapes, with their shorter side at 19 pixels and cuts of 16.

use crate::dataset::{Images, Item, List, Prepared, Scale, Writer};
use crate::image::Transform;
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// So many images in files of the folder, prepared; or `all` but one of them.
pub(crate) fn prepared(count: usize, all: bool) -> (TempDir, Images) {
    let folder = tempfile::tempdir().unwrap();
    let transform = Transform::imagenet(19, 16);
    let scale = Scale::of(&transform);
    let mut draw = crate::seeded::stream(1, "pictures", &[]);
    let items: Vec<Item> = (0..count)
        .map(|i| {
            let (width, height) = [(19, 19), (40, 19), (19, 25)][i % 3];
            let picture = RgbImage::from_fn(width, height, |_, _| Rgb([(); 3].map(|()| draw.bits() as u8)));
            let path = format!("{i}.bmp");
            picture.save(folder.path().join(&path)).unwrap();
            let digest = blake3::hash(&std::fs::read(folder.path().join(&path)).unwrap()).to_string();
            Item { path, labels: vec![i as u32 % 2], digest }
        })
        .collect();
    let kept = &items[usize::from(!all)..];
    let parts = folder.path().join("prepared");
    std::fs::create_dir(&parts).unwrap();
    let mut writer = Writer::create(&parts.join("0"), scale, &scale.name(kept), kept.len()).unwrap();
    for item in kept {
        let bytes = std::fs::read(folder.path().join(&item.path)).unwrap();
        writer.push(item, scale.prepare(&bytes).unwrap().as_ref()).unwrap();
    }
    writer.finish().unwrap();
    let list = List { classes: ["a", "b"].map(String::from).to_vec(), items };
    let prepared = Prepared::open(&parts).unwrap();
    let images = Images::with_prepared(list, folder.path().to_path_buf(), transform, prepared).unwrap();
    (folder, images)
}
