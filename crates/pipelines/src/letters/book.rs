//! What has been done with dead letters, in one small file that is replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weir_base::crc;
use weir_base::disk::Disk;

use super::{LetterId, LetterSet};

/// The file is not larger.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Letters that were run again.
    replayed: LetterSet,
    /// Letters nobody wants to see any more.
    purged: LetterSet,
    /// The number of the newest object that was put into the queue.
    queued: u64,
}

/// The book of the dead letters of one pipeline. There is one for a pipeline in a process.
#[derive(Debug)]
pub struct Book {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    written: Mutex<Arc<Written>>,
    /// Rises when an object was put into the queue.
    put: watch::Sender<u64>,
}

/// What was written down at some moment.
#[derive(Clone, Debug)]
pub struct Marks(Arc<Written>);

impl Marks {
    /// Whether a letter was run again.
    pub fn is_replayed(&self, id: LetterId) -> bool {
        self.0.replayed.contains(id)
    }

    /// Whether a letter is not to be seen any more.
    pub fn is_purged(&self, id: LetterId) -> bool {
        self.0.purged.contains(id)
    }

    /// Whether any letter is not to be seen any more.
    pub fn hides_any(&self) -> bool {
        !self.0.purged.is_empty()
    }
}

fn invalid(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} cannot be read: {what}", path.display()))
}

impl Book {
    /// The book at `path`, which is empty if there is no such file.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what was written.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Self> {
        let written = match disk.read(path, FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Written::default(),
            Err(error) => return Err(error),
            Ok(bytes) => {
                let (sum, json) = bytes.split_at_checked(9).ok_or_else(|| invalid(path, "it is cut"))?;
                if sum != format!("{:08x}\n", crc::crc32c(json)).as_bytes() {
                    return Err(invalid(path, "its checksum is wrong"));
                }
                serde_json::from_slice(json).map_err(|error| invalid(path, error))?
            }
        };
        Ok(Self { disk, path: path.to_owned(), written: Mutex::new(Arc::new(written)), put: watch::Sender::new(0) })
    }

    /// What is written down now.
    pub fn marks(&self) -> Marks {
        Marks(Arc::clone(&self.written.lock()))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Written) -> T) -> io::Result<T> {
        let mut current = self.written.lock();
        let mut next = Written::clone(&current);
        let result = change(&mut next);
        if next != **current {
            let json = serde_json::to_vec(&next)?;
            let mut bytes = format!("{:08x}\n", crc::crc32c(&json)).into_bytes();
            bytes.extend_from_slice(&json);
            if let Some(folder) = self.path.parent() {
                self.disk.create_dir_all(folder)?;
            }
            self.disk.replace(&self.path, &bytes)?;
            *current = Arc::new(next);
        }
        Ok(result)
    }

    /// Notes that letters were run again; durable when it returns.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn note_replayed(&self, ids: impl IntoIterator<Item = LetterId>) -> io::Result<()> {
        self.change(|written| written.replayed.extend(ids))
    }

    /// Notes that letters are not to be seen any more; durable when it returns.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn note_purged(&self, ids: impl IntoIterator<Item = LetterId>) -> io::Result<()> {
        self.change(|written| written.purged.extend(ids))
    }

    /// An object was put into the queue.
    pub(super) fn note_put(&self) {
        self.put.send_modify(|objects| *objects += 1);
    }

    /// Says when objects are put into the queue.
    pub(super) fn puts(&self) -> watch::Receiver<u64> {
        self.put.subscribe()
    }

    /// A number for an object of the queue that none had before.
    pub(super) fn next_queued(&self) -> io::Result<u64> {
        self.change(|written| {
            written.queued += 1;
            written.queued
        })
    }
}
