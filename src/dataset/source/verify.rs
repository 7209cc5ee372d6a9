//! Reads every listed image once: its digest, or what is wrong with it.

use super::{Digests, OnError, Progress};
use crate::error::{Error, Place, Result};
use crate::image::decode;
use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::Path;

/// Faulty images shown in full, and how many of the others get a line of their own.
const SHOWN: usize = 5;
const LISTED: usize = 1000;
/// Images between two calls of `progress`.
const CHUNK: usize = 256;

/// Decodes the images `paths` under `root`, each listed once. `place` tells where an image is listed. Returns also what
/// there is to tell of images that are left out.
///
/// # Errors
/// One error for all images that are missing, or cannot be decoded and are not left out; and what `progress` returns.
pub(super) fn digests<'a>(
    root: &Path,
    paths: &[&'a str],
    place: &dyn Fn(usize) -> Place,
    on_error: OnError,
    progress: Progress,
) -> Result<(Digests<'a>, Option<String>)> {
    let total = paths.len() as u64;
    let (mut digests, mut faults) = (Digests::new(), vec![]);
    progress(0, total)?;
    for (chunk, paths) in paths.chunks(CHUNK).enumerate() {
        let read: Vec<_> = paths.par_iter().map(|path| digest(&root.join(path))).collect();
        for (i, outcome) in read.into_iter().enumerate() {
            match outcome {
                Ok(digest) => drop(digests.insert(paths[i], digest)),
                Err(fault) => faults.push((chunk * CHUNK + i, fault)),
            }
        }
        progress((chunk * CHUNK + paths.len()) as u64, total)?;
    }
    let mut left_out = vec![];
    if on_error == OnError::Skip {
        (left_out, faults) = faults.into_iter().partition(|(_, fault)| matches!(fault, Fault::Broken(_)));
    }
    let note = || skipped(paths, place, &left_out);
    report(root, paths, place, &faults).map_or_else(|| Ok((digests, note())), Err)
}

/// What is told of images that are left out.
fn skipped(paths: &[&str], place: &dyn Fn(usize) -> Place, faults: &[(usize, Fault)]) -> Option<String> {
    let named: Vec<String> = faults
        .iter()
        .take(SHOWN)
        .map(|(i, fault)| match fault {
            Fault::Missing => format!("`{}`", paths[*i]),
            Fault::Broken(words) => format!("`{}` ({}): {words}", paths[*i], place(*i).short()),
        })
        .collect();
    let more = if faults.len() > SHOWN { ", ..." } else { "" };
    (!faults.is_empty()).then(|| {
        let (count, total, named) = (faults.len(), paths.len(), named.join(", "));
        format!("{count} of {total} images cannot be decoded and are left out of the lists: {named}{more}")
    })
}

/// Checks that the images exist, without reading them.
pub(super) fn exist(root: &Path, paths: &[&str], place: &dyn Fn(usize) -> Place) -> Result<()> {
    let missing = |(i, path): (usize, &&str)| (!root.join(path).is_file()).then_some((i, Fault::Missing));
    let faults: Vec<_> = paths.par_iter().enumerate().filter_map(missing).collect();
    report(root, paths, place, &faults).map_or(Ok(()), Err)
}

enum Fault {
    Missing,
    Broken(String),
}

fn digest(path: &Path) -> Result<String, Fault> {
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Broken(e.to_string()),
    })?;
    decode(&bytes).map_err(|e| Fault::Broken(e.to_string()))?;
    Ok(blake3::hash(&bytes).to_string())
}

/// The first faults in full, the rest counted, what to do about them once.
fn report(root: &Path, paths: &[&str], place: &dyn Fn(usize) -> Place, faults: &[(usize, Fault)]) -> Option<Error> {
    let shown = faults.iter().take(SHOWN).map(|(i, fault)| {
        let error = match fault {
            Fault::Missing => Error::data(format!("image `{}` is missing", paths[*i])),
            Fault::Broken(words) => Error::data(format!("image `{}` cannot be read", paths[*i])).note(words),
        };
        error.at(place(*i))
    });
    let mut shown: Vec<Error> = shown.collect();
    let mut last = shown.pop()?;
    let nothing_there = faults.len() == paths.len() && faults.iter().all(|(_, fault)| matches!(fault, Fault::Missing));
    let rest = &faults[shown.len() + 1..];
    // A wrong folder is one fault and not as many as there are images.
    let listed = if nothing_there { 0 } else { rest.len().min(LISTED) };
    for (i, fault) in &rest[..listed] {
        let what = match fault {
            Fault::Missing => "is missing",
            Fault::Broken(words) => words,
        };
        last = last.note(format!("{}: `{}`: {what}", place(*i).short(), paths[*i]));
    }
    if rest.len() > listed {
        last = last.note(format!("and {} more images", rest.len() - listed));
    }
    last = last.note(format!("{} of {} images are at fault", faults.len(), paths.len()));
    let hint = match nothing_there {
        true => format!("not one image is there: is `{}` the right folder?", root.display()),
        false => format!("replace the files under `{}`, or take these images out of the lists", root.display()),
    };
    shown.push(last.hint(hint));
    Error::all(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_are_shown_in_full_and_the_others_with_a_line_each() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..40).map(|i| format!("{i:02}.jpg")).collect();
        let paths: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in &names[1..] {
            std::fs::write(folder.path().join(name), "not an image").unwrap();
        }
        let place = |i: usize| Place::Path(format!("entry {i}"));
        let error = digests(folder.path(), &paths, &place, OnError::Error, &mut |_, _| Ok(())).unwrap_err();
        let shown = error.render("error");
        for expected in [
            "error: image `00.jpg` is missing\n  --> entry 0\n",
            "error: image `01.jpg` cannot be read\n  --> entry 1\nnote: not a JPEG, PNG, BMP, GIF, TIFF or WebP image\n",
            "note: entry 5: `05.jpg`: not a JPEG",
            "note: entry 39: `39.jpg`: not a JPEG",
            "note: 40 of 40 images are at fault\nhint: replace the files",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    #[test]
    fn a_wrong_folder_is_guessed() {
        let place = |_: usize| Place::Path("x".into());
        let error = exist(Path::new("/nowhere"), &["a.jpg", "b.jpg"], &place).unwrap_err();
        assert!(
            error
                .render("error")
                .ends_with("hint: not one image is there: is `/nowhere` the right folder?\n\n2 errors")
        );
    }

    #[test]
    fn progress_can_stop_the_work() {
        let place = |_: usize| Place::Path("x".into());
        let stopped =
            digests(Path::new("/nowhere"), &["a.jpg"], &place, OnError::Skip, &mut |_, _| Err(Error::interrupted()));
        assert_eq!(stopped.unwrap_err().kind(), crate::error::Kind::Interrupted);
    }
}
