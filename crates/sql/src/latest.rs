//! Streams with a key as tables: the newest row of each key, and all of them.
//!
//! The rows of such a stream are revisions of results. Its table shows what counts: of each key the row of the
//! pipeline's last beginning with the highest revision, and nothing where that row takes the result back. Beside it
//! `<name>_history` shows every row there is.
//!
//! It is a plan over the table of all rows and no operator of our own, so that the tail and the files are read as they
//! always are: conditions on columns of the key reach the files, columns nobody asks for are not read, and sorting goes to
//! disk past the memory a query may use.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{Column, Result};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlanBuilder, lit};
use weir_data::defined::{BEGAN_AT, RETRACTED, REVISION};
use weir_data::streams::StreamDef;

/// What numbers the rows of a key. No column of a stream is called so: names beginning with a dot are those of fields.
const RANK: &str = ".rank";

/// A column as it is called, without the rules for names that are written in a query.
fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Whether the table with the newest rows has the column.
pub(crate) fn is_shown(field: &Field) -> bool {
    ![RETRACTED, BEGAN_AT].contains(&field.name().as_str())
}

/// What the values of a column of the key are told apart by: those of all its fields, where it has some.
fn parts(expression: Expr, data_type: &DataType, parts_of_key: &mut Vec<Expr>) {
    match data_type {
        DataType::Struct(fields) => {
            for field in fields {
                parts(get_field(expression.clone(), field.name().as_str()), field.data_type(), parts_of_key);
            }
        }
        _ => parts_of_key.push(expression),
    }
}

/// The table with what counts, over the table with all rows.
pub(crate) fn latest(stream: &StreamDef, history: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let schema = history.schema();
    let mut key = Vec::new();
    for name in &stream.key {
        parts(column(name), schema.field_with_name(name)?.data_type(), &mut key);
    }
    let newest_first = |name: &str| column(name).sort(false, false);
    let rank = row_number()
        .partition_by(key)
        .order_by(vec![newest_first(BEGAN_AT), newest_first(REVISION), newest_first("received_at")])
        .build()?
        .alias(RANK);
    let shown = schema.fields().iter().filter(|field| is_shown(field)).map(|field| column(field.name()));
    let plan = LogicalPlanBuilder::scan(stream.name.as_ref(), provider_as_source(history), None)?
        .window(vec![rank])?
        .filter(column(RANK).eq(lit(1_u64)).and(column(RETRACTED).is_not_true()))?
        .project(shown)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}
