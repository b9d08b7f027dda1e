//! What may stand behind `ORDER BY`: expressions that put rows in order.

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::ExprWithAlias;

use super::{Language, Scalar};
use crate::error::SqlError;
use crate::gate::gate_order;

/// A part of an order.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// What is compared.
    pub value: Scalar,
    /// Whether larger values come first.
    pub is_descending: bool,
    /// Whether null comes before all values.
    pub nulls_first: bool,
}

impl Language {
    /// Compiles an order of rows with the columns of `schema`, such as `price DESC, time`. Where nothing else is said
    /// null is larger than any value.
    ///
    /// # Errors
    /// If the text is not an order over single rows of these columns.
    pub fn order(&self, schema: &SchemaRef, text: &str) -> Result<Vec<Ordered>, SqlError> {
        let planned = self.planner(schema)?;
        let parts = gate_order(text)?.into_iter().enumerate();
        let part = |(at, (expr, is_descending, nulls_first))| {
            let expr = planned.logical_of(ExprWithAlias { expr, alias: None })?;
            // No name of a user has a space in front.
            let value = Scalar::compile(&planned, &format!(" {at}"), expr)?;
            Ok(Ordered { value, is_descending, nulls_first })
        };
        parts.map(part).collect()
    }

    /// The text of an order with the functions of the document written out, as [`Language::written_out`].
    pub fn written_out_order(&self, text: &str) -> String {
        let Ok(parts) = gate_order(text) else { return text.to_owned() };
        if !parts.iter().any(|(expr, _, _)| self.defined.is_called_in(expr)) {
            return text.to_owned();
        }
        let mut written = Vec::with_capacity(parts.len());
        for (mut expr, is_descending, nulls_first) in parts {
            if self.defined.expand(&mut expr).is_err() {
                return text.to_owned();
            }
            let direction = if is_descending { "DESC" } else { "ASC" };
            let nulls = if nulls_first { "FIRST" } else { "LAST" };
            written.push(format!("{expr} {direction} NULLS {nulls}"));
        }
        written.join(", ")
    }
}
