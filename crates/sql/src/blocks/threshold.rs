//! From when on rows are still wanted.
//!
//! `ORDER BY time DESC LIMIT n` hands down a filter that is tightened while the query runs: once n
//! rows are found, only rows newer than the oldest of them matter. Blocks that are wholly older need
//! not be read.

use std::sync::Arc;

use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, IsNullExpr, Literal};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;

/// The largest time that is too old by `filters`, which all hold; `i64::MIN` if none is known to be.
pub(super) fn of(filters: &[Arc<dyn PhysicalExpr>]) -> Result<i64> {
    let mut threshold = i64::MIN;
    for filter in filters {
        if let Some(dynamic) = filter.downcast_ref::<DynamicFilterPhysicalExpr>() {
            threshold = threshold.max(too_old(&dynamic.current()?));
        }
    }
    Ok(threshold)
}

fn too_old(expr: &Arc<dyn PhysicalExpr>) -> i64 {
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return i64::MIN };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => too_old(left).max(too_old(right)),
        // No time is null.
        Operator::Or if is_null_time(left) => too_old(right),
        Operator::Or if is_null_time(right) => too_old(left),
        Operator::Or => too_old(left).min(too_old(right)),
        Operator::Gt if is_time(left) => literal(right).unwrap_or(i64::MIN),
        Operator::GtEq | Operator::Eq if is_time(left) => {
            literal(right).map_or(i64::MIN, |time| time.saturating_sub(1))
        }
        _ => i64::MIN,
    }
}

fn is_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "time")
}

fn is_null_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<IsNullExpr>().is_some_and(|is_null| is_time(is_null.arg()))
}

fn literal(expr: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::TimestampNanosecond(value, _) => *value,
        _ => None,
    }
}
