//! The space on the disk: what is held back for the time when it is full, and whether it is.
//!
//! Most of the reserve is given free for everybody once the disk is full, also for what belongs to others. The last quarter
//! is not: deletes and writes of keys, by which an operator makes room, get it for as long as they take.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use weir_base::disk::{Disk, is_full};

use crate::LogError;

/// The space on the disk. One for all shards.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) reserve_bytes: u64,
    /// Appends are refused.
    pub(crate) full: AtomicBool,
    reserve_held: AtomicBool,
    /// How many bytes of the last quarter are held.
    last_held: AtomicU64,
    /// How many have it at the moment. Locked while any of the reserve is taken or given, so that what is noted is so.
    rooms: Mutex<usize>,
}

/// The last quarter of the reserve, until it is dropped.
#[derive(Debug)]
pub struct Room(Arc<Space>);

impl Drop for Room {
    fn drop(&mut self) {
        let mut rooms = self.0.rooms.lock();
        *rooms -= 1;
        if *rooms == 0
            && let Err(error) = self.0.take_last_quarter()
        {
            tracing::error!(error = %weir_base::error::chain(&error), "cannot hold the last quarter of the reserve back");
        }
    }
}

impl Space {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, reserve_bytes: u64) -> Self {
        Self {
            disk,
            dir,
            reserve_bytes,
            full: AtomicBool::new(false),
            reserve_held: AtomicBool::new(false),
            last_held: AtomicU64::new(0),
            rooms: Mutex::new(0),
        }
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    fn last_path(&self) -> PathBuf {
        self.dir.join("reserve.last")
    }

    fn last_bytes(&self) -> u64 {
        self.reserve_bytes / 4
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Free space that is not for segments: the reserve, while it is given to everything else.
    pub(crate) fn not_for_segments(&self) -> u64 {
        if self.reserve_held.load(Ordering::Acquire) { 0 } else { self.not_held() }
    }

    /// What has to be free so that all of the reserve can be held back.
    pub(crate) fn not_held(&self) -> u64 {
        let last = self.last_held.load(Ordering::Acquire);
        let most = self.reserve_bytes - self.last_bytes();
        let is_held = self.reserve_held.load(Ordering::Acquire);
        (if is_held { 0 } else { most }) + self.last_bytes().saturating_sub(last)
    }

    /// Holds the reserve back, the last quarter first; false if there is no room for it.
    pub(crate) fn take_reserve(&self) -> Result<bool, LogError> {
        let rooms = self.rooms.lock();
        if *rooms == 0 {
            self.take_last_quarter()?;
        }
        if self.reserve_bytes == 0 || self.reserve_held.load(Ordering::Acquire) {
            return Ok(true);
        }
        if self.hold(&self.reserve_path(), self.reserve_bytes - self.last_bytes())? {
            self.reserve_held.store(true, Ordering::Release);
            return Ok(true);
        }
        self.give_most()?;
        Ok(false)
    }

    /// As much of the last quarter as there is room for. The lock of the rooms is held.
    fn take_last_quarter(&self) -> Result<(), LogError> {
        let wanted = self.last_bytes();
        if self.last_held.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let path = self.last_path();
        let free = self.disk.free_bytes(&self.dir).map_err(|error| LogError::io("look at", &self.dir, error))?;
        let mut bytes = wanted.min(self.last_held.load(Ordering::Acquire) + free);
        // File systems need a little for themselves.
        while bytes > wanted / 64 {
            if self.hold(&path, bytes)? {
                self.last_held.store(bytes, Ordering::Release);
                return Ok(());
            }
            bytes -= wanted.div_ceil(64).min(bytes);
        }
        Ok(())
    }

    /// Whether a file of so many bytes could be made.
    fn hold(&self, path: &Path, bytes: u64) -> Result<bool, LogError> {
        let made = (|| {
            let file = match self.disk.open(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.disk.create(path)?,
                other => other?,
            };
            file.allocate(bytes)?;
            // The next start may find the disk full and need it.
            self.disk.sync_dir(&self.dir)
        })();
        match made {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(LogError::io("make", path, error)),
        }
    }

    /// Gives the reserve free but for its last quarter, so that others can go on writing for a while.
    pub(crate) fn give_reserve(&self) -> Result<(), LogError> {
        let _rooms = self.rooms.lock();
        self.give_most()
    }

    /// The same; the lock of the rooms is held.
    fn give_most(&self) -> Result<(), LogError> {
        self.reserve_held.store(false, Ordering::Release);
        self.remove(&self.reserve_path())
    }

    /// Gives all of it free.
    pub(crate) fn give_all(&self) -> Result<(), LogError> {
        let _rooms = self.rooms.lock();
        self.give_most()?;
        self.last_held.store(0, Ordering::Release);
        self.remove(&self.last_path())
    }

    /// The last quarter, if the rest was given free or others have filled the disk: until the room is dropped.
    pub(crate) fn room(self: &Arc<Self>) -> Room {
        let mut rooms = self.rooms.lock();
        *rooms += 1;
        let is_tight = || self.disk.free_bytes(&self.dir).is_ok_and(|free| free < self.last_bytes());
        if !self.reserve_held.load(Ordering::Acquire) || is_tight() {
            self.last_held.store(0, Ordering::Release);
            if let Err(error) = self.remove(&self.last_path()) {
                tracing::error!(error = %weir_base::error::chain(&error), "cannot give the last quarter of the reserve free");
            }
        }
        drop(rooms);
        Room(Arc::clone(self))
    }

    fn remove(&self, path: &Path) -> Result<(), LogError> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LogError::io("remove", path, error)),
            _ => Ok(()),
        }
    }
}
