//! Predicates over single rows, for live tails: the same language and the same gates as a query.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use weir_base::{StreamName, TenantId};

use crate::arithmetic::checked;
use crate::attributes::sql_schema;
use crate::budget::{Budget, Places};
use crate::engine::{Planner, QueryEngine};
use crate::error::{ErrorContext, SqlError, from_datafusion, nearest};
use crate::gate::gate_predicate;
use crate::plan_gate::check_types;

/// A predicate, ready to be applied to batches of one stream.
pub struct RowFilter {
    /// The columns it needs: name and type.
    needed: SchemaRef,
    predicate: Arc<dyn PhysicalExpr>,
    budget: Arc<Budget>,
    batch_rows: usize,
}

impl fmt::Debug for RowFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RowFilter").finish_non_exhaustive()
    }
}

/// How long a filter may take to be compiled, and to be applied to one batch.
const FILTER_TIME_MAX: Duration = Duration::from_secs(2);

const CONTEXT: ErrorContext = ErrorContext::alone(0);

impl QueryEngine {
    /// Compiles `predicate`, an SQL expression over one row of `stream` that is true for the rows
    /// to keep. Does so on a query thread and fails after two seconds; must be called within a
    /// Tokio runtime that has timers.
    pub async fn row_filter(
        &self,
        tenant: &TenantId,
        stream: &StreamName,
        predicate: &str,
    ) -> Result<RowFilter, SqlError> {
        let planner = self.filter_planner(tenant, FILTER_TIME_MAX);
        let (stream, predicate) = (stream.clone(), predicate.to_owned());
        self.compile(FILTER_TIME_MAX, move || RowFilter::compile(&planner, &stream, &predicate)).await
    }
}

impl RowFilter {
    fn compile(planner: &Planner, stream: &StreamName, predicate: &str) -> Result<Self, SqlError> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        let Some(stream) = planner.stream(stream.as_str()) else {
            let tables = planner.table_names();
            return Err(SqlError::UnknownTable {
                name: stream.to_string(),
                suggestion: nearest(stream.as_str(), tables.iter().map(String::as_str)),
                tables,
            });
        };
        let expr = gate_predicate(predicate)?;
        let state = planner.state()?;
        let schema = sql_schema(&stream);
        let df_schema = DFSchema::try_from_qualified_schema(stream.name.as_ref(), &schema).map_err(failed)?;
        let expr = state.create_logical_expr_from_sql_expr(expr, &df_schema).map_err(failed)?;
        check_types(&expr).map_err(failed)?;
        let mut row_by_row = true;
        expr.apply(|part| {
            if matches!(
                part,
                Expr::AggregateFunction(_)
                    | Expr::WindowFunction(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::Unnest(_)
                    | Expr::Placeholder(_)
            ) {
                row_by_row = false;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(failed)?;
        if !row_by_row {
            return Err(SqlError::invalid("a filter looks at one row: no aggregates, windows or subqueries"));
        }
        match expr.get_type(&df_schema).map_err(failed)? {
            DataType::Boolean | DataType::Null => {}
            _ => return Err(SqlError::invalid("a filter is a condition, such as severity_number >= 17")),
        }
        let expr = expr.cast_to(&DataType::Boolean, &df_schema).map_err(failed)?;
        let simplifier = ExprSimplifier::new(
            SimplifyContext::builder()
                .with_schema(Arc::new(df_schema.clone()))
                .with_config_options(Arc::clone(state.config_options()))
                .with_query_execution_start_time(state.execution_props().query_execution_start_time)
                .build(),
        );
        // Some functions exist only as what they are simplified to. `now()` is when the filter was
        // made.
        let expr = simplifier
            .coerce(expr, &df_schema)
            .and_then(|expr| checked(expr, &df_schema))
            .and_then(|expr| simplifier.simplify(expr.data))
            .map_err(failed)?;
        let mut places = Places::default();
        places.add(&expr).map_err(failed)?;
        let physical = state.create_physical_expr(expr, &df_schema).map_err(failed)?;
        let budget = Arc::clone(&planner.budget);
        let batch_rows = budget.planned(places)?;
        let mut columns: Vec<usize> = collect_columns(&physical).iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        let needed = Arc::new(schema.project(&columns).map_err(|error| failed(error.into()))?);
        let predicate = reassign_expr_columns(physical, &needed).map_err(failed)?;
        Ok(Self { needed, predicate, budget, batch_rows })
    }

    /// The rows of `batch` for which the predicate is true. Columns the batch does not have are
    /// null; what it has beside them is kept. May compute for up to two seconds.
    pub fn filter(&self, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
        // A panic is a bug, but one tail's bug must not end the others.
        catch_unwind(AssertUnwindSafe(|| self.filter_parts(batch))).unwrap_or_else(|_| {
            tracing::error!("a row filter panicked");
            Err(SqlError::Internal)
        })
    }

    fn filter_parts(&self, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
        self.budget.renew();
        if batch.num_rows() <= self.batch_rows {
            return self.filter_inner(batch);
        }
        let mut parts = Vec::new();
        for start in (0..batch.num_rows()).step_by(self.batch_rows) {
            self.budget.check_time().map_err(|error| from_datafusion(&error, CONTEXT))?;
            let rows = self.batch_rows.min(batch.num_rows() - start);
            parts.push(self.filter_inner(&batch.slice(start, rows))?);
        }
        concat_batches(batch.schema_ref(), &parts).map_err(|error| from_datafusion(&error.into(), CONTEXT))
    }

    fn filter_inner(&self, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
        let arrow_failed = |error: arrow::error::ArrowError| from_datafusion(&error.into(), CONTEXT);
        let own = batch.schema_ref();
        let columns = self
            .needed
            .fields()
            .iter()
            .map(|field| match own.index_of(field.name()) {
                Ok(at) => cast(batch.column(at), field.data_type()).map_err(arrow_failed),
                Err(_) => Ok(new_null_array(field.data_type(), batch.num_rows())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let needed = RecordBatch::try_new_with_options(Arc::clone(&self.needed), columns, &options);
        let keep = self
            .predicate
            .evaluate(&needed.map_err(arrow_failed)?)
            .and_then(|keep| keep.into_array(batch.num_rows()))
            .map_err(|error| from_datafusion(&error, CONTEXT))?;
        let keep = as_boolean_array(&keep).map_err(|error| from_datafusion(&error, CONTEXT))?;
        filter_record_batch(batch, keep).map_err(arrow_failed)
    }
}
