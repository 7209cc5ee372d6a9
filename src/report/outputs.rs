//! What a person finds in `output/`: copies of the results worth looking at.

use crate::cache::{Digests, Results, Store, file_name, files_below};
use crate::error::{Error, Result};
use crate::plan::{Plan, Task};
use std::path::{Path, PathBuf};

/// Puts the outputs a stage wants shown where a person finds them; what is there already is left alone.
///
/// They are copies: editing one cannot harm the cache, and the next run restores it.
pub fn materialise(plan: &Plan, store: &Store, results: &Results, folder: &Path) -> Result<()> {
    let mut digests = store.digests();
    for task in &plan.tasks {
        let Some(action) = results.get(&task.id) else { continue };
        for (port, name) in task.step.shown() {
            let Some(object) = action.outputs.get(port) else { continue };
            let (from, to) = (store.object_path(object), task_folder(folder, task).join(name));
            if !object.folder {
                copy(&from, &to, &object.digest, &mut digests)?;
                continue;
            }
            for name in files_below(&from)? {
                let digest = digests.file(&from.join(&name))?;
                copy(&from.join(&name), &to.join(&name), &digest, &mut digests)?;
            }
        }
    }
    digests.save()
}

/// The folder of a task's shown outputs.
pub(super) fn task_folder(folder: &Path, task: &Task) -> PathBuf {
    folder.join(file_name(&task.name))
}

fn copy(from: &Path, to: &Path, digest: &str, digests: &mut Digests) -> Result<()> {
    if to.is_file() && digests.file(to)? == digest {
        return Ok(());
    }
    let parent = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, &e))?;
    let aside = tempfile::NamedTempFile::new_in(parent).map_err(|e| Error::io("write in", parent, &e))?;
    let mut source = std::fs::File::open(from).map_err(|e| Error::io("read", from, &e))?;
    std::io::copy(&mut source, &mut aside.as_file()).map_err(|e| Error::io("write", to, &e))?;
    let aside = aside.into_temp_path();
    readable(&aside)?;
    aside.persist(to).map_err(|e| Error::io("write", to, &e.error))
}

/// Temporary files are for their owner alone; results are for everyone the folder is for.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(|e| Error::io("write", path, &e))
}
