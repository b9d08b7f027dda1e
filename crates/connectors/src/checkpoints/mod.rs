//! Checkpoints in a folder of this machine.
//!
//! An object is a file of its name: the bytes, and after them eight more by which they are checked when
//! they are read. It is written aside, fsynced and then linked under its name, which fails if somebody
//! else has done so before; so of two writers of one name one wins, and nobody ever reads half of it. An object that was
//! removed may be there again after a loss of power.

mod take_overs;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::{Handle, RuntimeFlavor};
use weir_base::ErrorKind;
use weir_base::disk::{Disk, is_full};
use weir_component::checkpoint::{CheckpointError, CheckpointStore, Created};

use take_overs::TakeOvers;

/// The most bytes of an object.
pub const OBJECT_BYTES_MAX: u64 = 16 << 30;
/// The longest name of an object.
pub const NAME_BYTES_MAX: usize = 128;
/// What an object ends with, before its checksum.
const MARK: [u8; 4] = *b"WRC1";

/// A folder of objects.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
}

impl CheckpointFolder {
    /// The folder at `path`, which is made if it is not there. What writers that are gone have left aside
    /// is removed; nobody else may be creating objects in it at that moment.
    ///
    /// # Errors
    /// If it cannot be made or cleaned up.
    pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, CheckpointError> {
        disk.create_dir_all(path).map_err(|error| failed("create the folder", path, &error))?;
        for entry in disk.list(path).map_err(|error| failed("list", path, &error))? {
            if entry.name.starts_with('.') && entry.name.ends_with(".aside") {
                let aside = path.join(&entry.name);
                disk.remove(&aside).map_err(|error| failed("remove", &aside, &error))?;
            }
        }
        Ok(Self { folder: path.to_owned(), disk })
    }

    /// The folder at `path` for somebody who only looks, while another may be writing.
    pub fn watch(path: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { folder: path.to_owned(), disk }
    }

    fn path(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let valid =
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(known);
        if valid {
            return Ok(self.folder.join(name));
        }
        let shown: String = name.chars().take(80).collect();
        let message = format!(
            "`{shown}` is not the name of a checkpoint object: 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, -, _ and ., not beginning with a dot"
        );
        Err(CheckpointError::new(ErrorKind::Internal, message))
    }

    fn sync(&self) -> Result<(), CheckpointError> {
        self.disk.sync_dir(&self.folder).map_err(|error| failed("make names durable in", &self.folder, &error))
    }

    fn write(&self, aside: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.create(aside)?;
        file.write_all_at(bytes, 0)?;
        let mut end = MARK.to_vec();
        end.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        file.write_all_at(&end, bytes.len() as u64)?;
        file.sync_all()
    }
}

/// Those who wait for a disk, of all pipelines.
static TAKE_OVERS: TakeOvers = TakeOvers::new();

/// Does what waits for the disk. Many pipelines share few threads, and none of them may stand still for another one's
/// fsync: on a runtime of several threads, another takes over meanwhile. The work itself is never given up in the middle,
/// as it would be on a thread that nobody waits for: an object that appears after its writer is gone misleads the next.
async fn off_the_way<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => {
            let _place = TAKE_OVERS.take().await;
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> CheckpointError {
    let kind = match error.kind() {
        _ if is_full(error) => ErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Forbidden,
        _ => ErrorKind::Transient,
    };
    CheckpointError::new(kind, format!("cannot {doing} {}: {error}", path.display()))
}

#[async_trait]
impl CheckpointStore for CheckpointFolder {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        let path = self.path(name)?;
        // A name nobody else uses: two writers may create the same object at once.
        let unique = u64::from_le_bytes(weir_base::random::bytes());
        let aside = self.folder.join(format!(".{name}.{unique:016x}.aside"));
        off_the_way(|| {
            let linked = self.write(&aside, bytes).and_then(|()| self.disk.link(&aside, &path));
            // Left aside it does no harm, and is removed the next time the folder is opened.
            let _ = self.disk.remove(&aside);
            let created = match linked {
                Ok(()) => Created::Now,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Created::Before,
                Err(error) => return Err(failed("create", &path, &error)),
            };
            // Also for the one that came second: what it is told of has to stay.
            self.sync()?;
            Ok(created)
        })
        .await
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let path = self.path(name)?;
        let mut bytes = match off_the_way(|| self.disk.read(&path, OBJECT_BYTES_MAX)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let end = bytes.len().checked_sub(8).map(|at| bytes.split_off(at));
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        match end {
            Some(end) if end[..4] == MARK && end[4..] == crc => Ok(Some(bytes)),
            _ => Err(CheckpointError::new(
                ErrorKind::Corrupt,
                format!("{} is damaged: its checksum does not agree with its contents", path.display()),
            )),
        }
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        let entries = off_the_way(|| self.disk.list(&self.folder)).await;
        let entries = entries.map_err(|error| failed("list", &self.folder, &error))?;
        let names = entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name);
        Ok(names.filter(|name| self.path(name).is_ok()).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.path(name)?;
        match off_the_way(|| self.disk.remove(&path)).await {
            // Not synced: what comes back after a loss of power is nothing anybody goes on from, and is removed again.
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &path, &error)),
        }
    }
}

#[cfg(test)]
mod tests;
