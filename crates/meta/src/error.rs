//! What can go wrong with the metadata, and the list of damage met so far.

use std::fmt;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use weir_base::error::Kinded;
use weir_base::{Diagnostic, ErrorKind, StreamName, TenantId};

/// More pieces of damage than this are counted in the log but not listed.
const DAMAGE_LISTED_MAX: usize = 1_000;

/// A row (or a group of rows) that does not check out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DamagedRow {
    /// The table of the database.
    pub table: &'static str,
    /// The primary key as read, its parts joined by `/`.
    pub key: String,
    /// What is wrong with it.
    pub problem: &'static str,
    /// Whose row it is; `None` if that cannot be told from the row. Damage to a tenant's files or
    /// positions is always reported at least once with the tenant it harms.
    pub tenant: Option<TenantId>,
    /// The stream it belongs to, if it belongs to one and that can be told.
    pub stream: Option<StreamName>,
}

impl fmt::Display for DamagedRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "row `{}` of table `{}` is damaged: {}", self.key, self.table, self.problem)
    }
}

/// Everything the metadata database can answer instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// There is no such thing, or it is being deleted.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// `tenant`, `key`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The thing is in a state that does not allow this.
    #[error("{what} `{id}` {reason}")]
    Conflict {
        /// `tenant`, `key`, `file`.
        what: &'static str,
        /// Its id.
        id: String,
        /// Why not.
        reason: &'static str,
    },
    /// What was given is wrong; all problems at once.
    #[error("{}", join(.0))]
    Invalid(Vec<Diagnostic>),
    /// A limit of the tenant is reached.
    #[error("the limit {name} is {value}, and {current} are in use")]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The present use.
        current: u64,
    },
    /// Stored bytes do not check out.
    #[error("{0}")]
    Corrupt(DamagedRow),
    /// Another writer has begun; this one must stop.
    #[error("writer epoch {epoch} is fenced by epoch {current}: another process writes these tables")]
    Fenced {
        /// The caller's epoch.
        epoch: u64,
        /// The database's.
        current: u64,
    },
    /// The table is not where the caller believes it is.
    #[error("table `{tenant}/{stream}` is at {found} of shard {shard}, not at {expected}")]
    PositionMoved {
        /// The owner.
        tenant: TenantId,
        /// The stream.
        stream: StreamName,
        /// The shard.
        shard: u16,
        /// What the caller gave.
        expected: u64,
        /// What the database has.
        found: u64,
    },
    /// The database was written by a later version of Weir.
    #[error(
        "the metadata database has schema {found}, and this version of Weir knows schemas up to {known}: use the version that wrote it, or a later one"
    )]
    NewerSchema {
        /// The database's.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// The keys in the database were hashed under another pepper.
    #[error(
        "the pepper does not belong to this metadata database, so no key would be accepted: restore the pepper file that was made with it"
    )]
    WrongPepper,
    /// The database refused.
    #[error("cannot {action}")]
    Database {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// A file beside the database could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn join(problems: &[Diagnostic]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl MetaError {
    pub(crate) fn database(action: &'static str, source: rusqlite::Error) -> Self {
        Self::Database { action, source }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn not_found(what: &'static str, id: impl fmt::Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    pub(crate) fn conflict(what: &'static str, id: impl fmt::Display, reason: &'static str) -> Self {
        Self::Conflict { what, id: id.to_string(), reason }
    }

    pub(crate) fn invalid(place: &str, message: impl Into<String>, hint: &str) -> Self {
        Self::Invalid(vec![Diagnostic { message: message.into(), place: place.to_owned(), hint: hint.to_owned() }])
    }
}

impl Kinded for MetaError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict { .. } | Self::Fenced { .. } | Self::PositionMoved { .. } => ErrorKind::Conflict,
            Self::Invalid(_) => ErrorKind::Input,
            Self::Limit { .. } => ErrorKind::Limit,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::NewerSchema { .. } | Self::WrongPepper => ErrorKind::Config,
            Self::Database { source, .. } => database_kind(source),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => ErrorKind::Config,
                io::ErrorKind::InvalidData => ErrorKind::Corrupt,
                _ => ErrorKind::Transient,
            },
        }
    }
}

fn database_kind(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::Full,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted,
        ) => ErrorKind::Transient,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => ErrorKind::Config,
        _ => ErrorKind::Internal,
    }
}

/// Whether SQLite itself says that its file is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    database_kind(error) == ErrorKind::Corrupt
}

/// Damage met since the database was opened, each piece once.
#[derive(Debug, Default)]
pub(crate) struct DamageList {
    rows: Mutex<Vec<DamagedRow>>,
}

impl DamageList {
    pub(crate) fn note(&self, row: &DamagedRow) {
        let mut rows = self.rows.lock();
        if rows.contains(row) || rows.len() >= DAMAGE_LISTED_MAX {
            return;
        }
        rows.push(row.clone());
        drop(rows);
        tracing::error!(table = row.table, key = %row.key, problem = row.problem, "metadata row is damaged");
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn clear(&self) {
        self.rows.lock().clear();
    }

    pub(crate) fn list(&self) -> Vec<DamagedRow> {
        self.rows.lock().clone()
    }
}
