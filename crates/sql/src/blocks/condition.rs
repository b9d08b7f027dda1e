//! What a filter says about the text of one column, in terms of the search index.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, InListExpr, LikeExpr, Literal};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use weir_store::search::{Case, Condition};

/// What must hold of `column` where `filter` is true. Whatever is not understood says nothing.
pub(super) fn of(filter: &Arc<dyn PhysicalExpr>, column: &str) -> Condition {
    if let Some(binary) = filter.downcast_ref::<BinaryExpr>() {
        return of_binary(binary, column);
    }
    if let Some(like) = filter.downcast_ref::<LikeExpr>() {
        let case = if like.case_insensitive() { Case::Insensitive } else { Case::Sensitive };
        return match text(like.pattern()) {
            Some(pattern) if !like.negated() && is_column(like.expr(), column) => Condition::like(pattern, case),
            _ => Condition::Anything,
        };
    }
    if let Some(list) = filter.downcast_ref::<InListExpr>() {
        if list.negated() || !is_column(list.expr(), column) {
            return Condition::Anything;
        }
        let one_of = |value: &Arc<dyn PhysicalExpr>| match text(value) {
            Some(text) => Condition::contains(text, Case::Sensitive),
            None => Condition::Anything,
        };
        return Condition::either(list.list().iter().map(one_of));
    }
    if let Some(call) = filter.downcast_ref::<ScalarFunctionExpr>() {
        return match call.name() {
            "contains" | "starts_with" | "ends_with" => of_call(call, column),
            _ => Condition::Anything,
        };
    }
    Condition::Anything
}

fn of_binary(binary: &BinaryExpr, column: &str) -> Condition {
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => Condition::all([of(left, column), of(right, column)]),
        Operator::Or => Condition::either([of(left, column), of(right, column)]),
        Operator::Eq => match (text(left), text(right)) {
            (None, Some(text)) if is_column(left, column) => Condition::contains(text, Case::Sensitive),
            (Some(text), None) if is_column(right, column) => Condition::contains(text, Case::Sensitive),
            _ => Condition::Anything,
        },
        // `strpos(body, 'x') > 0` and its like.
        Operator::Gt | Operator::NotEq if is_number(right, 0) => of_position(left, column),
        Operator::GtEq if is_number(right, 1) => of_position(left, column),
        Operator::Lt | Operator::NotEq if is_number(left, 0) => of_position(right, column),
        Operator::LtEq if is_number(left, 1) => of_position(right, column),
        _ => Condition::Anything,
    }
}

fn of_position(expr: &Arc<dyn PhysicalExpr>, column: &str) -> Condition {
    match uncast(expr).downcast_ref::<ScalarFunctionExpr>() {
        Some(call) if call.name() == "strpos" => of_call(call, column),
        _ => Condition::Anything,
    }
}

/// A function of the column and a text, that is not true or above 0 unless the one contains the other.
fn of_call(call: &ScalarFunctionExpr, column: &str) -> Condition {
    match call.args() {
        [searched, wanted] if is_column(searched, column) => match text(wanted) {
            Some(text) => Condition::contains(text, Case::Sensitive),
            None => Condition::Anything,
        },
        _ => Condition::Anything,
    }
}

/// Without casts that keep the value.
fn uncast(expr: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    match expr.downcast_ref::<CastExpr>() {
        Some(cast) if cast.cast_type().is_string() || *cast.cast_type() == DataType::Int64 => uncast(cast.expr()),
        _ => expr,
    }
}

fn is_column(expr: &Arc<dyn PhysicalExpr>, name: &str) -> bool {
    uncast(expr).downcast_ref::<Column>().is_some_and(|column| column.name() == name)
}

/// The text of a constant.
fn text(expr: &Arc<dyn PhysicalExpr>) -> Option<&str> {
    expr.downcast_ref::<Literal>()?.value().try_as_str().flatten()
}

fn is_number(expr: &Arc<dyn PhysicalExpr>, number: i64) -> bool {
    let Some(literal) = expr.downcast_ref::<Literal>() else { return false };
    match literal.value().cast_to(&DataType::Int64) {
        Ok(datafusion::common::ScalarValue::Int64(Some(value))) => {
            literal.value().data_type().is_integer() && value == number
        }
        _ => false,
    }
}
