//! How fast images become what a network reads.

use super::{Subject, pool};
use crate::error::{Error, Result};
use crate::image::{Transform, decode};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Files that are read at most: enough for any mixture of sizes.
const MOST: usize = 256;

/// Decoding, resizing and normalising of the images in a folder, in memory; its floor is decoding them alone.
///
/// # Errors
/// If the folder cannot be read, or holds no image that can be decoded.
pub fn images(folder: &Path, transform: Transform, threads: usize) -> Result<Subject<'static>> {
    let files = readable(&files_in(folder)?);
    if files.is_empty() {
        return Err(Error::data(format!("`{}` holds no images", folder.display()))
            .hint("name a folder of JPEG, PNG, BMP, GIF, TIFF or WebP files"));
    }
    let pool = pool(threads)?;
    let floor_pool = super::pool(threads)?;
    let count = files.len() as f64;
    let size = 3 * (transform.crop as usize).pow(2);
    let files = std::sync::Arc::new(files);
    let same = files.clone();
    Ok(Subject {
        name: format!("images {} -> {}", transform.resize, transform.crop),
        speed_of: String::new(),
        unit: "images",
        threads,
        turn: Box::new(move || {
            pool.install(|| {
                files.par_iter().for_each_init(
                    || vec![0.0; size],
                    |out, bytes| {
                        if let Ok(image) = decode(bytes) {
                            transform.normalise(&transform.eval(&image), out);
                        }
                    },
                );
            });
            Ok(count)
        }),
        floor: Some(Box::new(move || {
            floor_pool.install(|| same.par_iter().for_each(|bytes| drop(decode(bytes))));
            Ok(count)
        })),
    })
}

/// The first files of a folder and those below it, in the order of their names.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io("read", folder, &e);
    let mut entries: Vec<PathBuf> =
        folder.read_dir().map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<_>>()?;
    entries.sort();
    let mut files = vec![];
    for path in entries {
        if files.len() >= MOST {
            break;
        }
        if path.is_dir() { files.extend(files_in(&path)?) } else { files.push(path) }
    }
    files.truncate(MOST);
    Ok(files)
}

/// The contents of those files that are images.
fn readable(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.par_iter().filter_map(|path| std::fs::read(path).ok().filter(|bytes| decode(bytes).is_ok())).collect()
}
