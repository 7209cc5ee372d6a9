//! What a person finds in `output/`: copies of the results worth looking at.

use crate::cache::{Digests, Object, Results, Store, file_name, files_below};
use crate::error::{Error, Result};
use crate::plan::{Plan, Task};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Puts outputs where a person finds them: those a stage shows in `output/`, and those the pipeline gives a place. What
/// is there already is left alone. Gives a warning for each file that had to make way.
///
/// They are copies, sharing blocks where the file system can: editing one cannot harm the cache, and the next run
/// restores it.
pub fn materialise(plan: &Plan, store: &Store, results: &Results, folder: &Path) -> Result<Vec<Error>> {
    let digests = store.digests();
    let wanted = |task: &Task| -> Vec<(Object, PathBuf)> {
        let Some(made) = results.get(&task.id) else { return vec![] };
        let shown = task.step.shown().into_iter().map(|(port, name)| (port, task_folder(folder, task).join(name)));
        let puts = task.puts.iter().map(|(port, path)| (port.as_str(), path.clone()));
        let objects = shown.chain(puts).filter_map(|(port, to)| Some((made.outputs.get(port)?.clone(), to)));
        objects.filter(|(object, to)| digests.path(to).ok().as_ref() != Some(&object.digest)).collect()
    };
    let wanted: Vec<(Object, PathBuf)> = plan.tasks.par_iter().flat_map_iter(wanted).collect();
    let mut warnings = vec![];
    for (object, to) in &wanted {
        put(store, object, to, &digests, &mut warnings)?;
    }
    digests.save()?;
    Ok(warnings)
}

/// Beginning of the name of a folder that copies are made in before they are put in place.
const ASIDE: &str = ".hashpipe-";

/// Puts one output at a path.
fn put(store: &Store, object: &Object, to: &Path, digests: &Digests, warnings: &mut Vec<Error>) -> Result<()> {
    let from = store.object_path(object);
    // What is not in the cache any more was not needed, or it would have been made again.
    if !from.exists() {
        return Ok(());
    }
    if !object.folder {
        return replace(store, &from, to, digests, warnings);
    }
    let wanted = files_below(&from)?;
    if to.is_dir() {
        for name in files_below(to)?.into_iter().filter(|name| !wanted.contains(name)) {
            match name.split_once(ASIDE) {
                // Left by a run that was killed while it copied.
                Some((before, rest)) => {
                    let aside = format!("{before}{ASIDE}{}", rest.split('/').next().unwrap_or_default());
                    let _ = std::fs::remove_dir_all(to.join(aside));
                }
                None => make_way(store, &to.join(name), digests, warnings)?,
            }
        }
    } else if to.exists() {
        make_way(store, to, digests, warnings)?;
    }
    std::fs::create_dir_all(to).map_err(|e| Error::io("make the folder", to, &e))?;
    for name in wanted {
        let (from, to) = (from.join(&name), to.join(&name));
        if !to.is_file() || digests.file(&to)? != digests.file(&from)? {
            replace(store, &from, &to, digests, warnings)?;
        }
    }
    Ok(())
}

/// Moves away what lies at a path, unless the cache has it too: it may be the only copy of somebody's work.
fn make_way(store: &Store, path: &Path, digests: &Digests, warnings: &mut Vec<Error>) -> Result<()> {
    if store.has_object(&digests.path(path)?) {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        return removed.map_err(|e| Error::io("remove", path, &e));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = (1..).map(|n| path.with_file_name(format!("{name}.before-{n}"))).find(|aside| !aside.exists());
    let aside = free.unwrap_or_default();
    std::fs::rename(path, &aside).map_err(|e| Error::io("move away", path, &e))?;
    warnings.push(
        Error::data(format!("`{}` was not what its task gave", path.display()))
            .note(format!("it was moved to `{}`, and the result put in its place", aside.display())),
    );
    Ok(())
}

/// The folder of a task's shown outputs.
pub(super) fn task_folder(folder: &Path, task: &Task) -> PathBuf {
    folder.join(file_name(&task.name))
}

fn replace(store: &Store, from: &Path, to: &Path, digests: &Digests, warnings: &mut Vec<Error>) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
    if to.symlink_metadata().is_ok() {
        make_way(store, to, digests, warnings)?;
    }
    let aside =
        tempfile::Builder::new().prefix(ASIDE).tempdir_in(parent).map_err(|e| Error::io("write in", parent, &e))?;
    let copy = aside.path().join("copy");
    reflink_copy::reflink_or_copy(from, &copy).map_err(|e| Error::io("write", to, &e))?;
    readable(&copy)?;
    std::fs::rename(&copy, to).map_err(|e| Error::io("write", to, &e))
}

/// What lies in the cache is read-only; results are everyone's the folder is for, as executable as they were made.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = path.metadata().map_err(|e| Error::io("read", path, &e))?.permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644 | (mode & 0o111)))
        .map_err(|e| Error::io("write", path, &e))
}
