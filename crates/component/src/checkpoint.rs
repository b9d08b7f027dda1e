//! Where checkpoints are kept.

use async_trait::async_trait;
use weir_base::{ErrorKind, Kinded};

/// Named objects of one pipeline: a folder, or a prefix of an object store.
#[async_trait]
pub trait CheckpointStore: Send + Sync {
    /// Writes an object that is not there yet, whole and durable, or says that it is there.
    ///
    /// # Errors
    /// After one, whether the object was written is not known.
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError>;

    /// Reads an object; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError>;

    /// The names of all objects, in no order.
    ///
    /// # Errors
    /// If they cannot be listed.
    async fn list(&self) -> Result<Vec<String>, CheckpointError>;

    /// Removes an object, if it is there. It may come back if the machine loses power soon after: whoever removes one must not
    /// depend on its being gone.
    ///
    /// # Errors
    /// If it cannot be removed.
    async fn delete(&self, name: &str) -> Result<(), CheckpointError>;
}

/// Who wrote an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// This call.
    Now,
    /// Somebody before.
    Before,
}

/// Why the store of checkpoints failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CheckpointError {
    /// What kind of error; `Transient`, `Timeout` and `Full` are tried again.
    pub kind: ErrorKind,
    /// What was attempted and what came of it: lower case, no full stop.
    pub message: String,
}

impl CheckpointError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl Kinded for CheckpointError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
