//! Where a command finds its inputs and is expected to write, below its private folder.

use crate::error::{Error, Result};
use crate::stage::{Ctx, Refs};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// An input in the private folder.
pub(super) struct Linked {
    /// The file, or the folder of files.
    pub(super) path: String,
    /// Every file, in the order of their points.
    pub(super) files: Vec<String>,
}

/// Links every input into the private folder.
pub(super) fn link_inputs<'a>(
    inputs: &'a BTreeMap<String, Refs>,
    cx: &Ctx,
    folder: &Path,
) -> Result<BTreeMap<&'a str, Linked>> {
    let mut links = BTreeMap::new();
    for (name, inputs) in inputs {
        let mut files = vec![];
        if let Refs::Points(_) = inputs {
            make_folder(&folder.join("in").join(name))?;
        }
        for (point, input) in inputs.all() {
            let (target, known_as) = (cx.path(input)?, cx.known_as(input)?);
            let link = linked_at(name, point, &known_as);
            symlink(target, &folder.join(&link))?;
            // Programs that know their files by relative paths find them there.
            let own = folder.join(&known_as);
            if stays_below(&known_as) && !own.exists() {
                make_folder(own.parent().unwrap_or(folder))?;
                symlink(target, &own)?;
            }
            files.push(link);
        }
        let path = match (inputs, files.first()) {
            (Refs::One(_), Some(file)) => file.clone(),
            _ => format!("in/{name}"),
        };
        links.insert(name.as_str(), Linked { path, files });
    }
    Ok(links)
}

/// The file name's ending, with its dot; programs tell formats by it.
fn ending(path: &str) -> String {
    Path::new(path).extension().map_or(String::new(), |end| format!(".{}", end.to_string_lossy()))
}

/// Where a file of an input is linked: what `{in.NAME}` stands for, or one of the files below it.
pub(super) fn linked_at(name: &str, point: Option<&str>, known_as: &str) -> String {
    match point {
        None => format!("in/{name}{}", ending(known_as)),
        Some(point) => format!("in/{name}/{}{}", file_name(point), ending(known_as)),
    }
}

/// A point as a file's name: what cannot stand in one is written as `%` and its code.
fn file_name(point: &str) -> String {
    let odd = |c: char| matches!(c, '/' | '%') || c.is_control();
    point.chars().map(|c| if odd(c) { format!("%{:02x}", c as u32) } else { c.to_string() }).collect()
}

/// What `{out.NAME}` stands for.
pub(super) fn out(name: &str, place: &str) -> String {
    format!("out/{name}{}", ending(place))
}

/// Whether a path stays below the folder it is taken from.
pub(super) fn stays_below(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

pub(super) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, &e))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, &e))
}

fn symlink(target: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(absolute(target)?, link).map_err(|e| Error::io("make the link", link, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_names_of_files() {
        assert_eq!(linked_at("a", Some("bits=16"), "r/x.json"), "in/a/bits=16.json");
        assert_eq!(linked_at("a", Some("list=a/b%"), ""), "in/a/list=a%2fb%25");
        assert_eq!(linked_at("a", None, "x.y/z"), "in/a");
    }
}
