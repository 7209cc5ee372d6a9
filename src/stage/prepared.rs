//! The images of a list as a stage reads them: from their files, or from prepared ones.

use super::{Ctx, Ref};
use crate::dataset::{Images, List, Prepared};
use crate::error::Result;
use crate::image::Transform;

/// Opens the images of `list`, which was read from there.
///
/// # Errors
/// A reference that is no list of images, and prepared images that do not fit the transform.
pub(super) fn open(
    cx: &mut Ctx,
    list: List,
    from: &Ref,
    prepared: Option<&Ref>,
    transform: Transform,
) -> Result<Images> {
    let (root, count) = (cx.images(from)?.to_path_buf(), list.len());
    let Some(prepared) = prepared else { return Ok(Images::new(list, root, transform)) };
    let name = &prepared.0;
    let prepared = Prepared::open(cx.path(prepared)?)?;
    let images = Images::with_prepared(list, root, transform, prepared)?;
    if images.unprepared() > 0 {
        cx.warn(format!("{} of {count} images are not in `{name}`, and decoded each time", images.unprepared()));
    }
    Ok(images)
}
