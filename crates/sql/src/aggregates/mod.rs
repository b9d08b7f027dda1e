//! Aggregate functions of our own: summaries of bounded size whose result does not depend on the order of rows, nor on how
//! they are put together from parts.
//!
//! Pipelines need that: what a window comes to must be the same however its rows were cut into batches, spread over
//! instances and written to checkpoints. The t-digest of DataFusion's `approx_percentile_cont` is not so, and the usual
//! summaries of frequent values (SpaceSaving, Misra-Gries) are not either.

pub(crate) mod centroids;
pub(crate) mod extremes;
pub(crate) mod fold;
mod frequent;
mod quantiles;
mod top_k;

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, plan_datafusion_err};
use datafusion::logical_expr::{AggregateUDF, ColumnarValue};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;

/// The functions that pipelines have under the names of functions of queries, which depend on the order of rows there.
pub(crate) fn for_pipelines() -> Vec<Arc<AggregateUDF>> {
    vec![
        Arc::new(AggregateUDF::from(quantiles::Percentile::new())),
        Arc::new(AggregateUDF::from(quantiles::Percentile::median())),
    ]
}

/// The functions that queries and pipelines have beside those of DataFusion.
pub(crate) fn for_all() -> Vec<Arc<AggregateUDF>> {
    vec![Arc::new(AggregateUDF::from(top_k::TopK::new()))]
}

/// The value of an argument that is the same for all rows.
fn constant(argument: Option<&Arc<dyn PhysicalExpr>>, function: &str, what: &str) -> Result<ScalarValue> {
    let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
    match argument.map(|argument| argument.evaluate(&nothing)) {
        Some(Ok(ColumnarValue::Scalar(value))) => Ok(value),
        _ => Err(plan_datafusion_err!("{what} of {function} is a number that is the same for all rows")),
    }
}

#[cfg(test)]
mod tests;
