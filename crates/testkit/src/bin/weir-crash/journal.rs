//! The journal of acknowledgements: what the server has promised, on a disk of our own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};

/// An append-only file, fsynced at every entry: an acknowledgement counts from then on.
pub(crate) struct Journal {
    file: Mutex<File>,
}

impl Journal {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let file = File::create(folder.join("acknowledged.journal")).context("cannot make the journal")?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Notes that rows `first..first + n_rows` of a producer were acknowledged.
    pub(crate) fn acknowledged(&self, tenant: &str, producer: &str, first: u64, n_rows: u64) -> Result<()> {
        let mut file = self.file.lock().map_err(|_| anyhow::anyhow!("a producer panicked"))?;
        writeln!(file, "{tenant} {producer} {first} {n_rows}")?;
        file.sync_data().context("cannot fsync the journal")
    }
}
