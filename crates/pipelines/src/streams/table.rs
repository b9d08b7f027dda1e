//! Tables of a tenant as tables of a pipeline: asked for with SQL, in a session of the tenant.
//!
//! What is read is what a query of the tenant would read, so it reaches what that reaches and nothing else. Whoever runs
//! queries is a seam ([`Queries`]): here is only which query it is.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use weir_base::{ErrorKind, TenantId};
use weir_component::batch::bytes_of;
use weir_component::source::{Next, PlannedSource, Source, SourceError, SourcePosition, SourceRows};
use weir_component::spec::Fault;
use weir_component::streams::ReadTable;
use weir_data::streams::StreamDef;
use weir_sql::expressions::{Language, NoKinds};

/// Answers queries of a tenant.
#[async_trait]
pub trait Queries: Send + Sync {
    /// The rows of a query of that tenant, as they come. The query ends with who takes them.
    ///
    /// # Errors
    /// If it fails; so do its rows, also if it has more of them than it may have.
    async fn rows(&self, tenant: &TenantId, sql: &str) -> Result<Answer, SourceError>;
}

/// The rows of a query.
pub type Answer = BoxStream<'static, Result<RecordBatch, SourceError>>;

/// A table of a tenant that is read as a whole.
pub(super) struct TablePlan {
    tenant: TenantId,
    name: String,
    sql: String,
    schema: SchemaRef,
    /// Without it the pipeline is only checked.
    queries: Option<Arc<dyn Queries>>,
}

/// An identifier in SQL, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl TablePlan {
    pub(super) fn new(
        tenant: &TenantId,
        definition: &StreamDef,
        read: &ReadTable,
        clock: Arc<dyn weir_base::Clock>,
        queries: Option<Arc<dyn Queries>>,
    ) -> Result<Self, Fault> {
        let mut fields: Vec<FieldRef> = Vec::new();
        for (at, name) in read.columns.iter().enumerate() {
            let Ok(field) = definition.schema.field_with_name(name) else {
                let names: Vec<&str> = definition.schema.fields().iter().map(|field| field.name().as_str()).collect();
                let message = format!("the table `{}` has no column `{name}`", read.name);
                return Err(Fault::new(
                    &format!("/columns/{at}"),
                    message,
                    format!("the columns are {}", names.join(", ")),
                ));
            };
            if definition.is_open(name) {
                let message = format!("`{name}` is a map of attributes, and a table has plain columns");
                return Err(Fault::new(
                    &format!("/columns/{at}"),
                    message,
                    "let a pipeline write a stream with the columns",
                ));
            }
            fields.push(Arc::new(Field::new(name, plain(field.data_type()), true)));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let columns: Vec<String> = read.columns.iter().map(|name| quoted(name)).collect();
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), quoted(&read.name));
        if let Some(condition) = &read.condition {
            // It stands in the middle of a query, so it has to be a condition by itself.
            let language = Language::new(Arc::new(NoKinds), clock);
            let plain_columns = Arc::new(Schema::new(definition.schema.fields().to_vec()));
            if let Err(error) = language.condition(&plain_columns, condition) {
                return Err(Fault::new("/where", error.without_position().to_string(), ""));
            }
            // On a line of its own, for a comment may be at its end.
            sql = format!("{sql} WHERE ({condition}\n)");
        }
        Ok(Self { tenant: tenant.clone(), name: read.name.clone(), sql, schema, queries })
    }
}

/// The type of a column at the edge of a pipeline.
fn plain(data_type: &arrow::datatypes::DataType) -> arrow::datatypes::DataType {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

#[async_trait]
impl PlannedSource for TablePlan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        true
    }

    async fn open(&self, _: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let Some(queries) = &self.queries else {
            return Err(SourceError::new(ErrorKind::Config, "there is no server to ask for the rows of a table"));
        };
        let rows = queries.rows(&self.tenant, &self.sql).await?;
        Ok(Box::new(TableRows { rows, schema: Arc::clone(&self.schema) }))
    }

    fn describe(&self) -> String {
        format!("the table {}", self.name)
    }
}

struct TableRows {
    rows: Answer,
    schema: SchemaRef,
}

#[async_trait]
impl Source for TableRows {
    async fn next(&mut self, _: Option<&str>) -> Result<Next, SourceError> {
        let Some(rows) = self.rows.next().await.transpose()? else { return Ok(Next::Done) };
        let columns = rows.columns().iter().zip(self.schema.fields());
        let columns: Result<Vec<_>, _> = columns.map(|(column, field)| cast(column, field.data_type())).collect();
        let rows = columns.and_then(|columns| RecordBatch::try_new(Arc::clone(&self.schema), columns));
        let rows = rows.map_err(|error| SourceError::new(ErrorKind::Internal, error.to_string()))?;
        let bytes = bytes_of(&rows) as u64;
        Ok(Next::Rows(SourceRows { partition: "table".into(), rows, arrived: None, rejects: Vec::new(), bytes }))
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{ArrayRef, StringViewArray};
    use arrow::datatypes::DataType;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use weir_base::clock::SystemClock;
    use weir_data::streams::stream;
    use weir_sql::streaming::{Input, translate};

    use super::*;

    /// Takes note of what is asked, and answers as a query does: with text in views.
    #[derive(Default)]
    struct Noted(Mutex<Vec<(String, String)>>);

    #[async_trait]
    impl Queries for Noted {
        async fn rows(&self, tenant: &TenantId, sql: &str) -> Result<Answer, SourceError> {
            self.0.lock().push((tenant.to_string(), sql.to_owned()));
            let column = |text: &str| Arc::new(StringViewArray::from(vec![text])) as ArrayRef;
            let rows = RecordBatch::try_from_iter([("service_name", column("cart")), ("name", column("GET"))]).unwrap();
            Ok(futures::stream::iter([Ok(rows)]).boxed())
        }
    }

    fn read(columns: &[&str], condition: Option<&str>) -> ReadTable {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        ReadTable { name: "spans".to_owned(), columns, condition: condition.map(str::to_owned) }
    }

    fn plan(read: &ReadTable, queries: Option<Arc<dyn Queries>>) -> Result<TablePlan, Fault> {
        TablePlan::new(&TenantId::new("acme").unwrap(), stream("spans").unwrap(), read, SystemClock::new(), queries)
    }

    #[test]
    fn a_table_is_a_query_of_its_tenant() {
        let noted = Arc::new(Noted::default());
        let read = read(&["service_name", "name"], Some("name <> 'x' or duration_ns > 5"));
        let planned = plan(&read, Some(Arc::<Noted>::clone(&noted))).unwrap();
        assert!(planned.is_bounded());
        let mut source = planned.open(None).now_or_never().unwrap().unwrap();
        let Ok(Next::Rows(rows)) = source.next(None).now_or_never().unwrap() else { panic!("there are rows") };
        assert_eq!(rows.rows.schema(), planned.schema());
        assert_eq!(rows.rows.column(0).data_type(), &DataType::Utf8);
        assert!(matches!(source.next(None).now_or_never().unwrap(), Ok(Next::Done)));
        let sql = "SELECT \"service_name\", \"name\" FROM \"spans\" WHERE (name <> 'x' or duration_ns > 5\n)";
        assert_eq!(*noted.0.lock(), [("acme".to_owned(), sql.to_owned())]);
        assert!(plan(&read, None).unwrap().open(None).now_or_never().unwrap().is_err());
    }

    /// What stands behind a comment in the query is not part of it, as it is none of the condition.
    #[test]
    fn a_comment_ends_with_the_condition() {
        let asked = |condition: &str| {
            let noted = Arc::new(Noted::default());
            let planned = plan(&read(&["name"], Some(condition)), Some(Arc::<Noted>::clone(&noted))).ok()?;
            let _ = planned.open(None).now_or_never().unwrap().unwrap();
            let sql = noted.0.lock()[0].1.clone();
            Some(sql)
        };
        let spans = Input { name: "spans", ..Input::default() };
        let parses = |sql: &str| translate(sql, &[spans]).is_ok();
        for condition in ["name = 'a' -- the first", "name = 'a' /* the first */", "name -- the column\n= 'a'"] {
            let sql = asked(condition).unwrap();
            assert!(parses(&sql), "{sql}");
        }
        assert_eq!(asked("name = 'a' /* the first"), None);
    }

    /// A condition is one by itself, whatever stands around it in the query.
    #[test]
    fn what_is_no_column_and_no_condition_is_refused() {
        let refused = |read: ReadTable| plan(&read, None).err().map(|fault| fault.pointer).unwrap_or_default();
        assert_eq!(refused(read(&["name", "nmae"], None)), "/columns/1");
        assert_eq!(refused(read(&["attributes"], None)), "/columns/0");
        for condition in
            ["1 = 1) UNION (SELECT 1", "name", "count(*) > 1", "name = 'a'; DROP TABLE x", "(SELECT true)", "x"]
        {
            assert_eq!(refused(read(&["name"], Some(condition))), "/where", "{condition}");
        }
    }
}
