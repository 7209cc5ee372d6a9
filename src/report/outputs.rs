//! What a person finds in `output/`: copies of the results worth looking at.

use crate::cache::{Digests, Object, Results, Store, Workspace, file_name, files_below};
use crate::error::{Error, Result};
use crate::plan::{Plan, Task};
use rayon::prelude::*;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Puts outputs where a person finds them: those a stage shows in `output/`, and those the pipeline gives a place. What
/// is there already is left alone. Gives a warning for each file that had to make way.
///
/// They are copies, sharing blocks where the file system can: editing one cannot harm the cache, and the next run
/// restores it.
pub fn materialise(
    plan: &Plan,
    store: &Store,
    digests: &Digests,
    results: &Results,
    folder: &Path,
) -> Result<Vec<Error>> {
    let wanted = |task: &Task| -> Vec<(Object, PathBuf, bool)> {
        let Some(made) = results.get(&task.id) else { return vec![] };
        let shown = task.step.shown().into_iter().map(|(port, name)| (port, task_folder(folder, task).join(name)));
        let puts = task.puts.iter().map(|(port, path)| (port.as_str(), path.clone()));
        let varies = task.step.varies();
        let objects = shown
            .chain(puts)
            .filter_map(|(port, to)| Some((made.outputs.get(port)?.clone(), to, varies.contains(&port))));
        objects.filter(|(object, to, _)| digests.path(to).ok().as_ref() != Some(&object.digest)).collect()
    };
    let wanted: Vec<(Object, PathBuf, bool)> = plan.tasks.par_iter().flat_map_iter(wanted).collect();
    let mut places = Places { store, digests, warnings: vec![], workspace: None };
    for (object, to, varies) in &wanted {
        places.put(object, to, *varies)?;
    }
    let warnings = places.warnings;
    // Digests that are not remembered are found again.
    let _ = digests.save();
    Ok(warnings)
}

/// The folder of a task's shown outputs.
pub(super) fn task_folder(folder: &Path, task: &Task) -> PathBuf {
    folder.join(file_name(&task.name))
}

/// Beginning of the names of folders beside a place on another disk, where copies are made.
const ASIDE: &str = ".hashpipe-";

/// Puts outputs at their places.
struct Places<'a> {
    store: &'a Store,
    digests: &'a Digests,
    warnings: Vec<Error>,
    /// Where copies are made, to appear at their places whole. What a killed run leaves there is swept by the next.
    workspace: Option<Workspace>,
}

impl Places<'_> {
    /// Puts an output at a place. One that holds times differs each time it is made, so what is there is an earlier one.
    fn put(&mut self, object: &Object, to: &Path, varies: bool) -> Result<()> {
        let from = self.store.object_path(object);
        // What is not in the cache any more was not needed, or it would have been made again.
        if !from.exists() {
            return Ok(());
        }
        let there = to.symlink_metadata().ok();
        if object.folder && there.as_ref().is_some_and(std::fs::Metadata::is_dir) && files_below(to).is_ok() {
            return self.restore_folder(&from, to);
        }
        let is_file = there.as_ref().is_some_and(std::fs::Metadata::is_file);
        if there.is_some() && !(varies && is_file && !object.folder) {
            self.make_way(to, &free_name(to))?;
        }
        self.copy(&from, to)
    }

    /// Makes a folder what it was, file by file: it may be large, and little of it changed.
    fn restore_folder(&mut self, from: &Path, to: &Path) -> Result<()> {
        // Beside the folder: inside, it would be in the way again.
        let aside = free_name(to);
        for name in files_below(to)? {
            let (wanted, found) = (from.join(&name), to.join(&name));
            if found
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|folder| folder.to_string_lossy().starts_with(ASIDE))
            {
                // Left by a run that was killed while it copied.
                let _ = std::fs::remove_file(&found);
            } else if !wanted.is_file() || self.digests.file(&found)? != self.digests.file(&wanted)? {
                self.make_way(&found, &aside.join(&name))?;
            }
        }
        remove_folders(to, from);
        make_folders(from, to)?;
        for name in files_below(from)? {
            if !to.join(&name).exists() {
                self.copy(&from.join(&name), &to.join(&name))?;
            }
        }
        Ok(())
    }

    /// Moves away what lies at a path, unless the cache has it too: it may be the only copy of somebody's work.
    fn make_way(&mut self, path: &Path, aside: &Path) -> Result<()> {
        let is_link = path.is_symlink();
        if !is_link && self.digests.path(path).is_ok_and(|digest| self.store.has_object(&digest)) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            return removed.map_err(|e| Error::io("remove", path, &e));
        }
        make_parent(aside)?;
        std::fs::rename(path, aside).map_err(|e| Error::io("move away", path, &e))?;
        self.warnings.push(
            Error::data(format!("`{}` was not what its task gave", path.display()))
                .note(format!("it was moved to `{}`, and the result put in its place", aside.display())),
        );
        Ok(())
    }

    /// Copies a file or folder to where nothing is, or a file to where one is, so that it appears there whole.
    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        make_parent(to)?;
        let workspace = match self.workspace.take() {
            Some(workspace) => workspace,
            None => self.store.workspace()?,
        };
        let copy = workspace.path().join("copy");
        self.workspace = Some(workspace);
        copy_all(from, &copy)?;
        match std::fs::rename(&copy, to) {
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {}
            moved => return moved.map_err(|e| Error::io("write", to, &e)),
        }
        // The cache is on another disk: copied once more, beside its place.
        let removed = if copy.is_dir() { std::fs::remove_dir_all(&copy) } else { std::fs::remove_file(&copy) };
        removed.map_err(|e| Error::io("remove", &copy, &e))?;
        let parent = to.parent().unwrap_or(Path::new("."));
        let aside = tempfile::Builder::new().prefix(ASIDE).tempdir_in(parent);
        let aside = aside.map_err(|e| Error::io("write in", parent, &e))?;
        let copy = aside.path().join("copy");
        copy_all(from, &copy)?;
        std::fs::rename(&copy, to).map_err(|e| Error::io("write", to, &e))
    }
}

/// The first of `NAME.before-1`, `NAME.before-2`, .. that is not there.
fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut names = (1..).map(|n| path.with_file_name(format!("{name}.before-{n}")));
    names.find(|aside| aside.symlink_metadata().is_err()).unwrap_or_default()
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))
}

/// Copies a file, or a folder with all that is below it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        reflink_copy::reflink_or_copy(from, to).map_err(|e| Error::io("write", to, &e))?;
        return readable(to);
    }
    make_folders(from, to)?;
    files_below(from)?.iter().try_for_each(|name| copy_all(&from.join(name), &to.join(name)))
}

/// Makes every folder below one also below another one.
fn make_folders(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io("make the folder", to, &e))?;
    folders_in(from).iter().try_for_each(|name| make_folders(&from.join(name), &to.join(name)))
}

/// Removes the empty folders below one that are not below another one, and those that are empty then.
fn remove_folders(folder: &Path, wanted: &Path) {
    for name in folders_in(folder) {
        remove_folders(&folder.join(&name), &wanted.join(&name));
        if !wanted.join(&name).is_dir() {
            // Those that hold something stay.
            let _ = std::fs::remove_dir(folder.join(&name));
        }
    }
}

fn folders_in(folder: &Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.file_name()).collect()
}

/// What lies in the cache is read-only; results are everyone's the folder is for, as executable as they were made.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = path.metadata().map_err(|e| Error::io("read", path, &e))?.permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644 | (mode & 0o111)))
        .map_err(|e| Error::io("write", path, &e))
}
