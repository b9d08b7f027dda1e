//! What can go wrong with tables, by what the caller can do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;
use weir_base::disk::is_full;
use weir_base::{ErrorKind, Kinded, StreamName};

/// Why the tables could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// Stored bytes do not check out. Nothing of them was used.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not check out.
        what: String,
    },
    /// The catalogue could not be read or changed.
    #[error("cannot {attempt} in the catalogue")]
    Catalogue {
        /// What was attempted.
        attempt: &'static str,
        /// What it becomes outside.
        kind: ErrorKind,
        /// The catalogue's own error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A row whose place in the log is kept could not be read back.
    #[error("cannot read rows back from the log at shard {shard}, offset {offset}")]
    Log {
        /// The shard.
        shard: u16,
        /// The offset in it.
        offset: u64,
        /// What it becomes outside.
        kind: ErrorKind,
        /// The log's own error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Rows could not be rearranged.
    #[error("cannot {attempt}")]
    Rows {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        #[source]
        source: ArrowError,
    },
    /// A table file could not be encoded or decoded although its bytes check out.
    #[error("cannot {attempt} {}", path.display())]
    Parquet {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ParquetError,
    },
    /// Another writer has taken over the tables; this one must not write again.
    #[error("another process has taken over the tables")]
    Fenced,
    /// There is no such stream.
    #[error("there is no stream `{0}`")]
    UnknownStream(StreamName),
    /// The work was given up because the tenant was deleted or Weir is stopping.
    #[error("given up")]
    Stopped,
}

impl Kinded for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if is_full(source) => ErrorKind::Full,
            Self::Io { .. } => ErrorKind::Transient,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Catalogue { kind, .. } | Self::Log { kind, .. } => *kind,
            Self::Rows { .. } | Self::Parquet { .. } => ErrorKind::Internal,
            Self::Fenced => ErrorKind::Conflict,
            Self::UnknownStream(_) => ErrorKind::NotFound,
            Self::Stopped => ErrorKind::Cancelled,
        }
    }
}

impl StoreError {
    /// Turns an arrow error into one that says what was attempted.
    pub(crate) fn rows(attempt: &'static str) -> impl FnOnce(ArrowError) -> Self {
        move |source| Self::Rows { attempt, source }
    }

    /// An error found inside an error of the Parquet library, if it is one of ours.
    pub fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut at = Some(error);
        while let Some(error) = at {
            if let Some(own) = error.downcast_ref::<Self>() {
                return Some(own);
            }
            // Boxes of foreign errors that do not name their contents as the source.
            at = match (error.downcast_ref::<ParquetError>(), error.downcast_ref::<io::Error>()) {
                (Some(ParquetError::External(inner)), _) => Some(inner.as_ref()),
                (_, Some(outer)) if outer.get_ref().is_some() => {
                    outer.get_ref().map(|inner| inner as &(dyn Error + 'static))
                }
                _ => error.source(),
            };
        }
        None
    }

    /// The same error again, for another caller. Causes are kept as text.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Io { attempt, path, source } => Self::Io {
                attempt,
                path: path.clone(),
                source: source
                    .raw_os_error()
                    .map_or_else(|| io::Error::new(source.kind(), source.to_string()), io::Error::from_raw_os_error),
            },
            Self::Corrupt { file, offset, what } => {
                Self::Corrupt { file: file.clone(), offset: *offset, what: what.clone() }
            }
            Self::Catalogue { attempt, kind, source } => {
                Self::Catalogue { attempt, kind: *kind, source: source.to_string().into() }
            }
            Self::Log { shard, offset, kind, source } => {
                Self::Log { shard: *shard, offset: *offset, kind: *kind, source: source.to_string().into() }
            }
            Self::Rows { attempt, source } => {
                Self::Rows { attempt, source: ArrowError::ComputeError(source.to_string()) }
            }
            Self::Parquet { attempt, path, source } => {
                Self::Parquet { attempt, path: path.clone(), source: ParquetError::General(source.to_string()) }
            }
            Self::Fenced => Self::Fenced,
            Self::UnknownStream(stream) => Self::UnknownStream(stream.clone()),
            Self::Stopped => Self::Stopped,
        }
    }

    /// What a failure of the Parquet library really was: one of our own errors if it carries one.
    pub(crate) fn parquet(attempt: &'static str, path: &std::path::Path, source: ParquetError) -> Self {
        match Self::within(&source) {
            Some(own) => own.again(),
            None => Self::Parquet { attempt, path: path.to_owned(), source },
        }
    }
}
