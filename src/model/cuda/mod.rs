//! What goes into a network on a GPU and what comes out of it: images and codes.

mod images;
mod signs;

pub(super) use images::Images;
pub(super) use signs::pack;

#[cfg(test)]
pub(super) mod testing;
