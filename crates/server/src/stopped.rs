//! The data directory of a server that does not run, for commands that mend it.

use std::path::Path;
use std::sync::Arc;

use weir_base::clock::SystemClock;
use weir_base::disk::{DiskLock, RealDisk};
use weir_meta::{Meta, pepper};

use crate::app::{StartError, lock};

/// The metadata of a stopped server, and the lock that keeps one from starting.
#[derive(Debug)]
pub struct Stopped {
    /// The metadata.
    pub meta: Arc<Meta>,
    /// Held until this is dropped.
    _lock: Box<dyn DiskLock>,
}

impl Stopped {
    /// Opens what is in `data_dir`; `None` if there is no metadata database, and none is made.
    ///
    /// # Errors
    /// Another process has the directory, or the database cannot be read.
    pub fn open(data_dir: &Path) -> Result<Option<Self>, StartError> {
        let path = data_dir.join("meta.db");
        if !std::fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            return Ok(None);
        }
        let lock = lock(RealDisk::new().as_ref(), data_dir)?;
        let pepper = pepper::load_or_create(&data_dir.join("pepper"))?;
        let meta =
            Meta::open(&path, pepper, SystemClock::new()).map_err(|source| StartError::MetaFile { path, source })?;
        Ok(Some(Self { meta, _lock: lock }))
    }

    /// Makes another administrator's key in `admin.key`, for who has lost every one; its id.
    ///
    /// # Errors
    /// The metadata or the file cannot be written.
    pub fn renew_admin_key(&self, data_dir: &Path) -> Result<String, StartError> {
        Ok(self.meta.renew_admin_key(&data_dir.join("admin.key"))?)
    }
}
