//! An expression that gives one value for each row.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;

use super::{CONTEXT, Language, Planned, edge_field};
use crate::budget::{Budget, Places};
use crate::error::{SqlError, from_datafusion};

/// A compiled expression over single rows.
#[derive(Clone)]
pub struct Scalar {
    physical: Arc<dyn PhysicalExpr>,
    field: FieldRef,
    budget: Arc<Budget>,
    batch_rows: usize,
    /// The column it is, if it is nothing but one.
    column: Option<usize>,
}

impl fmt::Debug for Scalar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scalar").field("field", &self.field).finish_non_exhaustive()
    }
}

impl Language {
    /// Compiles an expression over the columns of `schema`; its value is to be called `name`.
    ///
    /// # Errors
    /// If the text is not an expression over single rows of these columns.
    pub fn scalar(&self, schema: &SchemaRef, name: &str, text: &str) -> Result<Scalar, SqlError> {
        let planned = self.planner(schema)?;
        let expr = planned.logical(text)?;
        Scalar::compile(&planned, name, expr)
    }

    /// Compiles a condition over the columns of `schema`.
    ///
    /// # Errors
    /// If the text is not an expression that is true or false.
    pub fn condition(&self, schema: &SchemaRef, text: &str) -> Result<Scalar, SqlError> {
        let planned = self.planner(schema)?;
        let expr = planned.logical(text)?;
        let failed = |error| from_datafusion(&error, CONTEXT);
        match expr.get_type(&planned.schema).map_err(failed)? {
            DataType::Boolean | DataType::Null => {}
            other => {
                return Err(SqlError::invalid(format!(
                    "a condition is true or false, such as severity_number >= 17; this is {other}"
                )));
            }
        }
        let expr = expr.cast_to(&DataType::Boolean, &planned.schema).map_err(failed)?;
        Scalar::compile(&planned, "condition", expr)
    }
}

impl Scalar {
    pub(super) fn compile(planned: &Planned, name: &str, expr: Expr) -> Result<Self, SqlError> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        let mut aggregate = None;
        expr.apply(|part| {
            if let Expr::AggregateFunction(call) = part {
                aggregate = Some(call.func.name().to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(failed)?;
        if let Some(function) = aggregate {
            return Err(SqlError::invalid(format!(
                "{function}() looks at many rows, and this expression is computed for one row at a time: aggregates belong into a window"
            )));
        }
        let expr = planned.simplified(expr, &planned.schema)?;
        let mut places = Places::default();
        places.add(&expr).map_err(failed)?;
        let (_, field) = expr.to_field(&planned.schema).map_err(failed)?;
        let physical = planned.state.create_physical_expr(expr, &planned.schema).map_err(failed)?;
        let batch_rows = planned.budget.planned(places)?;
        let column = physical.downcast_ref::<Column>().map(Column::index);
        Ok(Self { physical, field: edge_field(name, &field), budget: Arc::clone(&planned.budget), batch_rows, column })
    }

    /// The column it is, if it is nothing but one.
    pub fn column(&self) -> Option<usize> {
        self.column
    }

    /// The columns it depends on.
    pub fn columns(&self) -> impl Iterator<Item = usize> + use<> {
        collect_columns(&self.physical).into_iter().map(|column| column.index())
    }

    /// Name and type of the value.
    pub fn field(&self) -> &FieldRef {
        &self.field
    }

    /// The value for each row.
    ///
    /// # Errors
    /// If it cannot be computed for one of the rows, or takes more time or memory than it may.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, SqlError> {
        if let Some(column) = self.column
            && rows.column(column).data_type() == self.field.data_type()
        {
            return Ok(Arc::clone(rows.column(column)));
        }
        catch_unwind(AssertUnwindSafe(|| self.evaluate_parts(rows))).unwrap_or_else(|_| {
            tracing::error!("an expression of a pipeline panicked");
            Err(SqlError::Internal)
        })
    }

    /// For which rows a condition is true; not known counts as false.
    ///
    /// # Errors
    /// As [`Scalar::evaluate`].
    pub fn is_true(&self, rows: &RecordBatch) -> Result<BooleanArray, SqlError> {
        let values = self.evaluate(rows)?;
        let values = as_boolean_array(&values).map_err(|error| from_datafusion(&error, CONTEXT))?;
        Ok(if values.null_count() > 0 { arrow::compute::prep_null_mask_filter(values) } else { values.clone() })
    }

    fn evaluate_parts(&self, rows: &RecordBatch) -> Result<ArrayRef, SqlError> {
        self.budget.renew();
        if rows.num_rows() <= self.batch_rows {
            return self.evaluate_part(rows);
        }
        let mut parts = Vec::new();
        for start in (0..rows.num_rows()).step_by(self.batch_rows) {
            self.budget.check_time().map_err(|error| from_datafusion(&error, CONTEXT))?;
            parts.push(self.evaluate_part(&rows.slice(start, self.batch_rows.min(rows.num_rows() - start)))?);
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        concat(&parts).map_err(|error| from_datafusion(&error.into(), CONTEXT))
    }

    fn evaluate_part(&self, rows: &RecordBatch) -> Result<ArrayRef, SqlError> {
        let values = self
            .physical
            .evaluate(rows)
            .and_then(|values| values.into_array(rows.num_rows()))
            .map_err(|error| from_datafusion(&error, CONTEXT))?;
        if values.data_type() == self.field.data_type() {
            return Ok(values);
        }
        cast(&values, self.field.data_type()).map_err(|error| from_datafusion(&error.into(), CONTEXT))
    }
}
