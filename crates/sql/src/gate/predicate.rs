//! Texts that are no query, but an expression or an order of one.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::ast::{Expr, OrderByExpr, Value, visit_expressions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{DEPTH_MAX, measure};
use crate::error::{ErrorContext, SqlError, from_datafusion};

/// Lets a predicate for [`crate::RowFilter`] pass: the same measure, and no subquery.
pub(crate) fn gate_predicate(sql: &str) -> Result<datafusion::sql::sqlparser::ast::ExprWithAlias, SqlError> {
    if measure(sql)? > 0 {
        return Err(SqlError::invalid("a filter has no parameters"));
    }
    let context = ErrorContext::alone(0);
    let expr = DFParserBuilder::new(sql)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_into_expr())
        .map_err(|error| from_datafusion(&error, context))?;
    if expr.alias.is_some() {
        return Err(SqlError::invalid("a filter has no name"));
    }
    refuse_subqueries(&expr.expr, "a filter is one expression over a row")?;
    Ok(expr)
}

/// What may stand behind `ORDER BY`, under the same measures as a predicate: each part with whether it is
/// descending, and whether null comes first.
pub(crate) fn gate_order(sql: &str) -> Result<Vec<(Expr, bool, bool)>, SqlError> {
    if measure(sql)? > 0 {
        return Err(SqlError::invalid("an order has no parameters"));
    }
    let context = ErrorContext::alone(0);
    let failed = |error| from_datafusion(&error, context);
    let mut parser = DFParserBuilder::new(sql)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .map_err(failed)?;
    let parsed = parser.parser.parse_comma_separated(Parser::parse_order_by_expr);
    let parsed = parsed.and_then(|parsed| parser.parser.expect_token(&Token::EOF).map(|_| parsed));
    let parsed = parsed.map_err(|error| failed(DataFusionError::SQL(Box::new(error), None)))?;
    let part = |OrderByExpr { expr, options, with_fill }: OrderByExpr| {
        if with_fill.is_some() {
            return Err(SqlError::invalid("an order has no WITH FILL"));
        }
        refuse_subqueries(&expr, "an order is of expressions over a row")?;
        let is_descending = options.asc == Some(false);
        // As everywhere: null counts as larger than any value.
        Ok((expr, is_descending, options.nulls_first.unwrap_or(is_descending)))
    };
    parsed.into_iter().map(part).collect()
}

fn refuse_subqueries(expr: &Expr, what: &str) -> Result<(), SqlError> {
    let subquery = visit_expressions(expr, |expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => {
            ControlFlow::Break(())
        }
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if subquery.is_break() {
        return Err(SqlError::invalid(format!("{what}: no subqueries")));
    }
    Ok(())
}
