//! The real tables: files and tail from the store, attribute kinds from the metadata database.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::async_reader::AsyncFileReader;
use weir_base::{ErrorKind, Kinded, StreamName, TenantId};
use weir_data::attributes::AttributeKind;
use weir_data::streams::StreamDef;
use weir_meta::Meta;
use weir_meta::attributes::AttributeKinds;
use weir_meta::catalogue::FileEntry;
use weir_store::{Store, StoreError, TableFile, TailRecord};

use crate::error::SqlError;
use crate::hidden::{HiddenRows, Hides};
use crate::tables::{AttributeKindLookup, TableFileView, TableView, Tables, TailView};

/// The tables of a store.
pub(crate) struct StoreTables {
    store: Arc<Store>,
    meta: Arc<Meta>,
    hides: Option<Arc<dyn Hides>>,
}

impl fmt::Debug for StoreTables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StoreTables").finish_non_exhaustive()
    }
}

impl StoreTables {
    pub(crate) fn new(store: Arc<Store>, meta: Arc<Meta>, hides: Option<Arc<dyn Hides>>) -> Self {
        Self { store, meta, hides }
    }
}

impl Tables for StoreTables {
    fn snapshot(&self, tenant: &TenantId, stream: &StreamName) -> Result<TableView, SqlError> {
        let snapshot = self.store.snapshot(tenant, stream).map_err(|error| from_store(&error))?;
        Ok(TableView {
            stream: Arc::clone(&snapshot.stream),
            files: snapshot.files.iter().map(|file| Arc::new(File(Arc::clone(file))) as _).collect(),
            tail: snapshot.tail.iter().map(|record| Arc::new(Record(record.clone())) as _).collect(),
        })
    }

    fn streams(&self, tenant: &TenantId) -> Vec<Arc<StreamDef>> {
        self.meta.streams().all(tenant)
    }

    fn hidden(&self, tenant: &TenantId, stream: &str) -> Result<Option<Arc<dyn HiddenRows>>, SqlError> {
        let Some(hides) = &self.hides else { return Ok(None) };
        hides.hidden(tenant, stream).map_err(|error| {
            tracing::error!(%tenant, stream, %error, "which rows of a table were purged cannot be read");
            SqlError::Transient { message: format!("which rows of {stream} were purged cannot be read at the moment") }
        })
    }

    fn attribute_kinds(&self, tenant: &TenantId) -> Result<Arc<dyn AttributeKindLookup>, SqlError> {
        match self.meta.attribute_kinds(tenant) {
            Ok(kinds) => Ok(Arc::new(Kinds(kinds))),
            Err(error) => {
                tracing::error!(%tenant, error = weir_base::error::chain(&error), "cannot load attribute kinds");
                Err(of_kind(error.kind(), "the kinds of attribute keys cannot be read"))
            }
        }
    }
}

#[derive(Debug)]
struct Kinds(Arc<AttributeKinds>);

impl AttributeKindLookup for Kinds {
    fn kind(&self, stream: &str, column: &str, key: &str) -> Option<AttributeKind> {
        self.0.get(stream, column, key)
    }
}

#[derive(Debug)]
struct File(Arc<TableFile>);

impl TableFileView for File {
    fn entry(&self) -> &FileEntry {
        &self.0.entry
    }

    fn reader(&self) -> Box<dyn AsyncFileReader + Send> {
        Box::new(self.0.reader())
    }
}

#[derive(Debug)]
struct Record(TailRecord);

impl TailView for Record {
    fn rows(&self) -> Option<usize> {
        Some(self.0.rows())
    }

    fn is_resident(&self) -> bool {
        !self.0.is_spilled()
    }

    fn batch(&self) -> Result<RecordBatch, SqlError> {
        self.0.batch().map_err(|error| from_store(&error))
    }
}

fn of_kind(kind: ErrorKind, message: &str) -> SqlError {
    match kind {
        ErrorKind::Corrupt => SqlError::Corrupt { message: message.to_owned() },
        ErrorKind::Cancelled => SqlError::Cancelled,
        ErrorKind::Internal | ErrorKind::Config => SqlError::Internal,
        _ => SqlError::Transient { message: message.to_owned() },
    }
}

/// What the store says, without the paths it says it with: those go to the log.
pub(crate) fn from_store(error: &StoreError) -> SqlError {
    let kind = error.kind();
    tracing::error!(error = weir_base::error::chain(error), "a table cannot be read");
    match error {
        StoreError::Corrupt { file, offset, what } => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            SqlError::Corrupt { message: format!("stored rows are damaged: file {name}, byte {offset}: {what}") }
        }
        _ => of_kind(kind, "the rows of a table cannot be read at the moment"),
    }
}
