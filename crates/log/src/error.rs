//! What can go wrong with the log, in terms of what a caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::{ErrorKind, Kinded};

/// An error of the log. Cheap to clone: one failed commit answers many appenders.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// No space left; refused before anything was written.
    #[error("no space left on the disk for the log at {}", dir.display())]
    Full {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// The queue in front of the log has no room; trying again later can succeed.
    #[error("the queue in front of the log is full ({bytes} bytes wait, at most {bytes_max})")]
    QueueFull {
        /// Bytes waiting.
        bytes: usize,
        /// The bound: `queue_bytes_max`, or one tenant's share of it.
        bytes_max: usize,
    },
    /// One append is larger than the whole queue may be, or has too many parts.
    #[error("an append of {size} {unit} is more than the log takes at once ({max})")]
    TooLarge {
        /// The size of the append.
        size: usize,
        /// What is counted.
        unit: &'static str,
        /// The bound.
        max: usize,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for a request with another body")]
    KeyReused,
    /// The rows do not have the columns of their stream.
    #[error("a batch for stream {stream} does not fit its schema: {problem}")]
    Schema {
        /// The stream.
        stream: String,
        /// What is wrong.
        problem: String,
    },
    /// A producer with a larger epoch has taken over.
    #[error("the producer's epoch {epoch} is fenced by epoch {current}")]
    Fenced {
        /// The epoch of the append.
        epoch: u32,
        /// The largest epoch seen.
        current: u32,
    },
    /// Another process has the log open.
    #[error("the log at {} is in use by another process", dir.display())]
    InUse {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// The options contradict the stored log or each other.
    #[error("{0}")]
    Options(String),
    /// Stored bytes do not check out.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The offset in the file.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The position is not in the log: released and removed, or not yet durable.
    #[error("position {offset} of shard {shard} is not in the log")]
    Gone {
        /// The shard.
        shard: u16,
        /// The offset.
        offset: u64,
    },
    /// What a reader wants next was removed, because it came too late.
    #[error(
        "the rows from position {offset} on were to be read, and the log of shard {shard} begins at {oldest} now: \
         {} bytes of it are gone (log.retention, log.retention_bytes)",
        oldest.saturating_sub(*offset)
    )]
    Overrun {
        /// The shard.
        shard: u16,
        /// What it wants next.
        offset: u64,
        /// The oldest there is.
        oldest: u64,
    },
    /// A disk operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The commit that held the rows failed; they may or may not be stored.
    #[error("the rows could not be made durable")]
    CommitFailed(#[source] Box<LogError>),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// A bug in Weir.
    #[error("{0}")]
    Internal(String),
}

impl LogError {
    /// Classifies a disk error. A full disk is [`LogError::Full`] whatever was attempted.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if weir_base::disk::is_full(&source) {
            return Self::Full { dir: path.parent().unwrap_or(path).to_owned() };
        }
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

impl Kinded for LogError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } => ErrorKind::Full,
            Self::QueueFull { .. } => ErrorKind::Limit,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::KeyReused => ErrorKind::Rejected,
            Self::Schema { .. } | Self::Internal(_) => ErrorKind::Internal,
            Self::Fenced { .. } | Self::InUse { .. } => ErrorKind::Conflict,
            Self::Options(_) => ErrorKind::Config,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Gone { .. } | Self::Overrun { .. } => ErrorKind::NotFound,
            Self::Io { .. } | Self::Closed => ErrorKind::Transient,
            Self::CommitFailed(cause) => match cause.kind() {
                ErrorKind::Full => ErrorKind::Full,
                ErrorKind::Internal => ErrorKind::Internal,
                _ => ErrorKind::Transient,
            },
        }
    }
}
