//! Results that are kept whatever happens: those of pinned runs, and those that files in `pins/` name.

use super::inventory::{entries, name};
use crate::cache::{Key, Store};
use crate::error::{Error, Place, Result};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::Path;

/// What is read of a run's record.
#[derive(Deserialize)]
struct Run {
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    key: Option<Key>,
}

/// The keys of everything that is pinned.
///
/// # Errors
/// If a pin cannot be read: a pin that is passed over in silence would be none.
pub(super) fn pinned_keys(store: &Store) -> Result<HashSet<Key>> {
    let mut keys = HashSet::new();
    let folder = store.root.parent().unwrap_or(&store.root).join("pins");
    for path in entries(&folder).iter().filter(|path| path.is_file() && !name(path).starts_with('.')) {
        keys.extend(listed(path)?);
    }
    for run in entries(&store.root.join("runs")).iter().filter(|run| run.join("pinned").exists()) {
        keys.extend(of_run(&run.join("run.json"))?);
    }
    Ok(keys)
}

/// Keys in a file, one a line; `#` begins a remark.
fn listed(path: &Path) -> Result<Vec<Key>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the pin", path, &e))?;
    let lines = text.lines().enumerate().map(|(n, line)| (n, line, line.split('#').next().unwrap_or_default().trim()));
    lines
        .filter(|(_, _, key)| !key.is_empty())
        .map(|(n, line, key)| {
            Key::parse(key).ok_or_else(|| {
                Error::input(format!("`{key}` is not a key"))
                    .at(Place::line(path, n + 1, line))
                    .note("a pin holds keys of 64 digits, one a line")
                    .hint("`hashpipe status FILE --json` shows the keys of a pipeline's tasks")
            })
        })
        .collect()
}

/// Keys of a run's tasks.
fn of_run(path: &Path) -> Result<Vec<Key>> {
    let text = std::fs::read(path).map_err(|e| Error::io("read the pinned run", path, &e))?;
    let run: Run = serde_json::from_slice(&text).map_err(|e| {
        Error::data(format!("the record of a pinned run cannot be read: {e}"))
            .at(Place::Path(path.display().to_string()))
            .hint("remove the file `pinned` beside it, if its results need not be kept")
    })?;
    Ok(run.tasks.into_iter().filter_map(|task| task.key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_and_what_is_no_pin_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("pins/paper", format!("# for the paper\n{a}  # the 48 bits\n\n"));
        write("v2/runs/one/run.json", format!("{{\"tasks\":[{{\"key\":\"{b}\",\"x\":1}},{{\"key\":null}}]}}"));
        write("v2/runs/one/pinned", String::new());
        write("v2/runs/two/run.json", format!("{{\"tasks\":[{{\"key\":\"{c}\"}}]}}"));
        let expected = [a, b].map(|key| Key::parse(&key).unwrap());
        assert_eq!(pinned_keys(&store).unwrap(), HashSet::from(expected));
        write("pins/paper", "train.net\n".into());
        assert!(pinned_keys(&store).unwrap_err().render("error").contains("paper:1:1"));
        write("pins/paper", String::new());
        write("v2/runs/one/run.json", "{".into());
        assert!(pinned_keys(&store).is_err());
    }
}
