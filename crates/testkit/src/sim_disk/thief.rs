//! Somebody else who takes files away, at a moment of the test's choice. That is no operation, and durable at once.

use std::path::{Path, PathBuf};

use super::{SimDisk, State, locked, normal};

/// Who takes away the last file of a directory whose name begins so.
#[derive(Clone)]
pub(super) struct Thief {
    folder: PathBuf,
    prefix: String,
}

impl State {
    pub(super) fn take_last(&mut self, thief: &Thief) {
        let Ok(directory) = self.directory(&thief.folder) else { return };
        let last = directory.visible.iter().rfind(|(name, _)| name.starts_with(&thief.prefix));
        let Some((name, file)) = last.map(|(name, file)| (name.clone(), *file)) else { return };
        directory.visible.remove(&name);
        directory.durable.remove(&name);
        let bytes = self.files.get(&file).map(|file| file.visible.clone());
        self.taken.extend(bytes);
    }
}

impl SimDisk {
    /// Takes away the last file of a directory whose name begins with `prefix` before the `at`-th operation from now on; 0:
    /// at once.
    pub fn take_at(&self, at: u64, folder: &Path, prefix: &str) {
        let mut state = locked(&self.state);
        let thief = Thief { folder: normal(folder), prefix: prefix.to_owned() };
        if at == 0 {
            state.take_last(&thief);
        } else {
            state.thief = Some((state.counted[0] + at, thief));
        }
    }

    /// What was in the files that were taken away, in the order of that.
    pub fn taken(&self) -> Vec<Vec<u8>> {
        locked(&self.state).taken.clone()
    }
}
