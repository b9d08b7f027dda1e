//! The disk seam: every file the log and the tables write goes through [`Disk`], so that tests can
//! fail the n-th operation, lose unsynced writes and enumerate what a crash may leave behind.
//!
//! Invariant: a failed [`DiskFile::sync_data`] ends the trust in that file. Callers never retry it
//! (after a failed fsync Linux marks the pages clean, so a second one succeeds without having
//! written anything; see "Can Applications Recover from fsync Failures?", USENIX ATC 2020).

mod real;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use real::RealDisk;

/// An open file. All offsets are in bytes. Shared between threads; positions are explicit.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes the contents durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and metadata durable (fsync).
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves blocks up to `len`, so that writing there cannot meet a full disk.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Overwrites the first `len` bytes with zeros and makes them durable, a chunk at a time, so that whoever syncs another
    /// file meanwhile waits for little. Where the system can, the zeros do not go through its page cache.
    fn fill_with_zeros(&self, len: u64) -> io::Result<()> {
        fill(self, 0, len)
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A lock on a file, held until it is dropped or the process ends.
pub trait DiskLock: Send + Sync + fmt::Debug {
    /// Whether the file that is locked is still what its path names: not if it was removed, or if there is another folder
    /// in place of the one it is in, such as that of a file system which is not mounted any more.
    fn is_in_place(&self) -> io::Result<bool>;

    /// Whether the folder of the file is still the one it was locked in, whatever became of the file. False where folders
    /// cannot be told from each other.
    fn is_same_folder(&self) -> io::Result<bool>;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name within the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// The length in bytes; 0 for a directory.
    pub len: u64,
}

/// A file system. Paths are absolute or relative to the process; creating, linking or renaming a
/// file is durable only after [`Disk::sync_dir`] on its directory.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist, for reading and writing, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing what is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Lets two files of a directory swap their names in one step; `NotFound` if either is not there, `Unsupported` where the
    /// file system cannot.
    fn exchange(&self, left: &Path, right: &Path) -> io::Result<()>;
    /// Gives the file at `from` a second name; `AlreadyExists` if there is something at `to`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents, mode 0700, each made durable in its parent.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is a regular file at `path`: no directory, device, pipe, socket or symbolic link. Opens nothing.
    fn is_regular(&self, path: &Path) -> io::Result<bool>;
    /// What a directory holds, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock of the file at `path`, creating it if need be; `WouldBlock` if
    /// somebody else, in this process or another, holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// Reads a whole file of at most `max` bytes; `InvalidData` if it is longer.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let file = self.open_read(path)?;
        let len = file.len()?;
        if len > max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} has {len} bytes, more than {max}", path.display()),
            ));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces a small file so that after a crash either the old or the new contents are there:
    /// written aside, fsynced, renamed, directory fsynced.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let aside = with_suffix(path, ".tmp");
        match self.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create(&aside)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        drop(file);
        self.rename(&aside, path)?;
        match path.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}

/// Bytes of zeros that are written and synced at once.
const ZEROS_CHUNK: u64 = 1 << 20;

/// Overwrites the bytes from `from` to `to` with zeros through the page cache.
fn fill<F: DiskFile + ?Sized>(file: &F, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_CHUNK.min(to - from) as usize];
    in_chunks(from, to, |at, chunk| {
        file.write_all_at(&zeros[..chunk as usize], at)?;
        file.sync_data()
    })
}

/// Calls `write` with the offset and the length of each chunk from `from` to `to`.
fn in_chunks(from: u64, to: u64, mut write: impl FnMut(u64, u64) -> io::Result<()>) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let chunk = ZEROS_CHUNK.min(to - at);
        write(at, chunk)?;
        at += chunk;
    }
    Ok(())
}

/// `path` with `suffix` after its file name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether an error means that the disk, or the owner's quota on it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
