//! `approx_percentile_cont` and `approx_percentile_cont_with_weight` of queries, with a bound on their centroids.
//!
//! DataFusion's t-digest makes room for all centroids that were asked for before it sees a value.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Signature};

use super::constant;
use crate::error::SqlError;

/// The most centroids; 100 are the default.
const CENTROIDS_MAX: i64 = 10_000;

/// The function with a bound on its centroids, if it has some.
pub(crate) fn bounded(function: Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    let at = match function.name() {
        "approx_percentile_cont" => 2,
        "approx_percentile_cont_with_weight" => 3,
        _ => return function,
    };
    Arc::new(AggregateUDF::from(Bounded { inner: function, at }))
}

/// A percentile by a t-digest.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<AggregateUDF>,
    /// Which argument is the number of centroids.
    at: usize,
}

impl AggregateUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.exprs.len() > self.at {
            let wanted = constant(args.exprs.get(self.at), self.name(), "the number of centroids")?;
            if !matches!(wanted.cast_to(&DataType::Int64)?, ScalarValue::Int64(Some(1..=CENTROIDS_MAX))) {
                let message = format!("{} takes 1 to {CENTROIDS_MAX} centroids, not {wanted}", self.name());
                return Err(SqlError::invalid(message).into_datafusion());
            }
        }
        self.inner.accumulator(args)
    }
}
