//! What the tables need of their neighbours: the catalogue and the log.
//!
//! Both are traits because the simulator puts faulty ones in their place: a commit that fails, or
//! that succeeds and is reported as failed, is the interesting half of the commit protocol.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use weir_base::{ErrorKind, Kinded, StreamName, TenantId};
use weir_data::attributes::AttributeKind;
use weir_data::defined::StreamRegistry;
use weir_log::{Log, LogError, Position, Record};
use weir_meta::catalogue::{FileEntry, FileId, TableCommit, TablePosition};
use weir_meta::tenants::TenantState;
use weir_meta::{DamagedRow, Meta, MetaError};

/// A refusal of a neighbour, with the kind that decides what becomes of it.
#[derive(Debug)]
pub struct SeamError {
    /// What it becomes outside.
    pub kind: ErrorKind,
    /// Nothing has changed and nothing will. Where this is false, what was asked for may have taken
    /// place, or may turn out to have taken place after a crash.
    pub is_refusal: bool,
    /// The neighbour's own error.
    pub source: Box<dyn Error + Send + Sync>,
}

/// A row of the catalogue that does not check out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedEntry {
    /// The owner, if that can be told.
    pub tenant: Option<TenantId>,
    /// The stream, if that can be told.
    pub stream: Option<StreamName>,
    /// What is damaged.
    pub what: String,
}

/// Everything the catalogue knows of tables.
#[derive(Clone, Debug, Default)]
pub struct CatalogueContents {
    /// The files of all tables.
    pub files: Vec<FileEntry>,
    /// How far each table is written.
    pub positions: Vec<TablePosition>,
    /// Rows that do not check out; their tables are not served.
    pub damaged: Vec<DamagedEntry>,
}

/// What retention needs to know of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Exists, and keeps rows this long.
    Keeps(Duration),
    /// Was deleted, for which there is proof: its rows are not wanted.
    Deleted,
    /// Nothing is known of it: what is known was lost. Its rows are kept, and nothing becomes of
    /// them until the catalogue is repaired.
    Unknown,
}

/// The catalogue of table files.
pub trait Catalogue: Send + Sync {
    /// Fences every writer before this one.
    fn begin_writer(&self) -> Result<u64, SeamError>;
    /// All files and positions.
    fn contents(&self) -> Result<CatalogueContents, SeamError>;
    /// Changes one table atomically; a conflict means that nothing changed and that the table is
    /// not as the caller believed, or that the writer is fenced.
    fn commit_table(&self, commit: TableCommit) -> Result<Vec<FileId>, SeamError>;
    /// Forgets all files of a tenant; refused unless the tenant is deleted.
    fn drop_table_files(&self, tenant: &TenantId) -> Result<Vec<FileEntry>, SeamError>;
    /// Whether a tenant exists, and how long it keeps the rows of a stream.
    fn owner(&self, tenant: &TenantId, stream: &StreamName) -> Result<Owner, SeamError>;
    /// Which streams there are; what tenants define later is in there, too.
    fn streams(&self) -> Arc<StreamRegistry> {
        Arc::default()
    }
    /// Removes what is left of deleted tenants without files, where that was interrupted.
    fn purge_deleted(&self) -> Result<(), SeamError>;
    /// What was kept under a name by [`Catalogue::keep_note`].
    fn note(&self, name: &str) -> Result<Option<String>, SeamError>;
    /// Keeps a small text under a name, for good.
    fn keep_note(&self, name: &str, text: &str) -> Result<(), SeamError>;
    /// How an attribute key reads; `None` if no kind is fixed for it.
    fn kind(
        &self,
        tenant: &TenantId,
        stream: &StreamName,
        column: &str,
        key: &str,
    ) -> Result<Option<AttributeKind>, SeamError>;
}

/// The log, as far as the tables read it.
pub trait RecordSource: Send + Sync {
    /// Reads one record again.
    fn read(&self, position: Position) -> Result<Record, SeamError>;
    /// Nothing before this place is needed any more.
    fn release(&self, position: Position);
    /// The shard a tenant lives in.
    fn shard_of(&self, tenant: &TenantId) -> u16;
}

impl From<MetaError> for SeamError {
    fn from(error: MetaError) -> Self {
        // These are raised before the commit, which then is a rollback. Of what the database or the
        // disk reports nobody knows: a commit whose sync failed may be there after a crash.
        let is_refusal = !matches!(error, MetaError::Database { .. } | MetaError::Io { .. });
        Self { kind: error.kind(), is_refusal, source: Box::new(error) }
    }
}

impl From<DamagedRow> for DamagedEntry {
    fn from(row: DamagedRow) -> Self {
        Self { what: row.to_string(), tenant: row.tenant, stream: row.stream }
    }
}

impl Catalogue for Meta {
    fn streams(&self) -> Arc<StreamRegistry> {
        Arc::clone(Self::streams(self))
    }

    fn begin_writer(&self) -> Result<u64, SeamError> {
        Ok(Self::begin_writer(self)?)
    }

    fn contents(&self) -> Result<CatalogueContents, SeamError> {
        let (files, positions) = (self.files()?, self.positions()?);
        let damaged = files.damaged.into_iter().chain(positions.damaged).map(DamagedEntry::from).collect();
        Ok(CatalogueContents { files: files.entries, positions: positions.entries, damaged })
    }

    fn commit_table(&self, commit: TableCommit) -> Result<Vec<FileId>, SeamError> {
        Ok(Self::commit_table(self, commit)?)
    }

    fn drop_table_files(&self, tenant: &TenantId) -> Result<Vec<FileEntry>, SeamError> {
        Ok(Self::drop_table_files(self, tenant)?)
    }

    fn owner(&self, tenant: &TenantId, stream: &StreamName) -> Result<Owner, SeamError> {
        Ok(match self.tenant_state(tenant)? {
            TenantState::Live(tenant) => Owner::Keeps(tenant.limits.retention_of(stream)),
            TenantState::Deleted => Owner::Deleted,
            TenantState::Unknown => Owner::Unknown,
        })
    }

    fn purge_deleted(&self) -> Result<(), SeamError> {
        let mut failure = None;
        for tenant in self.tenants_to_purge() {
            match self.purge_tenant(&tenant) {
                // It still has files; they go first.
                Ok(()) | Err(MetaError::Conflict { .. }) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn note(&self, name: &str) -> Result<Option<String>, SeamError> {
        Ok(self.setting(name)?)
    }

    fn keep_note(&self, name: &str, text: &str) -> Result<(), SeamError> {
        Ok(self.set_setting(name, text)?)
    }

    fn kind(
        &self,
        tenant: &TenantId,
        stream: &StreamName,
        column: &str,
        key: &str,
    ) -> Result<Option<AttributeKind>, SeamError> {
        Ok(self.attribute_kinds(tenant)?.get(stream.as_str(), column, key))
    }
}

impl From<LogError> for SeamError {
    fn from(error: LogError) -> Self {
        Self { kind: error.kind(), is_refusal: false, source: Box::new(error) }
    }
}

impl RecordSource for Log {
    fn read(&self, position: Position) -> Result<Record, SeamError> {
        Ok(Self::read(self, position)?)
    }

    fn release(&self, position: Position) {
        Self::release(self, position);
    }

    fn shard_of(&self, tenant: &TenantId) -> u16 {
        Self::shard_of(self, tenant)
    }
}
