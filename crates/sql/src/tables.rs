//! Where a query's rows come from: the narrow view of the tables a query plans against.
//!
//! A seam with two implementations, [`StoreTables`] over the real store and catalogue, and one over
//! plain batches and files in the tests.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::async_reader::AsyncFileReader;
use weir_base::{StreamName, TenantId};
use weir_data::attributes::AttributeKind;
use weir_data::streams::StreamDef;
use weir_meta::catalogue::FileEntry;

use crate::error::SqlError;
use crate::hidden::HiddenRows;

/// The tables of all tenants.
pub trait Tables: Send + Sync + fmt::Debug {
    /// The table as it is now. Everything acknowledged before the call is in it.
    fn snapshot(&self, tenant: &TenantId, stream: &StreamName) -> Result<TableView, SqlError>;

    /// The streams the tenant has.
    fn streams(&self, tenant: &TenantId) -> Vec<Arc<StreamDef>> {
        let _ = tenant;
        weir_data::streams::STREAMS.to_vec()
    }

    /// The rows of a stream that are stored and not to be seen; `None` if all are.
    fn hidden(&self, tenant: &TenantId, stream: &str) -> Result<Option<Arc<dyn HiddenRows>>, SqlError> {
        let _ = (tenant, stream);
        Ok(None)
    }

    /// How the tenant's attribute keys read.
    fn attribute_kinds(&self, tenant: &TenantId) -> Result<Arc<dyn AttributeKindLookup>, SqlError>;
}

/// How one tenant's attribute keys read, frozen for one query.
pub trait AttributeKindLookup: Send + Sync + fmt::Debug {
    /// The kind of `column['key']` in `stream`; `None` if the key was never seen.
    fn kind(&self, stream: &str, column: &str, key: &str) -> Option<AttributeKind>;
}

/// One table at one moment: files, and the rows that are not in files yet.
#[derive(Clone, Debug)]
pub struct TableView {
    /// The stream.
    pub stream: Arc<StreamDef>,
    /// The files.
    pub files: Vec<Arc<dyn TableFileView>>,
    /// The tail, oldest first.
    pub tail: Vec<Arc<dyn TailView>>,
}

/// One Parquet file. As long as it is held, its bytes stay readable.
pub trait TableFileView: Send + Sync + fmt::Debug {
    /// What the catalogue knows of it.
    fn entry(&self) -> &FileEntry;
    /// Opens it.
    fn reader(&self) -> Box<dyn AsyncFileReader + Send>;
}

/// Some rows of the tail.
pub trait TailView: Send + Sync + fmt::Debug {
    /// How many there are, if that is known without decoding them.
    fn rows(&self) -> Option<usize>;
    /// Whether [`TailView::batch`] answers without reading a file.
    fn is_resident(&self) -> bool;
    /// The rows; columns that are all null may be missing. May read a file, so it is called where
    /// blocking does no harm unless [`TailView::is_resident`].
    fn batch(&self) -> Result<RecordBatch, SqlError>;
}
