//! Results that a longer one can start from: keys that differ in one parameter only, which says when to stop.

use super::{Key, Line, Outputs, Store, Sync, key, write_aside_with};
use crate::stage::Extends;

/// A key's place among those that differ in the one parameter only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Key of all other lines.
    family: Key,
    /// The parameter's value.
    value: u64,
}

impl Member {
    /// The place of a key with these lines, if the parameter is a whole number there.
    pub fn of(lines: &[Line], extends: Extends) -> Option<Self> {
        let name = format!("params.{}", extends.param);
        let value = lines.iter().find(|line| line.name == name)?.value.parse().ok()?;
        let others: Vec<Line> = lines.iter().filter(|line| line.name != name).cloned().collect();
        Some(Self { family: key(&others), value })
    }
}

/// A smaller result to start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Extension {
    /// Its value of the parameter, and the one that is wanted.
    pub from: u64,
    pub to: u64,
    /// What is needed of it.
    pub outputs: Outputs,
    pub key: Key,
}

impl Store {
    /// Notes that a key has a result others can start from. Not being able to costs time later.
    pub fn note_member(&self, member: &Member, key: &Key) {
        let path = self.family_path(member).join(member.value.to_string());
        let _ = write_aside_with(&path, key.as_str().as_bytes(), Sync::No);
    }

    /// The largest smaller result whose bytes are there. What it holds is checked by the stage that starts from it.
    pub fn extension(&self, member: &Member, extends: Extends) -> Option<Extension> {
        let _hold = self.hold().ok();
        let entries = std::fs::read_dir(self.family_path(member)).ok()?.flatten();
        let mut values: Vec<u64> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|value| *value < member.value)
            .collect();
        values.sort_unstable();
        values.into_iter().rev().find_map(|from| {
            let text = std::fs::read_to_string(self.family_path(member).join(from.to_string())).ok()?;
            let action = self.action(&Key::parse(text.trim())?)?;
            // The note is a memo: the record says what it is a result of.
            let known = Member::of(&action.lines, extends)?;
            if known.family != member.family || known.value != from {
                return None;
            }
            let needed = |name: &&str| action.outputs.get(*name).map(|object| ((*name).to_string(), object.clone()));
            let outputs: Outputs = extends.outputs.iter().filter_map(needed).collect();
            let there = outputs.values().all(|object| self.object_path(object).exists());
            (there && outputs.len() == extends.outputs.len()).then(|| {
                self.claim(&action.key);
                self.note_use(&action.key);
                Extension { from, to: member.value, outputs, key: action.key.clone() }
            })
        })
    }

    fn family_path(&self, member: &Member) -> std::path::PathBuf {
        self.root.join("longer").join(member.family.as_str())
    }
}
