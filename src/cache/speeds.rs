//! What `hashpipe bench` found, kept for predictions: units per second by what was done.

use super::{Store, write_aside};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

impl Store {
    /// Units per second, by what was done; empty if nothing was measured, or what was written cannot be read.
    pub fn speeds(&self) -> BTreeMap<String, f64> {
        let text = std::fs::read(self.speeds_path()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Adds to what was measured before, or replaces it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_speeds(&self, found: impl IntoIterator<Item = (String, f64)>) -> Result<()> {
        let mut speeds = self.speeds();
        speeds.extend(found.into_iter().filter(|(_, speed)| speed.is_finite() && *speed > 0.0));
        let path = self.speeds_path();
        std::fs::create_dir_all(&self.root).map_err(|e| Error::io("make the folder", &self.root, &e))?;
        write_aside(&path, &serde_json::to_vec_pretty(&speeds).expect("texts and numbers are plain data"))
    }

    fn speeds_path(&self) -> PathBuf {
        self.root.join("speeds.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_added_replaced_and_lost_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        assert!(store.speeds().is_empty());
        store.note_speeds([("a".into(), 1.0), ("b".into(), 2.0), ("c".into(), f64::NAN)]).unwrap();
        store.note_speeds([("b".into(), 3.0)]).unwrap();
        assert_eq!(store.speeds(), BTreeMap::from([("a".into(), 1.0), ("b".into(), 3.0)]));
        std::fs::write(store.speeds_path(), "{").unwrap();
        assert!(store.speeds().is_empty());
    }
}
