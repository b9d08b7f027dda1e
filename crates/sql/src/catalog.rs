//! What exists for a query: the tables of one tenant, and a description of them.
//!
//! Isolation is absence. The catalogue is built for one request of one tenant, its providers are
//! bound to that tenant when they are made, and there is no name by which anything else could be
//! reached.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result, exec_err};
use datafusion::datasource::MemTable;
use parking_lot::Mutex;
use std::collections::HashMap;
use weir_base::{StreamName, TenantId};
use weir_data::defined::HISTORY;
use weir_data::streams::StreamDef;

use crate::hidden;
use crate::latest::{is_shown, latest};
use crate::output::type_name;
use crate::scan::Table;
use crate::tables::Tables;

/// The one catalogue.
pub(crate) const CATALOG: &str = "weir";
/// The schema of the tenant's tables.
pub(crate) const SCHEMA: &str = "public";
/// The schema that describes them.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// The names of the tables a query can read.
pub(crate) fn table_names(streams: &[Arc<StreamDef>]) -> Vec<String> {
    let mut names: Vec<String> = streams.iter().flat_map(Shown::of).map(|table| table.name).collect();
    names.sort();
    names
}

/// A table, as it is described.
struct Shown<'a> {
    name: String,
    stream: &'a StreamDef,
    /// It has the newest row of each key.
    is_latest: bool,
    summary: String,
}

impl<'a> Shown<'a> {
    /// The tables of a stream: one, or two if it has a key.
    fn of(stream: &'a Arc<StreamDef>) -> impl Iterator<Item = Self> {
        let is_keyed = stream.is_keyed();
        let (name, summary) = (stream.name.to_string(), stream.summary.to_string());
        let history = is_keyed.then(|| Self {
            name: format!("{}{HISTORY}", stream.name),
            stream,
            is_latest: false,
            summary: format!("all revisions of {}", stream.name),
        });
        std::iter::once(Self { name, stream, is_latest: is_keyed, summary }).chain(history)
    }

    /// Whether it is computed from the rows that are stored.
    fn kind(&self) -> &'static str {
        if self.is_latest { "VIEW" } else { "BASE TABLE" }
    }

    fn columns(&self) -> impl Iterator<Item = &'a Field> {
        let is_latest = self.is_latest;
        let fields = self.stream.schema.fields().iter().map(AsRef::as_ref);
        fields.filter(move |field| !is_latest || is_shown(field))
    }
}

/// Everything a query of one tenant can name.
#[derive(Debug)]
pub(crate) struct TenantCatalogs(Arc<TenantCatalog>);

impl TenantCatalogs {
    pub(crate) fn new(tables: Arc<dyn Tables>, tenant: TenantId) -> Self {
        let streams: Arc<[Arc<StreamDef>]> = tables.streams(&tenant).into();
        let information = Arc::new(Information(Arc::clone(&streams)));
        let public = Arc::new(TenantTables { tables, tenant, streams, planned: Mutex::default() });
        Self(Arc::new(TenantCatalog { public, information }))
    }
}

impl CatalogProviderList for TenantCatalogs {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::clone(&self.0) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct TenantCatalog {
    public: Arc<TenantTables>,
    information: Arc<Information>,
}

impl CatalogProvider for TenantCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned(), INFORMATION_SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            SCHEMA => Some(Arc::clone(&self.public) as Arc<dyn SchemaProvider>),
            INFORMATION_SCHEMA => Some(Arc::clone(&self.information) as Arc<dyn SchemaProvider>),
            _ => None,
        }
    }
}

/// The tenant's tables. A table is looked at once a query, so that a query that names it twice
/// sees the same rows twice.
struct TenantTables {
    tables: Arc<dyn Tables>,
    tenant: TenantId,
    streams: Arc<[Arc<StreamDef>]>,
    planned: Mutex<HashMap<String, Arc<dyn TableProvider>>>,
}

impl fmt::Debug for TenantTables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TenantTables").finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for TenantTables {
    fn table_names(&self) -> Vec<String> {
        table_names(&self.streams)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        match self.stream(name) {
            None => Ok(None),
            Some((stream, is_latest)) => {
                let rows = self.rows(stream)?;
                Ok(Some(if is_latest { latest(stream, rows)? } else { rows }))
            }
        }
    }

    fn register_table(&self, _name: String, _table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        exec_err!("tables are made by sending rows")
    }

    fn table_exist(&self, name: &str) -> bool {
        self.stream(name).is_some()
    }
}

impl TenantTables {
    /// The stream of a table, and whether the table has the newest row of each key.
    fn stream(&self, name: &str) -> Option<(&StreamDef, bool)> {
        let table = self.streams.iter().flat_map(Shown::of).find(|table| table.name == name)?;
        Some((table.stream, table.is_latest))
    }

    /// All rows of a stream, looked at once a query.
    fn rows(&self, stream: &StreamDef) -> Result<Arc<dyn TableProvider>> {
        let mut planned = self.planned.lock();
        if let Some(table) = planned.get(stream.name.as_ref()) {
            return Ok(Arc::clone(table));
        }
        let name = StreamName::new(&stream.name).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let view = self.tables.snapshot(&self.tenant, &name).map_err(crate::SqlError::into_datafusion)?;
        let mut table: Arc<dyn TableProvider> = Arc::new(Table::new(view));
        let hidden = self.tables.hidden(&self.tenant, name.as_str()).map_err(crate::SqlError::into_datafusion)?;
        if let Some(hidden) = hidden {
            table = hidden::without(name.as_str(), table, hidden)?;
        }
        planned.insert(stream.name.to_string(), Arc::clone(&table));
        Ok(table)
    }
}

/// `information_schema`: our own, because DataFusion's also shows settings of the process.
#[derive(Debug)]
struct Information(Arc<[Arc<StreamDef>]>);

const INFORMATION_TABLES: [&str; 3] = ["columns", "schemata", "tables"];

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn information(name: &str, streams: &[Arc<StreamDef>]) -> Result<Option<RecordBatch>> {
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = match name {
        "schemata" => (
            vec![text("catalog_name"), text("schema_name")],
            vec![texts([CATALOG, CATALOG]), texts([INFORMATION_SCHEMA, SCHEMA])],
        ),
        "tables" => {
            let tables: Vec<Shown<'_>> = streams.iter().flat_map(Shown::of).collect();
            let mut rows: Vec<(&str, &str, &str, &str)> = tables
                .iter()
                .map(|table| (SCHEMA, table.name.as_str(), table.summary.as_str(), table.kind()))
                .chain(INFORMATION_TABLES.map(|name| (INFORMATION_SCHEMA, name, "what there is to query", "VIEW")))
                .collect();
            rows.sort_unstable();
            (
                ["table_catalog", "table_schema", "table_name", "table_type", "summary"].map(text).into(),
                vec![
                    texts(rows.iter().map(|_| CATALOG)),
                    texts(rows.iter().map(|row| row.0)),
                    texts(rows.iter().map(|row| row.1)),
                    texts(rows.iter().map(|row| row.3)),
                    texts(rows.iter().map(|row| row.2)),
                ],
            )
        }
        "columns" => {
            let tables: Vec<Shown<'_>> = streams.iter().flat_map(Shown::of).collect();
            let rows: Vec<(&str, usize, &Field)> = tables
                .iter()
                .flat_map(|table| table.columns().enumerate().map(|(at, field)| (table.name.as_str(), at + 1, field)))
                .collect();
            (
                vec![
                    text("table_catalog"),
                    text("table_schema"),
                    text("table_name"),
                    text("column_name"),
                    Field::new("ordinal_position", DataType::Int64, true),
                    Field::new("is_nullable", DataType::Boolean, true),
                    text("data_type"),
                ],
                vec![
                    texts(rows.iter().map(|_| CATALOG)),
                    texts(rows.iter().map(|_| SCHEMA)),
                    texts(rows.iter().map(|row| row.0)),
                    texts(rows.iter().map(|row| row.2.name().as_str())),
                    Arc::new(Int64Array::from_iter_values(
                        rows.iter().map(|row| i64::try_from(row.1).unwrap_or(i64::MAX)),
                    )),
                    Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.2.is_nullable())))),
                    texts(rows.iter().map(|row| type_name(row.2.data_type()))),
                ],
            )
        }
        _ => return Ok(None),
    };
    Ok(Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?))
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        INFORMATION_TABLES.map(str::to_owned).into()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(match information(name, &self.0)? {
            Some(batch) => Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)),
            None => None,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        INFORMATION_TABLES.contains(&name)
    }
}
